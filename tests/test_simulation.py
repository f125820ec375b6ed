"""``ffmd rollout``: alarms and what is done about them, replicas, ramps, fields."""

import dataclasses
import inspect
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import fails, ffmd, start_ffmd

from ffmd_jax.cli import rollout as rollout_command
from ffmd_jax.core import mechanics, processes, units
from ffmd_jax.core.state import State, make_system
from ffmd_jax.data import dataset_file, pairs
from ffmd_jax.dynamics import alarms, monitors, replicas, rollout
from ffmd_jax.dynamics.engine import Engine
from ffmd_jax.dynamics.ensemble import NVT
from ffmd_jax.formats import trajectory
from ffmd_jax.models import config as configs
from ffmd_jax.models import model_files, trajcast
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import integrator, production, systems
from ffmd_jax.simulation.collection import Collection
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


@pytest.mark.slow
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
def test_what_the_reference_does_is_collected_for_the_next_training(folder, tmp_path, capsys):
    out, kept = tmp_path / "run.h5", tmp_path / "kept.h5"
    options = ["--temperature-end", 150, "--tau-fs", 1, "--every", 2, "--steps", 60, "--collect", kept]
    options += ["--on-alarm", "fallback", "--fallback", "argon", "--fallback-steps", 8]
    ffmd(*command(folder, out, *options))
    run, found = trajectory.read(out), dataset_file.read(kept)
    (group,), argon = found.groups, systems.argon((2, 2, 2))
    assert [stretch.split for stretch in group.runs][:3] == ["train", "validation", "test"]
    assert 4 * (len(group.runs) - 1) < run.metadata["fallback_frames"] <= 4 * len(group.runs)
    for stretch in group.runs[:-1]:  # the end of the run cuts the last
        # Ten steps of 4 fs make Δt: frames after every other, from the last good frame of the model on.
        assert stretch.interval_fs == 8.0 and len(stretch.frames.positions) == 1 + 8 * 5
        begin = float(stretch.source.split("from ")[1].split(" fs")[0])
        place = int(np.argmin(np.abs(run.times - begin)))
        assert run.times[place] == begin
        np.testing.assert_allclose(stretch.frames.positions[0], run.frames.positions[place], atol=1e-5)
        np.testing.assert_allclose(
            stretch.frames.positions[10::10], run.frames.positions[place + 1 : place + 5], atol=1e-5
        )
        np.testing.assert_allclose(
            stretch.frames.velocities[10::10], run.frames.velocities[place + 1 : place + 5], rtol=1e-5
        )
        with jax.enable_x64(True):
            potential = np.asarray(production.potential_energies(argon, stretch.frames))
            kinetic = jax.vmap(lambda v: mechanics.kinetic_energy(argon.system, v))(stretch.frames.velocities)
        assert np.ptp(potential + kinetic) < 0.05 * np.ptp(potential)  # constant energy: no thermostat of 1 fs
    (sets,) = pairs.form(found)
    assert pairs.count(sets.validation) == 36  # of each stretch, those that begin at each of its frames

    ffmd(*command(folder, out, *options, "--overwrite"))  # the same run again: the same stretches
    assert len(dataset_file.read(kept).groups[0].runs) == len(group.runs)
    ffmd(*command(folder, tmp_path / "other.h5", *options, "--seed", 1))
    more = dataset_file.read(kept).groups[0].runs
    assert len(more) > len(group.runs) and more[0].source == group.runs[0].source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"system": make_system([18] * 5 + [10], np.full(6, 39.948))}, "stretches of Ar6"),
        ({"system": make_system([18] * 6, np.full(6, 40.9))}, "other masses"),
        ({"time_step_fs": 30.0}, "Δt = 40 fs, the model 30 fs"),
        ({"reference": "gfn2-xtb"}, "computed with argon, not with gfn2-xtb"),
    ],
)
def test_a_collection_of_something_else_is_refused_and_stays(changes, message, tmp_path):
    path = tmp_path / "kept.h5"
    given = {
        "path": path,
        "reference": "argon",
        "system": make_system([18] * 6, np.full(6, 39.948)),
        "time_step_fs": 40.0,
        "run": "one",
    }
    frames = State(np.zeros((12, 6, 3)), np.full((12, 6, 3), 0.1), np.broadcast_to(np.eye(3), (12, 3, 3)))
    Collection(**given).add(jax.tree.map(lambda values: values[0], frames), frames, 8.0, 80.0)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        Collection(**{**given, **changes})
    assert path.read_bytes() == before and len(Collection(**given)) == 1


def test_a_collection_without_a_folder_is_refused_before_the_run(folder, tmp_path):
    options = {"steps": 2, "on_alarm": "fallback", "fallback": "argon", "collect": tmp_path / "none" / "kept.h5"}
    with pytest.raises(FileNotFoundError, match="does not exist"):
        simulate(folder / "model", folder / "ref.h5", **options)
    with pytest.raises(FileExistsError, match="would replace the input"):
        simulate(folder / "model", folder / "ref.h5", **{**options, "collect": folder / "ref.h5"})


def test_stretches_are_collected_into_a_file_of_their_own(tmp_path):
    given = {
        "reference": "argon",
        "system": make_system([18] * 6, np.full(6, 39.948)),
        "time_step_fs": 40.0,
        "run": "one",
    }
    other, nothing = tmp_path / "set.h5", tmp_path / "text.h5"
    frames = State(np.zeros((30, 6, 3)), np.full((30, 6, 3), 0.1), np.broadcast_to(np.eye(3), (30, 3, 3)))
    runs = tuple(dataset_file.Run(frames, 8.0, split) for split in dataset_file.SPLITS)
    dataset_file.write(other, dataset_file.Dataset((dataset_file.Group(given["system"], runs),), 40.0), {})
    nothing.write_text("no dataset")
    with pytest.raises(ValueError, match="was not collected"):
        Collection(path=other, **given)
    with pytest.raises(ValueError, match="no dataset"):
        Collection(path=nothing, **given)


