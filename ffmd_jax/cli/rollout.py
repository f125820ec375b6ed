"""``ffmd rollout``: force-free MD with a model."""

import contextlib
import dataclasses
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ffmd_jax.core import launch
from ffmd_jax.core.launch import Processes
from ffmd_jax.formats import Hints


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to run; all but the first three options and what is done on alarms determine the trajectory.

    Attributes:
        steps: Steps of Δt in all; a multiple of --every.
        time_step: Δt, fs, of a model that was trained for several (None: the model's); auto: its largest, with
            --on-alarm halve.
        on_alarm: What an alarm of a monitor does. stop: keep the good frames and end with exit code 3; warn: print it
            and continue; fallback: hand the last good state to the reference for --fallback-steps Δt, then continue;
            halve: take steps of Δt/2 for as long, if alarms come back of Δt/4, …, with a model of several time steps.
        wall_clock_hours: Stop and save after this wall time, h; --resume continues.
        ensemble: nvt with a thermostat, nve, or npt with a barostat, too, which needs a potential.
        pressure_bar: Pressure of npt, bar.
        barostat_every: Steps between two trial moves of the volume in npt.
        coupling: What a move of the volume changes in npt: isotropic: all lattice vectors alike; anisotropic: one at a
            time, for crystals.
        potential: Folder of a potential (`ffmd train --kind potential`), reference:quartz or another prepared system,
            or none (None: the model's own, if it has one): gives the energies along the run, and what needs them.
        energy_conservation: With a potential, scale velocities after each step so that the propagator leaves the total
            energy as it is, before a thermostat acts.
        temperature: Temperature of nvt and of drawn velocities, K (None: 300 in nvt).
        temperature_end: Temperature at the end of nvt, K; it changes linearly.
        thermostat: csvr rescales all velocities; langevin acts on each atom.
        tau_fs: Relaxation time of the thermostat, fs (None: 10 Δt).
        friction_tau_fs: Let Langevin friction and noise act on each atom besides csvr, with this relaxation time 1/γ,
            fs: it spreads the energy that a model feeds to one element or vibration, which rescaling cannot do.
            Shorter spreads better and slows diffusion more; 100 to 500 Δt.
        friction_above_per_cm: Let the friction act on fast motions: half of it at this wavenumber, cm⁻¹, more above it,
            and next to none on slow motions.
        reversible: Time-symmetrised steps: each is corrected by half of the round-trip error, for smaller errors and no
            gains and losses of energy that add up, at three times the cost.  Not without a thermostat where a strong
            vibration has a period near Δt or 2 Δt: that can resonate and heat.
        draw_velocities: Draw velocities even where the start file has them.
        every: Steps between two stored frames.
        fields: What to store of each frame; analyses of temperatures and vibrations need velocities.
        seed: Seed of thermostat and drawn velocities.
        replicas: Runs side by side in one program, in one file; replica i has the seed --seed + i and is read as
            run.h5:i. 0: one run.
        devices: Accelerators that replicas are divided over, at most (None: all, of all processes), or without replicas
            that one large system is divided over (None: it is not, and runs on one). Their number changes rounding
            only; --resume is bit for bit on as many.
        replica_temperatures: Temperature of each replica, K, instead of --temperature.
        monitors: Look at every step for what a failing model shows.
        alarm_factor: Alarm at this multiple of what the model showed on held-out data.
        check_every: Steps between two time-reversal checks, which cost one step each.
        fallback: Reference to fall back to: a prepared system (quartz, water, …), a known teacher (gfn2-xtb …), or
            module:Class of an ASE calculator.
        fallback_args: Arguments of the calculator, key=value,key=value.
        fallback_steps: Δt that the reference takes over for.
        collect: Dataset file to which what the fallback does is added, which then runs at constant energy;
            `ffmd train FILE --init MODEL --rehearse DATASET` learns it.
        watch_bonds: Print bonds that form and break in the stored frames (--every 1: in each step) and note them in the
            file. A bond forms below 1.15 times the sum of the covalent radii, and breaks above 1.45 times. With fewer
            frames, each step around a change is written to the folder OUT_bonds, except at constant pressure.
        float64: Compute in double precision.
        tables: Read the radial networks from tables (`ffmd info` says how exact), or compute them in every step.
    """

    steps: int
    time_step: float | Literal["auto"] | None = None
    on_alarm: Literal["stop", "warn", "fallback", "halve"] = "stop"
    wall_clock_hours: float | None = None
    ensemble: Literal["nve", "nvt", "npt"] = "nvt"
    temperature: Annotated[float | None, arg(metavar="K")] = None
    temperature_end: Annotated[float | None, arg(metavar="K")] = None
    thermostat: Literal["csvr", "langevin"] = "csvr"
    tau_fs: float | None = None
    friction_tau_fs: float | None = None
    friction_above_per_cm: float | None = None
    pressure_bar: float = 1.0
    barostat_every: int = 25
    coupling: Literal["isotropic", "anisotropic"] = "isotropic"
    potential: str | None = None
    energy_conservation: bool = True
    reversible: bool = False
    draw_velocities: bool = False
    every: int = 1
    fields: tuple[Literal["positions", "velocities"], ...] = ("positions", "velocities")
    seed: int = 0
    replicas: int = 0
    devices: int | None = None
    replica_temperatures: tuple[float, ...] = ()
    monitors: bool = True
    alarm_factor: float = 10.0
    check_every: int = 100
    fallback: str | None = None
    fallback_args: str = ""
    fallback_steps: int = 20
    collect: Path | None = None
    watch_bonds: bool = False
    float64: bool = False
    tables: bool = True


_SAME = ("steps", "on_alarm", "wall_clock_hours", "reversible", "every", "fields", "seed", "replicas", "devices",
         "monitors", "alarm_factor", "check_every", "fallback", "fallback_steps", "collect", "watch_bonds", "float64",
         "tables", "potential", "energy_conservation")  # fmt: skip


def rollout(
    model: Positional[str],
    /,
    start: Path,
    out: Path,
    settings: Annotated[Settings, arg(name="")],
    hints: Annotated[Hints, arg(name="")] = Hints(),
    processes: Annotated[Processes, arg(name="")] = Processes(),
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Runs force-free MD with a model.

    The model steps the atoms from t to t + Δt, over and over.

    The time step is the model's.  Velocities come from the start file; with --temperature and a file without
    velocities they are drawn from the Maxwell–Boltzmann distribution, with zero momenta.

    Monitors look at every step for what a failing model shows: numbers that are not finite, atoms faster or closer than
    in the training data, temperatures beyond them, elements away from the target temperature, drifts of kinetic energy
    and momentum, and steps that do not lead back when time is reversed.

    Ctrl-C, SIGTERM (finishes the block, exit code 0) and even kill -9 lose nothing: the same command with --resume
    continues to the same trajectory, bit for bit, also to more --steps.  It needs run.h5.restart beside run.h5.

    Args:
        model: Model folder, or the name of a shipped model.
        start: Start structure, H5MD (its last frame) or anything that ASE reads.
        out: H5MD file to write.
        settings: How to run.
        hints: What the start file leaves unstated.
        processes: Several processes that share --replicas or --devices, started by hand.
        resume: Continue the run in --out; begin it if there is none.
        overwrite: Replace an existing file.
    """
    from ffmd_jax.core import files, progress

    shared = bool(settings.replicas or settings.devices)
    if processes.coordinator is not None and not shared:
        raise ValueError("several processes share --replicas, or one system with --devices: say one")
    if resume and overwrite:
        raise ValueError("--resume continues a file and --overwrite replaces it: say one")
    if out.exists() and not (resume or overwrite):
        raise FileExistsError(f"{out} exists already; choose another --out, or say --resume or --overwrite")
    files.check_output(out, True, start, model)
    _check(settings)
    if shared:
        launch.start(processes)
    from ffmd_jax.core.processes import only_first_prints
    from ffmd_jax.dynamics.monitors import EndedByAlarm
    from ffmd_jax.reference_md import ase_engine
    from ffmd_jax.simulation.simulate import simulate

    arguments = ase_engine.parse_arguments(settings.fallback_args) if settings.fallback_args else None
    heated = settings.temperature is not None or bool(settings.replica_temperatures)
    options: dict[str, Any] = {name: getattr(settings, name) for name in _SAME}
    with progress.asked_to_stop() as asked, _advice(), warnings.catch_warnings(), only_first_prints():
        warnings.simplefilter("ignore", EndedByAlarm)  # the exit code and the error say it
        run = simulate(
            model, start, ensemble=_ensemble(settings), out=out, resume=resume, overwrite=overwrite,
            velocities="draw" if settings.draw_velocities else ("if absent" if heated else "stored"),
            draw_temperature_K=_drawn_at(settings), fallback_args=arguments, stop=asked, hints=hints,
            time_step_fs=settings.time_step, **options,
        )  # fmt: skip
        _report(run, out, settings.steps)


@contextlib.contextmanager
def _advice():
    """Says after Ctrl-C how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("The same command with --resume continues it.") from None


def _ensemble(settings: Settings):
    """The ensemble that the options describe."""
    from ffmd_jax.dynamics.ensemble import NPT, NVE, NVT

    if settings.ensemble == "nve":
        return NVE()
    common_one = 300.0 if settings.temperature is None else settings.temperature
    bath = (
        settings.replica_temperatures or common_one,
        settings.tau_fs,
        settings.thermostat,
        settings.friction_tau_fs,
        settings.temperature_end,
    )
    above = settings.friction_above_per_cm
    if settings.ensemble == "nvt":
        return NVT(*bath, friction_above_per_cm=above)
    box = (settings.pressure_bar, settings.barostat_every, settings.coupling)
    return NPT(*bath, *box, friction_above_per_cm=above)


def _drawn_at(settings: Settings) -> Any:
    """Temperature of drawn velocities, K, where the ensemble has none."""
    return None if settings.ensemble != "nve" else (settings.replica_temperatures or settings.temperature)


def _check(settings: Settings) -> None:
    """Raises ValueError for options that do not go together."""
    temperatures = settings.replica_temperatures
    if settings.ensemble != "npt" and (settings.pressure_bar, settings.barostat_every, settings.coupling) != (
        Settings.pressure_bar, Settings.barostat_every, Settings.coupling
    ):  # fmt: skip
        raise ValueError("--pressure-bar, --barostat-every and --coupling are of --ensemble npt")
    if settings.ensemble == "nve" and (
        settings.temperature_end is not None or (temperatures and not settings.replicas)
    ):
        raise ValueError("nve has no thermostat whose temperature could be set")
    if settings.ensemble == "nve" and (settings.friction_tau_fs, settings.friction_above_per_cm) != (None, None):
        raise ValueError("nve has no friction: leave out --friction-tau-fs")
    if temperatures and len(temperatures) != settings.replicas:
        raise ValueError(f"--replica-temperatures names {len(temperatures)} for {settings.replicas} replicas")
    if temperatures and settings.temperature is not None:
        raise ValueError("say --temperature or --replica-temperatures")
    if settings.draw_velocities and settings.temperature is None and not temperatures:
        raise ValueError("--draw-velocities needs a --temperature")
    if settings.replicas < 0 or settings.check_every < 1 or not settings.alarm_factor > 0:
        raise ValueError("--replicas must not be negative, --check-every and --alarm-factor must be positive")
    if "positions" not in settings.fields:
        raise ValueError("--fields must hold positions")
    if settings.on_alarm == "fallback":
        if not settings.monitors or settings.fallback is None or settings.replicas or settings.fallback_steps < 1:
            raise ValueError(
                "--on-alarm fallback needs --fallback, --fallback-steps of at least 1, monitors, and no --replicas"
            )
    elif settings.fallback is not None or settings.collect is not None:
        raise ValueError("--fallback and --collect are used with --on-alarm fallback")


def _report(run, out: Path, n_steps: int) -> None:
    """Prints what came out; raises `monitors.Stopped` if a monitor ended all of it."""
    from ffmd_jax.core import units
    from ffmd_jax.dynamics.monitors import Stopped

    frames, done = " + ".join(map(str, run.n_frames)), run.n_steps * run.time_step_fs
    if run.n_steps_before >= n_steps:
        print(f"{out}: all {run.n_steps} steps are there; more --steps continue it")
        return
    if run.ended:
        found = run.alarms if run.replicas else [run.alarms]
        last = max((alarm for each in found for alarm in each), key=lambda alarm: alarm.time_fs)
        where = f"at {last.time_fs:g} fs"
        if run.halvings:
            where = f"first {where}; shorter steps did not help at {done:g} fs"
        if not any(run.n_frames):
            raise Stopped(f"{last.text} ({where}, before the first frame; nothing is written)")
        raise Stopped(f"{last.text} ({where}); {out} keeps the {frames} good frames before it")
    print(f"{out}: {frames} frames, {done / units.PS:g} ps at Δt = {run.time_step_fs:g} fs{run.happened()}")
    if not run.complete:
        print(f"stopped before the end, after {run.n_steps} of {n_steps} steps; --resume continues")
