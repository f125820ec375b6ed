"""What a rollout leaves behind: frames in a file or in memory, and the restart file that it can be continued from.

Frames are compressed and written by a thread, in order, while the devices compute the next ones.  Of several processes,
the first writes, and the others only count.
"""

import time
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ffmd_jax.core import files, processes
from ffmd_jax.core.state import State, System, take
from ffmd_jax.dynamics import restart
from ffmd_jax.dynamics.engine import Block
from ffmd_jax.dynamics.records import Carry
from ffmd_jax.formats import journal, trajectory
from ffmd_jax.formats.trajectory import Trajectory

_SAVE_EVERY_S = 1.0


def find(out: Path, facts: dict[str, Any]) -> restart.Saved | None:
    """The restart file of ``out``, if the two belong to a run with these facts; None: there is nothing to continue.

    Raises:
        ValueError: they belong to another run, or are damaged.
    """
    path = restart.path_of(out)
    if out.exists() and not out.stat().st_size and not journal.journal_of(out).exists():
        return None  # killed before the first block was in it
    if out.exists():
        restart.check_same(str(out), _stored_facts(out), facts)
    if not (path.exists() and out.exists()):
        return None  # stopped before the first restart file: it begins anew, to the same trajectory
    saved = restart.load(path)
    restart.check_same(str(path), saved.facts, facts)
    return saved


def _stored_facts(out: Path) -> dict[str, Any] | None:
    try:
        return trajectory.read_metadata(out).get("settings")
    except ValueError:
        return None


class Recorder:
    """Takes the blocks of a rollout; a context manager.

    Args:
        out: H5MD file; None: in memory.
        system: of the run.
        metadata: of the file.
        facts: what determines the trajectory; a run is continued with the same only.
        replicas: their number; 0: one run, without the axis.
        options: of `trajectory.Writer`.
        saved: restart file to continue from.
        overwrite: replace an existing file.
    """

    def __init__(
        self,
        out: Path | None,
        system: System,
        metadata: dict[str, Any],
        facts: dict[str, Any],
        *,
        replicas: int = 0,
        options: dict[str, Any] | None = None,
        saved: restart.Saved | None = None,
        overwrite: bool = False,
    ):
        self.notes: dict[str, Any] = {"fallback_frames": 0}
        self.n_frames: tuple[int, ...] = (0,) * max(1, replicas)
        if saved is not None:
            self.notes, self.n_frames = saved.notes, saved.n_frames
        self._out, self._system, self._metadata, self._facts, self._replicas = out, system, metadata, facts, replicas
        self._kept: list[list[Block]] = [[] for _ in self.n_frames]
        self._saved_at = time.monotonic()
        self._pending: Future | None = None
        self._last: tuple[Carry, Any] | None = None  # after the last block that was written
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ffmd-writer")
        self._writer = None
        self._first = processes.is_first()
        if out is not None and self._first:
            if saved is None and not out.exists():
                files.remove(restart.path_of(out))
            how: dict[str, Any] = {"keep_frames": self.n_frames} if saved is not None else {"overwrite": overwrite}
            if saved is None and out.exists():  # begun, but stopped before there was a restart file
                files.remove(restart.path_of(out))
                how = {"overwrite": True}
            self._writer = trajectory.Writer(out, system, metadata, replicas=replicas, **(options or {}), **how)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            if self._writer is not None:
                self._writer.close()

    def write(self, block: Block, searches: Any, by_fallback: bool = False) -> None:
        """Appends a block, of each replica up to where it ended, and saves where to continue, at most every second.

        Returns before it is written; what goes wrong is raised by the next call, or by `wait`.

        Args:
            by_fallback: the reference made the frames; they are counted, and saved at once.
        """
        self.wait()
        block = block._replace(carry=processes.whole(block.carry))
        self._pending = self._thread.submit(self._write, block, searches, by_fallback)

    def wait(self) -> None:
        """Returns when all blocks are in the file; raises what went wrong."""
        if self._pending is not None:
            futures.wait([self._pending])  # a Ctrl-C here leaves it pending
            pending, self._pending = self._pending, None
            pending.result()

    def _write(self, block: Block, searches: Any, by_fallback: bool) -> None:
        counts = list(self.n_frames)
        for i in range(len(counts)):
            good = len(block.times) if not self._replicas else int(np.sum(np.asarray(block.valid)[:, i]))
            if not good:
                continue
            counts[i] += good
            own = (block.frames, block.observables)
            frames, seen = take(own, (slice(good), i) if self._replicas else slice(good))
            if self._writer is not None:
                self._writer.append(frames, block.times[:good], seen, replica=i)
            elif self._out is None:
                self._kept[i].append(block._replace(frames=frames, times=block.times[:good], observables=seen))
        self.n_frames, self._last = tuple(counts), (block.carry, searches)
        self.notes["fallback_frames"] += by_fallback * len(block.times)
        if by_fallback or time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self._save()

    def save(self) -> None:
        """Writes the restart file of the frames that are written, whatever was computed since."""
        self.wait()
        self._save()

    def _save(self) -> None:
        if self._out is not None and self._first and self._last is not None and any(self.n_frames):
            carry, searches = self._last
            path = restart.path_of(self._out)
            restart.save(path, carry, searches, self._facts, self.notes, self.n_frames)
            self._saved_at = time.monotonic()

    def annotate(self, found: dict[str, Any]) -> None:
        """Adds to the metadata."""
        self._metadata = self._metadata | found
        if self._writer is not None:
            self._writer.annotate(self._metadata)

    def discard(self) -> None:
        """Removes what a run without a single frame leaves."""
        if self._out is not None and self._first:
            files.remove(self._out)

    def trajectories(self) -> list[Trajectory]:
        """Of a run in memory: its trajectory, or one for each replica."""
        found = []
        for i, parts in enumerate(self._kept):
            own = self._metadata | self._metadata.get("of_replicas", {}).get(str(i), {})
            if not parts:
                none = np.zeros((0, len(self._system.species), 3))
                found.append(Trajectory(self._system, State(none, none, np.zeros((0, 3, 3))), np.zeros(0), {}, own))
                continue
            together = [(part.frames, part.times, part.observables) for part in parts]
            frames, times, seen = jax.tree.map(lambda *x: np.concatenate(x).astype(np.float64), *together)
            found.append(Trajectory(self._system, frames, times, seen, own))
        return found
