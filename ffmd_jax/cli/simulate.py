"""``ffmd rollout``, ``energy`` and ``analyze``: commands that make trajectories and look at them."""

import json as jsons
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tyro.conf import Positional, arg

from ffmd_jax.cli import common


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
    tables: bool = True,
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
        tables: Read the radial networks from tables (`ffmd info` says how exact), or compute them in every step.
        overwrite: Replace an existing file.
    """
    common.check_output(out, overwrite)
    common.use_double_precision()
    import jax
    import jax.numpy as jnp

    from ffmd_jax import checkpoint, mechanics, thermostat, trajectory
    from ffmd_jax import model as models
    from ffmd_jax import rollout as rollouts
    from ffmd_jax import tables as radial_tables
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
    params = cast(radial_tables.tabulate(config, params) if tables else params, dtype)
    blocks = rollouts.run(
        system,
        cast(state, dtype),
        models.make_propagate(config, params),
        cutoff=config.architecture.cutoff,
        select=True,
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
        system: Prepared system whose force field to use: quartz, water (Ewald), water-dsf, paracetamol, silicon, argon.
        structure: Any file that ASE reads, or H5MD (last frame); molecules may be wrapped.
        json: Print {"energy_eV": …, "forces_eV_per_A": [[…]]}.
    """
    common.use_double_precision()
    from ffmd_jax import trajectory
    from ffmd_jax.reference import production, systems

    atoms, state = trajectory.read_start(structure, need_velocities=False)
    prepared = systems.get(system, structure=(atoms, state.positions))
    value, force = production.energy_and_forces(prepared, prepared.system, prepared.positions)
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
