"""Whatever ASE reads, compressed or not: extxyz, .traj, … with momenta or a per-atom column ``velocities`` in Å/fs."""

import dataclasses
import io
import numbers
from pathlib import Path
from typing import Any

import numpy as np

from ffmd_jax.core import mechanics, units
from ffmd_jax.core.state import Constraints, State, System, make_cell, make_system
from ffmd_jax.formats import Hints, common, note, stresses, xyz

_VELOCITIES = ("velocities", "velo", "vel")  # Å/fs: ours, and what QUIP, libAtoms and GPUMD write
_IDS, _MASSES = ("id", "ids"), ("masses", "mass")
# What other programs may mean by a velocity, a mass or a time, in a unit that is not known.
_UNREAD = {"velocity", "v", "vels", "velocs", "vx", "momentum", "atomic_mass", "weights", "atom_id", "Time", "t"}
_TIMES = {"time": 1.0, "time_fs": 1.0, "time_ps": units.PS}  # fs
_UNCONSTRAINED = {"FixAtoms", "FixCom", "FixBondLengths", "FixBondLength", "FixLinearTriatomic", "Hookean"}


def read(path: Path, hints: Hints) -> common.Trajectory:
    """All that the file holds; velocities are zeros if they are absent and the hints do not want them."""
    found = images(path, ":")
    if "update_velocities" in found[0].arrays:
        raise ValueError("the file holds pairs in TrajCast's format, no trajectory; `ffmd dataset` reads them")
    system, cells = same_atoms(found)
    positions = common.unwrap(system, np.array([atoms.positions for atoms in found]), cells)
    velocities = np.array([_velocities(atoms, hints.velocities == "stored") for atoms in found])
    observables = {}
    energies = [atoms.calc.results.get("energy") if atoms.calc else None for atoms in found]
    if energies and all(energy == 0 for energy in energies):
        note(f"{path.name}: the energies are zero in every frame and are not used")
    elif all(energy is not None for energy in energies):
        observables["potential_energy_eV"] = np.array(energies, dtype=np.float64)
    stress = [atoms.calc.results.get("stress") if atoms.calc else None for atoms in found]
    if all(one is not None and np.shape(one) == (6,) for one in stress):
        observables |= stresses.observables_of(np.array(stress, dtype=np.float64))
    forces = [atoms.calc.results.get("forces") if atoms.calc else None for atoms in found]
    return common.Trajectory(
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

    text = xyz.read(path)
    try:
        if text is None:
            found = ase.io.read(path, index, do_not_split_by_at_sign=True)
        else:
            found = ase.io.read(io.StringIO("\n".join([*text.lines, ""])), index, format="extxyz")
    except Exception as error:  # ASE's readers raise anything
        if text is not None and isinstance(error, KeyError):
            raise ValueError(f"{common.first_line(error)!r} is no element symbol") from error
        raise ValueError(
            f"ASE cannot read it (damaged, truncated or another format): {type(error).__name__} "
            f"{common.first_line(error)}"
        ) from error
    found = found if isinstance(found, list) else [found]
    if not found:
        raise ValueError("the file holds no frames")
    if text is not None:
        if index == ":" and len(found) != len(text.comments):
            raise ValueError(f"ASE reads {len(found)} frames of {len(text.comments)}; is there something between them?")
        _annotate(found, text, index)
    for i, atoms in enumerate(found):
        try:
            _complete(atoms)
        except ValueError as error:
            raise ValueError(f"frame {i}: {error}") from None
    _say_what_is_missing(path.name, found[0], text)
    return [_sorted(atoms) for atoms in found]


def _annotate(found: list[Any], text: xyz.Text, index: int | str) -> None:
    """Adds what comment lines and symbols of an .xyz file say and ASE did not read."""
    whole = slice(None) if isinstance(index, str) else slice(index, index + 1 or None)
    for atoms, comment in zip(found, text.comments[whole], strict=False):
        xyz.annotate(atoms, comment)
    for atoms, isotopes in zip(found, text.isotopes[whole], strict=False):
        if not atoms.has("masses"):
            known = atoms.get_masses()
            atoms.set_masses([common.ISOTOPES[s][1] if s else m for s, m in zip(isotopes, known, strict=True)])


def _complete(atoms: Any) -> None:
    """Masses from a column ``mass`` or from the info line, which ASE does not look at."""
    places = (("column", atoms.arrays), ("info", atoms.info))
    given = [
        (place, name, where[name])
        for place, where in places
        for name in _MASSES
        if name in where and (place == "column" or np.ndim(where[name]) or len(atoms) == 1)  # else: of the whole
    ]
    for place, name, values in given:
        try:
            masses = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            masses = np.zeros(0)
        if masses.shape != (len(atoms),):
            raise ValueError(f"the {place} '{name}' must be the masses of all {len(atoms)} atoms, u")
        if not np.allclose(masses, np.asarray(given[0][2], np.float64), rtol=1e-6):
            raise ValueError(f"the {place} '{name}' and the {given[0][0]} '{given[0][1]}' disagree; remove one of them")
        atoms.set_masses(masses)


def _sorted(atoms: Any) -> Any:
    """The atoms in the order of their ids, if they have any; constraints and results follow."""
    name = next((name for name in _IDS if name in atoms.arrays), None)
    if name is None:
        return atoms
    order = common.order_by_id(atoms.arrays[name], len(atoms))
    if np.array_equal(order, np.arange(len(atoms))):
        return atoms
    ordered, results = atoms[order], dict(atoms.calc.results) if atoms.calc else None
    if results is not None:
        from ase.calculators.singlepoint import SinglePointCalculator

        if "forces" in results:
            results["forces"] = np.asarray(results["forces"])[order]
        known = {name: results[name] for name in ("energy", "forces", "stress") if name in results}
        ordered.calc = SinglePointCalculator(ordered, **known)
    return ordered


def _say_what_is_missing(name_of_file: str, atoms: Any, text: xyz.Text | None) -> None:
    """Notes for a file without a cell, unless it says so itself, and for columns that are known and not read."""
    if not atoms.pbc.any() and not (text is not None and text.comments and "pbc=" in text.comments[0].lower()):
        note(f"{name_of_file}: {common.NO_CELL}")
    velocities = any(name in atoms.arrays for name in (*_VELOCITIES, "momenta"))
    unread = sorted(_UNREAD & (atoms.arrays.keys() | atoms.info.keys()))
    for name in unread:
        if not (velocities and name in ("velocity", "v", "vels", "velocs", "vx", "momentum")):
            note(
                f"{name_of_file}: '{name}' is not read, since its unit is not known; velocities are a column "
                f"'velocities' in Å/fs, masses a column 'masses' in u, times 'time' in fs"
            )


def constant_system(found: list[Any]) -> tuple[System, np.ndarray]:
    """As `same_atoms`, of structures with one cell; another one in some frame raises ValueError, too."""
    system, cells = same_atoms(found)
    common.check_cells(cells)
    return system, cells


def same_atoms(found: list[Any]) -> tuple[System, np.ndarray]:
    """The system of all structures, and their cells, Å ``[n_frames, 3, 3]``.

    Raises:
        ValueError: other atoms, another order of atoms or other periodic directions in some frame.
    """
    system = _system(found[0])
    for i, atoms in enumerate(found):
        if not np.array_equal(atoms.numbers, found[0].numbers) or not _same_ids(atoms, found[0]):
            raise ValueError(common.CHANGED_ATOMS.format(i))
        if not np.allclose(atoms.get_masses(), system.masses, rtol=1e-6):
            raise ValueError(f"frame {i} has other masses than frame 0")
        if any(atoms.pbc != system.pbc):
            raise ValueError(f"frame {i} is periodic in other directions than frame 0")
    return system, make_cell(np.array([atoms.cell.array for atoms in found]), system.pbc)


def _same_ids(atoms: Any, first: Any) -> bool:
    return all(
        (name in atoms.arrays) == (name in first.arrays)
        and (name not in atoms.arrays or np.array_equal(atoms.arrays[name], first.arrays[name]))
        for name in _IDS
    )


def _system(atoms: Any) -> System:
    """The atoms, on a line or not, with those that ASE's constraints fix."""
    system = mechanics.on_a_line(make_system(atoms.numbers, atoms.get_masses(), atoms.pbc), atoms.positions)
    common.check_masses(system)
    kinds = sorted({type(constraint).__name__ for constraint in atoms.constraints} - _UNCONSTRAINED)
    if kinds:
        raise ValueError(
            f"constraints of the kind {', '.join(kinds)} are not understood, only FixAtoms: temperatures would be wrong"
        )
    fixed = np.zeros(len(atoms), bool)
    for constraint in atoms.constraints:
        if type(constraint).__name__ == "FixAtoms":
            fixed[constraint.index] = True
    if not fixed.any():
        return system
    return dataclasses.replace(system, constraints=Constraints(np.zeros(len(atoms)), fixed))


def _velocities(atoms: Any, need_velocities: bool = True) -> np.ndarray:
    """Velocities, Å/fs, ``[n_atoms, 3]``, from momenta or from a column in Å/fs."""
    name = next((name for name in _VELOCITIES if name in atoms.arrays), None)
    column = None if name is None else np.asarray(atoms.arrays[name], dtype=np.float64)
    if column is not None and column.shape != (len(atoms), 3):
        raise ValueError(f"the column '{name}' must hold three numbers an atom")
    if not atoms.has("momenta"):  # get_velocities() would return zeros
        if column is None and need_velocities:
            raise ValueError(common.NO_VELOCITIES)
        return np.zeros((len(atoms), 3)) if column is None else column
    velocities = atoms.get_velocities() * units.ASE_VELOCITY
    if column is not None and abs(column - velocities).max() > 1e-6 + 1e-3 * abs(velocities).max():
        raise ValueError(f"momenta and the column '{name}' (Å/fs) disagree; remove one of them")
    return velocities


def _times(found: list[Any], frame_interval_fs: float | None) -> np.ndarray:
    """All times, fs, from the file, or from the given interval and the steps' numbers, if there are any."""
    for key, unit in _TIMES.items():
        known = [key in atoms.info for atoms in found]
        if all(known):
            try:
                return unit * np.array([atoms.info[key] for atoms in found], dtype=np.float64)
            except (TypeError, ValueError):
                raise ValueError(f"'{key}' is not one number in every frame") from None
        if any(known):
            raise ValueError(f"frame {known.index(False)} has no '{key}', others have")
    if frame_interval_fs is None:
        raise common.NoTimes(
            "the frames have no times (info 'time' or 'time_fs' in fs); give their interval with `frame_interval_fs`"
        )
    steps = [atoms.info.get("step") for atoms in found]
    if len(found) > 1 and all(isinstance(step, numbers.Integral) for step in steps) and len(set(steps)) == len(steps):
        counts = np.array(steps, dtype=np.float64)
        return frame_interval_fs * (counts - counts[0]) / np.median(np.diff(counts))
    return frame_interval_fs * np.arange(len(found))
