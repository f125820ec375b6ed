"""Radial distribution functions of trajectories; lengths are Å."""

import itertools
import math
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols

from ffmd_jax.analysis import frames
from ffmd_jax.core.state import System
from ffmd_jax.formats import trajectory as trajectories
from ffmd_jax.formats.trajectory import Trajectory


class RadialDistribution(NamedTuple):
    """Bin centres r, Å, g(r) (a density, Å⁻¹, unless fully periodic), and its standard error if known; ``[n_bins]``."""

    r_A: np.ndarray
    g: np.ndarray
    error: np.ndarray | None = None


def radial_distribution(
    trajectory: Trajectory,
    pair: tuple[int, int],
    r_max_A: float | None = None,
    bin_A: float = 0.04,
    max_frames: int = 500,
) -> RadialDistribution:
    """Radial distribution of the element pair (atomic numbers), averaged over at most ``max_frames`` frames.

    All periodic images within ``r_max_A`` are counted, including those of the atom itself, so the result is exact
    for any cell and any r: the integral of 4π r² g N₂/V is the mean number of neighbours.  An ideal gas has g = 1; for
    a pair of equal elements 1 − 1/N, and the missing 1/N sits at the lattice vectors.  A system without three periodic
    directions has no volume to normalise with: then ``g`` is the distribution of the pair distance, Å⁻¹.  Its integral
    is the mean number of images within ``r_max_A``, for an isolated molecule the fraction of pairs.  The default radius
    is half the smallest width of the cell, limited to 6–10 Å, and 10 Å for isolated molecules.  It is rounded up to
    whole bins, which are the same for all systems.

    Raises:
        ValueError: the system has no such pair.
    """
    system, positions = trajectory.system, trajectory.frames.positions
    cells, pbc = frames.cells(trajectory), np.asarray(system.pbc)
    first, second = (np.flatnonzero(np.asarray(system.species) == number) for number in pair)
    n_self = len(first) if pair[0] == pair[1] else 0
    n_pairs = len(first) * len(second) - n_self
    if n_pairs == 0:
        raise ValueError(f"the system has no pair of atomic numbers {pair[0]} and {pair[1]}")
    if r_max_A is None:
        r_max_A = float(np.clip(0.5 * _widths(cells[0])[pbc].min(), 6, 10)) if pbc.any() else 10.0
    n_bins = math.ceil(r_max_A / bin_A - 1e-9)
    r_max_A = n_bins * bin_A
    edges = np.linspace(0, r_max_A, n_bins + 1)
    counts, expected = np.zeros(n_bins), np.zeros(n_bins)
    for frame in np.unique(np.linspace(0, len(positions) - 1, min(len(positions), max_frames)).round().astype(int)):
        cell = cells[frame]
        for block in np.array_split(first, math.ceil(len(first) * len(second) / 1e6)):
            vectors = positions[frame, second] - positions[frame, block][:, None]
            counts += _count_distances(vectors, cell, pbc, r_max_A, n_bins)
        counts[0] -= n_self  # every atom meets itself at distance 0
        if pbc.all():
            shells = 4 / 3 * np.pi * np.diff(edges**3) / abs(np.linalg.det(cell))
            expected += len(first) * len(second) * shells
        else:
            expected += n_pairs * np.diff(edges)
    return RadialDistribution(0.5 * (edges[1:] + edges[:-1]), counts / expected)


def _widths(cell: np.ndarray) -> np.ndarray:
    """Distances between opposite faces of a cell, Å, ``[3]``."""
    return 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)


def _count_distances(vectors, cell, pbc, r_max, n_bins) -> np.ndarray:
    """Histogram ``[n_bins]`` of lengths below ``r_max``, Å, of vectors ``[..., 3]`` and all their images."""
    vectors = vectors - (np.round(vectors @ np.linalg.inv(cell)) * pbc) @ cell
    # The fractional coordinates are now within ±½, and those of a vector shorter than r are within ±r/width.
    reach = np.where(pbc, np.ceil(r_max / _widths(cell) - 0.5), 0).astype(int)
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


def radial_distributions(trajectory: Trajectory) -> tuple[dict[str, RadialDistribution], float]:
    """g(r) of every pair of elements, e.g. ``"O-H"``, and the RMS difference between the halves, averaged over pairs.

    The difference is NaN for a system without pairs.
    """
    found = {_pair_name(pair): _of_parts(trajectory, pair) for pair in _pairs(trajectory.system)}
    differences = [rmse for _, rmse in found.values()]
    mean = float(np.mean(differences)) if differences else math.nan
    return {name: curve for name, (curve, _) in found.items()}, mean


def _of_parts(trajectory: Trajectory, pair: tuple[int, int]) -> tuple[RadialDistribution, float]:
    """g(r) with its standard error over four parts of the run, and the RMS difference of the halves.

    g(r) is linear in the frames: the mean over the parts is that of the whole run.
    """
    ends = np.linspace(0, len(trajectory.times), 5).round().astype(int)
    parts = [trajectories.part(trajectory, slice(a, b)) for a, b in itertools.pairwise(ends)]
    curves = [radial_distribution(part, pair, max_frames=125) for part in parts]
    g = np.array([curve.g for curve in curves])
    halves = (curves[0]._replace(g=g[:2].mean(axis=0)), curves[0]._replace(g=g[2:].mean(axis=0)))
    whole = curves[0]._replace(g=g.mean(axis=0), error=np.std(g, axis=0, ddof=1) / 2)
    return whole, rdf_rmse(*halves)


def _pairs(system: System) -> list[tuple[int, int]]:
    """Pairs of elements of which the system holds two different atoms."""
    pairs = itertools.combinations_with_replacement(frames.elements(system).values(), 2)
    return [(a, b) for a, b in pairs if a != b or np.sum(np.asarray(system.species) == a) > 1]


def _pair_name(pair: tuple[int, int]) -> str:
    return "-".join(chemical_symbols[number] for number in pair)
