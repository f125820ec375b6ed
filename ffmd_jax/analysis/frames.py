"""Access to the frames of a trajectory: parts, cells, and functions evaluated frame by frame."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ase.data import chemical_symbols

from ffmd_jax.core.state import System
from ffmd_jax.formats.trajectory import Trajectory, frame_interval

_ATOMS_AT_ONCE = 2**17
_SNAPSHOTS, _SNAPSHOT_SPACING_FS = 40, 25.0
LARGEST_SHOWN = 2000  # atoms


class Snapshots(NamedTuple):
    """A few frames to look at: times, fs ``[n]``, positions, Å ``[n, n_atoms, 3]``, and cells, Å ``[n, 3, 3]``."""

    times_fs: np.ndarray
    positions: np.ndarray
    cells: np.ndarray


def snapshots(trajectory: Trajectory) -> Snapshots:
    """The last frames, at most 40 and about 25 fs apart; none for systems of more than 2,000 atoms."""
    n_frames, interval = len(trajectory.times), frame_interval(trajectory.times)
    stride = max(1, round(_SNAPSHOT_SPACING_FS / interval))
    number = _SNAPSHOTS if len(trajectory.system.species) <= LARGEST_SHOWN else 0
    chosen = np.arange(n_frames - 1, -1, -stride)[:number][::-1]
    return Snapshots(
        trajectory.times[chosen], np.asarray(trajectory.frames.positions)[chosen], cells(trajectory)[chosen]
    )


def elements(system: System) -> dict[str, int]:
    """Atomic number of each element of the system by its symbol, in ascending order."""
    return {chemical_symbols[number]: number for number in np.unique(system.species).tolist()}


def cells(trajectory: Trajectory) -> np.ndarray:
    """Cell of each frame, Å, ``[n_frames, 3, 3]``."""
    return np.asarray(trajectory.frames.cell, dtype=np.float64)


def evaluate(function: Callable, system: System, *batches: Any) -> np.ndarray:
    """``function(system, *frame)`` of every frame in double precision, ``[n_frames, ...]``.

    ``batches`` are pytrees of arrays ``[n_frames, ...]``, for example a `State` of frames.
    """
    n_frames = len(jax.tree.leaves(batches)[0])
    stride = max(1, _ATOMS_AT_ONCE // len(system.species))
    found = []
    with jax.enable_x64(True):
        for first in range(0, n_frames, stride):
            chunk = jax.tree.map(lambda values, start=first: np.asarray(values)[start : start + stride], batches)
            found.append(np.asarray(_batched(function)(system, *chunk)))
    return np.concatenate(found)


@functools.lru_cache
def _batched(function: Callable) -> Callable:
    """``function`` of one system and many frames, compiled once per function."""
    return jax.jit(lambda system, *batches: jax.vmap(lambda *frame: function(system, *frame))(*batches))
