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

from ffmd_jax import mechanics, neighbors, parallel
from ffmd_jax.config import Training
from ffmd_jax.dataset import Pairs
from ffmd_jax.state import Array, Graph, State, System, cast

_TABLE_CHUNK = 256  # pairs whose tables are on the device at a time
_BLOCK_BYTES = 2**28  # of the batches on a device at a time, at most


class Examples(NamedTuple):
    """Pairs with their neighbour tables, ``[n_pairs, …]``: both ends of each, so that time can run backwards."""

    before: State
    after: State
    displacements: Array
    graph_before: Graph
    graph_after: Graph


class Batch(NamedTuple):
    """The pairs of an optimizer step, ``[n_pairs, …]``.

    Attributes:
        pairs: the examples.
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
    search = neighbors.plan(system, np.concatenate([pairs.state.positions, after.positions]), cutoff)
    single = cast(system, jnp.float32)
    kind = jnp.int16 if len(system.species) < 2**15 else jnp.int32

    def graph_of(positions):
        graph = neighbors.build(search, single, positions).graph
        return graph._replace(senders=graph.senders.astype(kind))

    graphs = jax.jit(lambda positions: jax.lax.map(graph_of, positions))

    def tables(positions):
        size = min(_TABLE_CHUNK, len(positions))
        starts = [min(i, len(positions) - size) for i in range(0, len(positions), size)]
        parts = [jax.tree.map(np.asarray, graphs(positions[i : i + size])) for i in starts]
        parts[-1] = jax.tree.map(lambda x: x[-(len(positions) - size * (len(parts) - 1)) :], parts[-1])
        return jax.tree.map(lambda *x: np.concatenate(x), *parts)

    return Examples(pairs.state, after, pairs.displacements, tables(pairs.state.positions), tables(after.positions))


def reverse(pair: Examples) -> Examples:
    """The pair with time running backwards: (r', −v') → (r, −v)."""
    return Examples(
        State(pair.after.positions, -pair.after.velocities),
        State(pair.before.positions, -pair.before.velocities),
        -pair.displacements,
        pair.graph_after,
        pair.graph_before,
    )


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


def n_batches(n_pairs: int, training: Training) -> int:
    """Optimizer steps per epoch; the remainder of a shuffled epoch waits for the next."""
    return max(1, n_pairs // training.batch_size)


def whole(examples: Examples, devices: Mesh) -> tuple[Examples, Array]:
    """All examples, divided over the devices, with their weights in the mean."""
    rows, weights = parallel.padded(np.arange(len(examples.displacements)), devices.size)
    return parallel.divide(examples, rows, devices), parallel.divide(weights, np.arange(len(rows)), devices)


def blocks(examples: Examples, training: Training, done: int, block_steps: int, devices: Mesh) -> Iterator[Block]:
    """The batches after ``done`` steps, in blocks of one length; without end."""
    n_pairs = len(examples.displacements)
    per_epoch = n_batches(n_pairs, training)
    size = block_length(examples, min(training.batch_size, n_pairs), per_epoch, block_steps, devices.size)
    while True:
        epoch, place = divmod(done, per_epoch)
        order, *drawn = _order(training, epoch, n_pairs)
        for first in range(place, per_epoch, size):
            used = slice(first, min(first + size, per_epoch))
            batches = _place(examples, order[used], [values[used] for values in drawn], size, devices)
            yield Block(batches, used.stop - used.start, used.stop == per_epoch)
        done = (epoch + 1) * per_epoch


def block_length(examples: Examples, batch_size: int, per_epoch: int, block_steps: int, n_devices: int) -> int:
    """Steps of a block: about ``block_steps``, fewer where they would fill a device, in equal parts of the epoch."""
    bytes_of_pair = sum(np.asarray(leaf)[0].nbytes for leaf in jax.tree.leaves(examples))
    most = _BLOCK_BYTES // max(1, -(-batch_size // n_devices) * bytes_of_pair)
    return -(-per_epoch // -(-per_epoch // max(1, min(block_steps, most))))


def _order(training: Training, epoch: int, n_pairs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which pairs the steps of an epoch see, which of them backwards, and their seeds, ``[n_steps, batch_size]``."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(training.seed), 1), epoch)
    key_order, key_time, key_seeds = jax.random.split(key, 3)
    per_epoch, batch_size = n_batches(n_pairs, training), min(training.batch_size, n_pairs)
    order = jax.random.permutation(key_order, n_pairs)[: per_epoch * batch_size].reshape(per_epoch, batch_size)
    half = jnp.float32(0.5)  # a Python number would draw other bits in double precision
    backwards = jax.random.bernoulli(key_time, half, order.shape) & training.time_reversal
    seeds = jax.random.bits(key_seeds, order.shape, jnp.uint32)
    return np.asarray(order), np.asarray(backwards), np.asarray(seeds)


def _place(examples: Examples, order: np.ndarray, drawn: list[np.ndarray], size: int, devices: Mesh) -> Batch:
    """The batches of some steps on the devices, padded to ``size`` steps and to equal shares of pairs."""
    steps = np.minimum(np.arange(size), len(order) - 1)
    rows, weights = parallel.padded(order[steps], devices.size)
    backwards, seeds = (parallel.padded(values[steps], devices.size)[0].reshape(-1) for values in drawn)
    flat = np.arange(rows.size).reshape(rows.shape)
    rest = parallel.divide((backwards, np.tile(weights, size), seeds), flat, devices)
    return Batch(parallel.divide(examples, rows, devices), *rest)
