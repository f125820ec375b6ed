"""The experiments run from end to end, at sizes that mean nothing."""

import dataclasses
import importlib
import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.units import kB
from conftest import fails, ffmd, make_trajectory, perturbed, random_params, small_config

from ffmd_jax.core import units
from ffmd_jax.core.state import State, make_system
from ffmd_jax.dynamics import restart
from ffmd_jax.formats import trajectory
from ffmd_jax.formats.trajectory import Trajectory
from ffmd_jax.models import model_files
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import systems

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"


@pytest.fixture
def pipeline(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    return importlib.import_module("pipeline")


def run(monkeypatch, system, *arguments):
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, arguments)])
    runpy.run_path(str(EXPERIMENTS / system / "run.py"), run_name="__main__")


def digest_of(name):
    used = model_files.load(name)
    return restart.fingerprint(used.config, used.params)


@pytest.mark.slow
def test_an_experiment_runs_and_goes_on_where_it_was(tmp_path, pipeline, monkeypatch, capsys, restore_precision):
    def in_this_process(*words, json_line=False, may_alarm=False):
        capsys.readouterr()
        with jax.enable_x64(False):
            ffmd(*words)
        return json.loads(capsys.readouterr().out.splitlines()[-1]) if json_line else 0

    monkeypatch.setattr(pipeline, "_ffmd", in_this_process)
    run(monkeypatch, "paracetamol", "--smoke", tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"model", "training", "one_step", "one_reversible_step", "spectrum"}
    assert results["training"]["hours"] > 0
    assert 0 < results["one_step"]["velocity_mae_relative_percent"] < 200
    assert results["spectrum"]["potential_energy_shift_meV_per_atom"] is not None
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
    run(monkeypatch, "paracetamol", "reference", "--smoke", tmp_path)
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}


