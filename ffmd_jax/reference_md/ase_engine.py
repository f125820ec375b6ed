"""Any ASE calculator as a reference engine: ASE's velocity Verlet with the thermostats of this package, in float64."""

import ast
import difflib
import functools
import importlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ffmd_jax.core import commands, mechanics, neighbors, units
from ffmd_jax.core.state import Array, Graph, State, System, make_cell, make_system, take
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics import rollout
from ffmd_jax.dynamics.engine import Block
from ffmd_jax.dynamics.ensemble import NPT, NVE, Ensemble
from ffmd_jax.dynamics.records import Carry
from ffmd_jax.formats import ase_files, common, h5md, note, stresses, trajectory
from ffmd_jax.reference_md import teachers
from ffmd_jax.reference_md.engine import FORCES, ReferenceEngine

MakeCalculator = Callable[[], Any]

_BLOCK_S = 1.0  # wall time between two blocks
_INSTALL = {
    "tblite": "pip install 'ffmd-jax[xtb]'",
    "mace": "pip install mace-torch",
    "sevenn": "pip install sevenn",
    "chgnet": "pip install chgnet",
}
_QUIET = {"tblite.ase:TBLite": {"verbosity": 0}}  # its table of every step would tear up the progress bar


def read_atoms(path: Path) -> Any:
    """The last structure in a file, as ASE's Atoms with its charges and magnetic moments; H5MD is read, too.

    Raises:
        ValueError: one line that names the file: unreadable, without atoms, with constraints, a singular cell.
    """
    if path.is_file() and h5md.recognises(path):
        system, state = trajectory.read_start(path, need_velocities=False)
        return ase_files.to_atoms(system, state)
    with common.errors_name(path):
        atoms = ase_files.images(path, -1)[0]
        if not len(atoms):
            raise ValueError("the file holds a structure without atoms")
        if atoms.constraints:
            raise ValueError("the structure has constraints; a propagator learns the motion of all atoms: remove them")
        make_system(atoms.numbers, atoms.get_masses(), atoms.pbc)
        make_cell(atoms.cell.array, atoms.pbc)
        if not np.isfinite(atoms.positions).all():
            raise ValueError("positions hold NaN or infinite values")
    return atoms


def parse_arguments(text: str) -> dict[str, Any]:
    """Keyword arguments from ``key=value,key=value``: Python literals, true and false, else strings.

    A value may hold commas: only one before the next ``key=`` separates.

    Raises:
        ValueError: an entry without ``=``, or a key twice.
    """
    arguments: dict[str, Any] = {}
    for entry in re.split(r",(?=\s*[A-Za-z_]\w*\s*=)", text) if text.strip() else []:
        key, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or not key.isidentifier():
            raise ValueError(f"`calculator_args` takes key=value,key=value…, not '{entry.strip()}'")
        if key in arguments:
            raise ValueError(f"`calculator_args` names {key} twice")
        arguments[key] = _literal(value)
    return arguments


