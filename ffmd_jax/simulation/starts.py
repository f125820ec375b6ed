"""Where rollouts begin: structures from files, ASE or records, with velocities."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import mechanics
from ffmd_jax.core.state import Array, State, System, take
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics.ensemble import NVE, Ensemble
from ffmd_jax.formats import Hints, ase_files, trajectory
from ffmd_jax.formats.trajectory import Trajectory
from ffmd_jax.models import model as models
from ffmd_jax.models.model import Model
from ffmd_jax.simulation.result import Run

Start = Any  # a path, ase.Atoms, (system, state), or a sequence of these
_NO_HINTS = Hints()


class Begin(NamedTuple):
    """Where a run begins; of replicas, state and keys have a leading axis."""

    system: System
    state: State
    key: Array
    replicas: int


def begin(
    model: Model,
    start: Start,
    ensemble: Ensemble,
    seed: int,
    replicas: int,
    velocities: str,
    kelvin: float | None,
    hints: Hints = _NO_HINTS,
) -> Begin:
    """System, states and keys: replica i is the single run with the seed + i."""
    many = isinstance(start, Sequence) and not isinstance(start, str | Trajectory) and not _is_pair(start)
    given = [_read(one, model, velocities, hints) for one in (start if many else [start])]
    if not given:
        raise ValueError("there is nothing to start from: the sequence of starts is empty")
    system = given[0][0]
    for other, _ in given[1:]:
        if other.pbc != system.pbc or not np.array_equal(other.species, system.species):
            raise ValueError("replicas must be of the same atoms in the same order")
    if many and replicas not in (0, len(given)):
        raise ValueError(f"{len(given)} starts are as many replicas, not {replicas}")
    n_replicas = len(given) if many else replicas
    if n_replicas < 0:
        raise ValueError(f"the number of replicas must not be negative, not {n_replicas}")
    if not isinstance(ensemble, NVE):
        mechanics.check_freedom(system)
    target = kelvin if kelvin is not None else ensembles.temperature(ensemble)
    targets = np.atleast_1d(np.asarray(target, np.float64))
    if len(targets) not in (1, max(1, n_replicas)):
        raise ValueError(f"{len(targets)} temperatures are given for {n_replicas} replicas")
    targets = np.broadcast_to(targets, (max(1, n_replicas),))
    if isinstance(getattr(ensemble, "temperature_K", None), tuple) and not n_replicas:
        raise ValueError("several temperatures are for replicas")
    found, drawn = [], False
    for i in range(max(1, n_replicas)):
        own = given[i % len(given)][1]
        key_run, key_draw = jax.random.split(jax.random.key(seed + i))
        if velocities == "draw" or (velocities == "if absent" and not np.any(own.velocities)):
            if not np.isfinite(targets[i]):
                raise ValueError("velocities cannot be drawn without a temperature")
            mechanics.check_freedom(system)
            own, drawn = mechanics.maxwell_boltzmann(key_draw, system, own, float(targets[i])), True
        found.append((jax.tree.map(jnp.asarray, own), key_run))
    if n_replicas and isinstance(ensemble, NVE) and not drawn and not many:
        raise ValueError("replicas in nve would all be the same: draw velocities, at a temperature")
    if not n_replicas:
        state, key = found[0]
        return Begin(system, state, key, 0)
    states, keys = jax.tree.map(lambda *values: jnp.stack(values), *found)
    return Begin(system, states, keys, n_replicas)


def _is_pair(start: Any) -> bool:
    return isinstance(start, tuple) and len(start) == 2 and isinstance(start[0], System)


def _read(start: Start, model: Model, velocities: str, hints: Hints) -> tuple[System, State]:
    """System and state of one start; velocities are zeros where it has none."""
    if _is_pair(start):
        state = jax.tree.map(lambda values: np.asarray(values, np.float64), State(*start[1]))
        system = mechanics.on_a_line(start[0], state.positions)
    elif isinstance(start, Trajectory | Run):
        system, state = start.system, take(start.frames, -1)
    elif isinstance(start, str | Path):
        system, state = trajectory.read_start(start, need_velocities=velocities == "stored", hints=hints)
    elif hasattr(start, "get_positions"):
        system, state = ase_files.from_atoms(start, need_velocities=velocities == "stored")
    else:
        raise ValueError(f"a run starts from a file, ase.Atoms or (system, state), not from {type(start).__name__}")
    system, state = models.isolate(model.config, system, state)
    models.check_system(model.config, system, model.calibration)
    return system, state
