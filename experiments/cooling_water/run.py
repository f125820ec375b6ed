"""Liquid water cooled from 300 to 180 K by a model that was trained at 300 K, beside its force field.

    python experiments/cooling_water/run.py                    # everything, an hour of one core
    python experiments/cooling_water/run.py rollout compare    # only these stages
    python experiments/cooling_water/run.py --smoke DIR        # small, of no meaning

reference: copies of 64 molecules of SPC/Fw, cooled at constant volume by 1 K/ps.  rollout: the shipped `water` in the
same bath from the same starts.  compare: potential energy, g(r) of oxygen and diffusion in windows of 20 ps.  What was
stopped goes on when it is started again, the reference with its next copy.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np

import ffmd_jax as ffmd
from ffmd_jax.analysis import diffusion, distributions
from ffmd_jax.core import mechanics, progress, units
from ffmd_jax.core.state import State, take
from ffmd_jax.dynamics import rollout
from ffmd_jax.formats import trajectory
from ffmd_jax.formats.trajectory import Trajectory
from ffmd_jax.reference_md import production, systems

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import stages  # noqa: E402

START_K, END_K, LENGTH_PS, N_WINDOWS = 300.0, 180.0, 120.0, 6
N_COPIES, APART_PS, FRAME_FS, TIME_STEP_FS, STEP_FS = 3, 2.0, 50.0, 5.0, 0.5
O, H = 8, 1
BATH = {"tau_fs": 50.0, "friction_tau_fs": 1000.0}


class Stages(stages.Folder):
    """The stages."""

    def __init__(self, folder: Path, smoke: bool):
        super().__init__(folder, smoke)
        self.length_ps, self.n_windows, self.n_copies = (1.0, 2, 2) if smoke else (LENGTH_PS, N_WINDOWS, N_COPIES)

    def reference(self) -> None:
        """Copies of the force field's run, from states of a heat bath some time apart."""
        water, starts = systems.get("water"), self._starts()
        cooling = ffmd.NVT(START_K, **BATH, end_K=END_K)
        for i, start in enumerate(starts):
            if (path := self.data_folder / f"cooling_{i}.h5").exists():
                continue
            blocks, every = [], round(FRAME_FS / STEP_FS)
            with jax.enable_x64(True), progress.progress(self.length_ps, f"SPC/Fw, copy {i}", "ps") as bar:
                for block in production.run(
                    water, start, n_steps=round(self.length_ps * units.PS / STEP_FS), every=every,
                    key=jax.random.key(i), ensemble=cooling,
                ):  # fmt: skip
                    blocks.append(block)
                    bar.update(len(block.times) * FRAME_FS / units.PS)
            whole = rollout.gather(blocks)
            trajectory.write(path, Trajectory(water.system, whole.frames, whole.times, whole.observables, {}))

    def _starts(self) -> list[State]:
        """States of the force field at 300 K, the same for both."""
        path = self.data_folder / "starts.npz"
        if not path.exists():
            every_ps, equilibrate = (0.05, {"equilibrate_ps": 0.1}) if self.smoke else (APART_PS, {})
            (run,) = ffmd.reference(
                "water", self.data_folder / "bath.h5", ensemble=ffmd.NVT(START_K, tau_fs=50.0), resume=True,
                length_ps=every_ps * self.n_copies, frame_fs=every_ps * units.PS, seed=1, **equilibrate,
            )  # fmt: skip
            np.savez(path, **trajectory.read(run).frames._asdict())
        with np.load(path) as arrays:
            return [State(*each) for each in zip(*(arrays[key] for key in State._fields), strict=True)]

    def rollout(self) -> dict[str, Any]:
        """Copies of the model's run."""
        system = systems.get("water").system
        starts: Any = [(system, start) for start in self._starts()]
        steps, every = round(self.length_ps * units.PS / TIME_STEP_FS), round(FRAME_FS / TIME_STEP_FS)
        run = ffmd.simulate(
            "water", starts, steps=steps, every=every, ensemble=ffmd.NVT(START_K, **BATH, end_K=END_K),
            out=self.runs / "cooling.h5", resume=True, on_alarm="warn",
        )  # fmt: skip
        return {"alarms": [alarm.text for of_one in run.alarms for alarm in of_one]}

    def compare(self) -> dict[str, Any]:
        """Both sides in windows: means of the copies, and their standard errors."""
        sides = {
            "model": [trajectory.read(f"{self.runs / 'cooling.h5'}:{i}") for i in range(self.n_copies)],
            "reference": [trajectory.read(self.data_folder / f"cooling_{i}.h5") for i in range(self.n_copies)],
        }
        found: dict[str, Any] = {side: [] for side in sides}
        shells: dict[str, list[distributions.RadialDistribution]] = {side: [] for side in sides}
        for side, runs in sides.items():
            for window in range(self.n_windows):
                parts = [self._part(run, window) for run in runs]
                found[side].append(_means([_observed(part) for part in parts]))
                together = [distributions.radial_distribution(part, (O, O)) for part in parts]
                shells[side].append(together[0]._replace(g=np.mean([one.g for one in together], axis=0)))
        found["g_of_oxygen_rmse"] = [
            round(distributions.rdf_rmse(ours, theirs), 4) for ours, theirs in zip(*shells.values(), strict=True)
        ]
        self._figure(found, shells)
        return found

    def _part(self, run: Trajectory, window: int) -> Trajectory:
        part = slice(*(len(run.times) * of // self.n_windows for of in (window, window + 1)))
        return run._replace(frames=take(run.frames, part), times=run.times[part], observables={})

    def _figure(self, found: dict[str, Any], shells: dict[str, list[distributions.RadialDistribution]]) -> None:
        figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
        for (side, windows), style in zip(((side, found[side]) for side in shells), ("o-", "s--"), strict=True):
            kelvin = [one["temperature_K"][0] for one in windows]
            for axis, name in zip(axes, ("energy_meV_per_atom", "diffusion_1e-9_m2_per_s"), strict=False):
                values, errors = np.array([one[name] for one in windows]).T
                axis.errorbar(kelvin, values, errors, fmt=style, capsize=2, label=side)
            for at in (0, -1):
                axes[2].plot(shells[side][at].r_A, shells[side][at].g, style[1:], label=f"{side}, {kelvin[at]:.0f} K")
        labels = (
            ("T / K", "potential energy / meV/atom"),
            ("T / K", "D of oxygen / 1e-9 m²/s"),
            ("r / Å", "g(r), O–O"),
        )
        for axis, (x, y) in zip(axes, labels, strict=True):
            axis.set(xlabel=x, ylabel=y)
            axis.legend(fontsize=8)
        axes[2].set_xlim(2, 6.5)
        figure.savefig(self.folder / "cooling.png", dpi=110)


def _observed(part: Trajectory) -> dict[str, float]:
    """What is compared of a window of one copy."""
    water, frames = systems.get("water"), part.frames
    shell = distributions.radial_distribution(part, (O, O))
    kelvin = jax.vmap(lambda r, v: mechanics.temperature_by_species(part.system, State(r, v, frames.cell[0]), (H, O)))
    hydrogen, oxygen = np.asarray(kelvin(frames.positions, frames.velocities)).mean(axis=0)
    total = jax.vmap(lambda r, v: mechanics.temperature(part.system, State(r, v, frames.cell[0])))
    every_tenth = take(frames, slice(None, None, 10))
    energies = production.potential_energies(water, every_tenth)
    coefficient = diffusion.diffusion_coefficient(diffusion.mean_square_displacement(part, O))[0]
    return {
        "temperature_K": float(np.mean(total(frames.positions, frames.velocities))),
        "temperature_of_H_K": float(hydrogen),
        "temperature_of_O_K": float(oxygen),
        "energy_meV_per_atom": 1000 * float(np.mean(energies)) / len(part.system.species),
        "first_peak_of_g": float(shell.g.max()),
        "first_peak_at_A": float(shell.r_A[shell.g.argmax()]),
        "diffusion_1e-9_m2_per_s": 1e5 * coefficient,
    }


def _means(each: list[dict[str, float]]) -> dict[str, list[float]]:
    """Means and their standard errors."""
    found = {}
    for name in each[0]:
        values = np.array([one[name] for one in each])
        found[name] = [round(float(values.mean()), 4), round(float(values.std(ddof=1) / np.sqrt(len(values))), 4)]
    return found


STAGES = ["reference", "rollout", "compare"]


if __name__ == "__main__":
    stages.main(__doc__, Stages, STAGES, HERE)
