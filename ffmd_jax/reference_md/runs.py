"""A set of reference runs as files: start states, one finished file after the other, and how to go on after a stop."""

import contextlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import jax
import numpy as np

from ffmd_jax.core import files as files_module
from ffmd_jax.core import progress, units
from ffmd_jax.core.state import State, take
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics import rollout
from ffmd_jax.dynamics.engine import Block
from ffmd_jax.dynamics.ensemble import NVE, NVT, Ensemble
from ffmd_jax.formats import trajectory
from ffmd_jax.reference_md import drift, sampling
from ffmd_jax.reference_md.engine import FORCES, ReferenceEngine

_EQUILIBRATION_TAU_FS = 100.0
_TRIAL_FS = 500.0


class Plan(NamedTuple):
    """A set of runs.

    Attributes:
        engine: what runs the MD.
        n_frames: of each run.
        every: steps between two frames.
        ensemble: of the runs.
        temperature_K: of the start states.
        equilibrate_fs: before the first start state.
        equilibrate_with: heat bath of equilibration and start states.
        spacing_fs: smallest time between start states.
        seed: of everything.
        facts: the settings, JSON-able; stored with every file and compared by `check_same`.
        command: that makes one such run, without length and output; None: there is none.
        progress: show bars.
        say: called with lines about what is finished.
    """

    engine: ReferenceEngine
    n_frames: int
    every: int
    ensemble: Ensemble
    temperature_K: float
    equilibrate_fs: float
    equilibrate_with: Literal["langevin", "csvr"]
    spacing_fs: float
    seed: int
    facts: dict[str, Any]
    command: str | None = None
    progress: bool = True
    say: Callable[[str], None] = print


def check_same(file: Path, facts: dict[str, Any]) -> None:
    """Raises ValueError, with the name of the setting, if a file exists that was made with other settings."""
    if not file.exists():
        return
    try:
        before = _stored_settings(file)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"cannot resume: {file} was not made by this command, or is damaged") from error
    for name, now in facts.items():
        if before.get(name) != now:
            option = f"`{name}`" if name not in ("system", "start_structure") else name
            raise ValueError(f"cannot resume with {option} = {now}: {file} was made with {before.get(name)}")


def _stored_settings(file: Path) -> dict[str, Any]:
    if file.suffix == ".npz":
        return json.loads(str(files_module.read_arrays(file)["settings"]))
    with h5py.File(file, "r") as stored:
        return json.loads(str(stored["ffmd_jax"].attrs["metadata"]))["settings"]


def produce_missing(plan: Plan, files: list[Path], starts_file: Path) -> None:
    """Makes the start states, unless they are there, and every run whose file is not there.

    A file appears under its name when it is complete.  The start states are kept until all files are there: a run
    depends on its start state, its number and the settings alone, so a resumed set is the same bit for bit.

    Raises:
        ValueError: a time step that is too long; the start states are removed.
        KeyboardInterrupt: with how to go on.
    """
    if all(file.exists() for file in files):
        plan.say(f"all {len(files)} runs are finished")
        return
    key_starts, key_runs = jax.random.split(jax.random.key(plan.seed))
    try:
        states = _read_starts(starts_file) or _make_starts(plan, len(files), key_starts, starts_file)
        for i, file in enumerate(files):
            if file.exists():
                plan.say(f"{file}: finished before")
            else:
                _produce(plan, take(states, i), i, jax.random.fold_in(key_runs, i), file)
    except (rollout.Diverged, drift.Unphysical) as error:
        files_module.remove(starts_file)
        advice = f"take a smaller `dt` than {plan.engine.dt:g} fs, such as {plan.engine.dt / 2:g}"
        if plan.facts["system"] == "ase":
            advice += ", or let the calculator converge more tightly"
        raise ValueError(f"{error}; {advice}") from error
    except KeyboardInterrupt:
        done = sum(file.exists() for file in files)
        raise KeyboardInterrupt(
            f"{done} of {len(files)} runs are finished; the same command with `resume` (not `overwrite`) continues."
        ) from None
    files_module.remove(starts_file)


def _read_starts(file: Path) -> State | None:
    if not file.exists():
        return None
    stored = files_module.read_arrays(file)
    return State(stored["positions"], stored["velocities"], stored["cells"])


