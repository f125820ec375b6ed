"""The fast product over neighbours and the tables against the plain formulations."""

import functools

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, perturbed, random_params, small_config

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import Graph, cast
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.models import cpu_kernel, layers, radial_tables, splines, tpu_convolution

IRREPS = [e3nn.Irrep(l, p) for l in range(3) for p in (-1, 1)]
N_ATOMS, N_NEIGHBORS, CHANNELS, N_RADIAL, N_INTERVALS = 7, 5, 3, 4, 6


def random_inputs(kind="table", n_atoms=N_ATOMS, n_neighbors=N_NEIGHBORS, channels=CHANNELS, irreps=IRREPS, lmax=2):
    """Features of all irreps up to l = 2, edges with padding, weights that are a table or a mixture."""
    rng = np.random.default_rng(0)
    paths = convolutions.coupling_paths(irreps, lmax, lmax)
    mask = rng.uniform(size=(n_atoms, n_neighbors)) < 0.8
    senders = jnp.asarray(rng.integers(0, n_atoms, mask.shape))
    graph = Graph(senders, jnp.zeros((*mask.shape, 3), jnp.int8), jnp.asarray(mask))
    vectors = jnp.asarray(rng.normal(size=(*mask.shape, 3)) * mask[..., None])
    edges = convolutions.Edges(graph, layers.spherical_harmonics(vectors, lmax), 3.7)
    features = {irrep: jnp.asarray(rng.normal(size=(n_atoms, irrep.dim, channels))) for irrep in irreps}
    if kind == "table":
        coefficients = rng.normal(size=(len(paths), N_INTERVALS + 3, channels))
        radial = layers.Table(jnp.asarray(rng.uniform(0, N_INTERVALS, mask.shape)), jnp.asarray(coefficients))
    else:
        functions = rng.normal(size=(*mask.shape, N_RADIAL)) * mask[..., None]
        mix = rng.normal(size=(N_RADIAL, len(paths) * channels))
        radial = layers.Mixture(jnp.asarray(functions), jnp.asarray(mix))
    return features, edges, radial, paths


def loss(convolution, features, edges, radial, paths):
    """A scalar that weighs every output differently."""
    outputs = convolution(features, edges, radial, paths)
    return sum(jnp.sum(x * jnp.cos(jnp.arange(x.size).reshape(x.shape))) for x in outputs.values()), outputs


@functools.lru_cache
def gradient_and_outputs(convolution, kind="table", systems=0):
    """Of one random system, or of the mean over several by vmap, with one table for all; in float64."""
    features, edges, radial, paths = random_inputs(kind)

    def of(features, harmonics, radial):
        return loss(convolution, features, edges._replace(harmonics=harmonics), radial, paths)

    def of_several(features, harmonics, radial):
        turned = jax.tree.map(lambda x: jnp.stack([jnp.roll(x, i, 0) for i in range(systems)]), (features, harmonics))
        values, outputs = jax.vmap(of, in_axes=(0, 0, None))(*turned, radial)
        return jnp.mean(values), outputs

    gradient = jax.grad(of_several if systems else of, argnums=(0, 1, 2), has_aux=True)
    # Compilation is all of the time of this test; less of it.
    compiled = jax.jit(gradient, compiler_options={"xla_backend_optimization_level": 0})
    return compiled(features, edges.harmonics, radial)


def assert_same(found, expected):
    """Gradients and outputs agree to rounding, and no output is near zero."""
    assert min(np.abs(values).max() for values in found[1].values()) > 0.1
    for values, others in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(values, others, atol=1e-12 * np.abs(others).max())


@pytest.mark.parametrize(("kind", "block"), [("mixture", 1), ("mixture", 3), ("table", 3), ("table", N_ATOMS)])
def test_blocks_of_any_size_give_the_numbers_and_gradients_of_e3nn(kind, block):
    blocks = functools.partial(convolutions.by_blocks, block=block)
    assert_same(gradient_and_outputs(blocks, kind), gradient_and_outputs(convolutions.by_e3nn, kind))


