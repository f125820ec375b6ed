"""What helps a training?  Small networks on 72 atoms of α-quartz at Δt = 10 fs, one change at a time, three seeds each.

    ffmd reference quartz --repeat 2 2 2 --runs 5 --length-ps 40 --frame-fs 10 --out data/small.h5       # 2 minutes
    ffmd dataset data/small_?.h5 --time-step 10 --out data/small_pairs_10fs.h5
    python ablations.py            # about a minute a training on two CPU cores
    python ablations.py --table    # the table of README.md

Run in experiments/quartz.  Every training appends a line to ablations.jsonl and is not repeated.  Judged by the
one-step error on test pairs; by the free (NVE) steps after 16 frames of a test run: relative velocity error and ratio
of kinetic energies; and by 15 ps NVT at 300 K (CSVR, τ = 10 Δt) in 4 replicas, of which the last three quarters count:
temperatures of the elements, and how many replicas broke.
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
from ffmd_jax.data.pairs import PairSets
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics import stepping
from ffmd_jax.dynamics.ensemble import NVE, NVT, Ensemble
from ffmd_jax.formats import trajectory as trajectories
from ffmd_jax.models import config, radial_tables, trajcast
from ffmd_jax.training import loop, losses
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
# What 0.1 had besides: options that helped nothing, and are gone.
ONLY_IN_THE_TABLE = [
    "velocity skip", "AdamW, 0.005", "noise 0.003", "noise 0.03", "push-forward 1", "push-forward 4",
    "kinetic-energy penalty 1",
]  # fmt: skip
N_STARTS, N_FREE, N_REPLICAS, N_NVT = 16, 128, 4, 1500


def advance(run: stepping.Run, search, key, state: State, n_steps: int) -> State:
    """The states after 1 … n_steps steps, ``[n_steps, n_atoms, 3]``."""

    def step(state, key):
        state = run.propagate(run.system, state, neighbors.build(search, run.system, state).graph)
        kelvin = ensembles.temperature(run.ensemble)
        state = ensembles.apply(run.ensemble, key, run.system, state, kelvin, run.time_step_fs)
        return state, state

    return jax.lax.scan(step, state, jax.random.split(key, n_steps))[1]


def judge(model_config: config.ModelConfig, params, run: trajectories.Trajectory) -> dict:
    """Free steps and NVT, from frames of a test run."""
    system = cast(run.system, jnp.float32)
    search = neighbors.plan(
        system, take(run.frames, slice(None, None, 100)), model_config.architecture.cutoff, skin=1.0, headroom=1.2
    )
    weights = cast(radial_tables.tabulate(model_config, params), jnp.float32)
    places = np.linspace(0, len(run.times) - N_FREE - 1, N_STARTS, dtype=int)
    windows = State(*(np.stack([x[p : p + N_FREE + 1] for p in places]) for x in run.frames))
    starts = State(*(jnp.asarray(x[:, 0], jnp.float32) for x in windows))
    time_step_fs = model_config.time_step_fs

    # Weights as an argument: one program for all seeds.
    def many(weights, keys, starts, ensemble: Ensemble = NVE(), n_steps=N_FREE):
        how = stepping.Run(system, trajcast.make_propagate(model_config, weights), time_step_fs, ensemble)
        return jax.vmap(lambda key, s: advance(how, search, key, s, n_steps))(keys, starts)

    after = jax.jit(many)(weights, jax.random.split(jax.random.key(0), N_STARTS), starts)
    free = State(*(np.concatenate([np.asarray(s)[:, None], a], axis=1) for s, a in zip(starts, after, strict=True)))
    growth = error_growth(free, windows, run.system)

    few = State(*(x[:: N_STARTS // N_REPLICAS] for x in starts))
    nvt = jax.jit(functools.partial(many, ensemble=ensembles.complete(NVT(300.0), time_step_fs), n_steps=N_NVT))
    frames = nvt(weights, jax.random.split(jax.random.key(1), N_REPLICAS), few)
    used = State(*(x[:, N_NVT // 4 :: 5] for x in frames))
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


def run_one(name: str, seed: int, n_steps: int, sets: PairSets, test: trajectories.Trajectory) -> dict:
    """One training, judged."""
    sizes, changes = VARIANTS[name]
    settings = {**TRAINING, **changes}
    # The same number of pairs seen, whatever the batch.
    n_steps = n_steps * TRAINING["batch_size"] // settings["batch_size"]
    per_epoch = len(sets.train.displacements) // settings["batch_size"]
    training = settings_module.Training(epochs=max(1, round(n_steps / per_epoch)), seed=seed, **settings)
    model_config = loop.model_config(sets, config.Architecture(**{**SIZES, **sizes}))
    last = None
    with tqdm(total=training.epochs, desc=f"{name}, seed {seed}", unit="epoch") as bar:
        for last in loop.fit(model_config, sets, training):
            bar.update(round(last.epoch - bar.n, 3))
    assert last is not None
    params = jax.tree.map(np.asarray, last.state.average)
    errors = losses.evaluate(model_config, params, sets, sets.test)
    facts = {"variant": name, "seed": seed, "epochs": training.epochs}
    facts |= {"velocity_percent": errors.velocity_percent, "displacement_percent": errors.displacement_percent}
    return facts | judge(model_config, params, test)


def table() -> None:
    """Prints means and standard deviations over the seeds as a Markdown table."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    print("| change | Δr error, % | v error, % | v error after 16 / 128 free steps | kinetic ratio after 128 |"
          " temperature O / Si, K | broken |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for name in [*VARIANTS, *ONLY_IN_THE_TABLE]:
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
    sets = pair_sets.form(dataset_file.read(HERE / "data" / "small_pairs_10fs.h5"))
    tenth = slice(None, None, 10)
    sets = sets._replace(validation=take(sets.validation, tenth), test=take(sets.test, tenth))
    test = trajectories.read(HERE / "data" / "small_4.h5")
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    done = {(row["variant"], row["seed"]) for row in map(json.loads, lines)}
    for seed in options.seeds:
        for name in options.variants:
            if (name, seed) not in done:
                try:
                    found = run_one(name, seed, options.steps, sets, test)
                except loop.Diverged:
                    found = {"variant": name, "seed": seed, "diverged": True}
                with open(RESULTS, "a") as file:
                    file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
