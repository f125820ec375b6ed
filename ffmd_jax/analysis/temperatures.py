"""Kinetic temperatures of all atoms and of each element, K, with errors; and what the canonical ensemble expects."""

from typing import NamedTuple

import numpy as np

from ffmd_jax.analysis import frames
from ffmd_jax.analysis.statistics import block_error
from ffmd_jax.core import mechanics
from ffmd_jax.formats.trajectory import Trajectory


class Temperatures(NamedTuple):
    """Kinetic temperatures, K: series ``[n_frames]``, means, block errors; total and by element symbol."""

    total: np.ndarray
    mean: float
    error: float
    by_species: dict[str, np.ndarray]
    mean_by_species: dict[str, float]
    error_by_species: dict[str, float]
    degrees_of_freedom: float


def temperatures(trajectory: Trajectory) -> Temperatures:
    """Kinetic temperatures of all atoms and of each element; degrees of freedom from `mechanics`.

    Raises:
        ValueError: a single atom, which has no degree of freedom beside those of the centre of mass.
    """
    system = trajectory.system
    mechanics.check_freedom(system)
    freedom = float(mechanics.degrees_of_freedom(system))
    series = total(trajectory)
    elements = frames.elements(system)
    numbers = np.broadcast_to(list(elements.values()), (len(series), len(elements)))
    of_elements = frames.evaluate(mechanics.temperature_by_species, system, trajectory.frames, numbers)
    series_of = dict(zip(elements, of_elements.T, strict=True))
    by_species = {symbol: values for symbol, values in series_of.items() if np.isfinite(values).all()}  # others: fixed
    blocked = {symbol: block_error(values) for symbol, values in by_species.items()}
    means = {symbol: mean for symbol, (mean, _) in blocked.items()}
    errors = {symbol: error for symbol, (_, error) in blocked.items()}
    return Temperatures(series, *block_error(series), by_species, means, errors, freedom)


def total(trajectory: Trajectory) -> np.ndarray:
    """Instantaneous temperature of all atoms, K, ``[n_frames]``."""
    return frames.evaluate(mechanics.temperature, trajectory.system, trajectory.frames)


def canonical_distribution(temperature_K: float, degrees_of_freedom: float, grid: np.ndarray) -> np.ndarray:
    """Probability density, 1/K, of the instantaneous temperature on ``grid``, K, in the canonical ensemble.

    For f degrees of freedom it is a Gamma distribution with shape f/2 and mean ``temperature_K``.
    """
    from scipy import stats

    shape = degrees_of_freedom / 2
    return stats.gamma.pdf(grid, shape, scale=temperature_K / shape)