@pytest.mark.process
def test_the_commands_of_an_experiment_are_processes_and_failures_end_it(pipeline, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho said; echo "{\\"given\\": \\"$*\\"}"; exit $4\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert pipeline._ffmd("info", 0, json_line=True) == {"given": "-m ffmd_jax info 0"}
    assert pipeline._ffmd("rollout", pipeline.ALARM, may_alarm=True) == pipeline.ALARM
    for code, may_alarm in ((pipeline.ALARM, False), (1, True)):
        with pytest.raises(SystemExit) as stop:
            pipeline._ffmd("rollout", code, may_alarm=may_alarm)
        assert stop.value.code == code


def make_stages(pipeline, system, folder, model="nowhere"):
    """The stages of an experiment, with a frame to start from, and their names."""
    script = runpy.run_path(str(EXPERIMENTS / system / "run.py"))
    stages = pipeline.Stages(script["EXPERIMENT"], folder, smoke=False, model=model)
    crystal, state = perturbed()
    with trajectory.Writer(folder / "data" / "nvt.h5", crystal, {}) as writer:
        writer.append(jax.tree.map(lambda x: x[None], state), np.zeros(1), {})
    return stages, script["STAGES"]


@pytest.mark.parametrize("system", ["paracetamol", "quartz", "silicon", "water"])
def test_every_command_of_an_experiment_is_understood(system, tmp_path, pipeline, monkeypatch, capsys):
    stages, names = make_stages(pipeline, system, tmp_path)
    commands = []

    def record(*words, json_line=False, may_alarm=False):
        commands.append([str(word) for word in words])
        return {} if json_line else 0

    monkeypatch.setattr(pipeline, "_ffmd", record)
    monkeypatch.setattr(pipeline, "_digest", lambda model: "shipped")
    (tmp_path / "runs" / "demo").mkdir()
    speeds = ("ns_per_day", "reference_ns_per_day", "free_runs", "free_runs_exploded")
    (tmp_path / "runs" / "demo" / "summary.json").write_text(json.dumps(dict.fromkeys(speeds, 1)))
    for name in names:
        getattr(stages, name)()
    noted = {"one_step", "one_reversible_step", "spectrum", "friction", "weak", "free"} | ({"demo"} & set(names))
    noted |= {"supercell"} if "transfer" in names else set()
    noted |= {"long"} if stages.experiment.n_spectrum < 100_000 else set()
    fast = {"fast_friction", "fast_friction_reference"} if "fast_friction" in names else set()
    noted |= fast
    assert set(json.loads((tmp_path / "results.json").read_text())) == noted | {"model"}
    with_friction = [words for words in commands if "--friction-tau-fs" in words]
    assert len(with_friction) == len(noted & {"friction", "long", "supercell"} | fast)
    of, words = stages.experiment, next(words for words in commands if words[0] == "dataset")
    files = [Path(word).stem for word in words[1 : words.index("--time-step")]]
    assert len(files) == of.n_runs + len(of.other_runs) == len(set(files))
    # The system is the first file's; validated and tested is in its cell.
    assert [files[0], *files[-2:]] == ["nve_0", *(f"nve_{of.n_runs - i}" for i in (2, 1))]
    # Stopped by what is not there, or by these options: exit code 1; of wrong options it would be 2.
    stop = {"reference": ["--overwrite"], "demo": ["--length-ps", "0"]}
    for words in commands:
        fails(capsys, *words, *stop.get(words[0], []))


def test_noted_results_hold_no_commands_with_paths_of_this_machine(tmp_path, pipeline, monkeypatch):
    stages, _ = make_stages(pipeline, "quartz", tmp_path)
    monkeypatch.setattr(pipeline, "_digest", lambda model: "shipped")
    stages._note("weak", {"temperature_K": 300.0, "advice": [f"ffmd rollout {tmp_path}"]})
    assert json.loads((tmp_path / "results.json").read_text()) == {"model": "shipped", "weak": {"temperature_K": 300.0}}


def test_each_training_begins_with_the_weights_of_the_one_before(tmp_path, pipeline, monkeypatch):
    stages, _ = make_stages(pipeline, "quartz", tmp_path)
    stages.experiment = dataclasses.replace(stages.experiment, trainings=("--epochs 2", "--epochs 1", "--epochs 3"))
    begun, per_epoch = [], 1800  # steps, of one pair, at one pair a second

    def train(_, data, *words):
        options = dict(zip(words[::2], words[1::2], strict=True))
        begun.append((options["--out"].name, options.get("--init")))
        options["--out"].mkdir()
        (options["--out"] / "training.json").write_text('{"batch_size": 1}')
        line = {"step": per_epoch * int(options["--epochs"]), "configurations_per_s": 1.0}
        (options["--out"] / "metrics.jsonl").write_text(json.dumps(line) + "\n")

    monkeypatch.setattr(pipeline, "_ffmd", train)
    monkeypatch.setattr(pipeline, "_digest", lambda model: "")
    stages.train()
    runs = tmp_path / "runs"
    first, second = runs / "model_before_2", runs / "model_before_1"
    assert begun == [("model_before_2", None), ("model_before_1", first), ("model", second)]
    assert json.loads((tmp_path / "results.json").read_text())["training"]["hours"] == pytest.approx(3.0)


def test_a_roll_out_that_has_ended_stays_and_one_of_another_model_is_made_anew(tmp_path, pipeline, monkeypatch):
    config = small_config()
    models = [tmp_path / "one", tmp_path / "other"]
    for seed, path in enumerate(models):
        model_files.save(path, Model(config, random_params(config, seed)))
    stages, _ = make_stages(pipeline, "quartz", tmp_path, str(models[0]))
    crystal, state = perturbed()
    path, made = tmp_path / "runs" / "weak.h5", []

    def roll_out_or_analyse(*words, json_line=False, may_alarm=False):
        if words[0] == "analyze":
            return {"temperature_K": 300.0}
        made.append(words[1])
        digest = digest_of(words[1])
        metadata = {"settings": {"model": digest}, "reversible": True, "alarms": alarms}
        with trajectory.Writer(path, crystal, metadata) as writer:
            writer.append(jax.tree.map(lambda x: np.stack([x] * 9), state), np.arange(9.0), {})
        return pipeline.ALARM if alarms else 0

    monkeypatch.setattr(pipeline, "_ffmd", roll_out_or_analyse)
    for alarms, n_steps in (([{"text": "too hot"}], 100), ([], 9)):
        made.clear()
        path.unlink(missing_ok=True)
        for _ in range(2):
            stages._run("weak", tmp_path / "data" / "nvt.h5", n_steps=n_steps, every=1, tau=75.0)
            noted = json.loads((tmp_path / "results.json").read_text())["weak"]
            # What the file says, not what the experiment would do now.
            assert noted["stopped_by_alarm"] == bool(alarms) and noted["reversible"]
        assert made == [str(models[0])]
    stages.model = str(models[1])
    stages._note("one_step", {})
    assert set(json.loads((tmp_path / "results.json").read_text())) == {"model", "one_step"}  # nothing of the first
    stages._run("weak", tmp_path / "data" / "nvt.h5", n_steps=9, every=1, tau=75.0)
    assert made == [str(path) for path in models]


def test_a_roll_out_that_a_signal_stopped_is_not_noted(tmp_path, pipeline, monkeypatch):
    stages, _ = make_stages(pipeline, "quartz", tmp_path)
    crystal, state = perturbed()

    def stopped(*words, json_line=False, may_alarm=False):
        with trajectory.Writer(tmp_path / "runs" / "long.h5", crystal, {}) as writer:
            writer.append(jax.tree.map(lambda x: np.stack([x] * 9), state), np.arange(9.0), {})
        return 0

    monkeypatch.setattr(pipeline, "_ffmd", stopped)
    with pytest.raises(SystemExit, match="stopped before its end"):
        stages._run("long", tmp_path / "data" / "nvt.h5", n_steps=100, every=10, tau=75.0)
    assert not (tmp_path / "results.json").exists()


def test_there_is_no_demo_of_a_shipped_model_that_is_another_one(tmp_path, pipeline, monkeypatch, capsys):
    stages, _ = make_stages(pipeline, "quartz", tmp_path)
    monkeypatch.setattr(pipeline, "_ffmd", lambda *words: pytest.fail("ran the demo"))
    monkeypatch.setattr(pipeline, "_digest", lambda model: model)
    stages.demo()
    assert "another one" in capsys.readouterr().out and not (tmp_path / "results.json").exists()


@pytest.mark.parametrize("system", ["paracetamol", "quartz", "silicon", "water"])
def test_results_are_those_of_the_shipped_model(system):
    results = json.loads((EXPERIMENTS / system / "results.json").read_text())
    assert results["model"] == digest_of(system)


def test_the_table_says_what_ended_early_and_leaves_out_what_is_not_known(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    table = importlib.import_module("table")
    run = {
        "stopped_by_alarm": False, "length_ps": 700.0, "temperature_K": 300.0, "temperature_error_K": 1.0,
        "temperature_by_species_K": {"H": 301.0, "O": None}, "temperature_error_by_species_K": {"H": 1.0, "O": None},
        "vdos_overlap": 0.9, "reference_vdos_halves_overlap": None, "rdf_rmse": 0.1, "reference_rdf_halves_rmse": 0.05,
        "potential_energy_shift_meV_per_atom": None, "potential_energy_shift_error_meV_per_atom": None,
        "torsion_surface_overlap": {"a": 0.8}, "reference_torsion_surface_halves_overlap": {"a": 0.7},
        "diffusion_cm2_per_s": {"O": 2e-5}, "diffusion_error_cm2_per_s": {"O": 1e-6},
        "reference_diffusion_cm2_per_s": {"O": 2e-5}, "reference_diffusion_error_cm2_per_s": {"O": 1e-6},
    }  # fmt: skip
    ended = {"stopped_by_alarm": True, "length_ps": 0.02}
    one = {
        "displacement_mae_A": 1e-4, "velocity_mae_A_per_fs": 2e-5, "displacement_mae_relative_percent": 0.5,
        "velocity_mae_relative_percent": 1.5,
    }  # fmt: skip
    stages = {"spectrum": ended, "friction": run, "supercell": ended, "weak": {**run, "reversible": True}}
    rows = table.ours({**stages, "one_reversible_step": one})
    assert rows["CSVR: temperature, K"] == "– (alarm after 0 ps)"
    assert rows["CSVR and friction: by element, K"] == "H 301.0 ± 1.0, O – ± –"
    assert rows["CSVR and friction: VDOS overlap"] == "0.900 (halves of the reference: –)"
    assert rows["CSVR and friction: overlap of torsions a"] == "0.800 (halves of the reference: 0.700)"
    assert rows["CSVR and friction: D of O, 1e-9 m²/s (reference, CSVR)"] == "2.00 ± 0.10 (2.00 ± 0.10)"
    assert "CSVR: VDOS overlap" not in rows
    assert rows["CSVR, τ = 100 Δt: temperature, K"] == "300.0 ± 1.0 (700 ps), reversible steps"
    assert rows["MAE v, 1e-5 Å/fs, reversible step"] == "2.00 (1.50 %)" and "MAE v by element" not in rows


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize("system", ["paracetamol", "quartz", "silicon", "water"])
def test_stages_that_an_experiment_does_not_have_are_refused(system, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, system, "nonsense")
    assert stop.value.code == 2 and "unknown stage nonsense" in capsys.readouterr().err


def test_the_table_in_the_readme_is_the_one_of_the_results():
    command = [sys.executable, EXPERIMENTS / "table.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "| MAE v, 1e-5 Å/fs |" in done.stdout
    assert done.stdout in (EXPERIMENTS / "README.md").read_text()


def test_methods_are_compared_by_error_time_and_bias(tmp_path, monkeypatch, restore_precision):
    """White noise: the error of a mean is known, and so is what a shift of the mean is beyond it."""
    monkeypatch.syspath_prepend(EXPERIMENTS / "force_free_or_potential")
    compare = importlib.import_module("compare")
    crystal, state = perturbed()
    rng, n_frames = np.random.default_rng(1), 1600
    shifts, target, speeds = {"exact": 0.0, "same": 0.0, "off": 0.4}, 0.01, {"exact": 2.0, "same": 1.0, "off": 4.0}
    for label, shift in shifts.items():
        frames = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], n_frames, axis=0), state)
        frames.positions[:, 0, 0] = 4 + shift + rng.normal(size=n_frames)
        with trajectory.Writer(tmp_path / f"made_up_{label}.h5", crystal, {}) as writer:
            writer.append(frames, np.arange(1, n_frames + 1) * 1000.0, {})
    monkeypatch.setattr(compare, "observe", lambda kind, part: part.frames.positions[:, 0, 0].mean(keepdims=True))
    methods = {label: compare.Method("propagator", 1, 1) for label in shifts}
    of = compare.Comparison(methods, 1.0, 1.0, {"rdf": target})
    found = compare.compared(SimpleNamespace(name="made_up", of=of), tmp_path, speeds)["rdf"]["methods"]
    for label, row in found.items():
        assert row["length_ps"] == pytest.approx(1600, rel=0.01)
        assert row["error"] == pytest.approx(1440**-0.5 / (4 + shifts[label]), rel=0.6)  # of eight blocks
        assert row["needed_ps"] == pytest.approx(1440 * (row["error"] / target) ** 2, rel=0.02)
        assert row["core_minutes"] == pytest.approx(row["needed_ps"] / 1000 / speeds[label] * 24 * 60, rel=0.02)
    assert found["off"]["bias"] == pytest.approx(0.1, abs=0.025) and found["same"]["bias"] < 0.02
    assert found["off"]["difference"] > 2 * found["off"]["chance"]


