"""Trajectories in memory and in files: H5MD is read and written, other formats are read.

Files of this package follow H5MD 1.1 (doi:10.1016/j.cpc.2014.01.018) in Å, fs and u, with unwrapped
positions, atomic numbers as species, the frame number as step, and one group of our own, ``ffmd_jax``, whose
attribute ``metadata`` is a JSON string.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ffmd_jax.core.state import State, System, check_forces, check_state, take
from ffmd_jax.formats import Hints, ase_files, common, h5md, lammps, mdanalysis
from ffmd_jax.formats.h5md_writer import Writer

__all__ = [
    "Hints",
    "Trajectory",
    "Writer",
    "central_differences",
    "frame_interval",
    "read",
    "read_metadata",
    "read_start",
    "summary",
    "write",
]

_NO_HINTS = Hints()


class Trajectory(NamedTuple):
    """Frames of one system at a constant interval.

    Attributes:
        system: what does not change.
        frames: unwrapped Å and Å/fs, ``[n_frames, n_atoms, 3]``, and cells, Å, ``[n_frames, 3, 3]``; float64.
        times: fs, float64 ``[n_frames]``.
        observables: per-frame scalars ``[n_frames]``; names carry the unit, e.g. ``potential_energy_eV``.
        metadata: JSON-able facts, e.g. system, ensemble, temperature_K, model, time_step_fs, seed.
        forces: eV/Å, ``[n_frames, n_atoms, 3]``; None where they are not known.
    """

    system: System
    frames: State
    times: np.ndarray
    observables: dict[str, np.ndarray]
    metadata: dict[str, Any]
    forces: np.ndarray | None = None


def part(trajectory: Trajectory, chosen: Any) -> Trajectory:
    """The frames of a slice, or of an array of indices."""
    return trajectory._replace(
        frames=take(trajectory.frames, chosen),
        times=trajectory.times[chosen],
        observables={name: values[chosen] for name, values in trajectory.observables.items()},
        forces=None if trajectory.forces is None else trajectory.forces[chosen],
    )


def frame_interval(times) -> float:
    """The constant interval between frames, fs, from their times ``[n_frames]`` in fs.

    Gaps may differ by 1e-6 of the interval, and by float32 rounding if all times are float32 numbers.

    Raises:
        ValueError: fewer than two frames; times that do not increase, or a gap that differs from the others.
    """
    return common.frame_interval(np.asarray(times, dtype=np.float64))


def read(path, *, every: int = 1, hints: Hints = _NO_HINTS) -> Trajectory:
    """The trajectory in a file; every ``every``-th frame from the first.

    Read are H5MD, LAMMPS custom dumps, what ASE reads, and with ``hints.topology`` what MDAnalysis reads.  Wrapped
    positions are unwrapped by their image numbers, where the file has them, else by the minimum image between
    consecutive frames, assuming that atoms move less than half the cell per frame.  ASE files state times as
    ``info["time"]`` or ``info["time_fs"]`` in fs.  Central-difference velocities, if the hints ask for them, are noted
    in the metadata with their estimated relative error.

    Args:
        path: the file; ``run.h5:2`` is replica 2 of a file that holds several.
        every: stride in stored frames.
        hints: what the file leaves unstated.

    Raises:
        ValueError: one line that names the file: unreadable, without velocities, units or times, a changing
            cell or other atoms, an interval that changes, NaN.
        FileNotFoundError: no such file.
        ImportError: the file needs MDAnalysis, which is not installed.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")
    path = Path(path)
    with common.errors_name(path):
        reader, skipped = _reader(path, hints), 1
        if reader is h5md.read and hints.velocities == "stored":
            content, skipped = h5md.read(path, hints, every), every
        else:
            content = reader(path, hints)
        check_state(content.system, content.frames)
        check_forces(content.forces)
        stated = hints.frame_interval_fs
        if len(content.times) > 1:
            interval = frame_interval(content.times) / skipped
            if stated is not None and not np.isclose(stated, interval, rtol=1e-4, atol=0):
                raise ValueError(f"the file's frame interval is {interval:g} fs, not {stated:g} fs")
        found = Trajectory(*content)
        if hints.velocities == "central-difference":
            found = central_differences(found)
    return part(found, slice(None, None, every // skipped))


def summary(path) -> common.Summary:
    """What a file holds; of H5MD without reading its frames.

    Raises:
        ValueError: as `read`.
    """
    path = Path(path)
    if h5md.recognises(path):
        with common.errors_name(path):
            return h5md.summary(path)
    found = read(path)
    cell, forces = np.asarray(found.frames.cell)[0], found.forces is not None
    return common.Summary(found.system, cell, found.times, sorted(found.observables), forces, found.metadata)


def central_differences(trajectory: Trajectory) -> Trajectory:
    """The trajectory without its ends, with velocities v(t) = (r(t+δ) − r(t−δ)) / 2δ at the frame interval δ.

    A vibration ω comes out too slow by the relative error (ωδ)²/6.  Its RMS over the trajectory, estimated from the
    curvature of the velocities, δ²/6 · rms(v″)/rms(v), is put into the metadata as ``velocity_relative_error``; it is a
    lower bound once ωδ is near 1.

    Raises:
        ValueError: fewer than five frames.
    """
    if len(trajectory.times) < 5:
        raise ValueError("central differences need at least five frames")
    interval = frame_interval(trajectory.times)
    positions = np.asarray(trajectory.frames.positions)
    velocities = (positions[2:] - positions[:-2]) / (2 * interval)
    curvature = velocities[2:] - 2 * velocities[1:-1] + velocities[:-2]
    error = float(np.sqrt(np.mean(curvature**2) / max(np.mean(velocities**2), 1e-300))) / 6
    facts = {"velocities": f"central differences over ±{interval:g} fs", "velocity_relative_error": error}
    inner = part(trajectory, slice(1, -1))
    return inner._replace(frames=inner.frames._replace(velocities=velocities), metadata=trajectory.metadata | facts)


def read_start(
    path, *, frame: int = -1, need_velocities: bool = True, hints: Hints = _NO_HINTS
) -> tuple[System, State]:
    """System and the state ``[n_atoms, 3]``, Å and Å/fs, of one frame (the last) of any readable file.

    Raises:
        ValueError: as `read`; no velocities, unless ``need_velocities`` is False, which gives zeros.
    """
    path = Path(path)
    with common.errors_name(path):
        reader = _reader(path, hints)
        if reader in (h5md.read, ase_files.read):
            start = h5md.start if reader is h5md.read else ase_files.start
            system, frames = start(path, frame, need_velocities)
        else:
            wanted: Any = "stored" if need_velocities else "central-difference"
            content = reader(path, dataclasses.replace(hints, velocities=wanted))
            n_frames = len(content.times)
            if not -n_frames <= frame < n_frames:
                raise ValueError(f"frame {frame} does not exist, the file has {n_frames}")
            system, frames = content.system, take(content.frames, [frame])
        check_state(system, frames)
    return system, take(frames, 0)


def read_metadata(path) -> dict[str, Any]:
    """The metadata of a file of this package, of other files nothing.

    Raises:
        ValueError: as `read`.
    """
    path = Path(path)
    with common.errors_name(path):
        return h5md.metadata(path) if h5md.recognises(path) else {}


def _reader(path: Path, hints: Hints) -> Callable[[Path, Hints], common.Content]:
    """What reads the file."""
    if hints.topology is None and h5md.recognises(path):
        return h5md.read
    if lammps.recognises(path):
        return lammps.read
    return mdanalysis.read if mdanalysis.recognises(path, hints) else ase_files.read


def write(path, trajectory: Trajectory, *, overwrite: bool = False) -> None:
    """Writes a trajectory as H5MD: positions and velocities in float32, times and observables in float64."""
    with Writer(path, trajectory.system, trajectory.metadata, overwrite=overwrite) as writer:
        writer.append(trajectory.frames, trajectory.times, trajectory.observables, forces=trajectory.forces)
