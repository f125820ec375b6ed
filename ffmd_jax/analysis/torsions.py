"""Free-energy profiles of the torsions of a molecule; lengths are Å, angles rad, energies meV."""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from ffmd_jax.core import units
from ffmd_jax.core.state import System
from ffmd_jax.formats.trajectory import Trajectory

_LARGEST = 200  # atoms: larger isolated systems are not searched for bonds
_STRETCH = 1.25  # of the sum of covalent radii, for a bond
_LINEAR = -0.866  # cos 150°


Surfaces = dict[str, tuple[np.ndarray, np.ndarray]]  # angle, rad, and free energy, meV, by the names of two torsions


class Profile(NamedTuple):
    """Angle, rad, free energy, meV (0 at the minimum, NaN where not visited), and its standard error; ``[n_bins]``."""

    angle: np.ndarray
    free_energy_meV: np.ndarray
    error_meV: np.ndarray


def dihedrals(system: System, positions: np.ndarray) -> list[list[tuple[int, int, int, int]]]:
    """The dihedrals i-j-k-l of each bond j-k about which parts of a molecule turn; bonds from covalent radii.

    These are the bonds outside rings between atoms that have further neighbours, not in line with the bond: at the ends
    of C–C≡N and C=C=C the angle is noise.  i and l are the heaviest neighbours.
    Equivalent neighbours, such as the hydrogens of a methyl group or the two sides of a phenyl ring, differ only in
    their numbering: all of them are returned.  The list is empty for periodic systems and for more than 200 atoms.
    """
    n_atoms = len(system.species)
    if np.any(system.pbc) or n_atoms > _LARGEST:
        return []
    radii = covalent_radii[np.asarray(system.species)]
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    bonded = (distances < _STRETCH * (radii[:, None] + radii)) & ~np.eye(n_atoms, dtype=bool)
    classes = _equivalence_classes(np.asarray(system.species), bonded)
    found = []
    for j, k in np.argwhere(np.triu(bonded)):
        ends = [np.flatnonzero(bonded[a] & (np.arange(n_atoms) != b)) for a, b in ((j, k), (k, j))]
        bent = all(_bent(positions, int(a), int(b), end) for a, b, end in zip((j, k), (k, j), ends, strict=True))
        if bent and not _connected(bonded, int(j), int(k)):
            heaviest = [end[np.argmax(np.asarray(system.masses)[end])] for end in ends]
            firsts, lasts = (end[classes[end] == classes[atom]] for end, atom in zip(ends, heaviest, strict=True))
            found.append([(int(i), int(j), int(k), int(l)) for i in firsts for l in lasts])
    return found


def _bent(positions: np.ndarray, atom: int, other: int, further: np.ndarray) -> bool:
    """True if ``atom`` has further neighbours than ``other``, and is no linear one."""
    if len(further) != 1:
        return len(further) > 0
    one, two = positions[other] - positions[atom], positions[further[0]] - positions[atom]
    return float(one @ two) > _LINEAR * float(np.linalg.norm(one) * np.linalg.norm(two))


def _equivalence_classes(species: np.ndarray, bonded: np.ndarray) -> np.ndarray:
    """Class of every atom: equal for the same element with the same bonds (Morgan, J. Chem. Doc. 5, 107, 1965)."""
    classes = np.unique(species, return_inverse=True)[1]
    while True:
        seen = [(classes[atom], *sorted(classes[bonded[atom]])) for atom in range(len(species))]
        number = {key: rank for rank, key in enumerate(sorted(set(seen)))}
        finer = np.array([number[key] for key in seen])
        if len(number) == classes.max() + 1:
            return finer
        classes = finer


def _connected(bonded: np.ndarray, j: int, k: int) -> bool:
    """True if j and k are connected by another path than their bond."""
    seen, waiting = {j}, [int(a) for a in np.flatnonzero(bonded[j]) if a != k]
    while waiting:
        atom = waiting.pop()
        if atom == k:
            return True
        if atom not in seen:
            seen.add(atom)
            waiting.extend(int(a) for a in np.flatnonzero(bonded[atom]))
    return False


def angles(positions: np.ndarray, dihedral: tuple[int, int, int, int]) -> np.ndarray:
    """The dihedral angle in every frame, rad in (−π, π], ``[n_frames]``; 0 is cis, ±π trans (IUPAC)."""
    i, j, k, l = (positions[:, atom] for atom in dihedral)
    first, axis, last = j - i, k - j, l - k
    one, two = np.cross(first, axis), np.cross(axis, last)
    sine = np.linalg.norm(axis, axis=-1) * np.sum(first * two, axis=-1)
    return np.arctan2(sine, np.sum(one * two, axis=-1))


