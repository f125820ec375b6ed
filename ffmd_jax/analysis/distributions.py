"""Where the atoms of a trajectory sit and how they vibrate: radial distributions and densities of states.

Lengths are Å, times fs, wave numbers cm⁻¹.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy import signal

from ffmd_jax.core import mechanics, units
from ffmd_jax.formats.trajectory import Trajectory, frame_interval


class RadialDistribution(NamedTuple):
    """Bin centres r, Å, g(r) (a density, Å⁻¹, unless fully periodic), and its standard error if known; ``[n_bins]``."""

    r_A: np.ndarray
    g: np.ndarray
    error: np.ndarray | None = None


class VDOS(NamedTuple):
    """Wave numbers, cm⁻¹ ``[n]``, and vibrational density of states, degrees of freedom per cm⁻¹ ``[n]``."""

    wavenumber_per_cm: np.ndarray
    density: np.ndarray


def radial_distribution(
    trajectory: Trajectory,
    pair: tuple[int, int],
    r_max_A: float | None = None,
    bin_A: float = 0.04,
    max_frames: int = 500,
) -> RadialDistribution:
    """Radial distribution of the element pair (atomic numbers), averaged over at most ``max_frames`` frames.

    Every periodic image within ``r_max_A`` is counted, those of the atom itself too, so that any cell and
    any r are exact: the integral of 4π r² g N₂/V is the mean number of neighbours.  An ideal gas has g = 1;
    for a pair of equal elements 1 − 1/N, and the missing 1/N sits at the lattice vectors.  Without three
    periodic directions there is no volume to normalise with: then ``g`` is the distribution of the pair
    distance, Å⁻¹, whose integral is the mean number of images, for an isolated molecule the fraction of
    pairs, within ``r_max_A``.  The default radius is half the smallest width of the cell, but in 6…10 Å; 10
    Å for isolated molecules.  It is rounded up to whole bins, which are the same for all systems.

    Raises:
        ValueError: the system has no such pair.
    """
    system, positions = trajectory.system, trajectory.frames.positions
    cell, pbc = np.asarray(trajectory.frames.cell[0]), np.asarray(system.pbc)
    first, second = (np.flatnonzero(np.asarray(system.species) == number) for number in pair)
    n_self = len(first) if pair[0] == pair[1] else 0
    n_pairs = len(first) * len(second) - n_self
    if n_pairs == 0:
        raise ValueError(f"the system has no pair of atomic numbers {pair[0]} and {pair[1]}")
    widths = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    if r_max_A is None:
        r_max_A = float(np.clip(0.5 * widths[pbc].min(), 6, 10)) if pbc.any() else 10.0
    n_bins = math.ceil(r_max_A / bin_A - 1e-9)
    r_max_A = n_bins * bin_A
    frames = np.unique(np.linspace(0, len(positions) - 1, min(len(positions), max_frames)).round().astype(int))
    counts = np.zeros(n_bins)
    for frame in frames:
        for block in np.array_split(first, math.ceil(len(first) * len(second) / 1e6)):
            vectors = positions[frame, second] - positions[frame, block][:, None]
            counts += _count_distances(vectors, cell, pbc, widths, r_max_A, n_bins)
    counts[0] -= len(frames) * n_self  # every atom met itself at distance 0
    edges = np.linspace(0, r_max_A, n_bins + 1)
    if pbc.all():
        shells = 4 / 3 * np.pi * np.diff(edges**3) / abs(np.linalg.det(cell))
        expected = len(first) * len(second) * shells
    else:
        expected = n_pairs * np.diff(edges)
    return RadialDistribution(0.5 * (edges[1:] + edges[:-1]), counts / (len(frames) * expected))


def _count_distances(vectors, cell, pbc, widths, r_max, n_bins) -> np.ndarray:
    """Histogram ``[n_bins]`` of lengths below ``r_max``, Å, of vectors ``[..., 3]`` and all their images."""
    vectors = vectors - (np.round(vectors @ np.linalg.inv(cell)) * pbc) @ cell
    # The fractional coordinates are now within ±½, and those of a vector shorter than r are within ±r/width.
    reach = np.where(pbc, np.ceil(r_max / widths - 0.5), 0).astype(int)
    counts = np.zeros(n_bins)
    for shift in itertools.product(*(range(-n, n + 1) for n in reach)):
        squares = np.sum((vectors + np.array(shift) @ cell) ** 2, axis=-1)
        lengths = np.sqrt(squares[squares < r_max**2])
        bins = np.minimum((lengths * (n_bins / r_max)).astype(int), n_bins - 1)
        counts += np.bincount(bins, minlength=n_bins)
    return counts


def rdf_rmse(a: RadialDistribution, b: RadialDistribution) -> float:
    """Root mean square difference of two radial distributions over the radii that both have."""
    common = a.r_A <= b.r_A[-1] + 1e-9
    difference = a.g[common] - np.interp(a.r_A[common], b.r_A, b.g)
    return float(np.sqrt(np.mean(difference**2)))


def vdos(trajectory: Trajectory, species: int | None = None, segment_ps: float = 4.0) -> VDOS:
    """Mass-weighted power spectrum of the velocities of one element (atomic number), or of all atoms.

    Welch's average (doi:10.1109/TAU.1967.1161901) over Hann windows of ``segment_ps``, or of the whole run
    where it is shorter, with half overlap.  The trapezoid integral is Σ m⟨v²⟩/(k_B T), averaged with the
    windows, with T the run's mean temperature: the degrees of freedom, for one element times its
    temperature over T.  Elements add up to the whole.  Vibrations faster than half the frame rate are folded
    back: compare runs of equal frame interval.

    Raises:
        ValueError: fewer than four frames in a segment, or frames that are not evenly spaced.
    """
    interval, masses = frame_interval(trajectory.times), np.asarray(trajectory.system.masses)
    velocities = trajectory.frames.velocities
    members = np.asarray(trajectory.system.species) == species if species is not None else masses > 0
    # An even segment ends on the Nyquist frequency, which makes the trapezoid rule Parseval's sum.
    segment = 2 * (min(len(velocities), round(segment_ps * units.PS / interval)) // 2)
    if segment < 4:
        raise ValueError(f"a VDOS needs at least 4 frames in a segment, not {segment} (interval {interval:g} fs)")
    power, options = np.zeros(segment // 2 + 1), {"nperseg": segment, "detrend": False, "axis": 0}
    for atom in np.flatnonzero(members):
        # The mean velocity stays: the spectrum at zero is diffusion.
        density = signal.welch(velocities[:, atom], 1 / interval, **options)[1]
        power += masses[atom] * density.sum(axis=-1)
    power[[0, -1]] *= 2  # the two bins that the one-sided spectrum does not double
    freedom = float(mechanics.degrees_of_freedom(trajectory.system))
    thermal = np.einsum("i,fia,fia->", masses, velocities, velocities) / len(velocities) / freedom  # k_B T
    per_cm = units.PS * units.TERAHERTZ_IN_PER_CM  # the frequency 1/fs as a wave number
    wavenumbers = np.fft.rfftfreq(segment, interval) * per_cm
    return VDOS(wavenumbers, power / (thermal * per_cm) if thermal > 0 else power)


def vdos_overlap(a: VDOS, b: VDOS) -> float:
    """Overlap ∫ min(a, b) dν of two spectra that are each normalised to ∫ dν = 1: 1 identical, 0 disjoint.

    Spectra on different grids are interpolated to the finer one of the two, up to the larger end.  NaN for an empty
    spectrum, and where more than 1 % of one lies beyond the end of the other: frames so far apart have folded it.
    """
    step = min(a.wavenumber_per_cm[1], b.wavenumber_per_cm[1])
    end = max(a.wavenumber_per_cm[-1], b.wavenumber_per_cm[-1])
    grid = step * np.arange(round(end / step) + 1)
    curves = [np.interp(grid, *spectrum, right=0.0) for spectrum in (a, b)]
    areas = [np.trapezoid(curve, grid) for curve in curves]
    common = grid <= min(a.wavenumber_per_cm[-1], b.wavenumber_per_cm[-1]) + 0.5 * step
    within = [np.trapezoid(curve[common], grid[common]) for curve in curves]
    if min(areas) <= 0 or any(part < 0.99 * area for part, area in zip(within, areas, strict=True)):
        return math.nan
    return float(np.trapezoid(np.minimum(curves[0] / areas[0], curves[1] / areas[1]), grid))
