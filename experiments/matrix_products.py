"""Does the rounding of an accelerator's matrix products harm a training?  Small networks on quartz, three seeds each.

    ffmd reference quartz --repeat 2 2 2 --runs 3 --length-ps 20 --frame-fs 10 --out data/small.h5
    ffmd dataset data/small_?.h5 --time-step 10 --out data/small_pairs_10fs.h5
    python experiments/matrix_products.py data/small_pairs_10fs.h5    # one JSON line a training
    python experiments/matrix_products.py LINES.jsonl --table
    python experiments/matrix_products.py --noise                     # of a step of the shipped models

By default jax lets a GPU round the operands of a product in single precision to 10 bits of mantissa (TF32), a TPU to 7
(bfloat16); sums are in single precision.  A step of the package asks for full precision.  Here only its distances and
conservation laws do, not the network, and a CPU rounds the operands of all products that do not: forward, backward and
of the optimizer.  The convolution is the one of accelerators, by blocks.  Judged by one-step errors on test pairs, in
full precision, as rollouts are.

``--noise`` is what rounding alone does to a step of a model, to compare with its error: from prepared structures with
random velocities at 300 K, the mean absolute difference of a velocity component relative to the mean one, in %.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.interpreters import mlir  # no public way to change how an operation is compiled
from jax._src.lax import lax as operations

from ffmd_jax.core import mechanics, neighbors
from ffmd_jax.core.state import cast, full_precision, take
from ffmd_jax.data import dataset_file
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.models import config, model_files, trajcast
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.reference_md import systems
from ffmd_jax.training import loop, scales, settings, tasks

BITS = {"float32": None, "TF32": 10, "bfloat16": 7}
SIZES = config.Architecture(cutoff=3.6, lmax=1, harmonics_lmax=2, channels=16, layers=3, radial_hidden=(32, 32),
                            speed_hidden=(32,), natural_parity=True, bounded_gates=True)  # fmt: skip
PREPARED = {"quartz": ("quartz", {"repeat": (3, 3, 2)}), "silicon": ("silicon", {}), "paracetamol": ("paracetamol", {}),
            "water": ("water-dsf", {"molecules": 64})}  # fmt: skip
HIGHEST = jax.lax.Precision.HIGHEST


def round_products(mantissa_bits: int | None) -> None:
    """From now on, products that ask for no precision round their operands; None: as they are."""

    def exact(*operands, **given):
        return operations.dot_general_p.bind(*operands, **{**given, "precision": (HIGHEST, HIGHEST)})

    def rounded(*operands, **given):
        return exact(*(jax.lax.reduce_precision(x, 8, mantissa_bits) for x in operands), **given)

    def lower(context, *operands, **given):
        asked = given["precision"] not in (None, (jax.lax.Precision.DEFAULT,) * 2)
        if asked or mantissa_bits is None:
            return operations._dot_general_lower(context, *operands, platform="cpu", **given)
        return mlir.lower_fun(rounded, multiple_results=False)(context, *operands, **given)

    jax.clear_caches()
    mlir.register_lowering(operations.dot_general_p, lower, platform="cpu")


def free_the_network() -> None:
    """From now on a step asks for full precision only where distances and conservation laws are computed."""
    laws = trajcast.correction
    trajcast.full_precision = lambda function: function
    trajcast.correction = lambda config: full_precision(laws(config))


def train(data: tuple[pair_sets.PairSets, ...], precision: str, seed: int, n_steps: int) -> dict:
    """One line."""
    per_epoch = sum(len(sets.train.displacements) for sets in data) // 2
    training = settings.Training(epochs=max(1, round(n_steps / per_epoch)), batch_size=2, ema_decay=0.99, seed=seed)
    model_config, began = scales.configure(data, SIZES), time.perf_counter()
    round_products(BITS[precision])
    last = list(loop.fit(model_config, data, training, convolution=convolutions.by_blocks))[-1]
    params = jax.tree.map(np.asarray, last.state.average)
    round_products(None)
    errors = tasks.evaluate(model_config, params, data)
    return {
        "precision": precision, "seed": seed, "steps": int(last.state.step), "skipped": int(last.state.skipped),
        "displacement_percent": errors.displacement_percent, "velocity_percent": errors.velocity_percent,
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def noise(name: str) -> dict:
    """One line: what rounding does to the velocities of a step of a shipped model."""
    kind, size = PREPARED[name]
    prepared, model = systems.get(kind, **size), model_files.load(name)
    drawn = mechanics.maxwell_boltzmann(jax.random.key(0), prepared.system, prepared.state, 300.0)
    system, state, params = (cast(x, jnp.float32) for x in (prepared.system, drawn, model.params))
    search = neighbors.plan(system, state, model.config.architecture.cutoff)
    graph, found = neighbors.build(search, system, state).graph, {}
    for precision, bits in BITS.items():
        round_products(bits)
        network = trajcast.TrajCast(model.config, convolutions.by_blocks)
        found[precision] = np.asarray(jax.jit(network.apply)({"params": params}, system, state, graph))[:, 1]
    scale = np.abs(np.asarray(state.velocities)).mean() / trajcast.units_of(model.config).velocity
    percents = {key: 100 * float(np.abs(x - found["float32"]).mean() / scale) for key, x in found.items()}
    return {"model": name, "rounding_percent": percents}


def table(lines: list[dict]) -> None:
    """Prints means and standard deviations over the seeds, and the change beside float32 of the same seeds."""
    print("| products | Δr error, % | v error, % | v error / that of float32 |\n|---|---|---|---|")
    exact = {line["seed"]: line["velocity_percent"] for line in lines if line["precision"] == "float32"}
    for name in BITS:
        mine = [line for line in lines if line["precision"] == name]
        columns = [[line[key] for line in mine] for key in ("displacement_percent", "velocity_percent")]
        columns.append([line["velocity_percent"] / exact[line["seed"]] for line in mine])
        print("| " + " | ".join([name, *(f"{np.mean(x):.3f} ± {np.std(x, ddof=1):.3f}" for x in columns)]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="dataset, or with --table lines")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--precisions", nargs="+", choices=BITS, default=list(BITS))
    parser.add_argument("--steps", type=int, default=2000, help="of two pairs (default: %(default)s)")
    given = parser.parse_args()
    if given.table:
        table([json.loads(line) for line in given.file.read_text().splitlines()])
        return
    if given.noise:
        for name in PREPARED:
            print(json.dumps(noise(name)), flush=True)
        return
    free_the_network()
    data = pair_sets.form(dataset_file.read(given.file))
    tenth = slice(None, None, 10)
    data = tuple(sets._replace(validation=take(sets.validation, tenth)) for sets in data)
    for seed in given.seeds:
        for precision in given.precisions:
            print(json.dumps(train(data, precision, seed, given.steps)), flush=True)


if __name__ == "__main__":
    main()
