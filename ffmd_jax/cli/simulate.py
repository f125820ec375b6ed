"""``ffmd energy`` and ``ffmd analyze``: what a structure or a trajectory is like."""

import json as jsons
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from ffmd_jax.cli import common


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
