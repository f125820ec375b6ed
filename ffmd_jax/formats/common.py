"""What the formats share: what is read, the errors of reading, and checks of elements, cells and times."""

import contextlib
import gzip
import lzma
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ffmd_jax.core import display, units
from ffmd_jax.core.state import State, System

NO_VELOCITIES = (
    "no velocities found; give momenta (ASE), a per-atom column 'velocities' in Å/fs, H5MD velocities or vx vy vz "
    "(LAMMPS); a rollout can draw them at a `temperature`, other commands estimate them from the positions "
    "(`velocities` central-difference)"
)
ISOTOPES = {"D": ("H", 2.01410178), "T": ("H", 3.01604928)}  # symbol: element, u
NO_CELL = "no cell was found: the atoms are taken as an isolated cluster, without a boundary"
ALL = "all"  # the particle group of a file with one run
CHANGED_CELL = "a changing cell (NPT) is not supported here, first change at frame {}"
CHANGED_ATOMS = "frame {} holds other atoms, or in another order, than frame 0"


class NoTimes(ValueError):
    """A file without times, and no interval of frames was given."""


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

    def __repr__(self) -> str:
        return display.line(f"Trajectory {formula(self.system)}", self._rows())

    def _repr_html_(self) -> str:
        return display.table(f"Trajectory {formula(self.system)}", self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        cell = np.asarray(self.frames.cell)[0] if len(self.times) else np.zeros((3, 3))
        known = [*self.observables, *(["forces"] if self.forces is not None else [])]
        return [
            ("frames", f"{len(self.times):,}{describe_times(self.times)}"),
            ("cell", describe_cell(self.system, cell)),
            ("observables", ", ".join(known) or "none"),
        ]


class Summary(NamedTuple):
    """What a file holds, without its frames.

    Attributes:
        system: what does not change.
        cell: Å, of the first frame, ``[3, 3]``.
        times: fs, of all frames ``[n_frames]``.
        observables: names of the per-frame scalars, sorted.
        forces: True if the file holds forces.
        metadata: JSON-able.
    """

    system: System
    cell: np.ndarray
    times: np.ndarray
    observables: list[str]
    forces: bool
    metadata: dict[str, Any]


@contextlib.contextmanager
def errors_name(path: Path):
    """Turns what goes wrong inside into a ValueError of one line that names the file."""
    if not split_replica(path)[0].is_file():
        raise FileNotFoundError(f"{path} does not exist or is not a file")
    try:
        yield
    except ValueError as error:
        kind = NoTimes if isinstance(error, NoTimes) else ValueError  # others take more than a text
        raise kind(f"{path}: {first_line(error)}") from error
    except KeyError as error:
        raise ValueError(f"{path} is not an H5MD trajectory: {first_line(error)} is missing") from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: the compressed file is truncated or damaged: {first_line(error)}") from error
    except (OSError, RuntimeError) as error:
        reason = "truncated, damaged, being written, or another format"
        raise ValueError(f"{path} is not a readable HDF5 file ({reason}): {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    text = str(error.args[0] if error.args else "").strip()
    return text.splitlines()[0] if text else type(error).__name__


def frame_interval(times: np.ndarray, first_frame: int = 0) -> float:
    """The constant interval, fs, of times ``[n_frames]``, fs; messages count frames from ``first_frame``.

    Gaps may differ by 1e-6 of the interval, and by float32 rounding if all times are float32 numbers of fs, ps or ns.

    Raises:
        ValueError: fewer than two frames; times that do not increase, or a gap that differs from the others.
    """
    times = np.asarray(times, dtype=np.float64)
    if len(times) < 2:
        raise ValueError("a frame interval needs at least two frames")
    if not np.isfinite(times).all():
        raise ValueError(f"the time of frame {first_frame + int(np.argmin(np.isfinite(times)))} is not a number")
    gaps = np.diff(times)
    interval, rounding = float(np.median(gaps)), _rounding(times)
    # The cap keeps large float32 times, whose spacing may exceed the interval, from hiding a lost frame.
    tolerance = 1e-6 * abs(interval) + min(rounding, 0.1 * abs(interval))
    for wrong, what in (
        (~(gaps > 0), "times must increase"),
        (~(abs(gaps - interval) <= tolerance), "gaps differ"),
    ):
        if wrong.any():
            i = int(np.argmax(wrong))
            raise ValueError(
                f"{what}: frame {first_frame + i + 1} at {times[i + 1]:.10g} fs comes {gaps[i]:.6g} fs after "
                f"the frame before it, others {interval:.6g} fs"
            )
    mean = float(times[-1] - times[0]) / (len(times) - 1)
    return _shortest_decimal(mean, min(rounding, 0.1 * mean) / (len(times) - 1))


def regular(times: np.ndarray, stated_fs: float | None = None) -> np.ndarray:
    """Times, fs ``[n_frames]``, without the rounding of their file; raises ValueError as `frame_interval`.

    Times that are rounded to more than the interval (32-bit numbers, late in a run) need the interval.
    """
    if len(times) < 2:
        return times
    if stated_fs is not None and np.isfinite(times).all():
        expected = times[0] + stated_fs * np.arange(len(times))
        if np.all(abs(times - expected) <= _rounding(times)):
            return expected
    try:
        return times[0] + frame_interval(times) * np.arange(len(times))
    except ValueError as error:
        if stated_fs is None and np.isfinite(times).all() and _rounding(times) > 0.2 * np.median(abs(np.diff(times))):
            raise ValueError(f"{error}; such late times are rounded: give `frame_interval_fs`") from None
        raise


def _rounding(times: np.ndarray) -> float:
    """What two times, fs, may be off by together: of float64, or of the float32 numbers in fs, ps or ns that they are.

    GROMACS, Amber and many H5MD files hold times in ps as float32.
    """
    largest = float(np.abs(times).max())
    for unit in (1.0, units.PS, 1000 * units.PS):
        short = (times / unit).astype(np.float32)
        if np.allclose(short.astype(np.float64) * unit, times, rtol=1e-14, atol=0):
            return 2 * unit * float(np.spacing(np.float32(largest / unit)))
    return 2 * float(np.spacing(largest))


def _shortest_decimal(value: float, uncertainty: float) -> float:
    """The number with the fewest decimals that the uncertainty allows."""
    for digits in range(7):
        if abs(round(value, digits) - value) <= uncertainty + 1e-12 * abs(value):
            return round(value, digits)
    return value


def atomic_numbers(symbols: list[str]) -> np.ndarray:
    """Atomic numbers, int ``[n]``, of element symbols; D and T are hydrogen.

    Raises:
        ValueError: a symbol that is no element.
    """
    from ase.data import atomic_numbers as table

    symbols = [ISOTOPES[symbol][0] if symbol in ISOTOPES else symbol for symbol in symbols]
    unknown = sorted({symbol for symbol in symbols if table.get(symbol, 0) < 1})
    if unknown:
        raise ValueError(
            f"{', '.join(map(repr, unknown))}: no element symbols; give files that name elements, or LAMMPS types "
            f"that are numbers, with `elements`"
        )
    return np.array([table[symbol] for symbol in symbols], dtype=np.int32)


def formula(system: System) -> str:
    """Chemical formula in the order of Hill, such as C3H6O."""
    from ase.symbols import Symbols

    return Symbols(np.asarray(system.species)).get_chemical_formula()


def describe_times(times: np.ndarray) -> str:
    """The end of a phrase about frames: their interval and length, where these are known."""
    if len(times) < 2 or not np.isfinite(times).all():
        return ""
    gaps = np.diff(times)
    every = f" every {gaps[0]:.6g} fs" if np.ptp(gaps) <= 1e-3 * abs(gaps[0]) else ""
    return f"{every}, {(times[-1] - times[0]) / units.PS:.4g} ps"


def describe_cell(system: System, cell: np.ndarray) -> str:
    """Lengths and angles of a cell ``[3, 3]``, Å, with the periodic directions where these are not all."""
    if not any(system.pbc):
        return "none (isolated)"
    from ase.geometry import cell_to_cellpar

    lengths, angles = np.split(cell_to_cellpar(cell), 2)
    text = " × ".join(f"{length:.4g}" for length in lengths) + " Å"
    if np.abs(angles - 90).max() > 0.01:
        text += ", angles " + " ".join(f"{angle:.4g}°" for angle in angles)
    directions = "".join(name for name, periodic in zip("xyz", system.pbc, strict=True) if periodic)
    return text if all(system.pbc) else f"{text}, periodic along {directions}"


def masses_of(symbols: list[str]) -> np.ndarray:
    """Standard atomic masses, u ``[n]``, of element symbols; of D and T those of the isotopes."""
    masses = standard_masses(atomic_numbers(symbols))
    return np.array([ISOTOPES[s][1] if s in ISOTOPES else mass for s, mass in zip(symbols, masses, strict=True)])


def symbols_of_types(types: np.ndarray, elements: tuple[str, ...]) -> list[str]:
    """Element symbols of atom types ``[n_atoms]`` counted from 1.

    Raises:
        ValueError: no elements given, or fewer than types.
    """
    if not elements:
        raise ValueError(f"atoms have types 1…{types.max()} but no elements; give them in this order with `elements`")
    if types.min() < 1 or types.max() > len(elements):
        raise ValueError(f"`elements` names {len(elements)} elements, but atom types reach {types.max()}")
    return [elements[kind - 1] for kind in types]


def order_by_id(ids: np.ndarray, n_atoms: int) -> np.ndarray:
    """Indices that sort the atoms of a frame by their ids ``[n_atoms]``.

    Raises:
        ValueError: an id for two atoms, or ids of another shape.
    """
    ids = np.asarray(ids)
    if ids.shape != (n_atoms,):
        raise ValueError(f"ids are {ids.shape} for {n_atoms} atoms")
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(twice):
        raise ValueError(f"two atoms have the id {ids[order][twice[0]]}")
    return order


def standard_masses(species: np.ndarray) -> np.ndarray:
    """Standard atomic masses, u, of atomic numbers."""
    from ase.data import atomic_masses

    return atomic_masses[species]


def check_masses(system: System) -> None:
    """Raises ValueError for masses that no isotope or repartitioning explains: another unit, or other elements."""
    expected = standard_masses(np.asarray(system.species))
    wrong = (system.masses > 3 * expected + 3.1) | (system.masses < expected / 3)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"atom {i} has the mass {system.masses[i]:.6g} u, its element {expected[i]:.4g} u: masses in another unit, "
            f"or elements of other atoms"
        )


def check_elements(system: System) -> None:
    """Raises ValueError if masses contradict the atomic numbers: other programs count species freely."""
    expected = standard_masses(np.asarray(system.species))
    wrong = abs(system.masses - expected) > 0.3 * expected + 3.1  # isotopes and repartitioned hydrogen pass
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"species are no atomic numbers: atom {i} is {system.species[i]} with mass {system.masses[i]:g} u"
        )