def test_repartitioned_hydrogen_leaves_the_masses_of_molecules(monkeypatch, restore_precision):
    monkeypatch.syspath_prepend(EXPERIMENTS / "force_free_or_potential")
    compare = importlib.import_module("compare")
    water = systems.get("water")
    heavy = compare.repartitioned(water.system, water.state)
    masses, hydrogen = np.asarray(heavy.masses), np.asarray(heavy.species) == 1
    np.testing.assert_allclose(masses[hydrogen], compare.HEAVY_HYDROGEN)
    np.testing.assert_allclose(masses[~hydrogen], 15.999 - 2 * (compare.HEAVY_HYDROGEN - 1.008), atol=2e-3)


def test_the_comparison_shows_its_numbers(monkeypatch, restore_precision):
    folder = EXPERIMENTS / "force_free_or_potential"
    monkeypatch.syspath_prepend(folder)
    compare = importlib.import_module("compare")
    for own in json.loads((folder / "results.json").read_text()).values():
        assert compare.markdown(own) in (folder / "README.md").read_text()


def test_maps_are_compared_in_bits_and_a_transition_counts_where_it_arrives(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS / "alanine_dipeptide")
    ramachandran = importlib.import_module("ramachandran")
    beta, alpha, between, left = (-80, 150), (-70, -20), (-80, 70), (60, 40)
    path = [between, beta, between, alpha, between, alpha, beta, left, (60, -100), between, beta]
    phi, psi = np.radians(np.array([path, [beta] * len(path)], float)).transpose(2, 0, 1)
    one, other = (ramachandran.distribution(phi[:, i], psi[:, i]) for i in (1, 3))
    assert ramachandran.jensen_shannon(one, one) == 0
    assert ramachandran.jensen_shannon(one, other) == pytest.approx(0.5 * (np.log2(4 / 3) + 0.5 * np.log2(2 / 3) + 0.5))
    visit = np.array([beta, left, alpha, left]), np.array([beta, beta, alpha, alpha])
    seen, unseen = (tuple(np.radians(of.T.reshape(2, 2, 2).astype(float))) for of in visit)
    two = ramachandran.compared(seen, unseen)
    assert two["without_alpha_L_and_C7ax"]["model_and_teacher"] == 0 < two["jensen_shannon_bits"]["model_and_teacher"]
    found = ramachandran.rates(phi, psi, frame_ps=1.0)
    counted = {name: of["transitions"] for name, of in found.items()}
    to_left = {"beta to alpha_L or C7ax": 1, "alpha_L or C7ax to beta": 1}
    assert counted == {"beta to alpha_R": 1, "alpha_R to beta": 1, **to_left}
    assert found["alpha_R to beta"]["per_ns"] == pytest.approx(1000 / 3, abs=1e-3)
    angles = np.random.default_rng(0).uniform(-np.pi, np.pi, (2, 3, 5000))
    shares = [share for share, _ in ramachandran.populations(*angles).values()]
    assert sum(shares) == pytest.approx(1, abs=1e-4) and shares[0] == pytest.approx(220 * 165 / 360**2, abs=0.02)


