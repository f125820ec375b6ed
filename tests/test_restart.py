"""Roll-outs go on bit for bit after any stop, and their files are whole at any moment."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import fails, ffmd, perturbed, random_params, small_config

from ffmd_jax.core import mechanics, neighbors
from ffmd_jax.core.state import cast
from ffmd_jax.dynamics import restart, rollout
from ffmd_jax.dynamics.engine import Engine
from ffmd_jax.dynamics.ensemble import NVT
from ffmd_jax.formats import trajectory
from ffmd_jax.formats.journal import JournaledFile, journal_of
from ffmd_jax.models import model_files
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import integrator, systems

pytestmark = pytest.mark.usefixtures("restore_precision")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small untrained model, which friction and noise keep going, and a start structure."""
    folder, config = tmp_path_factory.mktemp("restart"), small_config()
    with jax.enable_x64(True):
        params = cast(random_params(config), jnp.float32)
        system, state = perturbed()
    params["readout"] = {irrep: 0.1 * values for irrep, values in params["readout"].items()}
    model_files.save(folder / "model", Model(config, params))
    frames = jax.tree.map(lambda values: np.asarray(values)[None], state)
    trajectory.write(folder / "start.h5", trajectory.Trajectory(system, frames, np.zeros(1), {}, {}))
    return folder


def command(folder, out, steps, *options):
    return [
        "rollout", folder / "model", "--start", folder / "start.h5", "--out", out, "--steps", steps, "--every", 2,
        "--tau-fs", 1000, "--friction-tau-fs", 1000, "--friction-above-per-cm", 300, "--on-alarm", "warn",
        "--no-tables", *options,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(folder):
    with jax.enable_x64(True):
        ffmd(*command(folder, folder / "whole.h5", 600))
    return trajectory.read(folder / "whole.h5")


def assert_same_run(path, expected):
    found = trajectory.read(path)
    for one, other in zip(found.frames, expected.frames, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.times, expected.times)
    np.testing.assert_array_equal(found.observables["round_trip_error"], expected.observables["round_trip_error"])
    assert found.metadata["alarms"] == expected.metadata["alarms"]


@pytest.mark.slow
def test_a_longer_run_goes_on_bit_for_bit(folder, whole, capsys):
    out = folder / "longer.h5"
    for steps in (74, 74, 250, 600):  # not multiples of the block
        ffmd(*command(folder, out, steps, "--resume"))
    assert "all 74 steps are there" in capsys.readouterr().out
    assert_same_run(out, whole)
    assert whole.metadata["alarms"]  # the untrained model's; they survive a stop, too


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tau-fs", 900), "cannot resume with --tau-fs = 900"),
        (("--seed", 1), "cannot resume with --seed = 1"),
        (("--temperature", 310), "cannot resume with --temperature = 310"),
    ],
)
def test_other_options_are_refused(folder, whole, capsys, options, message):
    before = (folder / "whole.h5").read_bytes()
    assert message in fails(capsys, *command(folder, folder / "whole.h5", 800, "--resume", *options))
    assert (folder / "whole.h5").read_bytes() == before


def test_other_models_and_files_are_refused(folder, whole, tmp_path, capsys):
    shutil.copytree(folder / "model", tmp_path / "model")
    shutil.copy(folder / "start.h5", tmp_path / "start.h5")
    changed = model_files.load(tmp_path / "model")
    changed.params["readout"]["1o"] = changed.params["readout"]["1o"] * 1.001
    model_files.save(tmp_path / "model", changed)
    assert "made with another model" in fails(capsys, *command(tmp_path, folder / "whole.h5", 800, "--resume"))
    other = tmp_path / "other.h5"
    shutil.copy(folder / "start.h5", other)
    assert "was not made by ffmd rollout" in fails(capsys, *command(folder, other, 800, "--resume"))
    other.write_bytes(b"something else")
    assert "was not made by ffmd rollout" in fails(capsys, *command(folder, other, 800, "--resume"))
    shutil.copy(folder / "whole.h5", other)
    restart.path_of(other).write_bytes(restart.path_of(folder / "whole.h5").read_bytes()[:2000])
    assert "no restart file, or damaged" in fails(capsys, *command(folder, other, 800, "--resume"))
    assert "say --resume or --overwrite" in fails(capsys, *command(folder, other, 800))


def subprocess_of(folder, out, steps):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    arguments = [str(x) for x in command(folder, out, steps, "--resume")]
    with open(folder / "stderr", "w") as errors:  # not a pipe: XLA's remarks on its cache would fill it
        return subprocess.Popen(
            [sys.executable, "-m", "ffmd_jax", *arguments], env=environment, stdout=errors, stderr=errors
        )


@pytest.mark.slow
@pytest.mark.process
def test_killed_at_random_moments_it_goes_on_bit_for_bit(folder):
    out, steps, dice = folder / "killed.h5", 8_000, random.Random(0)
    kills, lengths = 0, []
    while True:
        process = subprocess_of(folder, out, steps)
        before = out.stat().st_mtime if out.exists() else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and not (out.exists() and out.stat().st_mtime > before):
            time.sleep(0.02)
            assert time.monotonic() < deadline
        if kills < 3:
            time.sleep(dice.uniform(0, 0.8))
            process.send_signal(signal.SIGKILL if kills < 2 else signal.SIGTERM)
        process.wait(timeout=120)
        kills += 1
        lengths.append(len(trajectory.read(out).times))  # never corrupt
        if process.returncode == 0 and kills > 3:
            break
        assert process.returncode in (-signal.SIGKILL, 0), (folder / "stderr").read_text()
    assert 0 < lengths[0] < steps // 2 and lengths[-1] == steps // 2
    ffmd(*command(folder, folder / "uninterrupted.h5", steps))
    assert_same_run(out, trajectory.read(folder / "uninterrupted.h5"))


