"""H5MD 1.1 (doi:10.1016/j.cpc.2014.01.018), of this package and of other programs."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ffmd_jax.core import units
from ffmd_jax.core.state import State, System, check_state, make_cell, make_system, take
from ffmd_jax.formats import Hints, common, constraints, note
from ffmd_jax.formats.journal import JournaledFile, journal_of

_FIRST = 40  # frames of a summary
_H5MD_ENDINGS = {".h5", ".h5md", ".hdf5"}
_LENGTHS = {"Angstrom": 1.0, "angstrom": 1.0, "A": 1.0, "Å": 1.0, "nm": 10.0, "pm": 0.01, "bohr": units.BOHR}  # in Å
_TIMES = {"fs": 1.0, "ps": units.PS, "ns": 1000 * units.PS}  # in fs
_VELOCITIES = {f"{a} {b}-1": x / y for a, x in _LENGTHS.items() for b, y in _TIMES.items()}  # in Å/fs
_ENERGIES = {
    "eV": 1.0,
    "meV": 1e-3,
    "kJ mol-1": 1e-4 / units.EV,
    "kcal mol-1": units.KCAL_PER_MOL_IN_EV,
    "hartree": units.HARTREE_IN_EV,
    "Hartree": units.HARTREE_IN_EV,
    "Ha": units.HARTREE_IN_EV,
}  # in eV
_FORCES = {f"{a} {b}-1": x / y for a, x in _ENERGIES.items() for b, y in _LENGTHS.items()}  # in eV/Å
_MASSES = {"u": 1.0, "amu": 1.0, "Da": 1.0, "g mol-1": 1.0}  # in u


def recognises(path: Path) -> bool:
    """True for any HDF5 file and for the endings of H5MD, so that a damaged file is reported as such."""
    path = common.split_replica(path)[0]
    return path.suffix.lower() in _H5MD_ENDINGS or bool(h5py.is_hdf5(path))


def read(path: Path, hints: Hints, every: int = 1) -> common.Trajectory:
    """Every ``every``-th frame, and only these are in memory unless wrapped positions must be followed through all.

    Velocities are zeros if they are absent and the hints do not want them.
    """
    path, replica = common.split_replica(path)
    with _opened(path) as root:
        particles, ours = _particles(root, replica), "ffmd_jax" in root
        times, chosen = _checked_times(particles, hints), slice(None, None, every)
        wrapped = not ours and "image" not in particles
        used = slice(None) if wrapped else chosen
        system, frames = _frames(particles, used, hints.velocities == "stored", hints.elements)
        if not ours:
            common.check_elements(system)
        if wrapped:
            positions = common.unwrap(system, np.asarray(frames.positions), np.asarray(frames.cell))
            frames = take(frames._replace(positions=positions), chosen)
        scalars = _observables(root, replica, len(times))
        observables = {name: _of_frames(values, chosen) for name, values in scalars.items()}
        forces = _converted(particles["force"]["value"], _FORCES, chosen) if "force" in particles else None
        if forces is not None and forces.shape != frames.positions.shape:
            raise ValueError(f"positions are {frames.positions.shape}, but forces {forces.shape}")
        if forces is not None:
            forces = _by_id(forces, _orders(particles, chosen, forces.shape[1]))
        facts = _metadata(root, path, replica)
    return common.Trajectory(system, frames, times[chosen], observables, facts, forces)


def summary(path: Path, hints: Hints) -> common.Summary:
    """What the file holds; only its first frames are read, which show what is constrained."""
    path, replica = common.split_replica(path)
    with _opened(path) as root:
        particles = _particles(root, replica)
        times = _checked_times(particles, hints)
        system, first = _frames(particles, slice(0, _FIRST), False, hints.elements)
        names = sorted(_observables(root, replica, len(times)))
        facts = _metadata(root, path, replica)
        check_state(system, first)
        cells = np.asarray(first.cell)
        if "ffmd_jax" not in root and "image" not in particles:
            first = first._replace(positions=common.unwrap(system, np.asarray(first.positions), cells))
        system = constraints.find(common.Trajectory(system, first, times[:_FIRST], {}, facts))
        return common.Summary(system, cells[0], times, names, "force" in particles, facts)


def _checked_times(particles: Any, hints: Hints) -> np.ndarray:
    """The times of all frames, fs; raises ValueError if velocities have others, or if their intervals differ."""
    times = _times(particles["position"], hints)
    if "velocity" in particles and not np.array_equal(times, _times(particles["velocity"], hints)):
        raise ValueError("positions and velocities are stored at different times")
    return common.regular(times, hints.frame_interval_fs)


def _observables(root: Any, replica: int | None, n_frames: int) -> dict[str, Any]:
    """The datasets of per-frame scalars; a unit attribute is put into the name."""
    groups: Any = root.get("observables", {})
    if replica is not None:
        groups = groups.get(common.group_of(replica), {})
    observables = {}
    for name, group in groups.items():
        values: Any = group.get("value") if isinstance(group, h5py.Group) else None
        if values is not None and values.shape == (n_frames,):
            unit = _plain(_text(values.attrs.get("unit", "")))
            observables[f"{name}_{'eV' if unit in _ENERGIES else unit}" if unit else name] = values
            if name == "potential_energy" and unit not in _ENERGIES:
                note(f"the potential energies have the unit '{unit}' and are not used")
    return observables


def _of_frames(values: Any, chosen: slice) -> np.ndarray:
    """The scalars of the chosen frames, energies in eV."""
    return values[chosen].astype(np.float64) * _ENERGIES.get(_plain(_text(values.attrs.get("unit", ""))), 1.0)


def _metadata(root: Any, path: Path, replica: int | None) -> dict[str, Any]:
    if "ffmd_jax" not in root:
        return {"source": path.name}
    found: Any = json.loads(_text(root["ffmd_jax"].attrs["metadata"]))
    if replica is None:
        return found
    return found | {"replica": replica, **found.get("of_replicas", {}).get(str(replica), {})}


def metadata(path: Path) -> dict[str, Any]:
    """What this package noted in the file; nothing in a file of another program."""
    with _opened(path) as root:
        return json.loads(_text(root["ffmd_jax"].attrs["metadata"])) if "ffmd_jax" in root else {}


def start(path: Path, frame: int, need_velocities: bool, hints: Hints) -> tuple[System, State]:
    """System and the state of one frame, ``[1, n_atoms, 3]``."""
    path, replica = common.split_replica(path)
    with _opened(path) as file:
        particles = _particles(file, replica)
        n_frames = len(particles["position"]["value"])
        if not -n_frames <= frame < n_frames:
            raise ValueError(f"frame {frame} does not exist, the file has {n_frames}")
        chosen = slice(frame % n_frames, frame % n_frames + 1)
        system, frames = _frames(particles, chosen, need_velocities, hints.elements)
        if "ffmd_jax" not in file:
            common.check_elements(system)
        return system, frames


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file; with its journal, if a process was killed between the two."""
    if not journal_of(path).is_file():
        with h5py.File(path, "r") as file:
            yield file
        return
    with JournaledFile(path, "r") as whole, h5py.File(whole, "r") as file:
        yield file


