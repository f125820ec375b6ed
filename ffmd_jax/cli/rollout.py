"""``ffmd rollout``: force-free MD with a model."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional, arg

from ffmd_jax.cli import common
from ffmd_jax.core import files

if TYPE_CHECKING:
    from ffmd_jax.simulation import Plan


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to run; all but the first three options and what is done on alarms determine the trajectory.

    Attributes:
        steps: Steps of Δt in all; a multiple of --every.
        on_alarm: What an alarm of a monitor does. stop: keep the good frames and end with exit code 3; warn: say so and
            go on; fallback: hand the last good state to the reference for --fallback-steps Δt, then go on.
        wall_clock_hours: Stop and save after this wall time; --resume goes on.
        ensemble: nvt with a thermostat, or nve.
        temperature: Temperature of nvt and of drawn velocities, K (default of nvt: 300).
        temperature_end: Temperature at the end of nvt, K; it changes linearly.
        thermostat: csvr rescales all velocities, csvr-by-species those of each element; langevin acts on each atom.
        tau_fs: Relaxation time of the thermostat, fs (default: 10 Δt).
        friction_tau_fs: Let Langevin friction and noise act on each atom besides csvr, with this relaxation time 1/γ,
            fs: it spreads the energy that a model feeds to one element or vibration, which rescaling cannot do.
            Shorter spreads better and slows diffusion more; 100 to 500 Δt.
        reversible: Correct each step by what a step back from its end misses, so that it is reversible in time: smaller
            errors, and no gains and losses of energy that add up, at three times the cost.  Not without a thermostat
            where a strong vibration has a period near Δt or 2 Δt: that can resonate and heat.
        draw_velocities: Draw velocities even where the start file has them.
        every: Steps between two stored frames.
        fields: What to store of each frame; analyses of temperatures and vibrations need velocities.
        seed: Seed of thermostat and drawn velocities.
        replicas: Runs side by side in one program, in one file; replica i has the seed --seed + i and is read as
            run.h5:i. 0: one run.
        replica_temperatures: Temperature of each replica, K, instead of --temperature.
        monitors: Watch for what a failing model shows.
        alarm_factor: Alarm at this multiple of what the model showed on held-out data.
        check_every: Steps between two time-reversal checks, which cost one step each.
        fallback: Reference to fall back to: a prepared system (quartz, water, …) or module:Class of an ASE calculator.
        fallback_args: Arguments of the calculator, key=value,key=value.
        fallback_steps: Δt that the reference takes over for.
        float64: Compute in double precision.
        tables: Read the radial networks from tables (`ffmd info` says how exact), or compute them in every step.
    """

    steps: int
    on_alarm: Literal["stop", "warn", "fallback"] = "stop"
    wall_clock_hours: float | None = None
    ensemble: Literal["nve", "nvt"] = "nvt"
    temperature: Annotated[float | None, arg(metavar="K")] = None
    temperature_end: Annotated[float | None, arg(metavar="K")] = None
    thermostat: Literal["csvr", "csvr-by-species", "langevin"] = "csvr"
    tau_fs: float | None = None
    friction_tau_fs: float | None = None
    reversible: bool = False
    draw_velocities: bool = False
    every: int = 1
    fields: tuple[Literal["positions", "velocities"], ...] = ("positions", "velocities")
    seed: int = 0
    replicas: int = 0
    replica_temperatures: tuple[float, ...] = ()
    monitors: bool = True
    alarm_factor: float = 10.0
    check_every: int = 100
    fallback: str | None = None
    fallback_args: str = ""
    fallback_steps: int = 20
    float64: bool = False
    tables: bool = True


_FREE = ("steps", "on_alarm", "wall_clock_hours")  # may change when a run is resumed


