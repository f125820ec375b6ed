"""A roll-out as a file: blocks, alarms and what is done about them, and how to go on after a stop."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from ffmd_jax.core import files, units
from ffmd_jax.core import progress as progress_module
from ffmd_jax.core.state import Array, State, System
from ffmd_jax.dynamics import alarms, monitors, restart, rollout
from ffmd_jax.formats import journal, trajectory
from ffmd_jax.models.config import ModelConfig
from ffmd_jax.reference import fallback as fallbacks
from ffmd_jax.reference.engine import Bath

_SAVE_EVERY_S = 1.0
_BLOCK_S = 5.0  # of wall time, at most: a stop waits for the end of a block


class Plan(NamedTuple):
    """A roll-out.

    Attributes:
        config: of the model.
        system: of the run.
        state: the first; of replicas, with a leading axis.
        key: the first.
        make_engine: ``search or None -> Engine``.
        limits: of the monitors, or None.
        n_steps: to take in all.
        every: steps between two frames.
        replicas: their number; 0: one run, without the axis.
        on_alarm: what to do.
        fallback: the reference, with the bath at a time and the number of steps; or None.
        metadata: of the trajectory file.
        facts: what determines the trajectory.
        velocities: store them.
        dtype: of the file.
        wall_clock_s: wall time to stop after.
    """

    config: ModelConfig
    system: System
    state: State
    key: Array
    make_engine: Callable[[Any], rollout.Engine]
    limits: alarms.Limits | None
    n_steps: int
    every: int
    replicas: int
    on_alarm: Literal["stop", "warn", "fallback"]
    fallback: tuple[fallbacks.Fallback, Callable[[float], Bath | None], int] | None
    metadata: dict[str, Any]
    facts: dict[str, Any]
    velocities: bool
    dtype: Any
    wall_clock_s: float | None


class Progress:
    """Where a roll-out is: engine and carry, frames in the file, and what is to be remembered of alarms."""

    def __init__(self, plan: Plan, out: Path, resume: bool):
        saved = _find(plan, out) if resume else None
        self.plan, self.out, self.saved_at = plan, out, time.monotonic()
        self.engine = plan.make_engine(None if saved is None else saved.search)
        self.carry = self.engine.start(plan.state, plan.key)
        self.notes: dict[str, Any] = {"fallback_frames": 0, "ended_fs": {}}
        self.n_frames: tuple[int, ...] = (0,) * max(1, plan.replicas)
        if saved is not None:
            self.carry = restart.restore(saved, self.carry)
            self.notes, self.n_frames = saved.notes, saved.n_frames
            if not plan.replicas and bool(self.carry.halted):
                self.begin_anew(self.engine.state(self.carry), self.carry.key, int(self.carry.step))

    @property
    def step(self) -> int:
        return int(self.carry.step)

    def begin_anew(self, state: State, key: Array, step: int) -> None:
        """Goes on from a state after a break, with the alarms so far."""
        self.carry = self.engine.begin_anew(self.carry, state, key, step)

    def save(self, at_once: bool = False) -> None:
        """Writes the restart file, but not more often than every second."""
        if any(self.n_frames) and (at_once or time.monotonic() - self.saved_at > _SAVE_EVERY_S):
            path = restart.path_of(self.out)
            restart.save(path, self.carry, self.engine.search, self.plan.facts, self.notes, self.n_frames)
            self.saved_at = time.monotonic()

    def write(self, writer: trajectory.Writer, block: rollout.Block) -> None:
        """Appends a block, of each replica up to where it ended; only then it counts."""
        counts = list(self.n_frames)
        if not self.plan.replicas and len(block.times):
            writer.append(block.frames, block.times, block.observables)
            counts[0] += len(block.times)
        for i in range(self.plan.replicas):
            good = int(np.sum(np.asarray(block.valid)[:, i]))
            if good:
                frames, seen = jax.tree.map(lambda x: x[:good, i], (block.frames, block.observables))  # noqa: B023
                writer.append(frames, block.times[:good], seen, replica=i)
                counts[i] += good
        self.carry, self.n_frames = block.carry, tuple(counts)

    def alarms(self) -> list[list[monitors.Alarm]]:
        """Those of each replica, in the order in which they came."""
        if self.plan.limits is None:
            return [[] for _ in self.n_frames]
        record = jax.tree.map(np.asarray, self.carry.memory.record)
        if not self.plan.replicas:
            record = jax.tree.map(lambda values: values[None], record)
        rows = (jax.tree.map(lambda values: values[i], record) for i in range(len(self.n_frames)))  # noqa: B023
        return [monitors.describe(row, self.plan.config, self.plan.system) for row in rows]

    def summary(self) -> dict[str, Any]:
        """What the file says about alarms, JSON-able."""
        found = [[alarm._asdict() for alarm in each] for each in self.alarms()]
        if self.plan.replicas:
            of_each = {str(i): {**facts, "alarms": found[i]} for i, facts in enumerate(self.plan.metadata["each"])}
            return {"replicas": self.plan.replicas, "of_replicas": of_each}
        watched = self.plan.limits is not None
        return {"alarms": found[0] if watched else None, "fallback_frames": self.notes["fallback_frames"]}


def produce(plan: Plan, out: Path, resume: bool, overwrite: bool) -> None:
    """Runs the plan, or the rest of it.

    Raises:
        monitors.Stopped: a monitor ended the run; the good frames are in the file.
        KeyboardInterrupt: with how to go on.
    """
    progress = Progress(plan, out, resume)
    resumed = resume and out.exists()
    if progress.step >= plan.n_steps:
        print(f"{out}: all {progress.step} steps are there; more --steps go on")
        return
    if not resumed:
        files.remove(restart.path_of(out))
    options: Any = {"keep_frames": progress.n_frames} if resumed else {"overwrite": overwrite}
    metadata = {key: value for key, value in plan.metadata.items() if key != "each"} | {"settings": plan.facts}
    writer = trajectory.Writer(
        out, plan.system, metadata | progress.summary(), dtype=plan.dtype, velocities=plan.velocities,
        replicas=plan.replicas, **options,
    )  # fmt: skip
    begin, interval = progress.step * plan.config.time_step_fs / units.PS, plan.config.time_step_fs
    with writer, progress_module.asked_to_stop() as asked:
        blocks: Any = progress_module.follow(
            _blocks(progress, writer, asked), plan.n_steps * interval / units.PS, _label(plan), begin
        )  # fmt: skip
        try:
            for _ in blocks:
                pass
        except KeyboardInterrupt:
            progress.save(at_once=True)
            raise KeyboardInterrupt("The same command with --resume goes on.") from None
        finally:
            blocks.close()  # the bar ends before an error is printed
            writer.annotate(metadata | progress.summary())
    _report(progress)


def _label(plan: Plan) -> str:
    return f"force-free {str(plan.metadata['ensemble']).upper()}"


def _find(plan: Plan, out: Path) -> restart.Saved | None:
    """The restart file of ``out``, if the two belong to this plan; None if there is nothing to go on from."""
    path = restart.path_of(out)
    if out.exists() and not out.stat().st_size and not journal.journal_of(out).exists():
        out.unlink()  # killed before the first block was in it
    if out.exists():
        restart.check_same(str(out), _stored_facts(out), plan.facts)
    if not (path.exists() and out.exists()):
        return None  # stopped before the first restart file: it begins anew, to the same trajectory
    saved = restart.load(path)
    restart.check_same(str(path), saved.facts, plan.facts)
    return saved


def _stored_facts(out: Path) -> dict[str, Any] | None:
    try:
        return trajectory.read_metadata(out).get("settings")
    except ValueError:
        return None


def _blocks(progress: Progress, writer: trajectory.Writer, asked: Callable[[], bool]) -> Iterator[rollout.Block]:
    """Writes block after block, and yields them."""
    plan, began, size, warned = progress.plan, time.monotonic(), progress.engine.block_frames, set()
    while progress.step < plan.n_steps:
        started = time.monotonic()
        left = (plan.n_steps - progress.step) // plan.every
        block = progress.engine.advance(progress.carry, min(left, size))
        progress.write(writer, block)
        progress.save()
        if len(block.times):
            yield block
        _tell(progress, warned)
        if np.all(progress.carry.halted):
            if plan.on_alarm != "fallback":
                break
            for block in _fall_back(progress, writer):
                yield block
        took = time.monotonic() - started
        size = int(np.clip(size * _BLOCK_S / max(took, 1e-3), 1, min(2 * size, progress.engine.block_frames)))
        if asked() or (plan.wall_clock_s is not None and time.monotonic() - began + took > plan.wall_clock_s):
            break
    progress.save(at_once=True)


def _fall_back(progress: Progress, writer: trajectory.Writer) -> Iterator[rollout.Block]:
    """The reference for some frames from the last good state, then the model again."""
    plan = progress.plan
    assert plan.fallback is not None
    reference, bath_at, n_steps = plan.fallback
    left = (plan.n_steps - progress.step) // plan.every
    n_frames = min(left, -(-n_steps // plan.every))
    key, key_reference = jax.random.split(progress.carry.key)
    begin = progress.step * plan.config.time_step_fs
    state, parts = progress.engine.state(progress.carry), []
    for block in fallbacks.run(reference, state, n_frames, plan.every, key_reference, bath_at(begin)):
        parts.append(block)
    whole = rollout.gather(iter(parts))
    step = progress.step // plan.every
    times = (step + 1 + np.arange(n_frames)) * plan.every * plan.config.time_step_fs
    unknown = {"round_trip_error": np.full(n_frames, np.nan)}
    progress.write(writer, rollout.Block(whole.frames, times, unknown, progress.carry))
    progress.begin_anew(State(*(values[-1] for values in whole.frames)), key, progress.step + n_frames * plan.every)
    progress.notes["fallback_frames"] += n_frames
    progress.save(at_once=True)
    yield rollout.Block(whole.frames, times, unknown, progress.carry)


def _tell(progress: Progress, warned: set) -> None:
    """Says once for each kind of alarm what happened, where the run goes on."""
    for i, found in enumerate(progress.alarms()):
        name = f"replica {i}: " if progress.plan.replicas else ""
        for alarm in found:
            if (i, alarm.kind) not in warned and (progress.plan.replicas or progress.plan.on_alarm != "stop"):
                progress_module.warn(f"{name}{alarm.text} (at {alarm.time_fs:g} fs)")
            warned.add((i, alarm.kind))


def _report(progress: Progress) -> None:
    """Prints what came out; raises `monitors.Stopped` if a monitor ended all of it."""
    plan, out, found = progress.plan, progress.out, progress.alarms()
    frames = " + ".join(map(str, progress.n_frames))
    done = progress.step * plan.config.time_step_fs
    if np.all(progress.carry.halted):
        last = max((alarm for each in found for alarm in each), key=lambda alarm: alarm.time_fs)
        if not any(progress.n_frames):
            files.remove(out)
            raise monitors.Stopped(f"{last.text} (at {last.time_fs:g} fs, before the first frame; nothing is written)")
        raise monitors.Stopped(f"{last.text} (at {last.time_fs:g} fs); {out} keeps the {frames} good frames before it")
    notes = ""
    if plan.limits is not None and not plan.replicas:
        notes = "; no alarms" if not found[0] else f"; alarms: {', '.join(alarm.kind for alarm in found[0])}"
    if progress.notes["fallback_frames"]:
        notes += f"; {progress.notes['fallback_frames']} frames by the reference"
    if plan.replicas:
        dead = [str(i) for i, halted in enumerate(np.asarray(progress.carry.halted)) if halted]
        notes = f"; ended by an alarm: replica {', '.join(dead)}" if dead else "; no replica ended early"
    print(f"{out}: {frames} frames, {done / units.PS:g} ps at Δt = {plan.config.time_step_fs:g} fs{notes}")
    if progress.step < plan.n_steps:
        print(f"stopped before the end, after {progress.step} of {plan.n_steps} steps; --resume goes on")
