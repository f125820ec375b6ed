"""Deca-alanine, AMBER ff99SB-ILDN, Δt = 5 fs, in implicit water and among water molecules: data to numbers.

    pip install openmm rdkit
    python experiments/deca_alanine/run.py                   # everything
    python experiments/deca_alanine/run.py data train        # only these stages
    python experiments/deca_alanine/run.py --smoke DIR       # small, of no meaning

In implicit water (OBC).  data: NVE runs of two lengths of the peptide, from a helix and from the extended chain.
train: from the weights of alanine-dipeptide.  reference, rollout: the teacher and the model from both shapes.
Among SPC/Fw molecules.  water_data: NVE runs of shorter peptides in boxes of some 500 atoms.  water_train: one model of
these, from the weights of water.  water_reference, water_rollout: the helix of ten residues among 1,000 atoms.
evaluate: errors of a step of both.  speed: ns/day of models and teacher in turn.  What was
stopped goes on when it is started again.
"""

import copy
import dataclasses
import functools
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = os.environ["OPENMM_CPU_THREADS"] = "1"

import numpy as np
import observables
import openmm

import ffmd_jax as ffmd
from ffmd_jax.analysis import diffusion, distributions
from ffmd_jax.core import progress, units
from ffmd_jax.core.state import State
from ffmd_jax.data import dataset, dataset_file
from ffmd_jax.data.dataset_file import Dataset, Group, Run
from ffmd_jax.formats import ase_files, trajectory
from ffmd_jax.formats.trajectory import Trajectory
from ffmd_jax.screening import shapes

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import peptides  # noqa: E402
import stages  # noqa: E402
from peptides import EXTENDED, HELIX, Peptide  # noqa: E402

KELVIN, BAR, TIME_STEP_FS, STEP_FS, WARM_STEP_FS = 300.0, 1.0, 5.0, 0.5, 1.0
RUN_FS, FRAME_FS, EQUILIBRATE_PS = 100.0, 5.0, 20.0
SPACING_FS = {"implicit": 300.0, "water": 1000.0}  # between the starts of runs to learn from
POLYPROLINE = (-75.0, 145.0)  # φ and ψ, degrees
EDGE, SMALL_EDGE = 23.5, 20.5  # Å, of cubes that water fills; a barostat makes them smaller
N_RESIDUES, FRICTION_TAU_FS = 10, 1000.0  # of the peptide and of the runs that are compared
SHAPES = {"folded": HELIX, "unfolded": EXTENDED}
COPIES, COPY_PS, WATER_PS = {"folded": 4, "unfolded": 4, "water": 1}, 100.0, 110.0
KEPT_PS, PIECE_PS = 0.1, 10.0  # between frames that are kept; a piece of a run of the teacher is written at once
SHIPPED = {"implicit": "deca-alanine", "water": "deca-alanine-water"}


class Starts(NamedTuple):
    """NVE runs to learn from.

    Attributes:
        n_residues, shape, kelvin: of the Langevin dynamics whose states they start from.
        number: of runs.
    """

    n_residues: int
    shape: tuple[float, float]
    kelvin: float
    number: int


IMPLICIT = [
    Starts(10, HELIX, 300.0, 300), Starts(10, EXTENDED, 300.0, 300), Starts(10, HELIX, 500.0, 300),
    Starts(10, EXTENDED, 500.0, 500), Starts(5, EXTENDED, 500.0, 200),
]  # fmt: skip
WATER = [
    Starts(5, HELIX, 300.0, 80), Starts(5, HELIX, 350.0, 80), Starts(3, EXTENDED, 300.0, 60),
    Starts(3, POLYPROLINE, 350.0, 60), Starts(3, HELIX, 300.0, 60),
]  # fmt: skip


