"""Exact periodic neighbours for any cell, tilted or smaller than the cutoff, periodic in any of its directions.

A `Search` is planned once on the host (it holds all that must be static for compilation); `build` and `update` are
pure and run inside jit.  Rows of the neighbour table have a fixed capacity; when a row would not fit, `overflow` is
set and the results of that step must be discarded (`rollout.run` grows the capacity and repeats the frame).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import domains, matrices
from ffmd_jax.core.state import Array, Domain, Graph, State, System, full_precision, is_isolated, take

SKIN = 1.0  # Å, for rollouts of models, whose steps move the fastest atoms by a tenth of it or more


@dataclasses.dataclass(frozen=True)
class Search:
    """The static part of a neighbour search.

    Attributes:
        cutoff: Å, edges are shorter than this.
        skin: Å; the table also holds pairs up to cutoff + skin and stays exact until an atom has moved skin/2.
        capacity: columns of the table.
        translations: of the lattice to look at along each vector: as many as can bring a pair within cutoff + skin.
        bins: of the cell along each vector, none thinner than cutoff + skin; () looks at all pairs of atoms.
        bin_capacity: atoms a bin has room for.
        window: fractional coordinates (low, high) that the bins of each vector span.
        selected: columns of the graph of `select`; 0: the whole table.
        ahead: Å, how far atoms may go in the coming step, for whose end the table is to hold, too: it is stale so much
            earlier.
        domains: devices that the rows are divided over.
        axis: vector of the cell along which domains follow each other.
        reach: domains on either side that the neighbours of a domain's atoms are in, at most.
    """

    cutoff: float
    skin: float
    capacity: int
    translations: tuple[int, int, int] = (1, 1, 1)
    bins: tuple[int, ...] = ()
    bin_capacity: int = 0
    window: tuple[tuple[float, float], ...] = ()
    selected: int = 0
    ahead: float = 0.0
    domains: int = 1
    axis: int = 0
    reach: int = 0

    @property
    def radius(self) -> float:
        """Cutoff + skin, Å."""
        return self.cutoff + self.skin


class Neighbors(NamedTuple):
    """A neighbour table with what is needed to keep it up to date.

    Attributes:
        graph: pairs within cutoff + skin.
        positions: Å, ``[n_atoms, 3]``, where the table was built.
        cell: Å, ``[3, 3]``, with which it was built.
        overflow: bool scalar, True once there was no room in a row of this table, in a bin or in a selection from it,
            or the cell had become too small for the images that were planned.
    """

    graph: Graph
    positions: Array
    cell: Array
    overflow: Array


def heights(cell: Array) -> np.ndarray:
    """Perpendicular heights of cells along their three lattice vectors, Å, ``[..., 3]``."""
    return 1.0 / np.linalg.norm(np.linalg.inv(np.asarray(cell, np.float64)), axis=-2)


def plan(
    system: System,
    states: State,
    cutoff: float,
    skin: float = 0.0,
    headroom: float = 1.0,
    select: bool = False,
    ahead: float = 0.0,
    n_domains: int = 1,
) -> Search:
    """Returns the `Search` for a system, with room for the neighbours in ``states``, one or many, in any cells.

    Args:
        system: of all states; or padded systems, one for each: species ``[n_states, n_atoms]``.
        states: positions, Å, ``[..., n_atoms, 3]``, and cells, Å, ``[..., 3, 3]``, or one for all.
        headroom: the capacity is the largest count found times this, rounded up to a multiple of 4.
        select: plan for `select`, too.
        ahead: Å, see `Search`; the skin is made wider by twice as much.
        n_domains: devices to divide the rows over; then `build` belongs into a `jax.shard_map`, see `domains`.

    Raises:
        ValueError: a cutoff that is not positive, or for which no atom has any neighbour, the skin included.
    """
    if not (np.isfinite(cutoff) and cutoff > 0 and skin >= 0):
        raise ValueError(f"the cutoff must be positive and the skin not negative, not {cutoff} and {skin} Å")
    n_atoms = np.shape(system.species)[-1]
    frames = np.reshape(np.asarray(states.positions), (-1, n_atoms, 3))
    cells = np.broadcast_to(np.reshape(np.asarray(states.cell), (-1, 3, 3)), (len(frames), 3, 3))
    search = Search(float(cutoff), float(skin + 2 * ahead), 0, ahead=float(ahead))
    first, second, third = _translations(search, system, heights(np.unique(cells, axis=0)).min(axis=0)).tolist()
    search = dataclasses.replace(search, translations=(first, second, third))
    if not system.padded and np.ndim(system.species) == 1:
        search = _plan_bins(search, system, frames, cells, headroom)
    most, most_inside = _most(search, system, State(frames, frames, cells.astype(frames.dtype)))
    if most == 0 and n_atoms > 1:
        raise ValueError(f"no atom has a neighbour within {search.radius:g} Å: is the unit of the positions Å?")
    if n_domains > 1:
        search = _plan_domains(search, system, frames, cells, n_domains)
    return dataclasses.replace(
        search,
        capacity=max(4, 4 * int(np.ceil(most * headroom / 4))),
        # Every column costs tensor products: little room, and rather another compilation.
        selected=in_tiles(max(1, int(np.ceil(most_inside * (1 + (headroom - 1) / 2))))) if select else 0,
    )


def in_tiles(columns: int, backend: str | None = None) -> int:
    """Rounded up to whole tiles of a TPU's memory, where other sizes would be copied about; as it is on a CPU."""
    return columns if (backend or jax.default_backend()) == "cpu" else -(-columns // 8) * 8


def _plan_domains(search: Search, system: System, frames: np.ndarray, cells: np.ndarray, n_domains: int) -> Search:
    """The search divided along the vector of the cell along which the atoms reach farthest."""
    lowest = heights(cells).min(axis=0)
    fractional = frames @ np.linalg.inv(cells)
    fractional -= np.where(system.pbc, np.floor(fractional), 0.0)
    spans = np.where(system.pbc, 1.0, np.ptp(fractional, axis=(0, 1))) * lowest
    axis = int(np.argmax(spans))
    width = 1.1 * search.radius / lowest[axis]  # densities fluctuate
    reach = max(domains.reach(along, width, system.pbc[axis], n_domains) for along in fractional[..., axis])
    return dataclasses.replace(search, domains=n_domains, axis=axis, reach=reach)


def _plan_bins(search: Search, system: System, frames: np.ndarray, cells: np.ndarray, headroom: float) -> Search:
    """The search with bins, if they leave fewer candidates than all pairs of atoms."""
    fractional = frames @ np.linalg.inv(cells)
    lowest = heights(np.unique(cells, axis=0)).min(axis=0)
    edges = (fractional.min(axis=(0, 1)) - 1e-3, fractional.max(axis=(0, 1)) + 1e-3)
    low, high = (np.where(system.pbc, unit, edge) for unit, edge in zip((0.0, 1.0), edges, strict=True))
    bins = np.maximum(1, np.floor((high - low) * lowest / search.radius)).astype(int)
    if np.any(np.array(system.pbc) & (bins < 3)):  # a bin would be its own neighbour's neighbour
        return search
    window = tuple(zip(low.tolist(), high.tolist(), strict=True))
    search = dataclasses.replace(search, bins=tuple(bins.tolist()), window=window)
    each = zip(frames, cells, strict=True)
    fullest = max(int(np.bincount(np.asarray(_bin_of(search, system, x, cell)[0])).max()) for x, cell in each)
    search = dataclasses.replace(search, bin_capacity=int(np.ceil(fullest * headroom)) + 2)
    n_atoms = frames.shape[1]
    if 2 * 27 * search.bin_capacity > n_atoms:  # three bins or more along a vector: one translation at most
        return dataclasses.replace(search, bins=(), bin_capacity=0, window=())
    return search


def grow(search: Search, system: System, cells: Array, factor: float = 1.3) -> Search:
    """The search with larger capacities, and images enough for ``cells`` (Å, ``[..., 3, 3]``), after an overflow."""
    search = dataclasses.replace(search, skin=search.skin + 2 * (factor - 1) * search.ahead)
    lowest = heights(np.reshape(np.asarray(cells), (-1, 3, 3))).min(axis=0)
    first, second, third = np.maximum(_translations(search, system, lowest), search.translations).tolist()
    if search.bins and not _bins_suffice(search, lowest):
        search = dataclasses.replace(search, bins=(), bin_capacity=0, window=())
    return dataclasses.replace(
        search,
        ahead=search.ahead * factor,
        translations=(first, second, third),
        capacity=4 * int(np.ceil(search.capacity * factor / 4)),
        bin_capacity=int(np.ceil(search.bin_capacity * factor)),
        selected=in_tiles(int(np.ceil(search.selected * factor))),
        reach=search.reach + (search.domains > 1),
    )


def _translations(search: Search, system: System, lowest: np.ndarray) -> np.ndarray:
    """The translations to look at in cells of these heights, Å, ``[3]``.

    Along a vector, a pair within reach is less than reach/height apart: at most so many bring it there.
    """
    return np.where(system.pbc, np.ceil(2 * search.radius / lowest), 1).astype(int)


def _bins_suffice(search: Search, lowest: Array):
    """Whether no bin of a cell of these heights is thinner than the radius."""
    span = np.array([high - low for low, high in search.window])
    thick = np.array(search.bins) * search.radius <= span * lowest * (1 + 1e-5)
    return (thick | (np.array(search.bins) == 1)).all()


def _images_suffice(search: Search, system: System, cell: Array) -> Array:
    """Whether the translations and bins that were planned reach all pairs in this cell, which may have shrunk."""
    if is_isolated(system):
        return jnp.ones((), bool)
    low = 1 / jnp.linalg.norm(matrices.inverse(cell), axis=0)
    if search.bins:
        return _bins_suffice(search, low)
    reached = 2 * search.radius <= np.array(search.translations) * low * (1 + 1e-5)
    return (reached | ~np.array(system.pbc)).all()


@full_precision
def build(search: Search, system: System, state: State) -> Neighbors:
    """The neighbour table of a state: of its positions (Å, ``[n_atoms, 3]``) in its cell.

    Atoms that pad a system have no neighbours and are none; a search with bins does not know them.
    Costs atoms² × translations, or with bins atoms × (27 times the atoms in a bin).
    """
    positions, cell = state.positions, jnp.asarray(state.cell, state.positions.dtype)
    domain, real = (None, None) if search.domains == 1 else _divide(search, system, positions, cell)
    receivers = None if domain is None else domain.receivers
    if search.bins:
        graph, overflow = _build_from_bins(search, system, positions, cell, receivers)
    else:
        others = jnp.arange(positions.shape[0] * int(np.prod(search.translations)), dtype=jnp.int32)
        within, shifts = _all_pairs(search, system, positions, cell, receivers)
        graph, overflow = _compact(
            within, jnp.broadcast_to(others % len(positions), within.shape), shifts, search.capacity
        )
    if real is not None:
        graph = graph._replace(mask=graph.mask & real[:, None], domain=domain)
        overflow = domains.any_of(graph, overflow | jnp.any(domains.beyond_reach(graph)))
    return Neighbors(graph, positions, cell, overflow | ~_images_suffice(search, system, cell))


def _divide(search: Search, system: System, positions: Array, cell: Array) -> tuple[Domain, Array]:
    """The domain of this device: a slab of the atoms in their order along a vector of the cell."""
    along = (positions @ matrices.inverse(cell))[:, search.axis]
    along -= jnp.floor(along) if system.pbc[search.axis] else 0
    return domains.divide(domains.same_everywhere(jnp.argsort(along).astype(jnp.int32)), search.reach)


@full_precision
def select(search: Search, state: State, table: Neighbors) -> tuple[Graph, Array]:
    """The pairs of a table within the cutoff proper, in fewer columns, and whether they are too many for these."""
    if not search.selected:
        return table.graph, jnp.zeros((), bool)
    squared = jnp.sum(vectors(state, table.graph) ** 2, axis=-1)
    within = table.graph.mask & (squared < search.cutoff**2)
    graph, too_many = _compact(within, table.graph.senders, table.graph.shifts, search.selected)
    return graph._replace(domain=table.graph.domain), domains.any_of(table.graph, too_many)


def _compact(within: Array, senders: Array, shifts: Array, capacity: int) -> tuple[Graph, Array]:
    """The candidates ``[n_atoms, n_candidates]`` that are ``within``, at the front of rows, and the overflow flag."""
    slot = jnp.where(within, jnp.cumsum(within, axis=1) - 1, capacity)  # out of bounds: dropped
    column = jnp.broadcast_to(jnp.arange(within.shape[1], dtype=jnp.int32), within.shape)
    rows = jnp.arange(len(within))[:, None]
    chosen = jnp.zeros((len(within), capacity), jnp.int32).at[rows, slot].set(column, mode="drop")
    counts = jnp.sum(within, axis=1)
    mask = jnp.arange(capacity) < counts[:, None]
    graph = Graph(
        senders=jnp.where(mask, jnp.take_along_axis(senders, chosen, axis=1), 0),
        shifts=jnp.where(mask[..., None], jnp.take_along_axis(shifts, chosen[..., None], axis=1), 0).astype(jnp.int8),
        mask=mask,
    )
    return graph, jnp.max(counts) > capacity


def update(search: Search, system: System, state: State, neighbors: Neighbors) -> Neighbors:
    """The table rebuilt if it is `stale`, else as it is."""
    fresh = jax.lax.cond(
        stale(search, state, neighbors),
        lambda: build(search, system, state),
        lambda: neighbors,
    )
    return fresh._replace(overflow=fresh.overflow | neighbors.overflow)


def stale(search: Search, state: State, neighbors: Neighbors) -> Array:
    """True once a pair may be missing, or may be after the coming step.

    That is, once an atom has moved more than skin/2 (less ``search.ahead``) or the cell has changed since the build.
    """
    far = _farthest(state, neighbors) > (0.5 * search.skin - search.ahead) ** 2
    return domains.any_of(neighbors.graph, far | jnp.any(state.cell != neighbors.cell))


def outrun(search: Search, state: State, neighbors: Neighbors) -> Array:
    """True once an atom has moved more than skin/2 since the build: the step went farther than ``search.ahead``."""
    return _farthest(state, neighbors) > (0.5 * search.skin) ** 2


def _farthest(state: State, neighbors: Neighbors) -> Array:
    """Square of the longest way of an atom since the table was built, Å²."""
    return jnp.max(jnp.sum((state.positions - neighbors.positions) ** 2, axis=-1))


@full_precision
def vectors(state: State, graph: Graph) -> Array:
    """Edge vectors r_j + S·cell − r_i, Å, ``[n_atoms, n_neighbors, 3]``; padding gets a vector of length zero."""
    positions, cell = state.positions, jnp.asarray(state.cell, state.positions.dtype)
    shifts = graph.shifts.astype(positions.dtype) @ cell
    difference = positions[graph.senders] + shifts - domains.own(graph, positions)[:, None]
    return jnp.where(graph.mask[..., None], difference, 0.0)


def _all_pairs(
    search: Search, system: System, positions: Array, cell: Array, receivers: Array | None = None
) -> tuple[Array, Array]:
    """All (translation, j) candidates of every i: within reach or not, ``[n_rows, n·n_atoms]``, and their shifts."""
    n_atoms = positions.shape[0]
    receivers = jnp.arange(n_atoms) if receivers is None else receivers
    difference = positions[None, :] - positions[receivers][:, None]  # i, j
    fractional = difference @ matrices.inverse(cell)
    # The n translations that leave the pair at most n/2 apart; the nearest one for n = 1.
    counts = np.array(search.translations, positions.dtype)
    first = jnp.where(np.array(system.pbc), jnp.floor(1 - counts / 2 - fractional), 0.0)  # i, j, 3
    images = np.array(list(np.ndindex(*search.translations)), positions.dtype)
    shifts = first[:, None] + images[None, :, None]  # i, image, j, 3
    squared = jnp.sum((difference[:, None] + shifts @ cell) ** 2, axis=-1)
    own = (receivers[:, None] == jnp.arange(n_atoms))[:, None] & jnp.all(shifts == 0, axis=-1)
    within = (squared < search.radius**2) & ~own
    if system.padded:
        real = jnp.asarray(system.species) > 0
        within &= real[receivers][:, None, None] & real
    return within.reshape(len(receivers), -1), shifts.astype(jnp.int8).reshape(len(receivers), -1, 3)


def _bin_of(search: Search, system: System, positions: Array, cell: Array) -> tuple[Array, Array, Array]:
    """Of every atom: the flat index of its bin, its bin along each vector, and its lattice translation."""
    fractional = positions @ matrices.inverse(cell)
    image = jnp.where(np.array(system.pbc), jnp.floor(fractional), 0.0)
    low, high = np.array(search.window, dtype=positions.dtype).T
    place = (fractional - image - low) / (high - low) * np.array(search.bins, dtype=positions.dtype)
    # Along an open vector the outermost bins also hold what is beyond them: neighbours stay neighbours.
    along = jnp.clip(place.astype(jnp.int32), 0, np.array(search.bins) - 1)
    return _flat(search, along), along, image.astype(jnp.int32)


def _flat(search: Search, along: Array) -> Array:
    return (along[..., 0] * search.bins[1] + along[..., 1]) * search.bins[2] + along[..., 2]


def _build_from_bins(
    search: Search, system: System, positions: Array, cell: Array, receivers: Array | None = None
) -> tuple[Graph, Array]:
    """As `build`, from the atoms in the bin of each atom and in the 26 around it."""
    n_atoms, bins = len(positions), np.array(search.bins)
    n_rows = n_atoms if receivers is None else len(receivers)
    flat, along, image = _bin_of(search, system, positions, cell)
    order = jnp.argsort(flat).astype(jnp.int32)
    rank = jnp.arange(n_atoms, dtype=jnp.int32) - jnp.searchsorted(flat[order], flat[order]).astype(jnp.int32)
    empty = n_atoms
    members = jnp.full((int(np.prod(bins)), search.bin_capacity), empty, jnp.int32)
    members = members.at[flat[order], rank].set(order, mode="drop")
    steps = [(-1, 0, 1) if n > 1 else (0,) for n in search.bins]
    around = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)

    def row(i: Array) -> tuple[Array, Array, Array]:
        bin_ = along[i] + around
        turns = jnp.where(np.array(system.pbc), bin_ // bins, 0)  # lattice translations of the bin beyond the border
        inside = jnp.all((bin_ - turns * bins >= 0) & (bin_ - turns * bins < bins), axis=-1)
        others = jnp.where(inside[:, None], members[_flat(search, bin_ - turns * bins)], empty)
        real = others < empty
        others = jnp.where(real, others, 0)
        shifts = turns[:, None] - image[others] + image[i]
        difference = positions[others] + shifts.astype(positions.dtype) @ cell - positions[i]
        within = real & (jnp.sum(difference**2, axis=-1) < search.radius**2)
        within &= (others != i) | jnp.any(shifts != 0, axis=-1)
        return within.reshape(-1), others.reshape(-1), shifts.reshape(-1, 3)

    def rows(i: Array) -> tuple[Graph, Array]:
        within, others, shifts = jax.vmap(row)(i)
        return _compact(within, others, shifts, search.capacity)

    block = min(n_rows, 1024)  # the candidates of all atoms at once would fill gigabytes
    padded = jnp.minimum(jnp.arange(-(-n_rows // block) * block), n_rows - 1)
    padded = (padded if receivers is None else receivers[padded]).reshape(-1, block)
    graphs, overflows = jax.lax.map(rows, padded)
    graph = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n_rows], graphs)
    return graph, jnp.any(overflows) | jnp.any(rank >= search.bin_capacity)


def _most(search: Search, system: System, states: State) -> tuple[int, int]:
    """Largest numbers of neighbours of any atom within radius and cutoff, in any state.

    Cells of one shape are counted together: all the translations that cells of several shapes need would take longer.
    """
    needed = np.broadcast_to(_translations(search, system, heights(states.cell)), (len(states.cell), 3))
    most = np.zeros(2, int)
    for own in np.unique(needed, axis=0):
        rows = np.flatnonzero((needed == own).all(axis=1))
        first, second, third = own.tolist()
        narrow = search if search.bins else dataclasses.replace(search, translations=(first, second, third))
        members = system if np.ndim(system.species) == 1 else take(system, rows)
        most = np.maximum(most, np.max(np.asarray(_count(narrow, members, take(states, rows))), axis=0))
    return int(most[0]), int(most[1])


@functools.partial(jax.jit, static_argnums=0)
@full_precision
def _count(search: Search, system: System, states: State) -> Array:
    """Largest numbers of neighbours of any atom within radius and cutoff, ``[n_frames, 2]``, uncapped with bins."""

    def count(given):
        system, state = given
        if search.bins:
            full = dataclasses.replace(search, capacity=27 * search.bin_capacity)
            graph = _build_from_bins(full, system, state.positions, state.cell)[0]
            squared = jnp.sum(vectors(state, graph) ** 2, axis=-1)
            masks = graph.mask, graph.mask & (squared < search.cutoff**2)
        else:
            skins = (dataclasses.replace(search, skin=skin) for skin in (search.skin, 0.0))
            masks = (_all_pairs(each, system, state.positions, state.cell)[0] for each in skins)
        return jnp.stack([jnp.max(jnp.sum(mask, axis=1)) for mask in masks])

    if np.ndim(system.species) > 1:
        return jax.lax.map(count, (system, states))
    return jax.lax.map(lambda state: count((system, state)), states)
