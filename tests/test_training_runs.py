"""``ffmd train``: killed, stopped, diverged, out of memory, on several devices and in several processes."""

import itertools
import json
import os
import random
import shutil
import signal
import socket
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import fails, ffmd, springs, start_ffmd

from ffmd_jax.core import json_records
from ffmd_jax.data import dataset, dataset_file
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.models import model_files
from ffmd_jax.models.model import Model
from ffmd_jax.training import loop, losses, optimizer, settings, training_log
from ffmd_jax.training import states as states_module

TINY = ["--config.cutoff", 4.5, "--config.lmax", 1, "--config.channels", 4, "--config.layers", 1]
TINY += ["--config.radial-hidden", 4, "--config.speed-hidden", 4, "--config.velocity-input"]
# 26 pairs in batches of 6: neither 8 devices nor 4 divide them, and two pairs wait for the next epoch.
OPTIONS = ["--epochs", 3, "--batch-size", 6, "--optimizer", "adam", "--learning-rate", 0.01, *TINY]
N_STEPS = 12

pytestmark = pytest.mark.usefixtures("restore_precision", "single_precision")


@pytest.fixture
def single_precision():
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset, and the model of a training that nothing disturbed."""
    path = tmp_path_factory.mktemp("resume")
    dataset.write(path / "data.h5", springs())
    with jax.enable_x64(False):
        ffmd("train", path / "data.h5", "--out", path / "whole", *OPTIONS)
    return path


def settings_of(model):
    """The settings of a training in a model folder: of the training, and of the model."""
    training = json_records.from_json((model / "training.json").read_text(), settings.Training)
    return training, model_files.read_config((model / "model.json").read_text())[1]


def state_and_best(model):
    training, model_config = settings_of(model)
    with states_module.TrainingStates(model / "checkpoints") as states:
        return states.restore(loop.initial(model_config, training, N_STEPS))


def saved_steps(model):
    return sorted(int(entry.name) for entry in (model / "checkpoints").iterdir() if entry.name.isdigit())


def metrics(model):
    """The lines of a training, without the speed."""
    lines = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "configurations_per_s"} for line in lines]


def assert_same_training(model, other):
    """Bit for bit: weights, average, optimizer, best so far, exported model; and the metrics."""
    (one, best), (two, best_two) = state_and_best(model), state_and_best(other)
    assert int(one.step) == N_STEPS
    assert best == best_two
    for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True):
        np.testing.assert_array_equal(a, b)
    exported = [model_files.load(folder).params for folder in (model, other)]
    for a, b in zip(*map(jax.tree.leaves, exported), strict=True):
        np.testing.assert_array_equal(a, b)
    assert metrics(model) == metrics(other)
    assert saved_steps(model) == saved_steps(other)


def wait_for_metrics(process, model, n_lines):
    """Until a running training has written so many lines, or has ended."""
    path = model / "metrics.jsonl"
    while process.poll() is None and (not path.is_file() or path.read_text().count("\n") < n_lines):
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.process
def test_a_killed_training_ends_with_the_same_bits(folder):
    random_moment = random.Random(7)
    killed, options = 0, []
    for n_lines in (1, 2):
        process, errors = start_ffmd("train", folder / "data.h5", "--out", folder / "killed", *OPTIONS, *options)
        # A line is written just before the state is saved, which takes most of an epoch here.
        wait_for_metrics(process, folder / "killed", n_lines)
        time.sleep(random_moment.uniform(0, 0.4))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        errors.close()
        killed += process.returncode == -signal.SIGKILL
        options = ["--resume"]
    assert killed  # a fast machine may be done before the second
    ffmd("train", folder / "data.h5", "--out", folder / "killed", *OPTIONS, "--resume")
    assert_same_training(folder / "whole", folder / "killed")


@pytest.mark.slow
def test_a_stopped_training_is_saved_and_goes_on(folder, monkeypatch, capsys):
    fit, worse = loop.fit, itertools.count(1)

    def stopped(*arguments, **options):
        for i, progress in enumerate(fit(*arguments, **options, block_steps=2)):
            if i == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield progress

    out = folder / "stopped"
    # The first epoch stays the best.
    monkeypatch.setattr(losses.Errors, "mean_percent", property(lambda _: float(next(worse))))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "fit", stopped)
        message = fails(capsys, "train", folder / "data.h5", "--out", out, *OPTIONS, code=130)
    assert "Saved after 6 steps; --resume continues" in message
    assert saved_steps(out) == [4, 6]  # the best of the validated ones, and the newest
    assert metrics(out)[-1]["step"] == 6
    exported = (out / "weights.npz").read_bytes()
    ffmd("train", folder / "data.h5", "--out", out, *OPTIONS, "--resume")
    (state, best), (whole, _) = state_and_best(out), state_and_best(folder / "whole")
    for a, b in zip(*map(jax.tree.leaves, (state, whole)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert best == 1
    assert saved_steps(out) == [4, 12]
    assert (out / "weights.npz").read_bytes() == exported


@pytest.mark.slow
def test_a_training_goes_on_only_with_its_own_pairs(folder, tmp_path, capsys):
    dataset.write(tmp_path / "other.h5", springs(seed=1))
    message = fails(capsys, "train", tmp_path / "other.h5", "--out", folder / "whole", *OPTIONS, "--resume")
    assert f"began with other ones, then in {folder / 'data.h5'}" in message
    (tmp_path / "moved.h5").write_bytes((folder / "data.h5").read_bytes())
    ffmd("train", tmp_path / "moved.h5", "--out", folder / "whole", *OPTIONS, "--resume")


@pytest.mark.slow
def test_a_model_whose_calibration_was_stopped_gets_it_when_resumed(folder, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(folder / "whole", model)
    whole = model_files.load(model)
    (model / "calibration.json").unlink()
    ffmd("train", folder / "data.h5", "--out", model, *OPTIONS, "--resume")
    assert model_files.load(model).calibration == whole.calibration is not None


@pytest.mark.slow
def test_a_diverged_training_keeps_its_best_weights(folder, monkeypatch, capsys):
    monkeypatch.setattr(optimizer, "schedule", lambda *_: lambda step: jnp.where(step < 5, 1e-3, 1e30))
    out = folder / "wild"
    message = fails(capsys, "train", folder / "data.h5", "--out", out, *OPTIONS)
    assert "diverged by step" in message
    assert "keeps the weights" in message
    assert saved_steps(out)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(model_files.load(out).params))


@pytest.mark.parametrize(("batch", "advice"), [(6, "--batch-size 3"), (1, "smaller network")])
def test_a_batch_too_large_for_the_memory_ends_with_advice(folder, monkeypatch, capsys, batch, advice):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")

    monkeypatch.setattr(loop, "make_block", lambda *_: full)
    out = folder / f"full{batch}"
    message = fails(capsys, "train", folder / "data.h5", "--out", out, *OPTIONS, "--batch-size", batch)
    assert advice in message


def test_metrics_of_a_resumed_training_have_no_step_twice(folder, tmp_path):
    shutil.copy(folder / "whole" / "metrics.jsonl", tmp_path)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines) + lines[0][:20])  # killed while writing
    with training_log.TrainingLog(tmp_path, step=8) as log:
        assert path.read_text() == "".join(lines[:2])
        log.add({"step": 12, "loss": float("nan"), "epoch": 3.0})
    assert metrics(tmp_path)[-1] == {"step": 12, "loss": None, "epoch": 3.0}
    path.write_text("{\n" + path.read_text())
    with pytest.raises(ValueError, match="damaged"):
        training_log.TrainingLog(tmp_path, step=8)


def test_a_failed_write_leaves_the_old_model(folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "whole", tmp_path / "m")
    old = model_files.load(tmp_path / "m")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        model_files.save(tmp_path / "m", Model(old.config, jax.tree.map(lambda x: 2 * x, old.params)))
    for a, b in zip(*map(jax.tree.leaves, (model_files.load(tmp_path / "m").params, old.params)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tensorboard_gets_the_metrics_or_is_refused(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    message = fails(capsys, "train", folder / "data.h5", "--out", folder / "none", *OPTIONS, "--tensorboard")
    assert "pip install tensorboardX" in message
    assert not (folder / "none").exists()
    written = []

    class Board:
        def __init__(self, path, purge_step):
            self.add_scalar = lambda *values: written.append(values)
            self.flush = self.close = lambda: None

    fake = type("tensorboardX", (), {"SummaryWriter": Board})
    monkeypatch.setitem(sys.modules, "tensorboardX", fake)
    with training_log.TrainingLog(folder, 0, tensorboard=True) as log:
        log.add({"step": 3, "loss": 0.5, "epoch": 1.0, "gradient_norm": None})
    assert written == [("loss", 0.5, 3), ("epoch", 1.0, 3)]


def assert_close_training(model, other):
    states = [state_and_best(x)[0] for x in (model, other)]
    assert int(states[1].step) == N_STEPS
    for a, b in zip(*(jax.tree.leaves(state.params) for state in states), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    lines = [metrics(x) for x in (model, other)]
    assert [line["step"] for line in lines[1]] == [line["step"] for line in lines[0]]
    for name in ("loss", "gradient_norm", "velocity_mae_relative_percent"):
        values = [[line[name] for line in found] for found in lines]
        np.testing.assert_allclose(*values, rtol=1e-3)


def finish(process, errors):
    out, _ = process.communicate()
    with errors:
        errors.seek(0)
        assert process.returncode == 0, errors.read()[-2000:]
    return out


@pytest.mark.slow
@pytest.mark.process
def test_eight_devices_go_on_where_one_stopped(folder):
    half = folder / "half"
    half.mkdir()
    for name in ("training.json", "architecture.json", "model.json", "dataset.json"):
        shutil.copy(folder / "whole" / name, half)
    lines = (folder / "whole" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (half / "metrics.jsonl").write_text(lines[0])
    training, model_config = settings_of(folder / "whole")
    with states_module.TrainingStates(half / "checkpoints") as states:
        after = next(loop.fit(model_config, pair_sets.form(dataset_file.read(folder / "data.h5")), training))
        states.save(4, after.state, best=1000.0, validation=1000.0)
    out = finish(*start_ffmd("train", folder / "data.h5", "--out", half, "--resume", *OPTIONS, devices=8))
    assert "on 8 × cpu" in out
    assert_close_training(folder / "whole", half)


@pytest.mark.slow
@pytest.mark.process
def test_two_processes_train_as_one(folder):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    both = [
        start_ffmd(
            "train", folder / "data.h5", "--out", folder / "two", *OPTIONS, "--coordinator", f"localhost:{port}",
            "--num-processes", 2, "--process-id", i, devices=2,
        )
        for i in range(2)
    ]  # fmt: skip
    outputs = [finish(*started) for started in both]
    assert "on 4 × cpu in 2 processes" in outputs[0]
    assert all(line.startswith("[Gloo]") for line in outputs[1].splitlines())
    assert_close_training(folder / "whole", folder / "two")
    assert (folder / "two" / "training.png").is_file()
