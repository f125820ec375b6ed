"""Drifts of conserved quantities along a trajectory."""

import math

import numpy as np

from ffmd_jax.analysis import frames
from ffmd_jax.core import mechanics, units
from ffmd_jax.formats.trajectory import Trajectory


def momentum_drift(trajectory: Trajectory) -> float:
    """Largest change of the total momentum, max |P(t) − P(0)|, over the mean of Σ m|v|; dimensionless."""
    masses, velocities = np.asarray(trajectory.system.masses), trajectory.frames.velocities
    momenta = frames.evaluate(mechanics.linear_momentum, trajectory.system, velocities)
    scale = np.mean(np.linalg.norm(velocities, axis=-1) @ masses)
    return float(np.linalg.norm(momenta - momenta[0], axis=1).max() / scale) if scale > 0 else 0.0


def energy_drift(trajectory: Trajectory) -> float:
    """Least-squares slope of the observable ``total_energy_eV``, meV/atom/ps; NaN if it was not recorded."""
    energies = trajectory.observables.get("total_energy_eV", np.full_like(trajectory.times, np.nan))
    known = np.isfinite(energies)
    if known.sum() < 2:
        return math.nan
    slope = np.polyfit(trajectory.times[known] / units.PS, energies[known], 1)[0]
    return float(1000 * slope / len(trajectory.system.species))
