"""Writing H5MD 1.1 (doi:10.1016/j.cpc.2014.01.018) block by block."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ffmd_jax import __version__
from ffmd_jax.core.state import State, System, check_forces, check_state, is_isolated
from ffmd_jax.formats import common
from ffmd_jax.formats.journal import JournaledFile

_METADATA_LIMIT = 60_000  # bytes; HDF5 attributes end at 64 KiB
_FREE_BYTES = 2**18  # unused in a file that is left as it is
_UNITS = {
    "position/value": "Angstrom",
    "edges/value": "Angstrom",
    "velocity/value": "Angstrom fs-1",
    "force/value": "eV Angstrom-1",
}


class Writer:
    """Writes an H5MD file block by block; a context manager.

    The file is created by the first `append`, so that a run that fails before it leaves nothing and an old
    file stays as it was.  A block is in the file as a whole or not at all, wherever the process ends; one that is
    interrupted is taken back.  Atoms more than a cell away are stored with their image, so that float32 keeps its
    precision.  The cell of a system without periodic directions has no meaning and is not stored.

    Args:
        path: file to write.
        system: what does not change.
        metadata: JSON-able.
        overwrite: replace an existing file.
        dtype: of positions and velocities; float32 resolves 1e-5 Å at 100 Å.
        velocities: store them.
        replicas: several runs of the system, each a particle group of its own; 0: one run, the group ``all``.
        keep_frames: go on with an existing file after so many frames (of each replica), and drop what comes after.

    Raises:
        FileExistsError: the file exists and neither ``overwrite`` nor ``keep_frames`` is given.
        OSError: the folder does not exist or cannot be written, or another process writes the file.
        ValueError: metadata too long, or fewer frames than are to be kept.
    """

    def __init__(
        self,
        path,
        system: System,
        metadata: dict[str, Any],
        *,
        overwrite: bool = False,
        dtype: Any = np.float32,
        velocities: bool = True,
        replicas: int = 0,
        keep_frames: tuple[int, ...] | None = None,
    ):
        self._path, self._overwrite = Path(path), overwrite
        self._metadata = _as_json(self._path, metadata)
        names = [common.group_of(i) for i in range(replicas)] if replicas else [common.ALL]
        self._groups = [_Group(name, system, np.dtype(dtype), velocities) for name in names]
        self._journal: JournaledFile | None = None
        self._file: h5py.File | None = None
        self._closed = False
        folder = self._path.absolute().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise OSError(f"cannot write {self._path}: the folder {folder} does not exist or is not writable")
        if keep_frames is not None:
            self._reopen(keep_frames)
        elif self._path.exists() and not (overwrite and self._path.is_file()):
            raise FileExistsError(f"{self._path} already exists; choose another name or allow overwriting")

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def append(self, frames: State, times, observables: dict[str, Any], replica: int = 0, forces: Any = None) -> None:
        """Writes and flushes a block.

        Args:
            frames: unwrapped Å and Å/fs, ``[n_frames, n_atoms, 3]``, and cells, Å, ``[n_frames, 3, 3]``.
            times: fs, ``[n_frames]``, continuing those of the blocks before at the same interval.
            observables: per-frame scalars ``[n_frames]``; the same names in each block.
            replica: which of the replicas.
            forces: eV/Å, ``[n_frames, n_atoms, 3]``, or None; in each block or in none.

        Raises:
            ValueError: shapes, times or names that do not fit, NaN in the frames; nothing is written then.
        """
        if self._closed:
            raise ValueError(f"{self._path} is closed")
        group, times = self._groups[replica], np.asarray(times, dtype=np.float64)
        block = group.block(frames, times, observables, forces)
        try:
            if self._file is None:
                self._create()
            group.write(self._opened, block, len(times))
            self._commit()
        except BaseException:  # also KeyboardInterrupt: take the unfinished block back
            self._take_back()
            raise
        for each in self._groups:
            each.settle()

    def annotate(self, metadata: dict[str, Any]) -> None:
        """Replaces the metadata; of a file that exists in the same way as `append`, whole or not at all."""
        self._metadata = _as_json(self._path, metadata)
        if self._file is not None:
            self._opened["ffmd_jax"].attrs["metadata"] = self._metadata
            self._commit()

    def close(self) -> None:
        """Closes the file; without any block there is none."""
        self._closed = True
        if self._file is not None and self._journal is not None:
            self._file.close()
            self._journal.commit()
            self._journal.close()
            self._file = None

    @property
    def _opened(self) -> Any:
        assert self._file is not None
        return self._file

    def _commit(self) -> None:
        self._opened.flush()
        assert self._journal is not None
        self._journal.commit()

    def _open(self, mode: str) -> None:
        try:
            self._journal = JournaledFile(self._path, mode)
        except BlockingIOError:
            raise OSError(f"{self._path} is being written by another process") from None
        self._file = h5py.File(self._journal, "w" if mode in ("w", "x") else "r+")

    def _create(self) -> None:
        """Opens the file and writes what belongs to all of it."""
        self._open("w" if self._overwrite else "x")
        file = self._opened
        file.create_group("h5md").attrs["version"] = np.array([1, 1], dtype=np.int32)
        file.create_group("h5md/author").attrs["name"] = "unknown"
        file.create_group("h5md/creator").attrs.update({"name": "ffmd_jax", "version": __version__})
        file.create_group("ffmd_jax").attrs["metadata"] = self._metadata

    def _reopen(self, keep_frames: tuple[int, ...]) -> None:
        """Opens an existing file and cuts every group to the frames to keep."""
        self._open("r+")
        self._find(keep_frames)
        self._opened["ffmd_jax"].attrs["metadata"] = self._metadata
        self._commit()
        stored = _stored_bytes(self._opened)
        if self._path.stat().st_size > 1.25 * stored + _FREE_BYTES:
            self._compact(keep_frames)

    def _find(self, keep_frames: tuple[int, ...]) -> None:
        for group, n_frames in zip(self._groups, keep_frames, strict=True):
            group.find(self._opened, n_frames)

    def _compact(self, keep_frames: tuple[int, ...]) -> None:
        """Replaces the file by a copy without the space that killed processes have left unused in it."""
        target = self._path.resolve()
        copy = target.with_name(target.name + ".partial")
        try:
            with h5py.File(copy, "w") as file:
                # The whole tree at once, so that what is linked twice stays linked.
                self._opened.copy(self._opened["/"], file, name="whole")
                whole: Any = file["whole"]
                for name in list(whole):
                    file.move(f"whole/{name}", name)
                del file["whole"]
            shutil.copymode(target, copy)
            _to_disk(copy)
        except OSError:  # no room for a copy: the file is larger than need be, and as good
            copy.unlink(missing_ok=True)
            return
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        before = self._journal
        self._opened.close()
        os.replace(copy, target)
        self._open("r+")
        if before is not None:  # and with it the lock of the old file
            before.close()
        self._find(keep_frames)

    def _take_back(self) -> None:
        """Restores the file after the last complete block, or removes it if there was none."""
        if self._file is None or self._journal is None:
            return
        if any(group.n_frames for group in self._groups):
            for group in self._groups:
                group.cut(group.n_frames)
            self._commit()
        else:
            self.close()
            self._path.unlink()


class _Group:
    """The columns of one particle group, and of its observables."""

    def __init__(self, name: str, system: System, dtype: np.dtype, velocities: bool):
        self.n_frames = 0
        self._particles, self._system, self._dtype, self._velocities = f"particles/{name}", system, dtype, velocities
        self._observables = "observables" if name == common.ALL else f"observables/{name}"
        self._columns: dict[str, Any] = {}  # HDF5 path -> dataset whose first axis is the frame
        self._last_times, self._next = np.empty(0), (0, np.empty(0))

    def block(
        self, frames: State, times: np.ndarray, observables: dict[str, Any], forces: Any
    ) -> dict[str, np.ndarray]:
        """What goes into each column; raises ValueError unless it fits the system and the blocks before."""
        particles, periodic = self._particles, not is_isolated(self._system)
        check_state(self._system, frames)
        block: dict[str, np.ndarray] = {f"{particles}/position/value": np.asarray(frames.positions)}
        if self._velocities:
            block[f"{particles}/velocity/value"] = np.asarray(frames.velocities)
        if forces is not None:
            block[f"{particles}/force/value"] = np.asarray(forces)
        block |= {f"{self._observables}/{k}/value": np.asarray(v, dtype=np.float64) for k, v in observables.items()}
        self._check(times, block)
        if periodic:
            cells = np.asarray(frames.cell, np.float64)
            near, images = common.near_images(self._system, block[f"{particles}/position/value"], cells)
            if images.any() or f"{particles}/image/value" in self._columns:
                block |= {f"{particles}/position/value": near, f"{particles}/image/value": images}
            block[f"{particles}/box/edges/value"] = cells
        block[f"{particles}/position/step"] = np.arange(self.n_frames, self.n_frames + len(times))
        block[f"{particles}/position/time"] = times
        return block

    def _check(self, times: np.ndarray, block: dict[str, np.ndarray]) -> None:
        n_atoms = len(self._system.species)
        for name, values in block.items():
            shape = (len(times), n_atoms, 3) if name.startswith("particles") else times.shape
            if values.shape != shape or times.ndim != 1 or not len(times):
                raise ValueError(f"{name} is {values.shape} for times {times.shape}; {shape} with frames is needed")
        force = f"{self._particles}/force/value"
        check_forces(block.get(force))
        if self.n_frames and (force in block) != (force in self._columns):
            raise ValueError(f"{force} must be in each block or in none, as in the first")
        names = {name for name in self._columns if name.startswith("observables")}
        if self.n_frames and names != {name for name in block if name.startswith("observables")}:
            raise ValueError(f"observables must be those of the first block, {sorted(names)}")
        joined = np.concatenate([self._last_times, times])
        if len(joined) > 1:
            common.frame_interval(joined, first_frame=self.n_frames - len(self._last_times))

    def write(self, file: Any, block: dict[str, np.ndarray], n_new: int) -> None:
        """Extends every column; `settle` makes it final."""
        if not self._columns:
            self._create_constants(file)
        self._create_columns(file, {name: values for name, values in block.items() if name not in self._columns})
        for name, column in self._columns.items():
            column.resize(self.n_frames + n_new, axis=0)
            column[self.n_frames :] = block[name]
        times = block[f"{self._particles}/position/time"]
        self._next = (self.n_frames + n_new, np.concatenate([self._last_times, times])[-2:])

    def settle(self) -> None:
        """The block written last is in the file."""
        if self._next[0]:
            self.n_frames, self._last_times = self._next

    def cut(self, n_frames: int) -> None:
        """Drops the frames after ``n_frames``."""
        for column in self._columns.values():
            column.resize(n_frames, axis=0)
        self.n_frames = n_frames

    def find(self, file: Any, n_frames: int) -> None:
        """Takes over the columns that a file has, and cuts them to ``n_frames``."""
        if self._particles in file:
            for base in (self._particles, self._observables):
                for name, element in file.get(base, {}).items():
                    if isinstance(element, h5py.Group) and "value" in element and "step" in element:
                        self._columns[f"{base}/{name}/value"] = element["value"]
            if f"{self._particles}/box/edges" in file:
                self._columns[f"{self._particles}/box/edges/value"] = file[f"{self._particles}/box/edges/value"]
            for name in ("step", "time"):
                self._columns[f"{self._particles}/position/{name}"] = file[f"{self._particles}/position/{name}"]
        found = min((len(column) for column in self._columns.values()), default=0)
        if found < n_frames:
            raise ValueError(f"the file holds {found} frames, fewer than the {n_frames} to go on from")
        self.cut(n_frames)
        if self._columns:
            times = self._columns[f"{self._particles}/position/time"][max(0, n_frames - 2) : n_frames]
            self._last_times = np.asarray(times, dtype=np.float64)
        self._next = (n_frames, self._last_times)

    def _create_constants(self, file: Any) -> None:
        particles = file.create_group(self._particles)
        particles["species"] = np.asarray(self._system.species, dtype=np.int32)
        particles["mass"] = np.asarray(self._system.masses, dtype=np.float64)
        particles["mass"].attrs["unit"] = "u"
        box = particles.create_group("box")
        box.attrs["dimension"] = 3
        box.attrs["boundary"] = ["periodic" if periodic else "none" for periodic in self._system.pbc]

    def _create_columns(self, file: Any, block: dict[str, np.ndarray]) -> None:
        """Columns of zeros; images come late, with the first atom that needs one."""
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
            unit = "fs" if name.endswith("time") else _UNITS.get("/".join(name.split("/")[-2:]))
            if unit:
                column.attrs["unit"] = unit
        for name in block:  # all elements share step and time as hard links
            group: Any = file[name].parent
            if name.endswith("/value") and group.name != f"/{self._particles}/position":
                group["step"], group["time"] = (file[f"{self._particles}/position/{x}"] for x in ("step", "time"))


def _stored_bytes(file: Any) -> int:
    """What the columns of a file take, compressed."""
    sizes = []
    file.visititems(lambda _, item: sizes.append(item.id.get_storage_size() if hasattr(item, "chunks") else 0))
    return sum(sizes)


def _to_disk(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _as_json(path: Path, metadata: dict[str, Any]) -> str:
    text = json.dumps(metadata)
    if len(text.encode()) > _METADATA_LIMIT:
        raise ValueError(f"the metadata of {path} exceed {_METADATA_LIMIT} bytes as JSON")
    return text
