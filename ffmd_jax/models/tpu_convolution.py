"""The tensor product of features with spherical harmonics over the neighbours, by the kernel for TPUs."""

import functools
from collections.abc import Sequence
from typing import Any

import e3nn_jax as e3nn
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core.state import Array
from ffmd_jax.models import splines, tpu_kernel
from ffmd_jax.models.convolution import Edges, Path, coupling, kind_of
from ffmd_jax.models.layers import Features, Mixture, RadialWeights, ordered


def by_tpu_kernel(
    features: Features, edges: Edges, radial: RadialWeights, paths: Sequence[Path], interpret: bool = False
) -> Features:
    """`convolution.edge_convolution` by `tpu_kernel`; ``interpret`` runs it anywhere, slowly, for tests."""
    functions, mix = _functions(radial, edges.graph.mask, len(paths))
    irreps, outputs = ordered(features), ordered(path.out for path in paths)
    rows = jnp.concatenate([features[irrep] for irrep in irreps], axis=1)
    couple, plan = _plan(tuple(irreps), tuple(paths), edges.harmonics.shape[-1], interpret)
    operands = tpu_kernel.Operands(rows.reshape(len(rows), -1), edges.harmonics, functions, mix)
    couple = jnp.asarray(couple / edges.average, rows.dtype)  # small, where the sums are large
    found: Any = tpu_kernel.convolve(plan, edges.graph.senders[:, None], couple, operands)
    return dict(zip(outputs, found, strict=True))


def _functions(radial: RadialWeights, mask: Array, n_paths: int) -> tuple[Array, Array]:
    """Few functions of the edges, zero where there is none, and their mix ``[n_paths, n_functions, channels]``."""
    if isinstance(radial, Mixture):
        functions, mix = radial
        return functions, jnp.swapaxes(mix.reshape(len(mix), n_paths, -1), 0, 1)
    functions = splines.matrix(radial.place, radial.coefficients.shape[1])
    return jnp.where(mask[..., None], functions, 0.0), radial.coefficients


@functools.cache
def _plan(
    irreps: tuple[e3nn.Irrep, ...], paths: tuple[Path, ...], n_harmonics: int, interpret: bool
) -> tuple[np.ndarray, tpu_kernel.Plan]:
    """What makes coupling tensors of the harmonics, and what the kernel must know of ``paths``.

    Only elements of the tensors that are not zero for all Y have a column.
    """
    starts = dict(zip(irreps, np.cumsum([0, *(irrep.dim for irrep in irreps)]).tolist(), strict=False))
    columns, places = [], {}
    for l_1, l_2, l_3 in sorted({kind_of(path) for path in paths}):
        symbols, found = coupling(l_1, l_2, l_3), []
        for a, c in np.argwhere(np.abs(symbols).max(axis=1) > 1e-9).tolist():
            found.append((c, a, len(columns)))
            column = np.zeros(n_harmonics)
            column[l_2**2 : (l_2 + 1) ** 2] = symbols[a, :, c]
            columns.append(column)
        places[l_1, l_2, l_3] = tuple(found)
    outputs = ordered(path.out for path in paths)
    described, slots = [], dict.fromkeys(outputs, 0)
    for path in paths:
        place = outputs.index(path.out)
        described.append(tpu_kernel.Path(starts[path.first], place, slots[path.out], places[kind_of(path)]))
        slots[path.out] += 1
    sizes = tuple((irrep.dim, slots[irrep]) for irrep in outputs)
    return np.stack(columns, axis=1), tpu_kernel.Plan(tuple(described), sizes, interpret)