def test_hydrogen_bonds_of_helix_and_water_are_counted(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS / "deca_alanine")
    observables = importlib.import_module("observables")
    # Five groups of O, N and H, in this order; each hydrogen belongs to the nearest nitrogen.
    numbers = np.tile([8, 7, 1], 5)
    places = np.zeros((15, 3))
    places[:, 0] = 10.0 * np.repeat(np.arange(5), 3)
    places[1::3, 1], places[2::3, 1] = 3.0, 4.0
    oxygens, hydrogens = observables.backbone(numbers, places)
    assert oxygens.tolist() == [0, 3, 6, 9, 12] and hydrogens.tolist() == [2, 5, 8, 11, 14]
    places[hydrogens[3]] = places[oxygens[0]] + [0.0, 0.0, 2.4]  # of residue 4, to the oxygen of residue 0
    places[hydrogens[4]] = places[oxygens[1]] + [0.0, 0.0, 2.6]
    assert observables.turns(places[None, None], oxygens, hydrogens).tolist() == [[1]]
    phi, psi = np.radians([[[-60.0, -60.0, -120.0, 60.0]]]), np.radians([[[-45.0, 140.0, -45.0, -45.0]]])
    assert observables.helical(phi, psi).tolist() == [[0.25]]

    edge, near = 12.0, [0.0, 2.4, 2.6]
    water = np.array([[[[11.9, 0.5, 0.5], *([11.9 + d - edge, 0.5, 0.5] for d in near), [11.9, 0.5, 11.0]]]])
    found = observables.bonds_with_water(water, np.array([edge]), np.array([8, 8, 1, 1, 1]), 1)
    assert found.tolist() == [[2.0]]  # one through the wall, one through another; an oxygen of water does not count


