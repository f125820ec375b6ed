"""Trajectories from any propagator, as blocks of frames: what is compiled, and decisions in between.

Two runs that differ in their blocks alone are the same bit for bit: a frame during which the neighbour table overflows
is repeated from the frame before it, wherever blocks begin.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import Array, Graph, Propagate, State, System, Thermostat, cast
from ffmd_jax.dynamics.stepping import Carry, Moment, Schedule, Watch, make_step, scan, start

__all__ = [
    "Block",
    "Carry",
    "Diverged",
    "Engine",
    "Moment",
    "Propagate",
    "Watch",
    "gather",
    "make_step",
    "run",
    "scan",
    "start",
]

Observe = Callable[[System, State, Graph], dict[str, Array]]


class Block(NamedTuple):
    """Some frames of a roll-out, on the host; of replicas, arrays have a second axis ``n_replicas``.

    Attributes:
        frames: positions (unwrapped, Å) and velocities (Å/fs), ``[n_frames, n_atoms, 3]``.
        times: fs, ``[n_frames]``.
        observables: per-frame values of ``observe`` and of the watch, ``[n_frames, ...]``.
        carry: where the next block starts.
        valid: False for frames of a replica that has ended, bool ``[n_frames, n_replicas]``; None without replicas.
    """

    frames: State
    times: np.ndarray
    observables: dict[str, np.ndarray]
    carry: Carry
    valid: np.ndarray | None = None


class Diverged(ValueError):
    """A roll-out that left the finite numbers, or physics."""


# Å/fs.  A hydrogen atom at 300 K has 0.03; at 1 it has 5 keV.  Single precision carries an exploded system for long.
FASTEST = 1.0


class Engine:
    """A roll-out as a compiled block of steps; compiled anew, with larger tables, where a neighbour table overflows.

    Args:
        system: species, masses, cell; used in the precision of ``positions``.
        positions: Å, ``[..., n_atoms, 3]``, to plan the neighbour tables by, unless ``search`` is given.
        propagate: one step of ``time_step_fs``: a model's, or a reference integrator's.
        cutoff: Å, of the propagator.
        every: steps between two frames.
        thermostat: applied after each step; None: NVE.
        observe: extra per-frame values, computed inside jit.
        skin: Å, of the neighbour table.
        select: give ``propagate`` only the pairs within the cutoff, not those within cutoff + skin; pays where an edge
            costs more than a comparison, in networks.
        block_steps: steps per call of the compiled program, about.
        schedule: temperature, K, of the thermostat after a number of steps; ``[n_replicas]`` for replicas.
        watch: looks at every step, and may end the run.
        wrap: bring atoms back into the cell and count images, so that float32 keeps its precision far from it: the
            error of a step is half a unit in the last place of the cell's size, not of the way that an atom has gone.
        replicas: number of runs side by side; 0: one, without the axis.
        search: of an engine that is to be continued exactly.
    """

    def __init__(
        self,
        system: System,
        positions: Array,
        propagate: Propagate,
        *,
        cutoff: float,
        time_step_fs: float,
        every: int = 1,
        thermostat: Thermostat | None = None,
        observe: Observe | None = None,
        skin: float = neighbors.SKIN,
        select: bool = False,
        block_steps: int = 100,
        schedule: Schedule | None = None,
        watch: Watch | None = None,
        wrap: bool = False,
        replicas: int = 0,
        search: neighbors.Search | None = None,
    ):
        self.system = cast(system, positions.dtype)
        self.search = search or neighbors.plan(self.system, positions, cutoff, skin, headroom=1.15, select=select)
        self.every, self.time_step_fs, self.block_frames = every, time_step_fs, max(1, block_steps // every)
        self._propagate, self._wrap, self._replicas = propagate, wrap, replicas
        self._observe: Any = observe
        self._options: Any = {"schedule": schedule, "watch": watch, "replicas": replicas > 0}
        self._thermostat = thermostat
        self._watch: Any = watch
        self._compile()

    def _compile(self) -> None:
        """Programs for the present sizes of the tables."""
        system, search = self.system, self.search
        step = make_step(system, self._propagate, search, self._thermostat, self.every, **self._options)
        each = jax.vmap if self._replicas else lambda function: function

        def look(carry: Carry) -> Any:
            seen = {}
            if self._observe is not None:
                seen |= each(lambda state, table: self._observe(system, state, table.graph))(carry.state, carry.table)
            if self._watch is not None:
                seen |= each(self._watch.observe)(carry.memory)
            return seen, carry.images, carry.halted

        self._advance = jax.jit(lambda carry, wanted: scan(step, carry, self.block_frames, look, wanted))
        self._tables = jax.jit(each(lambda positions: neighbors.build(search, system, positions)))

    def start(self, state: State, key: Array, step: int = 0) -> Carry:
        """The carry of a state (of replicas, with a leading axis) after ``step`` steps."""
        shape = (self._replicas,) if self._replicas else ()
        memory: Any = ()
        if self._watch is not None:
            begin = lambda state: self._watch.start(self.system, state)  # noqa: E731
            memory = jax.jit(jax.vmap(begin) if self._replicas else begin)(state)
        images = jnp.zeros(state.positions.shape, jnp.int32) if self._wrap else ()
        steps, halted = jnp.asarray(step, jnp.int32), jnp.zeros(shape, bool)
        return Carry(key, state, self._tables(state.positions), steps, images, memory, halted)

    def begin_anew(self, carry: Carry, state: State, key: Array, step: int) -> Carry:
        """The carry of another state after ``step`` steps, with the record of a watch of what was before."""
        after = self.start(State(*(jnp.asarray(x, carry.state.positions.dtype) for x in state)), key, step)
        record = getattr(carry.memory, "record", None)
        return after if record is None else after._replace(memory=after.memory._replace(record=record))

    def advance(self, carry: Carry, n_frames: int) -> Block:
        """At most ``n_frames`` more frames, and at most ``block_frames``.

        Fewer where the watch ends the run (``carry.halted``) or where tables had to grow; none where it ends at once.
        """
        while True:
            after, (states, (seen, images, halted)) = self._advance(carry, n_frames)
            overflow = bool(jnp.any(after.table.overflow))
            if overflow:
                self.search = neighbors.grow(self.search)
                self._compile()
                after = after._replace(table=self._tables(after.state.positions))
            made = (int(after.step) - int(carry.step)) // self.every
            if made or not overflow:
                break
            carry = after
        frames, seen, images, halted = (_first(x, made) for x in (states, seen, images, halted))
        times = (int(carry.step) // self.every + 1 + np.arange(made)) * self.every * self.time_step_fs
        frames = frames._replace(positions=self._unwrapped(frames.positions, images))
        return Block(frames, times, seen, after, ~halted if self._replicas else None)

    def state(self, carry: Carry) -> State:
        """The state of a carry on the host, positions unwrapped."""
        state = jax.tree.map(np.asarray, carry.state)
        return state._replace(positions=self._unwrapped(state.positions, carry.images))

    def _unwrapped(self, positions: np.ndarray, images: Any) -> np.ndarray:
        if isinstance(images, tuple):
            return positions
        return positions + np.asarray(images) @ np.asarray(self.system.cell, np.float64)  # the cell as it was taken off


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
    **options: Any,
) -> Iterator[Block]:
    """Yields the roll-out as blocks of frames, so that the caller writes, watches or stops between them.

    The precision is that of ``state.positions``.  A neighbour table that overflows costs the repetition of one frame,
    never a wrong one.

    Args:
        n_steps: steps to take; a multiple of ``every``.
        options: of `Engine`, where the others are explained, too.

    Raises:
        ValueError: n_steps is not a positive multiple of every.
        Diverged: without a watch: positions or velocities became NaN or infinite, or an atom moves faster than 1 Å/fs;
            the message says when and which atom.  The frames before come first.
    """
    check_steps(n_steps, every)
    engine = Engine(
        system, state.positions, propagate, cutoff=cutoff, time_step_fs=time_step_fs, every=every, **options
    )  # fmt: skip
    carry = engine.start(state, key)
    while (left := (n_steps - int(carry.step)) // every) > 0 and not np.all(carry.halted):
        block = engine.advance(carry, left)
        bad = None if options.get("watch") is not None else _first_bad(block)
        if bad is not None:
            if bad[0]:
                yield _cut(block, bad[0])
            raise Diverged(f"the trajectory diverged: {bad[1]}")
        yield block
        carry = block.carry


def check_steps(n_steps: int, every: int) -> None:
    """Raises ValueError unless the number of steps is a positive multiple of the interval of the frames."""
    if every < 1 or n_steps < 1 or n_steps % every:
        raise ValueError(f"the number of steps ({n_steps}) must be a positive multiple of every ({every})")


def gather(blocks: Iterator[Block]) -> Block:
    """All blocks as one; for runs that fit into memory."""
    parts = list(blocks)
    frames, times, observables = (
        jax.tree.map(lambda *x: np.concatenate(x), *(part[i] for part in parts)) for i in range(3)
    )
    valid = None if parts[0].valid is None else np.concatenate([np.asarray(part.valid) for part in parts])
    return Block(frames, times, observables, parts[-1].carry, valid)


def _first(results: Any, n_frames: int) -> Any:
    return jax.tree.map(lambda values: np.asarray(values)[:n_frames], results)


def _cut(block: Block, n_frames: int) -> Block:
    """The first frames of a block; the carry is not theirs."""
    frames, times, seen = jax.tree.map(lambda values: values[:n_frames], (block.frames, block.times, block.observables))
    return Block(frames, times, seen, block.carry)


def _first_bad(block: Block) -> tuple[int, str] | None:
    """The first frame that is not finite or too fast, and what is wrong in it."""
    frames, times = block.frames, block.times
    finite: Any = np.isfinite(frames.positions).all(axis=-1) & np.isfinite(frames.velocities).all(axis=-1)
    fast = np.abs(frames.velocities).max(axis=-1) > FASTEST
    bad = np.argwhere(~finite | fast)
    if not len(bad):
        return None
    frame, atom = int(bad[0][0]), tuple(bad[0][1:])
    if not finite[frame][atom]:
        return frame, f"atom {atom[-1]} is no longer finite at {times[frame]:g} fs"
    speed = np.linalg.norm(frames.velocities[frame][atom].astype(float))
    return frame, f"atom {atom[-1]} moves at {speed:.2g} Å/fs at {times[frame]:g} fs"
