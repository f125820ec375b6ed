"""A training as a folder: settings, best weights so far, metrics, training states, calibration at the end."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ffmd_jax.core import files, json_records, processes
from ffmd_jax.core import progress as bars
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.data.dataset_file import SPLITS, Dataset
from ffmd_jax.models import model as models
from ffmd_jax.models import model_files
from ffmd_jax.models.config import SMALL, Architecture, FamilyCalibration
from ffmd_jax.models.model import Model
from ffmd_jax.training import batches, calibration, fine_tuning, loop, tasks, training_log
from ffmd_jax.training.settings import Training
from ffmd_jax.training.states import TrainingStates

_SAVE_EVERY_S = 120.0
_DRAW_EVERY_S = 5.0
# Files that define a training; it is continued with the same only.
_TRAINING, _ARCHITECTURE, _MODEL, _DATA = "training.json", "architecture.json", "model.json", "dataset.json"
_OURS = (_TRAINING, model_files.CONFIG)


def run(
    data: Dataset,
    out: Path,
    training: Training = Training(),
    architecture: Architecture | None = None,
    *,
    kind: str = "propagator",
    time_step_fs: Any = None,
    init: str | Path | None = None,
    rehearse: Dataset | None = None,
    rehearse_share: float = 0.5,
    tensorboard: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    source: str = "",
    progress: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Model:
    """Trains a model into the folder ``out`` and returns it; as ``ffmd train``, whose help says more.

    Args:
        data: of one system or many.
        architecture: sizes of the network (default: those of ``init``, or the small ones).
        kind: "propagator", or "potential" for frames with energies.
        time_step_fs: Δt of the model, fs (default: the dataset's); several: of the members of a family.
        init: model to start from: its weights, scales and sizes.
        rehearse: data that ``init`` was trained on: some of their training pairs are learned again, so that they are
            not forgotten.
        rehearse_share: of them in the training pairs, at most.
        source: where the data come from, for messages.
        progress: show bars.
        say: called with lines about what happens.

    Raises:
        ValueError: what does not fit together; a training that diverged.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the running block of steps was saved.
    """
    if tensorboard:
        training_log.check_tensorboard()
    if isinstance(time_step_fs, Sequence):
        kind, time_step_fs = _family_of(kind, time_step_fs, init)
    if kind not in tasks.TASKS:
        raise ValueError(f"the kind of a model is {' or '.join(tasks.TASKS)}, not {kind}")
    before = model_files.load(init) if init is not None and not resume else None
    if before is not None and before.kind != kind:
        raise ValueError(f"{init} is a {before.kind}: `kind` {kind} cannot start from it")
    task, weights = tasks.TASKS[kind], None
    old: Any = None if before is None else before.config
    if resume:
        old = model_files.read_config((out / _MODEL).read_text())[1]
        if tasks.kind_of(old) != kind:
            raise ValueError(f"cannot resume with `kind` {kind}: the training in {out} is of a {tasks.kind_of(old)}")
    groups = task.form(data, time_step_fs, old)
    if rehearse is not None:
        if init is None:
            raise ValueError("`rehearse` keeps what a model has learned: it needs `init`")
        groups += fine_tuning.to_rehearse(task.form(rehearse, time_step_fs, old), groups, rehearse_share)
    for split in SPLITS:
        pair_sets.check_split(groups, split)
    origin = {"file": source, "sha256": pair_sets.fingerprint(groups)}
    if resume:
        _check_same_data(out, origin)
        config = old
    elif before is not None:
        config, weights = before.config, before.params
        fine_tuning.check_same_sizes(config.architecture, architecture, init)
        if kind == "propagator":
            config, weights = fine_tuning.with_new_elements(config, weights, groups, say)
            config = fine_tuning.with_time_step(config, groups, time_step_fs, say)
            config = fine_tuning.with_speed_limits(config, groups, say)
        tasks.check_fits(config, groups)
    else:
        config = task.configure(groups, architecture or SMALL)
    if init is not None:
        training = training.fine_tuning()
    n_steps = training.epochs * batches.n_batches(tasks.buckets(config, groups, "train"), training)
    state, best = loop.initial(config, training, n_steps, weights), float("inf")
    n_weights = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    say(f"{n_weights} weights, {n_steps} steps on {_devices()}; compiling, a minute or more")
    if not resume:
        texts = {_TRAINING: json_records.to_json(training), _ARCHITECTURE: json_records.to_json(config.architecture)}
        texts |= {_MODEL: model_files.config_json(config, kind), _DATA: json.dumps(origin, indent=2) + "\n"}
        _make_folder(out, texts)
    with TrainingStates(out / "checkpoints") as states:
        if resume and (saved := states.restore(state)):
            state, best = saved
        if int(state.step) >= n_steps:
            say(f"{out}: training had finished; more `epochs` need a new training")
            if kind != "potential" and model_files.load(out).calibration is None:  # stopped while it was calibrated
                _finish(out, groups, progress, say)
            return model_files.load(out)
        log = contextlib.nullcontext()
        if processes.is_first():
            log = training_log.TrainingLog(out, int(state.step), tensorboard)
        with log:
            try:
                steps = loop.fit(config, groups, training, state)
                _follow(out, states, log, steps, config, best, int(state.step), n_steps, progress)
            except loop.Diverged as error:
                raise loop.Diverged(f"{error}; {out} keeps the weights and states saved before") from None
    return _finish(out, groups, progress, say)


def _family_of(kind: str, time_steps_fs: Sequence[float], init: Any) -> tuple[str, Any]:
    """The kind and Δt of what learns several of them."""
    steps = sorted(set(map(float, time_steps_fs)))
    if kind == "potential":
        raise ValueError("a potential has no time step: it learns from single frames")
    if len(steps) < 2:
        raise ValueError(f"a family needs two time steps or more, not {', '.join(map(str, steps)) or 'none'}")
    if init is not None:
        raise ValueError("a family of several time steps is trained from the beginning: leave out `init`")
    return "family", steps


def check_folder(
    out: Path, training: Training, architecture: Architecture | None, resume: bool, overwrite: bool, *inputs: Any
) -> None:
    """Raises what is wrong with ``out`` as the folder of this training; it must not hold the inputs."""
    if resume:
        _check_same_settings(out, training, architecture)
        return
    if (out / _TRAINING).is_file() and not overwrite:
        raise FileExistsError(f"{out} holds a training already; continue it with `resume`, or say `overwrite`")
    files.check_output(out, overwrite, *inputs)
    if not _may_be_replaced(out):
        raise FileExistsError(f"{out} is no model folder and will not be replaced; choose another `out`")


def _may_be_replaced(out: Path) -> bool:
    """True for a folder that is not there, empty, or a model's."""
    if not out.exists():
        return True
    return out.is_dir() and (not any(out.iterdir()) or any((out / name).exists() for name in _OURS))


def _finish(out: Path, groups: Any, progress: bool, say: Callable[[str], None]) -> Model:
    """Measures a trained model on the test set, after the monitors of a propagator were calibrated on the other."""
    trained = model_files.load(out)
    config, params = trained.config, trained.params
    if processes.is_first() and trained.kind != "potential":

        def show(items):
            return bars.counted(items, "calibrating the monitors", "states") if progress else iter(items)

        found: Any
        if trained.kind == "family":
            of_steps = [
                (trained.at(step), [sets for sets in groups if sets.time_step_fs == step])
                for step in config.time_steps_fs
            ]
            found = FamilyCalibration(
                tuple(calibration.calibrate(one.config, one.params, own, show) for one, own in of_steps)
            )
        else:
            found = calibration.calibrate(config, params, groups, show)
        trained = Model(config, params, found, str(out), trained.kind)
        model_files.save(out, trained)
    errors = tasks.evaluate(config, params, groups)
    step = "" if trained.kind == "potential" else f"Δt {models.time_steps(config)}; "
    say(f"{out}: {step}{errors.describe()}")
    for line in errors.describe_systems() if trained.kind == "family" else ():
        say(line)
    return trained


def _follow(out: Path, states, log, steps, config: Any, best: float, begin: int, n_steps: int, progress: bool) -> None:
    """Follows a training: bar, metrics, checkpoints, best weights; saves when asked to stop."""
    first, shown = processes.is_first(), ""
    saved_at, drawn_at = time.monotonic(), -float("inf")
    with (
        _StopRequest() as request,
        bars.progress(n_steps, "training", "steps", hidden=not (first and progress), begin=begin, compiles=True) as bar,
    ):
        for now in steps:
            step, errors = int(now.state.step), now.validation
            validation = float("inf") if errors is None else errors.mean_percent
            if validation < best:
                best = validation
                if first:
                    model_files.save(out, _trained(config, now.state.average, out))
            if first:
                log.add(_metrics(step, now))
            due, stop = processes.agree(first and time.monotonic() - saved_at > _SAVE_EVERY_S, request.made)
            if errors is not None or due or stop:
                states.save(step, now.state, best, validation)
                saved_at = time.monotonic()
            if first and errors is not None and time.monotonic() - drawn_at > _DRAW_EVERY_S:
                log.draw()
                drawn_at = time.monotonic()
            shown = shown if errors is None else f", {errors.brief}"
            bar.set_postfix_str(f"loss {now.loss:.2e}{shown}", refresh=False)
            bar.update(step - bar.n)
            if stop and step < n_steps:
                raise KeyboardInterrupt(f"Saved after {step} steps; `resume` continues.")


def _trained(config: Any, weights: Any, out: Path) -> Model:
    return Model(config, jax.tree.map(np.asarray, weights), None, str(out), tasks.kind_of(config))


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


def _check_same_settings(out: Path, training: Training, architecture: Architecture | None) -> None:
    """Raises ValueError unless ``out`` holds a training with these settings."""
    if not all((out / name).is_file() for name in (_TRAINING, _ARCHITECTURE, _MODEL, _DATA)):
        raise FileNotFoundError(f"{out} holds no training to resume")
    for name, now in ((_TRAINING, training), (_ARCHITECTURE, architecture)):
        if now is None:
            continue
        before = json_records.from_json((out / name).read_text(), type(now))
        for field in vars(now):
            if getattr(now, field) is not None and getattr(before, field) != getattr(now, field):
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
    processes.wait_for_all("folder checked")  # by all, before the first makes it
    if processes.is_first():
        partial = out.with_name(out.name + ".partial")
        files.remove(partial)
        files.write_into(partial, {name: text.encode() for name, text in settings.items()})
        files.remove(out)
        os.replace(partial, out)
    processes.wait_for_all("folder made")


def _devices() -> str:
    kind, n_processes = jax.devices()[0].device_kind, jax.process_count()
    where = f" in {n_processes} processes" if n_processes > 1 else ""
    return (f"{jax.device_count()} × {kind}" if jax.device_count() > 1 else kind) + where


def _metrics(step: int, now) -> dict[str, Any]:
    """A line of metrics.jsonl: of the training in every one, of the validation at the end of an epoch."""
    values = {"step": step, "epoch": now.epoch, "loss": now.loss, "gradient_norm": now.gradient_norm}
    values |= {"learning_rate": now.learning_rate, "configurations_per_s": now.configurations_per_s}
    errors = {} if now.validation is None else now.validation.as_dict()
    errors.pop("systems", None)  # hundreds
    return values | errors
