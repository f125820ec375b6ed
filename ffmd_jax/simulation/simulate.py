"""`simulate`: a rollout in one call."""

import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import files, processes
from ffmd_jax.core.state import take
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics import monitors as monitor_limits
from ffmd_jax.dynamics import restart, rollout
from ffmd_jax.dynamics.ensemble import NPT, NVT, Ensemble
from ffmd_jax.formats import Hints
from ffmd_jax.models import model as models
from ffmd_jax.models import model_files
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import fallback as fallbacks
from ffmd_jax.reference_md import potentials
from ffmd_jax.simulation import command, halving, starts
from ffmd_jax.simulation.collection import Collection
from ffmd_jax.simulation.loop import Plan, Until, produce
from ffmd_jax.simulation.result import Run
from ffmd_jax.simulation.starts import Begin, Start

_NO_HINTS = Hints()


def simulate(
    model: Model | str | Path,
    start: Start,
    *,
    steps: int,
    time_step_fs: float | Literal["auto"] | None = None,
    ensemble: Ensemble = NVT(),
    every: int = 1,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    replicas: int = 0,
    devices: int | None = None,
    reversible: bool = False,
    potential: Model | str | Path | None = None,
    energy_conservation: bool = True,
    velocities: Literal["if absent", "draw", "stored"] = "if absent",
    draw_temperature_K: float | None = None,
    fields: Sequence[str] = ("positions", "velocities"),
    monitors: bool = True,
    alarm_factor: float = monitor_limits.FACTOR,
    check_every: int = 100,
    on_alarm: Literal["stop", "warn", "fallback", "halve"] = "stop",
    fallback: str | None = None,
    fallback_args: dict[str, Any] | None = None,
    fallback_steps: int = 20,
    collect: str | Path | None = None,
    watch_bonds: bool = False,
    float64: bool = False,
    tables: bool = True,
    wall_clock_hours: float | None = None,
    progress: bool | Callable[[float, float], None] = True,
    stop: Callable[[], bool] | None = None,
    hints: Hints = _NO_HINTS,
) -> Run:
    """Runs force-free MD: the model steps the atoms from t to t + Δt, over and over.

    A second call with the same shapes compiles nothing, at whatever temperature.

    Args:
        model: from `load`, or a folder, or the name of a shipped model.
        start: a file (its last frame), ``ase.Atoms``, a pair (system, state), or a sequence of these: replicas.
        steps: of Δt in all; a multiple of ``every``.
        time_step_fs: Δt, fs, of a model that has several; None: the model's.  "auto": its largest, with ``on_alarm`` =
            "halve".
        ensemble: NVE(), NVT(temperature_K, tau_fs=…, friction_tau_fs=…) or NPT(temperature_K, pressure_bar=…).
        every: steps between two frames.
        out: H5MD file to write; None: the trajectory stays in memory.
        resume: continue the run in ``out``, to the same trajectory bit for bit; begin it if there is none.
        overwrite: replace an existing file.
        seed: of thermostat and drawn velocities; replica i has seed + i.
        replicas: runs side by side in one program; 0: one run, or as many as ``start`` has entries.
        devices: that replicas are divided over, at most (None: all), or without replicas one large system (None: it is
            not divided); their number changes rounding only.
        reversible: time-symmetrised steps: smaller errors, no gains and losses of energy that add up, at three times
            the cost; see `propagators.reversible`.
        potential: gives the energies along the run, energy conservation, and the barostat of `NPT` its energies: a
            potential, its folder, "reference:NAME" of a prepared system, "none", or None: the model's own, if any.
        energy_conservation: with a potential, scale velocities after each step so that the propagator leaves the total
            energy as it is, before a thermostat acts.
        velocities: "if absent": drawn where the start has none; "draw": always; "stored": never.
        draw_temperature_K: of drawn velocities (default: that of the ensemble).
        fields: what to store of each frame: positions, velocities.
        monitors: look at every step for what a failing model shows.
        alarm_factor: alarm at this multiple of what the model showed on held-out data.
        check_every: steps between two time-reversal checks, which cost one step each.
        on_alarm: "stop" ends the run before the bad frame, with a warning (`Run.alarms`), "warn" logs and continues,
            "fallback" hands the last good state to a reference, "halve" to the same model with Δt/2, and if that does
            not help with Δt/4, … (`Run.halvings`).
        fallback: a prepared system, "gfn2-xtb" or another known teacher, or ``module:Class`` of an ASE calculator.
        fallback_args: keyword arguments of the calculator.
        fallback_steps: Δt that the reference, or shorter steps, take over for.
        collect: dataset file to which what the fallback does is added, for the next training; it then runs at constant
            energy.
        watch_bonds: log bonds that form and break in the frames that are stored, and note them: `Run.bond_changes`.
            Where a file holds not every step, those around a change are written to a folder beside it.
        float64: compute in double precision.
        tables: read radial networks from tables, or compute them in every step.
        wall_clock_hours: stop and save after this time.
        progress: a bar; or a function of the ps done and the ps in all; False: silent.
        stop: asked after every block; True ends the run, which can be resumed.
        hints: what the start file leaves unstated.

    Raises:
        ValueError: what does not fit together, in one line.
        KeyboardInterrupt: Ctrl-C; what was done is in ``out``.

    Warns:
        EndedByAlarm: the run is shorter than ``steps``.
    """
    with jax.enable_x64(True):
        rollout.check_steps(steps, every)
        many = start if isinstance(start, list | tuple) else [start]
        if out is not None and not resume:
            files.check_output(Path(out), True, model, potential, *many)
        if collect is not None:
            files.check_output(Path(collect), True, model, potential, out, *many)
        _check_options(fields, check_every, alarm_factor, on_alarm, fallback, fallback_steps, monitors)
        if collect is not None and fallback is None:
            raise ValueError("collect keeps what a fallback does: give on_alarm = fallback and a fallback")
        loaded = model if isinstance(model, Model) else model_files.load(model)
        if time_step_fs == "auto":
            time_step_fs, on_alarm = _longest(loaded, on_alarm), "halve"
        used = models.at(loaded, time_step_fs)
        config = used.config
        ensemble = ensembles.complete(ensemble, config.time_step_fs)
        begin = starts.begin(used, start, ensemble, seed, replicas, velocities, draw_temperature_K, hints)
        if processes.count() > 1 and (watch_bonds or on_alarm in ("fallback", "halve")):
            raise ValueError("several processes neither watch bonds nor take other steps after an alarm: use one")
        if watch_bonds and begin.replicas:
            raise ValueError("bonds are watched in one run: no replicas")
        dtype = jnp.float64 if float64 else jnp.float32
        first = take(begin.state, 0) if begin.replicas else begin.state
        found = potentials.find(potential, used, begin.system, first, ensemble, dtype)
        conserve = found is not None and energy_conservation
        limits = None
        if monitors:
            monitor_limits.check_volume(used.calibration, begin.system, begin.state.cell, ensemble)
            limits = monitor_limits.limits(
                config, used.calibration, begin.system, ensemble, alarm_factor, tables=tables
            )
        plan = Plan(
            used, begin, ensemble, limits, steps, every, on_alarm, check_every,
            _make_fallback(fallback, fallback_args, fallback_steps, used, begin, ensemble) if on_alarm != "halve" else
            _make_halving(loaded, fallback_steps, used, begin, dtype, tables, reversible, found),
            dtype, tables, reversible, found, conserve, devices, watch_bonds,
        )  # fmt: skip
        options = {
            "reversible": reversible, "velocities": velocities, "draw_temperature_K": draw_temperature_K,
            "every": every, "fields": tuple(fields), "seed": seed, "replicas": begin.replicas, "monitors": monitors,
            "alarm_factor": alarm_factor, "check_every": check_every, "fallback": fallback,
            "fallback_args": fallback_args, "fallback_steps": fallback_steps, "float64": float64, "tables": tables,
        }  # fmt: skip
        if found is not None:
            options |= {"potential": found.name, "potential_weights": found.digest, "energy_conservation": conserve}
        options |= {} if collect is None else {"collect": True}
        facts = _facts(plan, options)
        if collect is not None:
            plan = plan._replace(collection=_collection(Path(collect), str(fallback), plan, facts, out))
        metadata = {
            "source": "force-free", "model": used.name, **ensembles.metadata(ensemble), "reversible": reversible,
            "time_step_fs": config.time_step_fs, "seed": seed, "settings": facts,
            "command": command.rollout(
                used.name, start, out, ensemble,
                {**options, "time_step": time_step_fs, "on_alarm": on_alarm, "watch_bonds": watch_bonds,
                 "collect": collect},
                hints,
            ),
        }  # fmt: skip
        deadline = None if wall_clock_hours is None else time.monotonic() + 3600 * wall_clock_hours
        run = produce(
            plan, facts, metadata, None if out is None else Path(out), resume, overwrite,
            {"dtype": np.dtype(plan.dtype), "velocities": "velocities" in fields}, progress,
            Until(stop or (lambda: False), deadline),
        )  # fmt: skip
    if run.ended and not run.replicas:  # the end of a replica is logged
        lasted = f"the run ended after {run.n_steps} of {steps} steps"
        warnings.warn(f"{lasted}: {run.alarms[-1].text}", monitor_limits.EndedByAlarm, stacklevel=2)
    return run