def check_cells(cells: np.ndarray) -> None:
    """Raises ValueError unless all cells, Å ``[n_frames, 3, 3]``, are the first."""
    cells = np.asarray(cells)
    changed = abs(cells - cells[0]).reshape(len(cells), -1).max(axis=1) > 1e-6 * (1 + abs(cells[0]).max())
    if changed.any():
        raise ValueError(CHANGED_CELL.format(np.argmax(changed)))


def group_of(replica: int) -> str:
    """The particle group of a replica."""
    return f"replica_{replica}"


def split_replica(path: Path) -> tuple[Path, int | None]:
    """File and replica of ``run.h5:2``; None without that suffix."""
    name, colon, number = str(path).rpartition(":")
    if colon and number.isdigit() and not path.exists() and Path(name).is_file():
        return Path(name), int(number)
    return path, None


def near_images(system: System, positions: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``[..., n_atoms, 3]``, Å, and lattice vectors taken off, ``[..., n_atoms, 3]``, of what is far away.

    Cells, Å, are ``[..., 3, 3]``.

    Only beyond 100 Å, where float32 gets coarse, and beyond the next cell: most trajectories keep their positions.
    """
    fractional = positions @ np.linalg.inv(cells)
    far = np.any(abs(positions) > 100, axis=-1, keepdims=True)
    away = far & np.asarray(system.pbc) & ((fractional < -1) | (fractional > 2))
    images = np.where(away, np.floor(fractional), 0).astype(np.int32)
    return (positions - images @ cells if away.any() else positions), images


def unwrap(system: System, positions: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Continuous positions ``[n_frames, n_atoms, 3]``, Å, by the minimum image between consecutive frames.

    Cells, Å, are ``[n_frames, 3, 3]``.

    Assumes that no atom moves half of a periodic cell vector in one interval.
    """
    moves = np.diff(positions @ np.linalg.inv(cells), axis=0)
    crossings = np.cumsum(np.round(moves) * system.pbc, axis=0)
    return np.concatenate([positions[:1], positions[1:] - crossings @ cells[1:]])
