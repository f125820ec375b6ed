"""Bonds that form and break, by distances with hysteresis."""

from typing import Any, Literal, NamedTuple

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from ffmd_jax.core import units
from ffmd_jax.core.state import State, System, take
from ffmd_jax.formats.trajectory import Trajectory

FORMED, BROKEN, BONDED = 1.15, 1.45, 1.3  # of the sum of two covalent radii; the last where a run begins
_MOST_ATOMS = 2_000
_AT_ONCE = 2_000_000  # distances in memory
_TRANSFER_FS = 200.0  # between the two bonds of an atom that changes its partner


class Change(NamedTuple):
    """A bond that formed or broke.

    Attributes:
        time_fs: of the first frame in which it is so.
        atoms: indices.
        kind: formed or broken.
    """

    time_fs: float
    atoms: tuple[int, int]
    kind: Literal["formed", "broken"]


class Watch:
    """Follows the bonds of one system, frames after frames.

    A bond is formed where a pair comes closer than 1.15 times the sum of its covalent radii, and broken where it is
    farther apart than 1.45 times: what vibrates in between changes nothing.

    Attributes:
        changes: all so far.

    Raises:
        ValueError: no bonds to watch, more than 2,000 atoms, or a cell in which a bond could meet its own image.
    """

    def __init__(self, system: System, state: State):
        n_atoms = len(system.species)
        if n_atoms > _MOST_ATOMS:
            raise ValueError(f"bonds are watched in systems of up to {_MOST_ATOMS} atoms, not {n_atoms}")
        self._pbc, self._pairs = np.array(system.pbc), np.stack(np.triu_indices(n_atoms, 1))
        radii = covalent_radii[np.asarray(system.species)]
        self._sums = radii[self._pairs].sum(axis=0)
        cell = np.asarray(state.cell, np.float64)
        if self._pbc.any():
            heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
            longest = BROKEN * float(self._sums.max(initial=0))
            if heights[self._pbc].min() < 2 * longest:
                raise ValueError(f"bonds are watched in cells that are at least {2 * longest:.1f} Å high")
        self._bonded = self._ratios(np.asarray(state.positions)[None], cell[None])[0] < BONDED
        if not self._bonded.any():
            raise ValueError("no two atoms are bonded at the start: there are no bonds to watch")
        self.changes: list[Change] = []

    def see(self, frames: State, times_fs: np.ndarray) -> list[Change]:
        """The changes in the next frames, Å ``[n_frames, n_atoms, 3]``, in the order of time."""
        new: list[Change] = []
        size = max(1, _AT_ONCE // max(1, len(self._sums)))
        for first in range(0, len(times_fs), size):
            part = slice(first, first + size)
            ratios = self._ratios(np.asarray(frames.positions[part]), np.asarray(frames.cell[part], np.float64))
            known = (ratios < FORMED) | (ratios > BROKEN)
            # The last frame, of these or before, in which a pair was clearly one or the other; 0: before.
            last = np.maximum.accumulate(np.where(known, 1 + np.arange(len(ratios))[:, None], 0), axis=0)
            told = np.concatenate([self._bonded[None], ratios < FORMED])
            bonded = np.concatenate([self._bonded[None], np.take_along_axis(told, last, axis=0)])
            for row, pair in zip(*np.nonzero(bonded[1:] != bonded[:-1]), strict=True):
                atoms = tuple(int(atom) for atom in self._pairs[:, pair])
                kind = "formed" if bonded[row + 1, pair] else "broken"
                new.append(Change(float(times_fs[first + row]), atoms, kind))  # type: ignore[arg-type]
            self._bonded = bonded[-1]
        self.changes += new
        return new

    def _ratios(self, positions: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Distances of all pairs over the sums of their radii, ``[n_frames, n_pairs]``."""
        apart = np.asarray(positions, np.float64)[:, self._pairs[0]] - positions[:, self._pairs[1]]
        if self._pbc.any():
            turns = np.round(apart @ np.linalg.inv(cells)) * self._pbc
            apart = apart - turns @ cells
        return np.linalg.norm(apart, axis=-1) / self._sums


def changes(trajectory: Trajectory) -> list[Change]:
    """The bonds that form and break in a trajectory after its first frame.

    Raises:
        ValueError: as `Watch`.
    """
    watch = Watch(trajectory.system, take(trajectory.frames, 0))
    return watch.see(trajectory.frames, trajectory.times)


def describe(found: list[Change], system: System) -> list[str]:
    """Changes in words, in the order of time; two of one atom within 200 fs are a transfer from one to another."""

    def name(atom: int) -> str:
        return f"{chemical_symbols[int(np.asarray(system.species)[atom])]}{atom}"

    lines: list[tuple[float, str]] = []
    rest = sorted(found, key=lambda change: change.time_fs)
    while rest:
        change = rest.pop(0)
        partners = [(one, moved) for one in rest if (moved := _moved(change, one)) is not None]
        if partners:
            other, moved = partners[0]
            rest.remove(other)
            old, new = (change, other) if change.kind == "broken" else (other, change)
            left, joined = (next(atom for atom in one.atoms if atom != moved) for one in (old, new))
            lines.append((other.time_fs, f"{name(moved)} from {name(left)} to {name(joined)}"))
        else:
            lines.append((change.time_fs, f"{'–'.join(name(atom) for atom in change.atoms)} {change.kind}"))
    return [f"{time_fs / units.PS:.4g} ps: {words}" for time_fs, words in sorted(lines)]


def _moved(change: Change, other: Change) -> int | None:
    """The atom that lost one partner and found another, if the two changes are that."""
    shared = set(change.atoms) & set(other.atoms)
    near = other.time_fs - change.time_fs <= _TRANSFER_FS
    return shared.pop() if near and len(shared) == 1 and change.kind != other.kind else None


def from_metadata(metadata: dict[str, Any]) -> list[Change] | None:
    """What a run with ``watch_bonds`` noted; None: it was not watched."""
    noted = metadata.get("bond_changes")
    if noted is None:
        return None
    return [Change(float(one["time_fs"]), tuple(one["atoms"]), one["kind"]) for one in noted]
