"""``ffmd reference``, ``rollout``, ``energy`` and ``analyze``: commands that make trajectories and look at them."""

import json as jsons
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tyro.conf import Positional, arg

from ffmd_jax.cli import common


def reference(
    system: Positional[Literal["quartz", "argon"]],
    /,
    out: Path,
    ensemble: Literal["nve", "nvt"] = "nve",
    temperature: Annotated[float, arg(metavar="K")] = 300.0,
    length_ps: float = 20.0,
    frame_fs: float = 10.0,
    equilibrate_ps: float = 5.0,
    tau_fs: float = 100.0,
    repeat: tuple[int, int, int] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Runs reference MD with a force field: the data to train on and to compare with.

    Starts from the prepared structure, equilibrates with Langevin dynamics, then produces frames in double precision
    (position Verlet), and stores them in single precision with potential and total energy.

    Args:
        system: Prepared system: quartz (BKS) or argon (Lennard-Jones).
        out: H5MD file to write.
        ensemble: nve, or nvt with a CSVR thermostat.
        temperature: Temperature of the equilibration and of nvt, K.
        length_ps: Length of the production, ps.
        frame_fs: Interval of the stored frames, fs; a multiple of the integrator's time step (quartz 1, argon 4 fs).
        equilibrate_ps: Langevin dynamics before the production, ps.
        tau_fs: Relaxation time of the thermostat in nvt, fs.
        repeat: Unit cells along each lattice vector (default: quartz 3 3 2, argon 3 3 3).
        seed: Seed of velocities and thermostats.
        overwrite: Replace an existing file.
    """
    common.check_output(out, overwrite)
    common.use_double_precision()
    import jax

    from ffmd_jax import mechanics, thermostat, trajectory
    from ffmd_jax.reference import production, systems

    prepared = systems.get(system, repeat)
    every = round(frame_fs / prepared.dt)
    n_frames = round(length_ps * 1000 / frame_fs)
    if every < 1 or abs(every * prepared.dt - frame_fs) > 1e-9:
        raise ValueError(f"--frame-fs {frame_fs} is not a multiple of the time step of {system}, {prepared.dt} fs")
    if n_frames < 1 or equilibrate_ps <= 0:
        raise ValueError("--length-ps must hold at least one frame and --equilibrate-ps must be positive")
    key_equilibration, key_run = jax.random.split(jax.random.key(seed))
    warm_up = production.equilibrate(prepared, temperature, key_equilibration, equilibrate_ps)
    start = None
    for block in common.follow(warm_up, equilibrate_ps, "equilibration"):
        start = block.carry.state
    assert start is not None
    bath = thermostat.csvr(temperature, tau_fs, prepared.dt) if ensemble == "nvt" else None
    blocks = production.run(prepared, start, n_steps=n_frames * every, every=every, key=key_run, bath=bath)
    metadata = {
        "system": system,
        "source": "reference",
        "ensemble": ensemble,
        "temperature_K": temperature,
        "integrator_dt_fs": prepared.dt,
        "seed": seed,
    }
    totals = []
    with trajectory.Writer(out, prepared.system, metadata, overwrite=overwrite) as writer:
        for block in common.follow(blocks, length_ps, f"{system} {ensemble.upper()}"):
            writer.append(block.frames, block.times, block.observables)
            kelvin = jax.vmap(lambda v: mechanics.temperature(prepared.system, v))(block.frames.velocities)
            totals.append((block.observables["total_energy_eV"], kelvin))
    energy = [float(e) for block_energy, _ in totals for e in block_energy]
    kelvin = [float(t) for _, block_kelvin in totals for t in block_kelvin]
    print(f"{out}: {len(energy)} frames, mean temperature {sum(kelvin) / len(kelvin):.1f} K", end="")
    if ensemble == "nve":
        drift = (energy[-1] - energy[0]) / len(prepared.positions) * 1e3 / length_ps
        print(f", energy drift {drift:.1e} meV/atom/ps", end="")
    print()


def rollout(
    model: Positional[str],
    /,
    start: Path,
    out: Path,
    steps: int,
    ensemble: Literal["nve", "nvt"] = "nvt",
    temperature: Annotated[float | None, arg(metavar="K")] = None,
    every: int = 1,
    tau_fs: float | None = None,
    seed: int = 0,
    float64: bool = False,
    overwrite: bool = False,
) -> None:
    """Runs force-free MD: the model steps the atoms from t to t + Δt, over and over.

    The time step is the model's.  Velocities come from the start file; with --temperature and a file without
    velocities they are drawn from the Maxwell–Boltzmann distribution.

    Args:
        model: Model folder, or the name of a shipped model.
        start: Start structure, H5MD (its last frame) or anything that ASE reads.
        out: H5MD file to write.
        steps: Steps of Δt; a multiple of --every.
        ensemble: nvt with a CSVR thermostat, or nve.
        temperature: Temperature of nvt and of drawn velocities, K (default of nvt: 300).
        every: Steps between two stored frames.
        tau_fs: Relaxation time of the thermostat, fs (default: 10 Δt).
        seed: Seed of thermostat and drawn velocities.
        float64: Compute in double precision.
        overwrite: Replace an existing file.
    """
    common.check_output(out, overwrite)
    common.use_double_precision()
    import jax
    import jax.numpy as jnp

    from ffmd_jax import checkpoint, mechanics, thermostat, trajectory
    from ffmd_jax import model as models
    from ffmd_jax import rollout as rollouts
    from ffmd_jax.state import cast

    config, params = checkpoint.load_model(model)
    key_run, key_draw = jax.random.split(jax.random.key(seed))
    system, state = trajectory.read_start(start, need_velocities=temperature is None)
    system, state = models.isolate(config, system, state)
    models.check_system(config, system)
    if temperature is not None and not state.velocities.any():
        state = mechanics.maxwell_boltzmann(key_draw, system, jnp.asarray(state.positions), temperature)
    kelvin = 300.0 if temperature is None else temperature
    interval = config.time_step_fs
    tau = 10 * interval if tau_fs is None else tau_fs
    bath = thermostat.csvr(kelvin, tau, interval) if ensemble == "nvt" else None
    dtype = jnp.float64 if float64 else jnp.float32
    blocks = rollouts.run(
        system,
        cast(state, dtype),
        models.make_propagate(config, cast(params, dtype)),
        cutoff=config.architecture.cutoff,
        time_step_fs=interval,
        n_steps=steps,
        every=every,
        key=key_run,
        thermostat=bath,
    )
    metadata = {
        "source": "force-free",
        "model": str(model),
        "ensemble": ensemble,
        "temperature_K": kelvin if ensemble == "nvt" else None,
        "tau_fs": tau if ensemble == "nvt" else None,
        "time_step_fs": interval,
        "seed": seed,
    }
    n_frames = 0
    with trajectory.Writer(out, system, metadata, overwrite=overwrite, dtype=np.dtype(dtype)) as writer:
        for block in common.follow(blocks, steps * interval / 1000, f"force-free {ensemble.upper()}"):
            writer.append(block.frames, block.times, block.observables)
            n_frames += len(block.times)
    print(f"{out}: {n_frames} frames, {steps * interval / 1000:g} ps at Δt = {interval:g} fs")


def energy(system: Positional[str], structure: Positional[Path], /, json: bool = False) -> None:
    """Prints the reference energy and forces of a structure.

    Args:
        system: Prepared system whose force field to use: quartz or argon.
        structure: Any file that ASE reads, or H5MD (last frame).
        json: Print {"energy_eV": …, "forces_eV_per_A": [[…]]}.
    """
    common.use_double_precision()
    from ffmd_jax import trajectory
    from ffmd_jax.reference import production, systems

    prepared = systems.get(system)
    atoms, state = trajectory.read_start(structure, need_velocities=False)
    unknown = set(atoms.species.tolist()) - set(prepared.system.species.tolist())
    if unknown:
        raise ValueError(f"the force field of {system} has no parameters for atomic number {sorted(unknown)[0]}")
    value, force = production.energy_and_forces(prepared, atoms, state.positions)
    if json:
        common.print_json({"energy_eV": float(value), "forces_eV_per_A": np.asarray(force).tolist()})
    else:
        print(f"energy {float(value):.6f} eV, largest force {float(np.abs(force).max()):.4g} eV/Å")


def analyze(
    trajectory: Positional[Path],
    /,
    out: Path,
    reference: Path | None = None,
    json: bool = False,
    overwrite: bool = False,
) -> None:
    """Analyses a trajectory, alone or beside a reference: temperatures, g(r), VDOS, drifts; writes an HTML report.

    Args:
        trajectory: H5MD, or anything that ASE reads with velocities and times.
        out: Folder to write report.html, figures and summary.json to.
        reference: Reference trajectory of the same system.
        json: Print the summary as one JSON object.
        overwrite: Write into an existing folder.
    """
    common.check_output(out, overwrite)
    from ffmd_jax import analysis, checkpoint, report
    from ffmd_jax import trajectory as trajectories

    own = analysis.analyze(trajectories.read(trajectory))
    other = None if reference is None else analysis.analyze(trajectories.read(reference))
    summary = analysis.summarize(own) if other is None else analysis.compare(own, other)
    out.mkdir(exist_ok=True)
    report.write(out / "report.html", trajectory.name, own, other)
    report.save_figures(out, own, other)
    checkpoint.write_atomically(out / "summary.json", (jsons.dumps(summary, indent=2) + "\n").encode())
    if json:
        common.print_json(summary)
    else:
        print(report.verdict(own, other))
        print(f"report: {out / 'report.html'}")
