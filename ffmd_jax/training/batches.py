"""Batches of training pairs, and the order in which a training sees them.

Systems of different sizes are padded to a few, the buckets; a step learns from pairs of one of them.
Pairs stay in the memory of the host, so that a dataset need not fit a device: of every block of batches, a process
places what its devices need.  Neighbour tables are built on the devices, where they are used.  The order depends on
seed and step alone, so that a resumed training repeats what an uninterrupted one would have done, on any number of
devices.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import Array, State, System, cast, take
from ffmd_jax.data.pairs import Pairs, count
from ffmd_jax.training import parallel
from ffmd_jax.training.settings import Training

_BLOCK_BYTES = 2**28  # of the batches on a device at a time, at most


_MOST_BUCKETS, _WASTE = 4, 1.25  # of systems of different sizes: how many at most, and what padding may cost


class Bucket(NamedTuple):
    """Examples of systems of similar size, padded to one; on the host.

    Attributes:
        systems: single precision, ``[n_systems, n_atoms]``; padding is of element and mass 0.
        groups: which group of the dataset each of them is.
        which: of the systems is that of each example, ``[n_examples]``.
        examples: `Pairs`, or the labelled frames of a potential, ``[n_examples, …]``.
        labels: of each example, ``[n_examples]``: those of a batch are equal.  Δt in fs of a family, else 0.
    """

    systems: System
    groups: np.ndarray
    which: np.ndarray
    examples: Any
    labels: np.ndarray

    def of_examples(self) -> System:
        """The system of each example."""
        return jax.tree.map(lambda values: values[self.which], self.systems)


class Batch(NamedTuple):
    """What an optimizer step learns from, ``[n_pairs, …]``.

    Attributes:
        systems: of each pair.
        pairs: `Pairs`, or the labelled frames of a potential.
        backwards: which to reverse in time, bool.
        weights: in the mean; they sum to 1, and padding has 0.
        labels: of each pair, all equal.
    """

    systems: System
    pairs: Any
    backwards: Array
    weights: Array
    labels: Array


class Block(NamedTuple):
    """Batches of successive optimizer steps of one epoch.

    Attributes:
        batches: of each bucket, ``[block_steps, n_pairs, …]``, on the devices.
        order: which of the buckets a step takes its batch from, ``[block_steps]``.
        n_steps: how many of them to use; the others are padding.
        ends_epoch: True for the last block of an epoch.
    """

    batches: tuple[Batch, ...]
    order: np.ndarray
    n_steps: int
    ends_epoch: bool


def buckets(
    systems: Sequence[System],
    examples: Sequence[Any],
    pad: Callable[[Any, int], Any],
    labels: Sequence[float] | None = None,
) -> tuple[Bucket, ...]:
    """The examples of some systems in few buckets, each of one size; a linear molecule is not with others.

    Args:
        examples: of each system; perhaps none.
        pad: ``(examples, n_atoms) -> examples`` with atoms added.
        labels: of the examples of each system.
    """
    labels = [0.0] * len(systems) if labels is None else labels
    kinds: dict[Any, list[int]] = {}
    for i, system in enumerate(systems):
        if count(examples[i]):
            kinds.setdefault((system.pbc, system.linear), []).append(i)
    found = []
    for members in kinds.values():
        sizes = [len(systems[i].species) for i in members]
        low = 0
        for high in _sizes(np.array(sizes), np.array([count(examples[i]) for i in members])):
            own = [i for i, size in zip(members, sizes, strict=True) if low < size <= high]
            parts = [systems[i] for i in own], [examples[i] for i in own], [labels[i] for i in own]
            found.append(_bucket(*parts, own, high, pad))
            low = high
    return tuple(found)


def _sizes(sizes: np.ndarray, counts: np.ndarray) -> tuple[int, ...]:
    """Numbers of atoms to pad systems to: as few as waste no more than a quarter; work grows as atoms × neighbours."""

    def work(padded: tuple[int, ...]) -> float:
        return float(np.sum(counts * np.array(padded, np.float64)[np.searchsorted(padded, sizes)] ** 1.5))

    different = np.unique(sizes)
    least, best = work(tuple(different)), (int(different[-1]),)
    for n in range(1, _MOST_BUCKETS + 1):
        if n > len(different) or work(best) <= _WASTE * least:
            break
        inner = itertools.combinations(different[:-1].tolist(), n - 1)
        best = min(((*chosen, int(different[-1])) for chosen in inner), key=work)
    return best


def _bucket(
    systems: list[System], examples: list[Any], labels: list[float], groups: list[int], size: int, pad: Callable
) -> Bucket:
    padded = any(len(system.species) < size for system in systems)
    singles = [
        dataclasses.replace(jax.tree.map(np.asarray, cast(system, jnp.float32)), padded=padded) for system in systems
    ]
    stacked = jax.tree.map(lambda *x: np.stack([np.pad(values, (0, size - len(values))) for values in x]), *singles)
    filled = [x if len(s.species) == size else pad(x, size) for x, s in zip(examples, systems, strict=True)]
    joined = filled[0] if len(filled) == 1 else jax.tree.map(lambda *x: np.concatenate(x), *filled)
    which = np.repeat(np.arange(len(systems)), [count(x) for x in examples])
    return Bucket(stacked, np.array(groups), which, joined, np.array(labels, np.float32)[which])


def by_label(bucket: Bucket) -> list[tuple[float, Bucket]]:
    """The bucket in parts of one label each; the systems of all stay."""
    found = []
    for label in np.unique(bucket.labels):
        rows = bucket.labels == label
        which, examples = bucket.which[rows], take(bucket.examples, rows)
        found.append((float(label), bucket._replace(which=which, examples=examples, labels=bucket.labels[rows])))
    return found


def search(bucket: Bucket, states: State, cutoff: float, *margins: float, select: bool = False) -> neighbors.Search:
    """The neighbour search that has room for some states of each example of a bucket, ``[n·n_examples, …]``.

    Cutoff in Å; ``margins`` and ``select`` as `neighbors.plan`.
    """
    n_systems, n = len(bucket.groups), len(states.positions) // len(bucket.which)
    if n_systems == 1:
        system = take(bucket.systems, 0)
    else:
        system = jax.tree.map(lambda values: np.concatenate([values] * n), bucket.of_examples())
    return neighbors.plan(system, states, cutoff, *margins, select=select)


def pair_search(bucket: Bucket, cutoff: float) -> neighbors.Search:
    """The neighbour search that has room for both ends of all pairs; cutoff in Å."""
    pairs = bucket.examples
    positions = np.concatenate([pairs.state.positions, pairs.state.positions + pairs.displacements])
    return search(bucket, State(positions, positions, np.concatenate([pairs.state.cell] * 2)), cutoff)


def state_search(bucket: Bucket, cutoff: float) -> neighbors.Search:
    """The neighbour search that has room for all states; cutoff in Å."""
    return search(bucket, bucket.examples.state, cutoff)


def reverse(pair: Pairs) -> Pairs:
    """The pair with time running backwards: (r', −v') → (r, −v)."""
    end = State(pair.state.positions + pair.displacements, -pair.velocities, pair.state.cell)
    return Pairs(end, -pair.displacements, -pair.state.velocities)


def n_batches(of_epoch: Sequence[Bucket], training: Training) -> int:
    """Optimizer steps of an epoch; what remains of a shuffled bucket waits for the next."""
    return sum(_n_batches(bucket, training) for bucket in of_epoch)


def _n_batches(bucket: Bucket, training: Training) -> int:
    return sum(max(1, n // training.batch_size) for n in np.unique(bucket.labels, return_counts=True)[1].tolist())


def whole(bucket: Bucket, devices: Mesh) -> tuple[System, Any, Array, Array]:
    """All of a bucket, divided over the devices: systems, examples, their places in the bucket, weights.

    Weights are those in the mean of each system.
    """
    rows, real = parallel.padded(np.arange(count(bucket.examples)), devices.size)
    weights = ((real > 0) / np.bincount(bucket.which)[bucket.which[rows]]).astype(np.float32)
    which = bucket.which[rows]
    places = parallel.divide((which, weights), np.arange(len(rows)), devices)
    return (parallel.divide(bucket.systems, which, devices), parallel.divide(bucket.examples, rows, devices), *places)


def blocks(
    of_epoch: Sequence[Bucket], training: Training, done: int, block_steps: int, devices: Mesh
) -> Iterator[Block]:
    """The batches after ``done`` steps, in blocks of one length; without end."""
    per_epoch = n_batches(of_epoch, training)
    size = block_length(of_epoch, training, devices.size, block_steps)
    while True:
        epoch, place = divmod(done, per_epoch)
        order, batches = _order(of_epoch, training, epoch)
        for first in range(place, per_epoch, size):
            steps = np.minimum(np.arange(first, first + size), per_epoch - 1)
            n_steps = min(size, per_epoch - first)
            placed = [
                _place(bucket, rows[steps], backwards[steps], devices)
                for bucket, (rows, backwards) in zip(of_epoch, batches, strict=True)
            ]
            yield Block(tuple(placed), order[steps], n_steps, first + n_steps == per_epoch)
        done = (epoch + 1) * per_epoch


def block_length(of_epoch: Sequence[Bucket], training: Training, n_devices: int, block_steps: int) -> int:
    """Steps of a block: about ``block_steps``, fewer where they would fill a device, in equal parts of the epoch."""
    bytes_of_step = 0
    for bucket in of_epoch:
        of_example = sum(np.asarray(leaf)[0].nbytes for leaf in jax.tree.leaves(bucket.examples))
        bytes_of_step += of_example * -(-min(training.batch_size, count(bucket.examples)) // n_devices)
    most = _BLOCK_BYTES // max(1, bytes_of_step)
    per_epoch = n_batches(of_epoch, training)
    return -(-per_epoch // -(-per_epoch // max(1, min(block_steps, most))))


def _order(
    of_epoch: Sequence[Bucket], training: Training, epoch: int
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Which bucket each step of an epoch sees, ``[n_steps]``, and of each bucket, which examples and which backwards.

    The latter are ``[n_steps, batch_size]``; steps of other buckets hold the first batch.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(training.seed), 1), epoch)
    sizes = [_n_batches(bucket, training) for bucket in of_epoch]
    order = np.repeat(np.arange(len(sizes)), sizes)
    if len(sizes) > 1:
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 0), order))
    batches = []
    for i, bucket in enumerate(of_epoch):
        rows, backwards = _shuffled(key if i == 0 else jax.random.fold_in(key, i), bucket.labels, training)
        place = np.where(order == i, np.cumsum(order == i) - 1, 0)
        batches.append((rows[place], backwards[place]))
    return order.astype(np.int32), batches


def _shuffled(key: Array, labels: np.ndarray, training: Training) -> tuple[np.ndarray, np.ndarray]:
    """The batches of a bucket in an epoch, and which of their examples are backwards, ``[n_batches, batch_size]``."""
    kinds, counts = np.unique(labels, return_counts=True)
    if len(kinds) == 1:
        return _shuffled_alike(key, len(labels), training, min(training.batch_size, len(labels)))
    width, parts = min(training.batch_size, int(counts.min())), []
    for k, kind in enumerate(kinds):
        rows, backwards = _shuffled_alike(jax.random.fold_in(key, k), int(counts[k]), training, width)
        parts.append((np.flatnonzero(labels == kind)[rows], backwards))
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, len(kinds)), sum(len(r) for r, _ in parts)))
    rows, backwards = (np.concatenate(each)[order] for each in zip(*parts, strict=True))
    return rows, backwards


def _shuffled_alike(key: Array, n_examples: int, training: Training, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of examples of one label, ``width`` of them in a batch."""
    key_order, key_time = jax.random.split(key)
    n = max(1, n_examples // training.batch_size)
    order = jax.random.permutation(key_order, n_examples)[: n * width].reshape(n, width)
    half = jnp.float32(0.5)  # a Python number would draw other bits in double precision
    backwards = jax.random.bernoulli(key_time, half, order.shape) & training.time_reversal
    return np.asarray(order), np.asarray(backwards)


def _place(bucket: Bucket, order: np.ndarray, backwards: np.ndarray, devices: Mesh) -> Batch:
    """The batches of some steps on the devices, padded to equal shares of pairs."""
    rows, weights = parallel.padded(order, devices.size)
    turned = parallel.padded(backwards, devices.size)[0].reshape(-1)
    flat = np.arange(rows.size).reshape(rows.shape)
    turned, weights = parallel.divide((turned, np.tile(weights, len(rows))), flat, devices)
    systems, labels = (
        parallel.divide(*x, devices) for x in ((bucket.systems, bucket.which[rows]), (bucket.labels, rows))
    )
    return Batch(systems, parallel.divide(bucket.examples, rows, devices), turned, weights, labels)
