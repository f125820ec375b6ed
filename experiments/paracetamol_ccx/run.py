"""Paracetamol at coupled-cluster quality (ANI-1ccx), Δt = 6 fs: what pretraining saves, and the model that ships.

    pip install torch lark-parser "setuptools<80" && pip install --no-deps torchani==2.0
    python experiments/paracetamol_ccx/run.py                     # everything
    python experiments/paracetamol_ccx/run.py reference train     # only these stages
    python experiments/paracetamol_ccx/run.py --smoke DIR         # small, of no meaning, with OPLS-AA as the teacher

reference: the teacher's runs, an hour of one core.  train: the model that ships.  curves: errors against the pairs of
the teacher, from nothing and from the shipped models of OPLS-AA and of organic molecules.  rollout: 16 copies of 100 ps
in NVT beside the teacher's.  speed: model and teacher in turn, on one core.  What was stopped goes on when it is
started again.
"""

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import teacher as teachers

import ffmd_jax as ffmd
from ffmd_jax.analysis import torsions
from ffmd_jax.core import units
from ffmd_jax.core.state import State
from ffmd_jax.data import dataset_file
from ffmd_jax.reference_md import systems

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import stages  # noqa: E402

STEP_FS, KELVIN, TAU_FS, FRICTION_TAU_FS = 6.0, 300.0, 60.0, 1000.0
BATCH = 2
# Pairs, and passes over them, of the learning curves: the most from nothing, a tenth or less from a model.
PASSES = {None: {100: 100, 1000: 20, 10_000: 20}, "paracetamol": {100: 100, 1000: 20}, "organic": {1000: 20}}
FROM_NOTHING, TUNED = ffmd.Training(batch_size=BATCH), ffmd.Training(batch_size=BATCH, learning_rate=0.02)
ARCHITECTURE = ffmd.Architecture.small(cutoff=4.0, channels=32)