@pytest.mark.parametrize(("kind", "systems"), [("mixture", 0), ("table", 2)])
def test_the_tpu_kernel_gives_the_numbers_and_gradients_of_e3nn(kind, systems):
    """Interpreted; with several systems by vmap, whose gradients of the table are added."""
    irreps = [e3nn.Irrep(l, (-1) ** l) for l in range(3 if kind == "mixture" else 2)]
    features, edges, radial, paths = random_inputs(kind, 4, 3, 2, irreps, len(irreps) - 1)
    paths = [path for path in paths if path.out in irreps]

    def of(convolution, features, harmonics, radial):
        if kind == "mixture":  # whose functions are zero where there is no neighbour, by definition
            radial = radial._replace(functions=radial.functions * edges.graph.mask[..., None])
        if not systems:
            return loss(convolution, features, edges._replace(harmonics=harmonics), radial, paths)
        turned = jax.tree.map(lambda x: jnp.stack([jnp.roll(x, i, 0) for i in range(systems)]), (features, harmonics))
        one = lambda x, y: loss(convolution, x, edges._replace(harmonics=y), radial, paths)  # noqa: E731
        values, outputs = jax.vmap(one)(*turned)
        return jnp.mean(values), outputs

    made = coefficients_of(radial, len(paths))
    found, expected = (
        jax.jit(jax.grad(functools.partial(of, f), argnums=(0, 1, 2), has_aux=True))(features, edges.harmonics, made)
        for f in (functools.partial(tpu_convolution.by_tpu_kernel, interpret=True), convolutions.by_e3nn)
    )
    assert_same(found, expected)


def coefficients_of(radial, n_paths):
    """The weights of the first paths alone."""
    if isinstance(radial, layers.Table):
        return radial._replace(coefficients=radial.coefficients[:n_paths])
    return radial._replace(mix=radial.mix[:, : n_paths * 2])


@pytest.mark.kernel
@pytest.mark.parametrize("systems", [0, 3])
def test_the_kernel_gives_the_numbers_and_gradients_of_e3nn(systems):
    found, expected = (gradient_and_outputs(f, systems=systems) for f in (convolutions.by_kernel, convolutions.by_e3nn))
    assert_same(found, expected)


@pytest.mark.kernel
def test_gradients_of_several_systems_where_only_some_outputs_are_used():
    # The gradient of the others is a zero without the systems' axis.
    features, edges, radial, paths = random_inputs()
    many = jax.tree.map(lambda x: jnp.stack([jnp.roll(x, i, 0) for i in range(40)]), features)

    def of_vectors(convolution, features):
        outputs = jax.vmap(lambda x: convolution(x, edges, radial, paths))(features)
        return jnp.sum(jnp.sin(outputs[layers.VECTOR]))

    found, expected = (
        jax.jit(jax.grad(functools.partial(of_vectors, convolution)))(many)
        for convolution in (convolutions.by_kernel, convolutions.by_blocks)
    )
    for values, others in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(values, others, atol=1e-12 * np.abs(others).max())


@pytest.mark.kernel
@pytest.mark.parametrize(("l", "channels"), [(1, 16), (1, 40), (3, 17)])
def test_the_kernel_takes_any_channels_and_l_up_to_three_in_single_precision(l, channels):
    irreps = [e3nn.Irrep(k, (-1) ** k) for k in range(l + 1)]
    features, edges, radial, paths = random_inputs("table", 33, 6, channels, irreps, l)
    single = cast((features, edges, radial), jnp.float32)
    found = jax.jit(lambda *x: convolutions.by_kernel(*x, paths))(*single)
    expected = jax.jit(lambda *x: convolutions.by_blocks(*x, paths))(features, edges, radial)
    for irrep, values in expected.items():
        assert found[irrep].dtype == jnp.float32
        np.testing.assert_allclose(found[irrep], values, atol=1e-5 * np.abs(values).max())


@pytest.mark.kernel
def test_arrays_of_different_precision_are_refused_in_one_line():
    features, edges, radial, paths = random_inputs()
    with pytest.raises(ValueError, match="features are float64, distances float32, weights float32"):
        convolutions.by_kernel(features, edges, cast(radial, jnp.float32), paths)


@pytest.mark.kernel
def test_tables_on_cpus_run_the_kernel_and_repeat_bit_for_bit():
    features, edges, radial, paths = random_inputs()
    program = jax.jit(lambda *x: convolutions.edge_convolution(*x, paths)).lower(features, edges, radial)
    assert "ffmd_forward_float64" in program.as_text()
    gradient = jax.jit(
        jax.grad(lambda f, r: loss(convolutions.edge_convolution, f, edges, r, paths)[0], argnums=(0, 1))
    )
    first = gradient(features, radial)
    for _ in range(5):
        jax.tree.map(np.testing.assert_array_equal, gradient(features, radial), first)


