"""``ffmd energy`` and ``ffmd analyze``: what a structure or a trajectory is like."""

import json as jsons
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from ffmd_jax.cli import common
from ffmd_jax.core import files, progress

_FRAMES_AT_ONCE = 500


def analyze(
    trajectory: Positional[Path],
    /,
    out: Path,
    reference: Path | None = None,
    force_field: str | None = None,
    json: bool = False,
    overwrite: bool = False,
) -> None:
    """Analyses a trajectory, alone or beside a reference.

    Writes an HTML report of temperatures, g(r), VDOS and drifts.

    Args:
        trajectory: H5MD, or anything that ASE reads with velocities and times.
        out: Folder to write report.html, figures and summary.json to.
        reference: Reference trajectory of the same system.
        force_field: Prepared system (quartz, water, …) that gives the potential energies of the frames, which a
            force-free run does not know.
        json: Print the summary as one JSON object.
        overwrite: Write into an existing folder.
    """
    files.check_output(out, overwrite)
    from ffmd_jax.analysis import comparison, report
    from ffmd_jax.formats import trajectory as trajectories

    found = trajectories.read(trajectory)
    if force_field is not None:
        found = _with_energies(found, force_field)
    own = comparison.analyze(found)
    other = None if reference is None else comparison.analyze(trajectories.read(reference))
    summary = comparison.summarize(own) if other is None else comparison.compare(own, other)
    out.mkdir(exist_ok=True)
    report.write(out / "report.html", trajectory.name, own, other)
    report.save_figures(out, own, other)
    files.write_atomically(out / "summary.json", (jsons.dumps(summary, indent=2) + "\n").encode())
    if json:
        common.print_json(summary)
    else:
        print(report.verdict(own, other))
        print(f"report: {out / 'report.html'}")


def _with_energies(found, force_field: str):
    """The trajectory with the potential energies of its frames by a prepared system's force field."""
    common.use_double_precision()
    from ffmd_jax.reference import production, systems

    positions = np.asarray(found.frames.positions, float)
    prepared = systems.get(force_field, structure=(found.system, positions[0]))
    whole = positions + (prepared.positions - positions[0])  # molecules that the first frame has cut are joined
    energies = []
    with progress.progress(len(whole), "reference energies", "frames") as bar:
        for first in range(0, len(whole), _FRAMES_AT_ONCE):
            part = whole[first : first + _FRAMES_AT_ONCE]
            energies.append(np.asarray(production.potential_energies(prepared, prepared.system, part)))
            bar.update(len(part))
    return found._replace(observables={**found.observables, "potential_energy_eV": np.concatenate(energies)})
