"""Symmetries and conservation laws of the network and its propagator, in float64, on random weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, graph_of, perturbed, random_params, small_config
from scipy.spatial.transform import Rotation

from ffmd_jax.core import conservation, mechanics
from ffmd_jax.core.state import Graph, State, cast
from ffmd_jax.models import layers, model, trajcast

KINDS = ["crystal", "molecule"]
# Relative to outputs of order one; float64 sums of some hundred terms.
TOLERANCE = 1e-11


def setup(kind, **sizes):
    periodic = kind == "crystal"
    config = small_config(periodic, **sizes)
    system, state = perturbed(periodic)
    return config, random_params(config), system, state


def network(config, params, system, state, **padding):
    """Output ``[n_atoms, 2, 3]`` on freshly built neighbours."""
    return compiled(config, "network")(params, system, state, graph_of(config, system, state, **padding))


def turned(state, matrix):
    return State(*(values @ matrix.T for values in state))


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_network_is_equivariant_under_rotation_and_inversion(kind, improper):
    config, params, system, state = setup(kind)
    matrix = Rotation.random(rng=1).as_matrix() * (-1 if improper else 1)
    output, output_turned = (network(config, params, system, s) for s in (state, turned(state, matrix)))
    assert np.abs(output).max() > 0.01
    assert np.abs(output_turned - output).max() > 0.01  # the rotation does something
    np.testing.assert_allclose(output_turned, output @ matrix.T, atol=TOLERANCE * np.abs(output).max())


@pytest.mark.parametrize(
    "option",
    [
        {"velocity_input": True, "natural_parity": True, "bounded_gates": True},
        {"lmax": 2, "layers": 1},
    ],
)
def test_options_keep_equivariance(option):
    config, params, system, state = setup("crystal", **option)
    matrix = -Rotation.random(rng=2).as_matrix()
    output, output_turned = (network(config, params, system, s) for s in (state, turned(state, matrix)))
    np.testing.assert_allclose(output_turned, output @ matrix.T, atol=TOLERANCE * np.abs(output).max())


def test_activation_of_bounded_gates_has_second_moment_one():
    places, weights = np.polynomial.hermite_e.hermegauss(200)
    assert np.average(layers.sigmoid(jnp.asarray(places)) ** 2, weights=weights) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("bounded, power", [(False, 2), (True, 1)])
def test_silu_gates_square_large_features_and_bounded_gates_do_not(bounded, power):
    rng = np.random.default_rng(0)
    scalars, vectors = rng.normal(size=(50, 1, 8)), rng.normal(size=(50, 3, 4))

    def largest(scale):
        features = {layers.EVEN_SCALAR: jnp.asarray(scale * scalars), layers.VECTOR: jnp.asarray(scale * vectors)}
        return float(jnp.max(jnp.abs(layers.gate(features, 4, bounded)[layers.VECTOR])))

    assert largest(1e4) / largest(1e2) == pytest.approx(100**power, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_network_is_invariant_under_translation_padding_and_lattice_shifts(kind):
    config, params, system, state = setup(kind)
    output = network(config, params, system, state)
    moved = state._replace(positions=state.positions + jnp.array([0.3, -1.2, 2.0]))
    np.testing.assert_allclose(network(config, params, system, moved), output, atol=TOLERANCE * np.abs(output).max())
    padded = network(config, params, system, state, capacity=120)
    np.testing.assert_allclose(padded, output, atol=TOLERANCE * np.abs(output).max())
    if kind == "crystal":
        whole = np.random.default_rng(3).integers(-2, 3, (9, 3)) @ state.cell
        shifted = state._replace(positions=state.positions + whole)
        np.testing.assert_allclose(
            network(config, params, system, shifted), output, atol=TOLERANCE * np.abs(output).max()
        )


@pytest.mark.parametrize("kind", KINDS)
def test_network_is_equivariant_under_permutation(kind):
    config, params, system, state = setup(kind)
    order = np.random.default_rng(4).permutation(9)
    mixed = dataclasses.replace(system, species=system.species[order], masses=system.masses[order])
    output = network(config, params, system, state)
    moved = state._replace(positions=state.positions[order], velocities=state.velocities[order])
    output_mixed = network(config, params, mixed, moved)
    np.testing.assert_allclose(output_mixed, output[order], atol=TOLERANCE * np.abs(output).max())


def test_output_is_smooth_where_a_neighbour_crosses_the_cutoff():
    config, params, system, _ = setup("molecule")
    pair = dataclasses.replace(system, species=np.array([14, 8]), masses=np.array([28.085, 15.999]))
    velocities = jnp.asarray([[0.001, 0.002, 0.003], [-0.002, 0.001, 0.0]])
    graph = Graph(jnp.array([[1], [0]]), jnp.zeros((2, 1, 3), jnp.int8), jnp.ones((2, 1), bool))

    @jax.jit
    def along(distance):
        def output(distance):
            positions = jnp.stack([jnp.zeros(3), distance * jnp.array([0.6, 0.0, 0.8])])
            return compiled(config, "network")(params, pair, State(positions, velocities, jnp.eye(3)), graph)

        return jax.jvp(output, (distance,), (1.0,))

    near, slope_near = along(3.5)
    value, slope = along(4.0 - 1e-6)
    beyond, slope_beyond = along(4.0 + 1e-6)
    assert np.abs(slope_near).max() > 0
    np.testing.assert_allclose(value, beyond, atol=1e-9 * np.abs(near - beyond).max())
    np.testing.assert_allclose(slope, slope_beyond, atol=1e-6 * np.abs(slope_near).max())


def test_gradients_are_finite_for_atoms_at_rest_and_padding():
    config, params, system, state = setup("crystal")
    graph = graph_of(config, system, state)
    rest = state._replace(velocities=state.velocities.at[0].set(0.0))
    gradient = jax.grad(lambda s: jnp.sum(compiled(config, "network")(params, system, s, graph) ** 2))(rest)
    assert not graph.mask.all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("kind", KINDS)
def test_propagator_conserves_momenta_and_moves_the_centre_of_mass(kind):
    config, params, system, state = setup(kind)
    state = state._replace(velocities=state.velocities + jnp.array([0.001, -0.002, 0.0005]))  # P ≠ 0
    after = compiled(config, "propagate")(params, system, state, graph_of(config, system, state))
    momentum = mechanics.linear_momentum(system, state.velocities)
    np.testing.assert_allclose(mechanics.linear_momentum(system, after.velocities), momentum, atol=1e-14)
    moved = mechanics.center_of_mass(system, after.positions - state.positions)
    np.testing.assert_allclose(moved, momentum / system.masses.sum() * config.time_step_fs, atol=1e-13)
    assert np.abs(after.velocities - state.velocities).max() > 1e-4
    if kind == "molecule":
        np.testing.assert_allclose(
            mechanics.angular_momentum(system, after), mechanics.angular_momentum(system, state), atol=1e-12
        )


def test_single_precision_stays_single_under_x64():
    config, _, system, state = setup("crystal")
    single = cast(state, jnp.float32)
    params = trajcast.init(jax.random.key(0), config)
    system = cast(system, jnp.float32)
    after = compiled(config, "propagate")(params, system, single, graph_of(config, system, single))
    assert after.positions.dtype == after.velocities.dtype == jnp.float32


def test_paper_size_has_as_many_weights_as_published():
    config = small_config(lmax=2, channels=64, layers=4)
    sizes = type(config.architecture)(cutoff=4.5)
    config = type(config)(**{**vars(config), "architecture": sizes})
    shapes = jax.eval_shape(lambda: trajcast.init(jax.random.key(0), config))
    assert 2.1e6 < sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) < 2.3e6


def test_foreign_elements_and_masses_are_refused():
    config, _, system, _ = setup("crystal")
    with pytest.raises(ValueError, match="the structure holds C"):
        model.check_system(config, dataclasses.replace(system, species=np.where(system.species == 8, 6, 14)))
    with pytest.raises(ValueError, match="has mass"):
        model.check_system(config, dataclasses.replace(system, masses=system.masses * 2))
    with pytest.raises(ValueError, match="isolated"):
        model.check_system(small_config(periodic=False), system)


def test_spherical_harmonics_are_component_normalised_and_ordered_xyz():
    vector = jnp.array([0.3, -0.5, 0.8])
    harmonics = np.split(layers.spherical_harmonics(vector, 3), [1, 4, 9])
    unit = vector / jnp.linalg.norm(vector)
    np.testing.assert_allclose(harmonics[1], np.sqrt(3) * unit, rtol=1e-12)
    for l, y in enumerate(harmonics):
        np.testing.assert_allclose(jnp.sum(y**2), 2 * l + 1, rtol=1e-12)
    assert not np.any(layers.spherical_harmonics(jnp.zeros(3), 3)[1:])


def test_linear_correction_is_exact_for_any_prediction():
    system, before = perturbed()
    rng = np.random.default_rng(5)
    after = State(before.positions + rng.normal(size=(9, 3)), jnp.asarray(rng.normal(size=(9, 3))), before.cell)
    fixed = conservation.momenta(10.0)(system, before, after)
    assert np.abs(conservation.momentum_error(system, before, fixed)).max() < 5e-14  # rounding
    assert np.abs(conservation.momentum_error(system, before, after)).max() > 1e-2
