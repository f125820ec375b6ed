"""Proton transfer in malonaldehyde, GFN2-xTB, Δt = 4 fs: from reference runs to the numbers of the model's card.

    pip install -e ".[xtb]"
    python experiments/malonaldehyde/run.py                      # everything, three hours of a core
    python experiments/malonaldehyde/run.py data reference       # only these stages
    python experiments/malonaldehyde/run.py --smoke DIR          # small, of no meaning

data: NVE runs to learn from; two fifths of them start in a transfer, which is rare.  reference: NVT at 300 K, for the
free energy, and at 500 K, where transfers are frequent enough to compare rates.  train: the model.  evaluate: errors of
a step.  rollout: 16 copies at each temperature, beside the reference.  elements: their temperatures.  watch: a run
whose transfers the bond monitor reports, checked on its frames.  speed: model and teacher in turn.  What was stopped
goes on when it is started again.
"""

import dataclasses
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

import ffmd_jax as ffmd
from ffmd_jax.analysis import bonds
from ffmd_jax.core import progress
from ffmd_jax.core import units as own_units
from ffmd_jax.core.state import State, take
from ffmd_jax.data import dataset, dataset_file
from ffmd_jax.data.dataset_file import Dataset, Group, Run
from ffmd_jax.formats import ase_files, trajectory
from ffmd_jax.reference_md import teachers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import stages  # noqa: E402

# O of the carbonyl, its C, the C between, C and O of the enol, then H of each C and that of the bridge; any start will
# do that BFGS brings to the closed form.
NUMBERS = [8, 6, 6, 6, 8, 1, 1, 1, 1]
PLACES_A = [
    [-1.30, 0.00, 0], [-1.22, 1.24, 0], [0.00, 1.95, 0], [1.18, 1.26, 0], [1.28, -0.05, 0],
    [-2.13, 1.86, 0], [0.00, 3.03, 0], [2.13, 1.79, 0], [0.38, -0.50, 0],
]  # fmt: skip
LEFT, RIGHT, PROTON = 0, 4, 8
KELVIN, TAU_FS, FRICTION_TAU_FS = 300.0, 100.0, 500.0
REFERENCES = {300.0: ("nvt", 5), 500.0: ("hot", 6)}  # files and numbers of runs of 50 ps
STEP_FS, FRAME_FS, TIME_STEP_FS = 0.5, 1.0, 4.0
RUN_FS, SPACING_FS = 200.0, 100.0
# Temperature, K, and whether the runs start in a transfer, of each set of runs to learn from; then their numbers.
SETS = [(300.0, False, 200), (500.0, False, 100), (300.0, True, 140), (500.0, True, 60)]
CORE_A = 0.4  # a proton is at one oxygen where it is so much nearer to it than to the other
MOST_A, BIN_A = 1.2, 0.05  # the profile
BOUND_EV_PER_A2 = 20.0  # holds the proton in the middle


class Middle(Calculator):
    """A teacher with a harmonic restraint that keeps the proton between the two oxygens."""

    implemented_properties: ClassVar = ["energy", "forces"]

    def __init__(self, teacher: Calculator):
        super().__init__()
        self._teacher = teacher

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        positions = self.atoms.positions
        lines = [positions[PROTON] - positions[oxygen] for oxygen in (LEFT, RIGHT)]
        lengths = [float(np.linalg.norm(line)) for line in lines]
        off = lengths[0] - lengths[1]
        forces = self._teacher.get_forces(self.atoms).copy()
        for sign, oxygen, line, length in zip((1, -1), (LEFT, RIGHT), lines, lengths, strict=True):
            pull = BOUND_EV_PER_A2 * off * sign * line / length
            forces[PROTON] -= pull
            forces[oxygen] += pull
        energy = self._teacher.get_potential_energy(self.atoms) + 0.5 * BOUND_EV_PER_A2 * off**2
        self.results = {"energy": energy, "forces": forces}


def molecule() -> Atoms:
    """The closed form, relaxed with the teacher."""
    atoms = Atoms(NUMBERS, PLACES_A)
    atoms.calc = teachers.make("gfn2-xtb")
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=500)
    return atoms


def bath(kelvin: float = KELVIN) -> ffmd.NVT:
    """The thermostats of the model's runs and the teacher's."""
    return ffmd.NVT(kelvin, TAU_FS, friction_tau_fs=FRICTION_TAU_FS)


