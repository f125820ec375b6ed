"""What a training makes of its pairs: reversed, with noise, from the network's own steps; and what it minimises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import springs

from ffmd_jax.core.state import State
from ffmd_jax.data import dataset
from ffmd_jax.models import config, trajcast
from ffmd_jax.training import batches, loop, settings
from ffmd_jax.training import losses as objective

CUTOFF = 4.5
SIZES = config.Architecture(cutoff=CUTOFF, lmax=1, channels=4, layers=1, radial_hidden=(8,), speed_hidden=(8,))


@pytest.fixture(scope="module")
def data():
    return springs(150, 2)


def test_reversed_pairs_run_backwards(data):
    batch = batches.make(data.system, jax.tree.map(lambda x: x[:2], data.validation), SIZES.cutoff)
    back = batches.reverse(batch)
    np.testing.assert_allclose(back.before.positions + back.displacements, batch.before.positions, atol=1e-5)
    np.testing.assert_array_equal(back.after.velocities, -batch.before.velocities)
    twice = batches.reverse(back)
    for a, b in zip(jax.tree.leaves(twice), jax.tree.leaves(batch), strict=True):
        np.testing.assert_array_equal(a, b)


def test_pairs_of_different_cells_are_learned_each_in_its_own(data):
    pairs, cells = jax.tree.map(lambda x: x[:4], data.train), np.float32([1.0, 1.1, 1.0, 1.2])[:, None, None]
    pairs = pairs._replace(cells=pairs.cells * cells)
    mixed = batches.make(data.system, pairs, CUTOFF)
    architecture = loop.model_config(data, SIZES)
    params = jax.tree.map(lambda x: 5 * x, trajcast.init(jax.random.key(0), architecture))  # messages matter
    loss = objective.make_loss(architecture, objective.single(data.system))
    losses = jax.vmap(loss, (None, 0))(params, mixed)[0]
    for i in range(4):
        system = data.system._replace(cell=pairs.cells[i])
        alone = batches.make(system, jax.tree.map(lambda x, i=i: x[i : i + 1], pairs), CUTOFF)
        n_edges = int(alone.graph_before.mask.sum())
        assert n_edges == mixed.graph_before.mask[i].sum() > 0
        pair = jax.tree.map(lambda x: x[0], alone)._replace(cell=np.zeros((3, 3)))
        propagate = trajcast.make_propagate(architecture, params)
        predicted = propagate(objective.single(system), pair.before, pair.graph_before)
        expected = 0.5 * np.mean(
            ((predicted.positions - pair.after.positions) / architecture.displacement_rms) ** 2
            + ((predicted.velocities - pair.after.velocities) / architecture.velocity_rms) ** 2
        )
        np.testing.assert_allclose(losses[i], expected, rtol=1e-4)
    counts = [int(mixed.graph_before.mask[i].sum()) for i in range(4)]
    assert counts[3] < counts[1] < counts[0]


def test_noise_moves_the_start_and_neither_the_end_nor_the_momenta(data):
    pairs = batches.make(data.system, jax.tree.map(lambda x: x[:150], data.train), CUTOFF)
    system, sigma = objective.single(data.system), State(np.float32(0.02), np.float32(3e-4))
    keys = jax.random.split(jax.random.key(0), 150)
    moved = jax.vmap(lambda key, pair: batches.perturb(key, system, pair, sigma))(keys, pairs)
    for pair in (moved, pairs):
        np.testing.assert_allclose(pair.before.positions + pair.displacements, pairs.after.positions, atol=2e-6)
    shifts, kicks = (np.asarray(a) - b for a, b in zip(moved.before, pairs.before, strict=True))
    for noise, width in ((shifts, sigma.positions), (kicks, sigma.velocities)):
        n_free = noise.size - 450  # the centre of mass of each stays
        variance = np.sum(noise.astype(float) ** 2) / n_free
        assert abs(variance / width**2 - 1) < 5 * np.sqrt(2 / n_free)
        np.testing.assert_allclose(noise.mean(axis=1), 0, atol=1e-2 * width)


def rotation(data):
    """The exact propagator of independent oscillators about the first frame, 0.2 rad a step, and a dataset of it."""
    sites, omega = data.train.state.positions[0], 0.01
    cos, sin = np.cos(0.2).item(), np.sin(0.2).item()

    def propagate(system, state, graph):
        away, speed = state.positions - sites, state.velocities
        return State(sites + away * cos + speed * (sin / omega), speed * cos - away * (sin * omega))

    states = [State(sites, data.train.state.velocities[0])]
    for _ in range(6):
        states.append(propagate(None, states[-1], None))
    positions, velocities = (np.stack(x).astype(np.float32) for x in zip(*states, strict=True))
    start = State(positions[:-1], velocities[:-1])
    part = dataset.Pairs(start, np.diff(positions, axis=0), velocities[1:], data.train.cells[:6])
    return propagate, dataclasses.replace(data, train=part)


@pytest.mark.parametrize("n_own", [0, 1, 2])
@pytest.mark.parametrize("backwards", [False, True])
def test_push_forward_starts_where_the_own_steps_lead_and_ends_where_the_truth_is(data, n_own, backwards):
    propagate, exact = rotation(data)
    rows = batches.chains(exact.train, 3)
    np.testing.assert_array_equal(rows, np.arange(4)[:, None] + np.arange(3))
    table = batches.make(exact.system, exact.train, CUTOFF)
    chain = jax.tree.map(lambda x: jnp.asarray(x)[rows[1]], table)
    truth = jax.tree.map(lambda x: x[rows[1][-1]], table)
    if backwards:
        chain, truth = batches.reverse_chain(chain), batches.reverse(jax.tree.map(lambda x: x[rows[1][0]], table))
    same = batches.push_forward(propagate, exact.system, chain, jnp.int32(n_own))
    for a, b in zip((*same.before, same.displacements), (*truth.before, truth.displacements), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)

    def slower(system, state, graph):
        after = propagate(system, state, graph)
        return after._replace(velocities=0.9 * after.velocities)

    pair = batches.push_forward(slower, exact.system, chain, jnp.int32(n_own))
    np.testing.assert_allclose(pair.before.positions + pair.displacements, truth.after.positions, atol=1e-5)
    expected = jax.tree.map(lambda x: x[2 - n_own], chain.before)
    for _ in range(n_own):
        expected = slower(None, expected, None)
    for a, b in zip(pair.before, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert np.array_equal(pair.before.velocities, truth.before.velocities) == (n_own == 0)


def test_push_forward_needs_pairs_that_follow_each_other(data):
    with pytest.raises(ValueError, match=r"--push-forward 1 needs .* without --stride-fs and --train-pairs"):
        batches.chains(data.train, 2)


def test_squared_errors_count_by_the_masses_of_the_atoms(data):
    masses = np.tile(np.float32([1.0, 16.0, 4.0]), len(data.system.masses))[: len(data.system.masses)]
    system = objective.single(data.system._replace(masses=masses))
    model_config = dataclasses.replace(loop.model_config(data, SIZES), masses=(4.0,))
    pair = jax.tree.map(lambda x: jnp.asarray(x[0]), batches.make(data.system, data.validation, CUTOFF))
    params = loop.initial(model_config, settings.Training(optimizer="adam"), 10).params
    after = jax.jit(trajcast.make_propagate(model_config, params))(system, pair.before, pair.graph_before)
    squares = np.sum(
        (np.asarray(after.positions - pair.after.positions) / model_config.displacement_rms) ** 2
        + (np.asarray(after.velocities - pair.after.velocities) / model_config.velocity_rms) ** 2,
        axis=-1,
    )
    for weighted, weights in ((True, masses * np.mean(1 / masses)), (False, np.ones_like(masses))):
        loss = jax.jit(objective.make_loss(model_config, system, mass_weighting=weighted))
        np.testing.assert_allclose(loss(params, pair)[0], 0.5 * np.mean(weights * squares) / 3, rtol=1e-4)


def test_penalty_adds_the_squared_relative_error_of_the_kinetic_energy(data):
    model_config, system = loop.model_config(data, SIZES), objective.single(data.system)
    pair = jax.tree.map(lambda x: x[0], batches.make(data.system, data.validation, CUTOFF))
    params = loop.initial(model_config, settings.Training(optimizer="adam"), 10).params
    plain, penalised = (
        jax.jit(objective.make_loss(model_config, system, kinetic_energy_penalty=weight)) for weight in (0.0, 2.0)
    )
    predicted = jax.jit(trajcast.make_propagate(model_config, params))(system, pair.before, pair.graph_before)
    ratio = np.sum(np.asarray(predicted.velocities) ** 2) / np.sum(pair.after.velocities**2)  # of equal masses
    assert abs(ratio - 1) > 1e-3
    np.testing.assert_allclose(penalised(params, pair)[0] - plain(params, pair)[0], 2 * (ratio - 1) ** 2, rtol=1e-3)
