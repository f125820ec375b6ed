"""``ffmd dataset``, ``ffmd train`` and ``ffmd evaluate``."""

import time
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ffmd_jax import config as configs
from ffmd_jax.cli import common
from ffmd_jax.formats import Hints

_SAVE_EVERY_S = 120.0


def dataset(
    trajectories: Positional[tuple[Path, ...]],
    /,
    out: Path,
    time_step: float,
    stride_fs: float | None = None,
    train_pairs: int | None = None,
    hints: Annotated[Hints, tyro.conf.arg(name="")] = Hints(),  # noqa: B008
    overwrite: bool = False,
) -> None:
    """Cuts NVE trajectories into training pairs an interval Δt apart.

    Reads H5MD, extxyz and .traj (ASE, with momenta or a column velocities in Å/fs), LAMMPS custom dumps (with
    --lammps-units, --lammps-timestep-fs and, without a column element, --elements), and with --topology what MDAnalysis
    reads.  Positions are unwrapped.  Refuses, with the number that gives it away: velocities that do not fit the
    displacements, thermostatted runs, changing cells, lost, repeated or damaged frames, a Δt that the frame interval
    does not divide.

    Three or more files: the last becomes the test set, the one before it the validation set.  One or two: each is cut
    in time, 80/10/10, with gaps of 10 Δt (at most 2.5 % of the run) before validation and test.

    Files in TrajCast's extxyz format (columns displacements, update_velocities) are taken as the pairs that they are;
    --time-step states their Δt.  They are split by file in the same way, or 80/10/10 in their order.

    Args:
        trajectories: Files, all of one system.
        out: HDF5 file to write.
        time_step: Δt of the model, fs; a multiple of the frame interval.
        stride_fs: Time between the starts of two pairs, fs (default: Δt, so that no two pairs share an interval).
        train_pairs: Keep this many training pairs, evenly chosen (default: all).
        hints: What the files leave unstated.
        overwrite: Replace an existing file.
    """
    common.check_output(out, overwrite)
    from ffmd_jax import dataset as datasets

    if not trajectories:
        raise ValueError("give at least one trajectory")
    data = _read_dataset(trajectories, time_step, stride_fs, hints)
    if train_pairs is not None:
        data = datasets.thinned(data, train_pairs)
    datasets.write(out, data, overwrite=overwrite)
    counts = [len(getattr(data, split).displacements) for split in datasets.SPLITS]
    if train_pairs is None and counts[0] < counts[1] + counts[2]:
        print("note: fewer pairs to train on than to validate and test; of three files one trains, of five three")
    sizes = ", ".join(f"{count} {split}" for count, split in zip(counts, datasets.SPLITS, strict=True))
    scales = datasets.statistics(data.train)
    print(
        f"{out}: {sizes} pairs at Δt = {time_step:g} fs; RMS Δr {scales.displacement_rms:.4g} Å, "
        f"v {scales.velocity_rms:.4g} Å/fs per component"
    )
    if "velocity_relative_error" in data.metadata:
        error = 100 * data.metadata["velocity_relative_error"]
        print(f"velocities are {data.metadata['velocities']}: inaccurate by about {error:.2g} % (RMS)")


def _read_dataset(files: tuple[Path, ...], time_step: float, stride_fs: float | None, hints: Hints):
    """The dataset of trajectories, or of files that hold pairs already."""
    from ffmd_jax import dataset as datasets
    from ffmd_jax import trajectory
    from ffmd_jax.formats import trajcast_pairs

    ready = [trajcast_pairs.recognises(path) for path in files]
    if all(ready):
        if stride_fs is not None or hints != Hints():
            raise ValueError("files in TrajCast's format hold pairs already: they take no --stride-fs and no hints")
        return datasets.make_from_pairs(files, time_step)
    if any(ready):
        raise ValueError(f"{files[ready.index(True)]} holds TrajCast pairs, others hold trajectories; give one kind")
    found = []
    with common.progress(len(files), "reading", "files") as bar:
        for path in files:
            found.append(trajectory.read(path, hints=hints))
            bar.update()
    return datasets.make(found, time_step, time_step if stride_fs is None else stride_fs, files)


