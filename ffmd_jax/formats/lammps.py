"""LAMMPS custom dumps in text form (https://docs.lammps.org/dump.html), columns id type x y z vx vy vz or alike."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ffmd_jax.core import units
from ffmd_jax.core.state import State, System, make_cell, make_system
from ffmd_jax.formats import Hints, common

_VELOCITY = {"real": units.LAMMPS_REAL_VELOCITY, "metal": units.LAMMPS_METAL_VELOCITY}  # Å/fs
_FORCE = {"real": units.KCAL_PER_MOL_IN_EV, "metal": 1.0}  # eV/Å
_FORCE_COLUMNS = ("fx", "fy", "fz")
_TIME = {"real": 1.0, "metal": units.PS}  # fs
# Columns of positions: scaled by the cell or in Å, wrapped or not.
_IMAGES, _WORDS = ("ix", "iy", "iz"), ("element", "type")
_POSITIONS = {"xu": (False, False), "xsu": (True, False), "x": (False, True), "xs": (True, True)}


_NUMBERS = {"id", "mass", *_IMAGES, "vx", "vy", "vz", *_FORCE_COLUMNS}
_NUMBERS |= {axis + x[1:] for x in _POSITIONS for axis in "xyz"}


class _Frame(NamedTuple):
    """One snapshot as the file has it.

    Attributes:
        header: lines under each item but ATOMS, e.g. ``TIMESTEP``.
        cell: rows, Å ``[3, 3]``.
        origin: Å ``[3]``.
        pbc: bool ``[3]``.
        columns: values ``[n_atoms]`` by name, sorted by id; float64, elements as strings.
    """

    header: dict[str, list[str]]
    cell: np.ndarray
    origin: np.ndarray
    pbc: np.ndarray
    columns: dict[str, np.ndarray]


def recognises(path: Path) -> bool:
    """True for text, compressed or not, that begins as a LAMMPS dump does."""
    with open_text(path) as file:
        try:
            return file.read(9).removeprefix(b"\xef\xbb\xbf").startswith(b"ITEM: ")
        except Exception:  # a damaged or another compressed file: the other readers say so
            return False


def read(path: Path, hints: Hints) -> common.Trajectory:
    """All that the dump holds; atoms sorted by id.

    Raises:
        ValueError: no units or time step given, no elements, an incomplete frame, missing columns, other atoms or
            another cell in some frame.
    """
    with open_text(path) as file:
        frames = list(_frames(line.decode("utf-8-sig") for line in file if line.strip()))
    if not frames:
        raise ValueError("the file holds no frames")
    units_name = _units(frames[0], hints)
    times = np.array([_time(frame, units_name, hints) for frame in frames])
    (system, cells), positions = _system(frames, hints), np.array([_positions(frame) for frame in frames])
    if _position_columns(frames[0])[1] and not _has_images(frames[0]):
        positions = common.unwrap(system, positions, cells)
    velocities = np.array([_velocities(frame, hints) for frame in frames]) * _VELOCITY[units_name]
    forces = None
    if all(name in frame.columns for frame in frames for name in _FORCE_COLUMNS):
        forces = np.array([np.stack([frame.columns[name] for name in _FORCE_COLUMNS], axis=1) for frame in frames])
        forces = forces * _FORCE[units_name]
    frames_of_all = State(positions, velocities, cells)
    return common.Trajectory(system, frames_of_all, times, {}, {"source": path.name}, forces)


def open_text(path: Path) -> Any:
    """The file as bytes, decompressed if it ends with .gz, .bz2 or .xz."""
    from ase.io.formats import open_with_compression

    return open_with_compression(str(path), "rb")


def _frames(lines: Iterator[str]) -> Iterator[_Frame]:
    """The snapshots, one after the other."""
    header: dict[str, list[str]] = {}
    item, n_frames = "", 0
    for line in lines:
        if not line.startswith("ITEM: "):
            header.setdefault(item, []).append(line.strip())
            continue
        item = line[6:].strip()
        if not item.startswith("ATOMS"):
            header[item] = []
            continue
        try:
            yield _frame(header, item.split()[1:], lines)
        except ValueError as error:
            raise ValueError(f"frame {n_frames}: {error}") from None
        header = {name: header[name] for name in ("UNITS",) if name in header}  # only the first frame states them
        n_frames += 1
    if header.keys() - {"UNITS"}:
        raise ValueError(f"the file is truncated in the header of frame {n_frames}")


def _frame(header: dict[str, list[str]], names: list[str], lines: Iterator[str]) -> _Frame:
    """Reads the atoms of a snapshot whose header is known."""
    if "NUMBER OF ATOMS" not in header or "TIMESTEP" not in header:
        raise ValueError("TIMESTEP or NUMBER OF ATOMS is missing")
    n_atoms = int(header["NUMBER OF ATOMS"][0])
    rows = [line.split() for line in itertools.islice(lines, n_atoms)]
    complete = [len(row) == len(names) for row in rows]
    if len(rows) < n_atoms or not all(complete):
        raise ValueError(f"the file is truncated or damaged: {sum(complete)} of {n_atoms} atoms are complete")
    if "id" not in names:
        raise ValueError("the column id is missing, so the order of atoms is unknown; dump id type x y z vx vy vz")
    columns = {}
    for i, name in enumerate(names):
        values = [row[i] for row in rows]
        if name in _WORDS:
            columns[name] = np.array(values)
            continue
        try:
            columns[name] = np.array(values, dtype=np.float64)
        except ValueError as error:  # of no use here, unless it is one of those that are read
            if name in _NUMBERS:
                raise ValueError(f"{error} (column {name})") from None
    order = common.order_by_id(columns["id"], n_atoms)
    columns = {name: values[order] for name, values in columns.items()}
    return _Frame(header, *_box(header), columns)


def _box(header: dict[str, list[str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cell, origin and pbc; triclinic bounds enclose the tilted box (https://docs.lammps.org/Howto_triclinic.html)."""
    name = next((item for item in header if item.startswith("BOX BOUNDS")), None)
    if name is None:
        raise ValueError("BOX BOUNDS are missing")
    words = name.split()[2:]
    if "abc" in words:
        raise ValueError("general triclinic boxes are not supported; dump with 'dump_modify triclinic/general no'")
    bounds = np.array([row.split() for row in header[name]], dtype=np.float64)
    if bounds.shape not in ((3, 2), (3, 3)):
        raise ValueError(f"BOX BOUNDS are {bounds.shape}, not three rows of two or three numbers")
    xy, xz, yz = bounds[:, 2] if bounds.shape == (3, 3) else (0.0, 0.0, 0.0)
    low = bounds[:, 0] - [min(0, xy, xz, xy + xz), min(0, yz), 0]
    high = bounds[:, 1] - [max(0, xy, xz, xy + xz), max(0, yz), 0]
    lengths = high - low
    cell = np.array([[lengths[0], 0, 0], [xy, lengths[1], 0], [xz, yz, lengths[2]]])
    flags = [word for word in words if len(word) == 2 and set(word) <= set("pfsm")]
    if len(flags) != 3:
        raise ValueError("BOX BOUNDS do not say which directions are periodic (pp pp pp)")
    return cell, low, np.array([flag == "pp" for flag in flags])


