"""What the reference computed where a model failed, kept for the next training: a dataset that grows."""

from pathlib import Path

import numpy as np

from ffmd_jax.core.state import State, System
from ffmd_jax.data import dataset, dataset_file
from ffmd_jax.data.dataset_file import Dataset, Group, Run
from ffmd_jax.formats import common

# What the stretches are for, in turn: after ten, as after three, there are some to train, to validate and to test with.
_SPLITS = ("train", "validation", "test", *["train"] * 7)
_FRAMES = 5  # of the stretches, at least so many in Δt, where the time step of the reference allows it


class Collection:
    """Stretches of a reference at constant energy, each from a state in which a model failed, in a dataset file.

    Args:
        path: of the file; what is in it stays, and the next stretches are added.
        reference: name of what computes the forces.
        system: the atoms.
        time_step_fs: Δt of the model, fs.
        run: the rollout, in words that no other has.

    Raises:
        ValueError: the file holds something else, or the stretches of other atoms, another Δt or another reference.
    """

    def __init__(self, path: Path, reference: str, system: System, time_step_fs: float, run: str):
        self._path, self._reference, self._system, self._run = path, reference, system, run
        self._time_step_fs = time_step_fs
        self._runs: tuple[Run, ...] = ()
        if not path.exists():
            return
        if not dataset_file.recognises(path):
            raise ValueError(f"{path} is there and no dataset: collect into another file")
        found = dataset_file.read(path)
        before, of = found.metadata.get("collected_from"), found.groups[0].system
        if before is None:
            raise ValueError(f"{path} is a dataset that was not collected in rollouts: collect into another file")
        if not np.array_equal(of.species, system.species) or of.pbc != system.pbc:
            raise ValueError(f"{path} has stretches of {common.formula(of)}, or of another order of its atoms")
        if not np.allclose(of.masses, system.masses, rtol=1e-3):
            raise ValueError(f"{path} has stretches with other masses")
        if found.time_step_fs != time_step_fs:
            raise ValueError(f"{path} has Δt = {found.time_step_fs:g} fs, the model {time_step_fs:g} fs")
        if before != reference:
            raise ValueError(f"{path} was computed with {before}, not with {reference}: collect into another file")
        self._runs = found.groups[0].runs

    def __len__(self) -> int:
        """The number of stretches."""
        return len(self._runs)

    @staticmethod
    def stride(steps: int) -> int:
        """Steps of the reference between two frames, if Δt has ``steps`` of them."""
        return max((n for n in range(1, steps + 1) if steps % n == 0 and steps // n >= _FRAMES), default=1)

    def add(self, start: State, frames: State, interval_fs: float, time_fs: float) -> None:
        """Adds a stretch and writes the file; that of a run which is repeated takes its old place.

        Args:
            start: Å, Å/fs; the state from which the model failed.
            frames: Å, Å/fs, ``[n_frames, …]``, the first of them ``interval_fs`` after it.
            interval_fs: between frames, fs.
            time_fs: of the start, in the rollout, fs.
        """
        source = f"{self._run}, from {time_fs:.10g} fs on"
        joined = (
            np.concatenate([np.asarray(a)[None], b], dtype=np.float64) for a, b in zip(start, frames, strict=True)
        )
        known = [i for i, run in enumerate(self._runs) if run.source == source]
        place = known[0] if known else len(self._runs)
        stretch = Run(State(*joined), interval_fs, _SPLITS[place % len(_SPLITS)], 0, source)
        self._runs = (*self._runs[:place], stretch, *self._runs[place + 1 :])
        metadata = {"sources": [run.source for run in self._runs], "collected_from": self._reference}
        groups = (Group(self._system, self._runs),)
        dataset.write(self._path, Dataset(groups, self._time_step_fs, interval_fs, metadata=metadata), overwrite=True)
