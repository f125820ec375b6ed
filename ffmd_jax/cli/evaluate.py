"""``ffmd evaluate``."""

from functools import partial
from pathlib import Path

from tyro.conf import Positional

from ffmd_jax.cli import common
from ffmd_jax.core import progress


def evaluate(model: Positional[str], data: Positional[Path], /, reversible: bool = False, json: bool = False) -> None:
    """Prints the errors of a model on a test set.

    They are mean absolute errors of displacements and velocities, as in the paper's table.

    Relative errors are relative to the mean absolute component of the test set; those of the velocities are given by
    element, too.

    Args:
        model: Model folder, or the name of a shipped model.
        data: Dataset made by `ffmd dataset`.
        reversible: Errors of the step that ffmd rollout --reversible takes.
        json: Print one JSON object.
    """
    from ffmd_jax.data import dataset as datasets
    from ffmd_jax.models import model_files
    from ffmd_jax.training import losses

    config, params = model_files.load_model(model)
    pairs = datasets.read(data)
    errors = losses.evaluate(config, params, pairs, pairs.test, reversible)
    if json:
        common.print_json(as_dict(errors))
    else:
        print(_describe(errors, config.time_step_fs))


def finish(model: Path, pairs) -> None:
    """Calibrates the monitors of a trained model on the validation pairs, and prints its errors on the test pairs."""
    from ffmd_jax.models import model_files
    from ffmd_jax.training import calibration, losses, parallel

    config, params = model_files.load_model(model)
    if parallel.is_first():
        show = partial(progress.counted, description="calibrating the monitors", unit="states")
        config = calibration.calibrate(config, params, pairs.validation, pairs.system, show)
        model_files.save_model(model, config, params)
    print(f"{model}: {_describe(losses.evaluate(config, params, pairs, pairs.test), config.time_step_fs)}")


def as_dict(errors) -> dict[str, float]:
    """Errors by their names in JSON."""
    by_element = errors.velocity_percent_by_element.items()
    return {
        "displacement_mae_A": errors.displacement_mae,
        "displacement_mae_relative_percent": errors.displacement_percent,
        "velocity_mae_A_per_fs": errors.velocity_mae,
        "velocity_mae_relative_percent": errors.velocity_percent,
        **{f"velocity_mae_relative_percent_{element}": value for element, value in by_element},
    }


def _describe(errors, time_step_fs: float) -> str:
    by_element = ", ".join(f"{element} {value:.2f}" for element, value in errors.velocity_percent_by_element.items())
    return (
        f"Δt {time_step_fs:g} fs; MAE Δr {errors.displacement_mae * 1e5:.2f}e-5 Å "
        f"({errors.displacement_percent:.2f} %), "
        f"v {errors.velocity_mae * 1e5:.2f}e-5 Å/fs ({errors.velocity_percent:.2f} %; {by_element} %)"
    )
