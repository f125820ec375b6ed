"""Training pairs with their neighbour tables, and the order in which a training sees them.

Pairs and tables stay in the memory of the host, so that a dataset need not fit a device: of every block of batches, a
process places what its devices need.  The order depends on seed and step alone, so that a resumed training repeats
what an uninterrupted one would have done, on any number of devices.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ffmd_jax.core import mechanics, neighbors
from ffmd_jax.core.state import Array, Graph, Propagate, State, System, cast
from ffmd_jax.data.dataset import Pairs
from ffmd_jax.training import parallel
from ffmd_jax.training.settings import Training

_TABLE_CHUNK = 256  # pairs whose tables are on the device at a time
_BLOCK_BYTES = 2**28  # of the batches on a device at a time, at most


class Examples(NamedTuple):
    """Pairs with their neighbour tables, ``[n_pairs, …]``: both ends of each, so that time can run backwards."""

    before: State
    after: State
    displacements: Array
    graph_before: Graph
    graph_after: Graph
    cell: Array


class Batch(NamedTuple):
    """What an optimizer step learns from, ``[n_pairs, …]``.

    Attributes:
        pairs: chains of pairs that follow each other in time, ``[n_pairs, push_forward + 1, …]``.
        backwards: which to reverse in time, bool.
        weights: in the mean; they sum to 1, and padding has 0.
        seeds: of random numbers that belong to a pair, another at every step, uint32.
    """

    pairs: Examples
    backwards: Array
    weights: Array
    seeds: Array


class Block(NamedTuple):
    """Batches of successive optimizer steps of one epoch.

    Attributes:
        batches: ``[block_steps, n_pairs, …]``, on the devices.
        n_steps: how many of them to use; the others are padding.
        ends_epoch: True for the last block of an epoch.
    """

    batches: Batch
    n_steps: int
    ends_epoch: bool


def make(system: System, pairs: Pairs, cutoff: float) -> Examples:
    """Pairs and their neighbour tables (cutoff in Å), padded to one capacity, as arrays of the host."""
    after = State(pairs.state.positions + pairs.displacements, pairs.velocities)
    ends = np.concatenate([pairs.state.positions, after.positions])
    both, n_pairs = graphs(system, ends, np.concatenate([pairs.cells, pairs.cells]), cutoff), len(pairs.displacements)
    graph_before, graph_after = (Graph(*x) for x in zip(*(np.split(x, [n_pairs]) for x in both), strict=True))
    return Examples(pairs.state, after, pairs.displacements, graph_before, graph_after, pairs.cells)


def graphs(system: System, positions: np.ndarray, cells: np.ndarray, cutoff: float) -> Graph:
    """Neighbour tables of configurations (Å, ``[n, n_atoms, 3]``) in their cells (Å, ``[n, 3, 3]``), of one width."""
    kind = np.int16 if len(system.species) < 2**15 else np.int32
    different, which = np.unique(cells, axis=0, return_inverse=True)
    members = [np.flatnonzero(which.reshape(-1) == k) for k in range(len(different))]
    parts = [
        _graphs_in_one_cell(system._replace(cell=cell), positions[rows], cutoff)
        for cell, rows in zip(different, members, strict=True)
    ]
    width = max(part.mask.shape[2] for part in parts)
    shape = (*positions.shape[:2], width)
    table = Graph(np.zeros(shape, kind), np.zeros((*shape, 3), np.int8), np.zeros(shape, bool))
    for rows, part in zip(members, parts, strict=True):
        for target, values in zip(table, part, strict=True):
            target[rows, :, : values.shape[2]] = values
    return table


def _graphs_in_one_cell(system: System, positions: np.ndarray, cutoff: float) -> Graph:
    """Neighbour tables of configurations of one system, as arrays of the host."""
    search, single = neighbors.plan(system, positions, cutoff), cast(system, jnp.float32)
    tables = jax.jit(lambda chunk: jax.lax.map(lambda x: neighbors.build(search, single, x).graph, chunk))
    size = min(_TABLE_CHUNK, len(positions))
    starts = [min(i, len(positions) - size) for i in range(0, len(positions), size)]
    parts = [jax.tree.map(np.asarray, tables(positions[i : i + size])) for i in starts]
    parts[-1] = jax.tree.map(lambda x: x[-(len(positions) - size * (len(parts) - 1)) :], parts[-1])
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def reverse(pair: Examples) -> Examples:
    """The pair with time running backwards: (r', −v') → (r, −v)."""
    return Examples(
        State(pair.after.positions, -pair.after.velocities),
        State(pair.before.positions, -pair.before.velocities),
        -pair.displacements,
        pair.graph_after,
        pair.graph_before,
        pair.cell,
    )


def reverse_chain(chain: Examples) -> Examples:
    """Pairs that follow each other, ``[n_links, …]``, with time running backwards."""
    return jax.tree.map(lambda x: x[::-1], reverse(chain))


def push_forward(propagate: Propagate, system: System, chain: Examples, n_own: Array) -> Examples:
    """The last pair of a chain, from where ``n_own`` steps of the propagator before it lead; the end where it was.

    No gradient passes through these steps (Brandstetter et al. 2022, arXiv:2202.03376).  Their neighbour tables are
    those of the true states: what they miss of the propagator's own lies at the cutoff, where its weight is zero.
    """
    n_before = len(chain.displacements) - 1
    first = jax.tree.map(lambda x: x[n_before - n_own], chain.before)

    def step(state: State, link: tuple[Array, Examples]) -> tuple[State, None]:
        place, pair = link
        after = propagate(system, state, pair.graph_before)
        return jax.tree.map(lambda a, b: jnp.where(place >= n_before - n_own, a, b), after, state), None

    links = jnp.arange(n_before), jax.tree.map(lambda x: x[:-1], chain)
    start = jax.lax.stop_gradient(jax.lax.scan(step, first, links)[0])
    pair = jax.tree.map(lambda x: x[-1], chain)
    return pair._replace(before=start, displacements=pair.displacements - (start.positions - pair.before.positions))


def perturb(key: Array, system: System, pair: Examples, sigma: State) -> Examples:
    """The pair with Gaussian noise of width ``sigma`` (Å, Å/fs) on its start, and the end where it was.

    The noise moves neither centre of mass nor momenta: a propagator that conserves them could not take it back.
    """
    key_r, key_v = jax.random.split(key)
    shape, dtype = pair.before.positions.shape, pair.before.positions.dtype
    shifts = sigma.positions * jax.random.normal(key_r, shape, dtype)
    shifts -= mechanics.center_of_mass(system, shifts)
    kicks = sigma.velocities * jax.random.normal(key_v, shape, dtype)
    positions = pair.before.positions + shifts
    kicks = mechanics.zero_momenta(system, State(positions, kicks)).velocities
    before = State(positions, pair.before.velocities + kicks)
    return pair._replace(before=before, displacements=pair.displacements - shifts)


def chains(pairs: Pairs, n_links: int) -> np.ndarray:
    """Rows of pairs of which each starts where the one before ends, ``[n_chains, n_links]``.

    Raises:
        ValueError: there are none.
    """
    starts = {velocities.tobytes(): i for i, velocities in enumerate(pairs.state.velocities)}
    following = np.array([starts.get(velocities.tobytes(), -1) for velocities in pairs.velocities])
    rows = np.arange(len(following))[:, None]
    for _ in range(n_links - 1):
        rows = np.column_stack([rows, following[rows[:, -1]]])
        rows = rows[rows[:, -1] >= 0]
    if not len(rows):
        raise ValueError(
            f"--push-forward {n_links - 1} needs training pairs that follow each other, one interval Δt apart; there "
            "are none: make the dataset without --stride-fs and --train-pairs"
        )
    return rows


def steps_per_epoch(pairs: Pairs, training: Training) -> int:
    """Optimizer steps of an epoch."""
    return n_batches(len(chains(pairs, training.push_forward + 1)), training)


def n_batches(n_chains: int, training: Training) -> int:
    """Optimizer steps of an epoch of so many chains; the remainder of a shuffled epoch waits for the next."""
    return max(1, n_chains // training.batch_size)


def whole(examples: Examples, devices: Mesh) -> tuple[Examples, Array]:
    """All examples, divided over the devices, with their weights in the mean."""
    rows, weights = parallel.padded(np.arange(len(examples.displacements)), devices.size)
    return parallel.divide(examples, rows, devices), parallel.divide(weights, np.arange(len(rows)), devices)


def blocks(
    examples: Examples, rows: np.ndarray, training: Training, done: int, block_steps: int, devices: Mesh
) -> Iterator[Block]:
    """The batches after ``done`` steps, in blocks of one length; without end.

    Args:
        rows: from `chains`.
    """
    n_chains, n_links = rows.shape
    per_epoch = n_batches(n_chains, training)
    on_device = n_links * -(-min(training.batch_size, n_chains) // devices.size)
    size = block_length(examples, on_device, per_epoch, block_steps)
    while True:
        epoch, place = divmod(done, per_epoch)
        order, *drawn = _order(training, epoch, n_chains)
        for first in range(place, per_epoch, size):
            used = slice(first, min(first + size, per_epoch))
            batches = _place(examples, rows, order[used], [values[used] for values in drawn], size, devices)
            yield Block(batches, used.stop - used.start, used.stop == per_epoch)
        done = (epoch + 1) * per_epoch


def block_length(examples: Examples, pairs_on_device: int, per_epoch: int, block_steps: int) -> int:
    """Steps of a block: about ``block_steps``, fewer where they would fill a device, in equal parts of the epoch."""
    bytes_of_pair = sum(np.asarray(leaf)[0].nbytes for leaf in jax.tree.leaves(examples))
    most = _BLOCK_BYTES // max(1, pairs_on_device * bytes_of_pair)
    return -(-per_epoch // -(-per_epoch // max(1, min(block_steps, most))))


def _order(training: Training, epoch: int, n_chains: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which chains the steps of an epoch see, which of them backwards, and their seeds, ``[n_steps, batch_size]``."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(training.seed), 1), epoch)
    key_order, key_time, key_seeds = jax.random.split(key, 3)
    per_epoch, batch_size = n_batches(n_chains, training), min(training.batch_size, n_chains)
    order = jax.random.permutation(key_order, n_chains)[: per_epoch * batch_size].reshape(per_epoch, batch_size)
    half = jnp.float32(0.5)  # a Python number would draw other bits in double precision
    backwards = jax.random.bernoulli(key_time, half, order.shape) & training.time_reversal
    seeds = jax.random.bits(key_seeds, order.shape, jnp.uint32)
    return np.asarray(order), np.asarray(backwards), np.asarray(seeds)


def _place(
    examples: Examples, rows: np.ndarray, order: np.ndarray, drawn: list[np.ndarray], size: int, devices: Mesh
) -> Batch:
    """The batches of some steps on the devices, padded to ``size`` steps and to equal shares of chains."""
    steps = np.minimum(np.arange(size), len(order) - 1)
    order, weights = parallel.padded(order[steps], devices.size)
    backwards, seeds = (parallel.padded(values[steps], devices.size)[0].reshape(-1) for values in drawn)
    flat = np.arange(order.size).reshape(order.shape)
    rest = parallel.divide((backwards, np.tile(weights, size), seeds), flat, devices)
    return Batch(parallel.divide(examples, rows[order], devices, axis=1), *rest)