@pytest.mark.kernel
def test_the_kernel_gives_nan_where_a_distance_is_no_number():
    # An exploded roll-out meets neighbours that were found before; an index made of a NaN would be anywhere.
    features, edges, radial, paths = random_inputs()
    edges = edges._replace(graph=edges.graph._replace(mask=jnp.ones_like(edges.graph.mask)))
    bad = radial._replace(place=radial.place.at[2, 1].set(jnp.nan))
    convolve = jax.jit(lambda radial: convolutions.by_kernel(features, edges, radial, paths))
    found, expected = convolve(bad), convolve(radial)
    for irrep, values in expected.items():
        assert np.isnan(found[irrep][2]).all()
        others = np.arange(N_ATOMS) != 2
        np.testing.assert_array_equal(found[irrep][others], values[others])
    place = jnp.full_like(radial.place, jnp.nan)
    gradient = jax.grad(lambda p: sum(jnp.sum(x) for x in convolve(radial._replace(place=p)).values()))(place)
    assert np.isnan(gradient).all()


def test_without_a_compiler_xla_does_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    cpu_kernel.available.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"no C\+\+ compiler found"):
            assert not cpu_kernel.available()
        features, edges, radial, paths = random_inputs()
        program = jax.jit(lambda *x: convolutions.edge_convolution(*x, paths)).lower(features, edges, radial)
        assert "ffmd_forward" not in program.as_text()
    finally:
        cpu_kernel.available.cache_clear()


@pytest.mark.parametrize(
    ("kind", "convolution"),
    [("mixture", convolutions.by_blocks), ("table", convolutions.by_blocks),
     pytest.param("table", convolutions.by_kernel, marks=pytest.mark.kernel)],
)  # fmt: skip
def test_memory_holds_no_array_of_edges_paths_and_channels(kind, convolution):
    n_atoms, n_neighbors, channels = 2048, 16, 16
    features, edges, radial, paths = random_inputs(kind, n_atoms, n_neighbors, channels)
    compiled = jax.jit(lambda *x: convolution(*x, paths)).lower(features, edges, radial).compile()
    held = compiled.memory_analysis()
    outputs = n_atoms * sum(path.out.dim for path in paths) * channels * 8
    weights = n_atoms * n_neighbors * len(paths) * channels * 8
    assert held is not None
    assert held.temp_size_in_bytes < 2.5 * outputs < weights


def test_paths_follow_the_order_of_the_reference():
    paths = convolutions.coupling_paths([e3nn.Irrep(0, 1), e3nn.Irrep(1, -1)], 1, 1)
    assert [(str(path.first), path.l, str(path.out)) for path in paths] == [
        ("0e", 0, "0e"), ("1o", 1, "0e"), ("0e", 1, "1o"), ("1o", 0, "1o"), ("1o", 1, "1e"),
    ]  # fmt: skip


def test_one_step_with_tables_is_exact_to_a_hundred_thousandth():
    config = small_config(layers=1)
    assert 0 < radial_tables.step_error(config, random_params(config)) < 1e-5


@pytest.mark.slow
def test_networks_that_tables_do_not_resolve_are_kept():
    config = small_config()
    rough = jax.tree.map(jnp.copy, random_params(config))
    rough["layer0"]["radial"]["layer0"] = rough["layer0"]["radial"]["layer0"] * 1e7  # wiggles
    tabulated = radial_tables.tabulate(config, rough)
    assert tabulated["layer0"]["radial"].keys() == rough["layer0"]["radial"].keys()
    assert "spline" in tabulated["layer1"]["radial"]
    again = radial_tables.tabulate(config, tabulated)
    assert again["layer1"]["radial"] is tabulated["layer1"]["radial"]


def test_tables_vanish_smoothly_at_the_cutoff_and_stay_finite_at_zero_distance():
    config = small_config()
    table = radial_tables.tabulate(config, random_params(config))["layer0"]["radial"]["spline"]
    distances = jnp.array([0.0, 0.2, 0.5, 3.0, 4.0 - 1e-9, 4.0, 5.0])
    n_intervals = table.shape[1] - 3
    place = splines.locate(distances, config.splines_from, config.architecture.cutoff, n_intervals)
    values = np.asarray(splines.evaluate(jnp.swapaxes(table, 0, 1).reshape(n_intervals + 3, -1), place))
    np.testing.assert_array_equal(values[0], values[2])
    assert np.abs(values[3]).max() > 1e-3
    np.testing.assert_allclose(values[4:], 0.0, atol=1e-9 * np.abs(values[3]).max())


