"""The same molecules by other methods: a teacher or a force field, from the same starts, analysed alike.

Each method has the starts, the friction, the lengths and the frames of the screening; velocities are drawn anew.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.analysis import torsions
from ffmd_jax.core import files, mechanics, progress, units
from ffmd_jax.core.state import State, System, take
from ffmd_jax.dynamics import rollout
from ffmd_jax.formats import ase_files
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import ase_engine
from ffmd_jax.reference_md.engine import ReferenceEngine
from ffmd_jax.screening import description, pools, runs
from ffmd_jax.screening.molecules import Molecule
from ffmd_jax.screening.runs import Conditions, Frames

Angles = list[list[np.ndarray]]


def check(names: Sequence[str]) -> None:
    """Raises ValueError unless these are methods: known teachers, or ``module:Class``; it says what to install."""
    for name in names:
        ase_engine.make_calculator(name, {})


def run(molecule: Molecule, model: Model, given: Conditions, method: str | None) -> tuple[dict[str, Any], Angles]:
    """What the model (None) or a method says of a molecule, JSON-able, with its speed; and the angles of each torsion.

    Angles, rad, are those of each start that has frames.
    """
    head = {"name": molecule.name, "smiles": molecule.smiles, "method": method or model.name}
    try:
        frames, wall_s = _timed(molecule, model, given, method)
        return head | _line(molecule, model, given, frames, wall_s), _angles(molecule.system, frames)
    except (ValueError, RuntimeError) as error:  # one method must not stop the others
        return head | {"failed": str(error)}, []


def run_all(
    ready: Sequence[Molecule], model: Model, given: Conditions, methods: Sequence[str], out: Path, show: bool,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Runs molecules by the model and by other methods, in turn on one core; a JSON file a molecule in ``out``."""
    out.mkdir(exist_ok=True)
    jobs = [(molecule, model, given, method) for molecule in ready for method in (None, *methods)]
    lines, angles = [], []
    with pools.pool(1) as pool, progress.progress(len(jobs), "beside", "runs", hidden=not show) as bar:
        for line, own in pool.map(run, *zip(*jobs, strict=True)):
            line |= overlaps(angles[0] if angles else [], own)
            lines, angles = [*lines, line], [*angles, own]
            if "failed" in line:
                say(f"{line['name']}, {line['method']}: {line['failed']}")
            if len(lines) > len(methods):  # all of a molecule
                files.write_atomically(out / f"{line['name']}.json", (json.dumps(lines) + "\n").encode())
                lines, angles = [], []
            bar.update(1)


def overlaps(ours: Angles, theirs: Angles) -> dict[str, float]:
    """Of the populations of torsions of two methods, the mean over torsions; and of two halves of the second's starts.

    The halves say what chance leaves of runs of this length.
    """
    found = {}
    if ours and len(ours) == len(theirs):
        found["torsion_overlap"] = _mean(_overlap(one, other) for one, other in zip(ours, theirs, strict=True))
    if theirs and len(theirs[0]) > 1:
        found["torsion_overlap_halves"] = _mean(_overlap(each[::2], each[1::2]) for each in theirs)
    return found


def _overlap(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    return torsions.overlap_of_angles(np.concatenate(one), np.concatenate(other))


def _mean(values: Iterable[float]) -> float:
    return round(float(np.mean(list(values))), 3)


def _timed(molecule: Molecule, model: Model, given: Conditions, method: str | None) -> tuple[Frames, float]:
    """The frames, and the seconds that they took without compilation."""
    if method is None:
        (batch,) = runs.batches([molecule], model, 1)
        list(runs.run(batch, model, given._replace(length_ps=1e-3, equilibrate_ps=0.0)))  # compiles
        began = time.perf_counter()
        ((_, frames),) = runs.run(batch, model, given)
        return frames, time.perf_counter() - began
    with jax.enable_x64(True):
        atoms = ase_files.to_atoms(molecule.system, _at_rest(molecule.starts[0]))
        engine = ase_engine.engine(method, atoms, ase_engine.make_calculator(method, {}))
        began = time.perf_counter()
        return _reference(molecule, model, given, engine), time.perf_counter() - began


def _reference(molecule: Molecule, model: Model, given: Conditions, engine: ReferenceEngine) -> Frames:
    """The runs of `runs.run` with another method, one start after the other."""
    elements, n_starts = model.config.elements, len(molecule.starts)
    every, n_out, n_frames = given.steps(model.config.time_step_fs, n_starts)
    interval = every * model.config.time_step_fs
    steps = round(interval / engine.dt)
    if abs(steps * engine.dt - interval) > 1e-6:
        raise ValueError(f"frames every {interval:g} fs are no multiple of the time step of {engine.name}")
    ensemble, found = given.ensemble, Frames([], [], [], [], interval, [])
    kelvin = jax.jit(jax.vmap(lambda state: mechanics.temperature_by_species(engine.system, state, elements)))
    for i, start in enumerate(molecule.starts):
        key_start, key = jax.random.split(jax.random.fold_in(jax.random.key(given.seed), i))
        state = mechanics.maxwell_boltzmann(key_start, engine.system, _at_rest(start), given.temperature_K)
        blocks = engine.run(state, n_steps=n_frames * steps, every=steps, key=key, ensemble=ensemble)
        frames = take(rollout.gather(iter(blocks)).frames, slice(n_out, None))
        found.positions.append(np.asarray(frames.positions))
        found.temperatures_K.append(np.asarray(kelvin(frames)))
        found.alarms.append([])
        found.ended.append(False)
    return found


def _at_rest(positions: np.ndarray) -> State:
    positions = np.asarray(positions, np.float64)
    return State(jnp.asarray(positions), jnp.zeros(positions.shape), jnp.eye(3))


def _line(molecule: Molecule, model: Model, given: Conditions, frames: Frames, wall_s: float) -> dict[str, Any]:
    whole, _ = description.describe(molecule, frames, model, given)
    kept = ("length_ps", "temperature_K", "radius_of_gyration_A", "flexibility_A", "polar_surface_A2", "alarms")
    _, n_out, _ = given.steps(model.config.time_step_fs, len(molecule.starts))
    taken_fs = frames.interval_fs * sum(n_out + len(positions) for positions in frames.positions)
    return {
        "atoms": whole["n_atoms"],
        **{name: whole[name] for name in kept if name in whole},
        "conformers": len(whole["conformers"]),
        "ns_per_day": float(f"{units.ns_per_day(taken_fs, wall_s):.3g}"),
        "wall_s": round(wall_s, 2),
    }


def _angles(system: System, frames: Frames) -> Angles:
    starts = [positions for positions in frames.positions if len(positions)]
    return [
        [np.concatenate([torsions.angles(positions, dihedral) for dihedral in equivalent]) for positions in starts]
        for equivalent in torsions.dihedrals(system, starts[0][0])
    ]
