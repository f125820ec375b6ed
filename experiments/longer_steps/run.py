"""Steps longer than those of the shipped models: paracetamol at 10 fs, quartz at 50 fs, water at 10 fs.

    python experiments/longer_steps/run.py                # everything, some ten hours of one core
    python experiments/longer_steps/run.py paracetamol    # only this system
    python experiments/longer_steps/run.py --smoke DIR    # small, of no meaning

Each stage is a system: reference MD with frames that give pairs of the longer Δt, a training that starts from the
weights of the shipped model, errors of a step on a run that was not learnt from, and 100,000 steps in the bath of the
shipped model.  What was stopped goes on when it is started again.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import ffmd_jax as ffmd
from ffmd_jax.formats import trajectory

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import stages  # noqa: E402

N_STEPS, EVERY, N_TEST = 100_000, 20, 1000
# Cells of quartz beside 3 × 3 × 2, see experiments/quartz.
CELLS = [(18, 1, 1), (9, 2, 1), (9, 1, 2), (6, 3, 1), (6, 1, 3), (3, 2, 3), (3, 1, 6), (2, 1, 9), (1, 1, 18)]


class Case(NamedTuple):
    """A system and its longer step.

    Attributes:
        time_step_fs: Δt.
        runs, length_ps: reference runs, of which the last two validate and test.
        others: options of `ffmd.reference` of more runs that train.
        n_train: pairs.
        trainings: one after the other.
        bath: of the roll-out.
        reversible: steps of the roll-out.
        paper_percent: error of the velocity of the paper's model at this Δt.
    """

    time_step_fs: float
    runs: int
    length_ps: float
    others: list[dict[str, Any]]
    n_train: int
    trainings: list[ffmd.Training]
    bath: ffmd.NVT
    reversible: bool
    paper_percent: float


CASES = {
    "paracetamol": Case(
        10.0, 12, 100.0, [{"temperature_K": 500.0, "length_ps": 100.0}] * 4, 40_000,
        [ffmd.Training(epochs=12, batch_size=4, learning_rate=0.03, weight_decay=0.0)] * 2,
        ffmd.NVT(300.0, 70.0, friction_tau_fs=4000.0), True, 1.08,
    ),
    "quartz": Case(
        50.0, 3, 100.0, [{"repeat": cell, "equilibrate_ps": 3.0, "length_ps": 8.0} for cell in CELLS], 5000,
        [ffmd.Training(epochs=6, batch_size=1, learning_rate=0.06, weight_decay=0.0)],
        ffmd.NVT(300.0, 75.0, friction_tau_fs=3000.0), False, 8.76,
    ),
    "water": Case(
        10.0, 5, 20.0, [], 5000, [ffmd.Training(epochs=3, batch_size=1, learning_rate=0.06, weight_decay=0.0)],
        ffmd.NVT(300.0, 50.0, friction_tau_fs=1000.0), False, 1.63,
    ),
}  # fmt: skip


class Stages(stages.Folder):
    """A stage for each system."""

    def paracetamol(self) -> dict[str, Any]:
        """In vacuum, OPLS-AA."""
        return self._of("paracetamol")

    def quartz(self) -> dict[str, Any]:
        """162 atoms, BKS."""
        return self._of("quartz")

    def water(self) -> dict[str, Any]:
        """192 atoms, SPC/Fw."""
        return self._of("water")

    def _of(self, name: str) -> dict[str, Any]:
        case, model = CASES[name], self.runs / name
        pairs = self._pairs(name, case)
        minutes = self._train(name, case, pairs)
        found: dict[str, Any] = {"time_step_fs": case.time_step_fs, "core_minutes": round(minutes)}
        for side, reversible in (("plain", False), ("reversible", True)):
            errors = ffmd.evaluate(model, pairs, reversible=reversible)
            found[f"velocities_percent, {side}"] = round(float(errors.velocity_percent), 3)
            found[f"displacements_percent, {side}"] = round(float(errors.displacement_percent), 3)
        return {**found, "velocities_percent, paper": case.paper_percent, "rollout": self._rollout(name, case)}

    def _pairs(self, name: str, case: Case) -> Path:
        """Reference runs and their pairs."""
        pairs = self.data_folder / f"{name}.h5"
        if pairs.exists():
            return pairs
        short = {"length_ps": 0.04 * case.time_step_fs, "equilibrate_ps": 0.1} if self.smoke else {}
        others: list[Path] = []
        for i, options in enumerate(case.others[:1] if self.smoke else case.others):
            given = {"frame_fs": 10.0, "seed": 200 + i, **options, **short}
            others += ffmd.reference(name, self.data_folder / f"{name}_other_{i}.h5", resume=True, **given)
        given = {"length_ps": case.length_ps, **short, "runs": 3 if self.smoke else case.runs, "frame_fs": 10.0}
        own = ffmd.reference(name, self.data_folder / f"{name}_nve.h5", resume=True, **given)
        ffmd.make_dataset(
            [*own[:-2], *others, *own[-2:]], case.time_step_fs, stride_fs=10.0, n_train=case.n_train, n_test=N_TEST,
            out=pairs,
        )  # fmt: skip
        return pairs

    def _train(self, name: str, case: Case, pairs: Path) -> float:
        """The model in runs/NAME, and the core-minutes of its trainings."""
        init: Any = None if self.smoke else name
        small = ffmd.Architecture.small(cutoff=4.0, lmax=1, channels=4, layers=1) if self.smoke else None
        trainings = [ffmd.Training(epochs=2, batch_size=4)] if self.smoke else case.trainings
        minutes = 0.0
        for i, training in enumerate(trainings):
            out = self.runs / (name if i == len(trainings) - 1 else f"{name}_before_{i}")
            ffmd.train(
                pairs, out, training=training, architecture=small, init=init, time_step_fs=case.time_step_fs,
                resume=(out / "training.json").exists(),
            )  # fmt: skip
            minutes, init = minutes + stages.core_minutes(out), out
        return minutes

    def _rollout(self, name: str, case: Case) -> dict[str, Any]:
        """Long run in the bath: its length, alarms, temperatures of elements."""
        out, last = self.runs / f"{name}.h5", self.data_folder / f"{name}_nve_{(3 if self.smoke else case.runs) - 1}.h5"
        if not out.exists() or not trajectory.read_metadata(out).get("alarms"):
            ffmd.simulate(
                self.runs / name, last, steps=20 if self.smoke else N_STEPS, every=EVERY if not self.smoke else 1,
                ensemble=case.bath, reversible=case.reversible, out=out, resume=True, monitors=not self.smoke,
            )  # fmt: skip
        report = ffmd.analyze(out, progress=False)
        names = ("length_ps", "temperature_K", "temperature_error_K", "temperature_by_species_K",
                 "temperature_error_by_species_K", "alarms")  # fmt: skip
        return {key: report.summary[key] for key in names if key in report.summary}


STAGES = ["paracetamol", "quartz", "water"]


if __name__ == "__main__":
    stages.main(__doc__, Stages, STAGES, HERE)
