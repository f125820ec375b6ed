"""``ffmd analyze``: properties of a trajectory, alone or beside a reference."""

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
    """Analyses a trajectory, alone or beside a reference: temperatures, g(r), VDOS, drifts; writes an HTML report.

    The report says in what the run agrees with the reference and with its target temperature, in what it differs, what
    the comparison cannot tell because the runs are too short, and what to do.

    Args:
        trajectory: H5MD, or anything that ASE reads with velocities and times.
        out: Folder to write report.html, figures and summary.json to.
        reference: Reference trajectory of the same system.
        force_field: Prepared system (quartz, water, …) whose force field gives the potential energies of the frames;
            a force-free run has none of its own.
        json: Print the summary as one JSON object.
        overwrite: Write into an existing folder.
    """
    files.check_output(out, overwrite)
    from ffmd_jax.analysis import report
    from ffmd_jax.formats import trajectory as trajectories

    found = trajectories.read(trajectory)
    if force_field is not None:
        found = _with_energies(found, force_field)
    other = None if reference is None else trajectories.read(reference)
    made = report.make(found, other, title=trajectory.name)
    page = made.save(out)
    if json:
        common.print_json(made.summary)
    else:
        print("\n".join([made.verdict, *(f"- {item}" for item in made.advice), f"report: {page}"]))


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