class Stages(stages.Folder):
    """The stages."""

    @property
    def _teacher(self) -> teachers.Teacher:
        return teachers.SMOKE if self.smoke else teachers.Teacher()

    def reference(self) -> None:
        """The teacher's runs: at constant energy, to train on, and in NVT, to compare with."""
        teachers.nve(self.data_folder, self._teacher)
        teachers.nvt(self.data_folder, self._teacher)

    def curves(self) -> dict[str, Any]:
        """Errors of one step on the test runs, and the core-minutes of the trainings."""
        found: dict[str, Any] = {}
        for init, each in {None: {20: 1}, "paracetamol": {20: 1}}.items() if self.smoke else PASSES.items():
            for n_pairs, passes in each.items():
                name = f"{init or 'nothing'}_{n_pairs}"
                found[name] = self._trained(name, n_pairs, passes, init)
        return found

    def train(self) -> dict[str, Any]:
        """The model that ships: from that of OPLS-AA with all pairs, then once more from there."""
        again = ffmd.Training(batch_size=BATCH, learning_rate=0.03)
        first = self._trained("ships_0", None, 15, "paracetamol")
        second = self._trained("ships", None, 30, str(self.runs / "ships_0"), again)
        reversible = ffmd.evaluate(ffmd.load(self.runs / "ships"), self.data_folder / "nve.h5", reversible=True)
        minutes = first["core_minutes"] + second["core_minutes"]
        return {**second, "core_minutes": round(minutes, 1), "reversible_velocities_percent": _round(reversible)}

    def _trained(
        self, name: str, n_pairs: int | None, passes: int, init: str | None, training: ffmd.Training | None = None
    ) -> dict[str, Any]:
        out = self.runs / name
        data = dataclasses.replace(
            dataset_file.read(self.data_folder / "nve.h5"), n_train=n_pairs, time_step_fs=STEP_FS
        )
        training = training or (FROM_NOTHING if init is None else TUNED)
        passes = 1 if self.smoke else passes
        model = ffmd.train(
            data, out, training=dataclasses.replace(training, epochs=passes), time_step_fs=STEP_FS, init=init,
            architecture=ARCHITECTURE if init is None else None, resume=(out / "training.json").exists(),
        )  # fmt: skip
        errors = ffmd.evaluate(model, data)
        return {
            "pairs": n_pairs or "all",
            "displacements_percent": round(float(errors.displacement_percent), 3),
            "velocities_percent": _round(errors),
            "core_minutes": round(stages.core_minutes(out), 1),
        }

    def rollout(self) -> dict[str, Any]:
        """Copies from the teacher's states: temperatures by element, torsions beside the teacher's."""
        model, system = self._model(), systems.paracetamol().system
        length_ps, n_copies = (0.3, 2) if self.smoke else (100.0, 16)
        with h5py.File(self.data_folder / "nvt.h5") as file:
            theirs = np.asarray(file["positions"], np.float64)  # [frames, copies, atoms, 3]
            speeds = np.asarray(file["velocities"], np.float64)
        starts = zip(theirs[0, :n_copies], speeds[0, :n_copies], strict=True)
        copies = [(system, State(r, v, np.eye(3))) for r, v in starts]
        bath = ffmd.NVT(KELVIN, TAU_FS, friction_tau_fs=FRICTION_TAU_FS)
        every = 5
        steps = round(length_ps * units.PS / (STEP_FS * every)) * every
        run = ffmd.simulate(model, copies, steps=steps, every=every, ensemble=bath, on_alarm="warn")
        each = [run[i] for i in range(len(copies))]
        ours = np.stack([np.asarray(one.frames.positions) for one in each], axis=1)
        moving = np.stack([np.asarray(one.frames.velocities) for one in each], axis=1)
        found = {
            "copies": len(copies),
            "length_ps": length_ps,
            "alarms": [a.text for of_one in run.alarms for a in of_one],
        }
        for side, r, v in (("", ours, moving), ("reference_", theirs, speeds)):
            frames = [State(r[:, i], v[:, i], np.eye(3)) for i in range(r.shape[1])]
            each = stages.temperatures(system, frames, model.config.elements)
            found[f"{side}temperature_by_element_K"] = each
        found["torsions"] = {}
        for equivalent in torsions.dihedrals(system, theirs[0, 0]):
            angles = [
                np.concatenate([torsions.angles(x.reshape(-1, *x.shape[2:]), dihedral) for dihedral in equivalent])
                for x in (ours, theirs, theirs[:, ::2], theirs[:, 1::2])
            ]
            found["torsions"]["-".join(map(str, equivalent[0]))] = {
                "overlap": round(torsions.overlap_of_angles(*angles[:2]), 4),
                "halves": round(torsions.overlap_of_angles(*angles[2:]), 4),
            }  # fmt: skip
        return found

    def speed(self) -> dict[str, Any]:
        """ns/day of the model, steps as they are and reversible, and of the teacher at 0.5 fs, in turn, on one core."""
        model, prepared = self._model(), systems.paracetamol()
        bath, n_steps = ffmd.NVT(KELVIN, TAU_FS, friction_tau_fs=FRICTION_TAU_FS), 100 if self.smoke else 4_000
        ours = functools.partial(
            ffmd.simulate, model, steps=n_steps, every=10, ensemble=bath, on_alarm="warn", progress=False
        )
        start = ours((prepared.system, prepared.state))
        sides = {
            "plain": (lambda: ours(start), n_steps * STEP_FS),
            "reversible": (lambda: ours(start, reversible=True), n_steps * STEP_FS),
        }
        found: dict[str, list[float]] = {name: [] for name in (*sides, "teacher", "teacher_of_64_copies")}
        for _ in range(1 if self.smoke else 3):
            for name, values in stages.speeds(sides, 1).items():
                found[name] += values.tolist()
            for name, value in zip(("teacher", "teacher_of_64_copies"), teachers.speed(self._teacher), strict=True):
                found[name].append(value)
        medians = {kind: float(np.median(values)) for kind, values in found.items()}
        ratio = {kind: round(medians[kind] / medians["teacher"], 1) for kind in ("plain", "reversible")}
        return {"ns_per_day": {kind: round(x, 2) for kind, x in medians.items()}, "times_faster": ratio}

    def _model(self) -> Any:
        trained = self.runs / "ships"
        return ffmd.load(trained if (trained / "weights.npz").exists() else "paracetamol-ccx")


def _round(errors: Any) -> float:
    return round(float(errors.velocity_percent), 3)


STAGES = ["reference", "train", "curves", "rollout", "speed"]


if __name__ == "__main__":
    stages.main(__doc__, Stages, STAGES, HERE)
