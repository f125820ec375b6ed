"""Alanine dipeptide, AMBER ff99SB-ILDN with OBC solvent, Δt = 5 fs: from reference runs to the numbers of the card.

    pip install openmm rdkit
    python experiments/alanine_dipeptide/run.py                   # everything
    python experiments/alanine_dipeptide/run.py data train        # only these stages
    python experiments/alanine_dipeptide/run.py --smoke DIR       # small, of no meaning

data: NVE runs to learn from; two thirds start with φ and ψ at the points of a grid, so that barriers and rare basins
are among them.  train: the model, in two trainings.  reference: runs of the teacher at 300 K in two baths.  baths:
rates of these.  evaluate: errors of a step.  rollout: copies of the model's molecule beside the teacher's runs in the
same bath, their map beside that of both baths, too.  same_bath: the same with Langevin friction alone.  speed: model
and teacher in turn.  What was stopped goes on when it is started again.
"""

import copy
import os
import sys
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import openmm
import ramachandran

import ffmd_jax as ffmd
from ffmd_jax.analysis import torsions
from ffmd_jax.core import progress, units
from ffmd_jax.core.state import State
from ffmd_jax.data import dataset, dataset_file
from ffmd_jax.data.dataset_file import Dataset, Group, Run
from ffmd_jax.formats import ase_files, trajectory

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import peptides  # noqa: E402
import stages  # noqa: E402
from peptides import Peptide  # noqa: E402

MOLECULE = peptides.alone(peptides.alanines(1))

KELVIN, FRICTION_TAU_FS = 300.0, 1000.0
FAST_TAU_FS, FAST_ABOVE_PER_CM = 200.0, 1500.0
STEP_FS, FRAME_FS, TIME_STEP_FS = 0.5, 1.0, 5.0
RUN_FS, SPACING_FS, STRIDE_FS = 100.0, 1000.0, 2.0
# Temperature, K, whether φ and ψ are held at points of a grid before the run, and the number of runs to learn from.
SETS = [(300.0, False, 300), (500.0, False, 200), (300.0, True, 700), (500.0, True, 300)]
GRID, HIGHEST_EV = 24, 0.47  # points a turn; those whose relaxed energy is so far above the lowest are left out
BATCH = 4
# Runs side by side of the teacher and of the model, length of the latter, ps, and what is left out at their beginning.
N_WALKERS, N_COPIES, COPY_PS, LEFT_OUT_PS = 8, 32, 251.0, 50.0
WALKERS_PS = {"walker": 1800.0, "fast_walker": 1500.0}  # with Langevin friction alone, and in the bath of the model
KEPT_PS, PIECE_PS = 0.1, 50.0  # between angles that are kept; a piece of a run of the teacher is written at once
SAME_BATH_PS = 110.0  # of the runs of the model in the bath of the teacher
STATES = 10  # pieces of each walker hold so many of their states, for temperatures


