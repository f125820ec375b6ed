"""What `trajectory.read` finds in files: H5MD by h5py and the formats of ASE, converted to Å, fs and u.

Units are read, never guessed: a file that does not state them is refused.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ffmd_jax import units
from ffmd_jax.state import State, System, make_system

_H5MD_ENDINGS = {".h5", ".h5md", ".hdf5"}
_LENGTHS = {"Angstrom": 1.0, "angstrom": 1.0, "A": 1.0, "Å": 1.0, "nm": 10.0, "pm": 0.01}  # in Å
_TIMES = {"fs": 1.0, "ps": units.PS, "ns": 1000 * units.PS}  # in fs
_VELOCITIES = {f"{a} {b}-1": x / y for a, x in _LENGTHS.items() for b, y in _TIMES.items()}  # in Å/fs
_MASSES = {"u": 1.0, "amu": 1.0, "Da": 1.0, "g mol-1": 1.0}  # in u
_NO_VELOCITIES = (
    "no velocities found; give momenta (ASE), a per-atom column 'velocities' in Å/fs or H5MD velocities, "
    "or draw them for a start with --temperature"
)

Content = tuple[System, State, np.ndarray, dict[str, np.ndarray], dict[str, Any]]


@contextlib.contextmanager
def errors_name(path: Path):
    """Turns what goes wrong inside into a ValueError of one line that names the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is not a file")
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {_first_line(error)}") from error
    except KeyError as error:
        raise ValueError(f"{path} is not an H5MD trajectory: {_first_line(error)}") from error
    except (OSError, RuntimeError) as error:
        reason = "truncated, damaged, being written, or another format"
        raise ValueError(f"{path} is not a readable HDF5 file ({reason}): {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    text = str(error.args[0] if error.args else "")
    return text.splitlines()[0] if text else type(error).__name__


def is_h5md(path: Path) -> bool:
    """True for any HDF5 file and for the endings of H5MD, so that a damaged file is reported as such."""
    return path.suffix.lower() in _H5MD_ENDINGS or bool(h5py.is_hdf5(path))


def read_h5md(path: Path, every: int) -> Content:
    """System, every ``every``-th frame, *all* times, observables of the chosen frames, and metadata."""
    with h5py.File(path, "r") as file:
        root: Any = file  # h5py's type hints do not know what a name holds
        particles, ours = _particles(root), "ffmd_jax" in root
        # Unwrapping needs all frames, and only files of other programs need unwrapping.
        system, frames = _h5md_frames(particles, slice(None, None, every if ours else 1), need_velocities=True)
        times = _h5md_times(particles["position"])
        if not np.array_equal(times, _h5md_times(particles["velocity"])):
            raise ValueError("positions and velocities are stored at different times")
        if not ours:
            check_elements(system)
            if "image" not in particles:
                frames = frames._replace(positions=unwrap(system, np.asarray(frames.positions)))
            frames = State(*(values[::every] for values in frames))
        observables = _h5md_observables(root.get("observables", {}), len(times), every)
        metadata = json.loads(_text(root["ffmd_jax"].attrs["metadata"])) if ours else {"source": path.name}
    return system, frames, times, observables, metadata


def _h5md_observables(groups: Any, n_frames: int, every: int) -> dict[str, np.ndarray]:
    """Every ``every``-th value of the per-frame scalars; a unit attribute is put into the name."""
    observables = {}
    for name, group in groups.items():
        values: Any = group.get("value") if isinstance(group, h5py.Group) else None
        if values is not None and values.shape == (n_frames,):
            unit = _text(values.attrs.get("unit", ""))
            observables[f"{name}_{unit}" if unit else name] = values[::every].astype(np.float64)
    return observables


def start_h5md(path: Path, frame: int, need_velocities: bool) -> tuple[System, State]:
    """System and the state of one frame, ``[1, n_atoms, 3]``."""
    with h5py.File(path, "r") as file:
        particles = _particles(file)
        n_frames = len(particles["position"]["value"])
        if not -n_frames <= frame < n_frames:
            raise ValueError(f"frame {frame} does not exist, the file has {n_frames}")
        chosen = slice(frame % n_frames, frame % n_frames + 1)
        system, frames = _h5md_frames(particles, chosen, need_velocities)
        if "ffmd_jax" not in file:
            check_elements(system)
        return system, frames


def _particles(file: Any) -> Any:
    """The group of all particles: ``particles/all`` or the only one."""
    groups = file["particles"]
    if "all" in groups:
        return groups["all"]
    if len(groups) != 1:
        raise ValueError(f"found the particle groups {sorted(groups)}, need one, or one called 'all'")
    return groups[next(iter(groups))]


def _h5md_frames(particles: Any, chosen: slice, need_velocities: bool) -> tuple[System, State]:
    """System and the chosen frames, ``[n_chosen, n_atoms, 3]``; images of periodic positions are applied."""
    position = particles["position"]["value"]
    if not len(position):
        raise ValueError("the file holds no frames")
    positions = _converted(position, _LENGTHS, chosen)
    if "velocity" in particles:
        velocities = _converted(particles["velocity"]["value"], _VELOCITIES, chosen)
    elif need_velocities:
        raise ValueError(_NO_VELOCITIES)
    else:
        velocities = np.zeros_like(positions)
    if positions.shape != velocities.shape:
        raise ValueError(f"positions are {positions.shape}, but velocities {velocities.shape}")
    system = make_system(
        _constant(particles["species"], chosen),
        _constant(particles["mass"], chosen, _MASSES),
        *_h5md_box(particles["box"], chosen),
    )
    if "image" in particles:
        image = particles["image"]
        numbers = image[()] if hasattr(image, "shape") else image["value"][chosen]
        positions += numbers @ system.cell
    return system, State(positions, velocities)


def _h5md_box(box: Any, chosen: slice) -> tuple[np.ndarray | None, Any]:
    """Cell in Å, or None if the box has no edges, and pbc ``[3]``."""
    pbc = np.array([_text(boundary) == "periodic" for boundary in np.broadcast_to(box.attrs["boundary"], 3)])
    if "edges" not in box:
        return None, pbc
    return _constant(box["edges"], chosen, _LENGTHS), pbc


def _constant(element: Any, chosen: slice, table: dict[str, float] | None = None) -> np.ndarray:
    """A fixed element, or a time-dependent one that stays the same over the chosen frames."""
    if hasattr(element, "shape"):  # a dataset, not a group
        return _converted(element, table, ())
    values: Any = _converted(element["value"], table, chosen)
    changed = abs(values - values[0]).reshape(len(values), -1).max(axis=1) > 1e-6 * abs(values).max()
    if changed.any():
        what = "a changing cell (NPT)" if element.name.endswith("edges") else f"a changing {element.name}"
        raise ValueError(f"{what} is not supported, first change at frame {np.argmax(changed)}")
    return values[0]


def _h5md_times(element: Any) -> np.ndarray:
    """All times of an element, fs; H5MD also allows a constant increment with an offset."""
    time, n_frames = element["time"], len(element["value"])
    times = _converted(time, _TIMES, ())
    if times.ndim == 0:
        times = float(time.attrs.get("offset", 0.0)) * _factor(time, _TIMES) + times * np.arange(n_frames)
    if times.shape != (n_frames,):
        raise ValueError(f"{element.name} has {n_frames} frames, but times {times.shape}")
    return times


def _converted(dataset: Any, table: dict[str, float] | None, chosen) -> np.ndarray:
    """Values as float64 in the package's units; without a table as they are."""
    if table is None:
        return dataset[chosen]
    return dataset[chosen].astype(np.float64) * _factor(dataset, table)


def _factor(dataset: Any, table: dict[str, float]) -> float:
    unit = _text(dataset.attrs.get("unit", ""))
    first, _, second = unit.partition("/")
    factor = table.get(f"{first} {second}-1" if second else unit)
    if factor is None:
        found = f"the unit '{unit}'" if unit else "no unit"
        raise ValueError(f"{dataset.name} has {found}; set its attribute 'unit' to one of {', '.join(table)}")
    return factor


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def check_elements(system: System) -> None:
    """Raises ValueError if masses contradict the atomic numbers: other programs count species freely."""
    from ase.data import atomic_masses

    expected = atomic_masses[system.species]
    wrong = abs(system.masses - expected) > 0.3 * expected + 3.1  # isotopes and repartitioned hydrogen pass
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"species are no atomic numbers: atom {i} is {system.species[i]} with mass {system.masses[i]:g} u"
        )


