"""Constraints of another program's run, found by what never changes: atoms that stay, and distances.

Trajectory files hardly ever state them (ASE's do, for fixed atoms), and every temperature depends on them.
"""

import dataclasses

import numpy as np

from ffmd_jax.core import mechanics
from ffmd_jax.core.state import Constraints, System
from ffmd_jax.formats.common import Trajectory

_SAMPLES = 20
_LARGEST = 100  # atoms of a molecule that may be a rigid body
_FEWEST = 8  # frames: in fewer, distances agree by chance
_REACH = 2.6  # Å; constrained bonds, and the other distances within small rigid molecules, are shorter
_SPREAD = 0.008, 0.002  # Å, standard deviation of a constrained distance: with velocities to confirm it, and without
_ALONG = 0.05  # share of the relative velocity that may be along the bond


def find(trajectory: Trajectory) -> System:
    """The system with the constraints that its frames show, and marked as linear if it is."""
    system = mechanics.on_a_line(trajectory.system, np.asarray(trajectory.frames.positions))
    if "model" in trajectory.metadata or len(trajectory.times) < _FEWEST:
        return system
    fixed = _fixed(trajectory)
    _check_directions(trajectory, fixed)
    bonds = _taken_by_bonds(trajectory, fixed)
    if not fixed.any() and not bonds.any():
        return system
    return dataclasses.replace(system, constraints=Constraints(bonds, fixed if fixed.any() else None))


def _fixed(trajectory: Trajectory) -> np.ndarray:
    """Atoms that the file says are fixed, or that never move while others do; bool ``[n_atoms]``."""
    positions, velocities = (np.asarray(values) for values in trajectory.frames[:2])
    still = ~np.any(positions != positions[0], axis=(0, 2)) & ~np.any(velocities, axis=(0, 2))
    stated = trajectory.system.constraints
    if stated is None or stated.fixed is None:
        return still if not still.all() else np.zeros_like(still)
    wrong = np.asarray(stated.fixed) & ~still
    if wrong.any():
        raise ValueError(f"the file says that atom {int(np.argmax(wrong))} is fixed, but it moves")
    return still


def _check_directions(trajectory: Trajectory, fixed: np.ndarray) -> None:
    """Raises ValueError for atoms of a periodic system that never move along one direction, but do along others."""
    if not any(trajectory.system.pbc) or len(fixed) < 4:
        return
    positions, velocities = (np.asarray(values) for values in trajectory.frames[:2])
    still = ~np.any(positions != positions[0], axis=0) & ~np.any(velocities, axis=0) & ~fixed[:, None]
    if still.any() and not still.all():
        n_atoms, axis = int(np.sum(still.any(axis=1))), "xyz"[int(np.argmax(still.any(axis=0)))]
        raise ValueError(
            f"{n_atoms} atoms never move along {axis}: atoms held in single directions are not understood, and their "
            f"temperature would be wrong"
        )


def _taken_by_bonds(trajectory: Trajectory, fixed: np.ndarray) -> np.ndarray:
    """Degrees of freedom that constant distances take from each atom, ``[n_atoms]``."""
    import scipy.sparse as sparse
    from scipy.sparse.csgraph import connected_components

    masses, n_atoms = np.asarray(trajectory.system.masses), len(trajectory.system.species)
    first, second, vectors = _rigid_pairs(trajectory, fixed)
    taken = np.zeros(n_atoms)
    if not len(first):
        return taken
    graph = sparse.coo_matrix((np.ones(len(first)), (first, second)), shape=(n_atoms, n_atoms))
    labels = connected_components(graph, directed=False)[1]
    order = np.argsort(labels[first], kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(labels[first][order])) + 1):
        atoms, inverse = np.unique(np.concatenate([first[rows], second[rows]]), return_inverse=True)
        i, j = np.split(inverse, 2)
        if (body := _body(trajectory, atoms)) is not None:
            taken[atoms] = _of_a_rigid_body(masses[atoms], body)
        else:
            taken[atoms] = _of_bonds(masses[atoms], len(atoms), i, j, vectors[rows])
    return taken


