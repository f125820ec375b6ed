"""Uniform cubic B-splines: many functions of one variable as one table.

On n equal intervals a function is Σ_k c_k B(x − k) over n + 3 coefficients, of which four count at any place; it has
two continuous derivatives.  Places are in units of the interval, from 0 to n.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from ffmd_jax.core.state import Array


def locate(x: Array, start: float, end: float, n_intervals: int) -> Array:
    """The places of ``x`` on equal parts of start … end; beyond the ends, the ends."""
    return jnp.clip((x - start) * (n_intervals / (end - start)), 0.0, n_intervals)


def basis(place: Array, n_intervals: int) -> tuple[Array, Array, Array]:
    """Of places ``[...]``: the first of the four coefficients that count, their factors and slopes ``[..., 4]``."""
    first = jnp.minimum(place.astype(jnp.int32), n_intervals - 1)
    t = place - first
    u = 1 - t
    factors = [u**3, (3 * t - 6) * t**2 + 4, (3 * u - 6) * u**2 + 4, t**3]
    slopes = [-3 * u**2, (9 * t - 12) * t, (12 - 9 * u) * u, 3 * t**2]
    return first, jnp.stack(factors, axis=-1) / 6, jnp.stack(slopes, axis=-1) / 6


def matrix(place: Array, n_coefficients: int) -> Array:
    """The basis at places ``[...]``, ``[..., n_coefficients]``: times coefficients it gives the values."""
    first, factors, _ = basis(place, n_coefficients - 3)
    columns = jnp.arange(n_coefficients) - first[..., None]
    parts = [jnp.where(columns == k, factors[..., k, None], 0.0) for k in range(4)]
    return sum(parts[1:], parts[0])


@jax.custom_vjp
def evaluate(coefficients: Array, place: Array) -> Array:
    """Values ``[n_places, n_functions]`` at places ``[n_places]`` from ``[n_intervals + 3, n_functions]``.

    The gradient of the coefficients is a matrix product: scattered sums are slow and, on GPUs, in random order.
    """
    first, factors, _ = basis(place, len(coefficients) - 3)
    return _combine(coefficients, first, factors)


def _combine(coefficients: Array, first: Array, factors: Array) -> Array:
    terms = [factors[:, k, None] * coefficients[first + k] for k in range(4)]
    return sum(terms[1:], terms[0])


def _evaluate_forward(coefficients: Array, place: Array):
    return evaluate(coefficients, place), (coefficients, place)


def _evaluate_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    coefficients, place = saved
    first, factors, slopes = basis(place, len(coefficients) - 3)
    columns = jnp.arange(len(coefficients)) - first[:, None]
    matrix = jnp.sum(jnp.stack([jnp.where(columns == k, factors[:, k, None], 0.0) for k in range(4)]), axis=0)
    return matrix.T @ gradient, jnp.sum(gradient * _combine(coefficients, first, slopes), axis=-1)


evaluate.defvjp(_evaluate_forward, _evaluate_backward)


def centres(coefficients: np.ndarray) -> np.ndarray:
    """Values ``[n, n_functions]`` in the middle of every interval."""
    c = coefficients
    return (c[:-3] + 23 * (c[1:-2] + c[2:-1]) + c[3:]) / 48


def fit(values: np.ndarray) -> np.ndarray:
    """Coefficients ``[n + 3, n_functions]`` of the spline through values at the ends of n intervals, ``[n + 1, …]``.

    The two freedoms left go into a third derivative that is continuous at the first and at the last inner knot too.

    Raises:
        ValueError: fewer than four intervals.
    """
    n = len(values) - 1
    if n < 4:
        raise ValueError(f"a spline needs at least 4 intervals, not {n}")
    jump = [1, -4, 6, -4, 1]  # of the third derivative
    bands = np.zeros((9, n + 3))  # of the conditions: row 4 + i − j holds element (i, j)
    for place, factor in zip((5, 4, 3), (1, 4, 1), strict=True):
        bands[place, 5 - place : n + 6 - place] = factor / 6
    bands[4 - np.arange(5), np.arange(5)] = jump
    bands[4 + np.arange(5)[::-1], n - 2 + np.arange(5)] = jump
    edge = np.zeros((1, values.shape[1]))
    return scipy.linalg.solve_banded((4, 4), bands, np.concatenate([edge, values, edge]))


def fitting_matrix(n_intervals: int) -> np.ndarray:
    """`fit` as a matrix, ``[n + 3, n + 1]``: times the values it gives the coefficients."""
    return fit(np.eye(n_intervals + 1))
