"""Terms of molecular force fields: bonds, angles, torsions, and which pairs they exclude.

Terms take vectors between bonded atoms, not indices, so that each force field gathers them as is cheapest for it.
"""

import jax.numpy as jnp
import numpy as np

from ffmd_jax.core.state import Array, State, System
from ffmd_jax.reference_md.coulomb import invert


def bonds(vectors: Array, k: Array | float, length: Array | float) -> Array:
    """Σ k (|r| − r₀)², eV; vectors ``[n_bonds, 3]`` and r₀ in Å, k in eV/Å²."""
    return jnp.sum(k * (jnp.sqrt(jnp.sum(vectors**2, axis=-1)) - length) ** 2)


def angles(first: Array, second: Array, k: Array | float, angle: Array | float) -> Array:
    """Σ k (θ − θ₀)², eV, θ between the vectors from the middle atom, Å ``[n_angles, 3]``; k in eV/rad², θ₀ in rad."""
    cross = jnp.cross(first, second)
    theta = jnp.arctan2(jnp.sqrt(jnp.sum(cross**2, axis=-1)), jnp.sum(first * second, axis=-1))
    return jnp.sum(k * (theta - angle) ** 2)


def torsions(first: Array, second: Array, third: Array, coefficients: Array) -> Array:
    """Σ_t Σ_p c_tp cos^p φ_t, eV, φ = 180° in trans; vectors i→j, j→k, k→l, Å ``[n_torsions, 3]``.

    A polynomial in cos φ has no singular derivative at 0 and 180°, where planar molecules rest.

    Args:
        coefficients: eV, ``[n_torsions, n_powers]``, from `fourier`.
    """
    left, right = jnp.cross(first, second), jnp.cross(second, third)
    norms = jnp.sum(left**2, axis=-1) * jnp.sum(right**2, axis=-1)
    cosine = jnp.sum(left * right, axis=-1) / jnp.sqrt(norms)
    value = jnp.zeros_like(cosine)
    for power in reversed(range(coefficients.shape[1])):
        value = value * cosine + coefficients[:, power]
    return jnp.sum(value)


def fourier(v1, v2, v3, v4) -> np.ndarray:
    """½[V₁(1 + cos φ) + V₂(1 − cos 2φ) + V₃(1 + cos 3φ) + V₄(1 − cos 4φ)] as coefficients of cos^p φ, ``[n, 5]``."""
    series = 0.5 * np.stack([v1 + v2 + v3 + v4, v1, -v2, v3, -v4], axis=-1)
    # cos nφ is the n-th Chebyshev polynomial of cos φ.
    powers = [np.pad(np.polynomial.chebyshev.cheb2poly(np.eye(5)[n]), (0, 5))[:5] for n in range(5)]
    return series @ np.array(powers)


def separations(bonds: np.ndarray, n_atoms: int, largest: int = 4) -> np.ndarray:
    """Bonds on the shortest path between each two atoms, ``[n_atoms, n_atoms]``; ``largest`` where it is longer.

    ``bonds`` are pairs of indices, ``[n_bonds, 2]``.
    """
    adjacent = np.zeros((n_atoms, n_atoms), int)
    adjacent[tuple(np.transpose(bonds))] = 1
    adjacent += adjacent.T
    found, reached = np.full((n_atoms, n_atoms), largest), np.eye(n_atoms, dtype=int)
    np.fill_diagonal(found, 0)
    for steps in range(1, largest):
        reached = (reached @ adjacent > 0).astype(int)
        found = np.where((reached > 0) & (found == largest), steps, found)
    return found


def minimum_image(system: System, vectors: Array, cell: Array) -> Array:
    """The vectors, Å ``[..., 3]``, to the nearest image: exact if shorter than half the smallest height of the cell."""
    if isinstance(vectors, np.ndarray):  # on the host, when a system is prepared: float64, nothing to compile
        turns = np.round(np.where(system.pbc, vectors @ np.linalg.inv(cell), 0.0))
        return vectors - turns @ cell
    cell = jnp.asarray(cell, vectors.dtype)
    turns = jnp.round(jnp.where(np.array(system.pbc), vectors @ invert(cell)[0], 0.0))
    return vectors - turns @ cell


def make_whole(system: System, state: State, bonds: np.ndarray) -> np.ndarray:
    """Positions, Å ``[n_atoms, 3]``, of a state with bonded atoms moved next to each other across periodic boundaries.

    The first atom of each molecule stays where it is.
    """
    positions, cell = np.array(state.positions, np.float64), np.asarray(state.cell)
    n_atoms = len(positions)
    apart = separations(bonds, n_atoms, largest=n_atoms)
    for first in range(n_atoms):
        if np.any(apart[first, :first] < n_atoms):
            continue  # in the molecule of an atom before
        members = np.flatnonzero(apart[first] < n_atoms)
        for j in members[np.argsort(apart[first, members], kind="stable")][1:]:
            partner = np.flatnonzero((apart[j] == 1) & (apart[first] < apart[first, j]))[0]
            positions[j] = positions[partner] + minimum_image(system, positions[j] - positions[partner], cell)
    return positions
