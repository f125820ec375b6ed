"""Training data: pairs of states an interval Δt apart, cut from NVE trajectories, split by trajectory."""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ffmd_jax.core.state import State, System
from ffmd_jax.data import nve
from ffmd_jax.data.dataset_file import (
    SPLITS,
    Dataset,
    Pairs,
    Statistics,
    facts,
    fingerprint,
    n_cells,
    read,
    same_cells,
    speed_limits,
    statistics,
    write,
)
from ffmd_jax.formats import trajcast_pairs
from ffmd_jax.formats.trajectory import Trajectory, frame_interval

__all__ = [
    "SPLITS",
    "Dataset",
    "Pairs",
    "Statistics",
    "facts",
    "fingerprint",
    "make",
    "make_from_pairs",
    "n_cells",
    "pairs",
    "read",
    "same_cells",
    "speed_limits",
    "statistics",
    "steps_per_interval",
    "thinned",
    "write",
]


def steps_per_interval(interval_fs: float, time_step_fs: float) -> int:
    """How many frame intervals make Δt, in exact arithmetic on the decimal numbers; files know times to 1e-6.

    Raises:
        ValueError: Δt is not a multiple of the frame interval.
    """
    if not (interval_fs > 0 and 0 < time_step_fs < float("inf")):
        raise ValueError(f"Δt and the frame interval must be positive, not {time_step_fs:g} and {interval_fs:g} fs")
    ratio = Fraction(repr(float(time_step_fs))) / Fraction(repr(float(interval_fs)))
    steps = round(ratio)
    if steps < 1 or abs(ratio - steps) > ratio / 10**6:
        raise ValueError(
            f"Δt = {time_step_fs:.9g} fs is not a multiple of the {interval_fs:.9g} fs between the frames; "
            f"take Δt = {max(1, int(ratio)) * interval_fs:.9g} or {(max(1, int(ratio)) + 1) * interval_fs:.9g} fs, or "
            f"write frames every {time_step_fs:.9g} fs or a divisor of it"
        )
    return steps


def pairs(trajectory: Trajectory, time_step_fs: float, stride_fs: float | None = None) -> Pairs:
    """All pairs Δt apart that start every ``stride_fs`` (default: every frame)."""
    if len(trajectory.times) < 2:
        raise ValueError(f"a part with {len(trajectory.times)} frames holds no pair; give longer trajectories")
    interval = frame_interval(trajectory.times)
    ahead = steps_per_interval(interval, time_step_fs)
    stride = 1 if stride_fs is None else steps_per_interval(interval, stride_fs)
    positions, velocities = (np.asarray(values) for values in trajectory.frames)
    starts = np.arange(0, len(positions) - ahead, stride)
    if len(starts) == 0:
        raise ValueError(
            f"a part with {len(positions)} frames of {interval:g} fs holds no pair {time_step_fs:g} fs apart; "
            f"give longer trajectories"
        )
    ends = starts + ahead
    start, moved = State(positions[starts], velocities[starts]), positions[ends] - positions[starts]
    return _single(trajectory.system, start, moved, velocities[ends])


def make(
    trajectories: Sequence[Trajectory], time_step_fs: float, stride_fs: float | None = None, names: Sequence[Any] = ()
) -> Dataset:
    """The dataset of some NVE trajectories of the same atoms, in cells that may differ.

    With three or more, the last is the test set and the one before it the validation set, so that both are independent
    of the training set.  With one or two, each is cut in time, 80 % train, 10 % validation, 10 % test, with gaps of
    10 Δt, at most 2.5 % of the run, before validation and test.

    Args:
        trajectories: at frame intervals that divide Δt.
        time_step_fs: Δt, fs.
        stride_fs: time between the starts of two pairs, fs (default: every frame).
        names: of the trajectories, for messages and metadata.

    Raises:
        ValueError: trajectories of different systems, that `nve.check` refuses, or too short.
    """
    if not trajectories:
        raise ValueError("no trajectories given")
    names = [str(name) for name in names] or [f"trajectory {i + 1}" for i in range(len(trajectories))]
    for name, trajectory in zip(names, trajectories, strict=True):
        _check_same_system(name, trajectories[0].system, trajectory.system)
        try:
            nve.check(trajectory)
            steps_per_interval(frame_interval(trajectory.times), time_step_fs)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if len(trajectories) >= 3:
        parts = [trajectories[:-2], trajectories[-2:-1], trajectories[-1:]]
    else:
        gap = 10 * time_step_fs
        parts = [[_cut(t, *window) for t in trajectories] for window in ((0, 0.8, 0), (0.8, 0.9, gap), (0.9, 1, gap))]
    joined = [_join([pairs(t, time_step_fs, stride_fs) for t in part]) for part in parts]
    metadata: dict[str, Any] = {"sources": names}
    for key in ("velocities", "velocity_relative_error"):
        if any(key in trajectory.metadata for trajectory in trajectories):
            metadata[key] = max(t.metadata[key] for t in trajectories if key in t.metadata)
    return Dataset(trajectories[0].system, float(time_step_fs), *joined, metadata=metadata)


