"""Paracetamol at coupled-cluster quality (ANI-1ccx), Δt = 6 fs: what pretraining saves, and the model that ships.

    python experiments/paracetamol_ccx/teacher.py nve nvt              # first: the teacher's runs
    python experiments/paracetamol_ccx/run.py curves train rollout
    python experiments/paracetamol_ccx/run.py speed                    # needs the teacher

curves: errors against the pairs of the teacher, from nothing and from the shipped models of OPLS-AA and of organic
molecules.  train: the model that ships.  rollout: 16 copies of 100 ps in NVT beside the teacher's.  speed: model and
teacher in turn, on one core.  Trainings that were stopped go on; results are added to results.json.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np

import ffmd_jax as ffmd
from ffmd_jax.analysis import torsions
from ffmd_jax.core import files, mechanics, units
from ffmd_jax.core.state import State
from ffmd_jax.data import dataset_file
from ffmd_jax.reference_md import systems
from ffmd_jax.training import training_log

HERE = Path(__file__).resolve().parent
STEP_FS, KELVIN, TAU_FS, FRICTION_TAU_FS = 6.0, 300.0, 60.0, 1000.0
BATCH = 2
# Pairs, and passes over them, of the learning curves: the most from nothing, a tenth or less from a model.
PASSES = {None: {100: 100, 1000: 20, 10_000: 20}, "paracetamol": {100: 100, 1000: 20}, "organic": {1000: 20}}
FROM_NOTHING, TUNED = ffmd.Training(batch_size=BATCH), ffmd.Training(batch_size=BATCH, learning_rate=0.02)
ARCHITECTURE = ffmd.Architecture.small(cutoff=4.0, channels=32)


class Stages:
    """The stages, in a folder with data/ and runs/."""

    def __init__(self, folder: Path, data: Path):
        self.folder, self.data = folder, data
        self.runs = folder / "runs"
        self.runs.mkdir(parents=True, exist_ok=True)

    def curves(self) -> dict[str, Any]:
        """Errors of one step on the test runs, and the core-minutes of the trainings."""
        found: dict[str, Any] = {}
        for init, each in PASSES.items():
            for n_pairs, passes in each.items():
                name = f"{init or 'nothing'}_{n_pairs}"
                found[name] = self._trained(name, n_pairs, passes, init)
        return found

    def train(self) -> dict[str, Any]:
        """The model that ships: from that of OPLS-AA with all pairs, then once more from there."""
        again = ffmd.Training(batch_size=BATCH, learning_rate=0.03)
        first = self._trained("ships_0", None, 15, "paracetamol")
        second = self._trained("ships", None, 30, str(self.runs / "ships_0"), again)
        reversible = ffmd.evaluate(ffmd.load(self.runs / "ships"), self.data / "nve.h5", reversible=True)
        minutes = first["core_minutes"] + second["core_minutes"]
        return {**second, "core_minutes": round(minutes, 1), "reversible_velocities_percent": _round(reversible)}

    def _trained(
        self, name: str, n_pairs: int | None, passes: int, init: str | None, training: ffmd.Training | None = None
    ) -> dict[str, Any]:
        out = self.runs / name
        data = dataclasses.replace(dataset_file.read(self.data / "nve.h5"), n_train=n_pairs, time_step_fs=STEP_FS)
        training = training or (FROM_NOTHING if init is None else TUNED)
        model = ffmd.train(
            data, out, training=dataclasses.replace(training, epochs=passes), time_step_fs=STEP_FS, init=init,
            architecture=ARCHITECTURE if init is None else None, resume=(out / "training.json").exists(),
        )  # fmt: skip
        errors = ffmd.evaluate(model, data)
        lines = training_log.read(out / training_log.METRICS)
        speeds = [line["configurations_per_s"] for line in lines if line["configurations_per_s"]]
        return {
            "pairs": n_pairs or "all",
            "displacements_percent": round(float(errors.displacement_percent), 3),
            "velocities_percent": _round(errors),
            "core_minutes": round(lines[-1]["step"] * BATCH / float(np.median(speeds)) / 60, 1),
        }

    def rollout(self, length_ps: float = 100.0, n_copies: int = 16) -> dict[str, Any]:
        """Copies from the teacher's states: temperatures by element, torsions beside the teacher's."""
        model, system = self._model(), systems.paracetamol().system
        with h5py.File(self.data / "nvt.h5") as file:
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
            kelvin = jax.vmap(jax.vmap(lambda r, v: mechanics.temperature_by_species(
                system, State(r, v, np.eye(3)), model.config.elements)))(r, v)  # fmt: skip
            mean = np.asarray(kelvin).mean(axis=0)  # of each copy
            error = mean.std(axis=0, ddof=1) / np.sqrt(len(mean))
            symbols = ("H", "C", "N", "O")
            found[f"{side}temperature_by_element_K"] = dict(zip(symbols, mean.mean(0).round(1).tolist(), strict=True))
            found[f"{side}temperature_error_K"] = dict(zip(symbols, error.round(1).tolist(), strict=True))
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
        import teacher

        model, prepared = self._model(), systems.paracetamol()
        bath, n_steps = ffmd.NVT(KELVIN, TAU_FS, friction_tau_fs=FRICTION_TAU_FS), 4_000
        found: dict[str, list[float]] = {"plain": [], "reversible": [], "teacher": [], "teacher_of_64_copies": []}
        start = ffmd.simulate(model, (prepared.system, prepared.state), steps=2000, ensemble=bath, progress=False)
        for turn in range(4):
            for kind in ("plain", "reversible"):
                began = time.perf_counter()
                ffmd.simulate(
                    model,
                    start,
                    steps=n_steps,
                    every=10,
                    ensemble=bath,
                    reversible=kind == "reversible",
                    progress=False,
                )
                took = time.perf_counter() - began
                if turn:  # the first compiles
                    found[kind].append(units.ns_per_day(n_steps * STEP_FS, took))
            if turn:
                theirs = teacher.speed()
                found["teacher"].append(theirs["1"])
                found["teacher_of_64_copies"].append(theirs[str(teacher.COPIES)])
        medians = {kind: float(np.median(values)) for kind, values in found.items()}
        ratio = {kind: round(medians[kind] / medians["teacher"], 1) for kind in ("plain", "reversible")}
        return {"ns_per_day": {kind: round(x, 2) for kind, x in medians.items()}, "times_faster": ratio}

    def _model(self) -> Any:
        trained = self.runs / "ships"
        return ffmd.load(trained if (trained / "weights.npz").exists() else "paracetamol-ccx")


def _round(errors: Any) -> float:
    return round(float(errors.velocity_percent), 3)


def main() -> None:
    stages = ["curves", "train", "rollout", "speed"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=stages)
    parser.add_argument("--data", type=Path, default=HERE / "data", help="folder of teacher.py (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=HERE, help="where runs/ and results.json are (default: %(default)s)"
    )
    given = parser.parse_args()
    run, path = Stages(given.out, given.data), given.out / "results.json"
    for stage in given.stages:
        found = getattr(run, stage)()
        known = json.loads(path.read_text()) if path.exists() else {}
        files.write_atomically(path, (json.dumps({**known, stage: found}, indent=1) + "\n").encode())
        print(json.dumps({stage: found}, indent=1), file=sys.stderr)


if __name__ == "__main__":
    main()
