"""Records of training data and their HDF5 file.

The file has the groups of systems ``groups/0``, ``groups/1``, …, each with its ``species``, ``masses`` and ``pbc``, and
its ``runs/0``, ``runs/1``, …: frames in the order of time, ``positions`` (Å), ``velocities`` (Å/fs), ``cells`` (Å) and,
where they are known, ``potential_energies`` (eV), ``forces`` (eV/Å) and ``stresses`` (eV/Å³); attributes of a run are
``interval_fs``, ``segment``, ``split`` and ``source``.  The attributes of the file say which pairs of frames are meant,
and ``facts``, a JSON string, what they are like.
"""

import dataclasses
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from ffmd_jax.core import display, files, mechanics
from ffmd_jax.core.state import State, System
from ffmd_jax.formats import common

SPLITS = ("train", "validation", "test")
_FORMAT = "ffmd_jax dataset 3"
_SHOWN = 12  # systems, in what a dataset says of itself
_OF_FRAME = ("potential_energies", "forces", "stresses")


class Run(NamedTuple):
    """Frames of one NVE run, or of a part of it, in the order of time.

    Attributes:
        frames: Å, Å/fs, and cells, Å, float64 ``[n_frames, …]``.
        interval_fs: between frames, fs.
        split: "train", "validation" or "test".
        segment: so many frames follow each other, then a new piece begins; 0: all do.
        source: file that the frames come from.
        potential_energies: eV, ``[n_frames]``, or None.
        forces: eV/Å, ``[n_frames, n_atoms, 3]``, or None.
        stresses: eV/Å³, xx, yy, zz, yz, xz, xy, positive under tension, ``[n_frames, 6]``, or None.
    """

    frames: State
    interval_fs: float
    split: str
    segment: int = 0
    source: str = ""
    potential_energies: np.ndarray | None = None
    forces: np.ndarray | None = None
    stresses: np.ndarray | None = None


class Group(NamedTuple):
    """Runs of the same atoms, in cells that may differ."""

    system: System
    runs: tuple[Run, ...]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Frames to learn from.

    Attributes:
        groups: of systems.
        time_step_fs: Δt of the pairs, fs, unless another one is asked for.
        stride_fs: between the starts of two pairs, fs; None: Δt.
        n_train: pairs to train on, evenly chosen; None: all.
        n_test: pairs to validate and to test on, each; None: all.
        metadata: JSON-able facts: sources, and for estimated velocities how, with their relative error.
    """

    groups: tuple[Group, ...]
    time_step_fs: float
    stride_fs: float | None = None
    n_train: int | None = None
    n_test: int | None = None
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        return display.line("Dataset", self._rows())

    def _repr_html_(self) -> str:
        return display.table("Dataset", self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("Δt", f"{self.time_step_fs:g} fs")]
        if len(self.groups) > _SHOWN:
            n_frames = sum(len(run.frames.positions) for group in self.groups for run in group.runs)
            return [*rows, ("systems", f"{len(self.groups):,} with {n_frames:,} frames")]
        for group in self.groups:
            frames = {split: sum(len(r.frames.positions) for r in group.runs if r.split == split) for split in SPLITS}
            parts = ", ".join(f"{number:,} {split}" for split, number in frames.items())
            stored = [name for name in _OF_FRAME if all(getattr(r, name) is not None for r in group.runs)]
            known = [name.replace("_", " ") for name in stored]
            what = f"{display.count(len(group.runs), 'run')} with {sum(frames.values()):,} frames ({parts})"
            rows.append((common.formula(group.system), what + (f", {' and '.join(known)}" if known else "")))
        return rows


def names(dataset: Dataset) -> list[str]:
    """A name for each group: what the names of its files have in common, or its formula; none twice."""
    found = []
    for group in dataset.groups:
        stems = {Path(run.source).stem for run in group.runs}
        shared = stems.pop() if len(stems) == 1 else _common_start(min(stems), max(stems)).rstrip("_-. 0123456789")
        found.append(shared or common.formula(group.system))
    seen: Counter[str] = Counter()
    repeated = {name for name, number in Counter(found).items() if number > 1}
    for i, name in enumerate(found):
        seen[name] += 1
        found[i] = f"{name} ({seen[name]})" if name in repeated else name
    return found


def _common_start(first: str, last: str) -> str:
    different = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(different, min(len(first), len(last)))]


def write(path, dataset: Dataset, facts: dict[str, Any], *, overwrite: bool = False) -> None:
    """Writes the dataset; the file appears only when it is complete.

    Raises:
        FileExistsError: the file exists and ``overwrite`` is False.
        OSError: it cannot be written, for example for lack of space.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already")
    content = io.BytesIO()  # on a full disk, HDF5 crashes the process
    with h5py.File(content, "w") as file:
        which = {field: getattr(dataset, field) for field in ("time_step_fs", "stride_fs", "n_train", "n_test")}
        file.attrs.update({"format": _FORMAT, "pairs": json.dumps(which), "facts": json.dumps(facts)})
        file.attrs["metadata"] = json.dumps(dataset.metadata)
        for i, group in enumerate(dataset.groups):
            _write_group(file.create_group(f"groups/{i}"), group)
    files.write_atomically(path, content.getbuffer())