@pytest.fixture(scope="module")
def argon():
    return systems.argon((2, 2, 2))


def engine(argon, start, **options):
    propagate = integrator.drift_kick_drift(argon.energy, 4.0)
    return Engine(
        argon.system, start, propagate, cutoff=argon.cutoff, time_step_fs=4.0,
        ensemble=NVT(120.0, 400.0, "langevin"), **{"skin": 0.6, "wrap": True, "every": 3, **options},
    )  # fmt: skip


def frames_of(engine, carry, sizes):
    blocks = []
    for size in sizes:
        blocks.append(engine.advance(carry, size))
        carry = blocks[-1].carry
    return rollout.gather(iter(blocks)), carry


def test_blocks_and_saved_tables_do_not_change_a_bit(argon, tmp_path):
    at_rest = cast(argon.state, jnp.float32)
    start = cast(mechanics.maxwell_boltzmann(jax.random.key(0), argon.system, at_rest, 240.0), jnp.float32)
    one = engine(argon, start)
    expected, _ = frames_of(one, one.start(start, jax.random.key(1)), [30, 30, 30])
    assert np.linalg.norm(expected.frames.positions[-1] - start.positions, axis=-1).max() > 0.6  # tables were rebuilt
    other = engine(argon, start)
    first, carry = frames_of(other, other.start(start, jax.random.key(1)), [7, 30, 4])
    restart.save(tmp_path / "a", carry, other.searches, {}, {}, (41,))
    saved = restart.load(tmp_path / "a")
    third = engine(argon, start, searches=saved.searches)
    rest, _ = frames_of(third, restart.restore(saved, third.start(start, jax.random.key(5))), [9, 33, 7])
    for name in ("positions", "velocities"):
        both = np.concatenate([getattr(first.frames, name), getattr(rest.frames, name)])
        np.testing.assert_array_equal(both, getattr(expected.frames, name))


def test_an_overflow_comes_at_the_same_frame_whatever_the_blocks(argon):
    start = mechanics.maxwell_boltzmann(jax.random.key(0), argon.system, argon.state, 240.0)
    full = neighbors.plan(argon.system, start, argon.cutoff, 0.6)
    tight = neighbors.plan(argon.system, start, argon.cutoff, 0.6)
    search = tight.__class__(**{**vars(tight), "capacity": full.capacity})
    runs = []
    for sizes in ([30, 30, 30], [1, 29, 13, 30, 30]):
        made = engine(argon, start, searches=(search, None))
        blocks, carry = [], made.start(start, jax.random.key(1))
        while sum(len(block.times) for block in blocks) < 60:
            blocks.append(made.advance(carry, sizes[len(blocks) % len(sizes)]))
            carry = blocks[-1].carry
        assert made.search.capacity > search.capacity
        runs.append(rollout.gather(iter(blocks)).frames.positions[:60])
    np.testing.assert_array_equal(*runs)


def test_a_commit_cut_short_is_completed_by_its_journal(tmp_path):
    path, rng = tmp_path / "a", random.Random(1)
    contents = [rng.randbytes(100_000), rng.randbytes(150_000)]
    with JournaledFile(path, "x") as file:
        file.write(contents[0])
        assert path.read_bytes() == b""
        file.commit()
        assert path.read_bytes() == contents[0] and not journal_of(path).exists()
        file.seek(50_000)
        file.write(contents[1])
        apply, file._apply = file._apply, lambda: None
        file.commit()
        assert path.read_bytes() == contents[0] and journal_of(path).exists()
    os.truncate(path, 60_000)  # half of it went wrong
    expected = contents[0][:50_000] + contents[1]
    with JournaledFile(path, "r") as file:
        assert file.read() == expected
    with JournaledFile(path, "r+") as file:
        assert path.read_bytes() == expected and not journal_of(path).exists()
    del apply
    journal_of(path).write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="damaged"):
        JournaledFile(path, "r")


def test_ctrl_c_saves_and_an_empty_file_is_begun_anew(folder, whole, capsys, monkeypatch):
    out, advance, calls = folder / "interrupted.h5", Engine.advance, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return advance(self, *arguments)

    out.touch()  # as a kill before the first block leaves it
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "advance", interrupted)
        with pytest.raises(SystemExit) as stop:
            ffmd(*command(folder, out, 600, "--resume"))
    assert stop.value.code == 130 and "--resume continues" in capsys.readouterr().err
    assert 0 < len(trajectory.read(out).times) < 300
    ffmd(*command(folder, out, 600, "--resume"))
    assert_same_run(out, whole)


def test_a_wall_clock_limit_stops_and_saves(folder, whole, capsys):
    out = folder / "limited.h5"
    ffmd(*command(folder, out, 600, "--wall-clock-hours", 1e-9))
    assert "--resume continues" in capsys.readouterr().out
    assert 0 < len(trajectory.read(out).times) < 300
    ffmd(*command(folder, out, 600, "--resume"))
    assert_same_run(out, whole)
    assert json.dumps(trajectory.read(out).metadata["settings"])