@pytest.mark.slow
def test_replicas_are_the_single_runs_of_their_seeds(folder, tmp_path, capsys):
    out = tmp_path / "many.h5"
    options = ["--steps", 60, "--every", 5, "--on-alarm", "warn", "--draw-velocities", "--float64"]
    options += ["--friction-tau-fs", 500, "--friction-above-per-cm", 50]
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
    engine = Engine(
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
@pytest.mark.parametrize(
    "script, devices, said",
    [
        ("replicas_over_devices.py", 4, "the same on four devices"),
        ("domains_over_devices.py", 8, "the same on eight devices"),
    ],
)
def test_runs_over_devices_are_those_on_one(script, devices, said):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    cache = {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        ["timeout", "-k", "5", "200", sys.executable, Path(__file__).with_name(script)],
        env={**os.environ, **cache, "XLA_FLAGS": flags}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and said in done.stdout, done.stderr[-2000:]


def two_processes(*commands):
    """What two processes of two devices print that run these commands together, and their exit codes."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        together = ["--coordinator", f"localhost:{probe.getsockname()[1]}", "--num-processes", 2, "--process-id"]
    started = [start_ffmd(*command, *together, i, devices=2) for i, command in enumerate(commands)]
    printed = [process.communicate()[0] for process, _ in started]
    said = []
    for (process, errors), out in zip(started, printed, strict=True):
        with errors:
            errors.seek(0)
            said.append((process.returncode, out, errors.read()))
    return said


@pytest.mark.slow
@pytest.mark.process
def test_two_processes_run_replicas_as_one(folder, tmp_path):
    """Replicas on the devices of both, one of which an alarm ends; stopped and resumed; the file is that of one."""
    kelvins = ["--replica-temperatures", 60, 60, 200, 60]
    options = ["--replicas", 4, *kelvins, "--tau-fs", 45]
    arguments = command(folder, tmp_path / "two.h5", *options)
    del arguments[(of_all := arguments.index("--temperature")) : of_all + 2]
    for steps, more in ((20, []), (60, ["--resume"])):
        found = two_processes(*[[*arguments, "--steps", steps, *more]] * 2)
        assert [code for code, _, _ in found] == [0, 0], found[0][2][-2000:]
        assert "ended by an alarm: replica 2" in found[0][1] and "replica 2: " in found[0][2]
        assert "frames" not in found[1][1] and "replica 2: " not in found[1][2]
    arguments[arguments.index(tmp_path / "two.h5")] = tmp_path / "one.h5"
    process, errors = start_ffmd(*arguments, "--steps", 60, devices=4)
    with errors:
        process.communicate()
        assert process.returncode == 0
    for i in range(4):
        one, two = (trajectory.read(f"{tmp_path / name}.h5:{i}") for name in ("one", "two"))
        assert len(two.times) == 60 if i != 2 else 0 < len(two.times) < 20
        jax.tree.map(np.testing.assert_array_equal, one.frames, two.frames)
        assert one.metadata["alarms"] == two.metadata["alarms"]


@pytest.mark.slow
@pytest.mark.process
def test_two_processes_run_one_large_system_as_one(folder, tmp_path):
    options = ["--devices", 4, "--steps", 30, "--every", 5]
    found = two_processes(*[command(folder, tmp_path / "two.h5", *options)] * 2)
    assert [code for code, _, _ in found] == [0, 0], found[0][2][-2000:]
    process, errors = start_ffmd(*command(folder, tmp_path / "one.h5", *options), devices=4)
    with errors:
        process.communicate()
        assert process.returncode == 0
    one, two = (trajectory.read(tmp_path / name) for name in ("one.h5", "two.h5"))
    assert len(two.times) == 6
    jax.tree.map(np.testing.assert_array_equal, one.frames, two.frames)


def test_processes_that_were_asked_for_different_runs_write_nothing(folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run.h5"
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "agree", lambda own, *others: (own + 1, *others))
    assert "2 processes of this command were asked for different things" in fails(
        capsys, *command(folder, out, "--steps", 4)
    )
    assert not out.exists()
    share = "cannot be shared by 2 processes equally"
    with pytest.raises(ValueError, match=share):
        replicas.over(3)
    assert "share --replicas" in fails(
        capsys, *command(folder, out, "--steps", 4, "--coordinator", "here:1", "--num-processes", 2, "--process-id", 0)
    )


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
        (("--collect", "kept.h5"), "--on-alarm fallback"),
        (("--on-alarm", "fallback", "--fallback", "quartz"), "no parameters for Ar"),
        (("--on-alarm", "fallback", "--fallback", "sevennet-0"), "pip install sevenn"),
        (("--replica-temperatures", 50, "--replicas", 1), "--temperature or --replica-temperatures"),
        (("--fields", "velocities"), "must hold positions"),
        (("--ensemble", "nve", "--replicas", 2), "draw velocities"),
        (("--temperature-end", -5), "must not be negative"),
        (("--friction-tau-fs", 0), "must be positive"),
        (("--friction-tau-fs", 500, "--thermostat", "langevin"), "friction already"),
        (("--friction-tau-fs", 500, "--ensemble", "nve"), "no friction"),
        (("--friction-above-per-cm", 500), "give --friction-tau-fs"),
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