def _make_starts(plan: Plan, n_starts: int, key: Any, file: Path) -> State:
    """Equilibrates, chooses and stores start states; NVT gets a trial of its time step, which a bath would hide."""
    key_heat, key_trial = jax.random.split(key)
    bath = NVT(plan.temperature_K, tau_fs=_EQUILIBRATION_TAU_FS, thermostat=plan.equilibrate_with)
    length = plan.equilibrate_fs + sampling.sampling_time(n_starts, plan.spacing_fs)
    interval = sampling.frame_interval(plan.engine)
    n_frames = math.ceil(length / interval)
    blocks = sampling.heat(plan.engine, bath, n_frames, key_heat)
    with _watched(plan, blocks, n_frames * interval / units.PS, "equilibration and start states") as watched:
        starts = sampling.choose(
            plan.engine.system,
            watched,
            temperature_K=plan.temperature_K,
            n_starts=n_starts,
            equilibrate_fs=plan.equilibrate_fs,
            spacing_fs=plan.spacing_fs,
        )
    drift.check_starts(plan.engine.system, starts.states, plan.temperature_K)
    if not isinstance(plan.ensemble, NVE):
        _try_time_step(plan, take(starts.states, 0), key_trial)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        positions=starts.states.positions,
        velocities=starts.states.velocities,
        cells=starts.states.cell,
        times_fs=starts.times_fs,
        total_energies_eV=starts.total_energies_eV,
        mean_energy_eV=starts.mean_energy_eV,
        settings=json.dumps(plan.facts),
    )
    files_module.write_atomically(file, buffer.getvalue())
    return starts.states


@contextlib.contextmanager
def _watched(plan: Plan, blocks: Iterable[Block], length_ps: float, label: str) -> Iterator[Iterable[Block]]:
    """The blocks with a progress bar, which is closed before an error of who reads them is printed."""
    followed: Any = progress.follow(blocks, length_ps, label, hidden=not plan.progress)
    with contextlib.closing(followed):
        yield followed


def _try_time_step(plan: Plan, start: State, key: Any) -> None:
    """Half a picosecond of NVE."""
    engine = plan.engine
    every = max(1, round(_TRIAL_FS / 100 / engine.dt))
    blocks = engine.run(start, n_steps=100 * every, every=every, key=key)
    with _watched(plan, blocks, 100 * every * engine.dt / units.PS, "trial of the time step (NVE)") as trial:
        drift.check(engine.system, drift.join([drift.energies(engine.system, block) for block in trial]))


def _produce(plan: Plan, start: State, number: int, key: Any, file: Path) -> None:
    """One run; its file gets its name when the run is complete and its energy is conserved."""
    engine, partial = plan.engine, file.with_name(f"{file.name}.partial")
    blocks = engine.run(start, n_steps=plan.n_frames * plan.every, every=plan.every, key=key, ensemble=plan.ensemble)
    length_ps = plan.n_frames * plan.every * engine.dt / units.PS
    label = f"{file.name}: {engine.name} {plan.facts['ensemble'].upper()}"
    try:
        with _watched(plan, blocks, length_ps, label) as watched:
            run = _write(plan, number, watched, partial)
        if isinstance(plan.ensemble, NVE):
            drift.check(engine.system, run)
        os.replace(partial, file)
    except BaseException:  # also Ctrl-C
        files_module.remove(partial)
        raise
    summary = drift.summarize(engine.system, run)
    text = f"mean temperature {summary.temperature_K:.1f} K"
    if isinstance(plan.ensemble, NVE):
        why = drift.explain(engine.system, summary, plan.temperature_K)
        text = drift.describe(summary) + (f" ({why})" if why else "")
    plan.say(f"{file}: {plan.n_frames} frames, {text}")


def _write(plan: Plan, number: int, blocks: Iterable[Block], partial: Path) -> drift.Energies:
    """Writes the frames; returns their energies, and stops early where a run has no hope."""
    metadata = {
        "system": plan.facts["system"],
        "source": "reference",
        **ensembles.metadata(ensembles.complete(plan.ensemble, plan.engine.dt)),
        "temperature_K": plan.temperature_K,
        "integrator_dt_fs": plan.engine.dt,
        "seed": plan.seed,
        "run": number,
        "settings": plan.facts,
        "command": plan.command,
    }
    parts = []
    with trajectory.Writer(partial, plan.engine.system, metadata, overwrite=True) as writer:
        for block in blocks:
            seen = dict(block.observables)
            writer.append(block.frames, block.times, seen, forces=seen.pop(FORCES, None))
            parts.append(drift.energies(plan.engine.system, block))
            if isinstance(plan.ensemble, NVE):
                drift.check_unfinished(drift.join(parts))
    return drift.join(parts)