def _units(first: _Frame, hints: Hints) -> str:
    stated = first.header.get("UNITS", [None])[0]
    if stated and hints.lammps_units and stated != hints.lammps_units:
        raise ValueError(f"the dump states units {stated}, `lammps_units` says {hints.lammps_units}")
    name = stated or hints.lammps_units
    if name is None:
        raise ValueError("a LAMMPS dump does not state its units; give `lammps_units` real or metal")
    if name not in _VELOCITY:
        raise ValueError(f"LAMMPS units '{name}' are not supported, only real and metal")
    return name


def _time(frame: _Frame, units_name: str, hints: Hints) -> float:
    """Time of a frame, fs: stated, or time step number times the given time step."""
    if "TIME" in frame.header:
        return float(frame.header["TIME"][0]) * _TIME[units_name]
    if hints.lammps_timestep_fs is None:
        raise common.NoTimes(
            "a LAMMPS dump counts time steps but does not state their length; give `lammps_timestep_fs` "
            "(1 in units real is 1 fs, 0.001 in units metal is 1 fs)"
        )
    return float(frame.header["TIMESTEP"][0]) * hints.lammps_timestep_fs


def _system(frames: list[_Frame], hints: Hints) -> tuple[System, np.ndarray]:
    """The system of all frames, and their cells, Å ``[n_frames, 3, 3]``; raises ValueError if they change."""
    first = frames[0]
    for i, frame in enumerate(frames):
        for name in ("id", "type", "element"):
            if not np.array_equal(frame.columns.get(name, 0), first.columns.get(name, 0)):
                raise ValueError(common.CHANGED_ATOMS.format(i))
        if any(frame.pbc != first.pbc):
            raise ValueError(common.CHANGED_CELL.format(i))
    # Open directions may be shrink-wrapped: their edges have no meaning.
    cells = np.array([frame.cell * first.pbc[:, None] for frame in frames])
    common.check_cells(cells)
    symbols = _symbols(first, hints)
    masses = first.columns.get("mass", common.masses_of(symbols))
    cell = make_cell(cells[0], first.pbc)
    system = make_system(common.atomic_numbers(symbols), masses, first.pbc)
    common.check_masses(system)
    return system, np.broadcast_to(cell, cells.shape)


def _symbols(first: _Frame, hints: Hints) -> list[str]:
    """Element symbols of the atoms, from the columns element or type; types may have labels (LAMMPS labelmap)."""
    if "element" in first.columns:
        return [str(symbol).capitalize() for symbol in first.columns["element"]]
    if "type" not in first.columns:
        raise ValueError("the columns type and element are missing; dump id type x y z vx vy vz")
    types = first.columns["type"]
    if all(kind.isdecimal() for kind in types):
        return common.symbols_of_types(types.astype(int), hints.elements)
    return types.tolist()


def _position_columns(frame: _Frame) -> tuple[bool, bool, list[str]]:
    """Whether positions are scaled, whether they are wrapped, and their three columns."""
    for x, (scaled, wrapped) in _POSITIONS.items():
        names = [axis + x[1:] for axis in "xyz"]
        if all(name in frame.columns for name in names):
            return scaled, wrapped, names
    raise ValueError("positions are missing; dump id type x y z (or xu yu zu, xs ys zs, xsu ysu zsu) vx vy vz")


def _positions(frame: _Frame) -> np.ndarray:
    """Å, ``[n_atoms, 3]``, with images applied where the dump has them."""
    scaled, wrapped, names = _position_columns(frame)
    positions = np.stack([frame.columns[name] for name in names], axis=1)
    if scaled:
        positions = frame.origin + positions @ frame.cell
    if wrapped and _has_images(frame):
        positions = positions + np.stack([frame.columns[name] for name in _IMAGES], axis=1) @ frame.cell
    return positions


def _has_images(frame: _Frame) -> bool:
    return all(name in frame.columns for name in _IMAGES)


def _velocities(frame: _Frame, hints: Hints) -> np.ndarray:
    names = ("vx", "vy", "vz")
    if all(name in frame.columns for name in names):
        return np.stack([frame.columns[name] for name in names], axis=1)
    if hints.velocities == "stored":
        raise ValueError(common.NO_VELOCITIES)
    return np.zeros((len(frame.columns["id"]), 3))
