"""What helps a training?  Small networks on 72 atoms of α-quartz at Δt = 10 fs, one change at a time, three seeds each.

    ffmd reference quartz --repeat 2 2 2 --runs 5 --length-ps 40 --frame-fs 10 --out data/small.h5       # 2 minutes
    ffmd dataset data/small_?.h5 --time-step 10 --out data/small_pairs_10fs.h5
    python ablations.py            # about a minute a training on two CPU cores
    python ablations.py --table    # the table of README.md

Run in experiments/quartz.  Every training appends a line to ablations.jsonl and is not repeated.  Judged by the
one-step error on test pairs; by the free (NVE) steps after 16 frames of a test run: relative velocity error and ratio
of kinetic energies; and by 15 ps NVT at 300 K (CSVR, τ = 10 Δt) in 4 replicas, of which the last three quarters count:
temperatures of the elements, and how many replicas broke.

The lines that ablations.jsonl holds were measured with version 0.1.  It also had a velocity skip, AdamW, noise,
push-forward and a kinetic-energy penalty, which did not help and are gone: their rows are in README.md.
"""

import argparse
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ffmd_jax.analysis.error_growth import error_growth
from ffmd_jax.core import caches, mechanics, neighbors
from ffmd_jax.core.state import State, cast, take
from ffmd_jax.data import dataset_file
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics import records, stepping
from ffmd_jax.dynamics.ensemble import NVT
from ffmd_jax.formats import trajectory as trajectories
from ffmd_jax.models import config, model
from ffmd_jax.training import loop, scales, tasks
from ffmd_jax.training import settings as settings_module

HERE = Path(__file__).parent
RESULTS = HERE / "ablations.jsonl"
SIZES = {
    "cutoff": 3.6, "lmax": 1, "harmonics_lmax": 2, "channels": 16, "layers": 4, "radial_hidden": (32, 32),
    "speed_hidden": (32,), "natural_parity": True, "bounded_gates": False,
}  # fmt: skip
TRAINING = {
    "batch_size": 2, "learning_rate": 0.03, "weight_decay": 0.003, "ema_decay": 0.99, "mass_weighting": False,
}  # fmt: skip
VARIANTS = {  # changes of the architecture, changes of the training
    "base": ({}, {}),
    "paper's radial networks": ({"radial_intervals": 0}, {}),
    "48 radial intervals": ({"radial_intervals": 48}, {}),
    "harmonics to l = 1 only": ({"harmonics_lmax": 1}, {}),
    "velocity input": ({"velocity_input": True}, {}),
    "both parities": ({"natural_parity": False}, {}),
    "bounded gates": ({"bounded_gates": True}, {}),
    "bounded gates, rate 0.06": ({"bounded_gates": True}, {"learning_rate": 0.06}),
    "two layers": ({"layers": 2}, {}),
    "no time reversal": ({}, {"time_reversal": False}),
    "no moving average": ({}, {"ema_decay": 0.0}),
    "AMSGrad, 0.01": ({}, {"optimizer": "adam", "learning_rate": 0.01}),
    "batch 8, rate 0.06": ({}, {"batch_size": 8, "learning_rate": 0.06}),
    "rate 0.01": ({}, {"learning_rate": 0.01}),
    "no weight decay": ({}, {"weight_decay": 0.0}),
    "errors weighted by masses": ({}, {"mass_weighting": True}),
}
N_STARTS, N_FREE, N_REPLICAS, N_NVT = 16, 128, 4, 1500


@functools.partial(jax.jit, static_argnums=(0, 4))
def advance(search: neighbors.Search, run: records.Run, starts: State, key, n_steps: int) -> State:
    """The states after 1 … n_steps steps from each start, ``[n_starts, n_steps, …]``; one program for all weights."""
    step = stepping.make_step(run, search)

    def one(start, key):
        return stepping.scan(step, stepping.start(search, run.system, start, key), n_steps)[1][0]

    return jax.vmap(one)(starts, jax.random.split(key, len(starts.positions)))


