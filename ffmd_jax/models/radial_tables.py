"""Radial networks as splines, for rollouts.

The weights of an edge are functions of its length alone.  Interpolated, they cost less than a network on every edge,
and `cpu_kernel` makes them where it uses them.  Parameters with splines in them are used like any others:
`layers.RadialNetwork` sees which they are.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import Array, State, cast, make_system
from ffmd_jax.models import layers, splines, trajcast
from ffmd_jax.models.config import Architecture, ModelConfig, PotentialConfig

_MOST_NUMBERS = 2**23  # of a table: it should stay in a cache


def tabulate(config: ModelConfig | PotentialConfig, params: Any, tolerance: float = 1e-5) -> Any:
    """The parameters with radial networks replaced by splines, in the precision of ``params``.

    Splines span the distances from ``config.splines_from`` to the cutoff and stay constant below.  A model that is
    defined by splines (``radial_intervals``) keeps them exactly.  Others get as many intervals as they need; a network
    that a table of 8 million numbers does not resolve is kept.

    Args:
        tolerance: largest error of any weight of an edge, relative to the RMS of all weights of the layer.
    """
    sizes, start, roots = config.architecture, config.splines_from, params["bessel_roots"]
    networks = {name: params[name]["radial"] for name in (f"layer{i}" for i in range(sizes.layers))}
    networks = {name: network for name, network in networks.items() if "spline" not in network}
    if sizes.radial_intervals:
        tables = _through_knots(sizes, start, isinstance(config, PotentialConfig), roots, networks)
    else:
        tables = {name: resolved(sizes, start, roots, network, tolerance) for name, network in networks.items()}
    made = {name: params[name] | {"radial": {"spline": table}} for name, table in tables.items() if table is not None}
    return {**params, **made}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))  # one program: each operation alone would be compiled, too
def _through_knots(
    sizes: Architecture, start: float, smooth_end: bool, roots: Any, networks: dict[str, Any]
) -> dict[str, Array]:
    """The splines that define the radial functions of a model with ``radial_intervals``."""

    def table(network: Any) -> Array:
        knots = jnp.linspace(start, sizes.cutoff, sizes.radial_intervals + 1, dtype=network["layer0"].dtype)
        return layers.spline_coefficients(_network(sizes, roots, network, knots), sizes.channels, smooth_end)

    return {name: table(network) for name, network in networks.items()}


def resolved(sizes: Architecture, start: float, roots: Any, network: Any, tolerance: float) -> jax.Array | None:
    """B-spline coefficients ``[n_paths, n_intervals + 3, channels]`` of the weights that a radial network gives.

    With the fewest intervals, a power of two, that meet the tolerance of `tabulate`; or None.
    """
    dtype, n_weights = network["layer0"].dtype, network[f"layer{len(sizes.radial_hidden)}"].shape[1]
    finest = 2 ** int(np.log2(_MOST_NUMBERS / n_weights))
    with jax.enable_x64(True):
        distances = jnp.linspace(start, sizes.cutoff, 2 * finest + 1)
        roots, network = cast((roots, network), jnp.float64)
        values = np.asarray(_network(sizes, roots, network, distances))
    allowed = tolerance * np.sqrt(np.mean(values**2))
    n_intervals = 32
    while n_intervals <= finest:
        knots_and_centres = values[:: finest // n_intervals]
        coefficients = splines.fit(knots_and_centres[::2])
        if np.abs(splines.centres(coefficients) - knots_and_centres[1::2]).max() <= allowed:
            coefficients = coefficients.reshape(len(coefficients), -1, sizes.channels).swapaxes(0, 1)
            return jnp.asarray(coefficients, dtype)
        n_intervals *= 2
    return None


def _network(sizes: Architecture, roots: Any, network: Any, distances: jax.Array) -> jax.Array:
    """The weights ``[n_distances, n_weights]`` of a radial network."""
    matrices = [network[f"layer{k}"] for k in range(len(sizes.radial_hidden) + 1)]
    waves = layers.bessel_basis(distances, roots, sizes.cutoff, sizes.cutoff_power)
    hidden = layers.hidden_layers(matrices[:-1], waves)
    return hidden @ (matrices[-1] / np.sqrt(len(matrices[-1])).astype(distances.dtype))


def step_error(config: ModelConfig, params: Any) -> float:
    """Largest error of one step with tables in place of radial networks, relative to the RMS of the step; in float64.

    Of a crystal-like structure of 64 atoms with the neighbours that the model was trained with.
    """
    rng = np.random.default_rng(0)
    species, masses = (np.resize(values, 64) for values in (config.elements, config.masses))
    volume = 4 / 3 * np.pi * config.architecture.cutoff**3 / config.average_neighbors  # of an atom
    spacing = volume ** (1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3)
    positions = spacing * (grid + rng.normal(scale=0.1, size=grid.shape))
    state = State(positions, rng.normal(scale=config.velocity_rms, size=grid.shape), 4 * spacing * np.eye(3))
    system = make_system(species, masses, True)
    with jax.enable_x64(True):
        search = neighbors.plan(system, state, config.architecture.cutoff)
        graph = jax.jit(neighbors.build, static_argnums=0)(search, system, cast(state, jnp.float64)).graph
        double = cast(params, jnp.float64)
        # Compilation takes the time; less of it.
        network = jax.jit(trajcast.TrajCast(config).apply, compiler_options={"xla_backend_optimization_level": 0})
        exact, found = (
            np.asarray(network({"params": p}, system, state, graph)) for p in (double, tabulate(config, double))
        )
    return float(np.abs(found - exact).max() / np.sqrt(np.mean(exact**2)))
