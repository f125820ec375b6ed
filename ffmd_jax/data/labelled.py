"""Labelled frames: what a potential learns from; formed from the frames of a dataset that knows energies."""

from typing import NamedTuple

import jax
import numpy as np

from ffmd_jax.core.state import Array, State, System
from ffmd_jax.data import dataset_file, pairs
from ffmd_jax.data.dataset_file import Dataset, Group, Run


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
    name: str = ""


def form(
    dataset: Dataset, elements: tuple[int, ...] = (), atomic_energies_eV: tuple[float, ...] | None = None
) -> tuple[FrameSets, ...]:
    """The labelled frames of each system of a dataset; forces and stresses count where all its frames have them.

    Args:
        elements: atomic numbers of a potential that is there already.
        atomic_energies_eV: its constants, to take off the energies.

    Raises:
        ValueError: frames without potential energies, or of elements that the potential does not know.
    """
    runs = [run for group in dataset.groups for run in group.runs]
    known = tuple(
        name
        for name, field in (("energies", "potential_energies"), ("forces", "forces"), ("stresses", "stresses"))
        if all(getattr(run, field) is not None for run in runs)
    )
    if "energies" not in known:
        raise ValueError(
            "a potential is trained on frames with potential energies, and forces if possible; not all runs of the "
            "dataset have energies (`ffmd reference --forces` stores both)"
        )
    if atomic_energies_eV is None:
        elements = tuple(np.unique(np.concatenate([group.system.species for group in dataset.groups])).tolist())
        atomic_energies_eV = _constants(dataset, elements)
    constants = np.array(atomic_energies_eV)

    def of_run(group: Group, run: Run) -> Frames:
        return _of_run(run, float(_formula(group, elements) @ constants), known)

    parts = pairs.by_split(dataset, of_run)
    named = zip(dataset.groups, parts, dataset_file.names(dataset), strict=True)
    return tuple(
        FrameSets(group.system, *sets, atomic_energies_eV=atomic_energies_eV, known=known, name=name)
        for group, sets, name in named
    )


def padded(frames: Frames, n_atoms: int) -> Frames:
    """The frames with atoms at the origin added, up to ``n_atoms``."""
    positions, velocities = (pairs.pad_atoms(x, n_atoms) for x in (frames.state.positions, frames.state.velocities))
    state = State(positions, velocities, frames.state.cell)
    return frames._replace(state=state, forces=pairs.pad_atoms(frames.forces, n_atoms))


def _formula(group: Group, elements: tuple[int, ...]) -> np.ndarray:
    """How many atoms of each element a system has."""
    return np.array([np.sum(group.system.species == z) for z in elements], np.float64)


def _constants(dataset: Dataset, elements: tuple[int, ...]) -> tuple[float, ...]:
    """Constants of the elements, eV, by least squares over the mean energies of the systems in training frames.

    Where formulas do not fix them all (one formula fixes one sum of them), the shortest vector of them.
    """
    counts, means = [], []
    for group in dataset.groups:
        energies = [np.asarray(run.potential_energies) for run in group.runs if run.split == "train"]
        if energies:
            counts.append(_formula(group, elements))
            means.append(np.mean(np.concatenate(energies)))
    if not counts:
        raise ValueError("the dataset holds no runs to train")
    return tuple(np.linalg.lstsq(np.array(counts), np.array(means), rcond=None)[0].tolist())


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
