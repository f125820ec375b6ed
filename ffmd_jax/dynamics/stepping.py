"""Steps of any propagator inside jit, and a scan over them.

Neighbour table → propagate → energy conservation → thermostat → monitor; at intervals, the barostat before these.

Pure functions; `rollout` calls them block by block.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import conservation, mechanics, neighbors
from ffmd_jax.core.state import Array, Energy, Graph, Propagate, State, System, full_precision
from ffmd_jax.dynamics import barostat as barostats
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics.ensemble import NPT, NVE, Ensemble

# Å/fs.  A hydrogen atom at 300 K has 0.03; at 1 it has 5 keV.  Single precision carries an exploded system for long.
FASTEST = 1.0


class Carry(NamedTuple):
    """What a step needs and returns; of replicas, all but ``step`` with a leading axis.

    Attributes:
        key: PRNG key.
        state: of the atoms; positions may be wrapped.
        table: neighbours.
        step: steps taken.
        images: lattice vectors taken off the positions, int32 ``[n_atoms, 3]``; () where nothing is wrapped.
        memory: of the monitor, up to the step that ended the run.
        energies: of a run with a potential; else ().
        barostat: its memory; () where the volume is constant.
        halted: True once the monitor ended the run; then the other fields are those of the last good frame.
    """

    key: Array
    state: State
    table: neighbors.Neighbors
    step: Any = 0
    images: Any = ()
    memory: Any = ()
    halted: Any = False
    energies: Any = ()
    barostat: Any = ()


Step = Callable[[Carry], Carry]


class Energies(NamedTuple):
    """Energies of a run with a potential, eV; scalars, in double precision where that is enabled.

    Attributes:
        potential: of the state.
        start: potential and kinetic energy at the start of the run.
        gained: by the propagator since the start, before anything was conserved; a thermostat has no part in it.
        owed: what energy conservation could not take out in the last step.
        table: neighbours for an energy that has a table of its own; else ().
    """

    potential: Array
    start: Array
    gained: Array
    owed: Array
    table: Any = ()


class StepRecord(NamedTuple):
    """One step as a monitor sees it.

    Attributes:
        step: number of steps before this one.
        before: state that was propagated, with ``graph``.
        moved: what the propagator made of it.
        after: ``moved`` with the thermostat applied.
        temperature_K: target of the thermostat, or NaN.
        energies: after the step; () in a run without a potential.
    """

    step: Array
    before: State
    graph: Graph
    moved: State
    after: State
    temperature_K: Array
    energies: Any = ()


class Monitor(NamedTuple):
    """What looks at every step, inside the compiled block; `jax.tree_util.Partial`s, whose arrays are its arguments.

    Attributes:
        start: ``(system, state) -> memory``.
        look: ``(search, system, record, memory) -> (memory, halt, overflow)``; ``halt`` ends the run before this frame,
            ``overflow`` says that a neighbour table that it built was too small.
        observe: ``memory -> values`` to store with every frame.
    """

    start: Callable[[System, State], Any]
    look: Callable[[neighbors.Search, System, StepRecord, Any], tuple[Any, Array, Array]]
    observe: Callable[[Any], dict[str, Array]]


class Run(NamedTuple):
    """What a run is besides its state: arguments of the compiled program.

    Attributes:
        system: in the precision of the state.
        propagate: one step; a `jax.tree_util.Partial` of a function and its arrays, so that models of the same shapes
            share a program, or any hashable function.
        time_step_fs: of a step, fs.
        ensemble: complete, see `ensemble.complete`.
        ramp_steps: over which the temperature changes.
        monitor: looks at every step; None: nothing does.
        observe: ``(system, state, graph) -> values`` to store with every frame; None: nothing.
        energy: potential energy, a Partial as ``propagate``; None: there is none.
        molecules: what the barostat scales as rigid bodies; None: every atom by itself.
    """

    system: System
    propagate: Propagate
    time_step_fs: Any = 1.0
    ensemble: Ensemble = NVE()
    ramp_steps: Any = 1
    monitor: Monitor | None = None
    observe: Callable[[System, State, Graph], dict[str, Array]] | None = None
    energy: Energy | None = None
    molecules: barostats.Molecules | None = None


class Conserving(NamedTuple):
    """How a run uses its potential; static.

    Attributes:
        search: of the energy's own neighbour table; None: it shares that of the propagator, whose search looks ahead.
        conserve: scale velocities after each step so that the propagator leaves the total energy as it is.
    """

    search: neighbors.Search | None = None
    conserve: bool = False


_PLAIN = Conserving()


def make_step(
    run: Run,
    search: neighbors.Search,
    n_steps: int = 1,
    *,
    replicas: bool = False,
    conserving: Conserving = _PLAIN,
) -> Step:
    """Returns the body of the scan: ``n_steps`` times neighbour table → propagate → thermostat → monitor.

    The table is checked before every step and rebuilt when an atom has moved half the skin.  Between rebuilds it is
    constant in an inner loop, as is the cell, so that XLA computes once what depends on them alone (lattice shifts,
    pair parameters): carrying them through every step costs the reference integrator a factor of three.

    Args:
        replicas: the carry is one of replicas, whose tables are rebuilt together.
        conserving: how a potential is used.
    """
    system, ensemble, monitor = run.system, run.ensemble, run.monitor
    each: Any = jax.vmap if replicas else lambda function, in_axes=0: function

    def move(key, state, table, step, memory, halted, kelvin, energies, graph):
        too_many = lost = jnp.zeros((), bool)
        if not shares:
            graph, too_many = neighbors.select(search, state, table)
        moved = after = run.propagate(system, state, graph)
        ahead = graph
        if run.energy is not None:
            energies, after, ahead, lost = _with_energy(run, search, conserving, state, moved, table, energies)
        if not isinstance(ensemble, NVE):
            key, draw = jax.random.split(key)
            after = ensembles.apply(ensemble, draw, system, after, kelvin, run.time_step_fs)
        if monitor is not None:
            record = StepRecord(step, state, graph, moved, after, kelvin, energies)
            memory, halt, overflow = monitor.look(search, system, record, memory)
            halted, too_many, lost = halted | halt, too_many | overflow, lost & ~halt
        return key, after, memory, halted, too_many | lost, energies, ahead if shares else ()

    def on(done, halted):
        return (done < n_steps) & ~jnp.all(halted)

    # The pairs that the energy of one step has seen are those that the next one propagates with.
    shares = run.energy is not None and conserving.search is None
    move_each = each(move, in_axes=(0, 0, 0, None, 0, 0, 0, 0, 0))
    select_each = each(lambda state, table: neighbors.select(search, state, table))
    stale_each = each(lambda state, table: neighbors.stale(search, state, table))

    def until_stale(loop):
        done, carry = loop
        carry = _refresh(search, system, carry, each, stale_each)

        def kelvin_at(step, like):
            kelvin = ensembles.temperature(ensemble, (step + 1) / run.ramp_steps)
            return jnp.broadcast_to(jnp.asarray(kelvin, carry.state.positions.dtype), like.shape)

        if isinstance(ensemble, NPT):
            carry = _change_volume(run, search, conserving, carry, each, kelvin_at(carry.step, carry.halted))
        table, cell = carry.table, carry.state.cell
        graph, too_many = select_each(carry.state, table) if shares else ((), False)

        def again(inner):
            done, key, positions, velocities, memory, halted, lost, energies, graph = inner
            step = carry.step + done - loop[0]
            state, kelvin = State(positions, velocities, cell), kelvin_at(step, halted)
            key, state, memory, halted, too_many, energies, graph = move_each(
                key, state, table, step, memory, halted, kelvin, energies, graph
            )
            return done + 1, key, state.positions, state.velocities, memory, halted, lost | too_many, energies, graph

        def go_on(inner):
            fresh = ~jnp.any(stale_each(State(inner[2], inner[3], cell), table))
            if isinstance(ensemble, NPT):  # the barostat acts before the table is looked at
                steps = inner[0] - loop[0]
                fresh &= (steps == 0) | ((carry.step + steps) % ensemble.barostat_every != 0)
            return on(inner[0], inner[5]) & fresh

        # At least one step: the table is fresh, and not stale at the positions that it was built from.
        begin = (done, carry.key, *carry.state[:2], carry.memory, carry.halted, table.overflow | too_many)
        done, key, positions, velocities, memory, halted, lost, energies, _ = jax.lax.while_loop(
            go_on, again, (*begin, carry.energies, graph)
        )
        return done, carry._replace(
            key=key, state=State(positions, velocities, cell), memory=memory, halted=halted,
            table=table._replace(overflow=lost), step=carry.step + done - loop[0], energies=energies,
        )  # fmt: skip

    @full_precision
    def step(carry: Carry) -> Carry:
        carry = carry._replace(step=jnp.asarray(carry.step), halted=jnp.asarray(carry.halted))
        return jax.lax.while_loop(lambda loop: on(loop[0], loop[1].halted), until_stale, (0, carry))[1]

    return step


def _with_energy(
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


def start_energies(
    run: Run, search: neighbors.Search, conserving: Conserving, state: State, table: neighbors.Neighbors
) -> Energies:
    """The energies before the first step."""
    own = () if conserving.search is None else neighbors.build(conserving.search, run.system, state)
    potential, own, _, _ = potential_energy(run, search, conserving, state, table, own)
    kinetic = mechanics.kinetic_energy(run.system, jnp.asarray(state.velocities, potential.dtype))
    nothing = jnp.zeros_like(potential)
    return Energies(potential, potential + kinetic, nothing, nothing, own)


def _change_volume(
    run: Run, search: neighbors.Search, conserving: Conserving, carry: Carry, each: Any, kelvin: Array
) -> Carry:
    """The carry after a trial move of the barostat, if it is due."""
    ensemble: Any = run.ensemble

    def act(key, state, table, energies, memory, kelvin):
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
        return each(act)(carry.key, carry.state, carry.table, carry.energies, carry.barostat, kelvin)

    due = (carry.step % ensemble.barostat_every == 0) & (carry.step > 0)
    kept = (carry.key, carry.state, carry.table, carry.energies, carry.barostat)
    key, state, table, energies, memory = jax.lax.cond(due, tried, lambda: kept)
    return carry._replace(key=key, state=state, table=table, energies=energies, barostat=memory)


def _refresh(search: neighbors.Search, system: System, carry: Carry, each, stale_each) -> Carry:
    """The carry with its table rebuilt if it is stale; atoms half a cell outside come back, if images are counted."""

    def rebuild():
        state, images = carry.state, carry.images
        if not isinstance(images, tuple):
            positions, images = each(lambda state, images: _wrap(system, state, images))(state, images)
            state = state._replace(positions=positions)
        return state, images, each(lambda state: neighbors.build(search, system, state))(state)

    state, images, table = jax.lax.cond(
        jnp.any(stale_each(carry.state, carry.table)),
        rebuild,
        lambda: (carry.state, carry.images, carry.table),
    )
    table = table._replace(overflow=table.overflow | carry.table.overflow)
    return carry._replace(state=state, images=images, table=table)


def _wrap(system: System, state: State, images: Array) -> tuple[Array, Array]:
    positions, cell = state.positions, state.cell
    fractional = positions @ jnp.linalg.inv(cell)
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
) -> tuple[Carry, tuple[State, Any]]:
    """Applies ``step`` n_frames times inside jit; returns the last carry and (state, observed) after each.

    Ends early, and repeats the last frame, where a neighbour table overflows (``table.overflow`` of the carry is then
    True, its other fields are those of the last good frame) or where all replicas are halted.

    Args:
        wanted: frames to compute, a number known only at run time; the others repeat the last.
    """
    carry = carry._replace(step=jnp.asarray(carry.step), halted=jnp.asarray(carry.halted))

    def frame(carry, i):
        go = ~jnp.all(carry.halted) & ~jnp.any(carry.table.overflow)
        if wanted is not None:
            go &= i < wanted
        carry = jax.lax.cond(go, lambda carry: _good(carry, step(carry)), lambda carry: carry, carry)
        return carry, (carry.state, observe(carry))

    return jax.lax.scan(frame, carry, jnp.arange(n_frames))


def _good(before: Carry, after: Carry) -> Carry:
    """``after``; but where it is no good, what belongs to the last good frame."""
    lost, halted = jnp.any(after.table.overflow), after.halted

    def keep(bad, old, new):
        return jax.tree.map(lambda x, y: jnp.where(bad.reshape(bad.shape + (1,) * (y.ndim - bad.ndim)), x, y), old, new)

    table = jax.lax.cond(lost, lambda: before.table, lambda: after.table)
    return Carry(
        keep(halted | lost, before.key, after.key),
        keep(halted | lost, before.state, after.state),
        table._replace(overflow=after.table.overflow),
        jnp.where(jnp.all(halted) | lost, before.step, after.step),
        keep(halted | lost, before.images, after.images),
        keep(before.halted | lost, before.memory, after.memory),
        jnp.where(lost, before.halted, halted),
        keep(halted | lost, before.energies, after.energies),
        keep(halted | lost, before.barostat, after.barostat),
    )
