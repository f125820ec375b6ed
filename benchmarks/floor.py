"""The least that a step of a network costs: multiplications and additions, and bytes that must come from memory.

Counted for the way of `convolution.by_kernel`: weights of edges from four spline coefficients each, the products of
real neighbours only, no intermediate that leaves the caches.  `rollout_speed.py` divides by what the machine reaches in
one large matrix product in the same run.
"""

import time

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.models import convolution, layers
from ffmd_jax.models.config import ModelConfig


def count(config: ModelConfig, tables, n_atoms: int, n_edges: int) -> tuple[float, float]:
    """Floating-point operations and compulsory bytes (float32) of a step; ``tables`` are the tabulated parameters."""
    sizes = config.architecture
    width, n_species = sizes.channels, len(config.elements)
    irreps = [e3nn.Irrep(l, (-1) ** l) for l in range(sizes.lmax + 1)]
    multiplications = 0.0
    features = sum(irrep.dim for irrep in irreps) * width
    moved = float(features)
    for _ in range(sizes.layers):
        residual = irreps
        paths = _paths(sizes, irreps)
        multiplications += n_edges * width * sum(4 + p.first.dim * (1 + p.out.dim) for p in paths)
        multiplications += n_atoms * width**2 * sum(p.out.dim for p in paths)  # contract
        irreps = layers.ordered(p.out for p in paths)
        paths = _paths(sizes, irreps)
        widths = [sizes.speed_basis, *sizes.speed_hidden, len(paths) * width]
        multiplications += n_atoms * float(np.dot(widths[:-1], widths[1:]))
        multiplications += n_atoms * width * sum(p.out.dim * (1 + p.first.dim) for p in paths)
        irreps = layers.ordered(p.out for p in paths)
        n_gated = sum(irrep.l > 0 for irrep in irreps)
        n_scalar_paths = sum(p.out == layers.EVEN_SCALAR for p in paths)
        multiplications += n_atoms * width**2 * (sum(p.out.dim for p in paths) + n_scalar_paths * n_gated)  # update
        multiplications += n_atoms * width**2 * n_species * sum(i.dim for i in residual if i in irreps)
        moved += 2 * width * sum(irrep.dim for irrep in irreps)  # written once, read once
    weights = sum(leaf.size for leaf in jax.tree.leaves(tables))
    return 2 * multiplications, 4.0 * (weights + n_atoms * moved)


def _paths(sizes, irreps) -> list[convolution.Path]:
    return convolution.coupling_paths(layers.ordered(irreps), sizes.lmax_harmonics, sizes.lmax, sizes.natural_parity)


def flops_per_second(size: int = 2048) -> float:
    """What one large float32 matrix product reaches on this device; the best of five."""
    matrix = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
    jax.block_until_ready(product(matrix))
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(product(matrix))
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
