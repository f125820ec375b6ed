"""``ffmd analyze``: properties of a trajectory, alone or beside a reference."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ffmd_jax.cli import common
from ffmd_jax.core import files
from ffmd_jax.formats import Hints


def analyze(
    trajectory: Positional[Path],
    /,
    out: Path,
    reference: Path | None = None,
    force_field: str | None = None,
    hints: Annotated[Hints, tyro.conf.arg(name="")] = Hints(),
    json: bool = False,
    overwrite: bool = False,
) -> None:
    """Analyses a trajectory, alone or beside a reference.

    Writes an HTML report of temperatures, g(r), VDOS and drifts.

    The report says in what the run agrees with the reference and with its target temperature, in what it differs, what
    the comparison cannot tell because the runs are too short, and what to do.

    Args:
        trajectory: H5MD, or anything that ASE reads with velocities and times.
        out: Folder to write report.html, figures and summary.json to.
        reference: Reference trajectory of the same system.
        force_field: Prepared system (quartz, water, …) whose force field gives the potential energies of the frames;
            a force-free run has none of its own.
        hints: What the files leave unstated.
        json: Print the summary as one JSON object.
        overwrite: Write into an existing folder.
    """
    files.check_output(out, overwrite)
    from ffmd_jax import api

    made = api.analyze(trajectory, reference=reference, force_field=force_field, hints=hints)
    page = made.save(out)
    if json:
        common.print_json(made.summary)
    else:
        common.say(f"{made.text(common.width())}\n\nreport: {page}")
