"""Trajectories in memory and in files: H5MD is read and written, other formats are read.

Files of this package follow H5MD 1.1 (doi:10.1016/j.cpc.2014.01.018) in Å, fs and u, with unwrapped
positions, atomic numbers as species, the frame number as step, and one group of our own, ``ffmd_jax``, whose
attribute ``metadata`` is a JSON string.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ffmd_jax.core import mechanics
from ffmd_jax.core.state import State, System, check_forces, check_state, take
from ffmd_jax.formats import Hints, ase_files, common, consistency, constraints, h5md, lammps, mdanalysis
from ffmd_jax.formats.common import Trajectory, frame_interval
from ffmd_jax.formats.h5md_writer import Writer

__all__ = [
    "Hints",
    "Trajectory",
    "Writer",
    "central_differences",
    "checked",
    "frame_interval",
    "join",
    "read",
    "read_metadata",
    "read_start",
    "summary",
    "write",
]

_NO_HINTS = Hints()
_NO_INTERVAL = "frames of one file each without times; give their interval with `frame_interval_fs`"


def part(trajectory: Trajectory, chosen: Any) -> Trajectory:
    """The frames of a slice, or of an array of indices."""
    return trajectory._replace(
        frames=take(trajectory.frames, chosen),
        times=trajectory.times[chosen],
        observables={name: values[chosen] for name, values in trajectory.observables.items()},
        forces=None if trajectory.forces is None else trajectory.forces[chosen],
    )


def read(
    path, *, every: int = 1, hints: Hints = _NO_HINTS, check: bool = False, may_be_one_frame: bool = False
) -> Trajectory:
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
        check: refuse frames that do not belong together, as `checked` does.
        may_be_one_frame: of a file with a single frame, do not estimate velocities from it.

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
        if stated is not None and not stated > 0:
            raise ValueError(f"the interval between frames must be positive, not {stated:g} fs")
        content = content._replace(times=common.regular(content.times, stated))
        if len(content.times) > 1:
            interval = frame_interval(content.times) / skipped
            if stated is not None and not np.isclose(stated, interval, rtol=1e-4, atol=0):
                raise ValueError(f"the file's frame interval is {interval:g} fs, not {stated:g} fs")
        found = content._replace(system=constraints.find(content))
        if hints.velocities == "central-difference" and not (may_be_one_frame and len(found.times) == 1):
            consistency.check(found)  # their velocities would hide what is wrong with the positions
            found = central_differences(found)
        if check:
            consistency.check(found)
    return part(found, slice(None, None, every // skipped))


def checked(trajectory: Trajectory) -> Trajectory:
    """The trajectory with the constraints that its frames show; it may be checked again.

    Raises:
        ValueError: frames that do not belong together, see `consistency.check`.
    """
    consistency.check(trajectory)
    return trajectory._replace(system=constraints.find(trajectory))


def join(frames: Sequence[Trajectory], paths: Sequence[Any], hints: Hints = _NO_HINTS) -> Trajectory:
    """The trajectory whose frames are files of their own, in the order of their times.

    Files without times are in the order of the numbers in their names, ``hints.frame_interval_fs`` apart.

    Raises:
        ValueError: other atoms, another cell, or frames that do not belong together.
    """
    times = np.array([frame.times[0] for frame in frames])
    if len(set(times.tolist())) == 1:  # each file counts for itself
        if hints.frame_interval_fs is None:
            raise common.NoTimes(f"{paths[0]} and others: {_NO_INTERVAL}")
        order = sorted(range(len(frames)), key=lambda i: _numbers(paths[i]))
        times = hints.frame_interval_fs * np.argsort(order).astype(np.float64)
    order = np.argsort(times, kind="stable")
    first, ordered = frames[order[0]], [frames[i] for i in order]
    for path, frame in zip(np.array(paths, dtype=object)[order], ordered, strict=True):
        same = np.array_equal(frame.system.species, first.system.species) and frame.system.pbc == first.system.pbc
        if not (same and np.allclose(frame.system.masses, first.system.masses)):
            raise ValueError(f"{path} holds other atoms than {paths[order[0]]}")
    positions, velocities, cells = (
        np.concatenate([np.asarray(frame.frames[i]) for frame in ordered]) for i in range(3)
    )
    forces = [frame.forces for frame in ordered if frame.forces is not None]
    names = set.intersection(*(set(frame.observables) for frame in ordered))
    found = Trajectory(
        first.system,
        State(common.unwrap(first.system, positions, cells), velocities, cells),
        common.regular(times[order]),
        {name: np.concatenate([frame.observables[name] for frame in ordered]) for name in names},
        first.metadata,
        np.concatenate(forces) if len(forces) == len(ordered) else None,
    )
    found = found._replace(system=constraints.find(found))
    if hints.velocities != "central-difference":
        return found
    consistency.check(found)
    return central_differences(found)


def _numbers(path: Any) -> list[int]:
    """The numbers in a file's name, to sort by."""
    return [int(number) for number in re.findall(r"\d+", Path(path).name)]


def summary(path, hints: Hints = _NO_HINTS) -> common.Summary:
    """What a file holds; of H5MD without reading its frames, of other files also without velocities.

    Raises:
        ValueError: as `read`.
    """
    path = Path(path)
    if h5md.recognises(path):
        with common.errors_name(path):
            return h5md.summary(path, hints)
    with common.errors_name(path):
        reader, without = _reader(path, hints), dataclasses.replace(hints, velocities="central-difference")
        try:
            found = reader(path, without)
        except common.NoTimes:
            found = reader(path, dataclasses.replace(without, frame_interval_fs=1.0, lammps_timestep_fs=1.0))
            found = found._replace(times=np.full(len(found.times), np.nan))
        check_state(found.system, found.frames)
        found = found._replace(system=constraints.find(found))
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
            if reader is h5md.read:
                system, frames = h5md.start(path, frame, need_velocities, hints)
            else:
                system, frames = ase_files.start(path, frame, need_velocities)
        else:
            wanted: Any = "stored" if need_velocities else "central-difference"
            timeless = {"frame_interval_fs": None, "lammps_timestep_fs": hints.lammps_timestep_fs or 1.0}
            try:
                content = reader(path, dataclasses.replace(hints, velocities=wanted, **timeless))
            except common.NoTimes:
                content = reader(path, dataclasses.replace(hints, velocities=wanted, frame_interval_fs=1.0))
            n_frames = len(content.times)
            if not -n_frames <= frame < n_frames:
                raise ValueError(f"frame {frame} does not exist, the file has {n_frames}")
            system, frames = content.system, take(content.frames, [frame])
        check_state(system, frames)
    return mechanics.on_a_line(system, np.asarray(frames.positions)), take(frames, 0)


def read_metadata(path) -> dict[str, Any]:
    """The metadata of a file of this package, of other files nothing.

    Raises:
        ValueError: as `read`.
    """
    path = Path(path)
    with common.errors_name(path):
        return h5md.metadata(path) if h5md.recognises(path) else {}


def _reader(path: Path, hints: Hints) -> Callable[[Path, Hints], Trajectory]:
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