def _check_options(fields, check_every, alarm_factor, on_alarm, fallback, fallback_steps, monitors) -> None:
    if unknown := set(fields) - {"positions", "velocities"}:
        raise ValueError(f"fields are positions and velocities, not {', '.join(sorted(unknown))}")
    if "positions" not in fields:
        raise ValueError("the fields to store must hold positions")
    if check_every < 1 or not alarm_factor > 0:
        raise ValueError("check_every and alarm_factor must be positive")
    if on_alarm not in ("stop", "warn", "fallback", "halve"):
        raise ValueError(f"on_alarm must be stop, warn, fallback or halve, not {on_alarm}")
    if on_alarm == "halve" and (fallback_steps < 1 or not monitors):
        raise ValueError("on_alarm = halve needs fallback_steps of at least 1, and monitors")
    if on_alarm == "fallback" and (fallback is None or fallback_steps < 1 or not monitors):
        raise ValueError("on_alarm = fallback needs a fallback, fallback_steps of at least 1, and monitors")
    if fallback is not None and on_alarm != "fallback":
        raise ValueError("a fallback is used with on_alarm = fallback")


def _make_fallback(
    name: str | None, arguments: dict[str, Any] | None, n_steps: int, model: Model, begin: Begin, ensemble: Ensemble
):
    if name is None:
        return None
    if begin.replicas:
        raise ValueError("a fallback is for one run: no replicas")
    if isinstance(ensemble, NPT) and fallbacks.is_calculator(name):
        raise ValueError("an ASE calculator as a fallback runs at constant volume: use nvt, or a prepared system")
    made = fallbacks.make(name, arguments or {}, begin.system, begin.state, model.config.time_step_fs)
    return (made,), n_steps


