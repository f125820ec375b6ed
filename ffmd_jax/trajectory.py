"""Trajectories in memory and in files: H5MD (read and written) and whatever ASE reads.

Files of this package follow H5MD 1.1 (doi:10.1016/j.cpc.2014.01.018) in Å, fs and u, with unwrapped
positions, atomic numbers as species, the frame number as step, and one group of our own, ``ffmd_jax``, whose
attribute ``metadata`` is a JSON string.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from ffmd_jax import __version__, trajectory_formats
from ffmd_jax.state import State, System, check_state

_METADATA_LIMIT = 60_000  # bytes; HDF5 attributes end at 64 KiB


class Trajectory(NamedTuple):
    """Frames of one system at a constant interval.

    Attributes:
        system: what does not change.
        frames: unwrapped Å and Å/fs, float64 ``[n_frames, n_atoms, 3]``.
        times: fs, float64 ``[n_frames]``.
        observables: per-frame scalars ``[n_frames]``; names carry the unit, e.g. ``potential_energy_eV``.
        metadata: JSON-able facts, e.g. system, ensemble, temperature_K, model, time_step_fs, seed.
    """

    system: System
    frames: State
    times: np.ndarray
    observables: dict[str, np.ndarray]
    metadata: dict[str, Any]


def frame_interval(times) -> float:
    """The constant interval between frames, fs, from their times ``[n_frames]`` in fs.

    Gaps may differ by 1e-6 of the interval, and by float32 rounding if all times are float32 numbers.

    Raises:
        ValueError: fewer than two frames; times that do not increase, or a gap that differs from the others.
    """
    return _frame_interval(np.asarray(times, dtype=np.float64), first_frame=0)


def _frame_interval(times: np.ndarray, first_frame: int) -> float:
    """As `frame_interval`; messages count frames from ``first_frame``."""
    if len(times) < 2:
        raise ValueError("a frame interval needs at least two frames")
    gaps = np.diff(times)
    interval = float(np.median(gaps))
    largest = np.abs(times).max()
    exact32 = np.array_equal(times, times.astype(np.float32))
    rounding = 2 * float(np.spacing(np.float32(largest) if exact32 else largest))
    # The cap keeps large float32 times, whose spacing may exceed the interval, from hiding a lost frame.
    tolerance = 1e-6 * abs(interval) + min(rounding, 0.1 * abs(interval))
    for wrong, what in (
        (~(gaps > 0), "times must increase"),
        (~(abs(gaps - interval) <= tolerance), "gaps differ"),
    ):
        if wrong.any():
            i = int(np.argmax(wrong))
            raise ValueError(
                f"{what}: frame {first_frame + i + 1} at {times[i + 1]:.10g} fs comes {gaps[i]:.6g} fs after "
                f"the frame before it, others {interval:.6g} fs"
            )
    return float(times[-1] - times[0]) / (len(times) - 1)


def read(path, *, every: int = 1, frame_interval_fs: float | None = None) -> Trajectory:
    """The trajectory in a file, H5MD or a format of ASE; every ``every``-th frame from the first.

    Positions of ASE files and of H5MD files of other programs may be wrapped: they are unwrapped by the
    minimum image between consecutive frames, assuming that atoms move less than half the cell per frame.
    ASE files state times as ``info["time"]`` or ``info["time_fs"]`` in fs.

    Args:
        path: the file.
        every: stride in stored frames.
        frame_interval_fs: interval of the stored frames, fs, for files without times.

    Raises:
        ValueError: one line that names the file: unreadable, without velocities, units or times, a changing
            cell or other atoms, an interval that changes, NaN.
        FileNotFoundError: no such file.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")
    path = Path(path)
    with trajectory_formats.errors_name(path):
        if trajectory_formats.is_h5md(path):
            content = trajectory_formats.read_h5md(path, every)
        else:
            content = trajectory_formats.read_ase(path, every, frame_interval_fs)
        system, frames, times, observables, metadata = content
        check_state(system, frames)
        if len(times) > 1:
            interval = frame_interval(times)
            if frame_interval_fs is not None and not np.isclose(frame_interval_fs, interval, rtol=1e-4, atol=0):
                raise ValueError(f"the file's frame interval is {interval:g} fs, not {frame_interval_fs:g} fs")
    return Trajectory(system, frames, times[::every], observables, metadata)