def make_from_pairs(paths: Sequence[Any], time_step_fs: float) -> Dataset:
    """The dataset of files in TrajCast's extxyz format; their frames are pairs Δt apart.

    With three or more files, the last is the test set and the one before it the validation set; one or two are cut in
    the order of their frames, 80 % train, 10 % validation, 10 % test.

    Raises:
        ValueError: files of different systems, that cannot be read, or whose displacements are not what their
            velocities give in Δt.
    """
    found, first = [], None
    for path in paths:
        system, state, displacements, velocities = trajcast_pairs.read(Path(path))
        first = system if first is None else first
        _check_same_system(str(path), first, system)
        try:
            nve.check_pairs(state, displacements, velocities, time_step_fs)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        found.append(_single(system, state, displacements, velocities))
    if first is None:
        raise ValueError("no files given")
    if len(found) >= 3:
        parts = [found[:-2], found[-2:-1], found[-1:]]
    else:
        parts = [[_window(p, *window) for p in found] for window in ((0, 0.8), (0.8, 0.9), (0.9, 1))]
    joined = [_join(part) for part in parts]
    if not all(len(part.displacements) for part in joined):
        raise ValueError(f"{sum(len(p.displacements) for p in found)} pairs are too few to be split 80/10/10")
    return Dataset(first, float(time_step_fs), *joined, metadata={"sources": [str(path) for path in paths]})


def thinned(data: Dataset, n_train: int | None = None, n_test: int | None = None) -> Dataset:
    """The dataset with at most ``n_train`` pairs to train on and ``n_test`` to validate and to test, evenly chosen.

    Raises:
        ValueError: a number below one.
    """
    for split, n_most in zip(SPLITS, (n_train, n_test, n_test), strict=True):
        part = getattr(data, split)
        n_pairs = len(part.displacements)
        if n_most is not None and n_most < 1:
            raise ValueError(f"the number of {split} pairs must be at least 1, not {n_most}")
        if n_most is not None and n_most < n_pairs:
            data = dataclasses.replace(data, **{split: _take(part, np.arange(n_most) * n_pairs // n_most)})
    return data


def _check_same_system(name: str, first: System, other: System) -> None:
    """Raises ValueError unless both are the same atoms, periodic in the same directions; cells may differ."""
    if not np.array_equal(first.species, other.species):
        raise ValueError(f"{name} has other atoms, or another order of atoms, than the first file")
    if not np.allclose(first.masses, other.masses, rtol=1e-3):
        raise ValueError(f"{name} has other masses than the first file")
    if np.any(first.pbc != other.pbc):
        raise ValueError(f"{name} is periodic in other directions than the first file")


def _cut(trajectory: Trajectory, low: float, high: float, gap_fs: float) -> Trajectory:
    """The part from ``low`` to ``high`` of the length, without its first ``gap_fs``, at most 2.5 % of the whole."""
    n_frames = len(trajectory.times)
    gap = min(gap_fs / frame_interval(trajectory.times), 0.025 * n_frames)
    window = slice(round(low * n_frames) + round(gap), round(high * n_frames))
    frames = State(*(values[window] for values in trajectory.frames))
    return trajectory._replace(frames=frames, times=trajectory.times[window])


def _single(system: System, state: State, displacements: np.ndarray, velocities: np.ndarray) -> Pairs:
    """Pairs of a system in single precision."""
    pairs = Pairs(state, displacements, velocities, same_cells(system, len(displacements)))
    return jax.tree.map(lambda values: np.asarray(values, np.float32), pairs)


def _take(part: Pairs, rows: Any) -> Pairs:
    return jax.tree.map(lambda values: values[rows], part)


def _window(part: Pairs, low: float, high: float) -> Pairs:
    n_pairs = len(part.displacements)
    return _take(part, slice(round(low * n_pairs), round(high * n_pairs)))


def _join(parts: Sequence[Pairs]) -> Pairs:
    return jax.tree.map(lambda *values: np.concatenate(values), *parts)
