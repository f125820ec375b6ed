"""Trajectories that MDAnalysis reads (.trr, .nc, .dcd, .xtc, …) with a topology that names the elements.

MDAnalysis (doi:10.25080/Majora-629e541a-00e) gives Å, ps and Å/ps.  It is an optional extra.
"""

import contextlib
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ffmd_jax.core import units
from ffmd_jax.core.state import State, System, make_cell, make_system
from ffmd_jax.formats import Hints, common, note

_ENDINGS = {".trr", ".xtc", ".dcd", ".nc", ".ncdf", ".tng", ".gro", ".coor", ".inpcrd", ".mdcrd", ".trz"}


def recognises(path: Path, hints: Hints) -> bool:
    """True if a topology is given, or for endings that need one."""
    return hints.topology is not None or path.suffix.lower() in _ENDINGS


def read(path: Path, hints: Hints) -> common.Trajectory:
    """All that the file holds; velocities are zeros if they are absent and the hints do not want them.

    Raises:
        ValueError: no topology, no elements, no velocities, no times, a changing cell.
        ImportError: MDAnalysis is not installed.
    """
    topology = path if hints.topology is None and path.suffix.lower() == ".gro" else hints.topology
    if topology is None:
        raise ValueError(f"{path.suffix} files do not name the elements; give a file that does with `topology`")
    if not topology.is_file():
        raise ValueError(f"the topology {topology} does not exist")
    with warnings.catch_warnings(record=True) as caught, contextlib.ExitStack() as stack:
        warnings.simplefilter("always")
        universe = _universe(path, topology, stack)
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
            raise common.NoTimes("the file has no times; give the interval of its frames with `frame_interval_fs`")
        times = hints.frame_interval_fs * np.arange(len(times))
    common.check_cells(cells)
    system = _system(universe, bool(np.any(cells[0])), hints)
    cells = np.broadcast_to(make_cell(cells[0], system.pbc), cells.shape)
    frames = State(common.unwrap(system, positions, cells), velocities, cells)
    return common.Trajectory(system, frames, times, {}, {"source": path.name, "topology": topology.name})


def _universe(path: Path, topology: Path, stack: contextlib.ExitStack) -> Any:
    try:
        import MDAnalysis
    except ImportError:
        raise ImportError(
            f"{path} needs MDAnalysis to be read: pip install 'ffmd-jax[mdanalysis]', or convert it to H5MD or extxyz"
        ) from None
    # A link elsewhere: its readers keep files beside what they read.
    linked = Path(stack.enter_context(tempfile.TemporaryDirectory())) / path.name
    linked.symlink_to(path.resolve())
    try:
        return MDAnalysis.Universe(str(topology), str(linked), to_guess=())
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
    """The atoms of the topology; elements are read, or given for types or names, in doubt never guessed."""
    atoms = universe.atoms
    symbols = [str(symbol).strip().capitalize() for symbol in getattr(atoms, "elements", [])]
    types = [str(kind) for kind in getattr(atoms, "types", [])]
    if not (symbols and all(symbols)):
        if types and all(kind.isdecimal() for kind in types):
            symbols = common.symbols_of_types(np.array(types, dtype=int), hints.elements)
        else:
            symbols = _symbols_of_names([str(name) for name in getattr(atoms, "names", [])], hints)
    masses = np.asarray(getattr(atoms, "masses", common.masses_of(symbols)), dtype=np.float64)
    system = make_system(common.atomic_numbers(symbols), masses, periodic)
    common.check_elements(system)
    return system


def _symbols_of_names(names: list[str], hints: Hints) -> list[str]:
    """Elements of atom names, as .gro files have them: given, or the names themselves, with or without a number."""
    from ase.data import atomic_numbers

    kinds = list(dict.fromkeys(names))
    if hints.elements:
        if len(hints.elements) != len(kinds):
            raise ValueError(
                f"`elements` names {len(hints.elements)} elements for the {len(kinds)} atom names {' '.join(kinds)}"
            )
        return [dict(zip(kinds, hints.elements, strict=True))[name] for name in names]
    symbols = [name.rstrip("0123456789") for name in names]
    if not names or any(symbol not in atomic_numbers and symbol not in common.ISOTOPES for symbol in symbols):
        few = " ".join(kinds[:12]) + (" …" if len(kinds) > 12 else "")
        raise ValueError(
            f"the topology names no elements, only atoms: {few}; give their elements in this order with `elements`, or "
            f"a topology that has them (.tpr, .pdb with columns 77–78)"
        )
    note(f"the topology names no elements: atom names are taken for them ({' '.join(dict.fromkeys(symbols))})")
    return symbols