def _literal(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def make_calculator(name: str, arguments: dict[str, Any]) -> MakeCalculator:
    """What makes the calculator: one of `teachers.TEACHERS`, or ``module:name``, a class or function that returns one.

    Raises:
        ValueError: neither, not there, or not callable; the message says what to install.
    """
    if name in teachers.TEACHERS:
        if arguments:
            raise ValueError(f"{name} has no `calculator_args`")
        teachers.check(name)
        return functools.partial(teachers.make, name)
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        known = ", ".join(teachers.TEACHERS)
        raise ValueError(f"`calculator` takes module:Class, such as tblite.ase:TBLite, or {known}, not '{name}'")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a broken installation raises anything
        package = module_name.split(".")[0]
        advice = _INSTALL.get(package, f"install the package that has {module_name}")
        reason = f"{type(error).__name__}: {common.first_line(error)}"
        raise ValueError(f"cannot import {module_name} ({reason}); {advice}") from error
    made = getattr(module, attribute, None)
    if not callable(made):
        meant = commands.did_you_mean(attribute, (name for name in dir(module) if not name.startswith("_")))
        raise ValueError(f"{module_name} has no calculator '{attribute}'{meant}")

    _note_misspelt(name, made, arguments)

    def make() -> Any:
        try:
            return made(**(_QUIET.get(name, {}) | arguments))
        except Exception as error:  # a calculator may raise anything
            reason = f"{type(error).__name__} {common.first_line(error)}"
            raise ValueError(f"{name} does not accept `calculator_args` {arguments}: {reason}") from error

    return make


def _note_misspelt(name: str, made: Any, arguments: dict[str, Any]) -> None:
    """Notes arguments that are nearly, but not quite, parameters: many calculators ignore what they do not know."""
    known = list(getattr(made, "default_parameters", None) or {})
    for key in arguments.keys() - set(known):
        meant = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if meant:
            note(f"{name} may ignore `calculator_args` {key}=…; did you mean {meant[0]}?")


def engine(
    name: str, atoms: Any, make: MakeCalculator, dt: float | None = None, with_forces: bool = False
) -> ReferenceEngine:
    """The structure with the calculator, tried once, as a `ReferenceEngine`.

    Every run makes a calculator of its own: what it remembers (a converged density) would make a run depend on those
    before it.  The centre of mass is held fixed; calculators whose forces do not add up to zero would move it.

    Args:
        name: for messages.
        atoms: ASE's Atoms; their velocities are not used.
        make: makes a calculator.
        dt: fs (default: 0.5 with hydrogen, else 1).
        with_forces: its frames have forces, too, and the stress, if the calculator gives one.

    Raises:
        ValueError: the calculator fails, or gives no finite energy and forces.
    """
    system, at_rest = ase_files.from_atoms(atoms)
    thermalise = _thermalise(system)
    step = dt if dt is not None else (0.5 if 1 in atoms.numbers else 1.0)
    _try(name, atoms, make())

    def run(start: State, *, n_steps: int, every: int, key: Array, ensemble: Ensemble = NVE()) -> Iterator[Block]:
        ensemble = ensembles.complete(ensemble, step)
        if isinstance(ensemble, NPT):
            raise ValueError("ASE calculators run at constant volume here: npt is for prepared systems")
        if every < 1 or n_steps < 1 or n_steps % every:
            raise ValueError(f"the number of steps ({n_steps}) must be a positive multiple of every ({every})")
        moving = _prepared(atoms, make(), start)
        dynamics = _dynamics(moving, step, n_steps, ensemble, thermalise, key)
        frames, stamps, deadline = [], [], time.monotonic() + _BLOCK_S
        for done in range(every, n_steps + 1, every):
            _advance(dynamics, every, done * step)
            state = State(moving.positions.copy(), moving.get_velocities() * units.ASE_VELOCITY, at_rest.cell)
            potential = float(moving.get_potential_energy())
            _check_finite(state, potential, done * step)
            own = _labels(moving) if with_forces else {}
            frames.append((state, potential, own))
            stamps.append(done * step)
            if time.monotonic() > deadline or done == n_steps:
                yield _block(system, frames, np.array(stamps), key)
                frames, stamps, deadline = [], [], time.monotonic() + _BLOCK_S

    return ReferenceEngine(name, system, at_rest, step, run)


def _try(name: str, atoms: Any, calculator: Any) -> None:
    """Raises ValueError unless the calculator gives a finite energy and forces."""
    trial = atoms.copy()
    trial.calc = calculator
    try:
        energy, forces = trial.get_potential_energy(), np.asarray(trial.get_forces())
    except NotImplementedError as error:
        raise ValueError(f"{name} gives no energies and forces: {common.first_line(error)}") from error
    except Exception as error:  # a calculator may raise anything, and may be none
        raise ValueError(
            f"{name} fails on the start structure (wrong `calculator_args`, or no ASE calculator?): "
            f"{type(error).__name__} {common.first_line(error)}"
        ) from error
    if np.ndim(energy) or forces.shape != (len(atoms), 3) or not np.isfinite(energy) or not np.isfinite(forces).all():
        raise ValueError(f"{name} gives no finite energy and forces [n_atoms, 3] on the start structure")


def _prepared(atoms: Any, calculator: Any, start: State) -> Any:
    """The atoms at a start state, with the calculator."""
    from ase.constraints import FixCom

    moving = atoms.copy()
    moving.calc = calculator
    moving.set_positions(np.array(start.positions, dtype=np.float64))
    moving.set_velocities(np.array(start.velocities, dtype=np.float64) / units.ASE_VELOCITY)
    moving.set_constraint(FixCom())
    return moving


def _thermalise(system: System) -> Any:
    """Returns ``(ensemble, key, state, memory, progress, interval_fs) -> (velocities, memory)``, Å/fs, after the
    thermostat; compiled.  The first memory is None."""

    @jax.jit
    def thermalise(
        ensemble: Ensemble, key: Array, state: State, memory: Any, progress: float, interval_fs: float
    ) -> tuple[Array, Any]:
        kelvin = ensembles.temperature(ensemble, progress)
        if memory is None:
            memory = ensembles.start(ensemble, jax.random.fold_in(key, 1), system, state, kelvin)
        after, memory = ensembles.apply(ensemble, key, system, state, kelvin, interval_fs, memory)
        return after.velocities, memory

    return thermalise


def _dynamics(atoms: Any, dt: float, n_steps: int, ensemble: Ensemble, thermalise: Any, key: Array) -> Any:
    """ASE's velocity Verlet; the thermostat acts after every step."""
    from ase.md.verlet import VelocityVerlet

    dynamics, memory = VelocityVerlet(atoms, dt / units.ASE_TIME), None

    def act() -> None:
        nonlocal memory
        if dynamics.nsteps == 0:  # ASE calls observers at the start, too
            return
        state = State(atoms.positions, atoms.get_velocities() * units.ASE_VELOCITY, atoms.cell.array)
        key_step = jax.random.fold_in(key, dynamics.nsteps)
        found, memory = thermalise(ensemble, key_step, state, memory, dynamics.nsteps / n_steps, dt)
        atoms.set_velocities(np.asarray(found) / units.ASE_VELOCITY)

    if not isinstance(ensemble, NVE):
        dynamics.attach(act)
    return dynamics


def _labels(atoms: Any) -> dict[str, np.ndarray]:
    """Forces, and the stress of a crystal or liquid where the calculator gives it."""
    labels = {FORCES: atoms.get_forces(apply_constraint=False).copy()}
    if atoms.pbc.all() and "stress" in getattr(atoms.calc, "implemented_properties", ()):
        labels |= stresses.observables_of(np.asarray(atoms.get_stress(voigt=True, apply_constraint=False)))
    return labels


def _advance(dynamics: Any, n_steps: int, time_fs: float) -> None:
    try:
        dynamics.run(n_steps)
    except Exception as error:  # a calculator may raise anything
        raise rollout.Diverged(
            f"the calculator failed before {time_fs:g} fs: {type(error).__name__} {common.first_line(error)}"
        ) from error


def _check_finite(state: State, potential: float, time_fs: float) -> None:
    if not (np.isfinite(potential) and all(np.isfinite(values).all() for values in state)):
        raise rollout.Diverged(f"the trajectory diverged: numbers are no longer finite at {time_fs:g} fs")


def _block(
    system: System, frames: list[tuple[State, float, dict[str, np.ndarray]]], times: np.ndarray, key: Array
) -> Block:
    """The frames as a block; its neighbour table is empty, as the calculator finds its own neighbours."""
    states = jax.tree.map(lambda *x: np.stack(x), *(state for state, _, _ in frames))
    potential = np.array([energy for _, energy, _ in frames])
    total = potential + mechanics.kinetic_energy(system, states.velocities)
    last, n_atoms = take(states, -1), len(system.species)
    empty = Graph(np.zeros((n_atoms, 0), np.int32), np.zeros((n_atoms, 0, 3), np.int8), np.zeros((n_atoms, 0), bool))
    table = neighbors.Neighbors(empty, last.positions, last.cell, np.array(False))
    observables = {"potential_energy_eV": potential, "total_energy_eV": total}
    observables |= {name: np.stack([labels[name] for _, _, labels in frames]) for name in frames[0][2]}
    return Block(states, times, observables, Carry(key, last, table))