def _of_bonds(masses: np.ndarray, n_atoms: int, i: np.ndarray, j: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The projector on the mass-weighted gradients of the distances, traced over each atom's directions."""
    gradients, rows = np.zeros((len(i), n_atoms, 3)), np.arange(len(i))
    gradients[rows, i], gradients[rows, j] = vectors, -vectors
    gradients /= np.sqrt(masses)[:, None]
    _, sizes, directions = np.linalg.svd(gradients.reshape(len(i), -1), full_matrices=False)
    kept = directions[sizes > 1e-3 * sizes[0]]
    return np.sum(kept.reshape(-1, n_atoms, 3) ** 2, axis=(0, 2))


def _body(trajectory: Trajectory, atoms: np.ndarray) -> np.ndarray | None:
    """Positions of atoms in the first frame, Å ``[n, 3]``, if all their distances stay the same; else None."""
    if len(atoms) > _LARGEST:
        return None
    positions, cells = np.asarray(trajectory.frames.positions), np.asarray(trajectory.frames.cell)
    chosen = np.linspace(0, len(positions) - 1, _SAMPLES).astype(int)
    vectors = positions[chosen][:, atoms] - positions[chosen][:, atoms[:1]]
    images = np.round(vectors[0] @ np.linalg.inv(cells[0])) * np.asarray(trajectory.system.pbc)
    whole = vectors - images @ cells[chosen]  # molecules that the first frame has cut
    lengths = np.linalg.norm(whole[:, :, None] - whole[:, None], axis=-1)
    return whole[0] if np.all(np.std(lengths, axis=0) < _SPREAD[0]) else None


def _of_a_rigid_body(masses: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """All but the share of each atom in the translations and rotations of the body."""
    n_atoms = len(positions)
    relative = positions - masses @ positions / masses.sum()
    turns = np.cross(np.eye(3)[:, None], relative[None])  # of each axis, [3, n_atoms, 3]
    moves = np.broadcast_to(np.eye(3)[:, None], turns.shape)
    motions = np.concatenate([moves, turns]) * np.sqrt(masses)[:, None]
    _, sizes, directions = np.linalg.svd(motions.reshape(6, -1), full_matrices=False)
    kept = directions[sizes > 1e-2 * sizes[0]]
    return 3 - np.sum(kept.reshape(-1, n_atoms, 3) ** 2, axis=(0, 2))


def _rigid_pairs(trajectory: Trajectory, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of atoms whose distance stays the same, ``[n]`` each, and their first vectors, Å ``[n, 3]``."""
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    system, frames = trajectory.system, trajectory.frames
    cells = np.asarray(frames.cell)
    atoms = Atoms(np.asarray(system.species), np.asarray(frames.positions)[0], cell=cells[0], pbc=system.pbc)
    first, second, shifts = neighbor_list("ijS", atoms, _REACH)
    once = (first < second) & ~(fixed[first] & fixed[second])
    first, second, shifts = first[once], second[once], shifts[once]
    chosen = np.linspace(0, len(trajectory.times) - 1, _SAMPLES).astype(int)
    positions, velocities = (np.asarray(values)[chosen] for values in frames[:2])
    vectors = positions[:, second] - positions[:, first] + shifts @ cells[chosen]
    lengths = np.linalg.norm(vectors, axis=-1)
    relative = velocities[:, second] - velocities[:, first]
    if np.any(velocities):
        along = np.sum(vectors * relative, axis=-1) / np.maximum(lengths, 1e-9)
        rigid = np.std(lengths, axis=0) < _SPREAD[0]
        floor = 1e-6 * np.mean(velocities**2)  # a bond along the axis of a turning molecule hardly moves
        rigid &= np.mean(along**2, axis=0) <= _ALONG**2 * np.mean(np.sum(relative**2, axis=-1), axis=0) + floor
    else:
        rigid = np.std(lengths, axis=0) < _SPREAD[1]
    rigid &= _usual(trajectory, first, second, lengths.mean(axis=0), rigid)
    return first[rigid], second[rigid], vectors[0][rigid]


def _usual(
    trajectory: Trajectory, first: np.ndarray, second: np.ndarray, lengths: np.ndarray, rigid: np.ndarray
) -> np.ndarray:
    """True for pairs most of whose like, the same elements at about the same distance, are rigid, too.

    In a gas, some flexible bond always happens to vibrate hardly at all.
    """
    species = np.asarray(trajectory.system.species)
    ends = np.sort(np.stack([species[first], species[second]]), axis=0)
    kinds = np.concatenate([ends, np.round(lengths / 0.2)[None].astype(int)])
    inverse = np.unique(kinds, axis=1, return_inverse=True)[1].reshape(-1)
    return (np.bincount(inverse, rigid) / np.bincount(inverse))[inverse] >= 0.5
