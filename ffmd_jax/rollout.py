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
    """A roll-out that left the finite numbers."""


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

    def move(key: Array, state: State, graph: Graph) -> tuple[Array, State]:
        state = propagate(system, state, graph)
        if thermostat is None:
            return key, state
        key, draw = jax.random.split(key)
        return key, thermostat(draw, system, state)

    def until_stale(loop):
        done, carry = loop
        table = neighbors.update(search, system, carry.state.positions, carry.table)
        # The first step needs no test: the table is fresh.
        done, key, state = jax.lax.while_loop(
            lambda inner: (inner[0] < n_steps) & ~neighbors.stale(search, inner[2].positions, table),
            lambda inner: (inner[0] + 1, *move(inner[1], inner[2], table.graph)),
            (done + 1, *move(carry.key, carry.state, table.graph)),
        )
        return done, Carry(key, state, table)

    def step(carry: Carry) -> Carry:
        return jax.lax.while_loop(lambda loop: loop[0] < n_steps, until_stale, (0, carry))[1]

    return step


def start(search: neighbors.Search, system: System, state: State, key: Array) -> Carry:
    """The carry before the first step."""
    return Carry(key, state, neighbors.build(search, system, state.positions))


def scan(
    step: Step, carry: Carry, n_frames: int, observe: Callable[[Carry], Any] = lambda carry: {}
) -> tuple[Carry, tuple[State, Any]]:
    """Applies ``step`` n_frames times inside jit; returns the last carry and (state, observed) after each.

    The carry's ``table.overflow`` must be False for the frames to be valid.
    """

    def frame(carry, _):
        carry = step(carry)
        return carry, (carry.state, observe(carry))

    return jax.lax.scan(frame, carry, length=n_frames)


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
        block_steps: steps per call of the compiled program, about.

    Raises:
        ValueError: n_steps is not a positive multiple of every.
        Diverged: positions or velocities became NaN or infinite; the message says when and which atom.
    """
    if every < 1 or n_steps < 1 or n_steps % every:
        raise ValueError(f"the number of steps ({n_steps}) must be a positive multiple of every ({every})")
    system = cast(system, state.positions.dtype)
    search = neighbors.plan(system, state.positions, cutoff, skin, headroom=1.15)

    def compiled(search):
        step = make_step(system, propagate, search, thermostat, n_steps=every)

        def look(carry: Carry) -> dict[str, Array]:
            return {} if observe is None else observe(system, carry.state, carry.table.graph)

        return jax.jit(lambda carry, n_frames: scan(step, carry, n_frames, look), static_argnums=1)

    advance = compiled(search)
    carry = jax.jit(start, static_argnums=0)(search, system, state, key)
    n_frames, done = n_steps // every, 0
    while done < n_frames:
        size = min(max(1, block_steps // every), n_frames - done)
        after, (frames, observed) = advance(carry, size)
        if bool(after.table.overflow):
            search = neighbors.grow(search)
            advance = compiled(search)
            carry = jax.jit(start, static_argnums=0)(search, system, carry.state, carry.key)
            continue
        times = (done + 1 + np.arange(size)) * every * time_step_fs
        frames = State(*(np.asarray(values) for values in frames))
        _check_finite(frames, times)
        yield Block(frames, times, {name: np.asarray(v) for name, v in observed.items()}, after)
        carry, done = after, done + size


def gather(blocks: Iterator[Block]) -> Block:
    """All blocks as one; for runs that fit into memory."""
    parts = list(blocks)
    frames, times, observables = (
        jax.tree.map(lambda *x: np.concatenate(x), *(part[i] for part in parts)) for i in range(3)
    )
    return Block(frames, times, observables, parts[-1].carry)


def _check_finite(frames: State, times: np.ndarray) -> None:
    finite = np.isfinite(frames.positions).all(axis=-1) & np.isfinite(frames.velocities).all(axis=-1)
    if not finite.all():
        frame, atom = np.argwhere(~finite)[0]
        raise Diverged(f"the trajectory diverged: atom {atom} is no longer finite at {times[frame]:g} fs")