def rollout(
    model: Positional[str],
    /,
    start: Path,
    out: Path,
    settings: Annotated[Settings, arg(name="")],
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Runs force-free MD with a model.

    The model steps the atoms from t to t + Δt, over and over.

    The time step is the model's.  Velocities come from the start file; with --temperature and a file without
    velocities they are drawn from the Maxwell–Boltzmann distribution, with zero momenta.

    Monitors watch every step for what a failing model shows: numbers that are not finite, atoms faster or closer than
    in the training data, temperatures beyond them, elements away from the target temperature, drifts of kinetic energy
    and momentum, and steps that do not lead back when time is reversed.

    Stop it as you like: Ctrl-C, SIGTERM (finishes the block, exit code 0) or worse; the same command with --resume goes
    on to the same trajectory, bit for bit, also to more --steps.  What that needs is in run.h5.restart beside run.h5.

    Args:
        model: Model folder, or the name of a shipped model.
        start: Start structure, H5MD (its last frame) or anything that ASE reads.
        out: H5MD file to write.
        settings: How to run.
        resume: Go on with the run in --out; begin it if there is none.
        overwrite: Replace an existing file.
    """
    if resume and overwrite:
        raise ValueError("--resume goes on with a file and --overwrite replaces it: say one")
    if out.exists() and not (resume or overwrite):
        raise FileExistsError(f"{out} exists already; choose another --out, or say --resume or --overwrite")
    files.check_output(out, overwrite=True)
    _check(settings)
    common.use_double_precision()
    from ffmd_jax import simulation

    simulation.produce(_plan(model, start, settings), out, resume, overwrite)


def _check(settings: Settings) -> None:
    """Raises ValueError for options that do not go together."""
    temperatures = settings.replica_temperatures
    if settings.ensemble == "nve" and (
        settings.temperature_end is not None or (temperatures and not settings.replicas)
    ):
        raise ValueError("nve has no thermostat whose temperature could be set")
    if settings.ensemble == "nve" and settings.friction_tau_fs is not None:
        raise ValueError("nve has no friction: leave out --friction-tau-fs")
    if temperatures and len(temperatures) != settings.replicas:
        raise ValueError(f"--replica-temperatures names {len(temperatures)} for {settings.replicas} replicas")
    if temperatures and settings.temperature is not None:
        raise ValueError("say --temperature or --replica-temperatures")
    if settings.replicas < 0 or settings.check_every < 1 or not settings.alarm_factor > 0:
        raise ValueError("--replicas must not be negative, --check-every and --alarm-factor must be positive")
    if "positions" not in settings.fields:
        raise ValueError("--fields must hold positions")
    if settings.on_alarm == "fallback":
        if not settings.monitors or settings.fallback is None or settings.replicas or settings.fallback_steps < 1:
            raise ValueError(
                "--on-alarm fallback needs --fallback, --fallback-steps of at least 1, monitors, and no --replicas"
            )
        if ":" in settings.fallback and settings.friction_tau_fs is not None:
            raise ValueError("an ASE calculator as --fallback has no friction besides CSVR: no --friction-tau-fs")
    elif settings.fallback is not None and settings.on_alarm != "fallback":
        raise ValueError("--fallback is used with --on-alarm fallback")


def _plan(model: str, start: Path, settings: Settings) -> "Plan":
    """Everything that is needed to run."""
    import jax.numpy as jnp

    from ffmd_jax import simulation
    from ffmd_jax.core.state import cast
    from ffmd_jax.dynamics import alarms, monitors, restart
    from ffmd_jax.dynamics import rollout as rollouts
    from ffmd_jax.models import model_files, radial_tables, trajcast

    rollouts.check_steps(settings.steps, settings.every)
    config, params = model_files.load_model(model)
    system, state, key = _begin(config, start, settings)
    dtype = jnp.float64 if settings.float64 else jnp.float32
    digests = {"model": restart.fingerprint(config, params), "start": restart.fingerprint(system, state)}
    state = cast(state, dtype)
    weights = cast(radial_tables.tabulate(config, params) if settings.tables else params, dtype)
    once = trajcast.make_propagate(config, weights)
    propagate = trajcast.make_propagate(config, weights, reversible=True) if settings.reversible else once
    bath, schedule, tau = _thermostat(config, settings)
    limits = None
    if settings.monitors:
        kelvins = np.append(_temperatures(settings), settings.temperature_end or 0.0)
        hottest = None if tau is None else float(kelvins.max())
        limits = monitors.limits(config, system, tau, settings.alarm_factor, hottest)
    halt = settings.on_alarm != "warn"
    facts = {name: value for name, value in dataclasses.asdict(settings).items() if name not in _FREE}
    facts["reversible"] = settings.reversible or None  # as of runs from before it was there
    if settings.temperature_end is not None:
        facts["steps"] = settings.steps

    watch = None if limits is None else alarms.watch(once, limits, settings.check_every, halt)

    def make_engine(search: Any) -> rollouts.Engine:
        return rollouts.Engine(
            system, state.positions, propagate, cutoff=config.architecture.cutoff, time_step_fs=config.time_step_fs,
            every=settings.every, thermostat=bath, select=True, schedule=schedule, watch=watch, wrap=True,
            replicas=settings.replicas, search=search,
        )  # fmt: skip

    return simulation.Plan(
        config=config, system=system, state=state, key=key, make_engine=make_engine, limits=limits,
        n_steps=settings.steps, every=settings.every, replicas=settings.replicas, on_alarm=settings.on_alarm,
        fallback=_fallback(config, system, state, settings, tau), metadata=_metadata(model, config, settings, tau),
        facts=_plain(facts | digests), velocities="velocities" in settings.fields, dtype=np.dtype(dtype),
        wall_clock_s=None if settings.wall_clock_hours is None else 3600 * settings.wall_clock_hours,
    )  # fmt: skip


def _temperatures(settings: Settings) -> np.ndarray:
    """Temperature at the start, K: of each replica, or one ``[]``."""
    common_one = 300.0 if settings.temperature is None else settings.temperature
    given = settings.replica_temperatures or (common_one,) * settings.replicas
    return np.array(given if settings.replicas else common_one)


def _begin(config, start: Path, settings: Settings):
    """System, state and key; of replicas, with a leading axis: replica i is the single run with the seed + i."""
    import jax
    import jax.numpy as jnp

    from ffmd_jax.core import mechanics
    from ffmd_jax.core.state import State
    from ffmd_jax.formats import trajectory
    from ffmd_jax.models import trajcast

    heated = settings.temperature is not None or bool(settings.replica_temperatures)
    if settings.draw_velocities and not heated:
        raise ValueError("--draw-velocities needs a --temperature")
    system, state = trajectory.read_start(start, need_velocities=not heated)
    system, state = trajcast.isolate(config, system, state)
    trajcast.check_system(config, system)
    draw = heated and (settings.draw_velocities or not state.velocities.any())
    if settings.replicas and settings.ensemble == "nve" and not draw:
        raise ValueError("replicas in nve would all be the same: say --draw-velocities with a --temperature")
    kelvins, found = np.atleast_1d(_temperatures(settings)), []
    for i in range(max(1, settings.replicas)):
        key_run, key_draw = jax.random.split(jax.random.key(settings.seed + i))
        own = state
        if draw:
            own = mechanics.maxwell_boltzmann(key_draw, system, jnp.asarray(state.positions), float(kelvins[i]))
        found.append((State(*(jnp.asarray(values) for values in own)), key_run))
    if not settings.replicas:
        return system, *found[0]
    states, keys = jax.tree.map(lambda *values: jnp.stack(values), *found)
    return system, states, keys


def _thermostat(config, settings: Settings):
    """Thermostat, temperature after a number of steps, and relaxation time, fs; None for nve."""
    import jax.numpy as jnp

    from ffmd_jax.dynamics import thermostat

    if settings.ensemble == "nve":
        return None, None, None
    kelvins, interval = _temperatures(settings), config.time_step_fs
    tau = 10 * interval if settings.tau_fs is None else settings.tau_fs
    more: Any = {"elements": config.elements, "friction_tau_fs": settings.friction_tau_fs}
    bath = thermostat.make(settings.thermostat, float(kelvins.max()), tau, interval, **more)
    end = kelvins if settings.temperature_end is None else np.full_like(kelvins, settings.temperature_end)
    thermostat.csvr(float(min(kelvins.min(), end.min())), tau, interval)  # the same checks

    def schedule(step):
        return jnp.asarray(kelvins) + (jnp.asarray(end) - jnp.asarray(kelvins)) * (step / settings.steps)

    return bath, schedule if settings.temperature_end is not None else (lambda step: jnp.asarray(kelvins)), tau


def _fallback(config, system, state, settings: Settings, tau: float | None):
    """The reference, its bath at a time, and for how many steps; or None."""
    if settings.fallback is None:
        return None
    from ffmd_jax.reference import ase_engine, fallback
    from ffmd_jax.reference.engine import Bath

    arguments = ase_engine.parse_arguments(settings.fallback_args)
    made = fallback.make(settings.fallback, arguments, system, state, config.time_step_fs)
    kind: Any = "langevin" if settings.thermostat == "langevin" else "csvr"

    def bath_at(time_fs: float) -> Bath | None:
        if tau is None:
            return None
        begin = float(_temperatures(settings))
        end = begin if settings.temperature_end is None else settings.temperature_end
        now = begin + (end - begin) * time_fs / (settings.steps * config.time_step_fs)
        return Bath(kind, now, tau, settings.friction_tau_fs)

    return made, bath_at, settings.fallback_steps


def _metadata(model: str, config, settings: Settings, tau: float | None) -> dict[str, Any]:
    """What the file says about the run."""
    kelvins = _temperatures(settings)
    constant = tau is not None and settings.temperature_end is None
    metadata = {
        "source": "force-free",
        "model": str(model),
        "ensemble": settings.ensemble,
        "temperature_K": float(kelvins) if constant and not settings.replicas else None,
        "temperature_end_K": settings.temperature_end,
        "thermostat": settings.thermostat if tau is not None else None,
        "tau_fs": tau,
        "friction_tau_fs": settings.friction_tau_fs,
        "reversible": settings.reversible,
        "time_step_fs": config.time_step_fs,
        "seed": settings.seed,
    }
    if settings.replicas:
        metadata["each"] = [
            {"temperature_K": float(kelvins[i]) if constant else None, "seed": settings.seed + i}
            for i in range(settings.replicas)
        ]
    return metadata


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts as JSON gives them back."""
    import json

    return json.loads(json.dumps(facts))
