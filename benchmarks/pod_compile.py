"""Does it run on a pod?  Compiles training and replicas for TPU slices, on a machine without a TPU.

    pip install -e ".[tpu]"
    python benchmarks/pod_compile.py --topologies v5e:2x4 v5e:8x8 v5e:16x16
    python benchmarks/pod_compile.py --programs replicas

Training is the program of `ffmd train`: a block of optimizer steps on quartz of 72 atoms, the batch divided over one
axis of all chips.  One JSON line each: MiB of memory on a chip, GB that a chip accesses in a step, collectives in the
program and the MiB of a step's, which is the gradient.  A mesh of several processes is the same mesh: ``processes`` is
the number of hosts whose chips it spans.

Replicas are a block of `ffmd rollout --replicas` with monitors and NVT, ``pairs_per_chip`` of them on each chip.
"""

import argparse
import datetime
import functools
import json
import re
import time

import jax
import numpy as np
import traffic  # noqa: F401  # before the first device: sets what libtpu needs
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ffmd_jax.core.state import State
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.data.dataset_file import Dataset, Group, Run
from ffmd_jax.dynamics import alarms, monitors, replicas
from ffmd_jax.dynamics import engine as engines
from ffmd_jax.dynamics.division import Division
from ffmd_jax.dynamics.engine import Engine
from ffmd_jax.dynamics.ensemble import NVT
from ffmd_jax.dynamics.records import Carry
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.models import radial_tables, trajcast
from ffmd_jax.models.config import Architecture
from ffmd_jax.reference_md import systems
from ffmd_jax.training import batches, loop, optimizer, parallel, scales, tasks
from ffmd_jax.training.settings import Training

NETWORKS = {"small": Architecture.small(cutoff=5.0), "paper": Architecture(cutoff=4.5)}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")


def data(n_pairs: int) -> Dataset:
    """Quartz of 72 atoms about its places: the numbers do not matter, the shapes do."""
    prepared, rng = systems.quartz((2, 2, 2)), np.random.default_rng(0)
    places = np.asarray(prepared.state.positions)
    shape = (2 * n_pairs, *places.shape)
    cells = np.broadcast_to(prepared.state.cell, (2 * n_pairs, 3, 3))
    frames = State(places + rng.normal(scale=0.03, size=shape), rng.normal(scale=0.004, size=shape), cells)
    runs = tuple(Run(frames, 10.0, split, 2, "quartz") for split in ("train", "validation", "test"))
    return Dataset((Group(prepared.system, runs),), 10.0)


