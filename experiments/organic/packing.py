"""Padding molecules to one size, or packing them into one graph: gradient of the network on one core.

    taskset -c 0 python experiments/organic/packing.py data/train.h5

Both without the conservation laws, whose cost is small; 32 channels, 4 layers, l ≤ 2, cutoff 4.5 Å, splines.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import Graph, State, System
from ffmd_jax.data import dataset_file
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.models import trajcast
from ffmd_jax.models.config import SMALL
from ffmd_jax.training import batches, scales, tasks

N, REPEATS = 24, 20


def timed(function, *arguments) -> float:
    """Shortest time of a call, ms, after compilation."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def main() -> None:
    data = dataset_file.read(sys.argv[1])
    groups = pair_sets.form(data, 4.0)
    config = scales.configure(groups, SMALL)
    rng = np.random.default_rng(0)
    chosen = [groups[i] for i in rng.choice(len(groups), N, replace=False)]
    one = [sets._replace(train=jax.tree.map(lambda x: x[:1], sets.train)) for sets in chosen]
    network = trajcast.TrajCast(config)
    params = trajcast.init(jax.random.key(0), config)
    sizes = [len(sets.system.species) for sets in one]

    def value(params, system, state, graph):
        return jnp.sum(jnp.asarray(network.apply({"params": params}, system, state, graph)) ** 2)

    total = 0.0
    for bucket in tasks.buckets(config, one, "train"):
        search = batches.pair_search(bucket, config.architecture.cutoff)

        def padded(params, systems, states, search=search):
            def single(system, state):
                return value(params, system, state, neighbors.build(search, system, state).graph)

            return jnp.sum(jax.vmap(single)(systems, states))

        took = timed(jax.jit(jax.grad(padded)), params, bucket.of_examples(), bucket.examples.state)
        print(f"padded to {bucket.systems.species.shape[1]} atoms: {len(bucket.which)} molecules, {took:.2f} ms")
        total += took
    print(f"padded, all: {total:.2f} ms for {sum(sizes)} atoms")

    species = np.concatenate([sets.system.species for sets in one])
    masses = np.concatenate([sets.system.masses for sets in one]).astype(np.float32)
    r = np.concatenate([sets.train.state.positions[0] for sets in one])
    v = np.concatenate([sets.train.state.velocities[0] for sets in one])
    of = np.repeat(np.arange(N), sizes)
    near = (np.linalg.norm(r[:, None] - r, axis=-1) < config.architecture.cutoff) & (of[:, None] == of)
    near &= ~np.eye(len(r), dtype=bool)
    width = int(near.sum(axis=1).max())
    senders = np.argsort(~near, axis=1, kind="stable")[:, :width].astype(np.int32)
    mask = np.take_along_axis(near, senders, axis=1)
    graph = Graph(np.where(mask, senders, 0), np.zeros((*senders.shape, 3), np.int8), mask)
    system, state = System(species, masses), State(r, v, np.eye(3, dtype=np.float32))
    took = timed(jax.jit(jax.grad(value)), params, system, state, graph)
    print(f"packed: {took:.2f} ms, without the neighbour tables")


if __name__ == "__main__":
    main()
