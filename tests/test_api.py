"""``import ffmd_jax as ffmd``: the functions that a user calls from Python."""

import logging
import shlex
import subprocess
import sys

import ase.calculators.emt
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import fails, springs
from conftest import ffmd as ffmd_command

import ffmd_jax as ffmd
from ffmd_jax.core import mechanics, units
from ffmd_jax.core.state import take
from ffmd_jax.dynamics import monitors, recorder, restart
from ffmd_jax.dynamics.engine import Engine
from ffmd_jax.formats import ase_files, trajectory
from ffmd_jax.models import config, model_files, trajcast
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import systems
from ffmd_jax.training import losses

STEP_FS = 40.0


@pytest.fixture
def single_precision():
    """As a user's session begins."""
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope="module")
def argon():
    return systems.argon((2, 2, 2))


@pytest.fixture(scope="module")
def model():
    """An untrained model of argon that hardly changes velocities."""
    sizes = {"cutoff": 5.0, "lmax": 1, "channels": 4, "layers": 1, "radial_hidden": (4,), "speed_hidden": (4,)}
    made = config.ModelConfig(
        (18,), (39.948,), STEP_FS, 0.04, 1.1e-2, 0.01, 12.0, shortest_distance=1.0,
        architecture=config.Architecture(velocity_input=True, **sizes),
    )  # fmt: skip
    with jax.enable_x64(False):
        params = trajcast.init(jax.random.key(0), made)
        params["readout"] = {irrep: 0.01 * values for irrep, values in params["readout"].items()}
        return Model(made, jax.tree.map(np.asarray, params), name="untrained argon")


@pytest.fixture(scope="module")
def start(argon):
    with jax.enable_x64(True):
        state = mechanics.maxwell_boltzmann(jax.random.key(0), argon.system, argon.state, 60.0)
    return argon.system, jax.tree.map(np.asarray, state)


def simulate(model, start, **options):
    options = {"steps": 12, "ensemble": ffmd.NVT(60.0), "monitors": False, "progress": False, **options}
    return ffmd.simulate(model, start, **options)


