"""Trajectories that MDAnalysis reads (.trr, .nc, .dcd, .xtc, …) with a topology that names the elements.

MDAnalysis (doi:10.25080/Majora-629e541a-00e) gives Å, ps and Å/ps.  It is an optional extra.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ffmd_jax.core import units
from ffmd_jax.core.state import State, System, make_cell, make_system
from ffmd_jax.formats import Hints, common

_ENDINGS = {".trr", ".xtc", ".dcd", ".nc", ".ncdf", ".tng", ".gro", ".coor", ".inpcrd", ".mdcrd", ".trz"}


def recognises(path: Path, hints: Hints) -> bool:
    """True if a topology is given, or for endings that need one."""
    return hints.topology is not None or path.suffix.lower() in _ENDINGS


def read(path: Path, hints: Hints) -> common.Content:
    """All that the file holds; velocities are zeros if they are absent and the hints do not want them.

    Raises:
        ValueError: no topology, no elements, no velocities, no times, a changing cell.
        ImportError: MDAnalysis is not installed.
    """
    if hints.topology is None:
        raise ValueError(f"{path.suffix} files do not name the elements; give a file that does with --topology")
    if not hints.topology.is_file():
        raise ValueError(f"the topology {hints.topology} does not exist")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        universe = _universe(path, hints.topology)
        try:
            _check_complete(path, universe.trajectory)
            frames = [_frame(step, i, hints) for i, step in enumerate(universe.trajectory)]
        finally:
            universe.trajectory.close()
    if not frames:
        raise ValueError("the file holds no frames")
    positions, velocities, times, cells = (np.array(values) for values in zip(*frames, strict=True))
    if any("dt information" in str(warning.message) for warning in caught):  # MDAnalysis then assumes 1 ps
        if hints.frame_interval_fs is None:
            raise ValueError("the file has no times; give the interval of its frames with --frame-interval-fs")
        times = hints.frame_interval_fs * np.arange(len(times))
    common.check_cells(cells)
    system = _system(universe, bool(np.any(cells[0])), hints)
    cells = np.broadcast_to(make_cell(cells[0], system.pbc), cells.shape)
    frames = State(common.unwrap(system, positions, cells), velocities, cells)
    return common.Content(system, frames, times, {}, {"source": path.name, "topology": hints.topology.name})


def _universe(path: Path, topology: Path) -> Any:
    try:
        import MDAnalysis
    except ImportError:
        raise ImportError(
            f"{path} needs MDAnalysis to be read: pip install 'ffmd-jax[mdanalysis]', or convert it to H5MD or extxyz"
        ) from None
    try:
        return MDAnalysis.Universe(str(topology), str(path), to_guess=())
    except Exception as error:  # its readers raise anything
        raise ValueError(
            f"MDAnalysis cannot read it with the topology {topology.name} (damaged, truncated, of other atoms or "
            f"another format): {common.first_line(error)}"
        ) from error


def _check_complete(path: Path, reader: Any) -> None:
    """Raises ValueError if a .trr ends inside a frame, which MDAnalysis leaves out in silence."""
    offsets = getattr(getattr(reader, "_xdr", None), "offsets", None)
    if path.suffix.lower() == ".trr" and offsets is not None and len(offsets) > 1:
        rest = path.stat().st_size - offsets[-1]
        if rest not in np.diff(offsets):  # the last frame is as long as another one
            raise ValueError(f"the file is truncated: {rest} bytes after the start of frame {len(offsets) - 1}")


def _frame(step: Any, i: int, hints: Hints) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Positions, Å, velocities, Å/fs, time, fs, and cell, Å (zeros for an open system), of a frame."""
    positions = step.positions.astype(np.float64)
    if step.has_velocities:
        velocities = step.velocities.astype(np.float64) / units.PS
    elif hints.velocities == "stored":
        raise ValueError(common.NO_VELOCITIES if i == 0 else f"frame {i} has no velocities, those before it have")
    else:
        velocities = np.zeros_like(positions)
    cell = np.zeros((3, 3)) if step.dimensions is None else step.triclinic_dimensions.astype(np.float64)
    return positions, velocities, float(step.time) * units.PS, cell


def _system(universe: Any, periodic: bool, hints: Hints) -> System:
    """The atoms of the topology; elements are read, or given for numbered types, never guessed from names."""
    atoms = universe.atoms
    symbols = [str(symbol).strip().capitalize() for symbol in getattr(atoms, "elements", [])]
    types = [str(kind) for kind in getattr(atoms, "types", [])]
    if symbols and all(symbols):
        species = common.atomic_numbers(symbols)
    elif types and all(kind.isdecimal() for kind in types):
        species = common.elements_of_types(np.array(types, dtype=int), hints.elements)
    else:
        raise ValueError("the topology names no elements; give one that does, e.g. .tpr, or .pdb with columns 77–78")
    masses = np.asarray(getattr(atoms, "masses", common.standard_masses(species)), dtype=np.float64)
    system = make_system(species, masses, periodic)
    common.check_elements(system)
    return system