def _particles(file: Any, replica: int | None) -> Any:
    """The group of all particles: ``particles/all`` or the only one; or that of a replica."""
    groups = file["particles"]
    if replica is not None:
        if common.group_of(replica) not in groups:
            raise ValueError(f"there is no replica {replica}, only {', '.join(sorted(groups))}")
        return groups[common.group_of(replica)]
    if common.ALL in groups:
        return groups[common.ALL]
    if common.group_of(0) in groups:
        raise ValueError(f"the file holds {len(groups)} replicas; say which, such as run.h5:0")
    if len(groups) != 1:
        raise ValueError(f"found the particle groups {sorted(groups)}, need one, or one called 'all'")
    return groups[next(iter(groups))]


def _frames(
    particles: Any, chosen: slice, need_velocities: bool, elements: tuple[str, ...] = ()
) -> tuple[System, State]:
    """System and the chosen frames, ``[n_chosen, n_atoms, 3]``, atoms in the order of their ids, if they have any.

    Images of periodic positions are applied.  ``elements`` are those of the species 1, 2, … of a program that counts.
    """
    position = particles["position"]["value"]
    if not len(position):
        raise ValueError("the file holds no frames")
    positions = _converted(position, _LENGTHS, chosen)
    if "velocity" in particles:
        velocities = _converted(particles["velocity"]["value"], _VELOCITIES, chosen)
    elif need_velocities:
        raise ValueError(common.NO_VELOCITIES)
    else:
        velocities = np.zeros_like(positions)
    if positions.shape != velocities.shape:
        raise ValueError(f"positions are {positions.shape}, but velocities {velocities.shape}")
    cell, pbc = _box(particles["box"], chosen)
    orders = _orders(particles, chosen, positions.shape[1])
    species = _numbers(_of_atoms(particles["species"], chosen, orders))
    if elements:
        species = common.atomic_numbers(common.symbols_of_types(species, elements))
    masses = common.standard_masses(species)
    if "mass" in particles:
        masses = _of_atoms(particles["mass"], chosen, orders, _MASSES)
    system, cell = make_system(species, masses, pbc), make_cell(cell, pbc)
    if "image" in particles:
        image = particles["image"]
        numbers = image[()] if hasattr(image, "shape") else image["value"][chosen]
        positions += numbers @ cell
    positions, velocities = _by_id(positions, orders), _by_id(velocities, orders)
    return system, State(positions, velocities, np.broadcast_to(cell, (len(positions), 3, 3)))


