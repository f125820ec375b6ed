"""α-quartz by SevenNet-0, a foundation potential, Δt = 30 fs: fine-tuned from the model of BKS with few picoseconds.

    pip install sevenn
    python experiments/quartz_sevennet/run.py                 # everything
    python experiments/quartz_sevennet/run.py data train      # only these stages
    python experiments/quartz_sevennet/run.py --smoke DIR     # small, of no meaning

cell: the cell that SevenNet-0 itself has.  data: NVE runs of SevenNet-0, of 72 atoms in several shapes to learn from,
and of 162 to compare with.  train: the model that ships.  learning: errors against the picoseconds of SevenNet-0, with
and without the model of BKS.  evaluate: errors of a step.  rollout: NVT of 162 and 1,296 atoms.  compare: these
beside SevenNet-0.  speed: both in turn.  All but cell, data and speed run without sevenn.  What was stopped goes on
when it is started again.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import ase
import curves
import numpy as np
from ase import units as ase_units
from ase.io import read, write
from ase.md.verlet import VelocityVerlet

import ffmd_jax as ffmd
from ffmd_jax.core import files, units
from ffmd_jax.data.dataset_file import Dataset, Group, Run
from ffmd_jax.dynamics import restart
from ffmd_jax.formats import ase_files, trajectory
from ffmd_jax.formats.trajectory import Trajectory
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import systems, teachers
from ffmd_jax.training import training_log

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import stages  # noqa: E402

TEACHER = "sevennet-0"
KELVIN, STEP_FS = 300.0, 2.0
TIME_STEP_FS, TAU_FS, FRICTION_TAU_FS = 30.0, 75.0, 1000.0
EQUILIBRATE_PS, SPACING_PS = 0.1, 0.1
STEPS, SHORT_STEPS, RATE, N_VALIDATED = 8_000, 1_000, 0.03, 30
LARGE = (3, 3, 2)
# Windows of the spectra; what is left out at the beginning of the runs of the models.
SEGMENT_PS, LEFT_OUT_PS, N_PIECES, N_FORCES = 0.72, 20.0, 6, 5


class Given(NamedTuple):
    """An NVE run of the teacher; its seed is its number.

    Attributes:
        use: of `USES`.
        shape: unit cells of 9 atoms along each vector.
        length_ps: ps.
    """

    use: str
    shape: tuple[int, int, int]
    length_ps: float


USES = ("train", "validation", "held_out")
# Each shape of 72 atoms holds other wave vectors.
RUNS = [
    Given("train", (2, 2, 2), 0.6),
    Given("train", (8, 1, 1), 0.6),
    Given("train", (1, 1, 8), 0.6),
    Given("validation", (4, 1, 2), 0.3),
    Given("held_out", (3, 3, 2), 1.1),
]


class Stages(stages.Folder):
    """The stages."""

    def __init__(self, folder: Path, smoke: bool):
        super().__init__(folder, smoke)
        self.given = [Given(use, (1, 1, 1), 0.3) for use in USES] if smoke else RUNS

    def cell(self) -> dict[str, Any]:
        """Relaxes the unit cell without symmetry."""
        from ase.filters import FrechetCellFilter
        from ase.optimize import BFGS

        path = self.data_folder / "unit.extxyz"
        prepared = systems.get("quartz", repeat=(1, 1, 1))
        atoms = ase_files.to_atoms(prepared.system, prepared.state)
        if not path.exists():
            atoms.calc = teachers.make(TEACHER)
            free: Any = FrechetCellFilter(atoms)
            BFGS(free, logfile=None).run(fmax=0.1 if self.smoke else 0.002, steps=200)
            atoms.calc = None
            write(path, atoms)
        a, _, c, *_ = self._relaxed((1, 1, 1)).cell.cellpar()
        return {"a_A": round(float(a), 4), "c_A": round(float(c), 4), "prepared_a_c_A": [4.9134, 5.4052]}

    def data(self) -> None:
        """NVE runs of the teacher, every frame kept, from states of Langevin dynamics that began at rest."""
        for seed, run in enumerate(self.given):
            start = self.data_folder / f"start_{_name(run.shape)}.extxyz"
            if not start.exists():
                write(start, self._relaxed(run.shape))
            ffmd.reference(
                "ase", self._path(seed), start=start, calculator=TEACHER, temperature_K=KELVIN,
                length_ps=run.length_ps, frame_fs=STEP_FS, dt=STEP_FS, equilibrate_ps=EQUILIBRATE_PS,
                spacing_ps=SPACING_PS, seed=seed, forces=True, resume=True,
            )  # fmt: skip

    def _relaxed(self, shape: tuple[int, int, int]) -> ase.Atoms:
        """So many unit cells, at rest."""
        unit = read(self.data_folder / "unit.extxyz")
        assert isinstance(unit, ase.Atoms)
        return unit.repeat(shape)

    def _path(self, number: int) -> Path:
        return self.data_folder / f"{self.given[number].use}_{number}_{_name(self.given[number].shape)}.h5"

    def _runs(self, use: str) -> list[Trajectory]:
        """The runs for one use, each checked to be NVE."""
        return [trajectory.read(self._path(i), check=True) for i, run in enumerate(self.given) if run.use == use]

    def _dataset(self, train: Sequence[Trajectory]) -> Dataset:
        # A dataset must have runs to test with; `_errors` tests on those of the larger cell.
        judged = [(run, split) for split in ("validation", "test") for run in self._runs("validation")]
        uses = [*((run, "train") for run in train), *judged]
        runs = tuple(Run(one.frames, STEP_FS, split) for one, split in uses)
        return Dataset((Group(train[0].system, runs),), TIME_STEP_FS, STEP_FS, n_test=N_VALIDATED)

    def train(self) -> dict[str, Any]:
        """The model that ships: that of BKS, trained on with all runs."""
        return self._trained("model", self._runs("train"), "quartz", STEPS, RATE)

    def learning(self) -> dict[str, Any]:
        """Errors against the picoseconds of the teacher, fine-tuned and from random weights, the same steps each."""
        runs, found = self._runs("train"), {}
        for length_ps, pieces in ((1.8, runs), (0.6, runs[:1]), (0.15, _first(runs[:1], 0.25))):
            for kind, init, rate in (("tuned", "quartz", RATE), ("from_nothing", None, None)):
                name = f"{kind}_{length_ps:g}_ps"
                found[name] = self._trained(name, pieces, init, SHORT_STEPS, rate)
        return found

    def _trained(
        self, name: str, runs: Sequence[Trajectory], init: str | None, steps: int, rate: float | None
    ) -> dict[str, Any]:
        """A training of about so many steps of one pair, and its errors."""
        out, data = self.runs / name, self._dataset(runs)
        n_pairs = sum(len(run.times) - round(TIME_STEP_FS / STEP_FS) for run in runs)
        epochs = 1 if self.smoke else max(1, round(steps / n_pairs))
        training = ffmd.Training(epochs=epochs, batch_size=1, learning_rate=rate)
        small = ffmd.Architecture.small(cutoff=5.0, channels=4 if self.smoke else 32)
        model = ffmd.train(
            data, out, training=training, architecture=small if init is None else None, init=init,
            resume=(out / "training.json").exists(),
        )  # fmt: skip
        steps = training_log.read(out / training_log.METRICS)[-1]["step"]
        return {"steps": steps, **self._errors(model), "core_minutes": round(stages.core_minutes(out), 1)}

    def _errors(self, model: Model, reversible: bool = False) -> dict[str, float]:
        """Errors of one step on the runs that nothing was learned from, %."""
        each: list[Any] = [ffmd.evaluate(model, run, reversible=reversible) for run in self._runs("held_out")]
        return {
            "displacements_percent": round(float(np.mean([of.displacement_percent for of in each])), 2),
            "velocities_percent": round(float(np.mean([of.velocity_percent for of in each])), 2),
        }

    def evaluate(self) -> dict[str, Any]:
        """Errors of one step of the model, and of that of BKS, which it began as."""
        own, before = self._model(), ffmd.load("quartz")
        found = {
            "model": self._errors(own),
            "model_reversible": self._errors(own, reversible=True),
            "bks_model": self._errors(before),
        }
        return {"digest": restart.fingerprint(own.config, own.params), **found}

    def rollout(self) -> None:
        """NVT of 162 and 1,296 atoms, and of the model of BKS in the cell of BKS."""
        own, bks, relaxed = self._model(), systems.get("quartz"), self._relaxed(LARGE)
        self._run("friction", own, relaxed, 4_000, FRICTION_TAU_FS)
        self._run("supercell", own, relaxed.repeat((2, 2, 2)), 3_400, FRICTION_TAU_FS)
        self._run("csvr_alone", own, relaxed, 3_400, None)
        self._run("bks_model", ffmd.load("quartz"), (bks.system, bks.state), 2_000, FRICTION_TAU_FS)

    def _run(self, name: str, model: Model, start: Any, steps: int, friction_tau_fs: float | None) -> None:
        """A run from a structure at rest, unless it is there; alarms are noted in its file."""
        out, steps = self.runs / f"{name}.h5", 60 if self.smoke else steps
        if out.exists() and len(trajectory.read(out).times) == steps:
            return
        ffmd.simulate(
            model, start, steps=steps, velocities="draw", potential="none", on_alarm="warn", out=out, resume=True,
            ensemble=ffmd.NVT(KELVIN, TAU_FS, friction_tau_fs=friction_tau_fs),
        )  # fmt: skip

    def compare(self) -> dict[str, Any]:
        """The runs beside those of the teacher, and how far the model of BKS is from them."""
        held_out, how = self._runs("held_out"), (TIME_STEP_FS, SEGMENT_PS)
        theirs = curves.of(held_out, *how)
        length_fs = sum(float(run.times[-1] - run.times[0]) for run in held_out)
        facts = {
            "ps": [round(float(run.times[-1] - run.times[0]) / 1000, 3) for run in held_out],
            "temperature_by_element_K": curves.temperatures_of(held_out),
            "pressure_GPa": curves.pressure(held_out),
            "halves": curves.differences(*(curves.of(half, *how) for half in curves.halves(held_out))),
        }
        self._ship(theirs, facts)
        found: dict[str, Any] = {"teacher": facts}
        for name in ("friction", "csvr_alone", "supercell", "bks_model"):
            whole = trajectory.read(self.runs / f"{name}.h5")
            left_out = 0 if self.smoke else round(LEFT_OUT_PS * units.PS / TIME_STEP_FS)
            run = trajectory.part(whole, slice(left_out, None))
            own = curves.of([run], *how)
            pieces = [curves.of([piece], *how) for piece in curves.pieces(run, length_fs, N_PIECES)]
            apart = [curves.differences(piece, own) for piece in pieces]
            found[name] = {
                "atoms": len(run.system.species),
                "ps": round(float(whole.times[-1]) / 1000, 1),
                "alarms": [alarm["text"] for alarm in whole.metadata["alarms"]],
                "temperature_by_element_K": curves.temperatures_of([run]),
                **curves.differences(own, theirs),
                "its_own_pieces": {key: round(float(np.median([of[key] for of in apart])), 4) for key in apart[0]},
            }
        return found

    def _ship(self, theirs: curves.Curves, facts: dict[str, Any]) -> None:
        """What `ffmd demo` shows beside the model."""
        lengths = " + ".join(f"{ps:g}" for ps in facts["ps"])
        found = {
            "teacher": "SevenNet-0", "what": f"NVE runs of 162 atoms, {lengths} ps, steps of {STEP_FS:g} fs",
            "step_fs": STEP_FS, "segment_ps": SEGMENT_PS,
            **{name: facts[name] for name in ("temperature_by_element_K", "halves")},
            "wavenumber_per_cm": theirs.vdos.wavenumber_per_cm.round(2).tolist(),
            "vdos": theirs.vdos.density.round(5).tolist(), "r_A": theirs.rdf["Si-O"].r_A.round(3).tolist(),
            "rdf": {name: curve.g.round(3).tolist() for name, curve in theirs.rdf.items()},
        }  # fmt: skip
        files.write_atomically(self.runs / "reference.json", json.dumps(found).encode())
        write(self.runs / "start.xyz", self._relaxed(LARGE), format="extxyz", columns=["symbols", "positions"])

    def speed(self) -> dict[str, Any]:
        """ns/day of 162 atoms by the model and by the teacher, in turn, on one core."""
        model, start = self._model(), self._relaxed(LARGE)
        bath = ffmd.NVT(KELVIN, TAU_FS, friction_tau_fs=FRICTION_TAU_FS)
        moving = start.copy()
        moving.calc = teachers.make(TEACHER)
        moving.rattle(0.05, seed=0)
        dynamics = VelocityVerlet(moving, STEP_FS * ase_units.fs)
        warm = ffmd.simulate(model, start, steps=100, ensemble=bath, on_alarm="warn", progress=False)
        n_steps = 100 if self.smoke else 500

        def ours() -> None:
            ffmd.simulate(model, warm, steps=n_steps, every=20, ensemble=bath, on_alarm="warn", progress=False)

        sides = {
            "model": (ours, n_steps * TIME_STEP_FS), "teacher": (lambda: dynamics.run(N_FORCES), N_FORCES * STEP_FS)
        }  # fmt: skip
        found = stages.speeds(sides, 1 if self.smoke else 3)
        ratios = np.divide(found["model"], found["teacher"])
        medians = {name: round(float(np.median(values)), 4) for name, values in found.items()}
        return {"atoms": len(start), "ns_per_day": medians, "times_faster": round(float(np.median(ratios))),
                "times_faster_each_turn": ratios.round().tolist()}  # fmt: skip

    def _model(self) -> Model:
        trained = self.runs / "model"
        return ffmd.load(trained if (trained / "weights.npz").exists() else "quartz-sevennet")


def _first(runs: Sequence[Trajectory], share: float) -> list[Trajectory]:
    """The first part of each run."""
    return [trajectory.part(run, slice(round(share * len(run.times)))) for run in runs]


def _name(shape: tuple[int, int, int]) -> str:
    return "_".join(map(str, shape))


STAGES = ["cell", "data", "train", "learning", "evaluate", "rollout", "compare", "speed"]


if __name__ == "__main__":
    stages.main(__doc__, Stages, STAGES, HERE)
