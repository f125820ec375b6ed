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

from ffmd_jax.core.state import Array
from ffmd_jax.models import splines
from ffmd_jax.models.config import Architecture

Features = dict[e3nn.Irrep, Array]

EVEN_SCALAR = e3nn.Irrep(0, 1)
ODD_SCALAR = e3nn.Irrep(0, -1)
VECTOR = e3nn.Irrep(1, -1)

# Activations are scaled to second moment 1 under a normal distribution.  e3nn estimates the moment from one million
# samples; its values, not the exact 1.676532 and 1.592537, belong to published weights.
SILU_SCALE = 1.6791767923989418
TANH_SCALE = 1.5937334472592695
SIGMOID_SCALE = 1.8462286  # no published weights need e3nn's estimate


def silu(x: Array) -> Array:
    """x/(1 + e⁻ˣ), scaled to second moment 1."""
    return SILU_SCALE * jax.nn.silu(x)


def tanh(x: Array) -> Array:
    """tanh x, scaled to second moment 1."""
    return TANH_SCALE * jnp.tanh(x)


def sigmoid(x: Array) -> Array:
    """1/(1 + e⁻ˣ), scaled to second moment 1."""
    return SIGMOID_SCALE * jax.nn.sigmoid(x)


def ordered(irreps: Iterable[e3nn.Irrep]) -> list[e3nn.Irrep]:
    """The distinct irreps by (l, parity), odd first."""
    return sorted(set(irreps), key=lambda irrep: (irrep.l, irrep.p))


def norm(vectors: Array) -> Array:
    """Lengths ``[...]`` of vectors ``[..., 3]``, with gradient zero at zero."""
    squared = jnp.sum(vectors**2, axis=-1)
    zero = squared == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)))


def spherical_harmonics(vectors: Array, lmax: int) -> Array:
    """Component-normalised Y_l of the directions of ``[..., 3]``, for l = 0 … lmax, ``[..., (lmax + 1)²]``.

    A zero vector has Y_0 = 1 and zero for l > 0, with gradient zero.
    """
    length = norm(vectors)[..., None]
    directions = vectors / jnp.where(length == 0, 1.0, length)
    irreps = e3nn.Irreps([(1, (l, (-1) ** l)) for l in range(lmax + 1)])
    harmonics = e3nn.spherical_harmonics(
        irreps, e3nn.IrrepsArray("1o", jnp.asarray(directions)), normalize=False, normalization="component"
    )
    return harmonics.array.astype(vectors.dtype)


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


def hidden_layers(matrices: Sequence[Array], x: Array) -> Array:
    """x → silu(x W/sqrt(fan-in)) for each matrix, ``[..., n_in]`` → ``[..., n_out]``.

    Without bias, a zero input (beyond the cutoff) gives exactly zero.
    """
    # Matrices only: XLA's CPU backend is several times slower in the gradient of a product with a batched array.
    leading, x = x.shape[:-1], x.reshape(-1, x.shape[-1])
    for matrix in matrices:
        x = silu(x @ (matrix / np.sqrt(x.shape[-1]).astype(x.dtype)))
    return x.reshape(*leading, -1)


