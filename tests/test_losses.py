"""What a training minimises: pairs and reversed pairs, each in its own cell, weighted by masses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import springs

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import take
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.models import config, trajcast
from ffmd_jax.training import batches, loop, losses, scales, settings

CUTOFF = 4.5
SIZES = config.Architecture(cutoff=CUTOFF, lmax=1, channels=4, layers=1, radial_hidden=(8,), speed_hidden=(8,))


@pytest.fixture(scope="module")
def sets():
    return pair_sets.form(springs(150, 2))[0]


def test_reversed_pairs_run_backwards(sets):
    pairs = sets.validation
    back = batches.reverse(pairs)
    end = pairs.state.positions + pairs.displacements
    np.testing.assert_array_equal(back.state.positions, end)
    np.testing.assert_allclose(back.state.positions + back.displacements, pairs.state.positions, atol=1e-5)
    np.testing.assert_array_equal(back.state.velocities, -pairs.velocities)
    np.testing.assert_array_equal(back.velocities, -pairs.state.velocities)
    twice = batches.reverse(back)
    for a, b in zip(jax.tree.leaves(twice), jax.tree.leaves(pairs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def expected_loss(model_config, params, system, pair, weights=1.0):
    """The loss of a pair in double precision, on a neighbour list of its own."""
    graph = neighbors.build(neighbors.plan(system, pair.state, CUTOFF), system, pair.state).graph
    after = jax.jit(trajcast.make_propagate(model_config, params))(system, pair.state, graph)
    squares = np.sum(
        (np.asarray(after.positions - pair.state.positions - pair.displacements) / model_config.displacement_rms) ** 2
        + (np.asarray(after.velocities - pair.velocities) / model_config.velocity_rms) ** 2,
        axis=-1,
    )
    return 0.5 * np.mean(weights * squares) / 3, graph


def bucket_of(sets, pairs):
    return batches.buckets([sets.system], [pairs], pair_sets.padded)[0]


@pytest.mark.slow
def test_pairs_of_different_cells_are_learned_each_in_its_own(sets):
    pairs, wider = take(sets.train, slice(4)), np.float32([1.0, 1.1, 1.0, 1.2])[:, None, None]
    pairs = pairs._replace(state=pairs.state._replace(cell=pairs.state.cell * wider))
    model_config, bucket = scales.configure([sets], SIZES), bucket_of(sets, pairs)
    system = take(bucket.systems, 0)
    params = jax.tree.map(lambda x: 5 * x, trajcast.init(jax.random.key(0), model_config))  # messages matter
    loss = losses.make_loss(model_config, batches.pair_search(bucket, CUTOFF))
    found, n_edges = jax.vmap(loss, (None, None, 0))(params, system, pairs)[0], []
    for i in range(4):
        expected, graph = expected_loss(model_config, params, system, jax.tree.map(jnp.asarray, take(pairs, i)))
        np.testing.assert_allclose(found[i], expected, rtol=1e-4)
        n_edges.append(int(graph.mask.sum()))
    assert 0 < n_edges[3] < n_edges[1] < n_edges[0]


@pytest.mark.slow
def test_squared_errors_count_by_the_masses_of_the_atoms(sets):
    masses = np.tile(np.float32([1.0, 16.0, 4.0]), len(sets.system.masses))[: len(sets.system.masses)]
    model_config = dataclasses.replace(scales.configure([sets], SIZES), masses=(4.0,))
    sets = sets._replace(system=dataclasses.replace(sets.system, masses=masses))
    bucket = bucket_of(sets, sets.validation)
    system = take(bucket.systems, 0)
    pair = jax.tree.map(jnp.asarray, take(sets.validation, 0))
    params = loop.initial(model_config, settings.Training(optimizer="adam"), 10).params
    search = batches.pair_search(bucket, CUTOFF)
    mean = scales.mean_inverse_mass([sets])
    np.testing.assert_allclose(mean, np.mean(1 / masses), rtol=1e-6)
    for inverse_mass, weights in ((mean, masses * np.mean(1 / masses)), (None, np.ones_like(masses))):
        loss = jax.jit(losses.make_loss(model_config, search, inverse_mass=inverse_mass))
        expected, _ = expected_loss(model_config, params, system, pair, weights)
        np.testing.assert_allclose(loss(params, system, pair)[0], expected, rtol=1e-4)


def test_the_search_of_a_training_has_room_for_every_state_that_may_come(sets):
    """Both ends of every pair: a neighbour that does not fit would be left out in silence."""
    bucket = bucket_of(sets, sets.train)
    system, search = take(bucket.systems, 0), batches.pair_search(bucket, CUTOFF)
    build = jax.jit(jax.vmap(lambda state: neighbors.build(search, system, state)))
    back = batches.reverse(sets.train)
    tables = [build(jax.tree.map(jnp.asarray, states)) for states in (sets.train.state, back.state)]
    assert not any(np.any(table.overflow) for table in tables)
    most = max(int(np.max(np.sum(table.graph.mask, axis=-1))) for table in tables)
    assert search.capacity - 4 < most <= search.capacity


def test_noise_of_rounding_does_not_enter_displacements():
    """Displacements are formed in double precision: far from the origin, single precision has none of their digits."""
    data = springs(8, 2)
    far = [
        run._replace(frames=run.frames._replace(positions=run.frames.positions + 1e4)) for run in data.groups[0].runs
    ]
    moved = dataclasses.replace(data, groups=(data.groups[0]._replace(runs=tuple(far)),))
    expected, found = (pair_sets.form(one)[0].train.displacements for one in (data, moved))
    np.testing.assert_allclose(found, expected, atol=1e-8)