def train(
    data: Positional[Path],
    /,
    out: Path,
    training: Annotated[configs.Training, tyro.conf.arg(name="")] = configs.Training(),  # noqa: B008
    config: configs.Architecture = configs.Architecture(),  # noqa: B008
    init: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Trains a model; the model folder always holds the best weights so far, and what is needed to go on.

    Validation after each epoch, the first of which also writes the first weights; metrics go to metrics.jsonl, training
    states to checkpoints/.  Ctrl-C stops and saves; --resume with the same settings goes on from the last saved state.

    Args:
        data: Dataset made by `ffmd dataset`.
        out: Model folder to write.
        training: How to train.
        config: Sizes of the network.
        init: Model folder to start from: its weights, scales and sizes (then --config is not used).
        resume: Go on with the training in --out.
        overwrite: Replace an existing model folder.
    """
    if resume:
        _check_same_settings(out, training, config)
    else:
        if (out / "training.json").is_file() and not overwrite:
            raise FileExistsError(f"{out} holds a training already; go on with --resume, or say --overwrite")
        common.check_output(out, overwrite)
        common.remove(out)
    import jax

    from ffmd_jax import checkpoint
    from ffmd_jax import dataset as datasets
    from ffmd_jax import train as trainer

    pairs = datasets.read(data)
    model_config, weights = checkpoint.load_model(init) if init else (trainer.model_config(pairs, config), None)
    n_steps = training.epochs * trainer.n_batches(len(pairs.train.displacements), training)
    state, best = trainer.initial(model_config, training, n_steps, weights), float("inf")
    n_weights = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(f"{n_weights} weights, {n_steps} steps on {jax.devices()[0].device_kind}; compiling, up to a minute")
    out.mkdir(exist_ok=True)
    checkpoint.write_atomically(out / "training.json", configs.to_json(training).encode())
    checkpoint.write_atomically(out / "architecture.json", configs.to_json(config).encode())
    with checkpoint.TrainingStates(out / "checkpoints") as states:
        if resume and (saved := states.restore(state)):
            state, best = saved
        _keep_metrics(out / "metrics.jsonl", int(state.step))
        if int(state.step) >= n_steps:
            print(f"{out}: training had finished; more --epochs need a new training")
            return
        _fit(out, states, trainer.fit(model_config, pairs, training, state), model_config, best, n_steps)
    _report_test(out, pairs)


def evaluate(model: Positional[str], data: Positional[Path], /, json: bool = False) -> None:
    """Prints the mean absolute errors of displacements and velocities on the test set, as in the paper's table.

    Relative errors are relative to the mean absolute component of the test set.

    Args:
        model: Model folder, or the name of a shipped model.
        data: Dataset made by `ffmd dataset`.
        json: Print one JSON object.
    """
    from ffmd_jax import checkpoint
    from ffmd_jax import dataset as datasets
    from ffmd_jax import train as trainer

    config, params = checkpoint.load_model(model)
    pairs = datasets.read(data)
    errors = trainer.evaluate(config, params, pairs, pairs.test)
    if json:
        common.print_json(_as_dict(errors))
    else:
        print(_describe(errors, config.time_step_fs))


def _fit(out: Path, states, progress, model_config: configs.ModelConfig, best: float, n_steps: int) -> None:
    """Follows a training: bar, metrics, checkpoints, best weights; saves on Ctrl-C."""
    from ffmd_jax import checkpoint

    last, saved_at, validation = None, time.monotonic(), float("inf")
    with common.progress(n_steps, "training", "steps") as bar:
        try:
            for last in progress:
                step = int(last.state.step)
                bar.update(step - bar.n)
                if last.validation is not None:
                    errors = last.validation
                    validation = 0.5 * (errors.displacement_percent + errors.velocity_percent)
                    if validation < best:
                        best = validation
                        checkpoint.save_model(out, model_config, last.state.average)
                    values = {"step": step, "epoch": last.epoch, "loss": last.loss, **_as_dict(errors)}
                    checkpoint.append_json_line(out / "metrics.jsonl", values)
                shown = f", v {errors.velocity_percent:.2f} %" if validation < float("inf") else ""
                bar.set_postfix_str(f"loss {last.loss:.2e}{shown}", refresh=False)
                if last.validation is not None or time.monotonic() - saved_at > _SAVE_EVERY_S:
                    states.save(step, last.state, best, validation)
                    saved_at = time.monotonic()
        except KeyboardInterrupt:
            if last is None:
                raise
            if last.validation is None:
                states.save(int(last.state.step), last.state, best, validation)
            raise KeyboardInterrupt(f"Saved after {int(last.state.step)} steps; --resume goes on.") from None


def _check_same_settings(out: Path, training: configs.Training, architecture: configs.Architecture) -> None:
    """Raises ValueError unless ``out`` holds a training with these settings."""
    for name, now in (("training.json", training), ("architecture.json", architecture)):
        if not (out / name).is_file():
            raise FileNotFoundError(f"{out} holds no training to resume")
        before = configs.from_json((out / name).read_text(), type(now))
        for field in vars(now):
            if getattr(before, field) != getattr(now, field):
                raise ValueError(
                    f"cannot resume with {field} = {getattr(now, field)}: the training in {out} has "
                    f"{getattr(before, field)}"
                )


def _keep_metrics(path: Path, step: int) -> None:
    """Drops the metrics of steps that a resumed training will repeat."""
    import json

    if path.is_file():
        lines = [line for line in path.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= step]
        path.write_text("".join(lines))


def _report_test(out: Path, pairs) -> None:
    """Calibrates the monitors of the finished model on the validation set, and prints its errors on the test set."""
    from ffmd_jax import checkpoint, monitors
    from ffmd_jax import train as trainer

    config, params = checkpoint.load_model(out)
    config = monitors.calibrate(config, params, pairs.validation, pairs.system)
    checkpoint.save_model(out, config, params)
    print(f"{out}: {_describe(trainer.evaluate(config, params, pairs, pairs.test), config.time_step_fs)}")


def _as_dict(errors) -> dict[str, float]:
    return {
        "displacement_mae_A": errors.displacement_mae,
        "displacement_mae_relative_percent": errors.displacement_percent,
        "velocity_mae_A_per_fs": errors.velocity_mae,
        "velocity_mae_relative_percent": errors.velocity_percent,
    }


def _describe(errors, time_step_fs: float) -> str:
    return (
        f"Δt {time_step_fs:g} fs; MAE Δr {errors.displacement_mae * 1e5:.2f}e-5 Å "
        f"({errors.displacement_percent:.2f} %), "
        f"v {errors.velocity_mae * 1e5:.2f}e-5 Å/fs ({errors.velocity_percent:.2f} %)"
    )