def _orders(particles: Any, chosen: slice, n_atoms: int) -> np.ndarray | None:
    """Indices that sort the atoms of each chosen frame by their ids, ``[n_chosen or 1, n_atoms]``; None without."""
    if "id" not in particles:
        return None
    ids: Any = particles["id"]
    ids = ids[()][None] if hasattr(ids, "shape") else ids["value"][chosen]
    if ids.ndim != 2 or (
        len(ids) > 1
        and "value" in particles["id"]
        and len(particles["id"]["value"]) != len(particles["position"]["value"])
    ):
        raise ValueError(f"ids are {ids.shape} for {n_atoms} atoms in every frame")
    if not (np.sort(ids) == np.sort(ids[0])).all():
        raise ValueError("the ids of the atoms differ between frames: other atoms")
    orders = np.stack([common.order_by_id(one, n_atoms) for one in ids])
    return None if np.array_equal(orders, np.broadcast_to(np.arange(n_atoms), orders.shape)) else orders


def _by_id(values: np.ndarray, orders: np.ndarray | None) -> np.ndarray:
    """Values ``[n_frames, n_atoms, 3]`` in the order of the ids."""
    return values if orders is None else np.take_along_axis(values, orders[:, :, None], axis=1)


def _of_atoms(element: Any, chosen: slice, orders: np.ndarray | None, table: Any = None) -> np.ndarray:
    """A constant property ``[n_atoms]`` in the order of the ids; the same in every frame, or it is refused."""
    if orders is None:
        return _constant(element, chosen, table)
    values = _converted(element if hasattr(element, "shape") else element["value"], table,
                        () if hasattr(element, "shape") else chosen)  # fmt: skip
    shape = (max(len(orders), len(values) if values.ndim == 2 else 1), orders.shape[1])
    ordered = np.take_along_axis(np.broadcast_to(values, shape), np.broadcast_to(orders, shape), axis=1)
    if not (ordered == ordered[0]).all():
        raise ValueError(f"{element.name} does not belong to the ids of the atoms: it changes from frame to frame")
    return ordered[0]


def _box(box: Any, chosen: slice) -> tuple[np.ndarray | None, Any]:
    """Cell in Å, of each chosen frame where it changes, or None if the box has no edges, and pbc ``[3]``."""
    pbc = np.array([_text(boundary) == "periodic" for boundary in np.broadcast_to(box.attrs["boundary"], 3)])
    if "edges" not in box:
        return None, pbc
    if hasattr(box["edges"], "shape"):  # a dataset, not a group
        return _converted(box["edges"], _LENGTHS, ()), pbc
    values: Any = _converted(box["edges"]["value"], _LENGTHS, chosen)
    changes = abs(values - values[0]).max() > 1e-6 * abs(values).max()
    return (values if changes else values[0]), pbc


def _constant(element: Any, chosen: slice, table: dict[str, float] | None = None) -> np.ndarray:
    """A fixed element, or a time-dependent one that stays the same over the chosen frames."""
    if hasattr(element, "shape"):  # a dataset, not a group
        return _converted(element, table, ())
    values: Any = _converted(element["value"], table, chosen)
    changed = abs(values - values[0]).reshape(len(values), -1).max(axis=1) > 1e-6 * abs(values).max()
    if changed.any():
        raise ValueError(f"a changing {element.name} is not supported, first change at frame {np.argmax(changed)}")
    return values[0]


def _times(element: Any, hints: Hints) -> np.ndarray:
    """All times of an element, fs, or by the given interval; H5MD also allows a constant increment with an offset."""
    n_frames, stated = len(element["value"]), hints.frame_interval_fs
    if stated is not None and not ("time" in element and "unit" in element["time"].attrs):
        return stated * np.arange(n_frames)
    if "time" not in element:
        raise common.NoTimes(f"{element.name} has no times; give the interval of its frames with `frame_interval_fs`")
    time = element["time"]
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
    factor = table.get(unit, table.get(_plain(unit)))
    if factor is None:
        found = f"the unit '{unit}'" if unit else "no unit"
        raise ValueError(f"{dataset.name} has {found}; set its attribute 'unit' to one of {', '.join(table)}")
    return factor


def _plain(unit: str) -> str:
    """A unit as H5MD writes it, ``kJ mol-1 nm-1``, from spellings such as kJ/mol/nm, nm*ps^-1."""
    first, *below = re.sub(r"\^|\*\*|[()]", "", unit).replace("*", " ").replace("·", " ").split("/")
    return " ".join([*first.split(), *(f"{one}-1" for part in below for one in part.split())])


def _numbers(species: np.ndarray) -> np.ndarray:
    """Atomic numbers of species that are stored as numbers of any kind, or as element symbols."""
    if species.dtype.kind in "SOU":
        return common.atomic_numbers([_text(symbol) for symbol in species])
    if not np.array_equal(species, np.round(species)):
        raise ValueError("species are no whole numbers")
    return species.astype(np.int64)


def _text(value) -> str:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return (value.decode() if isinstance(value, bytes) else str(value)).strip()
