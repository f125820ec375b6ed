"""``ffmd evaluate``."""

from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from ffmd_jax.cli import common
from ffmd_jax.formats import Hints


def evaluate(
    model: Positional[str],
    data: Positional[Path],
    /,
    reversible: bool = False,
    time_step: float | None = None,
    hints: Annotated[Hints, tyro.conf.arg(name="")] = Hints(),
    json: bool = False,
) -> None:
    """Prints the errors of a model on a test set.

    They are mean absolute errors of displacements and velocities, as in the paper's table; of a potential those of
    energies, forces and, where the data have them, stresses.

    Relative errors are relative to the mean absolute component of the test set; those of the velocities, or forces, are
    given by element, too.

    Args:
        model: Model folder, or the name of a shipped model.
        data: Dataset made by `ffmd dataset` (its test set), or an NVE trajectory (all pairs of its frames).
        reversible: Errors of the time-symmetrised step that ffmd rollout --reversible takes.
        time_step: Δt, fs, of a model with several (None: each of those that it was trained for).
        hints: What the file of a trajectory leaves unstated.
        json: Print one JSON object.
    """
    from ffmd_jax import api
    from ffmd_jax.models import model as models
    from ffmd_jax.models import model_files

    used = model_files.load(model)
    used = used if time_step is None else models.at(used, time_step)
    errors: Any = api.evaluate(used, data, reversible=reversible, hints=hints)
    if json:
        common.print_json(errors.as_dict())
    else:
        step = "" if used.kind == "potential" else f"Δt {models.time_steps(used.config)}; "
        print(step + errors.describe())
        if used.kind == "family":
            print("\n".join(errors.describe_systems()))
