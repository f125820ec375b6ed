"""Steps of any propagator inside jit, and a scan over them.

Neighbour table → propagate → energy conservation → thermostat → monitor; at intervals, the barostat before these.

Pure functions; `engine` calls them block by block.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import matrices, neighbors
from ffmd_jax.core.state import Array, State, System, full_precision
from ffmd_jax.dynamics import energetics
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics.ensemble import NPT, NVE, Ensemble
from ffmd_jax.dynamics.records import PLAIN, Carry, Conserving, Run, Step, StepRecord
from ffmd_jax.dynamics.replicas import Replicas, all_of, any_of, own
from ffmd_jax.dynamics.replicas import each as of_replicas


class _Moving(NamedTuple):
    """What a step changes while the neighbour table and the cell stay as they are; see `Carry`.

    Attributes:
        lost: True where a pair may be missing.
        graph: pairs of the state; () where they are chosen anew in every step.
    """

    key: Array
    positions: Array
    velocities: Array
    memory: Any
    halted: Array
    lost: Array
    energies: Any
    graph: Any
    partners: Any


def make_step(
    run: Run,
    search: neighbors.Search,
    n_steps: int = 1,
    *,
    replicas: Replicas | None = None,
    conserving: Conserving = PLAIN,
) -> Step:
    """Returns the body of the scan: ``n_steps`` times neighbour table → propagate → thermostat → monitor.

    The table is checked before every step and rebuilt when an atom has moved half the skin.  Between rebuilds it is
    constant in an inner loop, as is the cell, so that XLA computes once what depends on them alone (lattice shifts,
    pair parameters): carrying them through every step costs the reference integrator a factor of three.

    Args:
        replicas: where the carry is one of replicas, whose tables are rebuilt together.
        conserving: how a potential is used.
    """
    each = of_replicas(run, replicas)
    advance = each(functools.partial(_advance, search, conserving), (0, 0, None, 0, 0))
    select = each(lambda run, state, table: neighbors.select(search, state, table))
    old = each(lambda run, state, table: neighbors.stale(search, state, table))

    def stale(state, table):
        return any_of(replicas, old(run, state, table))

    def on(done, halted):
        return (done < n_steps) & ~all_of(replicas, halted)

    def kelvin_at(step, like):
        kelvin = ensembles.temperature(run.ensemble, (step + 1) / run.ramp_steps)
        return own(replicas, jnp.asarray(kelvin, like.state.positions.dtype), like.halted)

    def until_stale(loop):
        done, carry = loop
        carry = _refresh(search, run, carry, each, stale)
        if isinstance(run.ensemble, NPT):
            carry = energetics.change_volume(run, search, conserving, carry, each, kelvin_at(carry.step, carry))
        table, cell = carry.table, carry.state.cell
        graph, too_many = select(run, carry.state, table) if _shares(run, conserving) else ((), False)

        def again(inner):
            taken, moving = inner
            step = carry.step + taken
            return taken + 1, advance(run, table, cell, step, kelvin_at(step, carry), moving)

        def go_on(inner):
            taken, moving = inner
            fresh = ~stale(State(moving.positions, moving.velocities, cell), table)
            if isinstance(run.ensemble, NPT):  # the barostat acts before the table is looked at
                fresh &= (taken == 0) | ((carry.step + taken) % run.ensemble.barostat_every != 0)
            return on(done + taken, moving.halted) & fresh

        # At least one step: the table is fresh, and not stale at the positions that it was built from.
        moving = _Moving(
            carry.key,
            *carry.state[:2],
            carry.memory,
            carry.halted,
            table.overflow | too_many,
            carry.energies,
            graph,
            carry.partners,
        )
        taken, moving = jax.lax.while_loop(go_on, again, (0, moving))
        return done + taken, carry._replace(
            key=moving.key, state=State(moving.positions, moving.velocities, cell), memory=moving.memory,
            halted=moving.halted, table=table._replace(overflow=moving.lost), step=carry.step + taken,
            energies=moving.energies, partners=moving.partners,
        )  # fmt: skip

    @full_precision
    def step(carry: Carry) -> Carry:
        carry = carry._replace(step=jnp.asarray(carry.step), halted=jnp.asarray(carry.halted))
        return jax.lax.while_loop(lambda loop: on(loop[0], loop[1].halted), until_stale, (0, carry))[1]

    return step


def key_after(ensemble: Ensemble, key: Array, n_steps: int) -> Array:
    """The key that so many steps at constant volume leave."""
    if isinstance(ensemble, NVE):
        return key
    return jax.lax.fori_loop(0, n_steps, lambda _, key: jax.random.split(key)[0], key)


def _shares(run: Run, conserving: Conserving) -> bool:
    """True where the pairs that the energy of one step has seen are those that the next one propagates with."""
    return run.energy is not None and conserving.search is None


def _advance(
    search: neighbors.Search,
    conserving: Conserving,
    run: Run,
    table: neighbors.Neighbors,
    cell: Array,
    step: Array,
    kelvin: Array,
    moving: _Moving,
) -> _Moving:
    """One step of one system."""
    system, ensemble, monitor = run.system, run.ensemble, run.monitor
    state, graph, lost = State(moving.positions, moving.velocities, cell), moving.graph, moving.lost
    key, energies, memory, halted = moving.key, moving.energies, moving.memory, moving.halted
    partners = moving.partners
    may_miss = jnp.zeros((), bool)
    if not _shares(run, conserving):
        graph, too_many = neighbors.select(search, state, table)
        lost |= too_many
    moved = after = run.propagate(system, state, graph)
    ahead: Any = ()
    if run.energy is not None:
        energies, after, ahead, may_miss = energetics.after_step(run, search, conserving, state, moved, table, energies)
    if not isinstance(ensemble, NVE):
        key, draw = jax.random.split(key)
        after, partners = ensembles.apply(ensemble, draw, system, after, kelvin, run.time_step_fs, partners)
    if monitor is not None:
        record = StepRecord(step, state, graph, moved, after, kelvin, energies)
        memory, halt, overflow = monitor.look(monitor.limits, search, system, record, memory)
        halted, lost, may_miss = halted | halt, lost | overflow, may_miss & ~halt
    pairs = ahead if _shares(run, conserving) else ()
    return _Moving(key, after.positions, after.velocities, memory, halted, lost | may_miss, energies, pairs, partners)


def _refresh(search: neighbors.Search, run: Run, carry: Carry, each: Callable, stale: Callable) -> Carry:
    """The carry with its table rebuilt if it is stale; atoms half a cell outside come back, if images are counted."""

    def rebuild():
        state, images = carry.state, carry.images
        if not isinstance(images, tuple):
            wrap = each(lambda run, state, images: _wrap(run.system, state, images))
            positions, images = wrap(run, state, images)
            state = state._replace(positions=positions)
        return state, images, each(lambda run, state: neighbors.build(search, run.system, state))(run, state)

    state, images, table = jax.lax.cond(
        stale(carry.state, carry.table),
        rebuild,
        lambda: (carry.state, carry.images, carry.table),
    )
    table = table._replace(overflow=table.overflow | carry.table.overflow)
    return carry._replace(state=state, images=images, table=table)


def _wrap(system: System, state: State, images: Array) -> tuple[Array, Array]:
    positions, cell = state.positions, state.cell
    fractional = positions @ matrices.inverse(cell)
    away = np.array(system.pbc) & ((fractional < -0.5) | (fractional >= 1.5))
    turns = jnp.where(away, jnp.floor(fractional), 0)
    return positions - turns @ cell, images + turns.astype(images.dtype)


def start(search: neighbors.Search, system: System, state: State, key: Array) -> Carry:
    """The carry before the first step."""
    return Carry(key, state, neighbors.build(search, system, state))


def scan(
    step: Step,
    carry: Carry,
    n_frames: int,
    observe: Callable[[Carry], Any] = lambda carry: {},
    wanted: Array | int | None = None,
    replicas: Replicas | None = None,
) -> tuple[Carry, tuple[State, Any]]:
    """Applies ``step`` n_frames times inside jit; returns the last carry and (state, observed) after each.

    Ends early, and repeats the last frame, where a neighbour table overflows (``table.overflow`` of the carry is then
    True, its other fields are those of the last good frame) or where all replicas are halted.

    Args:
        wanted: frames to compute, a number known only at run time; the others repeat the last.
        replicas: where the carry is one of replicas.
    """
    carry = carry._replace(step=jnp.asarray(carry.step), halted=jnp.asarray(carry.halted))

    def frame(carry, i):
        go = ~all_of(replicas, carry.halted) & ~any_of(replicas, carry.table.overflow)
        if wanted is not None:
            go &= i < wanted
        carry = jax.lax.cond(go, lambda carry: _good(carry, step(carry), replicas), lambda carry: carry, carry)
        return carry, (carry.state, observe(carry))

    return jax.lax.scan(frame, carry, jnp.arange(n_frames))


def _good(before: Carry, after: Carry, replicas: Replicas | None) -> Carry:
    """``after``; but where it is no good, what belongs to the last good frame."""
    lost, halted = any_of(replicas, after.table.overflow), after.halted

    def keep(bad, old, new):
        return jax.tree.map(lambda x, y: jnp.where(bad.reshape(bad.shape + (1,) * (y.ndim - bad.ndim)), x, y), old, new)

    table = jax.lax.cond(lost, lambda: before.table, lambda: after.table)
    return Carry(
        keep(halted | lost, before.key, after.key),
        keep(halted | lost, before.state, after.state),
        table._replace(overflow=after.table.overflow),
        jnp.where(all_of(replicas, halted) | lost, before.step, after.step),
        keep(halted | lost, before.images, after.images),
        keep(before.halted | lost, before.memory, after.memory),
        jnp.where(lost, before.halted, halted),
        keep(halted | lost, before.energies, after.energies),
        keep(halted | lost, before.barostat, after.barostat),
        keep(halted | lost, before.partners, after.partners),
    )