def transfer(positions: np.ndarray) -> np.ndarray:
    """How much farther the proton is from one oxygen than from the other, Å, of ``[..., n_atoms, 3]``."""
    proton = positions[..., PROTON, :]
    left, right = (np.linalg.norm(proton - positions[..., oxygen, :], axis=-1) for oxygen in (LEFT, RIGHT))
    return left - right


def n_transfers(along: np.ndarray) -> int:
    """How often the proton came from one oxygen to the other: what turns back before it is there does not count."""
    sides = np.sign(along[np.abs(along) > CORE_A])
    return int(np.sum(sides[1:] != sides[:-1]))


def profile(along: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Free energy along the transfer over k_B T, zero at its lowest, of both directions together, and its error.

    The error is that of the mean of eight groups of the runs.
    """
    edges = np.arange(0, MOST_A + BIN_A / 2, BIN_A)

    def free(values: np.ndarray) -> np.ndarray:
        counts = np.histogram(np.abs(values), edges)[0]
        with np.errstate(divide="ignore"):
            found = -np.log(counts / counts.sum())
        return found - found.min()

    pieces = np.array_split(np.concatenate(along), 8)
    each = np.stack([free(piece) for piece in pieces])
    return free(np.concatenate(along)), each.std(axis=0, ddof=1) / np.sqrt(len(each))


class Stages(stages.Folder):
    """The stages."""

    def data(self) -> None:
        """NVE runs from each set of starts; a set that is there is not made again."""
        path = self.data_folder / "nve.h5"
        if path.exists():
            return
        sets, start = [(kelvin, middle, 10) for kelvin, middle, _ in SETS[::2]] if self.smoke else SETS, molecule()
        system, runs = ase_files.from_atoms(start)[0], []
        for i, (kelvin, middle, number) in enumerate(sets):
            part = self.data_folder / f"nve_{i}.h5"
            if not part.exists():
                group = Group(system, self._runs_of(start, kelvin, middle, number, np.random.default_rng(i)))
                found = Dataset((group,), TIME_STEP_FS, metadata={"sources": [part.stem]})
                dataset_file.write(part, found, {})
            runs += dataset_file.read(part).groups[0].runs
        metadata = {"sources": ["GFN2-xTB"]}
        dataset.write(path, Dataset((Group(system, tuple(runs)),), TIME_STEP_FS, 2.0, metadata=metadata))

    def _runs_of(
        self, start: Atoms, kelvin: float, middle: bool, number: int, rng: np.random.Generator
    ) -> tuple[Run, ...]:
        """Runs from states of Langevin dynamics, `SPACING_FS` apart."""
        atoms = start.copy()
        teacher = teachers.make("gfn2-xtb")
        atoms.calc = Middle(teacher) if middle else teacher
        atoms.set_constraint(FixCom())
        thermalize_momenta(atoms, kelvin, rng=rng)
        bath = {"temperature_K": kelvin, "friction": 1 / (50 * units.fs), "rng": rng, "fixcm": False}
        warm, found = Langevin(atoms, STEP_FS * units.fs, **bath), []
        warm.run(round((20 if self.smoke else 2000) / STEP_FS))
        name = f"{kelvin:g} K" + (", from a transfer" if middle else "")
        with progress.progress(number, name, "runs") as bar:
            for i in range(number):
                warm.run(round((4 if self.smoke else SPACING_FS) / STEP_FS))
                split = "test" if i % 10 == 9 else "validation" if i % 10 == 8 else "train"
                found.append(self._run_of(atoms, split, name))
                bar.update(1)
        return tuple(found)

    def _run_of(self, moving: Atoms, split: str, name: str) -> Run:
        atoms = moving.copy()
        atoms.set_constraint()
        atoms.calc = teachers.make("gfn2-xtb")
        atoms.positions -= atoms.get_center_of_mass()
        Stationary(atoms, preserve_temperature=False)
        ZeroRotation(atoms, preserve_temperature=False)
        seen: list[tuple[np.ndarray, np.ndarray, np.ndarray, float]] = []
        steps = VelocityVerlet(atoms, STEP_FS * units.fs)

        def keep():
            velocities = atoms.get_velocities() * units.fs
            seen.append((atoms.positions.copy(), velocities, atoms.get_forces(), atoms.get_potential_energy()))

        steps.attach(keep, interval=round(FRAME_FS / STEP_FS))
        steps.run(round((20 if self.smoke else RUN_FS) / STEP_FS))
        r, v, f, e = (np.array(values) for values in zip(*seen, strict=True))
        r, v, f = (np.asarray(x, np.float32).astype(np.float64) for x in (r, v, f))  # half the size in the file
        return Run(State(r, v, np.broadcast_to(np.eye(3), (len(r), 3, 3))), FRAME_FS, split, 0, name, e, f)

    def reference(self, length_ps: float = 50.0) -> None:
        """Runs of the teacher in the heat bath of the model's."""
        start = molecule()
        for kelvin, (name, n_runs) in REFERENCES.items():
            n_runs, length = (2, 1.0) if self.smoke else (n_runs, length_ps)
            ffmd.reference(
                "ase", self.data_folder / f"{name}.h5", start=start, calculator="gfn2-xtb", ensemble=bath(kelvin),
                runs=n_runs, length_ps=length, frame_fs=TIME_STEP_FS, resume=True, seed=7, equilibrate_ps=2.0,
                spacing_ps=1.0,
            )  # fmt: skip

    def train(self) -> dict[str, Any]:
        """The model, in two trainings, the second at a smaller rate."""
        small = ffmd.Architecture.small(cutoff=4.0, channels=8 if self.smoke else 32)
        first = ffmd.Training(batch_size=4, epochs=1 if self.smoke else 12)
        second = dataclasses.replace(first, learning_rate=0.03, weight_decay=0.0, epochs=1 if self.smoke else 5)
        minutes, init = 0.0, None
        for name, training in (("before", first), ("model", second)):
            out = self.runs / name
            begun = (out / "training.json").exists()
            ffmd.train(self.data_folder / "nve.h5", out, training=training, architecture=small, init=init, resume=begun)
            minutes, init = minutes + stages.core_minutes(out), str(out)
        return {"core_minutes": round(minutes)}

    def evaluate(self) -> dict[str, Any]:
        """Errors of one step on the test runs, of each set of starts."""
        return stages.errors(self._model(), self.data_folder / "nve.h5")

    def rollout(self, length_ps: float = 125.0, n_copies: int = 16) -> dict[str, Any]:
        """Copies from states of the reference runs: free energy and rates, beside the reference's."""
        found = {}
        for kelvin in REFERENCES:
            theirs = self._reference_runs(kelvin)
            run = self._copies(kelvin, theirs, length_ps, n_copies)
            sides = {"model": [run[i].frames for i in range(n_copies)], "teacher": [one.frames for one in theirs]}
            alarms = [alarm.text for of_one in run.alarms for alarm in of_one]
            own = {side: observed(frames) for side, frames in sides.items()}
            found[f"{kelvin:g} K"] = {"copies": n_copies, "alarms": alarms, "bin_A": BIN_A, **own, **differences(own)}
        return found

    def _copies(self, kelvin: float, theirs: list[Any], length_ps: float, n_copies: int) -> Any:
        """A run of copies of the model from states of reference runs."""
        places = np.linspace(0, len(theirs[0].times) - 1, n_copies).astype(int)
        starts = [(theirs[0].system, take(theirs[i % len(theirs)].frames, place)) for i, place in enumerate(places)]
        steps = 100 if self.smoke else round(length_ps * own_units.PS / TIME_STEP_FS)
        return ffmd.simulate(self._model(), starts, steps=steps, every=1, ensemble=bath(kelvin), on_alarm="warn")

    def elements(self, length_ps: float = 100.0, n_copies: int = 16) -> dict[str, Any]:
        """Temperatures of the elements, of copies of the model and of the reference runs that there are."""
        elements, found = self._model().config.elements, {}
        for kelvin in REFERENCES:
            theirs = self._reference_runs(kelvin)
            if theirs:
                run, system = self._copies(kelvin, theirs, length_ps, n_copies), theirs[0].system
                found[f"{kelvin:g} K"] = {
                    "model": stages.temperatures(system, [run[i].frames for i in range(n_copies)], elements),
                    "teacher": stages.temperatures(system, [one.frames for one in theirs], elements),
                    "teacher_ps": round(sum(one.times[-1] for one in theirs) / own_units.PS),
                }
        return found

    def _reference_runs(self, kelvin: float) -> list[Any]:
        return [trajectory.read(path) for path in sorted(self.data_folder.glob(f"{REFERENCES[kelvin][0]}_*.h5"))]

    def watch(self, length_ps: float = 100.0) -> dict[str, Any]:
        """A run whose bonds are watched: transfers that were reported, and those that its frames show."""
        reference = self._reference_runs(KELVIN)[0]
        start = State(reference.frames.positions[0], reference.frames.velocities[0], np.eye(3))
        steps = 200 if self.smoke else round(length_ps * own_units.PS / TIME_STEP_FS)
        out = self.runs / "watched.h5"
        run = ffmd.simulate(
            self._model(), (reference.system, start), steps=steps, every=1, ensemble=bath(), watch_bonds=True,
            out=out, overwrite=True, seed=1,
        )  # fmt: skip
        lines = bonds.describe(run.bond_changes, run.system)
        reported = [line for line in lines if "from O" in line and "to O" in line]
        return {
            "length_ps": steps * TIME_STEP_FS / own_units.PS,
            "transfers_reported": len(reported),
            "transfers_in_the_frames": n_transfers(transfer(np.asarray(run.frames.positions))),
            "other_changes_reported": [line for line in lines if line not in reported],
        }

    def speed(self) -> dict[str, Any]:
        """ns/day of the model and of the teacher at 0.5 fs, in turn, on the cores that this process may use."""
        model, atoms = self._model(), molecule()
        start = ffmd.simulate(model, atoms, steps=1000, ensemble=bath(), progress=False)
        steps, found = (100 if self.smoke else 5000), {"model": [], "teacher": []}
        for turn in range(4):
            began = time.perf_counter()
            ffmd.simulate(model, start, steps=steps, every=10, ensemble=bath(), progress=False)
            took = time.perf_counter() - began
            moving = atoms.copy()
            moving.calc = teachers.make("gfn2-xtb")
            thermalize_momenta(moving, KELVIN, rng=np.random.default_rng(turn))
            teacher = VelocityVerlet(moving, STEP_FS * units.fs)
            teacher.run(20)
            began = time.perf_counter()
            teacher.run(steps // 5)
            of_teacher = time.perf_counter() - began
            if turn:  # the first compiles
                found["model"].append(own_units.ns_per_day(steps * TIME_STEP_FS, took))
                found["teacher"].append(own_units.ns_per_day(steps // 5 * STEP_FS, of_teacher))
        medians = {name: float(np.median(values)) for name, values in found.items()}
        ratio = round(medians["model"] / medians["teacher"], 1)
        return {"ns_per_day": {name: round(x, 2) for name, x in medians.items()}, "times_faster": ratio}

    def _model(self) -> Any:
        trained = self.runs / "model"
        return ffmd.load(trained if (trained / "weights.npz").exists() else "malonaldehyde")


def observed(frames: list[State]) -> dict[str, Any]:
    """Free energy and rates of some runs."""
    along = [transfer(np.asarray(one.positions)) for one in frames]
    length = sum(map(len, along)) * TIME_STEP_FS / own_units.PS
    count, (free, error) = sum(map(n_transfers, along)), profile(along)
    return {
        "length_ps": round(length),
        "transfers": count,
        "rate_per_ps": round(count / length, 4),
        "rate_error_per_ps": round(float(np.sqrt(count) / length), 4),
        "free_energy_kT": numbers(free),
        "free_energy_error_kT": numbers(error),
    }


def differences(of: dict[str, Any]) -> dict[str, Any]:
    """Ratio of the rates with its error, and the largest difference of the free energies where they are below 5 kT."""
    model, teacher = of["model"], of["teacher"]
    rates = {side: max(own["rate_per_ps"], 1e-9) for side, own in of.items()}
    relative = sum(1 / max(own["transfers"], 1) for own in of.values()) ** 0.5
    bins = [
        (abs(a - b), math.hypot(x or 0, y or 0))
        for a, b, x, y in zip(
            model["free_energy_kT"], teacher["free_energy_kT"], model["free_energy_error_kT"],
            teacher["free_energy_error_kT"], strict=True,
        )
        if a is not None and b is not None and b < 5
    ]  # fmt: skip
    ratio = rates["model"] / rates["teacher"]
    return {
        "rate_ratio": round(ratio, 3),
        "rate_ratio_error": round(ratio * relative, 3),
        "largest_difference_kT": round(max(bins)[0], 3),
        "error_there_kT": round(max(bins)[1], 3),
    }


def numbers(values: np.ndarray) -> list[float | None]:
    """For JSON, which has no infinite numbers: None where the proton never was."""
    return [round(float(value), 3) if np.isfinite(value) else None for value in values]


STAGES = ["data", "reference", "train", "evaluate", "rollout", "elements", "watch", "speed"]


if __name__ == "__main__":
    stages.main(__doc__, Stages, STAGES, HERE)