def test_the_mean_force_of_a_torsion_is_that_which_was_put_in(monkeypatch, restore_precision):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    tool = importlib.import_module("mean_force")
    system = make_system([6, 7, 8, 1], [12.0, 14.0, 16.0, 1.0])
    rng, chain = np.random.default_rng(0), np.array([[-0.5, 1.4, 0.0], [0.0, 0.0, 0.0], [1.5, 0.0, 0.0]])
    turns = rng.uniform(-np.pi, np.pi, 4000)
    last = np.stack([np.full(4000, 2.0), 1.2 * np.cos(turns), 1.2 * np.sin(turns)], axis=-1)
    positions = np.concatenate([np.broadcast_to(chain, (4000, 3, 3)), last[:, None]], axis=1)
    with jax.enable_x64(True):
        slopes = np.asarray(jax.vmap(jax.grad(lambda x: tool.angle(x, (0, 1, 2, 3))))(jnp.asarray(positions)))
        force, noise = 0.3 * np.cos(turns), rng.normal(size=4000)  # eV/rad
        kick = ((force + noise) * 5.0 * units.EV)[:, None, None] * slopes / system.masses[:, None]
        at, mean, error, counts = tool.mean_force(system, positions, kick, 5.0, (0, 1, 2, 3), 12)
    assert counts.sum() == 4000 and np.all(np.abs(mean - 0.3 * np.cos(at)) < 0.02 + 4 * error / np.sqrt(10))
    np.testing.assert_allclose(error, np.sqrt(10 / counts), rtol=0.15)


