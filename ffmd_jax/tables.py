"""Radial networks as tables, for roll-outs.

The weights of an edge are functions of its length alone, and the functions of one layer, some thousands, are nearly
linear combinations of some twenty: w(r) = φ(r) @ mix, by a singular value decomposition.  Each φ is a cubic spline.
Parameters with tables in them are used like any others: `layers.RadialNetwork` sees which they are.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import CubicSpline

from ffmd_jax import layers, model, neighbors
from ffmd_jax.config import ModelConfig
from ffmd_jax.state import State, cast, make_system

_SAMPLES = 1024


def tabulate(config: ModelConfig, params: Any, tolerance: float = 1e-5) -> Any:
    """The parameters with radial networks replaced by tables, in the precision of ``params``.

    Tables begin at ``config.tables_from`` and stay constant below.  A network that 4,096 knots do not resolve, or
    that is a table already, is kept.

    Args:
        tolerance: largest error of any weight of an edge, relative to the RMS of all weights of the layer; from the
            number of functions and, apart, from the number of knots.
    """
    names = [f"layer{i}" for i in range(config.architecture.layers)]
    roots = params["bessel_roots"]
    tables = {name: _table(config, roots, params[name]["radial"], tolerance) for name in names}
    return params | {name: params[name] | {"radial": table} for name, table in tables.items() if table}


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
    state = State(positions, rng.normal(scale=config.velocity_rms, size=grid.shape))
    system = make_system(species, masses, 4 * spacing * np.eye(3), True)
    with jax.enable_x64(True):
        search = neighbors.plan(system, positions, config.architecture.cutoff)
        graph = jax.jit(neighbors.build, static_argnums=0)(search, system, jnp.asarray(positions)).graph
        double = cast(params, jnp.float64)
        # Compilation takes the time; less of it.
        network = jax.jit(model.TrajCast(config).apply, compiler_options={"xla_backend_optimization_level": 0})
        exact, found = (
            np.asarray(network({"params": p}, system, state, graph)) for p in (double, tabulate(config, double))
        )
    return float(np.abs(found - exact).max() / np.sqrt(np.mean(exact**2)))


def _table(config: ModelConfig, roots, network: Any, tolerance: float) -> dict[str, jax.Array] | None:
    """``spline`` and ``mix`` of `layers.RadialNetwork` in place of its matrices, or None."""
    sizes = config.architecture
    if "spline" in network:
        return None
    matrices = [np.asarray(network[f"layer{k}"], np.float64) for k in range(len(sizes.radial_hidden) + 1)]
    last = matrices[-1] / np.sqrt(len(matrices[-1]))

    def hidden(distances: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            waves = layers.bessel_basis(
                jnp.asarray(distances), jnp.asarray(roots, jnp.float64), sizes.cutoff, sizes.cutoff_power
            )
            return np.asarray(layers.hidden_layers(matrices[:-1], waves))

    start, end = config.tables_from, sizes.cutoff
    samples = hidden(np.linspace(start, end, _SAMPLES))
    allowed = tolerance * np.sqrt(np.mean((samples @ last) ** 2))
    mix = _leading_functions(samples, last, allowed)
    project = last @ mix.T  # the rows of mix are orthonormal
    n_knots = 64
    while True:
        knots = np.linspace(start, end, n_knots + 1)
        spline = CubicSpline(knots, hidden(knots) @ project)
        between = np.linspace(start, end, 8 * n_knots + 5)
        if np.abs((spline(between) - hidden(between) @ project) @ mix).max() <= allowed:
            break
        if n_knots >= 4096:
            return None
        n_knots *= 2
    # In units of the knot spacing: c[k] belongs to t³, t², t, 1.
    powers = np.diff(knots[:2])[0] ** np.arange(3, -1, -1)
    coefficients = np.moveaxis(spline.c * powers[:, None, None], 0, 1)
    dtype = network["layer0"].dtype
    return {"spline": jnp.asarray(coefficients, dtype), "mix": jnp.asarray(mix, dtype)}


def _leading_functions(hidden: np.ndarray, last: np.ndarray, allowed: float) -> np.ndarray:
    """Orthonormal rows ``[n, n_weights]``, as few as represent all of ``hidden @ last`` to ``allowed``."""
    basis, triangle = np.linalg.qr(last.T)  # so that the decomposition is of a narrow matrix
    left, values, rows = np.linalg.svd(hidden @ triangle.T, full_matrices=False)
    rows = rows @ basis.T
    weights = hidden @ last
    n = max(1, int(np.sum(values > allowed)))
    while n < len(values) and np.abs(weights - (left[:, :n] * values[:n]) @ rows[:n]).max() > allowed:
        n += 1
    return rows[:n]