class Stages(stages.Folder):
    """The stages."""

    def data(self) -> None:
        """NVE runs from each set of starts; a set that is there is not made again."""
        path = self.data_folder / "nve.h5"
        if path.exists():
            return
        sets = [(kelvin, held, 10) for kelvin, held, _ in SETS[1:3]] if self.smoke else SETS
        system, runs = ase_files.from_atoms(MOLECULE.atoms)[0], []
        for i, (kelvin, held, number) in enumerate(sets):
            part = self.data_folder / f"nve_{i}.h5"
            if not part.exists():
                group = Group(system, self._runs_of(kelvin, held, number, i + 1))
                dataset_file.write(part, Dataset((group,), TIME_STEP_FS, metadata={"sources": [part.stem]}), {})
            runs += dataset_file.read(part).groups[0].runs
        metadata = {"sources": ["AMBER ff99SB-ILDN, OBC"]}
        dataset.write(
            path, Dataset((Group(system, tuple(runs)),), TIME_STEP_FS, STRIDE_FS, n_test=2000, metadata=metadata)
        )

    def _runs_of(self, kelvin: float, held: bool, number: int, seed: int) -> tuple[Run, ...]:
        """Runs from states of Langevin dynamics, each `SPACING_FS` after the one before."""
        rng = np.random.default_rng(seed)
        points = self._grid() if held else []
        free = peptides.context(MOLECULE, peptides.velocity_verlet(STEP_FS))
        warm = peptides.context(held_molecule() if held else MOLECULE, peptides.langevin(kelvin, 50.0, STEP_FS, seed))
        openmm.LocalEnergyMinimizer.minimize(warm)
        warm.setVelocitiesToTemperature(kelvin, seed)
        between = round((20 if self.smoke else SPACING_FS) / STEP_FS)
        n_frames = round((20 if self.smoke else RUN_FS) / FRAME_FS)
        warm.getIntegrator().step(10 * between)
        name, found = f"{kelvin:g} K" + (", held" if held else ""), []
        with progress.progress(number, name, "runs") as bar:
            for i in range(number):
                if points:
                    (phi, psi), places = points[rng.integers(len(points))]
                    warm.setParameter("phi0", phi)
                    warm.setParameter("psi0", psi)
                    warm.setPositions(places / peptides.NM)
                    warm.setVelocitiesToTemperature(kelvin, int(rng.integers(2**30)))
                warm.getIntegrator().step(between)
                split = "test" if i % 10 == 9 else "validation" if i % 10 == 8 else "train"
                found.append(peptides.nve_run(MOLECULE, warm, free, STEP_FS, FRAME_FS, n_frames, split, name))
                bar.update(1)
        return tuple(found)

    def _grid(self) -> list[tuple[tuple[float, float], np.ndarray]]:
        """φ and ψ, rad, and relaxed positions, Å, of the points of the map that a run can come to."""
        own = peptides.context(MOLECULE, openmm.VerletIntegrator(0.001))
        held = peptides.context(held_molecule(), openmm.VerletIntegrator(0.001))
        openmm.LocalEnergyMinimizer.minimize(held)
        angles, found = np.linspace(-np.pi, np.pi, 4 if self.smoke else GRID, endpoint=False), []
        for phi in angles:
            for psi in angles:
                # On foot from the point before: a molecule with a part turned at once may lie on itself.
                held.setParameter("phi0", phi)
                held.setParameter("psi0", psi)
                openmm.LocalEnergyMinimizer.minimize(held, 1.0, 500)
                places = peptides.positions(held)
                own.setPositions(places / peptides.NM)
                found.append(((phi, psi), places, peptides.frame(own)[3]))
        lowest = min(energy for *_, energy in found)
        return [(at, places) for at, places, energy in found if energy < lowest + HIGHEST_EV]

    def train(self) -> dict[str, Any]:
        """Two trainings, the second from the end of the first."""
        architecture = ffmd.Architecture.small(cutoff=4.0, lmax=3, layers=3, channels=8 if self.smoke else 16)
        minutes, init = 0.0, None
        for name, rate, decay in (("before", 0.06, 0.003), ("model", 0.03, 0.0)):
            epochs, out = 1 if self.smoke else 4, self.runs / name
            training = ffmd.Training(batch_size=BATCH, learning_rate=rate, weight_decay=decay, epochs=epochs)
            ffmd.train(
                self.data_folder / "nve.h5", out, training=training, architecture=architecture, init=init,
                resume=(out / "training.json").exists(),
            )  # fmt: skip
            minutes, init = minutes + stages.core_minutes(out), str(out)
        return {"core_minutes": round(minutes)}

    def reference(self) -> None:
        """Runs of the teacher in each bath, in pieces, from states of the runs to learn from."""
        starts = self._starts(N_WALKERS)
        for walker, length_ps in WALKERS_PS.items():
            pieces = 2 if self.smoke else round(length_ps / PIECE_PS)
            # Another seed when the stage goes on.
            context = teacher(walker, 1 + len(list(self.data_folder.glob(f"{walker}_*.npz"))))
            with progress.progress(pieces * len(starts), f"teacher, {walker}", "pieces") as bar:
                for piece in range(pieces):
                    for i, start in enumerate(starts):
                        if not self._path(walker, i, piece).exists():
                            self._piece(context, walker, i, piece, start)
                        bar.update(1)

    def _path(self, walker: str, i: int, piece: int) -> Path:
        return self.data_folder / f"{walker}_{i}_{piece:04d}.npz"

    def _piece(self, context: openmm.Context, walker: str, i: int, piece: int, start: State) -> None:
        """A piece of a run of the teacher, from the end of the one before."""
        steps, n_frames = round(KEPT_PS * units.PS / STEP_FS), 12 if self.smoke else round(PIECE_PS / KEPT_PS)
        if piece:
            with np.load(self._path(walker, i, piece - 1)) as before:
                start = State(before["positions"][-1], before["velocities"][-1], np.eye(3))
        context.setPositions(start.positions / peptides.NM)
        context.setVelocities(start.velocities * units.PS / peptides.NM)
        places, moving = [], []
        for frame in range(n_frames):
            context.getIntegrator().step(steps)
            places.append(peptides.positions(context))
            if frame % (n_frames // STATES) == n_frames // STATES - 1:
                moving.append(peptides.frame(context)[:2])
        phi, psi = angles(np.array(places))
        r, v = (np.array(values) for values in zip(*moving, strict=True))
        found = {"phi": phi.astype(np.float32), "psi": psi.astype(np.float32), "positions": r, "velocities": v}
        path = self._path(walker, i, piece)
        np.savez(path.with_suffix(".part.npz"), **found)
        path.with_suffix(".part.npz").rename(path)

    def _starts(self, number: int) -> list[State]:
        """Last states of runs to learn from, at 300 K, that were not held."""
        runs = dataset_file.read(self.data_folder / f"nve_{1 if self.smoke else 0}.h5").groups[0].runs
        chosen = [runs[i] for i in np.linspace(0, len(runs) - 1, number).astype(int)]
        return [State(run.frames.positions[-1], run.frames.velocities[-1], np.eye(3)) for run in chosen]

    def baths(self) -> dict[str, Any]:
        """Populations and rates of the teacher with Langevin friction alone, and in the bath of the model."""
        left_out, found = 0 if self.smoke else round(LEFT_OUT_PS / KEPT_PS), {}
        for walker in WALKERS_PS:
            phi, psi = (of[:, left_out:] for of in self._walkers(walker)[0])
            halves = [
                ramachandran.observed(phi[part], psi[part], KEPT_PS) for part in (slice(0, None, 2), slice(1, None, 2))
            ]
            found[walker] = {**ramachandran.observed(phi, psi, KEPT_PS), "halves": halves}
        return found

    def evaluate(self) -> dict[str, Any]:
        """Errors of one step on the test runs, of each set of starts."""
        return stages.errors(self._model(), self.data_folder / "nve.h5")

    def rollout(self) -> dict[str, Any]:
        """Copies of the model's molecule beside the teacher's: maps, basins, rates, temperatures."""
        model, system = self._model(), ase_files.from_atoms(MOLECULE.atoms)[0]
        every = round(KEPT_PS * units.PS / TIME_STEP_FS)
        steps, n_copies = (2 * every * STATES, 2) if self.smoke else (round(COPY_PS / KEPT_PS) * every, N_COPIES)
        frames, alarms = self._run_model("copies", self._starts(n_copies), steps, bath())
        left_out = 0 if self.smoke else round(LEFT_OUT_PS / KEPT_PS)
        ours = self._angles(frames)
        theirs, states = self._walkers("fast_walker")
        sides = {
            side: (phi[:, left_out:], psi[:, left_out:]) for side, (phi, psi) in (("model", ours), ("teacher", theirs))
        }
        first, second = ((phi[part], psi[part]) for part in (slice(0, None, 2), slice(1, None, 2))
                         for phi, psi in [sides["teacher"]])  # fmt: skip
        # The map does not depend on the bath, so that the runs of both together are the better reference of it.
        baths = [self._walkers(walker)[0] for walker in WALKERS_PS]
        last = min(of[0].shape[1] for of in baths)
        both = tuple(np.concatenate([of[i][:, left_out:last] for of in baths]) for i in (0, 1))
        found: dict[str, Any] = {
            "alarms": alarms,
            **ramachandran.compared(sides["model"], sides["teacher"]),
            "both_baths": {**ramachandran.compared(sides["model"], both), **ramachandran.observed(*both, KEPT_PS)},
            **{side: ramachandran.observed(*own, KEPT_PS) for side, own in sides.items()},
            "halves_of_the_teacher": [ramachandran.observed(*own, KEPT_PS) for own in (first, second)],
        }
        for side, own in (("model", frames), ("teacher", states)):
            found[side]["temperature_by_element_K"] = stages.temperatures(system, own, model.config.elements)
        titles = (f"{side}, {own['length_ns']:.0f} ns" for side, own in found.items() if side in sides)
        figure = ramachandran.figure(dict(zip(titles, sides.values(), strict=True)))
        figure.savefig(self.folder / "ramachandran.png", dpi=110)
        return found

    def _run_model(
        self, name: str, starts: list[State], steps: int, ensemble: ffmd.NVT
    ) -> tuple[list[State], list[str]]:
        """Frames of copies of the model's molecule, and the alarms; a run that was stopped goes on."""
        system, out = ase_files.from_atoms(MOLECULE.atoms)[0], self.runs / f"{name}.h5"
        every = round(KEPT_PS * units.PS / TIME_STEP_FS)
        run = ffmd.simulate(
            self._model(), [(system, start) for start in starts], steps=steps, every=every, ensemble=ensemble,
            on_alarm="warn", out=out, resume=True,
        )  # fmt: skip
        frames = [trajectory.read(f"{out}:{i}").frames for i in range(len(starts))]
        return frames, [alarm.text for of_one in run.alarms for alarm in of_one]

    def _angles(self, frames: list[State]) -> tuple[np.ndarray, np.ndarray]:
        phi, psi = zip(*(angles(np.asarray(one.positions)) for one in frames), strict=True)
        return np.stack(phi), np.stack(psi)

    def _walkers(self, walker: str) -> tuple[tuple[np.ndarray, np.ndarray], list[State]]:
        """Angles, rad, of the teacher's runs, ``[n_runs, n_frames]``, and some states of each."""
        pieces = [sorted(self.data_folder.glob(f"{walker}_{i}_????.npz")) for i in range(N_WALKERS)]
        n_pieces = min(map(len, pieces))
        each = [[dict(np.load(path)) for path in of[:n_pieces]] for of in pieces]
        joined = [{key: np.concatenate([one[key] for one in of]) for key in of[0]} for of in each]
        states = [State(one["positions"], one["velocities"], np.eye(3)) for one in joined]
        return (np.stack([one["phi"] for one in joined]), np.stack([one["psi"] for one in joined])), states

    def same_bath(self) -> dict[str, Any]:
        """Copies of the model's molecule with the teacher's Langevin friction alone."""
        every = round(KEPT_PS * units.PS / TIME_STEP_FS)
        steps, n_copies = (2 * every * STATES, 2) if self.smoke else (round(SAME_BATH_PS / KEPT_PS) * every, N_COPIES)
        langevin = ffmd.NVT(KELVIN, FRICTION_TAU_FS, thermostat="langevin")
        frames, alarms = self._run_model("same_bath", self._starts(n_copies), steps, langevin)
        left_out = 0 if self.smoke else round(LEFT_OUT_PS / KEPT_PS)
        phi, psi = self._angles(frames)
        ours, theirs = ((of[0][:, left_out:], of[1][:, left_out:]) for of in ((phi, psi), self._walkers("walker")[0]))
        model, system = self._model(), ase_files.from_atoms(MOLECULE.atoms)[0]
        return {
            "alarms": alarms,
            **ramachandran.compared(ours, theirs),
            "model": ramachandran.observed(*ours, KEPT_PS),
            "temperature_by_element_K": stages.temperatures(system, frames, model.config.elements),
        }

    def speed(self) -> dict[str, Any]:
        """ns/day of the model, one copy and many, and of the teacher at 0.5 fs, in turn, on one core."""
        model, system = self._model(), ase_files.from_atoms(MOLECULE.atoms)[0]
        context = teacher("walker", 1)
        n_steps, many = 200 if self.smoke else 4000, 2 if self.smoke else 32

        def ours(number: int, steps: int) -> None:
            copies = [(system, one) for one in self._starts(number)]
            given: Any = copies if number > 1 else copies[0]
            ffmd.simulate(model, given, steps=steps, every=20, ensemble=bath(), on_alarm="warn", progress=False)

        sides = {
            "model": (lambda: ours(1, n_steps), n_steps * TIME_STEP_FS),
            "model_of_32_copies": (lambda: ours(many, n_steps // 10), n_steps // 10 * many * TIME_STEP_FS),
            "teacher": (lambda: context.getIntegrator().step(10 * n_steps), 10 * n_steps * STEP_FS),
        }
        found = stages.speeds(sides)
        return {"ns_per_day": {name: round(float(np.median(values)), 1) for name, values in found.items()}}

    def _model(self) -> Any:
        trained = self.runs / "model"
        return ffmd.load(trained if (trained / "weights.npz").exists() else "alanine-dipeptide")


def teacher(walker: str, seed: int) -> openmm.Context:
    """Langevin dynamics of the teacher; for a "fast_walker" with the model's friction on fast vibrations."""
    if walker == "walker":
        return peptides.context(MOLECULE, peptides.langevin(KELVIN, FRICTION_TAU_FS, STEP_FS, seed))
    both = peptides.fast_langevin(KELVIN, FRICTION_TAU_FS, FAST_TAU_FS, FAST_ABOVE_PER_CM, STEP_FS, seed)
    context = peptides.context(MOLECULE, both)
    peptides.set_partners(context, KELVIN, MOLECULE.atoms.get_masses(), seed)
    return context


def bath() -> ffmd.NVT:
    """Langevin friction, and friction on the fast vibrations that the model feeds."""
    return ffmd.NVT(
        KELVIN, FRICTION_TAU_FS, "langevin", friction_tau_fs=FAST_TAU_FS, friction_above_per_cm=FAST_ABOVE_PER_CM
    )


def held_molecule() -> Peptide:
    """The molecule with springs on φ and ψ to the context's parameters phi0 and psi0, rad."""
    system = copy.deepcopy(MOLECULE.system)
    for name, four in (("phi0", MOLECULE.phi[0]), ("psi0", MOLECULE.psi[0])):
        spring = openmm.CustomTorsionForce(f"200*(1-cos(theta-{name}))")  # kJ/mol
        spring.addGlobalParameter(name, 0.0)
        spring.addTorsion(*four.tolist(), [])
        system.addForce(spring)
    return MOLECULE._replace(system=system)


def angles(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """φ and ψ, rad ``[n_frames]``, of positions ``[n_frames, n_atoms, 3]``."""
    return torsions.angles(positions, tuple(MOLECULE.phi[0])), torsions.angles(positions, tuple(MOLECULE.psi[0]))


STAGES = ["data", "train", "reference", "baths", "evaluate", "rollout", "same_bath", "speed"]


if __name__ == "__main__":
    stages.main(__doc__, Stages, STAGES, HERE)
