"""Writing H5MD 1.1 (doi:10.1016/j.cpc.2014.01.018) block by block."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ffmd_jax import __version__
from ffmd_jax.core.state import State, System
from ffmd_jax.formats import common
from ffmd_jax.formats.h5md_group import Group
from ffmd_jax.formats.journal import JournaledFile, journal_of

_METADATA_LIMIT = 60_000  # bytes; HDF5 attributes end at 64 KiB
_FREE_BYTES = 2**18  # unused in a file that is left as it is


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
        self._groups = [Group(name, system, np.dtype(dtype), velocities) for name in names]
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
            self._closed = True
            self._file.close()  # into the memory of the journal
            self._journal.close()
            self._file = None
            self._path.unlink()
            journal_of(self._path).unlink(missing_ok=True)


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
