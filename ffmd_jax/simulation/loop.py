"""The loop of a rollout: blocks of steps, alarms and what is done about them, a stop at any time."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ffmd_jax.analysis import bonds
from ffmd_jax.core import processes, units
from ffmd_jax.core import progress as bars
from ffmd_jax.core.state import Array, State, cast, take
from ffmd_jax.dynamics import alarms as alarm_limits
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics import monitors as monitor_limits
from ffmd_jax.dynamics import recorder as recorders
from ffmd_jax.dynamics import restart, rollout
from ffmd_jax.dynamics.engine import AHEAD, Block, Engine
from ffmd_jax.dynamics.ensemble import NPT, NVE, Ensemble
from ffmd_jax.dynamics.monitors import Alarm
from ffmd_jax.dynamics.potentials import Potential
from ffmd_jax.dynamics.records import Carry
from ffmd_jax.formats import trajectory
from ffmd_jax.models import model as models
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import fallback as fallbacks
from ffmd_jax.simulation.collection import Collection
from ffmd_jax.simulation.result import Run
from ffmd_jax.simulation.starts import Begin
from ffmd_jax.simulation.windows import Windows

logger = logging.getLogger("ffmd_jax")

_BLOCK_S = 5.0  # of wall time, at most: a stop waits for the end of a block


class Plan(NamedTuple):
    """A rollout; see `simulate`."""

    model: Model
    begin: Begin
    ensemble: Ensemble
    limits: alarm_limits.Limits | None
    n_steps: int
    every: int
    on_alarm: str
    check_every: int
    fallback: tuple[tuple[fallbacks.Fallback, ...], int] | None
    dtype: Any
    tables: bool
    reversible: bool
    potential: Potential | None = None
    conserve_energy: bool = False
    devices: int | None = None
    watch_bonds: bool = False
    collection: Collection | None = None


class Until(NamedTuple):
    """When to end before the last step."""

    asked: Callable[[], bool]
    deadline: float | None

    def over(self, coming_s: float) -> bool:
        late = self.deadline is not None and time.monotonic() + coming_s > self.deadline
        return late or self.asked()


def _make_engine(plan: Plan, searches: Any) -> Engine:
    config, begin = plan.model.config, plan.begin
    once = models.propagator(plan.model, plan.dtype, tables=plan.tables)
    propagate = once
    if plan.reversible:
        propagate = models.propagator(plan.model, plan.dtype, tables=plan.tables, reversible=True)
    monitor = None
    if plan.limits is not None:
        monitor = alarm_limits.monitor(once, plan.limits, plan.check_every, plan.on_alarm != "warn")
    return Engine(
        begin.system, cast(begin.state, plan.dtype), propagate, cutoff=config.architecture.cutoff,
        time_step_fs=config.time_step_fs, every=plan.every, ensemble=plan.ensemble, ramp_steps=plan.n_steps,
        select=True, monitor=monitor, wrap=True, replicas=begin.replicas, devices=plan.devices, searches=searches,
        potential=plan.potential, conserve_energy=plan.conserve_energy, ahead=AHEAD * config.displacement_rms,
    )  # fmt: skip


def _make_windows(plan: Plan, out: Path | None, anew: bool) -> Windows | None:
    """What keeps every step around changes of bonds, where the file does not."""
    if out is None or plan.every == 1 or isinstance(plan.ensemble, NPT):
        return None
    closely, folder = plan._replace(every=1, limits=None), out.with_name(f"{out.stem}_bonds")
    windows = Windows(folder, plan.begin.system, plan.ensemble, plan.every, lambda: _make_engine(closely, None))
    if anew:
        windows.clear()
    return windows


class _Progress:
    """Where a rollout is: engine, carry, recorder, and the bonds that are watched."""

    def __init__(
        self,
        plan: Plan,
        saved: restart.Saved | None,
        recorder: recorders.Recorder,
        watch: bonds.Watch | None,
        out: Path | None,
    ):
        self.plan, self.recorder, self.watch = plan, recorder, watch
        self.engine = _make_engine(plan, None if saved is None else saved.searches)
        self.go_on(self.engine.start(cast(plan.begin.state, plan.dtype), plan.begin.key))
        if saved is not None:
            self.go_on(restart.restore(saved, self.carry))
            if not plan.begin.replicas and bool(self.carry.halted):
                self.begin_anew(self.engine.state(self.carry), self.carry.key, self.step)
        self.step_before = self.step
        self.windows = None if watch is None else _make_windows(plan, out, saved is None)

    def go_on(self, carry: Carry) -> None:
        """Continues from here; what the monitors have seen comes to the host."""
        self.carry = carry
        record = getattr(carry.memory, "record", ())
        self.halted, self._record = jax.tree.map(np.asarray, processes.whole((carry.halted, record)))

    @property
    def step(self) -> int:
        return int(self.carry.step)

    @property
    def time_fs(self) -> float:
        return self.step * self.plan.model.config.time_step_fs

    def begin_anew(self, state: State, key: Array, step: int) -> None:
        """Continues from a state after a break, with the alarms so far."""
        self.go_on(self.engine.begin_anew(self.carry, state, key, step))

    def note_halving(self, time_step_fs: float, n_steps: int) -> None:
        """Notes and logs that the next Δt are made of shorter ones."""
        length_fs = n_steps * self.plan.model.config.time_step_fs
        halvings = self.recorder.notes.setdefault("halvings", [])
        halvings.append({"time_fs": self.time_fs, "length_fs": length_fs, "time_step_fs": time_step_fs})
        logger.warning("Δt is %g fs from %g fs on, for %g fs", time_step_fs, self.time_fs, length_fs)

    def alarms(self) -> list[list[Alarm]]:
        """Those of each replica, in the order in which they came."""
        plan = self.plan
        if plan.limits is None:
            return [[] for _ in self.recorder.n_frames]
        record, n_replicas = self._record, plan.begin.replicas
        rows = [take(record, i) for i in range(n_replicas)] if n_replicas else [record]
        return [monitor_limits.describe(row, plan.model.config, plan.begin.system) for row in rows]

    def summary(self) -> dict[str, Any]:
        """What the file says about alarms, JSON-able."""
        plan, found = self.plan, [[alarm._asdict() for alarm in each] for each in self.alarms()]
        n_replicas = plan.begin.replicas
        if n_replicas:
            said = ensembles.metadata(plan.ensemble)
            kelvins = np.broadcast_to(getattr(plan.ensemble, "temperature_K", np.nan), (n_replicas,))
            constant = said["thermostat"] is not None and said["temperature_end_K"] is None
            of_each = {
                str(i): {"temperature_K": float(kelvins[i]) if constant else None, "alarms": found[i]}
                for i in range(n_replicas)
            }
            return {"replicas": n_replicas, "of_replicas": of_each}
        watched = plan.limits is not None
        noted: dict[str, Any] = (
            {} if self.watch is None else {"bond_changes": [change._asdict() for change in self.watch.changes]}
        )
        if plan.on_alarm == "halve":
            noted["halvings"] = self.recorder.notes.get("halvings", [])
        fallback_frames = self.recorder.notes["fallback_frames"]
        return {"alarms": found[0] if watched else None, "fallback_frames": fallback_frames, **noted}

    def result(self, out: Path | None) -> Run:
        """The run so far."""
        plan, found = self.plan, self.alarms()
        n_replicas, halted = plan.begin.replicas, np.atleast_1d(self.halted)
        alarms: Any = found if n_replicas else found[0]
        return Run(
            out, self.step, plan.model.config.time_step_fs, self.recorder.n_frames,
            alarms if plan.limits is not None else None, bool(halted.all()),
            tuple(np.flatnonzero(halted).tolist()) if n_replicas else (), self.step >= plan.n_steps,
            self.recorder.notes["fallback_frames"], n_replicas, self.step_before,
            None if self.watch is None else tuple(self.watch.changes),
            tuple(self.recorder.notes.get("halvings", ())) if plan.on_alarm == "halve" else None,
            tuple(self.recorder.trajectories()) if out is None else (),
        )  # fmt: skip


def produce(
    plan: Plan,
    facts: dict[str, Any],
    metadata: dict[str, Any],
    out: Path | None,
    resume: bool,
    overwrite: bool,
    writing: dict[str, Any],
    show: bool | Callable[[float, float], None],
    until: Until,
) -> Run:
    """Runs the plan, or the rest of it."""
    if out is None and resume:
        raise ValueError("only a run in a file can be resumed: give out")
    if resume and overwrite:
        raise ValueError("resume continues a file and overwrite replaces it: say one")
    if out is not None and out.exists() and not (resume or overwrite):
        raise FileExistsError(f"{out} exists already; choose another, or say resume or overwrite")
    saved = recorders.find(out, facts) if resume and out is not None else None
    watch = bonds.Watch(plan.begin.system, plan.begin.state) if plan.watch_bonds else None
    if watch is not None and saved is not None and out is not None:
        before = trajectory.part(trajectory.read(out), slice(saved.n_frames[0]))
        watch.see(before.frames, before.times)
    processes.check_same(str(out), facts)
    recorder = recorders.Recorder(
        out, plan.begin.system, metadata, facts, replicas=plan.begin.replicas, options=writing, saved=saved,
        overwrite=overwrite,
    )  # fmt: skip
    with recorder:
        now = _Progress(plan, saved, recorder, watch, out)
        show = show if processes.is_first() else False
        if now.step < plan.n_steps:
            blocks = _shown(_blocks(now, until), plan, now.step, show)
            try:
                for _ in blocks:
                    pass
            except KeyboardInterrupt:
                recorder.save()
                raise KeyboardInterrupt(
                    "Nothing is lost: resume continues it." if out is not None else "The run was in memory only."
                ) from None
            finally:
                blocks.close()  # the bar ends before an error is printed
                recorder.wait()
                recorder.annotate(now.summary())
        else:  # opening the file has taken its alarms off
            recorder.annotate(now.summary())
        if np.all(now.halted) and not any(recorder.n_frames):
            recorder.discard()
    processes.wait_for_all("the run is in the file")
    return now.result(out)


def _shown(blocks: Iterator[Block], plan: Plan, begin_step: int, show) -> Any:
    """The blocks, with a progress bar or calls of a function."""
    interval = plan.model.config.time_step_fs / units.PS
    total, begin = plan.n_steps * interval, begin_step * interval
    if show is True:
        return bars.follow(blocks, total, f"force-free {ensembles.name(plan.ensemble).upper()}", begin)
    if show is False:
        return (block for block in blocks)
    return _reported(blocks, total, show)


def _reported(blocks: Iterator[Block], total: float, report: Callable[[float, float], None]) -> Iterator:
    for block in blocks:
        report(float(block.times[-1]) / units.PS, total)
        yield block


def _blocks(now: _Progress, until: Until) -> Iterator[Block]:
    """Writes block after block, and yields them."""
    plan, size, warned = now.plan, now.engine.block_frames, set()
    while now.step < plan.n_steps:
        started = time.monotonic()
        left = (plan.n_steps - now.step) // plan.every
        before, block = now.carry, now.engine.advance(now.carry, min(left, size))
        now.go_on(block.carry)
        now.recorder.write(block, now.engine.searches)
        _watch(now, block, before)
        if len(block.times):
            yield block
        _log_alarms(now, warned)
        if np.all(now.halted):
            which = _next_fallback(now)
            if which is None:
                break
            yield from _fall_back(now, which)
        took = time.monotonic() - started
        size = int(np.clip(size * _BLOCK_S / max(took, 1e-3), 1, min(2 * size, now.engine.block_frames)))
        size, over = processes.agree(size, until.over(took))
        if over:
            break
    now.recorder.save()


def _next_fallback(now: _Progress) -> int | None:
    """Which fallback takes over: the first, or of several the next where the one before has just ended; None: none."""
    if now.plan.fallback is None:
        return None
    references, n_steps = now.plan.fallback
    end, which = now.recorder.notes.get("last_fallback", (-n_steps - 1, 0))
    if len(references) == 1 or now.step - end > n_steps:
        return 0
    return which + 1 if which + 1 < len(references) else None


def _fall_back(now: _Progress, which: int) -> Iterator[Block]:
    """A fallback for some frames from the last good state, then the model again.

    Frames that are collected are of constant energy, as those are that a model learns from.
    """
    plan = now.plan
    assert plan.fallback is not None
    reference, n_steps = plan.fallback[0][which], plan.fallback[1]
    left = (plan.n_steps - now.step) // plan.every
    n_frames = min(left, -(-n_steps // plan.every))
    key, key_reference = jax.random.split(now.carry.key)
    ensemble = ensembles.at(plan.ensemble, now.step / plan.n_steps)
    state, often = now.engine.state(now.carry), 1
    if plan.collection is not None:
        ensemble, often = NVE(), plan.every * reference.steps // plan.collection.stride(reference.steps)
    stride = plan.every * reference.steps // often
    found = rollout.gather(fallbacks.run(reference, state, n_frames * often, stride, key_reference, ensemble))
    if plan.collection is not None:
        plan.collection.add(state, found.frames, stride * reference.engine.dt, now.time_fs)
    frames = take(found.frames, slice(often - 1, None, often))
    times = (now.step // plan.every + 1 + np.arange(n_frames)) * plan.every * plan.model.config.time_step_fs
    if plan.on_alarm == "halve":
        now.note_halving(reference.engine.dt, n_frames * plan.every)
    now.begin_anew(take(frames, -1), key, now.step + n_frames * plan.every)
    now.recorder.notes["last_fallback"] = (now.step, which)
    unknown = {"round_trip_error": np.full(n_frames, np.nan)}
    block = Block(frames, times, unknown, now.carry)
    now.recorder.write(block, now.engine.searches, by_fallback=True)
    _watch(now, block)
    yield block


def _watch(now: _Progress, block: Block, before: Carry | None = None) -> None:
    """Logs bonds that form and break; writes every step around them in a block that the model made of a carry."""
    if now.watch is None:
        return
    changes = now.watch.see(block.frames, block.times)
    for line in bonds.describe(changes, now.plan.begin.system):
        logger.warning("bonds: %s", line)
    if changes and now.windows is not None and before is not None:
        now.windows.see(before, now.engine.state(before), block, changes)


def _log_alarms(now: _Progress, warned: set) -> None:
    """Logs each kind of alarm once, where the run continues."""
    if not processes.is_first():
        return
    for i, found in enumerate(now.alarms()):
        name = f"replica {i}: " if now.plan.begin.replicas else ""
        for alarm in found:
            if (i, alarm.kind) not in warned and (now.plan.begin.replicas or now.plan.on_alarm != "stop"):
                logger.warning("%s%s (at %g fs)", name, alarm.text, alarm.time_fs)
            warned.add((i, alarm.kind))
