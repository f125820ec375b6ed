"""Runs of many molecules: batches of systems padded to one size, in few compiled programs."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import mechanics, neighbors, units
from ffmd_jax.core.state import Array, Graph, State, System, cast, take
from ffmd_jax.dynamics import alarms, rollout
from ffmd_jax.dynamics import monitors as monitor_limits
from ffmd_jax.dynamics.engine import Engine
from ffmd_jax.dynamics.ensemble import NVT
from ffmd_jax.dynamics.monitors import Alarm
from ffmd_jax.dynamics.records import FASTEST
from ffmd_jax.models import model as models
from ffmd_jax.models.model import Model
from ffmd_jax.screening.molecules import Molecule

_STEP_OF_SIZES = 8  # atoms: sizes that molecules are padded to
_HEADROOM = 1.3  # of the neighbour tables: starts are relaxed structures
_CHECK_EVERY = 100  # steps between two time-reversal checks


class Conditions(NamedTuple):
    """How molecules are run.

    Attributes:
        temperature_K: K.
        length_ps: of each molecule, over all its starts.
        equilibrate_ps: of each start, not counted.
        friction_tau_fs: relaxation time 1/γ of the Langevin friction.
        frame_fs: between stored frames, about.
        seed: of velocities and noise.
    """

    temperature_K: float = 300.0
    length_ps: float = 20.0
    equilibrate_ps: float = 1.0
    friction_tau_fs: float = 200.0
    frame_fs: float = 20.0
    seed: int = 0

    @property
    def ensemble(self) -> NVT:
        """The friction is the thermostat."""
        return NVT(self.temperature_K, self.friction_tau_fs, "langevin")

    def steps(self, time_step_fs: float, n_starts: int) -> tuple[int, int, int]:
        """Steps between frames, frames to leave out, and frames of a start in all."""
        every = max(1, round(self.frame_fs / time_step_fs))
        of_frame = every * time_step_fs / units.PS
        n_out = int(np.ceil(self.equilibrate_ps / of_frame))
        return every, n_out, n_out + int(np.ceil(self.length_ps / n_starts / of_frame))


class Batch(NamedTuple):
    """Molecules of one padded size that run side by side.

    Attributes:
        n_atoms: to which they are padded.
        search: of the neighbour tables, with room for all molecules of this size.
    """

    molecules: tuple[Molecule, ...]
    n_atoms: int
    search: neighbors.Search


class Frames(NamedTuple):
    """What a molecule did.

    Attributes:
        positions: Å, of every start ``[n_frames, n_atoms, 3]``; fewer frames where an alarm ended it.
        temperatures_K: kinetic temperature of the model's elements in every frame, ``[n_frames, n_elements]``.
        alarms: the first of each kind, of every start.
        ended: whether an alarm ended it, of every start.
        interval_fs: between frames.
        velocities: Å/fs, as the positions; empty where they were not kept.
    """

    positions: list[np.ndarray]
    temperatures_K: list[np.ndarray]
    alarms: list[list[Alarm]]
    ended: list[bool]
    interval_fs: float
    velocities: list[np.ndarray]


def size_of(molecule: Molecule) -> tuple[int, bool]:
    """The number of atoms that a molecule is padded to, and whether it is linear: what decides its program."""
    n_atoms = len(molecule.system.species)
    return -(-n_atoms // _STEP_OF_SIZES) * _STEP_OF_SIZES, molecule.system.linear


def batches(molecules: Sequence[Molecule], model: Model, at_once: int) -> list[Batch]:
    """The molecules in batches of at most ``at_once``, the largest first."""
    sizes: dict[tuple[int, bool], list[Molecule]] = {}
    for molecule in molecules:
        sizes.setdefault(size_of(molecule), []).append(molecule)
    found = []
    for (n_atoms, _), own in sorted(sizes.items(), reverse=True):
        systems, states = _side_by_side(own, n_atoms)
        cutoff = model.config.architecture.cutoff
        search = neighbors.plan(systems, states, cutoff, neighbors.SKIN, _HEADROOM, select=True)
        parts = [own[i : i + at_once] for i in range(0, len(own), at_once)]
        found += [Batch(tuple(part), n_atoms, search) for part in parts]
    return found


def _side_by_side(molecules: Sequence[Molecule], n_atoms: int) -> tuple[System, State]:
    """All starts of all molecules as replicas, each a system of its own."""
    both, n_starts = [_padded(molecule, n_atoms) for molecule in molecules], len(molecules[0].starts)
    systems = jax.tree.map(lambda *x: np.repeat(np.stack(x), n_starts, axis=0), *(system for system, _ in both))
    return systems, jax.tree.map(lambda *x: np.concatenate(x), *(states for _, states in both))


def _padded(molecule: Molecule, n_atoms: int) -> tuple[System, State]:
    """The molecule's system and its starts at rest, in single precision, with padding."""
    system, n_starts = molecule.system, len(molecule.starts)
    more = n_atoms - len(system.species)
    filled = dataclasses.replace(
        system,
        species=np.pad(np.asarray(system.species), (0, more)),
        masses=np.pad(np.asarray(system.masses, np.float32), (0, more)),
        padded=True,
    )
    positions = np.pad(np.asarray(molecule.starts, np.float32), ((0, 0), (0, more), (0, 0)))
    cells = np.broadcast_to(np.eye(3, dtype=np.float32), (n_starts, 3, 3))
    return filled, State(positions, np.zeros_like(positions), cells)