def _write_group(file: Any, group: Group) -> None:
    file["species"], file["masses"] = np.asarray(group.system.species), np.asarray(group.system.masses)
    file["pbc"] = np.array(group.system.pbc)
    for k, run in enumerate(group.runs):
        place = file.create_group(f"runs/{k}")
        place.attrs.update({"interval_fs": run.interval_fs, "split": run.split})
        place.attrs.update({"segment": run.segment, "source": run.source})
        values = {"positions": run.frames.positions, "velocities": run.frames.velocities, "cells": run.frames.cell}
        values |= {name: getattr(run, name) for name in _OF_FRAME if getattr(run, name) is not None}
        for name, array in values.items():
            # Most numbers were stored in single precision before: shuffled, their zeros cost nothing.
            place.create_dataset(name, data=array, compression="gzip", compression_opts=1, shuffle=True)


def read(path) -> Dataset:
    """The dataset in a file.

    Raises:
        ValueError: the file is truncated, no dataset of this package, or one of version 0.1.
        FileNotFoundError: no such file.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with h5py.File(path) as file:
            _check_format(path, file)
            groups: Any = file["groups"]
            found = tuple(_read_group(groups[str(i)]) for i in range(len(groups)))
            which = json.loads(str(file.attrs["pairs"]))
            return Dataset(found, **which, metadata=json.loads(str(file.attrs["metadata"])))
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as a dataset (truncated?): {error}") from None


def _check_format(path, file: Any) -> None:
    found = str(file.attrs.get("format", ""))
    if found in ("ffmd_jax dataset 1", "ffmd_jax dataset 2"):
        sources = json.loads(str(file.attrs.get("facts", "{}"))).get("metadata", {}).get("sources", ["…"])
        step = float(np.asarray(file.attrs["time_step_fs"]))
        raise ValueError(
            f"{path} holds the pairs of version 0.1, this version keeps frames: make it anew with "
            f"ffmd dataset {' '.join(sources)} --time-step {step:g} --out {path} --overwrite"
        )
    if found != _FORMAT:
        raise ValueError(f"{path} is no dataset of this package; `ffmd dataset` makes one from trajectories")


def _read_group(file: Any) -> Group:
    first, second, third = (bool(periodic) for periodic in file["pbc"][()])
    runs = file["runs"]
    found = tuple(_read_run(runs[str(k)]) for k in range(len(runs)))
    system = System(file["species"][()], file["masses"][()], (first, second, third))
    return Group(mechanics.on_a_line(system, np.asarray(found[0].frames.positions)) if found else system, found)


def _read_run(file: Any) -> Run:
    known = {name: file[name][()] for name in _OF_FRAME if name in file}
    return Run(
        State(file["positions"][()], file["velocities"][()], file["cells"][()]),
        float(file.attrs["interval_fs"]),
        str(file.attrs["split"]),
        int(file.attrs["segment"]),
        str(file.attrs["source"]),
        **known,
    )


def recognises(path) -> bool:
    """True for an HDF5 file with a dataset of this package, of any version."""
    if not (Path(path).is_file() and h5py.is_hdf5(path)):
        return False
    with h5py.File(path) as file:
        return str(file.attrs.get("format", "")).startswith("ffmd_jax dataset")


def facts(path) -> dict[str, Any]:
    """Sizes, statistics of the training pairs and metadata of a dataset file, without reading the frames.

    Raises:
        ValueError: the file is truncated, no dataset of this package, or one of version 0.1.
        FileNotFoundError: no such file.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with h5py.File(path) as file:
            _check_format(path, file)
            return json.loads(str(file.attrs["facts"]))
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as a dataset (truncated?): {error}") from None
