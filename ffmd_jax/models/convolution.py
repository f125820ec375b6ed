"""Tensor products of features with spherical harmonics: over the neighbours of every atom, and with its own velocity.

The product over neighbours is nearly all of the cost of a step, and its weights of edges, paths and channels would
fill gigabytes.  `by_kernel` makes them in registers, on CPUs; `by_blocks`, for XLA, for blocks of atoms that fit into
the cache; `tpu_convolution` in the fast memory of a TPU.  `edge_convolution` chooses.  `by_e3nn` is the same product in
the plain formulation of e3nn-jax, slow and large: the oracle of tests and benchmarks.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core.state import Array, Graph
from ffmd_jax.models import cpu_kernel, splines
from ffmd_jax.models.layers import Features, Mixture, RadialWeights, Table, ordered

TPU_FAST_BYTES = 96 * 2**20  # of 128 MiB, of a core


class Path(NamedTuple):
    """A coupling of features with spherical harmonics: ``first`` ⊗ Y_l → ``out``."""

    first: e3nn.Irrep
    l: int
    out: e3nn.Irrep


class Edges(NamedTuple):
    """What the product over neighbours sees of the edges; no array has channels.

    Attributes:
        graph: the neighbours.
        harmonics: Y(r̂_ij) up to the largest l, ``[n_atoms, n_neighbors, (lmax + 1)²]``.
        average: number of neighbours that sums over them are divided by.
    """

    graph: Graph
    harmonics: Array
    average: float = 1.0


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


def coupling(l_1: int, l_2: int, l_3: int) -> np.ndarray:
    """Coefficients ``[2l_1 + 1, 2l_2 + 1, 2l_3 + 1]`` of a path: the 3j symbol times sqrt(2 l_3 + 1)."""
    three_j = np.asarray(e3nn.clebsch_gordan(l_1, l_2, l_3), np.float64)
    return three_j / np.linalg.norm(three_j) * np.sqrt(2 * l_3 + 1)


def concatenate_paths(paths: Sequence[Path], values: Sequence[Array]) -> Features:
    """Joins the outputs of paths of one irrep along the channels, in order."""
    outputs = ordered(path.out for path in paths)
    return {
        irrep: jnp.concatenate([v for path, v in zip(paths, values, strict=True) if path.out == irrep], axis=-1)
        for irrep in outputs
    }


def coupling_tensors(harmonics: Array, paths: Sequence[Path]) -> list[Array]:
    """Y contracted with the 3j symbols of every path, ``[..., 2l_1 + 1, 2l_3 + 1]``.

    They have no channels and no parity; one matrix product makes them all.
    """
    kinds = sorted({kind_of(path) for path in paths})
    columns = []
    for l_1, l_2, l_3 in kinds:
        symbols = coupling(l_1, l_2, l_3)
        column = np.zeros((harmonics.shape[-1], symbols.shape[0] * symbols.shape[2]), harmonics.dtype)
        column[l_2**2 : (l_2 + 1) ** 2] = symbols.swapaxes(0, 1).reshape(2 * l_2 + 1, -1)
        columns.append(column)
    ends = np.cumsum([column.shape[1] for column in columns])
    parts = jnp.split(harmonics @ np.concatenate(columns, axis=1), ends[:-1], axis=-1)
    shaped = {
        (l_1, l_2, l_3): part.reshape(*part.shape[:-1], 2 * l_1 + 1, 2 * l_3 + 1)
        for (l_1, l_2, l_3), part in zip(kinds, parts, strict=True)
    }
    return [shaped[kind_of(path)] for path in paths]


def kind_of(path: Path) -> tuple[int, int, int]:
    """What the 3j symbols of a path depend on."""
    return path.first.l, path.l, path.out.l


def edge_convolution(
    features: Features, edges: Edges, radial: RadialWeights, paths: Sequence[Path], block: int | None = None
) -> Features:
    """Σ_j w_ij (h_j ⊗ Y(r̂_ij)) over the neighbours of each atom, by their average number, every path apart.

    On CPUs, tables go to the compiled kernel (`by_kernel`) if it is available; on TPUs, what fits goes to
    `tpu_convolution.by_tpu_kernel` if it is asked for; all else runs `by_blocks`.

    Args:
        features: of the atoms, all with the same number of channels.
        edges: neighbours and their spherical harmonics.
        radial: weights w of every path and channel.
        paths: from `coupling_paths`.
        block: atoms at a time, and no kernel; None: as many as `block_size` says.
    """
    lmax = max(max(path.first.l, path.out.l) for path in paths)
    if block is None and isinstance(radial, Table) and kernel_serves(lmax):
        return by_kernel(features, edges, radial, paths)
    if block is None and tpu_kernel_serves(sum(values.size for values in features.values())):
        from ffmd_jax.models import tpu_convolution  # Pallas takes half a second to import

        return tpu_convolution.by_tpu_kernel(features, edges, radial, paths)
    return by_blocks(features, edges, radial, paths, block)


def shapes(features: Features, edges: Edges, radial: RadialWeights, paths: Sequence[Path]) -> Features:
    """Zeros of the shapes of `edge_convolution`."""
    some = next(iter(features.values()))
    return concatenate_paths(
        paths, [jnp.zeros((len(some), path.out.dim, some.shape[-1]), some.dtype) for path in paths]
    )


def kernel_serves(lmax: int) -> bool:
    """True if `edge_convolution` has a kernel for tables and features up to ``lmax`` here."""
    return jax.default_backend() == "cpu" and lmax <= cpu_kernel.LMAX and cpu_kernel.available()


def tpu_kernel_serves(n_numbers: int) -> bool:
    """True on TPUs if FFMD_TPU_KERNEL=1 says so, and features of so many numbers, and their gradient, fit.

    It is opt-in until somebody has measured it.
    """
    fits = 2 * 4 * n_numbers < TPU_FAST_BYTES
    return fits and os.environ.get("FFMD_TPU_KERNEL") == "1" and jax.default_backend() == "tpu"


def by_kernel(features: Features, edges: Edges, radial: Table, paths: Sequence[Path]) -> Features:
    """`edge_convolution` by `cpu_kernel`."""
    operands = cpu_kernel.Operands(
        rows=jnp.concatenate([features[irrep] for irrep in ordered(features)], axis=1),
        senders=edges.graph.senders,
        mask=edges.graph.mask,
        harmonics=edges.harmonics,
        place=radial.place,
        table=radial.coefficients,
    )
    outputs = ordered(path.out for path in paths)
    found = cpu_kernel.convolve(_kernel_plan(tuple(ordered(features)), tuple(paths)), operands)
    return {irrep: sums / edges.average for irrep, sums in zip(outputs, found, strict=True)}


@functools.cache
def _kernel_plan(irreps: tuple[e3nn.Irrep, ...], paths: tuple[Path, ...]) -> cpu_kernel.Plan:
    """What the kernel must know of ``paths`` from features of ``irreps``."""
    starts = dict(zip(irreps, np.cumsum([0, *(irrep.dim for irrep in irreps)]).tolist(), strict=False))
    outputs = ordered(path.out for path in paths)
    tensors, coupled, symbols, n_tensor = {}, [], [], 0
    # By l of Y: then few of its components matter to any one vector of elements.
    for l_1, l_2, l_3 in sorted({kind_of(path) for path in paths}, key=lambda kind: (kind[1], kind)):
        tensors[l_1, l_2, l_3] = n_tensor
        three_j = coupling(l_1, l_2, l_3)
        for a, b, c in np.argwhere(np.abs(three_j) > 1e-9).tolist():
            coupled.append((n_tensor + a * (2 * l_3 + 1) + c, l_2**2 + b))
            symbols.append(float(three_j[a, b, c]))
        n_tensor += (2 * l_1 + 1) * (2 * l_3 + 1)
    described, slots = [], dict.fromkeys(outputs, 0)
    for path in paths:
        place = (starts[path.first], path.first.dim, path.out.dim, tensors[kind_of(path)])
        described.append((*place, outputs.index(path.out), slots[path.out]))
        slots[path.out] += 1
    sizes = tuple((irrep.dim, slots[irrep]) for irrep in outputs)
    return cpu_kernel.Plan(tuple(described), tuple(coupled), tuple(symbols), n_tensor, sizes)


def by_blocks(
    features: Features, edges: Edges, radial: RadialWeights, paths: Sequence[Path], block: int | None = None
) -> Features:
    """`edge_convolution` by XLA, ``block`` atoms at a time (None: as many as `block_size` says)."""
    n_atoms, n_neighbors = edges.graph.senders.shape
    if block is None:
        block = block_size(n_atoms, n_neighbors * len(paths) * max(x.shape[-1] for x in features.values()))
    # One gather for all irreps: a row of [Σ (2l + 1), channels] for every neighbour.
    irreps = ordered(features)
    rows = jnp.concatenate([features[irrep] for irrep in irreps], axis=1)
    ends = np.cumsum([irrep.dim for irrep in irreps])
    place = {irrep: slice(end - irrep.dim, end) for irrep, end in zip(irreps, ends, strict=True)}
    of_edges, evaluate = _weights(radial)

    def convolve(inputs: tuple[Array, Array, Array, Array]) -> list[Array]:
        senders, mask, harmonics, of_edges = inputs
        size = len(senders)
        # Where there is no neighbour, nothing is added, whatever the weights are.
        neighbors = jnp.where(mask[..., None, None], rows[senders], 0.0)
        weights = jnp.split(evaluate(of_edges), len(paths), axis=-1)
        values = []
        for path, tensor, weight in zip(paths, coupling_tensors(harmonics, paths), weights, strict=True):
            # One matrix product over neighbours and components: no array has channels and two sets of components.
            weight = weight.reshape(size, n_neighbors, 1, -1)
            weighted = neighbors[:, :, place[path.first]] * weight
            weighted = weighted.reshape(size, -1, weighted.shape[-1])
            tensor = tensor.reshape(size, -1, tensor.shape[-1])
            values.append(jnp.einsum("nxc,nxu->ncu", tensor, weighted))
        return values

    inputs = (edges.graph.senders, edges.graph.mask, edges.harmonics, of_edges)
    found = concatenate_paths(paths, _by_blocks(convolve, inputs, n_atoms, block))
    return {irrep: sums / edges.average for irrep, sums in found.items()}


def _weights(radial: RadialWeights) -> tuple[Array, Callable[[Array], Array]]:
    """What depends on the edges, ``[n_atoms, n_neighbors, …]``, and the weights from it, ``[n_edges, n_weights]``.

    The function takes any part of the edges, so that weights exist for a block of atoms at a time.
    """
    if isinstance(radial, Mixture):
        functions, mix = radial
        # Matrices only: XLA's CPU backend is several times slower in the gradient of a product with a batched array.
        return functions, lambda part: part.reshape(-1, part.shape[-1]) @ mix
    coefficients = jnp.swapaxes(radial.coefficients, 0, 1)
    coefficients = coefficients.reshape(len(coefficients), -1)
    return radial.place, lambda part: splines.evaluate(coefficients, part.reshape(-1))


def block_size(n_atoms: int, numbers_per_atom: int) -> int:
    """Atoms whose weights, ``numbers_per_atom`` each, fill a CPU core's cache, or a part of a GPU's memory."""
    numbers = 2**18 if jax.default_backend() == "cpu" else 2**29
    return int(np.clip(numbers // max(1, numbers_per_atom), 1, n_atoms))


def _by_blocks(function, inputs, n_atoms: int, block: int):
    """``function`` of arrays with a leading axis of atoms, for ``block`` atoms at a time; the last block is padded."""
    if block >= n_atoms:
        return function(inputs)
    n_blocks = -(-n_atoms // block)

    def split(values: Array) -> Array:
        padding = [(0, n_blocks * block - n_atoms)] + [(0, 0)] * (values.ndim - 1)
        return jnp.pad(values, padding).reshape(n_blocks, block, *values.shape[1:])

    outputs = jax.lax.map(function, jax.tree.map(split, inputs))
    return jax.tree.map(lambda values: values.reshape(-1, *values.shape[2:])[:n_atoms], outputs)


def atom_product(features: Features, harmonics: Array, weights: Array, paths: Sequence[Path]) -> Features:
    """w_i (h_i ⊗ Y(v̂_i)), every path apart.

    Args:
        features: of the atoms.
        harmonics: Y(v̂_i) up to the largest l, ``[n_atoms, (lmax + 1)²]``.
        weights: ``[n_atoms, n_paths · channels]``.
        paths: from `coupling_paths`.
    """
    split = jnp.split(weights, len(paths), axis=-1)
    values = []
    for path, tensor, weight in zip(paths, coupling_tensors(harmonics, paths), split, strict=True):
        values.append(jnp.einsum("nau,nac->ncu", features[path.first], tensor) * weight[:, None])
    return concatenate_paths(paths, values)


def by_e3nn(features: Features, edges: Edges, radial: RadialWeights, paths: Sequence[Path]) -> Features:
    """`edge_convolution` as a user of e3nn-jax writes it: tensor product on edges, weights, scatter."""
    n_atoms, n_neighbors = edges.graph.senders.shape
    (channels,) = {values.shape[-1] for values in features.values()}
    lmax = int(np.sqrt(edges.harmonics.shape[-1])) - 1
    y = e3nn.IrrepsArray(
        e3nn.Irreps([(1, (l, (-1) ** l)) for l in range(lmax + 1)]),
        jnp.asarray(edges.harmonics).reshape(n_atoms * n_neighbors, -1),
    )
    x = e3nn.from_chunks(
        e3nn.Irreps([(channels, irrep) for irrep in ordered(features)]),
        [jnp.swapaxes(features[irrep], 1, 2) for irrep in ordered(features)],
        (n_atoms,),
        edges.harmonics.dtype,
    )
    outputs = ordered(path.out for path in paths)
    messages = e3nn.tensor_product(x[edges.graph.senders.reshape(-1)], y, filter_ir_out=outputs, regroup_output=False)
    found = sorted(range(len(paths)), key=lambda i: paths[i].out)  # e3nn's order: even parity first
    of_edges, evaluate = _weights(radial)
    weights = jnp.where(edges.graph.mask.reshape(-1, 1), evaluate(of_edges), 0.0)
    weights = jnp.split(weights, len(paths), axis=-1)
    weighted = messages * jnp.concatenate([weights[i] for i in found], axis=-1)
    receivers = jnp.repeat(jnp.arange(n_atoms), n_neighbors)
    sums: Any = e3nn.scatter_sum(weighted, dst=receivers, output_size=n_atoms)
    value_of = dict(zip(found, sums.chunks, strict=True))
    values = [jnp.swapaxes(jnp.asarray(value_of[i]), 1, 2) / edges.average for i in range(len(paths))]
    return concatenate_paths(paths, values)