class MLP(nn.Module):
    """`hidden_layers`, and a last layer without activation."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden, mix = _network(self, self.widths, x)
        return hidden @ mix


class Mixture(NamedTuple):
    """Weights of edges as few functions of the distance, mixed: ``functions @ mix``.

    Attributes:
        functions: ``[n_atoms, n_neighbors, n_functions]``, zero on padding.
        mix: ``[n_functions, n_paths · channels]``.
    """

    functions: Array
    mix: Array


class Table(NamedTuple):
    """Weights of edges as splines of the distance.

    Attributes:
        place: distances in units of the intervals of the spline, ``[n_atoms, n_neighbors]``.
        coefficients: see `splines`, ``[n_paths, n_intervals + 3, channels]``.
    """

    place: Array
    coefficients: Array


RadialWeights = Mixture | Table


class RadialNetwork(nn.Module):
    """The weights of edges of every path and channel, as functions of the distance, in a form to be evaluated later.

    They are large: `products` makes them where they are used.  An MLP of the radial basis; or splines through its
    values at knots; or, if the parameters hold them already (see `tables`), splines.

    Attributes:
        widths: of the layers; the last is n_paths · channels.
        channels: of each path.
        span: Å, the distances that splines span.
        smooth_end: value, slope and curvature of splines vanish at their end.
    """

    widths: tuple[int, ...]
    channels: int
    span: tuple[float, float]
    smooth_end: bool = False

    @nn.compact
    def __call__(self, lengths: "Lengths") -> RadialWeights:
        if self.has_variable("params", "spline"):
            coefficients = self.get_variable("params", "spline")
        else:
            functions, mix = _network(self, self.widths, lengths.waves)
            if not lengths.at_knots:
                return Mixture(functions, mix)
            coefficients = spline_coefficients(functions @ mix, self.channels, self.smooth_end)
        place = splines.locate(lengths.distances, *self.span, n_intervals=coefficients.shape[1] - 3)
        return Table(place, coefficients)


class Lengths(NamedTuple):
    """What radial networks see.

    Attributes:
        distances: to the neighbours, Å, ``[n_atoms, n_neighbors]``.
        waves: `bessel_basis`, of the distances and zero on padding, ``[n_atoms, n_neighbors, n_basis]``, or of the
            knots of splines, ``[n_knots, n_basis]``.
        at_knots: which of the two.
    """

    distances: Array
    waves: Array
    at_knots: bool


def lengths(distances: Array, mask: Array, roots: Array, sizes: Architecture, splines_from: float) -> Lengths:
    """What radial networks see of the distances to the neighbours, Å, ``[n_atoms, n_neighbors]``."""
    if sizes.radial_intervals:
        places = jnp.linspace(splines_from, sizes.cutoff, sizes.radial_intervals + 1, dtype=distances.dtype)
        return Lengths(distances, bessel_basis(places, roots, sizes.cutoff, sizes.cutoff_power), True)
    waves = bessel_basis(distances, roots, sizes.cutoff, sizes.cutoff_power)
    return Lengths(distances, jnp.where(mask[..., None], waves, 0.0), False)


def spline_coefficients(values: Array, channels: int, smooth_end: bool = False) -> Array:
    """``[n_paths, n_intervals + 3, channels]`` of the splines through ``[n_intervals + 1, n_paths · channels]``.

    ``smooth_end``: the last three coefficients are set to zero, where values and slopes nearly vanish: a force that
    ends with a step, however small, would not conserve energy.
    """
    matrix = splines.fitting_matrix(len(values) - 1)
    if smooth_end:
        matrix[-3:] = 0
    coefficients = jnp.asarray(matrix, values.dtype) @ values
    return jnp.swapaxes(coefficients.reshape(len(coefficients), -1, channels), 0, 1)


def _network(module: nn.Module, widths: Sequence[int], x: Array) -> tuple[Array, Array]:
    """Hidden layers of ``x``, and the last matrix with its 1/sqrt(fan-in)."""
    fan_in = [x.shape[-1], *widths[:-1]]
    matrices = [
        module.param(f"layer{i}", _normal, (n, width), x.dtype)
        for i, (n, width) in enumerate(zip(fan_in, widths, strict=True))
    ]
    return hidden_layers(matrices[:-1], x), matrices[-1] / np.sqrt(fan_in[-1]).astype(x.dtype)


def gate(features: Features, channels: int, bounded: bool = False) -> Features:
    """silu on 0e and tanh on 0o; l > 0 times its gates, of the even scalars beyond the first ``channels``.

    Gates are silu, or sigmoid if ``bounded``.
    """
    scalars = features[EVEN_SCALAR]
    gates = (sigmoid if bounded else silu)(scalars[..., channels:])
    gated = {EVEN_SCALAR: silu(scalars[..., :channels])}
    if ODD_SCALAR in features:
        gated[ODD_SCALAR] = tanh(features[ODD_SCALAR])
    for i, irrep in enumerate(irrep for irrep in ordered(features) if irrep.l > 0):
        gated[irrep] = features[irrep] * gates[..., i * channels : (i + 1) * channels]
    return gated