def profile(
    series: np.ndarray, temperature_K: float, n_bins: int = 36, n_blocks: int = 5, weights: np.ndarray | None = None
) -> Profile:
    """Free energy F(φ) = −k_B T ln p(φ) of angles, rad ``[n_frames]`` or ``[n_frames, n_equivalent]``.

    The error is that of ln p, k_B T δp/p, with δp the standard error of p over the blocks of the run.

    Args:
        weights: of the frames, ``[n_frames]`` (default: all equal).
    """
    edges = np.linspace(-np.pi, np.pi, n_bins + 1)
    counted = np.ones(len(series)) if weights is None else weights
    counted = np.broadcast_to(counted.reshape(-1, *[1] * (series.ndim - 1)), series.shape)
    density = np.histogram(series, edges, weights=counted)[0] / counted.sum()
    parts = zip(np.array_split(series, n_blocks), np.array_split(counted, n_blocks), strict=True)
    blocks = [np.histogram(part, edges, weights=own)[0] / max(own.sum(), 1e-300) for part, own in parts]
    spread = np.std(blocks, axis=0, ddof=1) / np.sqrt(n_blocks)
    kT = 1000 * units.BOLTZMANN * temperature_K
    known = np.where(density > 0, density, np.nan)
    energy = -kT * np.log(known)
    return Profile(0.5 * (edges[1:] + edges[:-1]), energy - np.nanmin(energy), kT * spread / known)


def profiles(trajectory: Trajectory, temperature_K: float) -> dict[str, Profile]:
    """Profile of every dihedral of a molecule, by the names of its atoms, e.g. ``C3-C4-O7-H19``."""
    return {name: profile(series, temperature_K) for name, series in _series(trajectory).items()}


def surfaces(trajectory: Trajectory, temperature_K: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`surface` of at most six pairs of dihedrals that do not end in hydrogen: methyl groups only rotate."""
    heavy = {name: series for name, series in _series(trajectory).items() if "H" not in _elements_of(name)}
    pairs = list(itertools.combinations(heavy, 2))[:6]
    return {f"{a}, {b}": surface(heavy[a], heavy[b], temperature_K) for a, b in pairs}


def _series(trajectory: Trajectory) -> dict[str, np.ndarray]:
    """Angles about every bond, rad ``[n_frames, n_equivalent]``, by the names of the first dihedral's atoms."""
    positions, species = np.asarray(trajectory.frames.positions), np.asarray(trajectory.system.species)
    return {
        "-".join(f"{chemical_symbols[species[atom]]}{atom}" for atom in equivalent[0]): np.stack(
            [angles(positions, dihedral) for dihedral in equivalent], axis=-1
        )
        for equivalent in dihedrals(trajectory.system, positions[0])
    }


def _elements_of(name: str) -> list[str]:
    return [atom.rstrip("0123456789") for atom in name.split("-")]


def surface(
    first: np.ndarray, second: np.ndarray, temperature_K: float, n_bins: int = 36
) -> tuple[np.ndarray, np.ndarray]:
    """Angles, rad ``[n_bins]``, and free energy of two dihedrals, meV ``[n_bins, n_bins]``, NaN where not visited.

    The angles are rad ``[n_frames]`` or ``[n_frames, n_equivalent]``; all pairs of equivalent angles are counted.
    """
    edges = np.linspace(-np.pi, np.pi, n_bins + 1)
    first, second = (series.reshape(len(series), -1) for series in (first, second))
    one, other = np.broadcast_arrays(first[:, :, None], second[:, None, :])
    density = np.histogram2d(one.ravel(), other.ravel(), (edges, edges))[0] / one.size
    energy = -1000 * units.BOLTZMANN * temperature_K * np.log(np.where(density > 0, density, np.nan))
    return 0.5 * (edges[1:] + edges[:-1]), energy - np.nanmin(energy)


def overlap(one: np.ndarray, other: np.ndarray, temperatures_K: tuple[float, float]) -> float:
    """Overlap Σ min(p, q) of the populations of two profiles or surfaces on the same bins, from 0 to 1.

    The free energies, meV ``[n_bins]`` or ``[n_bins, n_bins]``, are at the two temperatures.
    """
    p, q = (
        np.nan_to_num(np.exp(-energy / (1000 * units.BOLTZMANN * kelvin)))
        for energy, kelvin in zip((one, other), temperatures_K, strict=True)
    )
    return float(np.sum(np.minimum(p / p.sum(), q / q.sum())))


def overlap_of_angles(one: np.ndarray, other: np.ndarray, n_bins: int = 36) -> float:
    """Overlap of the populations of two series of angles, rad, of any shape, from 0 to 1."""
    edges = np.linspace(-np.pi, np.pi, n_bins + 1)
    p, q = (np.histogram(series, edges)[0] / np.size(series) for series in (one, other))
    return float(np.minimum(p, q).sum())


def overlaps(
    found: Mapping[str, Profile] | Surfaces,
    others: Mapping[str, Profile] | Surfaces,
    temperatures_K: tuple[float, float],
) -> dict[str, float]:
    """`overlap` of the profiles or surfaces that both have, by the names of the torsions."""
    return {name: overlap(entry[1], others[name][1], temperatures_K) for name, entry in found.items() if name in others}
