"""Mean square displacements and diffusion coefficients, with errors; lengths are Å, times fs."""

from typing import NamedTuple

import numpy as np

from ffmd_jax.formats.trajectory import Trajectory, frame_interval

_BLOCKS = 4
_CM2_PER_S = 0.1  # 1 Å²/fs in cm²/s


class MeanSquareDisplacement(NamedTuple):
    """Lags, fs ``[n]``, mean square displacement, Å² ``[n]``, and that of each of four parts of the run ``[4, n]``."""

    lag_fs: np.ndarray
    msd_A2: np.ndarray
    parts_A2: np.ndarray

    @property
    def error_A2(self) -> np.ndarray:
        """Standard error, from the spread of the parts, Å² ``[n]``."""
        return np.std(self.parts_A2, axis=0, ddof=1) / np.sqrt(len(self.parts_A2))


def mean_square_displacement(trajectory: Trajectory, species: int | None = None) -> MeanSquareDisplacement:
    """⟨|r(t + τ) − r(t)|²⟩ over the atoms of one element (or all) and all time origins, about the centre of mass.

    Uses the Fourier transform: Σ_t |r(t + τ) − r(t)|² = Σ_t (r(t + τ)² + r(t)²) − 2 Σ_t r(t + τ)·r(t), where the last
    sum is an autocorrelation.  The largest lag is an eighth of the run, half of each of its four parts.  The error
    assumes that these parts are independent.

    Raises:
        ValueError: fewer than 8 frames, or frames that are not evenly spaced.
    """
    n_frames, masses = len(trajectory.times), np.asarray(trajectory.system.masses)
    if n_frames < 2 * _BLOCKS:
        raise ValueError(f"a mean square displacement needs at least {2 * _BLOCKS} frames, not {n_frames}")
    positions = np.asarray(trajectory.frames.positions, np.float64)
    relative = positions - np.einsum("i,fia->fa", masses, positions)[:, None] / masses.sum()
    members = np.ones(len(masses), bool) if species is None else np.asarray(trajectory.system.species) == species
    relative = relative[:, members] - relative[:1, members]  # small numbers lose less in the difference of sums
    length = n_frames // _BLOCKS
    n_lags = max(2, length // 2 + 1)
    parts = np.array([_of_all_origins(relative[i * length : (i + 1) * length], n_lags) for i in range(_BLOCKS)])
    lags = frame_interval(trajectory.times) * np.arange(n_lags)
    return MeanSquareDisplacement(lags, _of_all_origins(relative, n_lags), parts)


def _of_all_origins(positions: np.ndarray, n_lags: int) -> np.ndarray:
    """Mean over atoms and time origins of the squared displacement at lags 0 … n_lags − 1 frames, ``[n_lags]``."""
    n_frames, total = len(positions), np.zeros(n_lags)
    for atom in np.moveaxis(positions, 1, 0):
        atom = atom - atom.mean(axis=0)
        spectrum = np.abs(np.fft.rfft(atom, 2 * n_frames, axis=0)) ** 2
        products = np.fft.irfft(spectrum, axis=0)[:n_lags].sum(axis=1)
        squares = np.concatenate([[0.0], np.cumsum(np.sum(atom**2, axis=1))])
        lags = np.arange(n_lags)
        total += squares[n_frames] - squares[lags] + squares[n_frames - lags] - 2 * products
    found = total / (n_frames - np.arange(n_lags)) / positions.shape[1]
    found[0] = 0.0
    return np.maximum(found, 0.0)


def diffusion_coefficient(found: MeanSquareDisplacement) -> tuple[float, float]:
    """D = (slope of the mean square displacement)/6, cm²/s, and its standard error from the four parts of the run.

    The slope is fitted over the last three quarters of the lags, because Einstein's relation holds only beyond the
    correlation time of the velocities.  Atoms that only vibrate give zero within the error, or what slow
    vibrations leave: see `is_resolved`.
    """
    use = slice(max(1, len(found.lag_fs) // 4), None)
    if len(found.lag_fs[use]) < 2:
        use = slice(0, None)
    slopes = [np.polyfit(found.lag_fs[use], curve[use], 1)[0] for curve in (found.msd_A2, *found.parts_A2)]
    error = np.std(slopes[1:], ddof=1) / np.sqrt(len(slopes) - 1)
    return float(slopes[0] / 6 * _CM2_PER_S), float(error / 6 * _CM2_PER_S)


def is_resolved(found: MeanSquareDisplacement) -> bool:
    """True if at least half of the mean square displacement at the largest lag is diffusion, 6 D τ.

    It is a sum of what grows with the lag and of a bounded part, that of vibrations.  While the bounded part is the
    larger one, as for the atoms of a crystal, a slope is what slow vibrations have left to go, not diffusion.
    """
    grown = 6 * diffusion_coefficient(found)[0] / _CM2_PER_S * found.lag_fs[-1]
    return bool(grown > 0 and grown >= 0.5 * found.msd_A2[-1])
