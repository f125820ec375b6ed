"""``ffmd rollout``: alarms and what is done about them, replicas, ramps, fields."""

import dataclasses
import inspect
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import fails, ffmd

from ffmd_jax.cli import rollout as rollout_command
from ffmd_jax.core import mechanics, units
from ffmd_jax.core.state import State, make_system
from ffmd_jax.dynamics import alarms, monitors, rollout
from ffmd_jax.dynamics.ensemble import NVT
from ffmd_jax.formats import trajectory
from ffmd_jax.models import config as configs
from ffmd_jax.models import model_files, trajcast
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import integrator, systems
from ffmd_jax.simulation.simulate import simulate

pytestmark = pytest.mark.usefixtures("restore_precision")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained model of argon that hardly changes velocities, said to be calibrated, and a start at 60 K."""
    folder, argon = tmp_path_factory.mktemp("simulation"), systems.argon((2, 2, 2))
    sizes = {"cutoff": 5.0, "lmax": 1, "channels": 4, "layers": 1, "radial_hidden": (4,), "speed_hidden": (4,)}
    found = configs.Calibration(1e9, 1e9, (0.1,), 1e-7, (0.01,), 80.0)
    config = configs.ModelConfig(
        (18,), (39.948,), 40.0, 0.04, 1.1e-2, 0.01, 12.0, shortest_distance=3.0,
        architecture=configs.Architecture(velocity_input=True, **sizes),
    )  # fmt: skip
    with jax.enable_x64(True):
        params = trajcast.init(jax.random.key(0), config, jnp.float32)
        params["readout"] = {irrep: 0.01 * values for irrep, values in params["readout"].items()}
        model_files.save(folder / "model", Model(config, params, found))
        state = mechanics.maxwell_boltzmann(jax.random.key(0), argon.system, argon.state, 60.0)
    frames = jax.tree.map(lambda values: np.asarray(values)[None], state)
    trajectory.write(folder / "ref.h5", trajectory.Trajectory(argon.system, frames, np.zeros(1), {}, {}))
    return folder


def command(folder, out, *options):
    return [
        "rollout", folder / "model", "--start", folder / "ref.h5", "--out", out, "--temperature", 60, "--no-tables",
        *options,
    ]  # fmt: skip


def test_stop_keeps_the_good_frames_and_says_where_and_why(folder, tmp_path, capsys):
    out = tmp_path / "run.h5"
    hot = [*command(folder, out, "--steps", 200), "--temperature-end", 300, "--tau-fs", 1]
    message = fails(capsys, *hot, code=3)
    run = trajectory.read(out)
    (alarm,) = run.metadata["alarms"]
    assert alarm["kind"] == "too hot" and alarm["limit"] == 120 and alarm["value"] > 120
    assert f"at {alarm['time_fs']:g} fs" in message and str(out) in message and alarm["text"] in message
    assert 5 < len(run.times) < 90 and run.times[-1] == alarm["time_fs"] - 40.0
    assert alarm["text"] in fails(capsys, *hot, "--resume", code=3)  # it would only happen again
    assert len(trajectory.read(out).times) == len(run.times)
    ffmd(*hot, "--resume", "--on-alarm", "warn")
    warned = trajectory.read(out)
    assert len(warned.times) == 200 and warned.metadata["alarms"][0]["time_fs"] == alarm["time_fs"]
    assert warned.metadata["alarms"][0]["count"] > 50
    np.testing.assert_array_equal(warned.frames.positions[: len(run.times)], run.frames.positions)


def test_the_command_and_the_function_have_the_same_defaults():
    of_function = inspect.signature(simulate).parameters
    of_command = {field.name: field.default for field in dataclasses.fields(rollout_command.Settings)}
    shared = [name for name in rollout_command._SAME if of_function[name].default is not inspect.Parameter.empty]
    assert len(shared) > 10
    assert {name: of_command[name] for name in shared} == {name: of_function[name].default for name in shared}


def test_an_alarm_in_the_first_frame_leaves_nothing(folder, tmp_path, capsys):
    options = ["--steps", 200, "--temperature", 600, "--draw-velocities", "--tau-fs", 1]
    message = fails(capsys, *command(folder, tmp_path / "run.h5", *options), code=3)
    assert "before the first frame; nothing is written" in message and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_fallback_goes_on_with_the_reference_and_returns(folder, tmp_path, capsys):
    out = tmp_path / "run.h5"
    options = ["--temperature-end", 150, "--tau-fs", 1, "--every", 2, "--steps", 60]
    options += ["--on-alarm", "fallback", "--fallback", "argon", "--fallback-steps", 8]
    ffmd(*command(folder, out, *options))
    run = trajectory.read(out)
    assert len(run.times) == 30 and np.ptp(np.diff(run.times)) == 0
    by_reference = np.isnan(run.observables["round_trip_error"])
    assert by_reference.sum() == run.metadata["fallback_frames"]
    assert 0 < by_reference.sum() < 30 and not by_reference[0]
    first = int(np.argmax(by_reference))
    assert first > 0 and by_reference[first : first + 4].all()
    # The reference continues where the model stopped.
    moved = np.linalg.norm(run.frames.positions[first] - run.frames.positions[first - 1], axis=-1)
    assert moved.max() < 80 * 4 * np.sqrt(units.BOLTZMANN * units.EV * 150 / 39.95)


@pytest.mark.slow
def test_replicas_are_the_single_runs_of_their_seeds(folder, tmp_path, capsys):
    out = tmp_path / "many.h5"
    options = ["--steps", 60, "--every", 5, "--on-alarm", "warn", "--draw-velocities", "--float64"]
    ffmd(*command(folder, out, *options, "--replicas", 2, "--seed", 4))
    for i in range(2):
        one = tmp_path / f"{i}.h5"
        ffmd(*command(folder, one, *options, "--seed", 4 + i))
        found, expected = trajectory.read(f"{out}:{i}"), trajectory.read(one)
        np.testing.assert_allclose(found.frames.positions, expected.frames.positions, atol=1e-8)
        np.testing.assert_allclose(found.frames.velocities, expected.frames.velocities, atol=1e-10)
        assert found.metadata["replica"] == i and found.metadata["temperature_K"] == 60
    assert "say which" in fails(capsys, "analyze", out, "--out", tmp_path / "report")
    assert "no replica 2" in fails(capsys, "analyze", f"{out}:2", "--out", tmp_path / "report")
    ffmd(*command(folder, out, *options[2:], "--steps", 80, "--replicas", 2, "--seed", 4, "--resume"))
    assert len(trajectory.read(f"{out}:1").times) == 16


@pytest.mark.slow
def test_a_dead_replica_does_not_stop_the_others():
    argon = systems.argon((2, 2, 2))
    exact = integrator.drift_kick_drift(argon.energy, 4.0)

    def explode(system, state, graph):  # where atom 0 crosses a line
        after = exact(system, state, graph)
        return after._replace(velocities=jnp.where(after.positions[0, 0] > 90.1, jnp.nan, after.velocities))

    starts = [mechanics.maxwell_boltzmann(jax.random.key(i), argon.system, argon.state, 60.0) for i in range(3)]
    starts[1] = starts[1]._replace(positions=starts[1].positions + 90.0 - jnp.asarray([0.02, 0, 0]))
    state = jax.tree.map(lambda *values: jnp.stack(values), *starts)
    sizes = configs.Architecture(cutoff=8.0)
    config = configs.ModelConfig((18,), (39.95,), 4.0, 1e9, 1e9, 1.0, 40.0, architecture=sizes)
    limits = monitors.limits(config, None, argon.system)
    engine = rollout.Engine(
        argon.system, state, explode, cutoff=argon.cutoff, time_step_fs=4.0, replicas=3,
        monitor=alarms.monitor(explode, limits), skin=0.8,
    )  # fmt: skip
    carry = engine.start(
        state._replace(velocities=state.velocities.at[1, 0, 0].set(0.01)), jax.random.split(jax.random.key(0), 3)
    )
    block = engine.advance(carry, 60)
    assert len(block.times) == 60 and block.carry.halted.tolist() == [False, True, False]
    alive = int(block.valid[:, 1].sum())
    assert 0 < alive < 20 and block.valid[:, [0, 2]].all() and np.isfinite(block.frames.positions).all()
    assert block.carry.memory.record.step[:, 0].tolist() == [-1, alive + 1, -1]


@pytest.mark.slow
@pytest.mark.process
def test_replicas_over_devices_are_those_on_one():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    cache = {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        ["timeout", "-k", "5", "200", sys.executable, Path(__file__).with_name("replicas_over_devices.py")],
        env={**os.environ, **cache, "XLA_FLAGS": flags}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "the same on four devices" in done.stdout, done.stderr[-2000:]


def test_a_ramp_is_linear_in_time_and_cannot_be_lengthened(folder, tmp_path, capsys):
    out, ramp = tmp_path / "ramp.h5", ["--temperature-end", 30, "--on-alarm", "warn"]
    ffmd(*command(folder, out, "--steps", 40, *ramp, "--fields", "positions"))
    assert "velocities" in fails(capsys, "analyze", out, "--out", tmp_path / "report")
    assert "--steps = 60" in fails(
        capsys, *command(folder, out, "--steps", 60, *ramp, "--fields", "positions", "--resume")
    )
    system = make_system([18] * 400, [40.0] * 400, True)
    positions = 4.0 * jnp.asarray(np.random.default_rng(0).random((400, 3)))
    at_rest = State(positions, 0 * positions, 50.0 * jnp.eye(3))
    frames = rollout.gather(
        rollout.run(
            system, mechanics.maxwell_boltzmann(jax.random.key(0), system, at_rest, 60.0),
            lambda system, state, graph: state, cutoff=1.0, time_step_fs=1.0, n_steps=200, key=jax.random.key(1),
            ensemble=NVT(60.0, 1e-3, friction_tau_fs=1.0, end_K=30.0),
        )
    ).frames  # fmt: skip
    kelvin = np.asarray(jax.vmap(lambda state: mechanics.temperature(system, state))(frames))
    expected = 60 - 30 * np.arange(1, 201) / 200
    assert abs(np.mean(kelvin / expected) - 1) < 5 * np.sqrt(2 / 1197 / 200)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--replicas", 2, "--on-alarm", "fallback", "--fallback", "argon"), "no --replicas"),
        (("--on-alarm", "fallback"), "needs --fallback"),
        (("--fallback", "argon"), "--on-alarm fallback"),
        (("--on-alarm", "fallback", "--fallback", "quartz"), "no parameters for Ar"),
        (("--replica-temperatures", 50, "--replicas", 1), "--temperature or --replica-temperatures"),
        (("--fields", "velocities"), "must hold positions"),
        (("--ensemble", "nve", "--replicas", 2), "draw velocities"),
        (("--temperature-end", -5), "must not be negative"),
        (("--friction-tau-fs", 0), "must be positive"),
        (("--friction-tau-fs", 500, "--thermostat", "langevin"), "friction already"),
        (("--friction-tau-fs", 500, "--ensemble", "nve"), "no friction"),
        (("--resume", "--overwrite"), "say one"),
    ],
)
def test_options_that_do_not_go_together_are_refused(folder, tmp_path, capsys, options, message):
    assert message in fails(capsys, *command(folder, tmp_path / "a.h5", "--steps", 5, *options))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_where_steps_are_reversible_the_round_trip_still_measures_the_model(tmp_path):
    paracetamol, errors = systems.get("paracetamol"), []
    frames = jax.tree.map(lambda values: values[None], paracetamol.state)
    trajectory.write(tmp_path / "start.h5", trajectory.Trajectory(paracetamol.system, frames, np.zeros(1), {}, {}))
    for more in ([], ["--reversible"]):
        run = ["rollout", "paracetamol", "--start", tmp_path / "start.h5", "--temperature", 300, "--steps", 10]
        ffmd(*run, "--check-every", 1, "--out", tmp_path / f"run{len(more)}.h5", *more)
        errors.append(trajectory.read(tmp_path / f"run{len(more)}.h5").observables["round_trip_error"].mean())
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.05)  # half of what a step back missed was taken off
