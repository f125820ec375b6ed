"""The fast product over neighbours and the tables against the plain formulations."""

import functools

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, perturbed, random_params, small_config

from ffmd_jax import layers, neighbors, products, tables
from ffmd_jax.state import Graph

IRREPS = [e3nn.Irrep(l, p) for l in range(3) for p in (-1, 1)]
N_ATOMS, N_NEIGHBORS, CHANNELS, N_RADIAL = 7, 5, 3, 4


def random_inputs(n_atoms=N_ATOMS, n_neighbors=N_NEIGHBORS, channels=CHANNELS):
    """Features of all irreps up to l = 2, edges with padding, radial functions and their mixture."""
    rng = np.random.default_rng(0)
    paths = products.coupling_paths(IRREPS, 2, 2)
    mask = rng.uniform(size=(n_atoms, n_neighbors)) < 0.8
    senders = jnp.asarray(rng.integers(0, n_atoms, mask.shape))
    graph = Graph(senders, jnp.zeros((*mask.shape, 3), jnp.int8), jnp.asarray(mask))
    vectors = jnp.asarray(rng.normal(size=(*mask.shape, 3)) * mask[..., None])
    edges = products.Edges(graph, layers.spherical_harmonics(vectors, 2))
    features = {irrep: jnp.asarray(rng.normal(size=(n_atoms, irrep.dim, channels))) for irrep in IRREPS}
    radial = jnp.asarray(rng.normal(size=(*mask.shape, N_RADIAL)) * mask[..., None])
    mix = jnp.asarray(rng.normal(size=(N_RADIAL, len(paths) * channels)))
    return features, edges, radial, mix, paths


def loss(convolution, features, edges, radial, mix, paths):
    """A scalar that weighs every output differently."""
    outputs = convolution(features, edges, radial, mix, paths)
    return sum(jnp.sum(x * jnp.cos(jnp.arange(x.size).reshape(x.shape))) for x in outputs.values()), outputs


@functools.lru_cache
def gradient_and_outputs(convolution):
    features, edges, radial, mix, paths = random_inputs()

    def of(features, harmonics, radial, mix):
        return loss(convolution, features, edges._replace(harmonics=harmonics), radial, mix, paths)

    gradient = jax.grad(of, argnums=(0, 1, 2, 3), has_aux=True)
    # Compilation is all of the time of this test; less of it.
    compiled = jax.jit(gradient, compiler_options={"xla_backend_optimization_level": 0})
    return compiled(features, edges.harmonics, radial, mix)


@pytest.mark.parametrize("block", [1, 3, N_ATOMS])
def test_blocks_of_any_size_give_the_numbers_and_gradients_of_e3nn(block):
    gradient, outputs = gradient_and_outputs(functools.partial(products.edge_convolution, block=block))
    expected_gradient, expected = gradient_and_outputs(products.by_e3nn)
    assert outputs.keys() == expected.keys()
    for irrep, values in expected.items():
        assert np.abs(values).max() > 0.1
        np.testing.assert_allclose(outputs[irrep], values, atol=1e-12)
    for found, values in zip(*map(jax.tree.leaves, (gradient, expected_gradient)), strict=True):
        np.testing.assert_allclose(found, values, atol=1e-12 * np.abs(values).max())


def test_memory_holds_no_array_of_edges_paths_and_channels():
    n_atoms, n_neighbors, channels = 2048, 16, 16
    features, edges, radial, mix, paths = random_inputs(n_atoms, n_neighbors, channels)
    compiled = jax.jit(lambda *x: products.edge_convolution(*x, paths)).lower(features, edges, radial, mix).compile()
    held = compiled.memory_analysis()
    outputs = n_atoms * sum(path.out.dim for path in paths) * channels * 8
    weights = n_atoms * n_neighbors * len(paths) * channels * 8
    assert held is not None
    assert held.temp_size_in_bytes < 2.5 * outputs < weights


def test_paths_follow_the_order_of_the_reference():
    paths = products.coupling_paths([e3nn.Irrep("0e"), e3nn.Irrep("1o")], 1, 1)
    assert [(str(path.first), path.l, str(path.out)) for path in paths] == [
        ("0e", 0, "0e"), ("1o", 1, "0e"), ("0e", 1, "1o"), ("1o", 0, "1o"), ("1o", 1, "1e"),
    ]  # fmt: skip


def test_one_step_with_tables_is_exact_to_a_hundred_thousandth():
    config = small_config(layers=1)
    assert 0 < tables.step_error(config, random_params(config)) < 1e-5


def test_networks_that_tables_do_not_resolve_are_kept():
    config = small_config()
    rough = jax.tree.map(jnp.copy, random_params(config))
    rough["layer0"]["radial"]["layer0"] = rough["layer0"]["radial"]["layer0"] * 1e4  # wiggles
    tabulated = tables.tabulate(config, rough, 1e-9)
    assert tabulated["layer0"]["radial"].keys() == rough["layer0"]["radial"].keys()
    assert "spline" in tabulated["layer1"]["radial"]
    again = tables.tabulate(config, tabulated)
    assert again["layer1"]["radial"] is tabulated["layer1"]["radial"]


def test_tables_vanish_smoothly_at_the_cutoff_and_stay_finite_at_zero_distance():
    config = small_config()
    tabulated = tables.tabulate(config, random_params(config))["layer0"]["radial"]
    distances = jnp.array([[0.0, 0.2, 0.5, 3.0, 4.0 - 1e-9, 4.0, 5.0]])
    lengths = layers.Lengths(distances, distances < 4.5, distances[..., None])
    values = np.asarray(layers.evaluate_spline(tabulated["spline"], lengths, 0.5, 4.0))[0]
    np.testing.assert_array_equal(values[0], values[2])
    assert np.abs(values[3]).max() > 1e-3
    np.testing.assert_allclose(values[4:], 0.0, atol=1e-9 * np.abs(values[3]).max())


def test_tables_need_no_more_functions_than_the_hidden_layer_has():
    config = small_config()
    for layer in (tables.tabulate(config, random_params(config))[f"layer{i}"]["radial"] for i in range(2)):
        assert layer["spline"].shape[1:] == (4, len(layer["mix"]))
        assert len(layer["mix"]) <= config.architecture.radial_hidden[-1]


def test_selected_graph_gives_the_same_step():
    config, params = small_config(), random_params(small_config())
    system, state = perturbed()
    search = neighbors.plan(system, state.positions, config.architecture.cutoff, skin=0.5, select=True)
    table = neighbors.build(search, system, state.positions)
    graph, too_many = neighbors.select(search, system, state.positions, table)
    assert not too_many
    assert graph.mask.shape[1] < table.graph.mask.shape[1]
    network = compiled(config, "network")
    np.testing.assert_allclose(
        network(params, system, state, graph), network(params, system, state, table.graph), atol=1e-13
    )
