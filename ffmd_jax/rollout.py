"""Trajectories from any propagator: one step, a pure scan over steps, and blocks of scans with decisions in between."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ffmd_jax import neighbors
from ffmd_jax.state import Array, Graph, State, System, cast
from ffmd_jax.thermostat import Thermostat

Propagate = Callable[[System, State, Graph], State]
Observe = Callable[[System, State, Graph], dict[str, Array]]


class Carry(NamedTuple):
    """What a step needs and returns: PRNG key, state, neighbour table."""

    key: Array
    state: State
    table: neighbors.Neighbors


Step = Callable[[Carry], Carry]


class Block(NamedTuple):
    """Some frames of a roll-out, on the host.

    Attributes:
        frames: positions (unwrapped, Å) and velocities (Å/fs), ``[n_frames, n_atoms, 3]``.
        times: fs, ``[n_frames]``.
        observables: per-frame values of ``observe``, ``[n_frames, ...]``.
        carry: where the next block starts.
    """

    frames: State
    times: np.ndarray
    observables: dict[str, np.ndarray]
    carry: Carry


class Diverged(ValueError):
    """A roll-out that left the finite numbers, or physics."""


# Å/fs.  A hydrogen atom at 300 K has 0.03; at 1 it has 5 keV.  Single precision carries an exploded system for long.
_FASTEST = 1.0


def make_step(
    system: System,
    propagate: Propagate,
    search: neighbors.Search,
    thermostat: Thermostat | None = None,
    n_steps: int = 1,
) -> Step:
    """Returns the body of the scan: ``n_steps`` times neighbour table → propagate → thermostat (none: NVE).

    The table is checked before every step and rebuilt when an atom has moved half the skin.  Between rebuilds it is
    constant in an inner loop, so that XLA computes once what depends on it alone (lattice shifts, pair parameters):
    carrying it through every step costs the reference integrator a factor of three.
    """

    def move(key: Array, state: State, table: neighbors.Neighbors) -> tuple[Array, State, Array]:
        graph, too_many = neighbors.select(search, system, state.positions, table)
        state = propagate(system, state, graph)
        if thermostat is None:
            return key, state, too_many
        key, draw = jax.random.split(key)
        return key, thermostat(draw, system, state), too_many

    def until_stale(loop):
        done, carry = loop
        table = neighbors.update(search, system, carry.state.positions, carry.table)

        def again(inner):
            done, key, state, lost = inner
            key, state, too_many = move(key, state, table)
            return done + 1, key, state, lost | too_many

        # At least one step: the table is fresh, and not stale at the positions that it was built from.
        done, key, state, lost = jax.lax.while_loop(
            lambda inner: (inner[0] < n_steps) & ~neighbors.stale(search, inner[2].positions, table),
            again,
            (done, carry.key, carry.state, table.overflow),
        )
        return done, Carry(key, state, table._replace(overflow=lost))

    def step(carry: Carry) -> Carry:
        return jax.lax.while_loop(lambda loop: loop[0] < n_steps, until_stale, (0, carry))[1]

    return step


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

    The carry's ``table.overflow`` must be False for the frames to be valid.

    Args:
        wanted: frames to compute, a number known only at run time; the others repeat the last.
    """

    def frame(carry, i):
        carry = step(carry) if wanted is None else jax.lax.cond(i < wanted, step, lambda carry: carry, carry)
        return carry, (carry.state, observe(carry))

    return jax.lax.scan(frame, carry, jax.numpy.arange(n_frames))


def run(
    system: System,
    state: State,
    propagate: Propagate,
    *,
    cutoff: float,
    time_step_fs: float,
    n_steps: int,
    key: Array,
    every: int = 1,
    thermostat: Thermostat | None = None,
    observe: Observe | None = None,
    skin: float = 0.5,
    select: bool = False,
    block_steps: int = 100,
) -> Iterator[Block]:
    """Yields the roll-out as blocks of frames, so that the caller writes, watches or stops between them.

    The precision is that of ``state.positions``.  A neighbour table that overflows costs the repetition of one block,
    never a wrong frame.

    Args:
        propagate: one step of ``time_step_fs``: a model's, or a reference integrator's.
        cutoff: Å, of the propagator.
        n_steps: steps to take; a multiple of ``every``.
        every: steps between two frames.
        observe: extra per-frame values, computed inside jit.
        skin: Å, of the neighbour table.
        select: give ``propagate`` only the pairs within the cutoff, not those within cutoff + skin; pays where an edge
            costs more than a comparison, in networks.
        block_steps: steps per call of the compiled program, about.

    Raises:
        ValueError: n_steps is not a positive multiple of every.
        Diverged: positions or velocities became NaN or infinite, or an atom moves faster than 1 Å/fs; the message says
            when and which atom.
    """
    if every < 1 or n_steps < 1 or n_steps % every:
        raise ValueError(f"the number of steps ({n_steps}) must be a positive multiple of every ({every})")
    system = cast(system, state.positions.dtype)
    search = neighbors.plan(system, state.positions, cutoff, skin, headroom=1.15, select=select)
    n_frames, done = n_steps // every, 0
    size = min(max(1, block_steps // every), n_frames)

    def compiled(search):
        step = make_step(system, propagate, search, thermostat, n_steps=every)

        def look(carry: Carry) -> dict[str, Array]:
            return {} if observe is None else observe(system, carry.state, carry.table.graph)

        return jax.jit(lambda carry, wanted: scan(step, carry, size, look, wanted))

    advance = compiled(search)
    carry = jax.jit(start, static_argnums=0)(search, system, state, key)
    while done < n_frames:
        wanted = min(size, n_frames - done)
        after, results = advance(carry, wanted)
        if bool(after.table.overflow):
            search = neighbors.grow(search)
            advance = compiled(search)
            carry = jax.jit(start, static_argnums=0)(search, system, carry.state, carry.key)
            continue
        times = (done + 1 + np.arange(wanted)) * every * time_step_fs
        frames, observed = _first(results, wanted)
        _check_sane(frames, times)
        yield Block(frames, times, observed, after)
        carry, done = after, done + wanted


def gather(blocks: Iterator[Block]) -> Block:
    """All blocks as one; for runs that fit into memory."""
    parts = list(blocks)
    frames, times, observables = (
        jax.tree.map(lambda *x: np.concatenate(x), *(part[i] for part in parts)) for i in range(3)
    )
    return Block(frames, times, observables, parts[-1].carry)


def _first(results: Any, n_frames: int) -> Any:
    return jax.tree.map(lambda values: np.asarray(values)[:n_frames], results)


def _check_sane(frames: State, times: np.ndarray) -> None:
    finite = np.isfinite(frames.positions).all(axis=-1) & np.isfinite(frames.velocities).all(axis=-1)
    if not finite.all():
        frame, atom = np.argwhere(~finite)[0]
        raise Diverged(f"the trajectory diverged: atom {atom} is no longer finite at {times[frame]:g} fs")
    fast = np.abs(frames.velocities).max(axis=-1) > _FASTEST
    if fast.any():
        frame, atom = np.argwhere(fast)[0]
        speed = np.linalg.norm(frames.velocities[frame, atom].astype(float))
        raise Diverged(f"the trajectory diverged: atom {atom} moves at {speed:.2g} Å/fs at {times[frame]:g} fs")
