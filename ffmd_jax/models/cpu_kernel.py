"""The product over neighbours as a compiled CPU kernel, with its gradient: several times faster than XLA's code.

``cpu_kernel.cc`` is compiled for the machine at hand by its C++ compiler (``CXX``, c++, g++ or clang++) when it is
first needed, about ten seconds, and kept in the user's cache (`caches`).  Without a compiler `available` is False, and
`products.edge_convolution` lets XLA do it.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import caches
from ffmd_jax.core.state import Array

LMAX = 3  # of features and outputs
_BYTES = 64  # of a vector of channels


class Plan(NamedTuple):
    """What the kernel must know of the paths; hashable.

    Attributes:
        paths: of each path: first component of its input, 2l_1 + 1, 2l_3 + 1, first element of its tensor, number of
            its output, its place along the channels of the output.
        coupling: of each 3j symbol that is not zero: element of the tensors, spherical harmonic.
        symbols: their values.
        n_tensor: elements of the tensors of all kinds of coupling.
        outputs: of each output irrep: 2l + 1 and how many paths lead to it.
    """

    paths: tuple[tuple[int, ...], ...]
    coupling: tuple[tuple[int, int], ...]
    symbols: tuple[float, ...]
    n_tensor: int
    outputs: tuple[tuple[int, int], ...]


class Operands(NamedTuple):
    """Arrays of a call.

    Attributes:
        rows: features, ``[n_rows, n_components, channels]``.
        senders, mask: of the graph, rows, ``[n_atoms, n_neighbors]``.
        harmonics: Y(r̂_ij), ``[n_atoms, n_neighbors, (lmax + 1)²]``.
        place: distances in units of the knot spacing, from the first knot on, ``[n_atoms, n_neighbors]``.
        table: B-spline coefficients, ``[n_paths, n_knots + 3, channels]``.
    """

    rows: Array
    senders: Array
    mask: Array
    harmonics: Array
    place: Array
    table: Array


@functools.cache
def available() -> bool:
    """True if the kernel is there; compiles it at the first call, and warns where that fails."""
    try:
        library = ctypes.CDLL(str(_compiled()))
        for name in ("forward_float32", "forward_float64", "backward_float32", "backward_float64"):
            handler = jax.ffi.pycapsule(getattr(library, name))
            jax.ffi.register_ffi_target(f"ffmd_{name}", handler, platform="cpu")
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or error
        warnings.warn(
            f"no compiled CPU kernel, XLA's slower code is used: {str(detail).strip().splitlines()[0]}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def convolve(plan: Plan, operands: Operands) -> list[Array]:
    """Sums over the neighbours of all paths, ``[n_atoms, 2l + 1, n_paths · channels]`` for each output irrep.

    float32 or float64; differentiable twice, in rows, harmonics, place and table.  `available` must be True.

    Raises:
        ValueError: operands of different precision.
    """
    channels, dtype = operands.rows.shape[-1], operands.rows.dtype
    if {operands.harmonics.dtype, operands.place.dtype, operands.table.dtype} != {dtype}:
        raise ValueError(
            f"positions, velocities and weights must have one precision (state.cast): features are {dtype}, "
            f"distances {operands.place.dtype}, weights {operands.table.dtype}"
        )
    padding = -channels % (_BYTES // dtype.itemsize)
    if padding:  # whole vectors of channels
        wide = ((0, 0), (0, 0), (0, padding))
        operands = operands._replace(rows=jnp.pad(operands.rows, wide), table=jnp.pad(operands.table, wide))
    outputs = _differentiable(plan)(operands)
    if padding:
        outputs = [x.reshape(*x.shape[:2], -1, channels + padding)[..., :channels] for x in outputs]
        outputs = [x.reshape(*x.shape[:2], -1) for x in outputs]
    return outputs


@functools.cache
def _differentiable(plan: Plan, order: int = 0) -> Callable[[Operands], list[Array]]:
    """The kernel for whole vectors of channels, with its gradient; ``order``: of the derivative of the splines."""

    @jax.custom_vjp
    def call(operands: Operands) -> list[Array]:
        n_atoms, channels = operands.senders.shape[-2], operands.rows.shape[-1]
        shapes = [jax.ShapeDtypeStruct((n_atoms, dim, n * channels), operands.rows.dtype) for dim, n in plan.outputs]
        return _call("forward", plan, shapes, operands, order=np.int64(order))

    def forward(operands: Any):  # of arrays that know whether they are differentiated
        values = Operands(*(operand.value for operand in operands))
        return call(values), (values, operands.harmonics.perturbed or operands.place.perturbed)

    def backward(saved: Any, gradients: Any):
        operands, positions = saved
        found = _gradient(plan, order, positions)(operands, _numbers(gradients, operands))
        return (_cotangent(*found),)

    call.defvjp(forward, backward, symbolic_zeros=True)
    return call


@functools.cache
def _gradient(plan: Plan, order: int, positions: bool) -> Callable[[Operands, list[Array]], list[Array]]:
    """The gradients of rows and table and, if ``positions``, of harmonics and place; with its own gradient.

    The product with the gradient of its result is linear in each of gradient, rows, harmonics and table.  So the
    gradient of its gradients is made of the same products, with one operand replaced by the cotangent of its gradient;
    that of a place brings the derivative of the splines.
    """

    @jax.custom_vjp
    def pull(operands: Operands, gradients: list[Array]) -> list[Array]:
        wanted = [operands.rows, operands.table]
        wanted += [operands.harmonics, operands.place] if positions else []
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in wanted]
        return _call("backward", plan, shapes, operands, gradients, order=np.int64(order), positions=positions)

    def forward(operands: Any, gradients: Any):
        values, along = Operands(*(x.value for x in operands)), [g.value for g in gradients]
        return pull(values, along), (values, along)

    def backward(saved: Any, cotangents: Any):
        operands, gradients = saved
        rows, table, harmonics, place = (None if _is_zero(x) else x for x in [*cotangents, None, None][:4])
        sums = [[jnp.zeros_like(g) for g in gradients], dict.fromkeys(Operands._fields)]

        def term(changed: Operands, order: int, keep: tuple[str, ...], scale: Array | None = None) -> None:
            made = _differentiable(plan, order)(changed)
            sums[0] = [total + part for total, part in zip(sums[0], made, strict=True)]
            found = _cotangent(*_gradient(plan, order, True)(changed, gradients))._asdict()
            if scale is not None:
                found["harmonics"] = scale * found["harmonics"]
            for name in keep:
                sums[1][name] = found[name] if sums[1][name] is None else sums[1][name] + found[name]

        if rows is not None:
            term(operands._replace(rows=rows), order, ("harmonics", "place", "table"))
        if table is not None:
            term(operands._replace(table=table), order, ("rows", "harmonics", "place"))
        if harmonics is not None:
            term(operands._replace(harmonics=harmonics), order, ("rows", "place", "table"))
        if place is not None:
            scale = place[..., None]
            along = operands._replace(harmonics=scale * operands.harmonics)
            term(along, order + 1, ("rows", "harmonics", "place", "table"), scale)
        return Operands(**sums[1]), sums[0]

    pull.defvjp(forward, backward, symbolic_zeros=True)
    return pull


def _cotangent(rows: Any, table: Any, harmonics: Any = None, place: Any = None) -> Any:
    nothing: Any = None
    return Operands(rows, nothing, nothing, harmonics, place, table)


def _is_zero(cotangent: Any) -> bool:
    return cotangent is None or isinstance(cotangent, jax.custom_derivatives.SymbolicZero)


def _numbers(gradients: Any, operands: Operands) -> list[Array]:
    return [jnp.zeros(g.shape, operands.rows.dtype) if _is_zero(g) else g for g in gradients]


def _call(kind: str, plan: Plan, shapes, operands: Operands, gradients=(), **attributes) -> list[Array]:
    call = jax.ffi.ffi_call(f"ffmd_{kind}_{operands.rows.dtype.name}", shapes, vmap_method="expand_dims")
    return call(
        *operands._replace(senders=operands.senders.astype(jnp.int32)),
        *gradients,
        paths=np.array(plan.paths, np.int64).reshape(-1),
        coupling=np.array(plan.coupling, np.int64).reshape(-1),
        symbols=np.array(plan.symbols, np.float64),
        n_tensor=np.int64(plan.n_tensor),
        **attributes,
    )


def _compiled() -> Path:
    """The shared library, compiled if it is not in the cache: for this source, compiler, jaxlib and processor."""
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        raise FileNotFoundError("no C++ compiler found (c++, g++ or clang++)")
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    command = [compiler, "-std=c++17", "-O3", native, "-fPIC", "-shared", "-w", f"-I{jax.ffi.include_dir()}"]
    source = (resources.files("ffmd_jax.models") / "cpu_kernel.cc").read_bytes()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    facts = [source, version, " ".join(command).encode(), jax.__version__.encode()]
    folder = caches.folder()
    library = folder / f"cpu_kernel_{hashlib.sha256(b'|'.join(facts)).hexdigest()[:16]}.so"
    if not library.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # another process may compile it, too
            place = Path(scratch) / "cpu_kernel.cc"
            place.write_bytes(source)
            command += [str(place), "-o", str(place.with_suffix(".so"))]
            subprocess.run(command, capture_output=True, check=True, text=True, timeout=600)
            os.replace(place.with_suffix(".so"), library)
    return library
