"""Batches of training pairs, and the order in which a training sees them.

Pairs stay in the memory of the host, so that a dataset need not fit a device: of every block of batches, a process
places what its devices need.  Neighbour tables are built on the devices, where they are used.  The order depends on
seed and step alone, so that a resumed training repeats what an uninterrupted one would have done, on any number of
devices.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import Array, State, System
from ffmd_jax.data.pairs import Pairs
from ffmd_jax.training import parallel
from ffmd_jax.training.settings import Training

_BLOCK_BYTES = 2**28  # of the batches on a device at a time, at most


class Batch(NamedTuple):
    """What an optimizer step learns from, ``[n_pairs, …]``.

    Attributes:
        pairs: `Pairs`, or the labelled frames of a potential, as they are in the dataset.
        backwards: which to reverse in time, bool.
        weights: in the mean; they sum to 1, and padding has 0.
    """

    pairs: Any
    backwards: Array
    weights: Array


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


def count(examples: Any) -> int:
    """How many pairs, or frames, there are."""
    return len(jax.tree.leaves(examples)[0])


def search(system: System, pairs: Pairs, cutoff: float) -> neighbors.Search:
    """The neighbour search that has room for both ends of all pairs; cutoff in Å."""
    ends = (pairs.state.positions, pairs.state.positions + pairs.displacements)
    cells = np.concatenate([pairs.state.cell, pairs.state.cell])
    positions = np.concatenate(ends)
    return neighbors.plan(system, State(positions, positions, cells), cutoff)


def reverse(pair: Pairs) -> Pairs:
    """The pair with time running backwards: (r', −v') → (r, −v)."""
    end = State(pair.state.positions + pair.displacements, -pair.velocities, pair.state.cell)
    return Pairs(end, -pair.displacements, -pair.state.velocities)


def n_batches(n_pairs: int, training: Training) -> int:
    """Optimizer steps of an epoch of so many pairs; the remainder of a shuffled epoch waits for the next."""
    return max(1, n_pairs // training.batch_size)


def whole(pairs: Any, devices: Mesh) -> tuple[Any, Array]:
    """All pairs, divided over the devices, with their weights in the mean."""
    rows, weights = parallel.padded(np.arange(count(pairs)), devices.size)
    return parallel.divide(pairs, rows, devices), parallel.divide(weights, np.arange(len(rows)), devices)


def blocks(pairs: Any, training: Training, done: int, block_steps: int, devices: Mesh) -> Iterator[Block]:
    """The batches after ``done`` steps, in blocks of one length; without end."""
    n_pairs = count(pairs)
    per_epoch = n_batches(n_pairs, training)
    size = block_length(pairs, -(-min(training.batch_size, n_pairs) // devices.size), per_epoch, block_steps)
    while True:
        epoch, place = divmod(done, per_epoch)
        order, backwards = _order(training, epoch, n_pairs)
        for first in range(place, per_epoch, size):
            used = slice(first, min(first + size, per_epoch))
            batches = _place(pairs, order[used], backwards[used], size, devices)
            yield Block(batches, used.stop - used.start, used.stop == per_epoch)
        done = (epoch + 1) * per_epoch


def block_length(pairs: Any, pairs_on_device: int, per_epoch: int, block_steps: int) -> int:
    """Steps of a block: about ``block_steps``, fewer where they would fill a device, in equal parts of the epoch."""
    bytes_of_pair = sum(np.asarray(leaf)[0].nbytes for leaf in jax.tree.leaves(pairs))
    most = _BLOCK_BYTES // max(1, pairs_on_device * bytes_of_pair)
    return -(-per_epoch // -(-per_epoch // max(1, min(block_steps, most))))


def _order(training: Training, epoch: int, n_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs the steps of an epoch see, and which of them backwards, ``[n_steps, batch_size]``."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(training.seed), 1), epoch)
    key_order, key_time = jax.random.split(key)
    per_epoch, batch_size = n_batches(n_pairs, training), min(training.batch_size, n_pairs)
    order = jax.random.permutation(key_order, n_pairs)[: per_epoch * batch_size].reshape(per_epoch, batch_size)
    half = jnp.float32(0.5)  # a Python number would draw other bits in double precision
    backwards = jax.random.bernoulli(key_time, half, order.shape) & training.time_reversal
    return np.asarray(order), np.asarray(backwards)


def _place(pairs: Any, order: np.ndarray, backwards: np.ndarray, size: int, devices: Mesh) -> Batch:
    """The batches of some steps on the devices, padded to ``size`` steps and to equal shares of pairs."""
    steps = np.minimum(np.arange(size), len(order) - 1)
    order, weights = parallel.padded(order[steps], devices.size)
    turned = parallel.padded(backwards[steps], devices.size)[0].reshape(-1)
    flat = np.arange(order.size).reshape(order.shape)
    turned, weights = parallel.divide((turned, np.tile(weights, size)), flat, devices)
    return Batch(parallel.divide(pairs, order, devices), turned, weights)
