"""Constant pressure by Monte Carlo: trial changes of the volume, accepted by their energies alone.

    w = U(V') − U(V) + P (V' − V) − N k_B T ln(V'/V),   accepted with min(1, exp(−w/k_B T))

V' is uniform within ± a largest change of V.  N counts what is scaled: rigid molecules, whose centres of mass are moved
with the cell, or atoms.  Velocities stay (Åqvist et al. 2004, doi:10.1016/j.cplett.2003.12.039).  No force and no
stress is needed, so any energy will do, and the volume follows the canonical distribution of that energy exactly, as
long as the states between the moves do.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import matrices, mechanics, units
from ffmd_jax.core.state import Array, State, System
from ffmd_jax.dynamics.ensemble import NPT

_FIRST_CHANGE, _LARGEST_CHANGE = 0.01, 0.1  # of the volume
SMALLEST = 1 - _LARGEST_CHANGE - 0.01  # what a move leaves of the length of a lattice vector, at least
_TRIED, _LOW, _HIGH, _FACTOR = 10, 0.25, 0.75, 1.1  # of how many moves the size is judged, and how


class Memory(NamedTuple):
    """What the barostat carries along; scalars.

    Attributes:
        change: largest change of the volume in a move, Å³.
        limit: of ``change``, Å³; of the first volume: one that followed the volume would favour small ones.
        tried, accepted: moves since the size was last changed.
        moves, successes: since the start of the run.
    """

    change: Array
    limit: Array
    tried: Array
    accepted: Array
    moves: Array
    successes: Array


class Molecules(NamedTuple):
    """What is scaled as a rigid body.

    Attributes:
        member: index of the molecule of each atom, int ``[n_atoms]``.
        first: an atom of the molecule of each atom, int ``[n_atoms]``; its other atoms are nearer than half the cell.
        number: of molecules.
    """

    member: Array
    first: Array
    number: Array


def start(state: State) -> Memory:
    """Before the first move."""
    none = jnp.zeros((), jnp.int32)
    volume = mechanics.volume(jnp.asarray(state.cell, jnp.result_type(float)))
    return Memory(_FIRST_CHANGE * volume, _LARGEST_CHANGE * volume, none, none, none, none)


def act(
    key: Array,
    ensemble: NPT,
    system: System,
    state: State,
    energy_eV: Array,
    energy: Callable[[State], tuple[Array, Any]],
    kelvin: Array,
    memory: Memory,
    molecules: Molecules | None,
) -> tuple[State, Array, Memory, Any]:
    """One trial move: state, its energy, eV, memory, and what ``energy`` gives besides.

    Args:
        energy_eV: of the state.
        energy: ``state -> (energy, extra)`` of any state, with a neighbour table of its own.
        kelvin: temperature, K.
        molecules: what is moved as rigid bodies; None: every atom by itself.
    """
    key_axis, key_size, key_accept = jax.random.split(key, 3)
    precise = jnp.result_type(float)
    volume = mechanics.volume(jnp.asarray(state.cell, precise))
    trial_volume = volume + memory.change * jax.random.uniform(key_size, (), precise, -1.0, 1.0)
    ratio = jnp.maximum(trial_volume / volume, 1e-3)
    if ensemble.coupling == "isotropic":
        factors = jnp.full(3, jnp.cbrt(ratio))
    else:
        axis = jax.random.randint(key_axis, (), 0, 3)
        factors = jnp.where(jnp.arange(3) == axis, ratio, 1.0)
    trial = scaled(system, state, factors, molecules)
    trial_energy, extra = energy(trial)
    n_scaled = len(system.species) if molecules is None else molecules.number
    thermal = units.BOLTZMANN * jnp.asarray(kelvin, precise)
    work = trial_energy - energy_eV + units.BAR * ensemble.pressure_bar * (trial_volume - volume)
    work -= n_scaled * thermal * jnp.log(ratio)
    accepted = (jnp.log(jax.random.uniform(key_accept, (), precise)) < -work / thermal) & (trial_volume > 0)
    state, energy_eV = jax.tree.map(
        lambda new, old: jnp.where(accepted, new, old), (trial, trial_energy), (state, energy_eV)
    )
    return state, energy_eV, _adapted(memory, accepted), extra


def scaled(system: System, state: State, factors: Array, molecules: Molecules | None) -> State:
    """The state with its lattice vectors multiplied by ``factors`` ``[3]``, and atoms or molecules moved with them."""
    dtype = state.positions.dtype
    cell = (jnp.asarray(state.cell) * factors[:, None]).astype(state.cell.dtype)
    inverse = matrices.inverse(jnp.asarray(state.cell, dtype))

    def carried(points: Array) -> Array:
        return (points @ inverse) @ jnp.asarray(cell, dtype)

    if molecules is None:
        return state._replace(positions=carried(state.positions), cell=cell)
    # Atoms may have been wrapped one by one: each molecule is put together round one of its atoms.
    away = state.positions - state.positions[molecules.first]
    turns = jnp.where(np.array(system.pbc), jnp.round(away @ inverse), 0.0)
    whole = state.positions - turns @ jnp.asarray(state.cell, dtype)
    n_atoms = len(state.positions)
    masses = jnp.asarray(system.masses, dtype)
    total = jnp.zeros(n_atoms, dtype).at[molecules.member].add(masses)
    centres = jnp.zeros((n_atoms, 3), dtype).at[molecules.member].add(masses[:, None] * whole)
    centres = (centres / jnp.where(total > 0, total, 1.0)[:, None])[molecules.member]
    moved = whole + carried(centres) - centres
    return state._replace(positions=moved + turns @ jnp.asarray(cell, dtype), cell=cell)


def _adapted(memory: Memory, accepted: Array) -> Memory:
    """The memory with one more move; every ten, its size becomes such that a good part of them is accepted."""
    tried, taken = memory.tried + 1, memory.accepted + accepted
    full = tried >= _TRIED
    factor = jnp.where(taken < _LOW * tried, 1 / _FACTOR, jnp.where(taken > _HIGH * tried, _FACTOR, 1.0))
    change = jnp.where(full, jnp.minimum(memory.change * factor, memory.limit), memory.change)
    return Memory(
        change,
        memory.limit,
        jnp.where(full, 0, tried),
        jnp.where(full, 0, taken),
        memory.moves + 1,
        memory.successes + accepted,
    )
