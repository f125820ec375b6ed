"""One model for many time steps beside models of one: quartz (BKS, cells of 72 atoms), 5 to 50 fs.

    python experiments/any_time_step/run.py                       # everything, half an hour of a core
    python experiments/any_time_step/run.py reference train       # only these stages
    python experiments/any_time_step/run.py --smoke DIR           # small, of no meaning

reference: NVE runs.  train: families of five and of eight Δt, and single models of three, each with 3,000 optimizer
steps of two pairs.  evaluate: errors of one step on the test run, also at Δt in between that no training saw.  rollout:
runs in NVT at fixed Δt and at one that halves itself.  What was stopped goes on when it is started again.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import ffmd_jax as ffmd
from ffmd_jax.core import units
from ffmd_jax.data import dataset_file
from ffmd_jax.training import training_log

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import stages  # noqa: E402

FAMILIES = {"family": (5.0, 10.0, 20.0, 30.0, 50.0), "dense": (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0)}
SINGLE_FS, EVALUATED_FS = (5.0, 20.0, 50.0), tuple(5.0 * i for i in range(1, 11))
N_RUNS, LENGTH_PS, FRAME_FS, BATCH, N_STEPS = 5, 12.0, 5.0, 2, 3000
ARCHITECTURE = ffmd.Architecture.small(cutoff=5.0, channels=16, layers=3)
STAGES = ["reference", "train", "evaluate", "rollout"]


class Stages:
    """The stages, in a folder with data/ and runs/."""

    def __init__(self, folder: Path, smoke: bool):
        self.smoke = smoke
        self.data, self.runs = folder / "data", folder / "runs"
        for path in (self.data, self.runs):
            path.mkdir(parents=True, exist_ok=True)
        self.pairs = self.data / "pairs.h5"

    def reference(self) -> None:
        """NVE runs; the last two validate and test."""
        paths = ffmd.reference(
            "quartz", self.data / "nve.h5", repeat=(2, 2, 2), runs=3 if self.smoke else N_RUNS, frame_fs=FRAME_FS,
            length_ps=0.3 if self.smoke else LENGTH_PS, equilibrate_ps=0.1 if self.smoke else 2.0, resume=True,
        )  # fmt: skip
        if not self.pairs.exists():
            ffmd.make_dataset(paths, EVALUATED_FS[-1], stride_fs=2 * FRAME_FS, n_test=200, out=self.pairs)

    def train(self) -> dict[str, Any]:
        """Optimizer steps of each model."""
        n_pairs = BATCH * (20 if self.smoke else N_STEPS)
        found = {name: self._trained(name, steps, n_pairs // len(steps), 1) for name, steps in FAMILIES.items()}
        for step in SINGLE_FS:
            found[f"{step:g} fs"] = self._trained(f"single_{step:g}", step, n_pairs // 2, 2)
        return found

    def _trained(self, name: str, step: Any, n_train: int, epochs: int) -> dict[str, int]:
        """A model of so many pairs at each Δt, and so many passes over them."""
        out, data = self.runs / name, dataclasses.replace(dataset_file.read(self.pairs), n_train=n_train, n_test=100)
        training = ffmd.Training(epochs=epochs, batch_size=BATCH, learning_rate=0.04)
        small = ffmd.Architecture.small(cutoff=5.0, channels=4, layers=1) if self.smoke else ARCHITECTURE
        begun = (out / "training.json").exists()
        if not (out / "calibration.json").exists():
            ffmd.train(data, out, training=training, architecture=small, time_step_fs=step, resume=begun)
        return {"steps": training_log.read(out / training_log.METRICS)[-1]["step"]}

    def evaluate(self) -> dict[str, Any]:
        """Errors of one step, %."""
        data = dataclasses.replace(dataset_file.read(self.pairs), n_test=100)
        families = {name: ffmd.load(self.runs / name) for name in FAMILIES}
        found: dict[str, Any] = {}
        for step in EVALUATED_FS:
            models = {name: family.at(step) for name, family in families.items()}
            if step in SINGLE_FS:
                models["single"] = ffmd.load(self.runs / f"single_{step:g}")
            found[f"{step:g} fs"] = {name: _errors(model, data) for name, model in models.items()}
        return found

    def rollout(self, length_ps: float = 50.0, n_seeds: int = 2) -> dict[str, Any]:
        """Runs in NVT of weak friction at fixed Δt and at one that halves itself: alarms and seconds of each."""
        family, bath = ffmd.load(self.runs / "dense"), ffmd.NVT(300.0, 75.0, friction_tau_fs=3000.0)
        start, found = self.data / "nve_0.h5", {}
        for step in (*FAMILIES["family"], "auto"):
            own: dict[str, Any] = {"on_alarm": "stop", "time_step_fs": step}
            largest = FAMILIES["family"][-1] if step == "auto" else step
            steps = 20 if self.smoke else round(length_ps * units.PS / largest)
            first = {"ensemble": bath, "every": 1, "progress": False, **own}
            ffmd.simulate(family, start, steps=10, **first)  # compiles
            each = []
            for seed in range(1 if self.smoke else n_seeds):
                each.append(_timed(family, start, steps, seed, first))
            found[step if step == "auto" else f"{step:g} fs"] = {
                name: [one[name] for one in each] for name in each[0]
            }  # fmt: skip
        return found


def _timed(model: Any, start: Path, steps: int, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """A run: its length, how fast it was, alarms and halvings."""
    began = time.perf_counter()
    run = ffmd.simulate(model, start, steps=steps, seed=seed, velocities="draw", **options)
    took = time.perf_counter() - began
    length_fs = run.n_steps * run.time_step_fs
    return {
        "length_ps": round(length_fs / units.PS, 2),
        "ns_per_day": round(units.ns_per_day(length_fs, took), 1),
        "alarms": [alarm.kind for alarm in run.alarms],
        "halvings": None if run.halvings is None else len(run.halvings),
    }


def _errors(model: Any, data: Any) -> dict[str, float]:
    errors = ffmd.evaluate(model, data)
    return {
        "displacements_percent": round(float(errors.displacement_percent), 2),
        "velocities_percent": round(float(errors.velocity_percent), 2),
    }


if __name__ == "__main__":
    stages.main(__doc__, Stages, STAGES, HERE)