class Stages(stages.Folder):
    """The stages."""

    def data(self) -> None:
        """NVE runs of the peptide in implicit water."""
        self._data("implicit", IMPLICIT)

    def water_data(self) -> None:
        """NVE runs of shorter peptides among water molecules, in cells of Langevin dynamics at constant pressure."""
        self._data("water", WATER)

    def _data(self, name: str, each: list[Starts]) -> None:
        """A dataset of runs from all starts; those that are there are not made again."""
        path, groups = self.data_folder / f"{name}.h5", []
        if path.exists():
            return
        for i, starts in enumerate(each):
            part = self.data_folder / f"{name}_{i}.h5"
            if not part.exists():
                starts = starts._replace(n_residues=1, number=10) if self.smoke else starts
                peptide = _peptide(name, starts.n_residues, starts.shape, SMALL_EDGE)
                system = ase_files.from_atoms(peptide.atoms)[0]
                found = Dataset((Group(system, self._runs_of(peptide, starts, SPACING_FS[name], i + 1)),), TIME_STEP_FS)
                dataset_file.write(part, found, {})
            groups += dataset_file.read(part).groups
        sources = ["AMBER ff99SB-ILDN, " + ("OBC" if name == "implicit" else "SPC/Fw")]
        dataset.write(path, Dataset(tuple(groups), TIME_STEP_FS, n_test=1000, metadata={"sources": sources}))

    def _runs_of(self, peptide: Peptide, starts: Starts, spacing_fs: float, seed: int) -> tuple[Run, ...]:
        """Runs from states of Langevin dynamics, each ``spacing_fs`` after the one before."""
        free = peptides.context(peptide, peptides.velocity_verlet(STEP_FS))
        warm = self._warm(peptide, starts.kelvin, seed)
        between = round((20 if self.smoke else spacing_fs) / WARM_STEP_FS)
        n_frames = round((20 if self.smoke else RUN_FS) / FRAME_FS)
        name, found = f"{starts.n_residues} residues, {starts.shape[0]:g}°, {starts.kelvin:g} K", []
        with progress.progress(starts.number, name, "runs") as bar:
            for i in range(starts.number):
                warm.getIntegrator().step(between)
                split = "test" if i % 10 == 9 else "validation" if i % 10 == 8 else "train"
                found.append(peptides.nve_run(peptide, warm, free, STEP_FS, FRAME_FS, n_frames, split, name))
                bar.update(1)
        return tuple(found)

    def _warm(self, peptide: Peptide, kelvin: float, seed: int) -> openmm.Context:
        """Langevin dynamics, in a cell at constant pressure, some time after its start."""
        system = copy.deepcopy(peptide.system)
        if peptide.atoms.pbc.any():
            barostat = openmm.MonteCarloBarostat(BAR, kelvin, 25)
            barostat.setRandomNumberSeed(seed)
            system.addForce(barostat)
        warm = peptides.context(
            peptide._replace(system=system), peptides.langevin(kelvin, 100.0, WARM_STEP_FS, seed)
        )  # fmt: skip
        openmm.LocalEnergyMinimizer.minimize(warm, 10.0)
        warm.setVelocitiesToTemperature(kelvin, seed)
        length = 0.1 if self.smoke else EQUILIBRATE_PS if peptide.atoms.pbc.any() else 2.0
        warm.getIntegrator().step(round(length * units.PS / WARM_STEP_FS))
        return warm

    def train(self) -> dict[str, Any]:
        """The model of the peptide in implicit water."""
        return self._train("implicit", "alanine-dipeptide", ffmd.Training(batch_size=2, learning_rate=0.04, epochs=8))

    def water_train(self) -> dict[str, Any]:
        """The model of the peptide among water molecules."""
        return self._train("water", "water", ffmd.Training(batch_size=1, learning_rate=0.03, epochs=1))

    def _train(self, name: str, init: str, training: ffmd.Training) -> dict[str, Any]:
        out, data = self.runs / name, self.data_folder / f"{name}.h5"
        begun = (out / "training.json").exists()
        training = dataclasses.replace(training, epochs=1) if self.smoke else training
        ffmd.train(data, out, training=training, init=init, resume=begun)
        return {"core_minutes": round(stages.core_minutes(out))}

    def reference(self) -> None:
        """Runs of the teacher in implicit water, from the helix and from the extended chain."""
        for name, shape in SHAPES.items():
            self._run_teacher(name, self._starts("implicit", name, shape, COPIES[name]), COPY_PS)

    def water_reference(self) -> None:
        """The same of the helix among water molecules."""
        self._run_teacher("water", self._starts("water", "water", HELIX, COPIES["water"]), WATER_PS)

    def rollout(self) -> dict[str, Any]:
        """Runs of the model in implicit water beside those of the teacher."""
        found: dict[str, Any] = {}
        curves: dict[str, dict[str, np.ndarray]] = {}
        for name, shape in SHAPES.items():
            peptide, starts = (
                _peptide("implicit", N_RESIDUES, shape, EDGE),
                self._starts("implicit", name, shape, COPIES[name]),
            )
            ours, alarms = self._run_model("implicit", name, peptide, starts, COPY_PS, peptide_bath())
            found[name] = {"alarms": alarms}
            for side, states in (("model", ours), ("teacher", self._of_teacher(name))):
                if states:
                    seen = quantities(peptide, np.stack([np.asarray(one.positions) for one in states]))
                    curves[f"{name}, {side}"] = seen
                    found[name][side] = self._summary(peptide, states, seen)
        figure = observables.figure(curves, KEPT_PS)
        figure.savefig(self.folder / "helix.png", dpi=110)
        return found

    def water_rollout(self) -> dict[str, Any]:
        """A run of the model among water molecules beside that of the teacher."""
        starts = self._starts("water", "water", HELIX, COPIES["water"])
        peptide, found = _peptide("water", N_RESIDUES, HELIX, EDGE), {}
        ours, alarms = self._run_model("water", "water", peptide, starts, WATER_PS, water_bath())
        cell = np.asarray(starts[0].cell)
        found = {"alarms": alarms, "n_atoms": len(peptide.atoms), "edge_A": round(float(cell[0, 0]), 3)}
        for side, states in (("model", ours), ("teacher", self._of_teacher("water"))):
            if states:
                places, n_peptide = np.stack([np.asarray(one.positions) for one in states]), 12 + 10 * N_RESIDUES
                seen = quantities(peptide, places[..., :n_peptide, :])
                edges = np.full(len(places), cell[0, 0])
                bonds = observables.bonds_with_water(places, edges, peptide.atoms.numbers, n_peptide)
                seen["hydrogen bonds of its oxygens with water"] = bonds
                found[side] = {**self._summary(peptide, states, seen), **self._liquid(peptide, states[0], n_peptide)}
        return found

    def _liquid(self, peptide: Peptide, states: State, n_peptide: int) -> dict[str, Any]:
        """Diffusion of the oxygen of water, and the first peak of its g(r)."""
        part = slice(n_peptide, None)
        system = ase_files.from_atoms(peptide.atoms[part])[0]
        frames = State(states.positions[:, part], states.velocities[:, part], states.cell)
        run = Trajectory(system, frames, KEPT_PS * units.PS * np.arange(1, len(frames.positions) + 1), {}, {})
        if len(run.times) < 8:  # an alarm ended it
            return {}
        coefficient = diffusion.diffusion_coefficient(diffusion.mean_square_displacement(run, 8))
        shells = distributions.radial_distribution(run, (8, 8))
        peak = int(np.argmax(shells.g))
        return {
            "water_diffusion_1e-9_m2_per_s": [round(1e5 * value, 3) for value in coefficient],
            "g_of_oxygens_peak": [round(float(shells.r_A[peak]), 3), round(float(shells.g[peak]), 3)],
            "g_of_oxygens": np.round(shells.g, 4).tolist(),
        }

    def _summary(self, peptide: Peptide, states: list[State], seen: dict[str, np.ndarray]) -> dict[str, Any]:
        system, elements = ase_files.from_atoms(peptide.atoms)[0], tuple(sorted(set(peptide.atoms.numbers.tolist())))
        return {
            "runs": len(states),
            "length_ps": round(KEPT_PS * len(states[0].positions), 1),
            "means_of_the_second_half": observables.summary(seen),
            "temperature_by_element_K": stages.temperatures(system, states, elements),
        }

    def _starts(self, solvent: str, name: str, shape: tuple[float, float], number: int) -> list[State]:
        """States soon after a start from the shape, the same for the teacher and the model, kept in a file."""
        path = self.data_folder / f"starts_{name}.npz"
        if not path.exists():
            peptide = _peptide(solvent, N_RESIDUES, shape, EDGE)
            found = [self._start(peptide, 100 + i) for i in range(2 if self.smoke and number > 1 else number)]
            arrays = {key: np.array([getattr(one, key) for one in found]) for key in State._fields}
            np.savez(path, **arrays)
        with np.load(path) as arrays:
            return [State(*each) for each in zip(*(arrays[key] for key in State._fields), strict=True)]

    def _start(self, peptide: Peptide, seed: int) -> State:
        """A state of Langevin dynamics; among water, in a cell whose volume is near the mean at constant pressure."""
        warm, seen = self._warm(peptide, KELVIN, seed), []
        for _ in range(2 if self.smoke else 40 if peptide.atoms.pbc.any() else 1):
            warm.getIntegrator().step(20 if self.smoke else 500)
            cell = peptides.cell(warm) if peptide.atoms.pbc.any() else np.eye(3)
            seen.append(State(*peptides.frame(warm)[:2], cell))
        volumes = np.array([np.linalg.det(one.cell) for one in seen])
        return seen[int(np.argmin(np.abs(volumes - volumes.mean())))]

    def _run_teacher(self, name: str, starts: list[State], length_ps: float) -> None:
        """Langevin runs of the teacher from each start, in pieces; pieces that are there are not made again."""
        pieces, seed = 2 if self.smoke else round(length_ps / PIECE_PS), 1 + len(list(self.data_folder.glob("run_*")))
        peptide = _peptide("water" if name == "water" else "implicit", N_RESIDUES, SHAPES.get(name, HELIX), EDGE)
        context = peptides.context(peptide, peptides.langevin(KELVIN, FRICTION_TAU_FS, STEP_FS, seed))
        with progress.progress(pieces * len(starts), f"teacher, {name}", "pieces") as bar:
            for i, start in enumerate(starts):
                for piece in range(pieces):
                    if not self._path(name, i, piece).exists():
                        self._piece(context, name, i, piece, start)
                    bar.update(1)

    def _path(self, name: str, i: int, piece: int) -> Path:
        return self.data_folder / f"run_{name}_{i}_{piece:03d}.npz"

    def _piece(self, context: openmm.Context, name: str, i: int, piece: int, start: State) -> None:
        """A piece of a run of the teacher, from the end of the one before."""
        if piece:
            with np.load(self._path(name, i, piece - 1)) as before:
                start = State(before["positions"][-1], before["velocities"][-1], start.cell)
        if name == "water":
            context.setPeriodicBoxVectors(*(np.asarray(start.cell) / peptides.NM))
        context.setPositions(np.asarray(start.positions) / peptides.NM)
        context.setVelocities(np.asarray(start.velocities) * units.PS / peptides.NM)
        seen = []
        for _ in range(4 if self.smoke else round(PIECE_PS / KEPT_PS)):
            context.getIntegrator().step(round(KEPT_PS * units.PS / STEP_FS))
            seen.append(peptides.frame(context)[:2])
        r, v = (np.array(values) for values in zip(*seen, strict=True))
        path = self._path(name, i, piece)
        np.savez(path.with_suffix(".part.npz"), positions=r, velocities=v)
        path.with_suffix(".part.npz").rename(path)

    def _of_teacher(self, name: str) -> list[State]:
        """Frames of the teacher's runs, as far as all of them are; none, if there are no runs."""
        pieces = [sorted(self.data_folder.glob(f"run_{name}_{i}_???.npz")) for i in range(COPIES[name])]
        pieces = [own[: min(map(len, filter(None, pieces)))] for own in pieces if own]
        cell = self._starts("", name, HELIX, 0)[0].cell if pieces else np.eye(3)
        found = []
        for own in pieces:
            each = [dict(np.load(path)) for path in own]
            r, v = (np.concatenate([one[key] for one in each]) for key in ("positions", "velocities"))
            found.append(State(r, v, np.broadcast_to(cell, (len(r), 3, 3))))
        return found

    def _run_model(
        self, model: str, name: str, peptide: Peptide, starts: list[State], length_ps: float, bath: ffmd.NVT
    ) -> tuple[list[State], list[str]]:
        """Frames of runs of the model, and the alarms; a run that was stopped goes on."""
        system, out = ase_files.from_atoms(peptide.atoms)[0], self.runs / f"{name}.h5"
        every = round(KEPT_PS * units.PS / TIME_STEP_FS)
        steps = 8 * every if self.smoke else round(length_ps / KEPT_PS) * every
        given: Any = [(system, start) for start in starts]
        run = ffmd.simulate(
            self._model(model), given if len(given) > 1 else given[0], steps=steps, every=every, ensemble=bath,
            on_alarm="warn", out=out, resume=True,
        )  # fmt: skip
        if len(given) == 1:
            return [trajectory.read(out).frames], [alarm.text for alarm in run.alarms]
        frames = [trajectory.read(f"{out}:{i}").frames for i in range(len(starts))]
        return frames, [alarm.text for of_one in run.alarms for alarm in of_one]

    def evaluate(self) -> dict[str, Any]:
        """Errors of a step on the test runs of both datasets, of each group of them."""
        found = {}
        for name in ("implicit", "water"):
            data = dataset_file.read(self.data_folder / f"{name}.h5")
            for group in data.groups:
                of = ffmd.evaluate(self._model(name), dataclasses.replace(data, groups=(group,)))
                found[f"{name}: {group.runs[0].source}"] = {
                    "displacements_percent": round(float(of.displacement_percent), 3),
                    "velocities_percent": round(float(of.velocity_percent), 3),
                }
        return found

    def speed(self) -> dict[str, Any]:
        """ns/day of the models and of the teacher, in turn, on one core."""
        found = {}
        for solvent, name, bath, n_steps, n_teacher in (
            ("implicit", "folded", peptide_bath(), 2000, 400), ("water", "water", water_bath(), 100, 100)
        ):  # fmt: skip
            start, peptide = self._starts(solvent, name, HELIX, 1)[0], _peptide(solvent, N_RESIDUES, HELIX, EDGE)
            context = peptides.context(peptide, peptides.langevin(KELVIN, FRICTION_TAU_FS, STEP_FS, 1))
            given, model = (ase_files.from_atoms(peptide.atoms)[0], start), self._model(solvent)
            ours = functools.partial(
                ffmd.simulate, model, given, steps=n_steps, every=20, ensemble=bath, on_alarm="warn", progress=False
            )
            theirs = functools.partial(context.getIntegrator().step, n_teacher)
            sides = {"model": (ours, n_steps * TIME_STEP_FS), "teacher": (theirs, n_teacher * STEP_FS)}
            each = stages.speeds(sides, 1 if self.smoke else 3).items()
            found[solvent] = {"atoms": len(peptide.atoms)} | {side: round(float(np.median(x)), 2) for side, x in each}
        return {"ns_per_day": found}

    def _model(self, name: str) -> Any:
        trained = self.runs / name
        return ffmd.load(trained if (trained / "weights.npz").exists() else SHIPPED[name])


