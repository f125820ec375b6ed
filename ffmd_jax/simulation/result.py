"""What `simulate` returns."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from ffmd_jax.analysis.bonds import Change
from ffmd_jax.core import units
from ffmd_jax.core.state import State, System
from ffmd_jax.formats import trajectory
from ffmd_jax.formats.trajectory import Trajectory


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Run:
    """What `simulate` returns: a trajectory, read from the file when it is first looked at, and what happened.

    Attributes:
        path: of the H5MD file; None: in memory.
        n_steps: taken in all.
        time_step_fs: Δt of the model, fs.
        n_frames: stored, of each replica.
        alarms: of the monitors, in the order in which they came; None: not watched.  Of replicas, one list each.
        ended: by an alarm, all of it.
        ended_replicas: which replicas an alarm has ended.
        complete: all steps are there.
        fallback_frames: made by the reference.
        replicas: their number; 0: one run, without the axis.
        n_steps_before: taken before this call, where a run is continued.
        bond_changes: bonds that formed and broke; None: not watched.
        halvings: where Δt was halved, for how long, fs, and to what; None: it cannot be.
    """

    path: Path | None
    n_steps: int
    time_step_fs: float
    n_frames: tuple[int, ...]
    alarms: Any
    ended: bool
    ended_replicas: tuple[int, ...]
    complete: bool
    fallback_frames: int
    replicas: int
    n_steps_before: int
    bond_changes: tuple[Change, ...] | None = None
    halvings: tuple[dict[str, float], ...] | None = None
    _in_memory: tuple[Trajectory, ...] = ()

    def __len__(self) -> int:
        """The number of replicas, 1 without."""
        return max(1, self.replicas)

    def __getitem__(self, replica: int) -> Trajectory:
        """The trajectory of a replica."""
        if not -len(self) <= replica < len(self):
            raise IndexError(f"there is no replica {replica}, only {len(self)}")
        return self._read(replica % len(self))

    @functools.cached_property
    def trajectory(self) -> Trajectory:
        """The trajectory of a run without replicas."""
        if self.replicas:
            raise ValueError(f"the run has {self.replicas} replicas; take one, run[0] … run[{self.replicas - 1}]")
        return self._read(0)

    def _read(self, replica: int) -> Trajectory:
        if self.path is None:
            return self._in_memory[replica]
        return trajectory.read(f"{self.path}:{replica}" if self.replicas else self.path)

    @property
    def system(self) -> System:
        return self.trajectory.system

    @property
    def frames(self) -> State:
        return self.trajectory.frames

    @property
    def times(self) -> np.ndarray:
        return self.trajectory.times

    @property
    def observables(self) -> dict[str, np.ndarray]:
        return self.trajectory.observables

    @property
    def metadata(self) -> dict[str, Any]:
        return self.trajectory.metadata

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else str(self.path)
        frames = " + ".join(map(str, self.n_frames))
        length = self.n_steps * self.time_step_fs / units.PS
        return f"<Run {where}: {frames} frames, {length:g} ps at Δt = {self.time_step_fs:g} fs{self.happened()}>"

    def _repr_html_(self) -> str:
        import html

        return f"<p>{html.escape(repr(self)[1:-1])}</p>"

    def happened(self) -> str:
        """What the monitors saw, and what was done, as the end of a sentence."""
        notes = ""
        if self.replicas:
            dead = ", ".join(map(str, self.ended_replicas))
            notes = f"; ended by an alarm: replica {dead}" if dead else "; no replica ended early"
        elif self.alarms is not None:
            kinds = ", ".join(alarm.kind for alarm in self.alarms)
            notes = f"; alarms: {kinds}" if self.alarms else "; no alarms"
        if self.bond_changes is not None:
            notes += f"; bonds that formed or broke: {len(self.bond_changes) or 'none'}"
        if self.halvings is not None:
            how = f"halved {len(self.halvings)} times, for {self.fallback_frames} frames"
            notes += f"; Δt was {how if self.halvings else 'never halved'}"
        elif self.fallback_frames:
            notes += f"; {self.fallback_frames} frames by the reference"
        return notes
