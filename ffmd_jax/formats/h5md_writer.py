"""Writing H5MD 1.1 (doi:10.1016/j.cpc.2014.01.018) block by block."""

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ffmd_jax import __version__
from ffmd_jax.formats import common
from ffmd_jax.state import State, System, check_state

_METADATA_LIMIT = 60_000  # bytes; HDF5 attributes end at 64 KiB


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
            common.frame_interval(joined, first_frame=self._n_frames - len(self._last_times))

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
