"""The product over neighbours as one fused kernel for TPUs, in Pallas.

The features of all atoms lie in fast memory.  For each atom, rows of its neighbours are picked there; the weights of
edges, paths and channels, which would fill gigabytes, and the products with the harmonics exist only there, too.  The
gradient is a second kernel that makes them again and adds to the rows of the neighbours.  Tests run it in interpret
mode, and libtpu compiles it for TPUs; no TPU has run it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ffmd_jax.core.state import Array
from ffmd_jax.models.convolution import TPU_FAST_BYTES


class Path(NamedTuple):
    """A path: where its input and output are, and which tensor elements couple them.

    Attributes:
        first: row of the first input component.
        output: number of the output array.
        slot: which of the paths to that array it is.
        terms: (component of the output, component of the input, column of the coupling tensors).
    """

    first: int
    output: int
    slot: int
    terms: tuple[tuple[int, int, int], ...]

    def of_output(self) -> dict[int, list[tuple[int, int]]]:
        """(input component, column) for each output component."""
        found: dict[int, list[tuple[int, int]]] = {}
        for c, a, column in self.terms:
            found.setdefault(c, []).append((a, column))
        return found


class Plan(NamedTuple):
    """What is fixed when the kernel is compiled.

    Attributes:
        paths: in the order of their outputs.
        outputs: components of each output, and how many paths it joins.
        interpret: run the kernel as plain operations, anywhere.
    """

    paths: tuple[Path, ...]
    outputs: tuple[tuple[int, int], ...]
    interpret: bool


class Operands(NamedTuple):
    """What the product is of.

    Attributes:
        features: of the atoms, ``[n_atoms, n_components · channels]``.
        harmonics: Y of the edges, ``[n_atoms, n_neighbors, n_harmonics]``.
        functions: of their lengths, zero where there is no neighbour, ``[n_atoms, n_neighbors, n_functions]``.
        mix: the weights are functions @ mix, ``[n_paths, n_functions, channels]``.
    """

    features: Array
    harmonics: Array
    functions: Array
    mix: Array


def _dot(one: Any, other: Any, contract: tuple[int, int]) -> Any:
    """A matrix product in full precision, over these axes."""
    axes = (((contract[0],), (contract[1],)), ((), ()))
    kind = one.dtype
    return jax.lax.dot_general(one, other, axes, precision=jax.lax.Precision.HIGHEST, preferred_element_type=kind)


def _gather(senders: Any, features: Any, near: Any) -> None:
    def pick(k, _):
        near[pl.ds(k, 1), :] = features[pl.ds(senders[0, 0, k], 1), :]
        return 0

    jax.lax.fori_loop(0, near.shape[0], pick, 0)


def _coupled(path: Path, terms: list[tuple[int, int]], near: Any, tensors: Array, width: int) -> Array:
    """Σ over input components of tensor × features, ``[n_neighbors, channels]``."""
    total: Any = 0
    for a, column in terms:
        total += tensors[:, column : column + 1] * near[:, _part(path.first + a, width)]
    return total


def _part(row: int, width: int) -> slice:
    return slice(row * width, (row + 1) * width)


def _forward(
    plan: Plan, senders: Any, couple: Any, features: Any, harmonics: Any, functions: Any, mix: Any, *rest: Any
) -> None:
    *outputs, near = rest
    _gather(senders, features, near)
    tensors, radial, width = _dot(harmonics[0], couple[...], (1, 0)), functions[0], mix.shape[2]
    for out in outputs:
        out[...] = jnp.zeros(out.shape, out.dtype)
    for i, path in enumerate(plan.paths):
        weights = _dot(radial, mix[i], (1, 0))
        for c, terms in path.of_output().items():
            value = weights * _coupled(path, terms, near, tensors, width)
            outputs[path.output][0, c : c + 1, _part(path.slot, width)] = jnp.sum(value, axis=0, keepdims=True)


def _backward(
    plan: Plan, senders: Any, couple: Any, features: Any, harmonics: Any, functions: Any, mix: Any, *rest: Any
) -> None:
    n_outputs = len(plan.outputs)
    slopes, rest = rest[:n_outputs], rest[n_outputs:]
    d_features, d_harmonics, d_functions, d_mix, near, d_near, d_tensors = rest

    @pl.when(pl.program_id(0) == 0)
    def _():
        d_mix[...] = jnp.zeros(d_mix.shape, d_mix.dtype)
        d_features[...] = jnp.zeros(d_features.shape, d_features.dtype)

    _gather(senders, features, near)
    tensors, radial, width = _dot(harmonics[0], couple[...], (1, 0)), functions[0], mix.shape[2]
    d_near[...] = jnp.zeros(d_near.shape, d_near.dtype)
    d_tensors[...] = jnp.zeros(d_tensors.shape, d_tensors.dtype)
    d_radial = jnp.zeros(radial.shape, radial.dtype)
    for i, path in enumerate(plan.paths):
        weights = _dot(radial, mix[i], (1, 0))
        d_weights = jnp.zeros(weights.shape, weights.dtype)
        for c, terms in path.of_output().items():
            slope = slopes[path.output][0, c : c + 1, _part(path.slot, width)]
            d_weights += slope * _coupled(path, terms, near, tensors, width)
            spread = weights * slope
            for a, column in terms:
                part = _part(path.first + a, width)
                d_near[:, part] += tensors[:, column : column + 1] * spread
                d_tensors[:, column : column + 1] += jnp.sum(near[:, part] * spread, axis=1, keepdims=True)
        d_radial += _dot(d_weights, mix[i], (1, 1))
        d_mix[i] += _dot(radial, d_weights, (0, 0))
    d_functions[0] = d_radial
    d_harmonics[0] = _dot(d_tensors[...], couple[...], (1, 1))

    def scatter(k, _):
        place = pl.ds(senders[0, 0, k], 1)
        d_features[place, :] += d_near[pl.ds(k, 1), :]
        return 0

    jax.lax.fori_loop(0, near.shape[0], scatter, 0)


def _of_atom(shape: tuple[int, ...], memory: Any = pltpu.VMEM) -> pl.BlockSpec:
    """The part of an array that is of one atom."""
    return pl.BlockSpec((1, *shape[1:]), lambda i: (i, 0, 0), memory_space=memory)


_WHOLE = pl.BlockSpec(memory_space=pltpu.VMEM)


def _call(plan: Plan, kernel: Any, senders: Array, couple: Array, operands: Operands, **more: Any) -> Any:
    """The kernel, once for each atom, one after the other."""
    specs = [_of_atom(senders.shape, pltpu.SMEM), _WHOLE, *_specs(operands), *more.pop("more_specs", [])]
    return pl.pallas_call(
        functools.partial(kernel, plan), grid=(len(senders),), in_specs=specs, interpret=plan.interpret,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=TPU_FAST_BYTES
        ),
        **more,
    )  # fmt: skip


def _specs(operands: Operands) -> list[pl.BlockSpec]:
    return [_WHOLE, _of_atom(operands.harmonics.shape), _of_atom(operands.functions.shape), _WHOLE]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def convolve(plan: Plan, senders: Array, couple: Array, operands: Operands) -> list[Array]:
    """Σ over neighbours, every path apart: for each output ``[n_atoms, n_components, n_paths_of_it · channels]``.

    Args:
        plan: paths; hashable.
        senders: neighbours, any atom where there is none, ``[n_atoms, 1, n_neighbors]``.
        couple: makes coupling tensors of Y, ``[n_harmonics, n_columns]``.
        operands: what may be differentiated.
    """
    channels, kind = operands.mix.shape[2], operands.features.dtype
    shapes = [(len(senders), dim, n_paths * channels) for dim, n_paths in plan.outputs]
    return _call(
        plan, _forward, senders, couple, operands, out_shape=[jax.ShapeDtypeStruct(shape, kind) for shape in shapes],
        out_specs=[_of_atom(shape) for shape in shapes], scratch_shapes=[_near(senders, operands)],
    )(senders, couple, *operands)  # fmt: skip


def _near(senders: Array, operands: Operands) -> Any:
    """Room for the features of the neighbours of an atom."""
    return pltpu.VMEM((senders.shape[2], operands.features.shape[1]), operands.features.dtype)


def _convolve_forward(plan: Plan, senders: Array, couple: Array, operands: Operands):
    return convolve(plan, senders, couple, operands), (senders, couple, operands)


def _convolve_backward(plan: Plan, saved: tuple[Array, Array, Operands], slopes: list[Array]):
    senders, couple, operands = saved
    near, tensors = _near(senders, operands), (senders.shape[2], couple.shape[1])
    found = _call(
        plan, _backward, senders, couple, operands, more_specs=[_of_atom(x.shape) for x in slopes],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in operands], out_specs=_specs(operands),
        scratch_shapes=[near, near, pltpu.VMEM(tensors, operands.features.dtype)],
    )(senders, couple, *operands, *slopes)  # fmt: skip
    return None, None, Operands(*found)


convolve.defvjp(_convolve_forward, _convolve_backward)
