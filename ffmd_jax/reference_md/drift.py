"""How well a reference run conserves energy, and which time steps are too long for it.

A symplectic integrator conserves a shadow energy that differs from the true one by O(dt²).  For one oscillator ω with
velocity Verlet it is ½mv² + (1 − s) ½mω²x² with s = (ω dt/2)², so that the true energy fluctuates s times as much as
the potential and s/(1 − s) times as much as the kinetic energy.  The limit of 0.2 is ω dt = 0.82, eight steps a period;
it is also where `nve.check`, and with it ``ffmd dataset``, ceases to believe that a trajectory is NVE.

A drift comes on top where the shadow energy does not exist any more (steps near the stability limit ω dt = 2), or where
forces are not the gradient of the energy (cutoffs, electronic structure that is not converged).  It heats the run: with
the heat capacity f k_B of f classical harmonic degrees of freedom, a gain ΔE raises the temperature by ΔE/(f k_B).
"""

from typing import NamedTuple

import numpy as np

from ffmd_jax.core import mechanics, units
from ffmd_jax.core.state import State, System
from ffmd_jax.dynamics.engine import Block

LARGEST_FLUCTUATION = 0.2  # of the total energy, relative to the kinetic energy
LARGEST_HEATING = 0.05  # of the temperature, over the run
_FEWEST_FRAMES = 20
_N_BLOCKS = 10


class Unphysical(ValueError):
    """A run whose energy is not conserved."""


class Energies(NamedTuple):
    """Energies along a run.

    Attributes:
        times_fs: ``[n_frames]``.
        total_eV: ``[n_frames]``.
        kinetic_eV: ``[n_frames]``.
    """

    times_fs: np.ndarray
    total_eV: np.ndarray
    kinetic_eV: np.ndarray


class Summary(NamedTuple):
    """What a run was like; NaN where it has too few frames to say.

    Attributes:
        temperature_K: mean.
        drift: slope of the total energy, meV/atom/ps.
        drift_error: its standard error.
        fluctuation: RMS of the total energy about the line, meV/atom.
        relative_fluctuation: standard deviation of the total energy over that of the kinetic energy.
        heating: rise of the temperature over the run that the drift makes, relative to the temperature.
    """

    temperature_K: float
    drift: float
    drift_error: float
    fluctuation: float
    relative_fluctuation: float
    heating: float


def energies(system: System, block: Block) -> Energies:
    """The energies of a block."""
    kinetic = np.asarray(mechanics.kinetic_energy(system, np.asarray(block.frames.velocities)))
    return Energies(block.times, np.asarray(block.observables["total_energy_eV"]), kinetic)


