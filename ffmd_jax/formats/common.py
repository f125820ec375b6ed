"""What the formats share: what is read, the errors of reading, and checks of elements, cells and times."""

import contextlib
import gzip
import lzma
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ffmd_jax.core.state import State, System

NO_VELOCITIES = (
    "no velocities found; give momenta (ASE), a per-atom column 'velocities' in Å/fs, H5MD velocities or vx vy vz "
    "(LAMMPS); `ffmd rollout` can draw them (--temperature K), `ffmd dataset` estimate them from the positions "
    "(--velocities central-difference)"
)
ALL = "all"  # the particle group of a file with one run
CHANGED_CELL = "a changing cell (NPT) is not supported, first change at frame {}"
CHANGED_ATOMS = "frame {} holds other atoms, or in another order, than frame 0"


class Content(NamedTuple):
    """All that a file holds.

    Attributes:
        system: what does not change.
        frames: unwrapped Å and Å/fs, and cells, Å, ``[n_frames, …]``.
        times: fs, ``[n_frames]``.
        observables: per-frame scalars ``[n_frames]``.
        metadata: JSON-able.
        forces: eV/Å, ``[n_frames, n_atoms, 3]``; None where they are not known.
    """

    system: System
    frames: State
    times: np.ndarray
    observables: dict[str, np.ndarray]
    metadata: dict[str, Any]
    forces: np.ndarray | None = None


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
        raise ValueError(f"{path}: {first_line(error)}") from error
    except KeyError as error:
        raise ValueError(f"{path} is not an H5MD trajectory: {first_line(error)}") from error
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

    Gaps may differ by 1e-6 of the interval, and by float32 rounding if all times are float32 numbers.

    Raises:
        ValueError: fewer than two frames; times that do not increase, or a gap that differs from the others.
    """
    if len(times) < 2:
        raise ValueError("a frame interval needs at least two frames")
    gaps = np.diff(times)
    interval = float(np.median(gaps))
    largest = np.abs(times).max()
    exact32 = np.array_equal(times, times.astype(np.float32))
    rounding = 2 * float(np.spacing(np.float32(largest) if exact32 else largest))
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
    return float(times[-1] - times[0]) / (len(times) - 1)


def atomic_numbers(symbols: list[str]) -> np.ndarray:
    """Atomic numbers, int ``[n]``, of element symbols.

    Raises:
        ValueError: a symbol that is no element.
    """
    from ase.data import atomic_numbers as table

    unknown = sorted({symbol for symbol in symbols if table.get(symbol, 0) < 1})
    if unknown:
        raise ValueError(f"{', '.join(map(repr, unknown))}: no element symbols")
    return np.array([table[symbol] for symbol in symbols], dtype=np.int32)


def elements_of_types(types: np.ndarray, elements: tuple[str, ...]) -> np.ndarray:
    """Atomic numbers of atom types ``[n_atoms]`` counted from 1.

    Raises:
        ValueError: no elements given, or fewer than types.
    """
    if not elements:
        raise ValueError(f"atoms have types 1…{types.max()} but no elements; give them in this order with --elements")
    if types.min() < 1 or types.max() > len(elements):
        raise ValueError(f"--elements names {len(elements)} elements, but atom types reach {types.max()}")
    return atomic_numbers(list(elements))[types - 1]


def standard_masses(species: np.ndarray) -> np.ndarray:
    """Standard atomic masses, u, of atomic numbers."""
    from ase.data import atomic_masses

    return atomic_masses[species]


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
