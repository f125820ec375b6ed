"""Datasets from NVE trajectories: checked, and split by run."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ffmd_jax.core.state import State, System, take
from ffmd_jax.data import dataset_file, nve, pairs
from ffmd_jax.data.dataset_file import SPLITS, Dataset, Group, Run
from ffmd_jax.data.pairs import PairSets
from ffmd_jax.formats import Hints, common, note, stresses, trajcast_pairs, trajectory
from ffmd_jax.formats.trajectory import Trajectory, frame_interval

NO_HINTS = Hints()


def from_files(
    files: Sequence[Path],
    time_step_fs: float,
    stride_fs: float | None = None,
    hints: Hints = NO_HINTS,
    tick: Callable[[], object] = lambda: None,
) -> Dataset:
    """The dataset of trajectory files, or of files with TrajCast's pairs; of folders, all files in them.

    Args:
        tick: called after every file that was read.

    Raises:
        ValueError: as `make` and `make_from_pairs`; both kinds of files, or hints for pairs.
    """
    files = [file for path in files for file in _in_folder(Path(path))]
    if not files:
        raise ValueError("give at least one trajectory")
    ready = [trajcast_pairs.recognises(path) for path in files]
    if all(ready):
        if stride_fs is not None or hints != NO_HINTS:
            raise ValueError("files in TrajCast's format hold pairs already: they take no `stride_fs` and no hints")
        return make_from_pairs(files, time_step_fs)
    if any(ready):
        raise ValueError(f"{files[ready.index(True)]} holds TrajCast pairs, others hold trajectories; give one kind")
    found = []
    for path in files:
        found.append(trajectory.read(path, hints=hints, may_be_one_frame=True))
        tick()
    if len(files) > 1 and all(len(each.times) == 1 for each in found):  # a frame a file
        found, files = [trajectory.join(found, files, hints)], [files[0]]
    return make(found, time_step_fs, stride_fs, files)


def _in_folder(path: Path) -> list[Path]:
    """The files of a folder and of those in it, in the order of their names; a file itself."""
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    if not found:
        raise ValueError(f"{path} is a folder without files")
    return found


def make(
    trajectories: Sequence[Trajectory], time_step_fs: float, stride_fs: float | None = None, names: Sequence[Any] = ()
) -> Dataset:
    """The dataset of some NVE trajectories, of one system or several, in cells that may differ.

    Trajectories of the same atoms in the same order are of one system.  With three or more of a system, the last is
    for the test set and the one before it for the validation set, so that both are independent of the training set.
    With one or two, each is cut in time, 80 % train, 10 % validation, 10 % test, with gaps of 10 Δt, at most 2.5 % of
    the run, before validation and test.

    Args:
        trajectories: at frame intervals that divide Δt.
        time_step_fs: Δt, fs.
        stride_fs: time between the starts of two pairs, fs (default: Δt).
        names: of the trajectories, for messages and metadata.

    Raises:
        ValueError: trajectories that do not go together, that `nve.check` refuses, or too short.
    """
    if not trajectories:
        raise ValueError("no trajectories given")
    names = [str(name) for name in names] or [f"trajectory {i + 1}" for i in range(len(trajectories))]
    systems: list[list[tuple[str, Trajectory]]] = []
    for name, given in zip(names, trajectories, strict=True):
        try:
            nve.check(trajectory.checked(given))
            pairs.steps_per_interval(frame_interval(given.times), time_step_fs)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        _check_goes_with(name, trajectories[0].system, given.system)
        same = [own for own in systems if np.array_equal(own[0][1].system.species, given.system.species)]
        if same:
            same[0].append((name, given))
        else:
            _note_another_order(name, given, systems)
            systems.append([(name, given)])
    groups = tuple(Group(own[0][1].system, _split(own, time_step_fs)) for own in systems)
    metadata: dict[str, Any] = {"sources": names}
    for key in ("velocities", "velocity_relative_error"):
        if any(key in given.metadata for given in trajectories):
            metadata[key] = max(given.metadata[key] for given in trajectories if key in given.metadata)
    found = Dataset(groups, float(time_step_fs), stride_fs, metadata=metadata)
    pairs.form(found)  # raises what is too short
    return found


def _split(own: Sequence[tuple[str, Trajectory]], time_step_fs: float) -> tuple[Run, ...]:
    """The runs of one system, by what they are for."""
    if len(own) >= 3:
        splits = ["train"] * (len(own) - 2) + ["validation", "test"]
        return tuple(
            _run(given, split, name, frame_interval(given.times))
            for (name, given), split in zip(own, splits, strict=True)
        )
    windows = ((0, 0.8, 0), (0.8, 0.9, 10 * time_step_fs), (0.9, 1, 10 * time_step_fs))
    return tuple(
        _run(_cut(given, *window), split, name, frame_interval(given.times))
        for split, window in zip(SPLITS, windows, strict=True)
        for name, given in own
    )


def pairs_of(given: Trajectory, time_step_fs: float) -> PairSets:
    """All pairs of one NVE trajectory, as each of the three sets.

    Raises:
        ValueError: as `make`.
    """
    given = trajectory.checked(given)
    nve.check(given)
    run = _run(given, "test", "trajectory", frame_interval(given.times))
    found = pairs.of_run(run, time_step_fs, time_step_fs)
    return PairSets(given.system, float(time_step_fs), found, found, found)


def all_of(given: Trajectory) -> Dataset:
    """All frames of one trajectory, of any ensemble, as each of the three sets; for labelled frames, not for pairs."""
    given = trajectory.checked(given)
    interval = frame_interval(given.times) if len(given.times) > 1 else 1.0
    runs = tuple(_run(given, split, "trajectory", interval) for split in SPLITS)
    return Dataset((Group(given.system, runs),), interval)


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
            nve.check_pairs(system, state, displacements, velocities, time_step_fs)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        after = State(state.positions + displacements, velocities, state.cell)
        both = jax.tree.map(lambda *ends: np.stack(ends, axis=1), state, after)
        found.append(jax.tree.map(lambda values: values.reshape(-1, *values.shape[2:]), both))
    if first is None:
        raise ValueError("no files given")
    names, counts = [str(path) for path in paths], [len(frames.positions) // 2 for frames in found]
    if len(found) >= 3:
        splits = ["train"] * (len(found) - 2) + ["validation", "test"]
        parts = list(zip(found, splits, names, strict=True))
    else:
        parts = [
            (take(frames, slice(2 * round(low * n), 2 * round(high * n))), split, name)
            for split, low, high in zip(SPLITS, (0, 0.8, 0.9), (0.8, 0.9, 1), strict=True)
            for frames, name, n in zip(found, names, counts, strict=True)
        ]
    if not all(sum(len(frames.positions) for frames, split, _ in parts if split == s) for s in SPLITS):
        raise ValueError(f"{sum(counts)} pairs are too few to be split 80/10/10")
    runs = (Run(frames, float(time_step_fs), split, 2, name) for frames, split, name in parts if len(frames.positions))
    return Dataset((Group(first, tuple(runs)),), float(time_step_fs), metadata={"sources": names})


def thinned(data: Dataset, n_train: int | None = None, n_test: int | None = None) -> Dataset:
    """The dataset with at most ``n_train`` pairs to train on and ``n_test`` to validate and to test, evenly chosen.

    Raises:
        ValueError: a number below one.
    """
    for split, n_most in (("train", n_train), ("validation and test", n_test)):
        if n_most is not None and n_most < 1:
            raise ValueError(f"the number of {split} pairs must be at least 1, not {n_most}")
    return dataclasses.replace(data, n_train=n_train, n_test=n_test)


def write(path, data: Dataset, *, overwrite: bool = False) -> None:
    """Writes the dataset with its facts; see `dataset_file.write`."""
    dataset_file.write(path, data, facts(data), overwrite=overwrite)


def facts(data: Dataset) -> dict[str, Any]:
    """Sizes and statistics of the pairs of a dataset, JSON-able; of several systems, also a list in ``groups``."""
    formed = pairs.form(data)
    elements = tuple(int(z) for z in np.unique(np.concatenate([sets.system.species for sets in formed])))
    counts = {f"{split}_pairs": sum(pairs.count(getattr(sets, split)) for sets in formed) for split in SPLITS}
    found = {"elements": elements, **counts, **_labels([run for group in data.groups for run in group.runs])}
    if counts["train_pairs"]:
        limits = pairs.speed_limits([sets for sets in formed if pairs.count(sets.train)], elements)
        found |= {**pairs.statistics(formed)._asdict(), "speed_limits": limits}
    head = {"time_step_fs": data.time_step_fs}
    if len(formed) == 1:
        n_atoms = len(data.groups[0].system.species)
        return {**head, "n_atoms": n_atoms, "cells": n_cells(data.groups[0]), **found, "metadata": data.metadata}
    groups = [_facts_of_group(*both) for both in zip(data.groups, formed, strict=True)]
    return {**head, **found, "groups": groups, "metadata": data.metadata}


def _facts_of_group(group: Group, sets: PairSets) -> dict[str, Any]:
    return {
        "name": sets.name,
        "formula": common.formula(group.system),
        "n_atoms": len(group.system.species),
        "elements": tuple(int(z) for z in np.unique(group.system.species)),
        "cells": n_cells(group),
        **{f"{split}_pairs": pairs.count(getattr(sets, split)) for split in SPLITS},
    }


def _labels(runs: Sequence[Run]) -> dict[str, bool]:
    names = {"energies": "potential_energies", "forces": "forces", "stresses": "stresses"}
    return {label: all(getattr(run, field) is not None for run in runs) for label, field in names.items()}


def n_cells(group: Group) -> int:
    """How many different cells the frames have, in single precision."""
    cells = [np.unique(np.asarray(run.frames.cell, np.float32), axis=0) for run in group.runs]
    return len(np.unique(np.concatenate(cells), axis=0))


def _check_same_system(name: str, first: System, other: System) -> None:
    """Raises ValueError unless both are the same atoms, periodic in the same directions; cells may differ."""
    if not np.array_equal(first.species, other.species):
        raise ValueError(f"{name} has other atoms, or another order of atoms, than the first file")
    if not np.allclose(first.masses, other.masses, rtol=1e-3):
        raise ValueError(f"{name} has other masses than the first file")
    if first.pbc != other.pbc:
        raise ValueError(f"{name} is periodic in other directions than the first file")


def _check_goes_with(name: str, first: System, other: System) -> None:
    """Raises ValueError for systems that no model can learn together: other directions, other masses of an element."""
    if first.pbc != other.pbc:
        raise ValueError(f"{name} is periodic in other directions than the first file")
    masses = dict(zip(np.asarray(first.species).tolist(), first.masses, strict=True))
    for z, mass in zip(np.asarray(other.species).tolist(), other.masses, strict=True):
        if abs(masses.get(z, mass) - mass) > 1e-3 * mass:
            raise ValueError(f"{name} has other masses than the first file")


def _note_another_order(name: str, given: Trajectory, systems: Sequence[Sequence[tuple[str, Trajectory]]]) -> None:
    """Says so where another file has the same atoms in another order: isomers, or a mistake."""
    for other, before in (own[0] for own in systems):
        if np.array_equal(np.sort(before.system.species), np.sort(given.system.species)):
            note(f"{name} has the atoms of {other} in another order: taken as another system, an isomer")
            return


def _run(given: Trajectory, split: str, name: str, interval_fs: float) -> Run:
    """The frames of a trajectory, with energies, forces and stresses where all frames have them."""
    energies = given.observables.get("potential_energy_eV")
    if energies is not None and not np.isfinite(energies).all():
        energies = None
    frames = jax.tree.map(lambda values: np.asarray(values, np.float64), given.frames)
    stress = stresses.from_observables(given.observables)
    return Run(frames, interval_fs, split, 0, name, energies, given.forces, stress)


def _cut(given: Trajectory, low: float, high: float, gap_fs: float) -> Trajectory:
    """The part from ``low`` to ``high`` of the length, without its first ``gap_fs``, at most 2.5 % of the whole."""
    n_frames = len(given.times)
    gap = min(gap_fs / frame_interval(given.times), 0.025 * n_frames)
    return trajectory.part(given, slice(round(low * n_frames) + round(gap), round(high * n_frames)))
