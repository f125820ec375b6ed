"""Labelled frames: what a potential learns from; formed from the frames of a dataset that knows energies."""

from typing import NamedTuple

import jax
import numpy as np

from ffmd_jax.core.state import Array, State, System, take
from ffmd_jax.data import pairs
from ffmd_jax.data.dataset_file import SPLITS, Dataset, Run


class Frames(NamedTuple):
    """Frames with their labels; float32.

    Attributes:
        state: positions, Å, and cells, Å, ``[n_frames, …]``; velocities are zero, a potential does not see them.
        energies: eV, without the constants of the elements, ``[n_frames]``.
        forces: eV/Å, ``[n_frames, n_atoms, 3]``; zero where they are not known.
        stresses: eV/Å³, xx, yy, zz, yz, xz, xy, ``[n_frames, 6]``; zero where they are not known.
    """

    state: State
    energies: Array
    forces: Array
    stresses: Array


class FrameSets(NamedTuple):
    """The labelled frames of one system, by what they are for.

    Attributes:
        atomic_energies_eV: constants of the elements, ascending, eV, by least squares over the training frames.
        known: which labels all frames have: "energies", and perhaps "forces" and "stresses".
    """

    system: System
    train: Frames
    validation: Frames
    test: Frames
    atomic_energies_eV: tuple[float, ...]
    known: tuple[str, ...]


def form(dataset: Dataset, atomic_energies_eV: tuple[float, ...] | None = None) -> FrameSets:
    """The labelled frames of a dataset of one system; forces and stresses count where all its frames have them.

    Args:
        atomic_energies_eV: constants to take off the energies, of a potential that is there already.

    Raises:
        ValueError: several systems, or frames without potential energies.
    """
    group = pairs.only_group(dataset)
    known = tuple(
        name
        for name, field in (("energies", "potential_energies"), ("forces", "forces"), ("stresses", "stresses"))
        if all(getattr(run, field) is not None for run in group.runs)
    )
    if "energies" not in known:
        raise ValueError(
            "a potential is trained on frames with potential energies, and forces if possible; not all runs of the "
            "dataset have energies (`ffmd reference --forces` stores both)"
        )
    counts = np.array([np.sum(group.system.species == z) for z in np.unique(group.system.species)], np.float64)
    runs = {split: [run for run in group.runs if run.split == split] for split in SPLITS}
    for split in SPLITS:
        if not runs[split]:
            raise ValueError(f"the dataset holds no runs to {'train' if split == 'train' else f'{split} with'}")
    if atomic_energies_eV is None:
        mean = np.mean(np.concatenate([np.asarray(run.potential_energies) for run in runs["train"]]))
        # One formula fixes one sum of the constants alone: the shortest vector of them.
        atomic_energies_eV = tuple((mean * counts / (counts @ counts)).tolist())
    constant = float(counts @ np.array(atomic_energies_eV))
    sets = []
    for split, n_most in zip(SPLITS, (dataset.n_train, dataset.n_test, dataset.n_test), strict=True):
        parts = [_of_run(run, constant, known) for run in runs[split]]
        joined = jax.tree.map(lambda *values: np.concatenate(values), *parts)
        sets.append(joined if n_most is None else take(joined, pairs.evenly(len(joined.energies), n_most)))
    train, validation, test = sets
    return FrameSets(group.system, train, validation, test, atomic_energies_eV, known)


def _of_run(run: Run, constant: float, known: tuple[str, ...]) -> Frames:
    forces, stresses = np.zeros_like(run.frames.positions), np.zeros((len(run.frames.positions), 6))
    if run.forces is not None and "forces" in known:
        forces = run.forces
    if run.stresses is not None and "stresses" in known:
        stresses = run.stresses
    assert run.potential_energies is not None
    still = run.frames._replace(velocities=np.zeros_like(run.frames.positions))
    found = Frames(still, run.potential_energies - constant, forces, stresses)
    return jax.tree.map(lambda values: np.asarray(values, np.float32), found)
