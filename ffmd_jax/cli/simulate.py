"""``ffmd reference``, ``ffmd rollout`` and ``ffmd energy``: commands that make trajectories and energies."""

from pathlib import Path
from typing import Annotated, Literal

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