def judge(model_config: config.ModelConfig, params, run: trajectories.Trajectory) -> dict:
    """Free steps and NVT, from frames of a test run."""
    system, time_step = cast(run.system, jnp.float32), model_config.time_step_fs
    frames = take(run.frames, slice(None, None, 100))
    search = neighbors.plan(system, frames, model_config.architecture.cutoff, skin=1.0, headroom=1.2)
    propagate = model.propagator(model.Model(model_config, params))
    places = np.linspace(0, len(run.times) - N_FREE - 1, N_STARTS, dtype=int)
    windows = jax.tree.map(lambda x: np.stack([x[p : p + N_FREE + 1] for p in places]), run.frames)
    starts = jax.tree.map(lambda x: jnp.asarray(x[:, 0], jnp.float32), windows)

    after = advance(search, records.Run(system, propagate, time_step), starts, jax.random.key(0), N_FREE)
    free = jax.tree.map(lambda start, later: np.concatenate([start[:, None], later], axis=1), starts, after)
    growth = error_growth(free, windows, run.system)

    bath = ensembles.complete(NVT(300.0), time_step)  # τ = 10 Δt
    few = take(starts, slice(None, None, N_STARTS // N_REPLICAS))
    frames = advance(search, records.Run(system, propagate, time_step, bath), few, jax.random.key(1), N_NVT)
    used = jax.tree.map(lambda x: x[:, N_NVT // 4 :: 5], frames)
    of_frames = jax.vmap(jax.vmap(lambda s: mechanics.temperature_by_species(system, s, model_config.elements)))
    temperatures = np.asarray(of_frames(used)).mean(axis=1)
    sound = np.isfinite(temperatures).all(axis=1) & (np.abs(np.asarray(frames.velocities)).max(axis=(1, 2, 3)) < 1)
    mean = temperatures[sound].mean(axis=0) if sound.any() else np.full(len(model_config.elements), np.nan)
    return {
        "velocity_error": dict(zip(growth.steps.tolist(), growth.velocity_error.tolist(), strict=True)),
        "kinetic_ratio": dict(zip(growth.steps.tolist(), growth.kinetic_energy_ratio.tolist(), strict=True)),
        "temperatures_K": mean.tolist(),
        "broken": int(np.sum(~sound)),
    }


def run_one(
    name: str, seed: int, n_steps: int, data: tuple[pair_sets.PairSets, ...], test: trajectories.Trajectory
) -> dict:
    """One training, judged."""
    sizes, changes = VARIANTS[name]
    settings = {**TRAINING, **changes}
    # The same number of pairs seen, whatever the batch.
    n_steps = n_steps * TRAINING["batch_size"] // settings["batch_size"]
    per_epoch = len(data[0].train.displacements) // settings["batch_size"]
    training = settings_module.Training(epochs=max(1, round(n_steps / per_epoch)), seed=seed, **settings)
    model_config = scales.configure(data, config.Architecture(**{**SIZES, **sizes}))
    last = None
    with tqdm(total=training.epochs, desc=f"{name}, seed {seed}", unit="epoch") as bar:
        for last in loop.fit(model_config, data, training):
            bar.update(round(last.epoch - bar.n, 3))
    assert last is not None
    params = jax.tree.map(np.asarray, last.state.average)
    errors = tasks.evaluate(model_config, params, data)
    facts = {"variant": name, "seed": seed, "epochs": training.epochs}
    facts |= {"velocity_percent": errors.velocity_percent, "displacement_percent": errors.displacement_percent}
    return facts | judge(model_config, params, test)


def table() -> None:
    """Prints means and standard deviations over the seeds as a Markdown table."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    print("| change | Δr error, % | v error, % | v error after 16 / 128 free steps | kinetic ratio after 128 |"
          " temperature O / Si, K | broken |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for name in VARIANTS:
        all_seeds = [row for row in rows if row["variant"] == name]
        mine = [row for row in all_seeds if "diverged" not in row]
        if len(mine) < len(all_seeds):
            name += f" ({len(all_seeds) - len(mine)} of {len(all_seeds)} diverged)"
        if not mine:
            if all_seeds:
                print(f"| {name} |  |  |  |  |  |  |")
            continue

        def spread(values, digits=2):
            values = np.array(list(values), float)
            error = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
            return f"{values.mean():.{digits}f}{error}"

        temperatures = [row["temperatures_K"] for row in mine if row["broken"] < N_REPLICAS]
        cells = [
            name,
            spread(row["displacement_percent"] for row in mine),
            spread(row["velocity_percent"] for row in mine),
            " / ".join(spread(row["velocity_error"][k] for row in mine) for k in ("16", "128")),
            spread(row["kinetic_ratio"]["128"] for row in mine),
            " / ".join(spread(values, 0) for values in zip(*temperatures, strict=True)),
            f"{sum(row['broken'] for row in mine)} of {N_REPLICAS * len(mine)}",
        ]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=6000, help="optimizer steps at a batch of 2")
    parser.add_argument("--table", action="store_true", help="print the table of the results there are")
    options = parser.parse_args()
    if options.table:
        table()
        return
    caches.keep_programs()
    data = pair_sets.form(dataset_file.read(HERE / "data" / "small_pairs_10fs.h5"))
    tenth = slice(None, None, 10)
    data = data._replace(validation=take(data.validation, tenth), test=take(data.test, tenth))
    test = trajectories.read(HERE / "data" / "small_4.h5")
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    done = {(row["variant"], row["seed"]) for row in map(json.loads, lines)}
    for seed in options.seeds:
        for name in options.variants:
            if (name, seed) not in done:
                try:
                    found = run_one(name, seed, options.steps, data, test)
                except loop.Diverged:
                    found = {"variant": name, "seed": seed, "diverged": True}
                with open(RESULTS, "a") as file:
                    file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
