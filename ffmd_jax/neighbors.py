"""Exact periodic neighbours for any cell, tilted or smaller than the cutoff, periodic in any of its directions.

A `Search` is planned once on the host (it holds all that must be static for compilation); `build` and `update` are
pure and run inside jit.  Rows of the neighbour table have a fixed capacity; when a row would not fit, `overflow` is
set and the results of that block must be discarded (`rollout.run` grows the capacity and repeats it).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.state import Array, Graph, System


@dataclasses.dataclass(frozen=True)
class Search:
    """The static part of a neighbour search.

    Attributes:
        cutoff: Å, edges are shorter than this.
        skin: Å; the table also holds pairs up to cutoff + skin and stays exact until an atom has moved skin/2.
        capacity: columns of the table.
        images: largest lattice translation to look at along each vector, beyond the nearest image.
    """

    cutoff: float
    skin: float
    capacity: int
    images: tuple[int, int, int]

    @property
    def radius(self) -> float:
        """Cutoff + skin, Å."""
        return self.cutoff + self.skin


class Neighbors(NamedTuple):
    """A neighbour table with what is needed to keep it up to date.

    Attributes:
        graph: pairs within cutoff + skin.
        positions: Å, ``[n_atoms, 3]``, where the table was built.
        overflow: bool scalar, True if any build since the first found more neighbours than the capacity.
    """

    graph: Graph
    positions: Array
    overflow: Array


def heights(cell: Array) -> np.ndarray:
    """Perpendicular heights of the cell along its three lattice vectors, Å, ``[3]``."""
    return 1.0 / np.linalg.norm(np.linalg.inv(np.asarray(cell, np.float64)), axis=0)


def plan(system: System, positions, cutoff: float, skin: float = 0.0, headroom: float = 1.0) -> Search:
    """Returns the `Search` for a system, with room for the neighbours at ``positions`` (Å, ``[..., n_atoms, 3]``).

    Args:
        headroom: the capacity is the largest count found times this, rounded up to a multiple of 4.

    Raises:
        ValueError: a cutoff that is not positive, or for which no atom has any neighbour.
    """
    if not (np.isfinite(cutoff) and cutoff > 0 and skin >= 0):
        raise ValueError(f"the cutoff must be positive and the skin not negative, not {cutoff} and {skin} Å")
    # A pair closer than half a height has fractional distance below 1/2 along that vector, so rounding finds its
    # image; every further half height adds one image to either side.
    reach = np.ceil((cutoff + skin) / heights(system.cell) - 0.5)
    along = np.where(system.pbc, np.maximum(reach, 0), 0)
    images = int(along[0]), int(along[1]), int(along[2])
    search = Search(float(cutoff), float(skin), 0, images)
    frames = jnp.reshape(jnp.asarray(positions), (-1, len(system.species), 3))
    most = int(jnp.max(_count(search, system, frames)))
    if most == 0 and len(system.species) > 1:
        raise ValueError(f"no atom has a neighbour within the cutoff of {cutoff} Å: is the unit of the positions Å?")
    return dataclasses.replace(search, capacity=max(4, 4 * int(np.ceil(most * headroom / 4))))


def grow(search: Search, factor: float = 1.3) -> Search:
    """The search with a larger capacity, for use after an overflow."""
    return dataclasses.replace(search, capacity=4 * int(np.ceil(search.capacity * factor / 4)))


def build(search: Search, system: System, positions: Array) -> Neighbors:
    """The neighbour table at ``positions`` (Å, ``[n_atoms, 3]``), from all pairs of atoms and their images.

    Costs atoms² × images: right for up to some thousands of atoms.
    """
    within, shifts = _candidates(search, system, positions)
    n_atoms, capacity = positions.shape[0], search.capacity
    slot = jnp.cumsum(within, axis=1) - 1
    slot = jnp.where(within, slot, capacity)  # out of bounds: dropped
    column = jnp.broadcast_to(jnp.arange(within.shape[1], dtype=jnp.int32), within.shape)
    rows = jnp.arange(n_atoms)[:, None]
    chosen = jnp.zeros((n_atoms, capacity), jnp.int32).at[rows, slot].set(column, mode="drop")
    counts = jnp.sum(within, axis=1)
    mask = jnp.arange(capacity) < counts[:, None]
    graph = Graph(
        senders=jnp.where(mask, chosen % n_atoms, 0),
        shifts=jnp.where(mask[..., None], jnp.take_along_axis(shifts, chosen[..., None], axis=1), 0).astype(jnp.int8),
        mask=mask,
    )
    return Neighbors(graph, positions, jnp.max(counts) > capacity)


def update(search: Search, system: System, positions: Array, neighbors: Neighbors) -> Neighbors:
    """The table rebuilt if any atom has moved more than skin/2 since the last build, else as it is."""
    fresh = jax.lax.cond(
        stale(search, positions, neighbors),
        lambda: build(search, system, positions),
        lambda: neighbors,
    )
    return fresh._replace(overflow=fresh.overflow | neighbors.overflow)


def stale(search: Search, positions: Array, neighbors: Neighbors) -> Array:
    """True once an atom has moved more than skin/2 since the table was built: it may miss a pair."""
    moved = jnp.max(jnp.sum((positions - neighbors.positions) ** 2, axis=-1))
    return moved > (0.5 * search.skin) ** 2


def vectors(system: System, positions: Array, graph: Graph) -> Array:
    """Edge vectors r_j + S·cell − r_i, Å, ``[n_atoms, n_neighbors, 3]``; padding gets a vector of length zero."""
    cell = jnp.asarray(system.cell, positions.dtype)
    shifts = graph.shifts.astype(positions.dtype) @ cell
    difference = positions[graph.senders] + shifts - positions[:, None]
    return jnp.where(graph.mask[..., None], difference, 0.0)


def _candidates(search: Search, system: System, positions: Array) -> tuple[Array, Array]:
    """All (image, j) candidates of every i: within reach or not ``[n_atoms, n_images·n_atoms]``, and their shifts."""
    cell = jnp.asarray(system.cell, positions.dtype)
    n_atoms = positions.shape[0]
    difference = positions[None, :] - positions[:, None]  # i, j
    fractional = difference @ jnp.linalg.inv(cell)
    nearest = -jnp.round(jnp.where(system.pbc, fractional, 0.0))  # i, j, 3
    images = np.array([s for s in np.ndindex(*(2 * n + 1 for n in search.images))]) - np.array(search.images)
    shifts = nearest[:, None] + jnp.asarray(images, positions.dtype)[None, :, None]  # i, image, j, 3
    squared = jnp.sum((difference[:, None] + shifts @ cell) ** 2, axis=-1)
    own = jnp.eye(n_atoms, dtype=bool)[:, None] & jnp.all(shifts == 0, axis=-1)
    within = (squared < search.radius**2) & ~own
    return within.reshape(n_atoms, -1), shifts.astype(jnp.int8).reshape(n_atoms, -1, 3)


@functools.partial(jax.jit, static_argnums=0)
def _count(search: Search, system: System, frames: Array) -> Array:
    """Largest number of neighbours of any atom, for each frame of ``[n_frames, n_atoms, 3]``."""

    def count(positions):
        return jnp.max(jnp.sum(_candidates(search, system, positions)[0], axis=1))

    return jax.lax.map(count, frames)