def test_diffusion_is_that_of_random_walks_and_the_activation_energy_that_of_the_line(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS / "copper_iodide")
    conduction = importlib.import_module("conduction")
    rng, n_frames, interval_fs, per_ps = np.random.default_rng(0), 400, 100.0, 0.6  # Å²/ps along each direction, 2 D
    system = make_system([29] * 20 + [53] * 20, [63.5] * 20 + [126.9] * 20, (True,) * 3)
    runs = []
    for _ in range(6):
        steps = rng.normal(size=(n_frames, 40, 3)) * (per_ps * interval_fs / 1000) ** 0.5
        steps[:, 20:] = 0  # iodine stays, but for the motion of the whole
        frames = State(np.cumsum(steps, axis=0), steps, np.broadcast_to(20 * np.eye(3), (n_frames, 3, 3)))
        runs.append(Trajectory(system, frames, np.arange(n_frames) * interval_fs, {}, {}))
    copper, iodine = (conduction.diffusion(runs, symbol, (1.0, 5.0)) for symbol in ("Cu", "I"))
    assert copper["D"] == pytest.approx(10 * per_ps / 2, abs=4 * copper["error"]) and copper["error"] < 0.4
    assert iodine["D"] < 0.1 * copper["D"]
    line = {kelvin: {"D": 50 * np.exp(-0.2 / (kB * kelvin)), "error": 0.01} for kelvin in (450.0, 525.0, 600.0)}
    found = conduction.arrhenius(line)
    assert found["activation_energy_eV"] == pytest.approx(0.2) and found["D0"] == pytest.approx(50)
    alike = conduction.likeness(runs[:3], runs[:3])
    assert alike["vdos_overlap"] == 1 and set(alike["rdf_rmse"].values()) == {0.0}
    assert set(alike["rdf_rmse"]) == {"Cu–Cu", "Cu–I", "I–I"}


def test_short_runs_with_many_frames_have_the_spectrum_of_frames_a_step_apart(monkeypatch):
    """Thermal vibrations of random phases: of frames 5 fs apart, the mean over the frames to begin with is smoother."""
    monkeypatch.syspath_prepend(EXPERIMENTS / "quartz_sevennet")
    curves = importlib.import_module("curves")
    system, state = jax.tree.map(np.asarray, perturbed())
    rng = np.random.default_rng(0)

    def vibrating(n_frames, interval_fs):
        times = np.arange(n_frames) * interval_fs
        phases, speeds = rng.uniform(0, 2 * np.pi, (9, 3)), np.linspace(0.02, 0.08, 27).reshape(9, 3)  # rad/fs
        moved = 0.05 * np.cos(times[:, None, None] * speeds + phases)
        velocities = -0.05 * speeds * np.sin(times[:, None, None] * speeds + phases)
        return make_trajectory(system, state.positions + moved, velocities, interval_fs, state.cell)

    long, short = vibrating(500, 30.0), [vibrating(220, 5.0), vibrating(220, 5.0)]
    one, other = curves.of([long], 30.0, 0.72), curves.of(short, 30.0, 0.72)
    assert curves.differences(one, one) == {"vdos_overlap": 1.0, "rdf_rmse": 0.0}
    found = curves.differences(one, other)
    assert found["vdos_overlap"] > 0.95 and found["rdf_rmse"] < 0.5
    assert [len(of) for half in curves.halves(short) for of in (half, half[0].times)] == [1, 220, 1, 220]
    assert [len(half[0].times) for half in curves.halves(short[:1])] == [110, 110]
    cut = curves.pieces(long, 1100.0, 3)
    assert [len(piece.times) for piece in cut] == [37, 37, 37] and cut[0].times[0] == 0
    assert cut[-1].times[-1] == pytest.approx(long.times[-1], abs=31)
    # The motion of the atoms, Σ m v²/3V, counts beside the stress that ASE gives, which is without it.
    stress = {f"stress_{of}_GPa": np.full(220, -0.1) for of in ("xx", "yy", "zz")}
    squares = np.mean(np.sum(np.asarray(short[0].frames.velocities) ** 2, axis=-1), axis=0)
    moving = float(system.masses @ squares) / (3 * abs(np.linalg.det(state.cell)))  # u/(Å fs²), of 1.6605e4 GPa
    found = curves.pressure([short[0]._replace(observables=stress)])
    assert found == pytest.approx(0.1 + 1.66054e4 * moving, abs=0.006) and found > 0.12


@pytest.mark.parametrize("name", ["quartz_sevennet"])
def test_measured_was_the_model_that_ships(name):
    results = json.loads((EXPERIMENTS / name / "results.json").read_text())
    assert results["evaluate"]["digest"] == digest_of(name.replace("_", "-"))
