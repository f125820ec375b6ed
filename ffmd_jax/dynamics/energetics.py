"""What a run does with its potential: energies along the way, their conservation, trial volumes of the barostat."""

from typing import Any

import jax
import jax.numpy as jnp

from ffmd_jax.core import conservation, mechanics, neighbors
from ffmd_jax.core.state import Array, Graph, State, System
from ffmd_jax.dynamics import barostat as barostats
from ffmd_jax.dynamics.records import FASTEST, Carry, Conserving, Energies, Run


def after_step(
    run: Run,
    search: neighbors.Search,
    conserving: Conserving,
    before: State,
    moved: State,
    table: neighbors.Neighbors,
    energies: Energies,
) -> tuple[Energies, State, Graph, Array]:
    """Energies after a step, the state, its energy conserved if wished, its pairs, and whether one may be missing."""
    precise = energies.potential.dtype
    potential, own, graph, lost = potential_energy(run, search, conserving, moved, table, energies.table)
    if conserving.search is None:
        far = jnp.max(jnp.abs(moved.positions - before.positions)) < FASTEST * run.time_step_fs
        lost |= neighbors.outrun(search, moved, table) & far  # what explodes is the monitors' business
    kinetic, after = (mechanics.kinetic_energy(run.system, jnp.asarray(x.velocities, precise)) for x in (before, moved))
    gain = (potential - energies.potential) + (after - kinetic)
    state, owed = moved, energies.owed
    if conserving.conserve:
        state, rest = conservation.add_energy(run.system, moved, -(gain + owed))
        owed = -rest
    energies = energies._replace(potential=potential, gained=energies.gained + gain, owed=owed, table=own)
    return energies, state, graph, lost


def potential_energy(
    run: Run, search: neighbors.Search, conserving: Conserving, state: State, table: neighbors.Neighbors, own: Any
) -> tuple[Array, Any, Graph, Array]:
    """Energy of a state, eV, its own table, if it has one, the pairs used, and whether a table was too small."""
    assert run.energy is not None
    if conserving.search is None:
        graph, lost = neighbors.select(search, state, table)
    else:
        own = neighbors.update(conserving.search, run.system, state, own)
        graph, lost = own.graph, own.overflow
    value = run.energy(run.system, state, graph)
    return jnp.asarray(value, jnp.result_type(float)), own, graph, lost


def start(
    run: Run, search: neighbors.Search, conserving: Conserving, state: State, table: neighbors.Neighbors
) -> Energies:
    """The energies before the first step."""
    own = () if conserving.search is None else neighbors.build(conserving.search, run.system, state)
    potential, own, _, _ = potential_energy(run, search, conserving, state, table, own)
    kinetic = mechanics.kinetic_energy(run.system, jnp.asarray(state.velocities, potential.dtype))
    nothing = jnp.zeros_like(potential)
    return Energies(potential, potential + kinetic, nothing, nothing, own)


def change_volume(
    run: Run, search: neighbors.Search, conserving: Conserving, carry: Carry, each: Any, kelvin: Array
) -> Carry:
    """The carry after a trial move of the barostat, if it is due."""
    ensemble: Any = run.ensemble

    def act(run, key, state, table, energies, memory, kelvin):
        key, draw = jax.random.split(key)

        def energy(trial: State) -> tuple[Array, Any]:
            fresh = neighbors.build(search, run.system, trial)
            own = () if conserving.search is None else neighbors.build(conserving.search, run.system, trial)
            value, own, _, lost = potential_energy(run, search, conserving, trial, fresh, own)
            return value, (fresh, own, lost | fresh.overflow)

        before = state.cell
        state, potential, memory, (fresh, own, lost) = barostats.act(
            draw, ensemble, run.system, state, energies.potential, energy, kelvin, memory, run.molecules
        )
        changed = jnp.any(state.cell != before)
        overflow = table.overflow | lost
        table, own = jax.tree.map(lambda new, old: jnp.where(changed, new, old), (fresh, own), (table, energies.table))
        energies = energies._replace(potential=potential, table=own)
        return key, state, table._replace(overflow=overflow), energies, memory

    def tried():
        return each(act)(run, carry.key, carry.state, carry.table, carry.energies, carry.barostat, kelvin)

    due = (carry.step % ensemble.barostat_every == 0) & (carry.step > 0)
    kept = (carry.key, carry.state, carry.table, carry.energies, carry.barostat)
    key, state, table, energies, memory = jax.lax.cond(due, tried, lambda: kept)
    return carry._replace(key=key, state=state, table=table, energies=energies, barostat=memory)


def observe(system: System, state: State, energies: Energies) -> dict[str, Array]:
    """What is stored with every frame of a run with a potential, eV."""
    kinetic = mechanics.kinetic_energy(system, jnp.asarray(state.velocities, energies.potential.dtype))
    return {
        "potential_energy_eV": energies.potential,
        "total_energy_eV": energies.potential + kinetic,
        "propagator_gain_eV": energies.gained,
    }


def observe_volume(state: State, memory: barostats.Memory) -> dict[str, Array]:
    """What is stored with every frame at constant pressure."""
    moves = jnp.maximum(memory.moves, 1)
    return {"volume_A3": mechanics.volume(state.cell), "barostat_acceptance": memory.successes / moves}
