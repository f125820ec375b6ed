"""Trajectories from any propagator, as blocks of frames: the caller writes, watches or stops between them."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ffmd_jax.core.state import Array, Propagate, State, System, take
from ffmd_jax.dynamics.engine import Block, Engine
from ffmd_jax.dynamics.records import FASTEST


class Diverged(ValueError):
    """A rollout that left the finite numbers, or physics."""


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
    """Yields the rollout as blocks of frames, so that the caller writes, watches or stops between them.

    The precision is that of ``state.positions``.  A neighbour table that overflows costs the repetition of one frame,
    never a wrong one.

    Args:
        n_steps: steps to take; a multiple of ``every``.
        options: of `Engine`, where the others are explained, too.

    Raises:
        ValueError: n_steps is not a positive multiple of every.
        Diverged: without a monitor: positions or velocities became NaN or infinite, or an atom moves faster than
            1 Å/fs; the message says when and which atom.  The frames before come first.
    """
    check_steps(n_steps, every)
    options = {"ramp_steps": n_steps, **options}
    engine = Engine(system, state, propagate, cutoff=cutoff, time_step_fs=time_step_fs, every=every, **options)
    carry = engine.start(state, key)
    while (left := (n_steps - int(carry.step)) // every) > 0 and not np.all(carry.halted):
        block = engine.advance(carry, left)
        bad = None if options.get("monitor") is not None else _first_bad(block)
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


def _cut(block: Block, n_frames: int) -> Block:
    """The first frames of a block; the carry is not theirs."""
    frames, times, seen = take((block.frames, block.times, block.observables), slice(n_frames))
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
