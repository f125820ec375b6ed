"""Records of training data and their HDF5 file.

The file has one group per split (train, validation, test) with ``positions`` and ``velocities`` at t (Å, Å/fs,
``[n_pairs, n_atoms, 3]``), ``displacements`` (Å) and ``new_velocities`` (Å/fs) at t + Δt, and ``cells`` (Å,
``[n_pairs, 3, 3]``), the system once, and the attribute ``facts``, a JSON string with sizes and statistics.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import numpy as np

from ffmd_jax.core.state import State, System

SPLITS = ("train", "validation", "test")
_FORMAT = "ffmd_jax dataset 2"
_ONE_CELL = "ffmd_jax dataset 1"  # earlier files: all pairs have the cell of the system


class Pairs(NamedTuple):
    """States at t and what becomes of them; float32.

    Attributes:
        state: positions, Å, and velocities, Å/fs, at t, ``[n_pairs, n_atoms, 3]``.
        displacements: r(t + Δt) − r(t), Å, ``[n_pairs, n_atoms, 3]``.
        velocities: at t + Δt, Å/fs, ``[n_pairs, n_atoms, 3]``.
        cells: lattice vectors as rows, Å, ``[n_pairs, 3, 3]``.
    """

    state: State
    displacements: np.ndarray
    velocities: np.ndarray
    cells: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Pairs of the same atoms at one Δt.

    Attributes:
        system: of all pairs; its cell is that of the first.
        time_step_fs: Δt, fs.
        train, validation, test: from different trajectories where there are three or more.
        metadata: JSON-able facts: sources, and for estimated velocities how, with their relative error.
    """

    system: System
    time_step_fs: float
    train: Pairs
    validation: Pairs
    test: Pairs
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)


class Statistics(NamedTuple):
    """Scales of the training data: RMS components, Å and Å/fs, and the largest speed, Å/fs."""

    displacement_rms: float
    velocity_rms: float
    speed_max: float


def statistics(train: Pairs) -> Statistics:
    """RMS scales and largest speed of the training pairs."""
    speed = np.sqrt(np.max(np.sum(train.state.velocities**2, axis=-1)))
    return Statistics(_rms(train.displacements), _rms(train.velocities), float(speed))


def speed_limits(train: Pairs, species: np.ndarray, elements: tuple[int, ...]) -> list[float]:
    """Speed, Å/fs, of each element that one in 10,000 atoms of the training pairs exceeds: the end of dense data."""
    speeds = np.linalg.norm(train.state.velocities, axis=-1)
    return [float(np.quantile(speeds[:, species == element], 0.9999)) for element in elements]


def same_cells(system: System, n_pairs: int) -> np.ndarray:
    """The system's cell for each of some pairs, float32 ``[n_pairs, 3, 3]``."""
    return np.tile(np.asarray(system.cell, np.float32), (n_pairs, 1, 1))


def n_cells(dataset: Dataset) -> int:
    """How many different cells the pairs have."""
    return len(np.unique(np.concatenate([getattr(dataset, split).cells for split in SPLITS]), axis=0))


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
                file.create_dataset(f"{split}/cells", data=part.cells, compression="gzip")
            file.attrs["facts"] = json.dumps(_facts(dataset))
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

            if file.attrs.get("format") not in (_FORMAT, _ONE_CELL):
                raise ValueError(f"{path} is no dataset of this package; `ffmd dataset` makes one from trajectories")
            system = System(*(array(f"system/{name}") for name in System._fields))

            def cells(split: str) -> np.ndarray:
                if file.attrs["format"] == _ONE_CELL:
                    return same_cells(system, len(array(f"{split}/displacements")))
                return array(f"{split}/cells")

            parts = [
                Pairs(
                    State(array(f"{split}/positions"), array(f"{split}/velocities")),
                    array(f"{split}/displacements"),
                    array(f"{split}/new_velocities"),
                    cells(split),
                )
                for split in SPLITS
            ]
            metadata = json.loads(str(file.attrs.get("facts", "{}"))).get("metadata", {})
            return Dataset(system, float(np.asarray(file.attrs["time_step_fs"])), *parts, metadata=metadata)
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as a dataset (truncated?): {error}") from None


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of system, Δt and pairs: what tells one dataset from another, wherever their files are."""
    digest = hashlib.sha256(repr(dataset.time_step_fs).encode())
    for values in jax.tree.leaves((dataset.system, *(getattr(dataset, split)._replace(cells=()) for split in SPLITS))):
        digest.update(np.ascontiguousarray(values).tobytes())
    if n_cells(dataset) > 1:  # one cell is that of the system
        for split in SPLITS:
            digest.update(np.ascontiguousarray(getattr(dataset, split).cells).tobytes())
    return digest.hexdigest()


def facts(path) -> dict[str, Any]:
    """Sizes, statistics of the training pairs and metadata of a dataset file, without reading the pairs.

    Raises:
        ValueError: the file is truncated, or no dataset of this package.
        FileNotFoundError: no such file.
    """
    try:
        with h5py.File(path) as file:
            stored = file.attrs.get("facts") if file.attrs.get("format") in (_FORMAT, _ONE_CELL) else None
            if stored is not None:
                return json.loads(str(stored))
    except OSError:
        pass  # read() says what is wrong
    return _facts(read(path))  # files of earlier versions hold no facts


def _facts(dataset: Dataset) -> dict[str, Any]:
    species = np.asarray(dataset.system.species)
    elements = tuple(int(z) for z in np.unique(species))
    limits = speed_limits(dataset.train, species, elements)
    return {
        "time_step_fs": dataset.time_step_fs,
        "n_atoms": len(species),
        "elements": elements,
        "cells": n_cells(dataset),
        **{f"{split}_pairs": len(getattr(dataset, split).displacements) for split in SPLITS},
        **statistics(dataset.train)._asdict(),
        "speed_limits": limits,
        "metadata": dataset.metadata,
    }


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