def training_program(topology_name: str, network: str, pairs_per_chip: int, n_steps: int) -> dict:
    """One line."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name=topology_name)
    chips = topology.devices
    mesh = Mesh(np.array(chips), (parallel.AXIS,), axis_types=(AxisType.Auto,))
    training = Training(epochs=1, batch_size=pairs_per_chip * len(chips))
    groups = pair_sets.form(data(training.batch_size))
    config = scales.configure(groups, NETWORKS[network])
    train = tasks.buckets(config, groups, "train")
    rule = optimizer.make(training, n_steps)
    # Blocks that hold all atoms: in a loop the compiler would count one turn.
    convolution = lambda *given: convolutions.by_blocks(*given, block=72)  # noqa: E731
    loss_of = tasks.make_loss_of(config, groups, training, convolution)
    take_step = loop.make_train_step([loss_of(bucket) for bucket in train], training, rule, mesh, True)
    host = parallel.mesh()
    block = next(batches.blocks(train, training, 0, 1, host))
    state = loop.initial(config, training, n_steps)

    def shaped(tree, spec, lead=0):
        def one(leaf):
            shape = np.shape(leaf) if not lead else (lead, *np.shape(leaf)[1:])
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

        return jax.tree.map(one, tree)

    everywhere = PartitionSpec()
    arguments = (
        shaped(state, everywhere), shaped(block.batches, PartitionSpec(None, parallel.AXIS), n_steps),
        jax.ShapeDtypeStruct((n_steps,), np.int32, sharding=NamedSharding(mesh, everywhere)),
        jax.ShapeDtypeStruct((), np.int32, sharding=NamedSharding(mesh, everywhere)),
    )  # fmt: skip
    began = time.perf_counter()
    made = loop.make_block(take_step, mesh).lower(*arguments).compile()
    weights = sum(np.size(leaf) for leaf in jax.tree.leaves(state.params))
    more = {"pairs_per_chip": pairs_per_chip, "weights": weights, "gradient_MiB": round(4 * (weights + 1) / 2**20, 2)}
    return line("training", chips, topology_name, network, made, began) | more


def replicas_program(topology_name: str, network: str, per_chip: int, n_steps: int) -> dict:
    """One line."""
    chips = topologies.get_topology_desc(platform="tpu", topology_name=topology_name).devices
    groups = pair_sets.form(data(2))
    config = scales.configure(groups, NETWORKS[network])
    params = radial_tables.tabulate(config, trajcast.init(jax.random.key(0), config))
    prepared, n = systems.quartz((2, 2, 2)), per_chip * len(chips)
    states = jax.tree.map(lambda x: np.repeat(np.asarray(x, np.float32)[None], n, axis=0), prepared.state)
    ensemble = NVT(300.0, tau_fs=100.0, friction_tau_fs=1000.0)
    limits = monitors.limits(config, None, prepared.system, ensemble)
    # Blocks that hold all atoms: in a loop the compiler would count one turn.
    propagate = trajcast.make_propagate(config, params, functools.partial(convolutions.by_blocks, block=72))
    engine = Engine(
        prepared.system, states, propagate, cutoff=config.architecture.cutoff, time_step_fs=10.0, ensemble=ensemble,
        monitor=alarms.monitor(propagate, limits), select=True, wrap=True, replicas=n, block_steps=n_steps,
    )  # fmt: skip
    mesh = Mesh(np.array(chips), (replicas.AXIS,), axis_types=(AxisType.Auto,))
    shape, run = engine._shape, engine._run
    keys = jax.random.split(jax.random.key(0), n)
    carry = jax.eval_shape(functools.partial(engines._start, shape), run, states, keys, np.int32(0))

    def placed(spec, tree):
        sharding = NamedSharding(mesh, spec)

        def struct(leaf):
            dtype = leaf.dtype if hasattr(leaf, "dtype") else jax.dtypes.result_type(leaf)
            return jax.ShapeDtypeStruct(np.shape(leaf), dtype, sharding=sharding)

        return jax.tree.map(struct, tree)

    carry = Carry(*(placed(spec, part) for spec, part in zip(replicas.CARRY, carry, strict=True)))
    began = time.perf_counter()
    divided = shape._replace(division=Division(replicas.Replicas(mesh)))
    wanted = placed(replicas.SAME, np.int32(1))
    made = engines._advance.lower(divided, placed(replicas.SAME, run), carry, wanted).compile()
    return line("replicas", chips, topology_name, network, made, began) | {"replicas_per_chip": per_chip}


def line(program: str, chips, topology_name: str, network: str, made, began: float) -> dict:
    """What the compiler says of a program."""
    memory, text = made.memory_analysis(), made.as_text()
    held = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    found = {name: len(re.findall(rf"\s{name}(?:-start)?\(", text)) for name in COLLECTIVES}
    return {
        "program": program, "topology": topology_name, "chips": len(chips),
        "processes": len({chip.process_index for chip in chips}), "network": network,
        "MiB_of_a_chip": round((held - memory.alias_size_in_bytes) / 2**20, 1),
        "GB_accessed_of_a_step": round(made.cost_analysis()["bytes accessed"] / 1e9, 3),
        "collectives": {name: n for name, n in found.items() if n},
        "compile_s": round(time.perf_counter() - began, 1), "jax": jax.__version__, "date": f"{datetime.date.today()}",
    }  # fmt: skip


PROGRAMS = {"training": training_program, "replicas": replicas_program}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topologies", nargs="+", default=["v5e:2x4", "v5e:8x8", "v5e:16x16", "v5p:2x2x2"])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["small"])
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=["training"])
    parser.add_argument("--pairs-per-chip", type=int, default=2, help="or replicas (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="of a block (default: %(default)s)")
    given = parser.parse_args()
    for name in given.topologies:
        for network in given.networks:
            for program in given.programs:
                found = PROGRAMS[program](name, network, given.pairs_per_chip, given.steps)
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
