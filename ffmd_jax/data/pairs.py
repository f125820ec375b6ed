"""Training pairs: states of a run an interval Δt apart, formed from the frames of a dataset."""

import hashlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import numpy as np

from ffmd_jax.core.state import Array, State, System, take
from ffmd_jax.data import dataset_file
from ffmd_jax.data.dataset_file import SPLITS, Dataset, Group, Run


class Pairs(NamedTuple):
    """States at t and what becomes of them, in the order of time within every run; float32.

    Attributes:
        state: positions, Å, velocities, Å/fs, and cells, Å, at t, ``[n_pairs, …]``.
        displacements: r(t + Δt) − r(t), Å, ``[n_pairs, n_atoms, 3]``.
        velocities: at t + Δt, Å/fs, ``[n_pairs, n_atoms, 3]``.
    """

    state: State
    displacements: Array
    velocities: Array


class PairSets(NamedTuple):
    """The pairs of one system, by what they are for; any may be none."""

    system: System
    time_step_fs: float
    train: Pairs
    validation: Pairs
    test: Pairs
    name: str = ""


class Statistics(NamedTuple):
    """Scales of the training data: RMS components, Å and Å/fs, and the largest speed, Å/fs."""

    displacement_rms: float
    velocity_rms: float
    speed_max: float


def form(dataset: Dataset, time_step_fs: float | None = None) -> tuple[PairSets, ...]:
    """The pairs of each system of a dataset, Δt apart (default: the dataset's).

    Raises:
        ValueError: a Δt that the interval of frames does not divide; runs that are too short.
    """
    step = dataset.time_step_fs if time_step_fs is None else time_step_fs
    stride = step if dataset.stride_fs is None else dataset.stride_fs
    parts = by_split(dataset, lambda group, run: of_run(run, step, stride))
    named = zip(dataset.groups, parts, dataset_file.names(dataset), strict=True)
    return tuple(PairSets(group.system, float(step), *sets, name=name) for group, sets, name in named)


def by_split(dataset: Dataset, examples_of: Callable[[Group, Run], Any]) -> list[list[Any]]:
    """For each system of a dataset what its runs to train, to validate and to test with hold.

    The most that the dataset asks for are chosen evenly from those of all systems together.
    """
    found = []
    for group in dataset.groups:
        of_runs = [(run.split, examples_of(group, run)) for run in group.runs]
        sets = []
        for split in SPLITS:
            parts = [examples for of, examples in of_runs if of == split] or [take(of_runs[0][1], slice(0, 0))]
            sets.append(jax.tree.map(lambda *values: np.concatenate(values), *parts))
        found.append(sets)
    for k, n_most in enumerate((dataset.n_train, dataset.n_test, dataset.n_test)):
        ends = np.cumsum([count(sets[k]) for sets in found])
        if n_most is not None and n_most < ends[-1]:
            chosen = evenly(int(ends[-1]), n_most)
            for sets, low, high in zip(found, np.append(0, ends), ends, strict=False):
                sets[k] = take(sets[k], chosen[(chosen >= low) & (chosen < high)] - low)
    return found


def check_split(groups: Sequence[Any], split: str) -> None:
    """Raises ValueError if no system has anything to train, to validate or to test with."""
    if not any(count(getattr(sets, split)) for sets in groups):
        raise ValueError(f"the dataset holds no runs to {'train' if split == 'train' else f'{split} with'}")


def count(examples: Any) -> int:
    """How many pairs, or labelled frames, there are."""
    return len(jax.tree.leaves(examples)[0])


def padded(pairs: Pairs, n_atoms: int) -> Pairs:
    """The pairs with atoms at rest at the origin added, up to ``n_atoms``."""
    positions, velocities = (pad_atoms(x, n_atoms) for x in (pairs.state.positions, pairs.state.velocities))
    state = State(positions, velocities, pairs.state.cell)
    return Pairs(state, pad_atoms(pairs.displacements, n_atoms), pad_atoms(pairs.velocities, n_atoms))


def pad_atoms(values: Array, n_atoms: int) -> np.ndarray:
    """Zeros after the values of the atoms, ``[n, n_real, …]``, up to ``n_atoms``."""
    widths = [(0, 0), (0, n_atoms - values.shape[1])] + [(0, 0)] * (values.ndim - 2)
    return np.pad(values, widths)


def of_run(run: Run, time_step_fs: float, stride_fs: float) -> Pairs:
    """The pairs of a run, in single precision; displacements are formed in double precision before.

    Raises:
        ValueError: Δt or stride are no multiples of the interval of frames, or the run is too short.
    """
    ahead = steps_per_interval(run.interval_fs, time_step_fs)
    n_frames, segment = len(run.frames.positions), run.segment or len(run.frames.positions)
    stride = 1 if run.segment else steps_per_interval(run.interval_fs, stride_fs)
    starts = np.arange(0, n_frames - ahead, stride)
    starts = starts[starts % segment + ahead < segment]
    if len(starts) == 0:
        raise ValueError(
            f"a part with {segment} frames of {run.interval_fs:g} fs holds no pair {time_step_fs:g} fs apart; "
            f"give longer trajectories"
        )
    positions, velocities = run.frames.positions, run.frames.velocities
    moved = positions[starts + ahead] - positions[starts]
    found = Pairs(take(run.frames, starts), moved, velocities[starts + ahead])
    return jax.tree.map(lambda values: np.asarray(values, np.float32), found)


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


def statistics(groups: Sequence[PairSets]) -> Statistics:
    """RMS scales and largest speed of the training pairs of some systems."""
    trains = [sets.train for sets in groups if count(sets.train)]
    speed = max(np.sqrt(np.max(np.sum(np.square(train.state.velocities), axis=-1))) for train in trains)
    rms = (_rms([train.displacements for train in trains]), _rms([train.velocities for train in trains]))
    return Statistics(*rms, float(speed))


def speed_limits(groups: Sequence[PairSets], elements: tuple[int, ...], share: float = 1e-4) -> list[float]:
    """Speed, Å/fs, of each element that this share of the training pairs' atoms exceeds: the end of dense data."""
    speeds: dict[int, list[np.ndarray]] = {element: [] for element in elements}
    for sets in groups:
        found, species = np.linalg.norm(sets.train.state.velocities, axis=-1), np.asarray(sets.system.species)
        for element in speeds.keys() & set(species.tolist()):
            speeds[element].append(found[:, species == element].ravel())
    return [float(np.quantile(np.concatenate(speeds[element]), 1 - share)) for element in elements]


def fingerprint(groups: Sequence[Any]) -> str:
    """SHA-256 of systems, Δt and pairs or frames: what tells one dataset from another, wherever their files are."""
    digest = hashlib.sha256()
    for sets in groups:
        what = sets.time_step_fs if isinstance(sets, PairSets) else sets.known
        digest.update(repr((what, sets.system.pbc)).encode())
        for values in jax.tree.leaves((sets.system, sets.train, sets.validation, sets.test)):
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def evenly(n: int, n_chosen: int) -> np.ndarray:
    """Indices of at most ``n_chosen`` of n, evenly chosen."""
    n_chosen = min(n, n_chosen)
    return np.arange(n_chosen) * n // n_chosen


def _rms(parts: list[Array]) -> float:
    total = sum(np.sum(np.square(values, dtype=np.float64)) for values in parts)
    return float(np.sqrt(total / sum(values.size for values in parts)))
