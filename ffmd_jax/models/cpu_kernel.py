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
        rows: features, ``[n_atoms, n_components, channels]``.
        senders, mask: of the graph, ``[n_atoms, n_neighbors]``.
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

    float32 or float64; differentiable once, in rows, harmonics, place and table.  `available` must be True.

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
def _differentiable(plan: Plan) -> Callable[[Operands], list[Array]]:
    """The kernel for whole vectors of channels, with its gradient."""

    @jax.custom_vjp
    def call(operands: Operands) -> list[Array]:
        n_atoms, _, channels = operands.rows.shape
        shapes = [jax.ShapeDtypeStruct((n_atoms, dim, n * channels), operands.rows.dtype) for dim, n in plan.outputs]
        return _call("forward", plan, shapes, operands)

    def forward(operands: Any):  # of arrays that know whether they are differentiated
        values = Operands(*(operand.value for operand in operands))
        return call(values), (values, operands.harmonics.perturbed or operands.place.perturbed)

    def backward(saved: Any, gradients: Any):
        operands, positions = saved
        wanted = [operands.rows, operands.table]
        if positions:
            wanted += [operands.harmonics, operands.place]
        gradients = [
            jnp.zeros(g.shape, operands.rows.dtype) if isinstance(g, jax.custom_derivatives.SymbolicZero) else g
            for g in gradients
        ]
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in wanted]
        found = _call("backward", plan, shapes, operands, gradients, positions=positions)
        nothing: Any = None
        harmonics, place = found[2:] if positions else (nothing, nothing)
        return (Operands(found[0], nothing, nothing, harmonics, place, found[1]),)

    call.defvjp(forward, backward, symbolic_zeros=True)
    return call


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