def unwrap(system: System, positions: np.ndarray) -> np.ndarray:
    """Continuous positions ``[n_frames, n_atoms, 3]``, Å, by the minimum image between consecutive frames.

    Assumes that no atom moves half of a periodic cell vector in one interval.
    """
    moves = np.diff(positions, axis=0) @ np.linalg.inv(system.cell)
    crossings = np.cumsum(np.round(moves) * system.pbc, axis=0)
    return np.concatenate([positions[:1], positions[1:] - crossings @ system.cell])


def read_ase(path: Path, every: int, frame_interval_fs: float | None) -> Content:
    """System, every ``every``-th frame, *all* times, observables of the chosen frames, and metadata."""
    images = _ase_images(path, ":")
    system = _ase_system(images[0])
    for i, atoms in enumerate(images):
        if not np.array_equal(atoms.numbers, images[0].numbers):
            raise ValueError(f"frame {i} holds other atoms, or in another order, than frame 0")
        if not np.allclose(atoms.cell.array, images[0].cell.array, 1e-6, 1e-6) or any(atoms.pbc != system.pbc):
            raise ValueError(f"a changing cell (NPT) is not supported, first change at frame {i}")
    positions = unwrap(system, np.array([atoms.positions for atoms in images]))
    frames = State(positions[::every], np.array([_ase_velocities(atoms) for atoms in images[::every]]))
    observables = {}
    energies = [atoms.calc.results.get("energy") if atoms.calc else None for atoms in images[::every]]
    if all(energy is not None for energy in energies):
        observables["potential_energy_eV"] = np.array(energies, dtype=np.float64)
    return system, frames, _ase_times(images, frame_interval_fs), observables, {"source": path.name}