def join(parts: list[Energies]) -> Energies:
    """The energies of consecutive blocks."""
    return Energies(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def summarize(system: System, run: Energies) -> Summary:
    """Mean temperature, energy drift and fluctuation.

    The drift is a straight line through the means of ten pieces of the run; its error comes from their scatter
    about the line, which holds if a piece is longer than the correlation of the energy.
    """
    n_atoms, freedom = len(system.species), float(mechanics.degrees_of_freedom(system))
    temperature = 2 * float(np.mean(run.kinetic_eV)) / (units.BOLTZMANN * freedom)
    slope, error, residual = _line(run.times_fs / units.PS, run.total_eV)
    scale = 1000 / n_atoms
    length = (run.times_fs[-1] - run.times_fs[0]) / units.PS
    return Summary(
        temperature,
        scale * slope,
        scale * error,
        scale * residual,
        float(np.std(run.total_eV) / np.std(run.kinetic_eV)) if len(run.times_fs) > 1 else float("nan"),
        float(slope * length / (freedom * units.BOLTZMANN * temperature)),
    )


def check(system: System, run: Energies) -> None:
    """Raises `Unphysical` if the energy of a finished NVE run is not conserved; below 20 frames nothing is said.

    Either the total energy fluctuates more than 0.2 times as much as the kinetic energy, or its drift (beyond three
    standard errors) changes the temperature by more than 5 % over the run.
    """
    if len(run.times_fs) < _FEWEST_FRAMES:
        return
    found = summarize(system, run)
    if not found.relative_fluctuation <= LARGEST_FLUCTUATION:
        raise Unphysical(
            f"the total energy fluctuates {found.relative_fluctuation:.2g} times as much as the kinetic energy "
            f"(limit {LARGEST_FLUCTUATION:g}, drift {found.drift:.2g} meV/atom/ps): energy is not conserved"
        )
    if abs(found.heating) > LARGEST_HEATING and abs(found.drift) > 3 * found.drift_error:
        raise Unphysical(
            f"the energy drifts by {found.drift:.2g} ± {found.drift_error:.1g} meV/atom/ps, which changes the "
            f"temperature by {100 * found.heating:.2g} % over the run (limit {100 * LARGEST_HEATING:g} %)"
        )


def check_starts(system: System, states: State, temperature_K: float) -> None:
    """Raises `Unphysical` if start states ``[n_starts, n_atoms, 3]`` do not have the temperature of their bath.

    A time step that is too long heats a run in a bath, or blows it up into fragments that then conserve energy well.
    Allowed are 20 % and five standard deviations of the temperature, T sqrt(2/(f n_starts)).
    """
    freedom = float(mechanics.degrees_of_freedom(system))
    kinetic = mechanics.kinetic_energy(system, np.asarray(states.velocities))
    found = 2 * float(np.mean(kinetic)) / (units.BOLTZMANN * freedom)
    if not abs(found / temperature_K - 1) <= 0.2 + 5 * np.sqrt(2 / (freedom * len(kinetic))):
        raise Unphysical(
            f"the start states have {found:.4g} K in a heat bath of {temperature_K:g} K (a longer `equilibrate_ps` "
            f"helps if the structure was far from equilibrium)"
        )


def check_unfinished(run: Energies) -> None:
    """Raises `Unphysical` if a run has no hope: its total energy fluctuates more than its kinetic energy."""
    if len(run.times_fs) >= _FEWEST_FRAMES and not np.std(run.total_eV) <= np.std(run.kinetic_eV):
        raise Unphysical(
            f"after {run.times_fs[-1] / units.PS:g} ps the total energy fluctuates by {np.std(run.total_eV):.3g} eV, "
            f"the kinetic energy by {np.std(run.kinetic_eV):.3g} eV: energy is not conserved"
        )


def describe(found: Summary) -> str:
    """One line about an NVE run."""
    error = f" ± {found.drift_error:.1e}" if np.isfinite(found.drift_error) else ""
    drift = f", energy drift {found.drift:.1e}{error} meV/atom/ps" if np.isfinite(found.drift) else ""
    fluctuation = ""
    if np.isfinite(found.relative_fluctuation):
        share = f"{found.relative_fluctuation:.1e} of that of the kinetic energy"
        fluctuation = f", energy fluctuation {found.fluctuation:.1e} meV/atom ({share})"
    return f"mean temperature {found.temperature_K:.1f} K{drift}{fluctuation}"


def explain(system: System, found: Summary, temperature_K: float) -> str:
    """Why the mean temperature of an NVE run is not that of its heat bath, K; empty if it is, or for other reasons.

    Said from 3 % on, up to two standard deviations of the canonical energy as a temperature, T/sqrt(f).
    """
    freedom = float(mechanics.degrees_of_freedom(system))
    spread, off = temperature_K / np.sqrt(freedom), abs(found.temperature_K - temperature_K)
    if not 0.03 * temperature_K < off < 2 * spread:
        return ""
    return (
        f"{temperature_K:g} K were asked for: in NVE the energy of the start state sets the temperature, and in the "
        f"heat bath it varies by ± {spread:.0f} K in {freedom:.0f} degrees of freedom"
    )


def _line(times: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """Slope, its standard error, and the RMS of the values about the line."""
    if len(times) < 2:
        return float("nan"), float("nan"), float("nan")
    pieces = np.array_split(np.arange(len(times)), min(_N_BLOCKS, len(times)))
    x, y = (np.array([np.mean(series[piece]) for piece in pieces]) for series in (times, values))
    spread = float(np.sum((x - x.mean()) ** 2))
    slope = float(np.sum((x - x.mean()) * (y - y.mean()))) / spread
    scatter = np.sum((y - y.mean() - slope * (x - x.mean())) ** 2)
    error = float(np.sqrt(scatter / (len(x) - 2) / spread)) if len(x) > 2 else float("nan")
    residual = values - y.mean() - slope * (times - x.mean())
    return slope, error, float(np.sqrt(np.mean(residual**2)))
