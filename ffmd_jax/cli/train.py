"""``ffmd train``."""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from ffmd_jax.cli import evaluate
from ffmd_jax.core import files, json_records
from ffmd_jax.core import progress as progress_module
from ffmd_jax.models import config as configs
from ffmd_jax.training import settings as settings_module

_SAVE_EVERY_S = 120.0
_DRAW_EVERY_S = 5.0
# Files that define a training; it goes on only with the same.
_TRAINING, _ARCHITECTURE, _MODEL, _DATA = "training.json", "architecture.json", "model.json", "dataset.json"


def train(
    data: Positional[Path],
    /,
    out: Path,
    training: Annotated[settings_module.Training, tyro.conf.arg(name="")] = settings_module.Training(),  # noqa: B008
    config: configs.Architecture = configs.SMALL,
    processes: Annotated[settings_module.Processes, tyro.conf.arg(name="")] = settings_module.Processes(),  # noqa: B008
    init: str | None = None,
    tensorboard: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Trains a model.

    The model folder always holds the best weights so far, and what is needed to go on.

    Validation after each epoch, the first of which also writes the first weights; metrics go to metrics.jsonl and
    training.png, training states to checkpoints/.  Ctrl-C or SIGTERM stops after the running block of steps and saves.
    After that, or after a kill, --resume with the same settings goes on from the last saved state, as if nothing had
    happened; also on other devices, with other rounding.

    Trains on all devices that it sees.  Batches are divided over them, so the result does not depend on their number.
    Started on several machines by Slurm or on a TPU slice, all processes train together; elsewhere, start one on each
    with --coordinator, --num-processes and --process-id.  They share the folder of --out.

    Args:
        data: Dataset made by `ffmd dataset`.
        out: Model folder to write.
        training: How to train.
        config: Sizes of the network; first of all try other cutoffs.
        processes: Several processes, started by hand.
        init: Model folder to start from: its weights, scales and sizes (then --config is not used).
        tensorboard: Also write metrics for TensorBoard (needs tensorboardX).
        resume: Go on with the training in --out.
        overwrite: Replace an existing model folder.
    """
    from ffmd_jax.training import parallel

    parallel.start(processes)
    with contextlib.ExitStack() as stack:
        if not parallel.is_first():
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        _train(data, out, training, config, init, tensorboard, resume, overwrite)


def _train(
    data: Path,
    out: Path,
    training: settings_module.Training,
    config: configs.Architecture,
    init: str | None,
    tensorboard: bool,
    resume: bool,
    overwrite: bool,
) -> None:
    """`train` in each of its processes."""
    _check_folder(out, training, config, resume, overwrite)
    import jax

    from ffmd_jax.data import dataset as datasets
    from ffmd_jax.models import model_files
    from ffmd_jax.training import batches, loop, parallel, training_log
    from ffmd_jax.training import states as states_module

    if tensorboard:
        training_log.check_tensorboard()
    pairs, weights = datasets.read(data), None
    source = {"file": str(data), "sha256": datasets.fingerprint(pairs)}
    if resume:
        _check_same_data(out, source)
        model_config = json_records.from_json((out / _MODEL).read_text(), configs.ModelConfig)
    elif init:
        model_config, weights = model_files.load_model(init)
    else:
        model_config = loop.model_config(pairs, config)
    n_steps = training.epochs * batches.steps_per_epoch(pairs.train, training)
    state, best = loop.initial(model_config, training, n_steps, weights), float("inf")
    n_weights = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(f"{n_weights} weights, {n_steps} steps on {_devices()}; compiling, a minute or more")
    if not resume:
        settings = {_TRAINING: training, _ARCHITECTURE: config, _MODEL: model_config}
        texts = {name: json_records.to_json(values) for name, values in settings.items()}
        _make_folder(out, {**texts, _DATA: json.dumps(source, indent=2) + "\n"})
    with states_module.TrainingStates(out / "checkpoints") as states:
        if resume and (saved := states.restore(state)):
            state, best = saved
        if int(state.step) >= n_steps:
            print(f"{out}: training had finished; more --epochs need a new training")
            if model_files.load_model(out)[0].calibration is None:  # stopped while it was calibrated
                evaluate.finish(out, pairs)
            return
        log = contextlib.nullcontext()
        if parallel.is_first():
            log = training_log.TrainingLog(out, int(state.step), tensorboard)
        with log:
            try:
                progress = loop.fit(model_config, pairs, training, state)
                _follow(out, states, log, progress, model_config, best, int(state.step), n_steps)
            except loop.Diverged as error:
                raise loop.Diverged(f"{error}; {out} keeps the weights and states saved before") from None
    evaluate.finish(out, pairs)


def _follow(
    out: Path, states, log, progress, model_config: configs.ModelConfig, best: float, begin: int, n_steps: int
) -> None:
    """Follows a training: bar, metrics, checkpoints, best weights; saves when asked to stop."""
    from ffmd_jax.models import model_files
    from ffmd_jax.training import parallel

    first, shown = parallel.is_first(), ""
    saved_at, drawn_at = time.monotonic(), -float("inf")
    with (
        _StopRequest() as request,
        progress_module.progress(n_steps, "training", "steps", hidden=not first, begin=begin) as bar,
    ):
        for now in progress:
            step, errors = int(now.state.step), now.validation
            validation = float("inf") if errors is None else errors.mean_percent
            if validation < best:
                best = validation
                if first:
                    model_files.save_model(out, model_config, now.state.average)
            if first:
                log.add(_metrics(step, now))
            due, stop = parallel.agree(first and time.monotonic() - saved_at > _SAVE_EVERY_S, request.made)
            if errors is not None or due or stop:
                states.save(step, now.state, best, validation)
                saved_at = time.monotonic()
            if first and errors is not None and time.monotonic() - drawn_at > _DRAW_EVERY_S:
                log.draw()
                drawn_at = time.monotonic()
            shown = shown if errors is None else f", v {errors.velocity_percent:.2f} %"
            bar.set_postfix_str(f"loss {now.loss:.2e}{shown}", refresh=False)
            bar.update(step - bar.n)
            if stop and step < n_steps:
                raise KeyboardInterrupt(f"Saved after {step} steps; --resume goes on.")


class _StopRequest:
    """While active, the first Ctrl-C or SIGTERM only sets ``made``: steps and files are finished.  The next stops."""

    def __init__(self):
        self.made = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {kind: signal.signal(kind, self._note) for kind in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def _note(self, *_) -> None:
        if self.made:
            raise KeyboardInterrupt
        self.made = True


def _check_folder(
    out: Path, training: settings_module.Training, config: configs.Architecture, resume: bool, overwrite: bool
) -> None:
    """Raises what is wrong with ``out`` as the folder of this training."""
    if resume:
        _check_same_settings(out, training, config)
        return
    if (out / _TRAINING).is_file() and not overwrite:
        raise FileExistsError(f"{out} holds a training already; go on with --resume, or say --overwrite")
    files.check_output(out, overwrite)


def _check_same_settings(out: Path, training: settings_module.Training, architecture: configs.Architecture) -> None:
    """Raises ValueError unless ``out`` holds a training with these settings."""
    if not all((out / name).is_file() for name in (_TRAINING, _ARCHITECTURE, _MODEL, _DATA)):
        raise FileNotFoundError(f"{out} holds no training to resume")
    for name, now in ((_TRAINING, training), (_ARCHITECTURE, architecture)):
        before = json_records.from_json((out / name).read_text(), type(now))
        for field in vars(now):
            if getattr(before, field) != getattr(now, field):
                raise ValueError(
                    f"cannot resume with {field} = {getattr(now, field)}: the training in {out} has "
                    f"{getattr(before, field)}"
                )


def _check_same_data(out: Path, source: dict[str, str]) -> None:
    """Raises ValueError unless the training in ``out`` began with these pairs."""
    before = json.loads((out / _DATA).read_text())
    if before["sha256"] != source["sha256"]:
        raise ValueError(
            f"cannot resume with the pairs in {source['file']}: the training in {out} began with other ones, "
            f"then in {before['file']}"
        )


def _make_folder(out: Path, settings: dict[str, str]) -> None:
    """Makes the folder of a training, complete with its settings, in place of an older one."""
    from ffmd_jax.core import files
    from ffmd_jax.training import parallel

    parallel.wait_for_all("folder checked")  # by all, before the first makes it
    if parallel.is_first():
        partial = out.with_name(out.name + ".partial")
        files.remove(partial)
        partial.mkdir()
        for name, text in settings.items():
            files.write_atomically(partial / name, text.encode())
        files.remove(out)
        os.replace(partial, out)
    parallel.wait_for_all("folder made")


def _devices() -> str:
    import jax

    kind, n_processes = jax.devices()[0].device_kind, jax.process_count()
    where = f" in {n_processes} processes" if n_processes > 1 else ""
    return (f"{jax.device_count()} × {kind}" if jax.device_count() > 1 else kind) + where


def _metrics(step: int, now) -> dict[str, Any]:
    """A line of metrics.jsonl: of the training in every one, of the validation at the end of an epoch."""
    values = {"step": step, "epoch": now.epoch, "loss": now.loss, "gradient_norm": now.gradient_norm}
    values |= {"learning_rate": now.learning_rate, "configurations_per_s": now.configurations_per_s}
    return values | ({} if now.validation is None else evaluate.as_dict(now.validation))