def _make_halving(family: Model, n_steps: int, model: Model, begin: Begin, dtype, tables, reversible, potential):
    if begin.replicas:
        raise ValueError("time steps are halved in one run: no replicas")
    if potential is not None:
        raise ValueError("on_alarm = halve is for runs without a potential: potential = none")
    step = model.config.time_step_fs
    return halving.fallbacks(family, step, begin, dtype, tables, reversible), n_steps


def _longest(model: Model, on_alarm: str) -> float:
    """Δt where a run with ``time_step_fs = "auto"`` begins."""
    if on_alarm not in ("stop", "halve"):
        raise ValueError(f"time_step auto halves Δt where an alarm is: it does not go with on_alarm = {on_alarm}")
    if model.kind != "family":
        raise ValueError(f"{model.name or 'the model'} has one Δt: time_step auto needs a model of several")
    return model.config.time_steps_fs[-1]


def _collection(path: Path, fallback: str, plan: Plan, facts: dict[str, Any], out: Any) -> Collection:
    """The collection of a rollout, which is known by what determines its trajectory."""
    if out is not None and path.resolve() == Path(out).resolve():
        raise ValueError(f"collect and out are both {path}: a dataset and a trajectory need two files")
    digest = restart.fingerprint(np.frombuffer(json.dumps(facts).encode(), np.uint8))
    run = f"{'a run in memory' if out is None else Path(out).name} ({digest})"
    return Collection(path, fallback, plan.begin.system, plan.model.config.time_step_fs, run)


def _facts(plan: Plan, options: dict[str, Any]) -> dict[str, Any]:
    """What determines the trajectory, as JSON gives it back."""
    said = ensembles.metadata(plan.ensemble)
    kelvins = getattr(plan.ensemble, "temperature_K", None)
    facts: dict[str, Any] = {
        **{name: value for name, value in said.items() if name not in ("temperature_K", "temperature_end_K")},
        "temperature": kelvins,
        "temperature_end": said["temperature_end_K"],
        **options,
        "model": restart.fingerprint(plan.model.config, plan.model.params),
        "start": restart.fingerprint(plan.begin.system, plan.begin.state),
    }
    if said["temperature_end_K"] is not None:
        facts["steps"] = plan.n_steps  # the ramp depends on it
    return json.loads(json.dumps(facts))