def read_start(path, *, frame: int = -1, need_velocities: bool = True) -> tuple[System, State]:
    """System and the state ``[n_atoms, 3]``, Å and Å/fs, of one frame (the last) of any readable file.

    Raises:
        ValueError: as `read`; no velocities, unless ``need_velocities`` is False, which gives zeros.
    """
    path = Path(path)
    with trajectory_formats.errors_name(path):
        h5md = trajectory_formats.is_h5md(path)
        start = trajectory_formats.start_h5md if h5md else trajectory_formats.start_ase
        system, frames = start(path, frame, need_velocities)
        check_state(system, frames)
    return system, State(*(values[0] for values in frames))


def write(path, trajectory: Trajectory, *, overwrite: bool = False) -> None:
    """Writes a trajectory as H5MD: positions and velocities in float32, times and observables in float64."""
    with Writer(path, trajectory.system, trajectory.metadata, overwrite=overwrite) as writer:
        writer.append(trajectory.frames, trajectory.times, trajectory.observables)


class Writer:
    """Writes an H5MD file block by block; a context manager.

    The file is created by the first `append`, so that a run that fails before it leaves nothing and an old
    file stays as it was.  Every block is flushed, and a block that is interrupted is taken back.
    The cell of a system without periodic directions has no meaning and is not stored.

    Args:
        path: file to write.
        system: what does not change.
        metadata: JSON-able.
        overwrite: replace an existing file.
        dtype: of positions and velocities; float32 resolves 1e-5 Å at 100 Å.

    Raises:
        FileExistsError: the file exists and ``overwrite`` is False.
        OSError: the folder does not exist or cannot be written.
        ValueError: metadata too long.
    """

    def __init__(
        self, path, system: System, metadata: dict[str, Any], *, overwrite: bool = False, dtype: Any = np.float32
    ):
        self._path, self._system, self._overwrite, self._dtype = (
            Path(path),
            system,
            overwrite,
            np.dtype(dtype),
        )
        self._metadata = json.dumps(metadata)
        self._file: h5py.File | None = None
        self._columns: dict[str, Any] = {}  # HDF5 path -> dataset whose first axis is the frame
        self._n_frames = 0
        self._last_times = np.empty(0)
        self._closed = False
        folder = self._path.absolute().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise OSError(f"cannot write {self._path}: the folder {folder} does not exist or is not writable")
        if self._path.exists() and not (overwrite and self._path.is_file()):
            raise FileExistsError(f"{self._path} already exists; choose another name or allow overwriting")
        if len(self._metadata.encode()) > _METADATA_LIMIT:
            raise ValueError(f"the metadata of {self._path} exceed {_METADATA_LIMIT} bytes as JSON")

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def append(self, frames: State, times, observables: dict[str, Any]) -> None:
        """Writes and flushes a block.

        Args:
            frames: unwrapped Å and Å/fs, ``[n_frames, n_atoms, 3]``.
            times: fs, ``[n_frames]``, continuing those of the blocks before at the same interval.
            observables: per-frame scalars ``[n_frames]``; the same names in each block.

        Raises:
            ValueError: shapes, times or names that do not fit, NaN in the frames; nothing is written then.
        """
        times = np.asarray(times, dtype=np.float64)
        block: dict[str, np.ndarray] = {
            "particles/all/position/value": np.asarray(frames.positions),
            "particles/all/velocity/value": np.asarray(frames.velocities),
        }
        block |= {f"observables/{k}/value": np.asarray(v, dtype=np.float64) for k, v in observables.items()}
        self._check(frames, times, block)
        if np.any(self._system.pbc):
            block["particles/all/box/edges/value"] = np.broadcast_to(self._system.cell, (len(times), 3, 3))
        block["particles/all/position/step"] = np.arange(self._n_frames, self._n_frames + len(times))
        block["particles/all/position/time"] = times
        try:
            if self._file is None:
                self._create(block)
            self._write(block, self._n_frames + len(times))
        except BaseException:  # also KeyboardInterrupt: take the unfinished block back
            self._take_back()
            raise
        self._n_frames += len(times)
        self._last_times = np.concatenate([self._last_times, times])[-2:]

    def close(self) -> None:
        """Closes the file; without any block there is none."""
        self._closed = True
        if self._file is not None:
            self._file.close()
            self._file = None

    def _check(self, frames: State, times: np.ndarray, block: dict[str, np.ndarray]) -> None:
        """Raises ValueError unless the block fits the system and the blocks before."""
        if self._closed:
            raise ValueError(f"{self._path} is closed")
        check_state(self._system, frames)
        n_atoms = len(self._system.species)
        for name, values in block.items():
            shape = (len(times), n_atoms, 3) if name.startswith("particles") else times.shape
            if values.shape != shape or times.ndim != 1 or not len(times):
                raise ValueError(f"{name} is {values.shape} for times {times.shape}; {shape} with frames is needed")
        names = {name for name in self._columns if name.startswith("observables")}
        if self._n_frames and names != {name for name in block if name.startswith("observables")}:
            raise ValueError(f"observables must be those of the first block, {sorted(names)}")
        joined = np.concatenate([self._last_times, times])
        if len(joined) > 1:
            _frame_interval(joined, first_frame=self._n_frames - len(self._last_times))

    def _create(self, block: dict[str, np.ndarray]) -> None:
        """Opens the file and lays out groups, constants and empty columns."""
        file = self._file = h5py.File(self._path, "w" if self._overwrite else "x")
        file.create_group("h5md").attrs["version"] = np.array([1, 1], dtype=np.int32)
        file.create_group("h5md/author").attrs["name"] = "unknown"
        file.create_group("h5md/creator").attrs.update({"name": "ffmd_jax", "version": __version__})
        file.create_group("ffmd_jax").attrs["metadata"] = self._metadata
        particles = file.create_group("particles/all")
        particles["species"] = np.asarray(self._system.species, dtype=np.int32)
        particles["mass"] = np.asarray(self._system.masses, dtype=np.float64)
        particles["mass"].attrs["unit"] = "u"
        box = particles.create_group("box")
        box.attrs["dimension"] = 3
        box.attrs["boundary"] = ["periodic" if periodic else "none" for periodic in self._system.pbc]
        unit_of = {"position/value": "Angstrom", "edges/value": "Angstrom", "velocity/value": "Angstrom fs-1"}
        for name, values in block.items():
            chunk = max(1, min(1024, 2**16 // max(1, values[0].size)))  # 2^16 numbers, or one frame
            column = self._columns[name] = file.create_dataset(
                name,
                shape=(0, *values.shape[1:]),
                maxshape=(None, *values.shape[1:]),
                chunks=(chunk, *values.shape[1:]),
                dtype=self._dtype if name.endswith(("position/value", "velocity/value")) else values.dtype,
                compression="gzip",
                compression_opts=2,
                shuffle=True,
            )
            unit = "fs" if name.endswith("time") else unit_of.get("/".join(name.split("/")[-2:]))
            if unit:
                column.attrs["unit"] = unit
        for name in block:  # all elements share step and time as hard links
            group: Any = file[name].parent
            if name.endswith("/value") and group.name != "/particles/all/position":
                group["step"], group["time"] = (file[f"particles/all/position/{x}"] for x in ("step", "time"))

    def _write(self, block: dict[str, np.ndarray], n_frames: int) -> None:
        """Extends every column to ``n_frames`` and flushes."""
        for name, column in self._columns.items():
            column.resize(n_frames, axis=0)
            column[self._n_frames :] = block[name]
        assert self._file is not None
        self._file.flush()

    def _take_back(self) -> None:
        """Restores the file after the last complete block, or removes it if there was none."""
        if self._file is None:
            return
        for column in self._columns.values():
            column.resize(self._n_frames, axis=0)
        if self._n_frames:
            self._file.flush()
        else:
            self.close()
            self._path.unlink()
