"""Whatever ASE reads, compressed or not: extxyz, .traj, … with momenta or a per-atom column ``velocities`` in Å/fs."""

from pathlib import Path
from typing import Any

import numpy as np

from ffmd_jax.core import units
from ffmd_jax.core.state import State, System, make_cell, make_system
from ffmd_jax.formats import Hints, common


def read(path: Path, hints: Hints) -> common.Content:
    """All that the file holds; velocities are zeros if they are absent and the hints do not want them."""
    found = images(path, ":")
    if "update_velocities" in found[0].arrays:
        raise ValueError("the file holds pairs in TrajCast's format, no trajectory; `ffmd dataset` reads them")
    system, cells = constant_system(found)
    positions = common.unwrap(system, np.array([atoms.positions for atoms in found]), cells)
    velocities = np.array([_velocities(atoms, hints.velocities == "stored") for atoms in found])
    observables = {}
    energies = [atoms.calc.results.get("energy") if atoms.calc else None for atoms in found]
    if all(energy is not None for energy in energies):
        observables["potential_energy_eV"] = np.array(energies, dtype=np.float64)
    forces = [atoms.calc.results.get("forces") if atoms.calc else None for atoms in found]
    return common.Content(
        system,
        State(positions, velocities, cells),
        _times(found, hints.frame_interval_fs),
        observables,
        {"source": path.name},
        np.array(forces, dtype=np.float64) if all(force is not None for force in forces) else None,
    )


def start(path: Path, frame: int, need_velocities: bool) -> tuple[System, State]:
    """System and the state of one frame, ``[1, n_atoms, 3]``."""
    atoms = images(path, frame)[0]
    system, state = from_atoms(atoms, need_velocities)
    return system, State(*(values[None] for values in state))


def from_atoms(atoms: Any, need_velocities: bool = False) -> tuple[System, State]:
    """System and state ``[n_atoms, 3]`` of an ASE structure, float64; at rest where it has no velocities.

    Raises:
        ValueError: no velocities, if they are needed; a singular cell.
    """
    cell = make_cell(atoms.cell.array, atoms.pbc)
    return _system(atoms), State(np.array(atoms.positions), _velocities(atoms, need_velocities), cell)


def to_atoms(system: System, state: State) -> Any:
    """The system at a state, ``[n_atoms, 3]``, as ASE's Atoms, with momenta."""
    import ase

    pbc = np.asarray(system.pbc)
    atoms = ase.Atoms(
        np.asarray(system.species),
        np.asarray(state.positions, np.float64),
        masses=np.asarray(system.masses),
        cell=np.asarray(state.cell) * pbc[:, None],
        pbc=pbc,
    )
    atoms.set_velocities(np.asarray(state.velocities, np.float64) / units.ASE_VELOCITY)
    return atoms


def images(path: Path, index: int | str) -> list[Any]:
    """The structures at an index or slice, as ASE objects.

    Raises:
        ValueError: ASE cannot read the file, or finds no frames.
    """
    import ase.io

    try:
        found = ase.io.read(path, index, do_not_split_by_at_sign=True)
    except Exception as error:  # ASE's readers raise anything
        raise ValueError(
            f"ASE cannot read it (damaged, truncated or another format): {type(error).__name__} "
            f"{common.first_line(error)}"
        ) from error
    found = found if isinstance(found, list) else [found]
    if not found:
        raise ValueError("the file holds no frames")
    return found


def constant_system(found: list[Any]) -> tuple[System, np.ndarray]:
    """The system of all structures, and their cells, Å ``[n_frames, 3, 3]``.

    Raises:
        ValueError: other atoms, another order of atoms or another cell in some frame.
    """
    system = _system(found[0])
    for i, atoms in enumerate(found):
        if not np.array_equal(atoms.numbers, found[0].numbers):
            raise ValueError(common.CHANGED_ATOMS.format(i))
        if any(atoms.pbc != system.pbc):
            raise ValueError(common.CHANGED_CELL.format(i))
    cells = make_cell(np.array([atoms.cell.array for atoms in found]), system.pbc)
    common.check_cells(cells)
    return system, np.broadcast_to(cells[0], cells.shape)


def _system(atoms: Any) -> System:
    return make_system(atoms.numbers, atoms.get_masses(), atoms.pbc)


def _velocities(atoms: Any, need_velocities: bool = True) -> np.ndarray:
    """Velocities, Å/fs, ``[n_atoms, 3]``, from momenta or from a column 'velocities' in Å/fs."""
    column = atoms.arrays.get("velocities")
    if not atoms.has("momenta"):  # get_velocities() would return zeros
        if column is None and need_velocities:
            raise ValueError(common.NO_VELOCITIES)
        return np.zeros((len(atoms), 3)) if column is None else np.asarray(column, dtype=np.float64)
    velocities = atoms.get_velocities() * units.ASE_VELOCITY
    if column is not None and abs(column - velocities).max() > 1e-6 + 1e-3 * abs(velocities).max():
        raise ValueError("momenta and the column 'velocities' (Å/fs) disagree; remove one of them")
    return velocities


def _times(found: list[Any], frame_interval_fs: float | None) -> np.ndarray:
    """All times, fs, from the file or from the given interval."""
    for key in ("time", "time_fs"):
        known = [key in atoms.info for atoms in found]
        if all(known):
            return np.array([atoms.info[key] for atoms in found], dtype=np.float64)
        if any(known):
            raise ValueError(f"frame {known.index(False)} has no '{key}', others have")
    if frame_interval_fs is None:
        raise ValueError(
            "the frames have no times (info 'time' or 'time_fs' in fs); give their interval with --frame-interval-fs"
        )
    return frame_interval_fs * np.arange(len(found))