def _peptide(solvent: str, n_residues: int, shape: tuple[float, float], edge: float) -> Peptide:
    """Alanines in implicit water, or in a cube of ``edge`` Å of water molecules."""
    smiles = peptides.alanines(n_residues)
    return peptides.alone(smiles, shape) if solvent == "implicit" else peptides.in_water(smiles, edge, shape)


def peptide_bath() -> ffmd.NVT:
    """The teacher's Langevin friction, and friction on the fast vibrations that the model feeds."""
    return ffmd.NVT(KELVIN, FRICTION_TAU_FS, "langevin", friction_tau_fs=200.0, friction_above_per_cm=1500.0)


def water_bath() -> ffmd.NVT:
    """What the shipped model of water runs with: friction as the teacher's, and CSVR."""
    return ffmd.NVT(KELVIN, 50.0, friction_tau_fs=FRICTION_TAU_FS)


def quantities(peptide: Peptide, places: np.ndarray) -> dict[str, np.ndarray]:
    """What is compared of the peptide, each ``[n_runs, n_frames]``; places are Å, of the peptide's atoms alone."""
    atoms = peptide.atoms[: places.shape[-2]]
    system = ase_files.from_atoms(atoms)[0]
    phi, psi = observables.angles(places, peptide.phi), observables.angles(places, peptide.psi)
    return {
        "part of residues in a helix": observables.helical(phi, psi),
        "hydrogen bonds of the helix": observables.turns(places, *observables.backbone(atoms.numbers, places[0, 0])),
        "radius of gyration / Å": np.stack([shapes.radius_of_gyration(system, run) for run in places]),
    }


STAGES = [
    "data", "train", "reference", "rollout",
    "water_data", "water_train", "water_reference", "water_rollout", "evaluate", "speed",
]  # fmt: skip


if __name__ == "__main__":
    stages.main(__doc__, Stages, STAGES, HERE)