def run(
    batch: Batch, model: Model, given: Conditions, report: Callable[[float], None] = lambda share: None
) -> Iterator[tuple[Molecule, Frames]]:
    """Runs a batch, every start of every molecule as a replica; yields the molecules with their frames.

    Args:
        report: called with the share that is done, 0 … 1.
    """
    config, n_starts = model.config, len(batch.molecules[0].starts)
    every, n_out, n_frames = given.steps(config.time_step_fs, n_starts)
    ensemble = given.ensemble
    propagate = models.propagator(model)
    systems, states = _side_by_side(batch.molecules, batch.n_atoms)
    n_replicas = len(states.positions)
    keys = jax.vmap(jax.random.split)(jax.random.split(jax.random.key(given.seed), n_replicas))
    states = _thermal(keys[:, 0], systems, states, jnp.float32(given.temperature_K))
    of_each = [
        _limits(model, molecule.system, ensemble, batch.n_atoms)
        for molecule in batch.molecules
        for _ in range(n_starts)
    ]
    limits = cast(jax.tree.map(lambda *x: np.stack(x), *of_each), jnp.float32)
    watch = alarms.monitor(propagate, limits, _CHECK_EVERY)
    engine = Engine(
        systems, states, propagate, cutoff=config.architecture.cutoff, time_step_fs=config.time_step_fs, every=every,
        ensemble=ensemble, monitor=watch, replicas=n_replicas, searches=(batch.search, None), select=True,
        observe=jax.tree_util.Partial(_temperatures, config.elements), block_steps=20 * every,
        devices=jax.local_devices(),
    )  # fmt: skip
    carry, blocks = engine.start(states, keys[:, 1]), []
    while int(carry.step) < n_frames * every and not np.all(carry.halted):
        block = engine.advance(carry, n_frames - int(carry.step) // every)
        carry = block.carry
        blocks.append(block)
        report(int(carry.step) / (n_frames * every))
    whole = rollout.gather(iter(blocks)) if blocks else None
    record = jax.tree.map(np.asarray, carry.memory.record)
    for i, molecule in enumerate(batch.molecules):
        n_atoms, rows = len(molecule.system.species), range(i * n_starts, (i + 1) * n_starts)
        found = Frames([], [], [], [], every * config.time_step_fs, [])
        for row in rows:
            valid = np.zeros(0, bool) if whole is None else np.asarray(whole.valid)[n_out:, row]
            if whole is not None:
                of_row = (values[n_out:, row, :n_atoms][valid] for values in whole.frames[:2])
                for kept, values in zip((found.positions, found.velocities), of_row, strict=True):
                    kept.append(np.asarray(values))
                found.temperatures_K.append(np.asarray(whole.observables["temperatures_K"])[n_out:, row][valid])
            found.alarms.append(monitor_limits.describe(take(record, row), config, molecule.system))
            found.ended.append(bool(np.asarray(carry.halted)[row]))
        yield molecule, found


@jax.jit
def _thermal(keys: Array, systems: System, states: State, kelvin: Array) -> State:
    draw = jax.vmap(mechanics.maxwell_boltzmann, (0, 0, 0, None))
    return draw(keys, systems, states, kelvin)


def _limits(model: Model, system: System, ensemble: Any, n_atoms: int) -> alarms.Limits:
    found = monitor_limits.limits(model.config, model.calibration, system, ensemble)
    more = n_atoms - len(system.species)
    return found._replace(speeds=np.pad(found.speeds, (0, more), constant_values=FASTEST))


def _temperatures(elements: tuple[int, ...], system: System, state: State, graph: Graph) -> dict[str, Array]:
    return {"temperatures_K": mechanics.temperature_by_species(system, state, elements)}