@pytest.mark.slow
def test_a_model_of_splines_is_its_tables_and_tends_to_the_network():
    system, state = perturbed()
    errors = []
    for n_intervals in (16, 32, 64):
        config = small_config(radial_intervals=n_intervals)
        params = random_params(config)
        search = neighbors.plan(system, state, config.architecture.cutoff)
        graph = jax.jit(neighbors.build, static_argnums=0)(search, system, state).graph
        exact, network = (compiled(c, "network")(params, system, state, graph) for c in (small_config(), config))
        errors.append(np.abs(network - exact).max())
        by_table = compiled(config, "network")(radial_tables.tabulate(config, params), system, state, graph)
        np.testing.assert_allclose(by_table, network, atol=1e-12)
    assert errors[0] > 8 * errors[1] > 64 * errors[2] > 0


def test_gradient_of_splines_is_that_of_plain_arithmetic():
    rng = np.random.default_rng(0)
    place, coefficients = jnp.asarray(rng.uniform(0, 6, 20)), jnp.asarray(rng.normal(size=(9, 3)))
    weights = jnp.asarray(rng.normal(size=(20, 3)))

    def plain(coefficients, place):
        distance = jnp.abs(place[:, None] - jnp.arange(-1, 8))  # from the middle of each B-spline
        inner, outer = 2 / 3 - distance**2 + distance**3 / 2, jnp.maximum(2 - distance, 0) ** 3 / 6
        return jnp.where(distance < 1, inner, outer) @ coefficients

    found, expected = (
        jax.value_and_grad(lambda *x: jnp.sum(weights * f(*x)), argnums=(0, 1))(coefficients, place)  # noqa: B023
        for f in (splines.evaluate, plain)
    )
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11)


def test_splines_converge_with_the_fourth_power_of_the_interval():
    errors = []
    for n_intervals in (16, 32, 64):
        knots, between = jnp.linspace(0, 1, n_intervals + 1), jnp.linspace(0, 1, 1001)
        coefficients = splines.fitting_matrix(n_intervals) @ jnp.exp(jnp.sin(5 * knots))[:, None]
        found = splines.evaluate(coefficients, splines.locate(between, 0, 1, n_intervals))[:, 0]
        errors.append(float(jnp.abs(found - jnp.exp(jnp.sin(5 * between))).max()))
    assert 10 < errors[0] / errors[1] < 32
    assert 10 < errors[1] / errors[2] < 32


def test_splines_are_exact_for_cubics():
    x = jnp.linspace(2, 5, 31)
    cubic = lambda x: x**3 - 7 * x**2 + 3 * x - 1  # noqa: E731
    coefficients = splines.fitting_matrix(6) @ cubic(jnp.linspace(2, 5, 7))[:, None]
    found = splines.evaluate(coefficients, splines.locate(x, 2, 5, 6))[:, 0]
    np.testing.assert_allclose(found, cubic(x), rtol=1e-12)


def test_selected_graph_gives_the_same_step():
    config, params = small_config(), random_params(small_config())
    system, state = perturbed()
    search = neighbors.plan(system, state, config.architecture.cutoff, skin=0.5, select=True)
    table = neighbors.build(search, system, state)
    graph, too_many = neighbors.select(search, state, table)
    assert not too_many
    assert graph.mask.shape[1] < table.graph.mask.shape[1]
    network = compiled(config, "network")
    np.testing.assert_allclose(
        network(params, system, state, graph), network(params, system, state, table.graph), atol=1e-13
    )


def test_the_tpu_kernel_is_chosen_on_tpus_where_asked_for_and_where_features_fit(monkeypatch):
    fits = convolutions.TPU_FAST_BYTES // 8 - 1
    monkeypatch.setenv("FFMD_TPU_KERNEL", "1")
    assert not convolutions.tpu_kernel_serves(fits)  # this is a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert convolutions.tpu_kernel_serves(fits) and not convolutions.tpu_kernel_serves(fits + 1)
    monkeypatch.delenv("FFMD_TPU_KERNEL")
    assert not convolutions.tpu_kernel_serves(fits)
