"""Growth of the errors of a propagator over free steps; lengths are Å, times fs."""

import math
from typing import NamedTuple

import numpy as np

from ffmd_jax.analysis import frames
from ffmd_jax.core import mechanics
from ffmd_jax.core.state import State, System


class ErrorGrowth(NamedTuple):
    """Errors after ``steps`` propagations, each ``[n_times]``, with standard errors over the starts."""

    steps: np.ndarray
    position_error_A: np.ndarray
    position_standard_error_A: np.ndarray
    velocity_error: np.ndarray
    velocity_standard_error: np.ndarray
    kinetic_energy_ratio: np.ndarray
    kinetic_energy_ratio_standard_error: np.ndarray


def error_growth(predicted: State, reference: State, system: System) -> ErrorGrowth:
    """Errors after k = 1, 2, 4, … steps from many starts; states ``[n_starts, n_steps + 1, n_atoms, 3]``.

    With ⟨·⟩ over starts and atoms, and index 0 of the step axis the common start: √⟨|Δr|²⟩ in Å,
    √(⟨|Δv|²⟩ / ⟨|v_reference|²⟩), and ⟨K_predicted⟩/⟨K_reference⟩.  Standard errors treat the starts as
    independent (NaN for one start), by linear propagation through the square root and the ratio.
    """
    steps = 2 ** np.arange(int(math.log2(predicted.positions.shape[1] - 1)) + 1)
    (r, v), (r0, v0) = ([np.asarray(x)[:, steps] for x in state[:2]] for state in (predicted, reference))
    squares = [np.mean(np.sum(x**2, axis=-1), axis=-1) for x in (r - r0, v - v0, v0)]
    kinetic = [np.stack([frames.evaluate(mechanics.kinetic_energy, system, start) for start in x]) for x in (v, v0)]
    position, velocity = _ratio(squares[0], np.ones_like(squares[0])), _ratio(squares[1], squares[2])
    return ErrorGrowth(steps, *_square_root(*position), *_square_root(*velocity), *_ratio(*kinetic))


def _ratio(above: np.ndarray, below: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ratio of the means over starts, axis 0, and its standard error."""
    n_starts, ratio = len(above), above.mean(axis=0) / below.mean(axis=0)
    if n_starts < 2:
        return ratio, np.full_like(ratio, np.nan)
    spread = np.std(above - ratio * below, axis=0, ddof=1) / math.sqrt(n_starts)
    return ratio, spread / below.mean(axis=0)


def _square_root(mean: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Square root and its standard error; an error of zero stays zero."""
    root = np.sqrt(mean)
    return root, error / np.where(root > 0, 2 * root, 1)
