"""Inverses and determinants of 3 × 3 matrices in closed form.

LAPACK's routines for batches must not be in programs on a CPU: those of jaxlib (seen in 0.10.1) wait for threads of the
pool in which they themselves run.  Two of them at once, on two cores, wait for each other for ever.
"""

import jax.numpy as jnp

from ffmd_jax.core.state import Array


def determinant(matrix: Array) -> Array:
    """Determinants ``[...]`` of matrices ``[..., 3, 3]``."""
    first, second, third = (matrix[..., i, :] for i in range(3))
    return jnp.sum(first * jnp.cross(second, third), axis=-1)


def inverse(matrix: Array) -> Array:
    """Inverses of matrices ``[..., 3, 3]``; not finite where there is none."""
    first, second, third = (matrix[..., i, :] for i in range(3))
    adjugate = jnp.stack([jnp.cross(second, third), jnp.cross(third, first), jnp.cross(first, second)], axis=-1)
    return adjugate / determinant(matrix)[..., None, None]


def longest_axis(spread: Array) -> Array:
    """The projection n nᵀ ``[3, 3]`` on the eigenvector n of the largest eigenvalue of a symmetric matrix ``[3, 3]``.

    By squaring it six times.  The eigenvalues must be ≥ 0, and the largest at least twice the next.
    """
    for _ in range(6):
        spread = jnp.sum(spread[:, :, None] * spread[None], axis=1)
        spread = spread / jnp.trace(spread)
    return spread
