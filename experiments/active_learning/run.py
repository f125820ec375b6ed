"""Learning while running: where a model fails, the teacher takes over, and what it does is learnt.

    python experiments/active_learning/run.py                # everything, an hour of a core
    python experiments/active_learning/run.py --smoke DIR    # small, of no meaning

A model of paracetamol (OPLS-AA, Δt = 7 fs) learns a run of 2 ps near 300 K and is then run at 500 K, where it has never
been.  A round runs it there with the force field as its fallback, which is collected, and trains on with that.
results.json has the alarms per ns of the model's own steps before and after each round, each model by its own limits,
and the errors of a step at 300 and at 500 K.  What was stopped goes on when it is started again.
"""

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import ffmd_jax as ffmd
from ffmd_jax.core import files, units
from ffmd_jax.data import dataset_file
from ffmd_jax.models import model_files

HERE = Path(__file__).resolve().parent
TIME_STEP_FS, BATH = 7.0, ffmd.NVT(500.0, 70.0, friction_tau_fs=1000.0)
RUN_PS, N_RUNS = 2.1, 3
ROLLOUT_PS = 20.0, 100.0  # of the first model, and of that after the round
EPOCHS = 8, 8  # of the first training, and of those of the rounds


class Stages:
    """The rounds, in a folder with data/ and runs/."""

    def __init__(self, folder: Path, smoke: bool):
        self.folder, self.smoke = folder, smoke
        self.data, self.runs = folder / "data", folder / "runs"
        for path in (self.data, self.runs):
            path.mkdir(parents=True, exist_ok=True)
        self.pairs = self.data / "pairs.h5"
        self.path = folder / "results.json"

    def learn(self) -> None:
        """All rounds."""
        self._reference()
        for i in range(2 if self.smoke else len(ROLLOUT_PS)):
            self._train(i)
            self._note(i, self._roll_out(i))

    def _reference(self) -> None:
        """NVE runs near 300 K, of which one trains, one validates and one tests, and one near 500 K to test with."""
        length_ps = 0.14 if self.smoke else RUN_PS
        paths = ffmd.reference(
            "paracetamol", self.data / "nve.h5", runs=N_RUNS, length_ps=length_ps, frame_fs=1.0, equilibrate_ps=2.0,
            resume=True,
        )  # fmt: skip
        if not self.pairs.exists():
            ffmd.make_dataset(paths, TIME_STEP_FS, stride_fs=1.0, out=self.pairs)
        ffmd.reference(
            "paracetamol", self.data / "hot.h5", temperature_K=BATH.temperature_K, length_ps=length_ps,
            frame_fs=TIME_STEP_FS, equilibrate_ps=2.0, resume=True, seed=1,
        )  # fmt: skip

    def _train(self, i: int) -> None:
        """The model after i rounds: of the first pairs, then of all stretches so far and as many of the first pairs."""
        out = self.runs / f"model_{i}"
        if (out / model_files.CALIBRATION).exists():
            return
        training = ffmd.Training(batch_size=4, epochs=1 if self.smoke else EPOCHS[min(i, 1)])
        begun = (out / "training.json").exists()
        if i:
            ffmd.train(
                self._collected(i - 1), out, training=dataclasses.replace(training, learning_rate=0.02),
                init=self.runs / f"model_{i - 1}", rehearse=self.pairs, resume=begun,
            )  # fmt: skip
        else:
            small = ffmd.Architecture.small(cutoff=4.0, channels=4 if self.smoke else 16)
            ffmd.train(self.pairs, out, training=training, architecture=small, resume=begun)

    def _collected(self, i: int) -> Path:
        return self.data / f"collected_{i}.h5"

    def _stretches(self, i: int) -> int:
        """How many were collected by the runs up to the i-th."""
        path = self._collected(i)
        return len(dataset_file.read(path).groups[0].runs) if path.exists() else 0

    def _roll_out(self, i: int) -> dict[str, Any]:
        """A run with the model after i rounds; what the fallback did is added to what it did before."""
        out = self.runs / f"rollout_{i}.h5"
        if self._stretches(i - 1) and not self._collected(i).exists():
            shutil.copy(self._collected(i - 1), self._collected(i))
        steps = round((1 if self.smoke else ROLLOUT_PS[i]) * units.PS / TIME_STEP_FS / 10) * 10
        before = self._stretches(i - 1)
        run = ffmd.simulate(
            self.runs / f"model_{i}", self.data / "nve_0.h5", steps=steps, every=10, ensemble=BATH, out=out,
            resume=True, seed=i, velocities="draw", on_alarm="fallback", fallback="paracetamol",
            collect=self._collected(i),
        )  # fmt: skip
        stretches = self._stretches(i) - before
        model_ns = (steps - 10 * run.fallback_frames) * TIME_STEP_FS / 1e6
        return {
            "model_ns": round(model_ns, 4),
            "alarms_that_the_teacher_answered": stretches,
            "alarms_per_ns": round(stretches / model_ns, 1) if model_ns else None,
            "steps_with_an_alarm": {alarm.kind: alarm.count for alarm in run.alarms},
        }

    def _note(self, i: int, found: dict[str, Any]) -> None:
        model = ffmd.load(self.runs / f"model_{i}")
        errors = {"300 K": ffmd.evaluate(model, self.pairs), "500 K": ffmd.evaluate(model, self.data / "hot.h5")}
        entry = {
            "velocities_percent": {name: round(float(each.velocity_percent), 2) for name, each in errors.items()},
            "hottest_it_knows_K": round(model.calibration.temperature_K),
            **found,
        }
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        text = json.dumps({**known, f"after {i} rounds": entry}, indent=1)
        files.write_atomically(self.path, (text + "\n").encode())
        print(f"after {i} rounds: {json.dumps(entry)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="holds data/, runs/ and results.json (default: here)")
    parser.add_argument("--smoke", type=Path, metavar="DIR", help="run the smallest sizes, in DIR")
    given = parser.parse_args()
    Stages(given.smoke or given.out, given.smoke is not None).learn()


if __name__ == "__main__":
    main()