def test_a_dozen_names_are_there_and_importing_them_takes_no_jax():
    assert set(ffmd.__all__) <= set(dir(ffmd))
    assert all(callable(getattr(ffmd, name)) for name in ffmd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'forcefield'"):
        _ = ffmd.forcefield  # pyright: ignore[reportAttributeAccessIssue]
    code = "import sys, ffmd_jax; sys.exit(any(name in sys.modules for name in ('jax', 'ase', 'h5py', 'flax')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("single_precision")
def test_every_kind_of_start_gives_the_same_run(model, start, tmp_path):
    expected = simulate(model, start)
    frames = jax.tree.map(lambda values: values[None], start[1])
    written = trajectory.Trajectory(start[0], frames, np.zeros(1), {}, {})
    trajectory.write(tmp_path / "start.h5", written)
    atoms = ase_files.to_atoms(*start)
    for given in (tmp_path / "start.h5", str(tmp_path / "start.h5"), atoms, written):
        found = simulate(model, given)
        np.testing.assert_allclose(found.frames.positions, expected.frames.positions, atol=2e-5)
    on = simulate(model, expected)  # continues from the last frame
    assert np.abs(on.frames.positions[0] - expected.frames.positions[-1]).max() < 1.0


@pytest.mark.usefixtures("single_precision")
def test_a_file_and_memory_hold_the_same_run_and_a_file_is_resumed(model, start, tmp_path):
    out = tmp_path / "run.h5"
    whole = simulate(model, start, every=2)
    first = simulate(model, start, every=2, steps=6, out=out)
    assert first.n_frames == (3,) and first.complete
    found = simulate(model, start, every=2, out=out, resume=True)
    assert found.n_frames == (6,) and found.n_steps_before == 6
    np.testing.assert_array_equal(found.frames.velocities, whole.frames.velocities.astype(np.float32))
    np.testing.assert_allclose(found.frames.positions, whole.frames.positions, atol=1e-5)
    np.testing.assert_array_equal(found.times, whole.times)
    assert found.metadata["temperature_K"] == whole.metadata["temperature_K"] == 60.0
    assert found.metadata["model"] == "untrained argon"
    with pytest.raises(FileExistsError, match="exists already"):
        simulate(model, start, out=out)
    with pytest.raises(ValueError, match="made with 60"):
        simulate(model, start, every=2, out=out, resume=True, ensemble=ffmd.NVT(70.0))
    with pytest.raises(ValueError, match="only a run in a file"):
        simulate(model, start, resume=True)


@pytest.mark.usefixtures("single_precision")
def test_a_list_of_starts_is_one_run_of_replicas(model, start):
    system, state = start
    other = state._replace(velocities=-state.velocities)
    both = simulate(model, [start, (system, other)], seed=3)
    assert len(both) == 2 and both.n_frames == (12, 12)
    for i, one in enumerate((state, other)):
        single = simulate(model, (system, one), seed=3 + i)
        np.testing.assert_allclose(both[i].frames.positions, single.frames.positions, atol=1e-4)
        assert both[i].metadata["temperature_K"] == 60.0
    with pytest.raises(ValueError, match=r"take one, run\[0\]"):
        _ = both.trajectory
    with pytest.raises(IndexError, match="no replica 2"):
        _ = both[2]
    hotter = simulate(model, start, replicas=2, ensemble=ffmd.NVT((60.0, 600.0)), velocities="draw")
    kelvin = [float(mechanics.temperature(system, take(run.frames, 0))) for run in (hotter[0], hotter[1])]
    assert kelvin[1] > 4 * kelvin[0]


@pytest.mark.usefixtures("single_precision")
def test_a_second_run_of_the_same_shapes_compiles_nothing(model, start):
    simulate(model, start)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    warmer = start[1]._replace(velocities=1.2 * start[1].velocities)
    other = Model(model.config, jax.tree.map(lambda x: 1.01 * x, model.params))
    for used, ensemble in ((model, ffmd.NVT(80.0, tau_fs=900.0)), (other, ffmd.NVT(60.0))):
        simulate(used, (start[0], warmer), ensemble=ensemble, seed=5)
    assert not [name for name in compiled if "backend_compile" in name]


@pytest.mark.usefixtures("single_precision")
def test_precision_is_what_was_asked_for_and_the_session_keeps_its_own(model, start):
    runs = {float64: simulate(model, start, float64=float64, ensemble=ffmd.NVE()) for float64 in (False, True)}
    assert jnp.zeros(1).dtype == jnp.float32  # the session's
    momentum = {
        float64: np.abs(np.einsum("i,tix->tx", start[0].masses, run.frames.velocities)).max()
        for float64, run in runs.items()
    }
    assert momentum[True] < 1e-12 < momentum[False]


@pytest.mark.usefixtures("single_precision")
def test_progress_is_a_bar_or_a_function_or_nothing(model, start, capsys):
    simulate(model, start)
    assert capsys.readouterr() == ("", "")
    simulate(model, start, progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "force-free NVT" in captured.err and "ns/day" in captured.err
    calls = []
    simulate(model, start, progress=lambda *given: calls.append(given))
    assert calls[-1] == (pytest.approx(12 * STEP_FS / units.PS), pytest.approx(12 * STEP_FS / units.PS))
    stopped = simulate(model, start, steps=400, stop=lambda: True)
    assert 0 < stopped.n_steps < 400 and not stopped.complete and "<Run in memory" in repr(stopped)


@pytest.mark.usefixtures("single_precision")
def test_alarms_end_a_run_or_are_logged(model, start, caplog, tmp_path):
    hot = {"monitors": True, "steps": 40, "ensemble": ffmd.NVT(3000.0, tau_fs=1.0)}
    with pytest.warns(monitors.EndedByAlarm, match=r"the run ended after \d+ of 40 steps: .*Å/fs"):
        ended = simulate(model, start, **hot)
    assert ended.ended and not ended.complete and "too fast" in {alarm.kind for alarm in ended.alarms}
    assert ended.n_frames[0] < 40 and "alarms: " in repr(ended)
    with caplog.at_level(logging.WARNING, logger="ffmd_jax"):
        warned = simulate(model, start, on_alarm="warn", **hot)
    assert warned.complete and "Å/fs" in caplog.text
    assert warned.metadata["alarms"][0]["count"] > 1
    out = {"out": tmp_path / "run.h5", "on_alarm": "warn"}
    first = simulate(model, start, **out, **hot).metadata["alarms"]
    again = simulate(model, start, **out, **hot, resume=True)  # all steps are there
    assert first and again.metadata["alarms"] == first and again.alarms[0].kind == first[0]["kind"]


@pytest.mark.usefixtures("single_precision")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 5, "every": 2}, "positive multiple"),
        ({"fields": ("forces",)}, "fields are positions and velocities"),
        ({"on_alarm": "explode"}, "on_alarm must be"),
        ({"on_alarm": "fallback"}, "needs a fallback"),
        ({"ensemble": ffmd.NVT((60.0, 70.0))}, "temperatures"),
        ({"ensemble": ffmd.NVE(), "velocities": "draw"}, "without a temperature"),
        ({"replicas": -1}, "must not be negative"),
        ({"ensemble": "nvt"}, r"must be NVE\(\), NVT\(temperature_K, …\) or NPT\(temperature_K, …\), not 'nvt'"),
    ],
)
def test_what_does_not_fit_together_is_refused(model, start, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        simulate(model, start, out=tmp_path / "run.h5", **options)
    assert not list(tmp_path.iterdir())


def test_errors_name_arguments_in_python_and_options_in_commands(tmp_path, capsys):
    options = {"length_ps": 0.01, "frame_fs": 3.0}
    with pytest.raises(ValueError, match=r"^`frame_fs` 3 is not a multiple"):
        ffmd.reference("argon", tmp_path / "a.h5", **options)
    message = fails(capsys, "reference", "argon", "--out", tmp_path / "a.h5", "--frame-fs", 3, "--length-ps", 0.01)
    assert message.startswith("ffmd: --frame-fs 3 is not a multiple")
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(FileExistsError, match=r"choose another `out` or say `overwrite`$"):
        ffmd.reference("argon", tmp_path / "a.h5")
    with pytest.raises(ValueError, match="must be NVE"):
        ffmd.reference("argon", tmp_path / "b.h5", ensemble="nvt")  # type: ignore[arg-type]


@pytest.mark.usefixtures("single_precision")
def test_starts_that_cannot_be_are_refused(model, start):
    with pytest.raises(ValueError, match="not from int"):
        simulate(model, 7)
    with pytest.raises(ValueError, match="sequence of starts is empty"):
        simulate(model, [])
    with pytest.raises(ValueError, match="holds Si"):
        simulate(model, (systems.silicon_diamond().system, systems.silicon_diamond().state))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        simulate(model, "nowhere.xyz")


@pytest.mark.parametrize(
    "options",
    [
        {"ensemble": ffmd.NVT(61.5, friction_tau_fs=900.0), "every": 2, "seed": 3, "reversible": True},
        {"ensemble": ffmd.NVE(), "velocities": "draw", "draw_temperature_K": 60.0, "tables": False},
        {"ensemble": ffmd.NVT((50.0, 60.0)), "velocities": "draw", "replicas": 2, "float64": True},
        {"ensemble": ffmd.NVT(60.0, thermostat="langevin"), "fields": ("positions",)},
    ],
)
def test_a_file_knows_the_command_that_continues_it(model, start, tmp_path, options, capsys):
    model_files.save(tmp_path / "model", model)
    first = jax.tree.map(lambda values: values[None], start[1])
    trajectory.write(tmp_path / "the start.h5", trajectory.Trajectory(start[0], first, np.zeros(1), {}, {}))
    out = tmp_path / "run.h5"
    simulate(tmp_path / "model", tmp_path / "the start.h5", out=out, **options)
    command = trajectory.read_metadata(out)["command"]
    ffmd_command(*shlex.split(command)[1:], "--steps", 16, "--resume")
    assert "frames" in capsys.readouterr().out
    assert len(trajectory.read_metadata(out)["settings"]) and simulate(model, start).metadata["command"] is None


def test_a_failed_write_is_raised_and_what_was_written_stays(model, start, tmp_path, monkeypatch):
    append, calls = trajectory.Writer.append, []

    def full(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise OSError("no space left on device")
        append(self, *arguments, **options)

    monkeypatch.setattr(trajectory.Writer, "append", full)
    with pytest.raises(OSError, match="no space left"):
        simulate(model, start, steps=400, out=tmp_path / "run.h5")
    monkeypatch.undo()
    found = trajectory.read(tmp_path / "run.h5")
    assert 0 < len(found.times) < 400
    whole = simulate(model, start, steps=400, out=tmp_path / "run.h5", resume=True)
    assert whole.n_frames == (400,)


def test_an_interrupt_between_computing_and_writing_loses_nothing(model, start, tmp_path, monkeypatch):
    """Frames and restart file are of the same step, wherever a Ctrl-C comes."""
    whole = simulate(model, start, steps=400, out=tmp_path / "whole.h5")
    wait, calls = recorder.Recorder.wait, []

    def interrupted(self):  # before the third block is handed over
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        wait(self)

    out = tmp_path / "run.h5"
    monkeypatch.setattr(recorder.Recorder, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt, match="resume"):
        simulate(model, start, steps=400, out=out)
    monkeypatch.undo()
    assert restart.path_of(out).is_file() and 0 < len(trajectory.read(out).times) < 400
    found = simulate(model, start, steps=400, out=out, resume=True)
    np.testing.assert_array_equal(found.times, whole.times)
    for one, other in zip(found.frames, whole.frames, strict=True):
        np.testing.assert_array_equal(one, other)


def test_frames_are_written_while_the_next_are_computed(model, start, tmp_path, monkeypatch):
    """The writer of a block may run until the block after it is there, and no longer."""
    import threading

    append, advance = trajectory.Writer.append, Engine.advance
    running, together, order = threading.Event(), [], []

    def slow(self, frames, times, *arguments, **options):
        running.set()
        order.append(float(times[0]))
        threading.Event().wait(0.1)
        append(self, frames, times, *arguments, **options)
        running.clear()

    def noted(self, *arguments):
        together.append(running.is_set())
        return advance(self, *arguments)

    monkeypatch.setattr(trajectory.Writer, "append", slow)
    monkeypatch.setattr(Engine, "advance", noted)
    run = simulate(model, start, steps=400, out=tmp_path / "run.h5")
    assert any(together[1:]) and order == sorted(order) and len(order) == 4
    assert np.ptp(np.diff(run.times)) < 1e-9


@pytest.mark.slow
@pytest.mark.usefixtures("single_precision")
def test_from_an_ase_calculator_to_a_report(tmp_path):
    """Reference runs, dataset, training, evaluation, rollout, report: no command line, no word about precision."""
    atoms = ase.Atoms("Cu5", [[0, 0, 0], [2.4, 0, 0], [1.2, 2.1, 0], [1.2, 0.7, 2.0], [1.2, 0.7, -2.0]])
    files = ffmd.reference(
        "ase", tmp_path / "nve.h5", start=atoms, calculator=ase.calculators.emt.EMT, temperature_K=100, length_ps=1.0,
        frame_fs=10, runs=3, dt=5.0, equilibrate_ps=0.2, spacing_ps=0.1, forces=True, progress=False,
    )  # fmt: skip
    assert [file.name for file in files] == ["nve_0.h5", "nve_1.h5", "nve_2.h5"]
    first = ffmd.read(files[0])
    assert first.forces.shape == first.frames.positions.shape == (100, 5, 3)
    atoms.set_positions(first.frames.positions[7])
    atoms.calc = ase.calculators.emt.EMT()
    np.testing.assert_allclose(first.forces[7], atoms.get_forces(), atol=1e-4)
    data = ffmd.make_dataset(str(tmp_path / "nve_*.h5"), 20.0, out=tmp_path / "data.h5", progress=False)
    small = ffmd.Architecture(cutoff=4.0, lmax=1, channels=4, layers=1, radial_hidden=(4,), speed_hidden=(4,))
    trained = ffmd.train(
        data, tmp_path / "model", training=ffmd.Training(epochs=2, batch_size=4, optimizer="adam"),
        architecture=small, progress=False,
    )  # fmt: skip
    assert trained.config.isolated and trained.calibration is not None
    assert ffmd.load(tmp_path / "model").calibration == trained.calibration
    errors = ffmd.evaluate(trained, tmp_path / "data.h5")
    assert 0 < errors.velocity_percent < 200
    finer = ffmd.train(
        tmp_path / "data.h5", tmp_path / "fine", time_step_fs=10.0, architecture=small, progress=False,
        training=ffmd.Training(epochs=1, batch_size=8, optimizer="adam"),
    )  # fmt: skip
    assert finer.config.time_step_fs == 10.0
    run = ffmd.simulate(trained, files[2], steps=20, ensemble=ffmd.NVT(100), monitors=False, progress=False)
    report = ffmd.analyze(run, reference=files[1])
    assert "<img" in report._repr_html_() and report.save(tmp_path / "report").is_file()
    nvt = ffmd.reference("argon", tmp_path / "nvt.h5", ensemble=ffmd.NVT(60, tau_fs=200), length_ps=0.2, frame_fs=20,
                         equilibrate_ps=0.1, spacing_ps=0.1, repeat=(2, 2, 2), progress=False)  # fmt: skip
    assert ffmd.read(nvt[0]).metadata["ensemble"] == "nvt"
    assert take(ffmd.read(nvt[0], every=2).frames, 0).positions.shape == (32, 3)


def test_models_and_runs_show_themselves(model, start):
    assert repr(model).startswith("<Model untrained argon: elements Ar, Δt 40 fs, cutoff 5 Å")
    assert "<table>" in model._repr_html_()
    run = simulate(model, start)
    assert "12 frames" in run._repr_html_() and "no alarms" not in run._repr_html_()  # it was not watched
    shown = repr(run.trajectory)
    assert shown.startswith("<Trajectory Ar32: frames 12 every 40 fs, 0.44 ps, cell 10.8") and len(shown) < 150
    assert "<table>" in run.trajectory._repr_html_()


def test_datasets_and_errors_show_themselves():
    shown = repr(springs())
    assert shown == "<Dataset: Δt 20 fs, Ar12 3 runs with 72 frames (52 train, 10 validation, 10 test)>"
    errors = losses.Errors(18.754e-5, 8.4e-5, 0.04, 0.008, {"H": 1.2, "O": 3.0})
    assert repr(errors) == (
        "<Errors: displacements 0.000188 Å (0.47 %), velocities 0.000084 Å/fs (1.05 %), "
        "velocities by element H 1.20 %, O 3.00 %>"
    )
    assert "<td>0.000188 Å (0.47 %)</td>" in errors._repr_html_()
    assert "Δr 0.000188 Å (0.47 %), v 0.000084 Å/fs" in errors.describe()
