"""Training pairs: states of a run an interval Δt apart, formed from the frames of a dataset."""

import hashlib
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import numpy as np

from ffmd_jax.core.state import Array, State, System, take
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
    """The pairs of one system, by what they are for."""

    system: System
    time_step_fs: float
    train: Pairs
    validation: Pairs
    test: Pairs


class Statistics(NamedTuple):
    """Scales of the training data: RMS components, Å and Å/fs, and the largest speed, Å/fs."""

    displacement_rms: float
    velocity_rms: float
    speed_max: float


def form(dataset: Dataset, time_step_fs: float | None = None) -> PairSets:
    """The pairs of a dataset of one system, Δt apart (default: the dataset's).

    Raises:
        ValueError: several systems; a Δt that the interval of frames does not divide; runs that are too short.
    """
    return form_group(dataset, only_group(dataset), time_step_fs)


def only_group(dataset: Dataset) -> Group:
    """The one group of a dataset; raises ValueError if it holds several systems."""
    if len(dataset.groups) != 1:
        raise ValueError(
            f"the dataset holds {len(dataset.groups)} systems; a model is trained on one: make a dataset of each"
        )
    return dataset.groups[0]


def form_group(dataset: Dataset, group: Group, time_step_fs: float | None = None) -> PairSets:
    """As `form`, of one of the groups of a dataset."""
    step = dataset.time_step_fs if time_step_fs is None else time_step_fs
    stride = step if dataset.stride_fs is None else dataset.stride_fs
    sets = []
    for split, n_most in zip(SPLITS, (dataset.n_train, dataset.n_test, dataset.n_test), strict=True):
        parts = [of_run(run, step, stride) for run in group.runs if run.split == split]
        if not parts:
            raise ValueError(f"the dataset holds no runs to {'train' if split == 'train' else f'{split} with'}")
        joined = jax.tree.map(lambda *values: np.concatenate(values), *parts)
        n_pairs = len(joined.displacements)
        sets.append(joined if n_most is None or n_most >= n_pairs else take(joined, evenly(n_pairs, n_most)))
    return PairSets(group.system, float(step), *sets)


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


def statistics(train: Pairs) -> Statistics:
    """RMS scales and largest speed of the training pairs."""
    speed = np.sqrt(np.max(np.sum(np.square(train.state.velocities), axis=-1)))
    return Statistics(_rms(train.displacements), _rms(train.velocities), float(speed))


def speed_limits(train: Pairs, species: np.ndarray, elements: tuple[int, ...]) -> list[float]:
    """Speed, Å/fs, of each element that one in 10,000 atoms of the training pairs exceeds: the end of dense data."""
    speeds = np.linalg.norm(train.state.velocities, axis=-1)
    return [float(np.quantile(speeds[:, species == element], 0.9999)) for element in elements]


def fingerprint(sets: Any) -> str:
    """SHA-256 of system, Δt and pairs or frames: what tells one dataset from another, wherever their files are."""
    facts = (sets.time_step_fs, sets.system.pbc) if isinstance(sets, PairSets) else (sets.known, sets.system.pbc)
    digest = hashlib.sha256(repr(facts).encode())
    for values in jax.tree.leaves((sets.system, sets.train, sets.validation, sets.test)):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def evenly(n: int, n_chosen: int) -> np.ndarray:
    """Indices of at most ``n_chosen`` of n, evenly chosen."""
    n_chosen = min(n, n_chosen)
    return np.arange(n_chosen) * n // n_chosen


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
