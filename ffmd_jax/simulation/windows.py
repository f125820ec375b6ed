"""Every step around bonds that form and break, beside a trajectory that stores fewer frames."""

import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ffmd_jax.analysis.bonds import Change
from ffmd_jax.core import files
from ffmd_jax.core.state import State, System, cast, take
from ffmd_jax.dynamics import rollout, stepping
from ffmd_jax.dynamics.engine import Block, Engine
from ffmd_jax.dynamics.ensemble import Ensemble
from ffmd_jax.dynamics.records import Carry
from ffmd_jax.formats import ase_files

logger = logging.getLogger("ffmd_jax")

_SAME_A = 0.05  # steps that are taken again in another program differ by rounding, which grows


def spans(rows: list[int], n_frames: int) -> list[tuple[int, int, int]]:
    """For changes seen in frames of a block: the first one, and the frames (-1: its beginning) to go from and to.

    Changes whose frames overlap, as those of a transfer, are together.
    """
    found: list[tuple[int, int, int]] = []
    for row in sorted(set(rows)):
        first, last = max(row - 2, -1), min(row + 1, n_frames - 1)
        if found and first < found[-1][2]:
            found[-1] = (*found[-1][:2], last)
        else:
            found.append((row, first, last))
    return found


def name_of(time_fs: float) -> str:
    """The file of a change; no two have the same."""
    return f"bonds_at_{time_fs:.12g}fs.extxyz"


class Windows:
    """Writes the steps around changes of bonds as extended XYZ, one file a change, in a folder.

    The run itself keeps nothing more: where a bond has changed between two stored frames, the steps from the stored
    frame before these two to the one after them, within the block, are taken again with the same random numbers.

    Args:
        folder: of the files; what an earlier run left there is removed by `clear`.
        every: steps between two frames of the run.
        make_engine: a rollout that keeps every step.
    """

    def __init__(self, folder: Path, system: System, ensemble: Ensemble, every: int, make_engine: Callable[[], Engine]):
        self.folder, self._system, self._ensemble, self._every = folder, system, ensemble, every
        self._make_engine, self._engine = make_engine, None

    def clear(self) -> None:
        """Removes the files of an earlier run."""
        for file in self.folder.glob("bonds_at_*fs.extxyz"):
            file.unlink()

    def see(self, before: Carry, start: State, block: Block, changes: list[Change]) -> None:
        """Writes what belongs to the changes in a block that began with a carry, whose unwrapped state is ``start``."""
        rows = [int(np.searchsorted(block.times, change.time_fs)) for change in changes]
        for row, first, last in spans(rows, len(block.times)):
            self._write(name_of(float(block.times[row])), before, start, block, first, last)

    def _write(self, name: str, before: Carry, start: State, block: Block, first: int, last: int) -> None:
        """The steps from a frame of the block (-1: its beginning) to another."""
        if self._engine is None:
            self._engine = self._make_engine()
            logger.warning("bonds: every step around a change is written to %s", self.folder)
        taken = self._every * (first + 1)
        key = stepping.key_after(self._ensemble, before.key, taken)
        state = cast(start if first < 0 else take(block.frames, first), before.state.positions.dtype)
        carry, parts, left = self._engine.start(state, key, int(before.step) + taken), [], self._every * (last - first)
        while left > 0:
            parts.append(self._engine.advance(carry, left))
            carry, left = parts[-1].carry, left - len(parts[-1].times)
        made = rollout.gather(iter(parts))
        stored = np.asarray(block.frames.positions[first + 1 : last + 1], np.float64)
        if not np.max(np.abs(made.frames.positions[self._every - 1 :: self._every] - stored)) < _SAME_A:
            logger.warning(
                "bonds: the steps before %.12g fs could not be repeated and are not written", block.times[last]
            )
            return
        import ase.io

        images = [ase_files.to_atoms(self._system, take(made.frames, i)) for i in range(len(made.times))]
        for atoms, time in zip(images, made.times, strict=True):
            atoms.info["time_fs"] = float(time)
        buffer = io.StringIO()
        ase.io.write(buffer, images, format="extxyz")
        self.folder.mkdir(exist_ok=True)
        files.write_atomically(self.folder / name, buffer.getvalue().encode())
