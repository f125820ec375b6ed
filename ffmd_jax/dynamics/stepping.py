"""Steps of any propagator inside jit: neighbour table → propagate → thermostat → watch, and a scan over them.

Pure functions; `rollout` calls them block by block.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import Array, Graph, Propagate, State, System, Thermostat, full_precision

Schedule = Callable[[Array], Array]


class Carry(NamedTuple):
    """What a step needs and returns; of replicas, all but ``step`` with a leading axis.

    Attributes:
        key: PRNG key.
        state: of the atoms; positions may be wrapped.
        table: neighbours.
        step: steps taken.
        images: lattice vectors taken off the positions, int32 ``[n_atoms, 3]``; () where nothing is wrapped.
        memory: of the watch, up to the step that ended the run.
        halted: True once the watch ended the run; then the other fields are those of the last good frame.
    """

    key: Array
    state: State
    table: neighbors.Neighbors
    step: Any = 0
    images: Any = ()
    memory: Any = ()
    halted: Any = False


Step = Callable[[Carry], Carry]


class Moment(NamedTuple):
    """One step as a watch sees it.

    Attributes:
        step: number of steps before this one.
        before: state that was propagated, with ``graph``.
        moved: what the propagator made of it.
        after: ``moved`` with the thermostat applied.
        temperature_K: what the thermostat was set to, or NaN.
    """

    step: Array
    before: State
    graph: Graph
    moved: State
    after: State
    temperature_K: Array


class Watch(NamedTuple):
    """What looks at every step, inside the compiled block.

    Attributes:
        start: ``(system, state) -> memory``.
        look: ``(search, system, moment, memory) -> (memory, halt, overflow)``; ``halt`` ends the run before this frame,
            ``overflow`` says that a neighbour table that it built was too small.
        observe: ``memory -> values`` to store with every frame.
    """

    start: Callable[[System, State], Any]
    look: Callable[[neighbors.Search, System, Moment, Any], tuple[Any, Array, Array]]
    observe: Callable[[Any], dict[str, Array]]


def make_step(
    system: System,
    propagate: Propagate,
    search: neighbors.Search,
    thermostat: Thermostat | None = None,
    n_steps: int = 1,
    *,
    schedule: Schedule | None = None,
    watch: Watch | None = None,
    replicas: bool = False,
) -> Step:
    """Returns the body of the scan: ``n_steps`` times neighbour table → propagate → thermostat (none: NVE).

    The table is checked before every step and rebuilt when an atom has moved half the skin.  Between rebuilds it is
    constant in an inner loop, so that XLA computes once what depends on it alone (lattice shifts, pair parameters):
    carrying it through every step costs the reference integrator a factor of three.

    Args:
        schedule: temperature, K, of the thermostat after the given number of steps; ``[n_replicas]`` for replicas.
        watch: looks at every step.
        replicas: the carry is one of replicas, whose tables are rebuilt together.
    """
    each: Any = jax.vmap if replicas else lambda function, in_axes=0: function

    def move(key, state, table, step, memory, halted, kelvin):
        graph, too_many = neighbors.select(search, system, state.positions, table)
        moved = after = propagate(system, state, graph)
        if thermostat is not None:
            key, draw = jax.random.split(key)
            after = thermostat(draw, system, moved, *(() if schedule is None else (kelvin,)))
        if watch is not None:
            moment = Moment(step, state, graph, moved, after, kelvin)
            memory, halt, lost = watch.look(search, system, moment, memory)
            halted, too_many = halted | halt, too_many | lost
        return key, after, memory, halted, too_many

    def on(done, halted):
        return (done < n_steps) & ~jnp.all(halted)

    move_each = each(move, in_axes=(0, 0, 0, None, 0, 0, 0))
    stale_each = each(lambda positions, table: neighbors.stale(search, positions, table))

    def until_stale(loop):
        done, carry = loop
        carry = _refresh(search, system, carry, each, stale_each)
        table = carry.table

        def again(inner):
            done, key, state, memory, halted, lost = inner
            step = carry.step + done - loop[0]
            kelvin = jnp.full(halted.shape, jnp.nan) if schedule is None else schedule(step + 1)
            kelvin = kelvin.astype(state.positions.dtype)
            key, state, memory, halted, too_many = move_each(key, state, table, step, memory, halted, kelvin)
            return done + 1, key, state, memory, halted, lost | too_many

        # At least one step: the table is fresh, and not stale at the positions that it was built from.
        done, key, state, memory, halted, lost = jax.lax.while_loop(
            lambda inner: on(inner[0], inner[4]) & ~jnp.any(stale_each(inner[2].positions, table)),
            again,
            (done, carry.key, carry.state, carry.memory, carry.halted, table.overflow),
        )
        return done, carry._replace(
            key=key, state=state, memory=memory, halted=halted, table=table._replace(overflow=lost),
            step=carry.step + done - loop[0],
        )  # fmt: skip

    @full_precision
    def step(carry: Carry) -> Carry:
        carry = carry._replace(step=jnp.asarray(carry.step), halted=jnp.asarray(carry.halted))
        return jax.lax.while_loop(lambda loop: on(loop[0], loop[1].halted), until_stale, (0, carry))[1]

    return step


def _refresh(search: neighbors.Search, system: System, carry: Carry, each, stale_each) -> Carry:
    """The carry with its table rebuilt if it is stale; atoms half a cell outside come back, if images are counted."""

    def rebuild():
        state, images = carry.state, carry.images
        if not isinstance(images, tuple):
            positions, images = each(lambda r, images: _wrap(system, r, images))(state.positions, images)
            state = state._replace(positions=positions)
        return state, images, each(lambda r: neighbors.build(search, system, r))(state.positions)

    state, images, table = jax.lax.cond(
        jnp.any(stale_each(carry.state.positions, carry.table)),
        rebuild,
        lambda: (carry.state, carry.images, carry.table),
    )
    table = table._replace(overflow=table.overflow | carry.table.overflow)
    return carry._replace(state=state, images=images, table=table)


def _wrap(system: System, positions: Array, images: Array) -> tuple[Array, Array]:
    cell = jnp.asarray(system.cell, positions.dtype)
    fractional = positions @ jnp.linalg.inv(cell)
    away = jnp.asarray(system.pbc) & ((fractional < -0.5) | (fractional >= 1.5))
    turns = jnp.where(away, jnp.floor(fractional), 0)
    return positions - turns @ cell, images + turns.astype(images.dtype)


def start(search: neighbors.Search, system: System, state: State, key: Array) -> Carry:
    """The carry before the first step."""
    return Carry(key, state, neighbors.build(search, system, state.positions))


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
    )
