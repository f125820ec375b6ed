"""Silicon after Stillinger & Weber."""

import functools

import jax.numpy as jnp

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import Array, Energy, Graph, State, System

EPSILON = 2.16826  # eV
SIGMA = 2.0951  # Å
A, B, CUTOFF = 7.049556277, 0.6022245584, 1.8  # dimensionless; the cutoff in σ
LAMBDA, GAMMA = 21.0, 1.2


@functools.cache  # one function, one compilation, for all structures
def stillinger_weber() -> Energy:
    """Two- and three-body energy of Stillinger & Weber 1985 (doi:10.1103/PhysRevB.31.5262), eV.

    With x = r/σ, f = ε A (B x⁻⁴ − 1) exp(1/(x − a)) for each pair, and for each pair of neighbours j, k of i

        ε λ g_ij g_ik (cos θ_jik + 1/3)²,   g = exp(γ/(x − a)),   a = 1.8.

    The square makes the sum over j and k one of products of moments of row i, ½ (|Σ g n nᵀ|² + ⅔ |Σ g n|² + ⅑ (Σ g)²)
    less the terms j = k, ½ (4/3)² Σ g², with n = r_ij/r: the cost is that of a pair energy.
    """

    def energy(system: System, state: State, graph: Graph) -> Array:
        vectors = neighbors.vectors(state, graph)
        squared = jnp.sum(vectors**2, axis=-1)
        inside = graph.mask & (squared < (CUTOFF * SIGMA) ** 2)
        distances = jnp.sqrt(jnp.where(inside, squared, 1.0))
        x = distances / SIGMA
        # exp(1/(x − a)) vanishes at the cutoff with all its derivatives; just below, 1/(x − a) must not overflow.
        tail = 1 / jnp.minimum(x - CUTOFF, -1e-3)
        pair = jnp.where(inside, A * (B * x**-4 - 1) * jnp.exp(tail), 0.0)
        g = jnp.where(inside, jnp.exp(GAMMA * tail), 0.0)
        n = vectors / distances[..., None]
        gn = g[..., None] * n
        tensor = jnp.einsum("ija,ijb->iab", gn, n, precision="highest")
        moments = jnp.sum(tensor**2) + 2 / 3 * jnp.sum(jnp.sum(gn, 1) ** 2) + 1 / 9 * jnp.sum(jnp.sum(g, 1) ** 2)
        triples = 0.5 * (moments - 16 / 9 * jnp.sum(g**2))
        return EPSILON * (0.5 * jnp.sum(pair) + LAMBDA * triples)

    return energy