def start_ase(path: Path, frame: int, need_velocities: bool) -> tuple[System, State]:
    """System and the state of one frame, ``[1, n_atoms, 3]``."""
    atoms = _ase_images(path, frame)[0]
    return _ase_system(atoms), State(atoms.positions[None], _ase_velocities(atoms, need_velocities)[None])


def _ase_images(path: Path, index: int | str) -> list[Any]:
    """The structures at an index or slice."""
    import ase.io
    from ase.io.formats import filetype

    try:
        kind = filetype(str(path))
        images = [] if kind.startswith("lammps") else ase.io.read(path, index, do_not_split_by_at_sign=True)
    except Exception as error:  # ASE's readers raise anything
        raise ValueError(f"ASE cannot read it: {type(error).__name__} {_first_line(error)}") from error
    if kind.startswith("lammps"):
        raise ValueError("LAMMPS files state neither units nor elements; convert to extxyz with momenta, or H5MD")
    images = images if isinstance(images, list) else [images]
    if not images:
        raise ValueError("the file holds no frames")
    return images


def _ase_system(atoms: Any) -> System:
    return make_system(atoms.numbers, atoms.get_masses(), atoms.cell.array, atoms.pbc)


def _ase_velocities(atoms: Any, need_velocities: bool = True) -> np.ndarray:
    """Velocities, Å/fs, ``[n_atoms, 3]``, from momenta or from a column 'velocities' in Å/fs."""
    column = atoms.arrays.get("velocities")
    if not atoms.has("momenta"):  # get_velocities() would return zeros
        if column is None and need_velocities:
            raise ValueError(_NO_VELOCITIES)
        return np.zeros((len(atoms), 3)) if column is None else np.asarray(column, dtype=np.float64)
    velocities = atoms.get_velocities() * units.ASE_VELOCITY
    if column is not None and abs(column - velocities).max() > 1e-6 + 1e-3 * abs(velocities).max():
        raise ValueError("momenta and the column 'velocities' (Å/fs) disagree; remove one of them")
    return velocities


def _ase_times(images: list[Any], frame_interval_fs: float | None) -> np.ndarray:
    """All times, fs, from the files or from the given interval."""
    for key in ("time", "time_fs"):
        if all(key in atoms.info for atoms in images):
            return np.array([atoms.info[key] for atoms in images], dtype=np.float64)
    if frame_interval_fs is None:
        raise ValueError("the frames have no times (info 'time' or 'time_fs' in fs); give frame_interval_fs")
    return frame_interval_fs * np.arange(len(images))
