"""Copper in α-CuI, a superionic conductor, CHGNet, Δt = 30 fs: from reference runs to the numbers of the model's card.

    pip install chgnet
    python experiments/copper_iodide/run.py                     # everything
    python experiments/copper_iodide/run.py data train          # only these stages
    python experiments/copper_iodide/run.py --smoke DIR         # small, of no meaning

data: NVE runs at two temperatures, to learn from and to compare with.  time_steps: short trainings with several Δt.
train: the model.  evaluate: errors of a step.  rollout: copies of the model's crystal at each temperature beside the
teacher's runs: diffusion, its activation energy, spectra, structure.  speed: model and teacher in turn.  figure: D of
both.  What was stopped goes on when it is started again.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import conduction
import numpy as np
from ase import Atoms
from ase import units as ase_units
from ase.build import bulk
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

import ffmd_jax as ffmd
from ffmd_jax.core import units
from ffmd_jax.core.state import State, take
from ffmd_jax.data import dataset
from ffmd_jax.data.dataset_file import Dataset, Group, Run
from ffmd_jax.formats import ase_files, trajectory
from ffmd_jax.formats.trajectory import Trajectory
from ffmd_jax.reference_md import teachers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import stages  # noqa: E402

CELL_A, REPEAT = 6.15, 2
KELVINS = (600.0, 525.0)
# Temperature, K, runs, their length and the equilibration before them, ps; each set begins with the last state of the
# one before.  The last is learned from only: the hotter the crystal, the more often copper is on its way.
SETS = ((600.0, 5, 12.0, 6.0), (525.0, 5, 12.0, 3.0), (700.0, 3, 10.0, 1.5))
SPACING_PS = 0.5
STEP_FS, TIME_STEP_FS, STRIDE_FS = 10.0, 30.0, 10.0  # of the teacher, whose steps are all kept; of the model; of pairs
TRIALS_FS, TRIAL_EPOCHS, TRIAL_PS = (40.0, 60.0), 3, 100.0
TAU_FS = 100.0  # of CSVR
N_COPIES, COPY_PS = 8, 60.0
KEPT_FS = (
    240.0  # between frames that are kept, but for spectra and g(r); a tenth of each run is left out at its beginning
)
STEPWISE_PS = 22.0  # of the runs for these
FIRST_EPOCHS, SECOND_EPOCHS = 8, 4
BETWEEN_PS = (1.0, 5.0)  # lags of the slope that is D, as the teacher's runs allow


def crystal(repeat: int = REPEAT) -> Atoms:
    """Cubes with iodine at the places of fcc and copper in every second tetrahedron."""
    return bulk("ICu", "zincblende", a=CELL_A, cubic=True).repeat(repeat)


class Stages(stages.Folder):
    """The stages."""

    def data(self) -> None:
        """NVE runs at each temperature; the last of five validates and tests, a half each."""
        path, start, runs = self.data_folder / "nve.h5", crystal(), []
        if path.exists():
            return
        for kelvin, number, length_ps, equilibrate_ps in SETS:
            files = ffmd.reference(
                "ase", self.data_folder / f"nve_{kelvin:g}.h5", start=start, calculator="chgnet", dt=STEP_FS,
                temperature_K=kelvin, runs=number, length_ps=0.3 if self.smoke else length_ps, frame_fs=STEP_FS,
                equilibrate_ps=0.1 if self.smoke else equilibrate_ps, spacing_ps=0.1 if self.smoke else SPACING_PS,
                seed=round(kelvin), resume=True,
            )  # fmt: skip
            start = str(files[-1])
            found = [trajectory.read(file) for file in files]
            held = found.pop() if kelvin in KELVINS else None
            runs += [part_of(run, "train", kelvin) for run in found]
            if held is not None:
                middle = len(held.times) // 2
                runs += [part_of(held, "validation", kelvin, 0, middle), part_of(held, "test", kelvin, middle)]
        group = Group(trajectory.read(start).system, tuple(runs))
        dataset.write(
            path, Dataset((group,), TIME_STEP_FS, STRIDE_FS, n_test=1000, metadata={"sources": ["CHGNet, NVE"]})
        )

    def time_steps(self) -> dict[str, Any]:
        """Short trainings on the hottest runs for several Δt, as many steps each, and what runs of these are like."""
        kelvin, found = KELVINS[0], {}
        files = sorted(self.data_folder.glob(f"nve_{kelvin:g}_?.h5"))
        data = ffmd.make_dataset(files, TIME_STEP_FS, stride_fs=STRIDE_FS, n_train=1500, n_test=500, progress=False)
        training = ffmd.Training(batch_size=2, learning_rate=0.06, epochs=1 if self.smoke else TRIAL_EPOCHS)
        for step in TRIALS_FS[1:] if self.smoke else TRIALS_FS:
            name, starts = f"trial_{step:g}", self._starts(kelvin, N_COPIES)
            self._trained(data, name, training, step)
            model = ffmd.load(self.runs / name)
            errors = ffmd.evaluate(model, data)
            found[f"{step:g} fs"] = {
                "displacements_percent": round(float(errors.displacement_percent), 2),
                "velocities_percent": round(float(errors.velocity_percent), 2),
                **self._observed(model, f"{name}_{kelvin:g}", starts, TRIAL_PS, ffmd.NVT(kelvin, 500.0)),
            }
        return found

    def _trained(self, data: Any, name: str, training: ffmd.Training, step: float, init: Path | None = None) -> float:
        """Core-minutes."""
        out = self.runs / name
        small = ffmd.Architecture.small(cutoff=5.5, layers=3, channels=8 if self.smoke else 16)
        begun = (out / "training.json").exists()
        ffmd.train(
            data, out, training=training, architecture=small, init=init, time_step_fs=step, resume=begun
        )  # fmt: skip
        return stages.core_minutes(out)

    def train(self) -> dict[str, Any]:
        """The model, in two trainings, the second at a smaller rate."""
        first = ffmd.Training(batch_size=2, learning_rate=0.06, epochs=1 if self.smoke else FIRST_EPOCHS)
        second = ffmd.Training(batch_size=2, learning_rate=0.04, epochs=1 if self.smoke else SECOND_EPOCHS)
        data = self.data_folder / "nve.h5"
        minutes = self._trained(data, "before", first, TIME_STEP_FS)
        minutes += self._trained(data, "model", second, TIME_STEP_FS, self.runs / "before")
        return {"core_minutes": round(minutes)}

    def evaluate(self) -> dict[str, Any]:
        """Errors of one step on the test runs, of each temperature."""
        return stages.errors(self._model(), self.data_folder / "nve.h5")

    def rollout(self) -> dict[str, Any]:
        """Copies of the crystal at the temperatures that the NVE runs of the teacher have, not of their baths."""
        model, found = self._model(), {}
        for kelvin in KELVINS:
            of_set = self._teacher_runs(kelvin)
            teacher = observed(of_set, (0.05, 0.1) if self.smoke else BETWEEN_PS)
            own = round(float(np.mean([mean for mean, _ in teacher["temperature_by_element_K"].values()])))
            heat, starts = ffmd.NVT(own, TAU_FS), self._starts(kelvin, N_COPIES)
            found[f"{own} K"] = {
                "model": self._observed(model, f"copies_{own}", starts, COPY_PS, heat),
                "teacher": teacher,
                "likeness": self._likeness(model, f"copies_{own}_every_step", kelvin, heat),
            }
        for side in ("model", "teacher"):
            each = {float(name[:-2]): of[side]["Cu"] for name, of in found.items() if name.endswith(" K")}
            found[f"arrhenius_of_the_{side}"] = conduction.arrhenius(each)
        return found

    def _observed(self, model: Any, name: str, starts: list[Any], length_ps: float, heat: ffmd.NVT) -> dict[str, Any]:
        """What copies of the crystal show without their beginning, and alarms."""
        length_ps, every = 12.0 if self.smoke else length_ps, round(KEPT_FS / model.config.time_step_fs)
        runs, alarms = self._run_model(model, name, starts, length_ps, every, heat)
        return {"alarms": alarms, **observed(runs, BETWEEN_PS)}

    def _likeness(self, model: Any, name: str, kelvin: float, heat: ffmd.NVT) -> dict[str, Any]:
        """Spectra and structure beside the teacher's, and those of two halves of the teacher's runs."""
        teacher = self._teacher_runs(kelvin, round(TIME_STEP_FS / STEP_FS))
        length_ps = 1.2 if self.smoke else STEPWISE_PS
        own, _ = self._run_model(model, name, self._starts(kelvin, N_COPIES), length_ps, 1, heat)
        return {
            "of_the_model": conduction.likeness(own, teacher),
            "halves_of_the_teacher": conduction.likeness(teacher[::2], teacher[1::2]),
        }

    def _run_model(
        self,
        model: Any,
        name: str,
        starts: list[Any],
        length_ps: float,
        every: int,
        heat: ffmd.NVT,
    ) -> tuple[list[Any], list[str]]:
        """Trajectories of copies of the crystal, and the alarms; a run that was stopped goes on."""
        out = self.runs / f"{name}.h5"
        steps = round(length_ps * units.PS / model.config.time_step_fs / every) * every
        run = ffmd.simulate(
            model, starts, steps=steps, every=every, ensemble=heat, on_alarm="warn", out=out, resume=True
        )
        found = []
        for i in range(len(starts)):
            one = trajectory.read(f"{out}:{i}")
            used = one.times >= one.times[-1] / 10
            found.append(one._replace(frames=State(*(x[used] for x in one.frames)), times=one.times[used]))
        return found, sorted({alarm.text for of_one in run.alarms for alarm in of_one})

    def _teacher_runs(self, kelvin: float, every: int = 1) -> list[Any]:
        files = sorted(self.data_folder.glob(f"nve_{kelvin:g}_?.h5"))
        return [trajectory.read(path, every=every) for path in files]

    def _starts(self, kelvin: float, number: int) -> list[Any]:
        """States of the teacher's runs."""
        runs, chosen = self._teacher_runs(kelvin), []
        for i in range(number):
            run, place = runs[i % len(runs)], (i // len(runs) + 1) * 0.45
            chosen.append((run.system, take(run.frames, round(place * (len(run.times) - 1)))))
        return chosen

    def speed(self) -> dict[str, Any]:
        """ns/day of the model and of the teacher at its step, in turn, on one core."""
        model, (start,) = self._model(), self._starts(600.0, 1)
        atoms, steps = ase_files.to_atoms(*start), 200 if self.smoke else 3000
        atoms.calc = teachers.make("chgnet")
        thermalize_momenta(atoms, 600.0, rng=np.random.default_rng(0))
        dynamics, n_teacher = VelocityVerlet(atoms, STEP_FS * ase_units.fs), 3 if self.smoke else 40

        def ours() -> None:
            bath = ffmd.NVT(600.0, TAU_FS)
            ffmd.simulate(model, start, steps=steps, every=20, ensemble=bath, on_alarm="warn", progress=False)

        sides = {
            "model": (ours, steps * TIME_STEP_FS),
            "teacher": (lambda: dynamics.run(n_teacher), n_teacher * STEP_FS),
        }
        medians = {name: float(np.median(values)) for name, values in stages.speeds(sides, 4).items()}
        ratio = round(medians["model"] / medians["teacher"])
        return {"ns_per_day": {name: round(x, 1) for name, x in medians.items()}, "times_faster": ratio}

    def _model(self) -> Any:
        trained = self.runs / "model"
        return ffmd.load(trained if (trained / "weights.npz").exists() else "copper-iodide")

    def figure(self) -> None:
        """D of copper over the inverse temperature, of all that results.json holds."""
        known = json.loads((self.folder / "results.json").read_text())
        conduction.figure(known["rollout"]).savefig(self.folder / "diffusion.png", dpi=110)


def part_of(run: Trajectory, split: str, kelvin: float, first: int = 0, end: int | None = None) -> Run:
    """Frames of a run as data."""
    frames = State(*(np.asarray(x)[first:end] for x in run.frames))
    return Run(frames, STEP_FS, split, 0, f"{kelvin:g} K", run.observables["potential_energy_eV"][first:end])


def observed(runs: list[Trajectory], between_ps: tuple[float, float]) -> dict[str, Any]:
    """Length, diffusion and temperatures of some runs."""
    system, elements = runs[0].system, tuple(sorted({int(z) for z in runs[0].system.species}))
    return {
        "runs": len(runs),
        "length_ns": round(sum(run.times[-1] - run.times[0] for run in runs) / 1e6, 3),
        **{symbol: conduction.diffusion(runs, symbol, between_ps) for symbol in ("Cu", "I")},
        "temperature_by_element_K": stages.temperatures(system, [run.frames for run in runs], elements),
    }


STAGES = ["data", "time_steps", "train", "evaluate", "rollout", "speed", "figure"]


if __name__ == "__main__":
    stages.main(__doc__, Stages, STAGES, HERE)
