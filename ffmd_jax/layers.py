"""Equivariant layers, as pure functions of arrays and thin flax modules that hold their weights.

Features are a dict from `e3nn_jax.Irrep` to ``[n_atoms, 2l + 1, channels]``: channels last, so that they fill vector
registers.  Irreps are ordered by (l, parity) with odd first (0o, 0e, 1o, 1e, …), as in the published weights; e3nn-jax
sorts even first.  Normalisations are e3nn's: component spherical harmonics, 1/sqrt(fan-in) in front of every weight.
Source of the network: doi:10.1038/s42256-026-01227-7.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import e3nn_jax as e3nn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.state import Array

Features = dict[e3nn.Irrep, Array]

EVEN_SCALAR = e3nn.Irrep(0, 1)
ODD_SCALAR = e3nn.Irrep(0, -1)
VECTOR = e3nn.Irrep(1, -1)

# Activations are scaled to second moment 1 under a normal distribution.  e3nn estimates the moment from one million
# samples; its values, not the exact 1.676532 and 1.592537, belong to published weights.
SILU_SCALE = 1.6791767923989418
TANH_SCALE = 1.5937334472592695


def silu(x: Array) -> Array:
    """x/(1 + e⁻ˣ), scaled to second moment 1."""
    return SILU_SCALE * jax.nn.silu(x)


def tanh(x: Array) -> Array:
    """tanh x, scaled to second moment 1."""
    return TANH_SCALE * jnp.tanh(x)


def ordered(irreps: Iterable[e3nn.Irrep]) -> list[e3nn.Irrep]:
    """The distinct irreps by (l, parity), odd first."""
    return sorted(set(irreps), key=lambda irrep: (irrep.l, irrep.p))


def norm(vectors: Array) -> Array:
    """Lengths ``[...]`` of vectors ``[..., 3]``, with gradient zero at zero."""
    squared = jnp.sum(vectors**2, axis=-1)
    zero = squared == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)))


def spherical_harmonics(vectors: Array, lmax: int) -> list[Array]:
    """Component-normalised Y_l of the directions of ``[..., 3]``, for l = 0 … lmax, each ``[..., 2l + 1]``.

    A zero vector has Y_0 = 1 and zero for l > 0, with gradient zero.
    """
    length = norm(vectors)[..., None]
    directions = vectors / jnp.where(length == 0, 1.0, length)
    irreps = e3nn.Irreps([(1, (l, (-1) ** l)) for l in range(lmax + 1)])
    harmonics = e3nn.spherical_harmonics(
        irreps, e3nn.IrrepsArray("1o", jnp.asarray(directions)), normalize=False, normalization="component"
    )
    return [chunk[..., 0, :].astype(vectors.dtype) for chunk in harmonics.chunks if chunk is not None]


def polynomial_cutoff(x: Array, power: int) -> Array:
    """1 at x = 0, 0 from x = 1 on, with p − 1 vanishing derivatives there (doi:10.48550/arXiv.2003.03123)."""
    p = power
    value = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    return jnp.where(x < 1, value, 0.0)


def bessel_basis(distances: Array, roots: Array, cutoff: float, power: int) -> Array:
    """(2/r_c) sin(b_n r/r_c)/(r + 1e-5) times the cutoff envelope, ``[..., n_basis]``; r and r_c in Å."""
    x = distances / cutoff
    waves = 2 / cutoff * jnp.sin(roots * x[..., None]) / (distances[..., None] + 1e-5)
    return waves * polynomial_cutoff(x, power)[..., None]


def gaussian_basis(speeds: Array, speed_max: float, n_basis: int) -> Array:
    """sqrt(n) exp(−((|v| − c)/s)²)/1.12 for centres c on (0, speed_max) at spacing s (Å/fs), ``[..., n_basis]``."""
    centres = np.linspace(0.0, speed_max, n_basis + 2)[1:-1].astype(speeds.dtype)
    width = speed_max / (n_basis + 1)
    return np.sqrt(n_basis).astype(speeds.dtype) * jnp.exp(-(((speeds[..., None] - centres) / width) ** 2)) / 1.12


class Path(NamedTuple):
    """A coupling of features with spherical harmonics: ``first`` ⊗ Y_l → ``out``."""

    first: e3nn.Irrep
    l: int
    out: e3nn.Irrep


def coupling_paths(
    irreps: Sequence[e3nn.Irrep], lmax_harmonics: int, lmax: int, natural_parity: bool = False
) -> list[Path]:
    """All paths with output l ≤ lmax: over inputs in order, then l of Y, then l of the output; sorted by output.

    With ``natural_parity``, only outputs of parity (−1)^l.
    """
    paths = [
        Path(first, l, e3nn.Irrep(l_out, first.p * (-1) ** l))
        for first in irreps
        for l in range(lmax_harmonics + 1)
        for l_out in range(abs(first.l - l), min(first.l + l, lmax) + 1)
        if not natural_parity or first.p * (-1) ** l == (-1) ** l_out
    ]
    return sorted(paths, key=lambda path: (path.out.l, path.out.p))


def coupling(path: Path, dtype) -> np.ndarray:
    """Coefficients ``[2l_1 + 1, 2l_2 + 1, 2l_3 + 1]`` of a path: the 3j symbol times sqrt(2 l_3 + 1)."""
    three_j = e3nn.clebsch_gordan(path.first.l, path.l, path.out.l)
    three_j = np.asarray(three_j, np.float64) / np.linalg.norm(three_j)
    return (three_j * np.sqrt(2 * path.out.l + 1)).astype(dtype)


def concatenate_paths(paths: Sequence[Path], values: Sequence[Array]) -> Features:
    """Joins the outputs of paths of one irrep along the channels, in order."""
    outputs = ordered(path.out for path in paths)
    return {
        irrep: jnp.concatenate([v for path, v in zip(paths, values, strict=True) if path.out == irrep], axis=-1)
        for irrep in outputs
    }


Tensors = dict[tuple[int, int, int], Array]


def coupling_tensors(harmonics: Sequence[Array], lmax: int) -> Tensors:
    """Y contracted with the 3j symbols: for each (l_1, l_2, l_3) up to (lmax, …, lmax), ``[..., 2l_1 + 1, 2l_3 + 1]``.

    They have no channels and no weights, so all layers and both parities share them.
    """
    scalars = [e3nn.Irrep(l, 1) for l in range(lmax + 1)]
    return {
        (path.first.l, path.l, path.out.l): jnp.einsum(
            "...b,abc->...ac", harmonics[path.l], coupling(path, harmonics[0].dtype)
        )
        for path in coupling_paths(scalars, len(harmonics) - 1, lmax)
    }


def edge_convolution(
    features: Features, tensors: Tensors, weights: Array, senders: Array, paths: Sequence[Path]
) -> Features:
    """Σ_j w_ij (h_j ⊗ Y(r̂_ij)) over the neighbours of each atom, every path apart.

    Args:
        features: of the atoms.
        tensors: `coupling_tensors` of the edge vectors, ``[n_atoms, n_neighbors, …]``.
        weights: ``[n_atoms, n_neighbors, n_paths · channels]``, zero on padding.
        senders: ``[n_atoms, n_neighbors]``.
        paths: from `coupling_paths`.
    """
    neighbors = {irrep: values[senders] for irrep, values in features.items()}
    split = jnp.split(weights, len(paths), axis=-1)
    n_atoms = senders.shape[0]
    values = []
    for path, weight in zip(paths, split, strict=True):
        # One matrix product over neighbours and components: no array has both channels and two sets of components.
        tensor = tensors[path.first.l, path.l, path.out.l]
        weighted = neighbors[path.first] * weight[:, :, None]
        tensor = tensor.reshape(n_atoms, -1, tensor.shape[-1])
        weighted = weighted.reshape(n_atoms, -1, weighted.shape[-1])
        values.append(jnp.einsum("nxc,nxu->ncu", tensor, weighted))
    return concatenate_paths(paths, values)


def atom_product(features: Features, tensors: Tensors, weights: Array, paths: Sequence[Path]) -> Features:
    """w_i (h_i ⊗ Y(v̂_i)), every path apart; ``weights`` is ``[n_atoms, n_paths · channels]``."""
    split = jnp.split(weights, len(paths), axis=-1)
    values = []
    for path, weight in zip(paths, split, strict=True):
        tensor = tensors[path.first.l, path.l, path.out.l]
        values.append(jnp.einsum("nau,nac->ncu", features[path.first], tensor) * weight[:, None])
    return concatenate_paths(paths, values)


_normal = nn.initializers.normal(1.0)


class Linear(nn.Module):
    """Mixes the channels of each irrep: y = x W/sqrt(channels_in)."""

    channels: dict[e3nn.Irrep, int]

    @nn.compact
    def __call__(self, features: Features) -> Features:
        mixed = {}
        for irrep in ordered(features.keys() & self.channels.keys()):
            x = features[irrep]
            weight = self.param(str(irrep), _normal, (x.shape[-1], self.channels[irrep]), x.dtype)
            mixed[irrep] = x @ (weight / np.sqrt(x.shape[-1]).astype(x.dtype))
        return mixed


class SpeciesProduct(nn.Module):
    """Mixes the channels with one matrix per species: the fully connected product with the one-hot species."""

    channels: dict[e3nn.Irrep, int]

    @nn.compact
    def __call__(self, features: Features, one_hot: Array) -> Features:
        mixed = {}
        n_species = one_hot.shape[-1]
        for irrep in ordered(features.keys() & self.channels.keys()):
            x = features[irrep]
            fan_in = x.shape[-1]
            weight = self.param(str(irrep), _normal, (fan_in, n_species, self.channels[irrep]), x.dtype)
            weight = weight / np.sqrt(fan_in * n_species).astype(x.dtype)
            by_species = [(x @ weight[:, s]) * one_hot[:, s, None, None] for s in range(n_species)]
            mixed[irrep] = sum(by_species[1:], by_species[0])
        return mixed


class MLP(nn.Module):
    """x → silu(x W/sqrt(fan-in)) for every hidden width, the last layer without activation; no bias.

    Without bias, a zero input (beyond the cutoff) gives exactly zero.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # Matrices only: XLA's CPU backend is several times slower in the gradient of a product with a batched array.
        leading, x = x.shape[:-1], x.reshape(-1, x.shape[-1])
        for i, width in enumerate(self.widths):
            weight = self.param(f"layer{i}", _normal, (x.shape[-1], width), x.dtype)
            x = x @ (weight / np.sqrt(x.shape[-1]).astype(x.dtype))
            if i < len(self.widths) - 1:
                x = silu(x)
        return x.reshape(*leading, -1)


def gate(features: Features, channels: int) -> Features:
    """silu on 0e and tanh on 0o; l > 0 times silu of its gates, the even scalars beyond the first ``channels``."""
    scalars = features[EVEN_SCALAR]
    gates = silu(scalars[..., channels:])
    gated = {EVEN_SCALAR: silu(scalars[..., :channels])}
    if ODD_SCALAR in features:
        gated[ODD_SCALAR] = tanh(features[ODD_SCALAR])
    for i, irrep in enumerate(irrep for irrep in ordered(features) if irrep.l > 0):
        gated[irrep] = features[irrep] * gates[..., i * channels : (i + 1) * channels]
    return gated
