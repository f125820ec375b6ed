"""Training data: pairs of states an interval Δt apart, cut from NVE trajectories, split by trajectory.

The HDF5 file has one group per split (train, validation, test) with ``positions`` and ``velocities`` at t (Å, Å/fs,
``[n_pairs, n_atoms, 3]``), ``displacements`` (Å) and ``new_velocities`` (Å/fs) at t + Δt, and the system once.
"""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from ffmd_jax import units
from ffmd_jax.state import State, System
from ffmd_jax.trajectory import Trajectory, frame_interval

SPLITS = ("train", "validation", "test")
_FORMAT = "ffmd_jax dataset 1"


class Pairs(NamedTuple):
    """States at t and what becomes of them; float32 ``[n_pairs, n_atoms, 3]``.

    Attributes:
        state: positions, Å, and velocities, Å/fs, at t.
        displacements: r(t + Δt) − r(t), Å.
        velocities: at t + Δt, Å/fs.
    """

    state: State
    displacements: np.ndarray
    velocities: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Pairs of one system at one Δt.

    Attributes:
        system: of all pairs.
        time_step_fs: Δt, fs.
        train, validation, test: from different trajectories where there are three or more.
    """

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


def steps_per_interval(interval_fs: float, time_step_fs: float) -> int:
    """How many frame intervals make Δt.

    Raises:
        ValueError: Δt is not a multiple of the frame interval.
    """
    ratio = time_step_fs / interval_fs
    steps = round(ratio)
    if steps < 1 or abs(ratio - steps) > 1e-4 * ratio:
        raise ValueError(
            f"Δt = {time_step_fs:g} fs is not a multiple of the {interval_fs:g} fs between the frames; "
            f"write frames every {time_step_fs:g} fs, or at a divisor of it"
        )
    return steps


def check_nve(trajectory: Trajectory) -> None:
    """Raises ValueError, with the number that gives it away, unless the frames can come from one NVE run.

    Displacements must be what the velocities say, which catches a wrong velocity unit (a factor of 10.18 for ASE's,
    1000 for Å/ps), and the total energy, where it is stored, must be constant, which catches a thermostat.
    """
    positions, velocities = trajectory.frames
    interval = frame_interval(trajectory.times)
    moved = np.diff(positions, axis=0)
    expected = 0.5 * interval * (velocities[1:] + velocities[:-1])
    if not np.any(velocities):
        raise ValueError("all velocities are zero: a propagator cannot be trained without them")
    # Least-squares slope of the trapezoidal rule; fast vibrations at coarse intervals raise it to about 1.7.
    slope = float(np.sum(moved * expected) / np.sum(expected**2))
    if not 0.6 < slope < 2.5:
        raise ValueError(
            f"displacements are {slope:.3g} times what the velocities give: velocities in another unit than stated "
            f"(ASE's is 10.18 fs⁻¹ Å, LAMMPS metal Å/ps), wrong times, or frames too far apart"
        )
    total = trajectory.observables.get("total_energy_eV")
    if total is not None and np.isfinite(total).all():
        kinetic = 0.5 * np.einsum("i,tix->t", trajectory.system.masses, velocities**2) / units.EV
        if np.std(total) > 0.2 * np.std(kinetic):
            raise ValueError(
                f"the total energy fluctuates by {np.std(total):.3g} eV, the kinetic by {np.std(kinetic):.3g} eV: "
                f"not an NVE run (a thermostat or barostat acted), so no propagator can be learnt from it"
            )


def pairs(trajectory: Trajectory, time_step_fs: float, stride_fs: float | None = None) -> Pairs:
    """All pairs Δt apart that start every ``stride_fs`` (default: every frame)."""
    interval = frame_interval(trajectory.times)
    ahead = steps_per_interval(interval, time_step_fs)
    stride = 1 if stride_fs is None else steps_per_interval(interval, stride_fs)
    positions, velocities = (np.asarray(values) for values in trajectory.frames)
    starts = np.arange(0, len(positions) - ahead, stride)
    if len(starts) == 0:
        raise ValueError(f"{len(positions)} frames of {interval:g} fs hold no pair {time_step_fs:g} fs apart")
    ends = starts + ahead
    single = np.float32
    return Pairs(
        State(positions[starts].astype(single), velocities[starts].astype(single)),
        (positions[ends] - positions[starts]).astype(single),
        velocities[ends].astype(single),
    )


def make(trajectories: list[Trajectory], time_step_fs: float, stride_fs: float | None = None) -> Dataset:
    """The dataset of some NVE trajectories of one system.

    With three or more, the last is the test set and the one before it the validation set, so that both are independent
    of the training set.  With one or two, each is cut in time: 80 % train, 10 % validation, 10 % test.

    Raises:
        ValueError: trajectories of different systems, or that `check_nve` refuses.
    """
    if not trajectories:
        raise ValueError("no trajectories given")
    system = trajectories[0].system
    for i, trajectory in enumerate(trajectories):
        other = trajectory.system
        if not np.array_equal(system.species, other.species) or not np.allclose(system.cell, other.cell, atol=1e-4):
            raise ValueError(
                f"trajectory {i + 1} has other atoms, another order of atoms or another cell than the first"
            )
        check_nve(trajectory)
    if len(trajectories) >= 3:
        parts = [trajectories[:-2], trajectories[-2:-1], trajectories[-1:]]
    else:
        parts = [[_cut(t, low, high) for t in trajectories] for low, high in ((0, 0.8), (0.8, 0.9), (0.9, 1))]
    return Dataset(system, float(time_step_fs), *(_join(part, time_step_fs, stride_fs) for part in parts))


def statistics(train: Pairs) -> Statistics:
    """RMS scales and largest speed of the training pairs."""
    speed = np.sqrt(np.max(np.sum(train.state.velocities**2, axis=-1)))
    return Statistics(_rms(train.displacements), _rms(train.velocities), float(speed))


def speed_limits(train: Pairs, species: np.ndarray, elements: tuple[int, ...]) -> list[float]:
    """Speed, Å/fs, of each element that one in 10,000 atoms of the training pairs exceeds: the end of dense data."""
    speeds = np.linalg.norm(train.state.velocities, axis=-1)
    return [float(np.quantile(speeds[:, species == element], 0.9999)) for element in elements]


def write(path, dataset: Dataset, *, overwrite: bool = False) -> None:
    """Writes the dataset; the file appears only when it is complete.

    Raises:
        FileExistsError: the file exists and ``overwrite`` is False.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already")
    partial = path.with_name(path.name + ".partial")
    try:
        with h5py.File(partial, "w") as file:
            file.attrs.update({"format": _FORMAT, "time_step_fs": dataset.time_step_fs})
            for name, values in dataset.system._asdict().items():
                file[f"system/{name}"] = np.asarray(values)
            for split in SPLITS:
                part: Pairs = getattr(dataset, split)
                for name, values in zip(("positions", "velocities"), part.state, strict=True):
                    file.create_dataset(f"{split}/{name}", data=values, compression="gzip", compression_opts=1)
                file.create_dataset(f"{split}/displacements", data=part.displacements, compression="gzip")
                file.create_dataset(f"{split}/new_velocities", data=part.velocities, compression="gzip")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read(path) -> Dataset:
    """The dataset in a file.

    Raises:
        ValueError: the file is truncated, or no dataset of this package.
        FileNotFoundError: no such file.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with h5py.File(path) as file:

            def array(name: str) -> np.ndarray:
                return np.asarray(file[name])

            if file.attrs.get("format") != _FORMAT:
                raise ValueError(f"{path} is no dataset of this package; `ffmd dataset` makes one from trajectories")
            system = System(*(array(f"system/{name}") for name in System._fields))
            parts = [
                Pairs(
                    State(array(f"{split}/positions"), array(f"{split}/velocities")),
                    array(f"{split}/displacements"),
                    array(f"{split}/new_velocities"),
                )
                for split in SPLITS
            ]
            return Dataset(system, float(np.asarray(file.attrs["time_step_fs"])), *parts)
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as a dataset (truncated?): {error}") from None


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _cut(trajectory: Trajectory, low: float, high: float) -> Trajectory:
    window = slice(round(low * len(trajectory.times)), round(high * len(trajectory.times)))
    frames = State(*(values[window] for values in trajectory.frames))
    return trajectory._replace(frames=frames, times=trajectory.times[window])


def _join(trajectories: list[Trajectory], time_step_fs: float, stride_fs: float | None) -> Pairs:
    parts = [pairs(t, time_step_fs, stride_fs) for t in trajectories]
    return Pairs(
        State(*(np.concatenate([getattr(part.state, name) for part in parts]) for name in State._fields)),
        np.concatenate([part.displacements for part in parts]),
        np.concatenate([part.velocities for part in parts]),
    )
