"""The command line end to end on argon, and bad input: one clear line, exit code ≠ 0, nothing half-written."""

import dataclasses
import io
import json
import re
import time

import ase
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import fails, ffmd, random_params, small_config

from ffmd_jax.core import neighbors, progress
from ffmd_jax.formats import ase_files, trajectory
from ffmd_jax.models import model, model_files
from ffmd_jax.reference_md import free_runs, systems, teachers

TINY = ["--config.cutoff", "5", "--config.lmax", "1", "--config.channels", "4", "--config.layers", "1"]
TINY += ["--config.radial-hidden", "4", "--config.speed-hidden", "4", "--config.velocity-input"]


pytestmark = pytest.mark.usefixtures("restore_precision")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def chain(folder):
    """Reference → dataset → training → roll-out, made once."""
    ffmd("reference", "argon", "--out", folder / "ref.h5", "--repeat", 2, 2, 2, "--temperature", 60,
         "--length-ps", 4, "--equilibrate-ps", 0.4, "--frame-fs", 20)  # fmt: skip
    ffmd("dataset", folder / "ref.h5", "--out", folder / "data.h5", "--time-step", 40, "--stride-fs", 20)
    ffmd("train", folder / "data.h5", "--out", folder / "model", "--epochs", 3, "--batch-size", 8,
         "--optimizer", "adam", "--learning-rate", 0.02, *TINY)  # fmt: skip
    ffmd("rollout", folder / "model", "--start", folder / "ref.h5", "--out", folder / "run.h5", "--steps", 40,
         "--every", 2, "--temperature", 60, "--on-alarm", "warn")  # fmt: skip
    return folder


def test_the_chain_makes_trajectories_models_and_errors(chain, capsys):
    found = model_files.load(chain / "model").calibration
    assert 0 < found.round_trip <= found.round_trip_atom < 10
    assert found.temperature_K < 120 and 1e-3 < found.speeds[0] < 0.01
    run = trajectory.read(chain / "run.h5")
    np.testing.assert_allclose(run.times, np.arange(1, 21) * 80.0)
    assert run.metadata["source"] == "force-free"
    momentum = np.einsum("i,tix->tx", run.system.masses, run.frames.velocities)
    assert np.abs(momentum).max() < 1e-4  # float32
    capsys.readouterr()
    ffmd("evaluate", chain / "model", chain / "data.h5", "--json")
    errors = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(errors) == {
        "displacement_mae_A",
        "displacement_mae_relative_percent",
        "velocity_mae_A_per_fs",
        "velocity_mae_relative_percent",
        "velocity_mae_relative_percent_Ar",
    }
    assert 0 < errors["velocity_mae_relative_percent"] < 90
    one, all_of_them = errors["velocity_mae_relative_percent_Ar"], errors["velocity_mae_relative_percent"]
    assert one == pytest.approx(all_of_them, rel=1e-5)
    lines = [json.loads(line) for line in (chain / "model" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    for subject in ("model", "data.h5", "run.h5"):
        ffmd("info", chain / subject, "--json")
        assert "Ar" in json.loads(capsys.readouterr().out.splitlines()[-1])["elements"]


def test_info_lists_the_shipped_models_and_shows_their_cards(tmp_path, capsys):
    ffmd("info", "--json")
    titles = json.loads(capsys.readouterr().out.splitlines()[-1])["titles"]
    assert set(titles) == set(model_files.pretrained()) and all("Δt = " in title for title in titles.values())
    ffmd("info")
    shown = capsys.readouterr().out
    assert all(re.search(rf"(?m)^{name} +{re.escape(title)}$", shown) for name, title in titles.items())
    assert "ffmd demo --smiles SMILES" in shown  # demo --system does not know organic
    ffmd("info", "silicon")
    assert f"# {titles['silicon']}\n" in (shown := capsys.readouterr().out) and "**Limits**" in shown
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_bytes(b"caf\xe9")  # of a user, in another encoding
    assert (model_files.card(tmp_path) or "").startswith("caf")


def test_info_is_in_words_with_units(chain, capsys):
    capsys.readouterr()
    for subject in ("model", "data.h5", "run.h5", "ref.h5"):
        ffmd("info", chain / subject)
    shown = capsys.readouterr().out
    words = "\n".join(line for line in shown.splitlines() if not line.startswith(("command", "observables", "sources")))
    assert not re.search(r"[\[\]{}']|None|True|False|\d\.\d{8}|[a-z]_(fs|ps|K|A)\b", words)
    lines = ("time step Δt of the model +40 fs", "masses +Ar 39.95 u", "speed limits of the embedding +Ar 0.0")
    lines += ("length +3.98 ps", "cell +10.8 × 10.8 × 10.8 Å", "command +ffmd rollout .* --start", "alarms ")
    for line in lines:
        assert re.search(f"(?m)^ *{line}", shown), line
    ffmd("info", "quartz")  # of two elements, as many as the ends of a range
    shown = capsys.readouterr().out
    assert re.search(r"volumes of an atom in the data +12\.3\d to 13\.3\d Å³", shown)
    assert re.search(r"drift of the kinetic energy +O 0\.\d+, Si 0\.\d+\n", shown)


@pytest.mark.slow
def test_reversible_steps_are_a_setting_of_the_run_and_of_the_errors(chain, tmp_path, capsys):
    options = ["--start", chain / "ref.h5", "--steps", 2, "--temperature", 60, "--on-alarm", "warn"]
    run = ["rollout", chain / "model", "--out", tmp_path / "run.h5", *options]
    ffmd(*run, "--reversible")
    assert trajectory.read(tmp_path / "run.h5").metadata["reversible"] is True
    assert "--reversible" in fails(capsys, *run, "--resume")
    errors = []
    for more in ([], ["--reversible"]):
        capsys.readouterr()
        ffmd("evaluate", chain / "model", chain / "data.h5", "--json", *more)
        errors.append(json.loads(capsys.readouterr().out.splitlines()[-1])["velocity_mae_A_per_fs"])
    assert errors[0] != errors[1]


@pytest.mark.slow
def test_analysis_writes_a_report(chain, capsys):
    ffmd("analyze", chain / "run.h5", "--reference", chain / "ref.h5", "--out", chain / "report", "--json")
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["temperature_by_species_K"].keys() == {"Ar"}
    assert "<img" in (chain / "report" / "report.html").read_text()


def test_energy_agrees_with_the_library(tmp_path, capsys):
    argon = systems.argon((2, 2, 2))
    atoms = ase_files.to_atoms(argon.system, argon.state)
    atoms.rattle(0.1, seed=1)
    ase.io.write(tmp_path / "argon.extxyz", atoms)
    ffmd("energy", "argon", tmp_path / "argon.extxyz", "--json")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert np.shape(found["forces_eV_per_A"]) == (32, 3)
    assert found["energy_eV"] < 0
    np.testing.assert_allclose(np.sum(found["forces_eV_per_A"], axis=0), 0, atol=1e-10)


def test_resume_with_other_settings_and_existing_outputs_are_refused(chain, capsys):
    data, model = chain / "data.h5", chain / "model"
    assert "holds a training already" in fails(capsys, "train", data, "--out", model, *TINY)
    message = fails(capsys, "train", data, "--out", model, "--resume", "--epochs", 3, "--batch-size", 4, *TINY)
    assert "batch_size = 4" in message
    assert "exists already" in fails(capsys, "reference", "argon", "--out", chain / "ref.h5")
    assert "exists already" in fails(
        capsys, "rollout", model, "--start", chain / "ref.h5", "--out", chain / "run.h5", "--steps", 1
    )
    assert "no training to resume" in fails(capsys, "train", data, "--out", chain / "none", "--resume")


@pytest.mark.slow
def test_energies_of_frames_are_those_of_the_reference_run(chain, tmp_path, capsys):
    run, found = trajectory.read(chain / "ref.h5"), {}
    trajectory.write(tmp_path / "bare.h5", run._replace(observables={}))
    for name, options in (("ref", []), ("bare", ["--force-field", "argon"])):
        path = {"ref": chain, "bare": tmp_path}[name] / f"{name}.h5"
        capsys.readouterr()
        ffmd("analyze", path, "--out", tmp_path / name, "--json", *options)
        found[name] = json.loads(capsys.readouterr().out.splitlines()[-1])["potential_energy_meV_per_atom"]
    assert found["bare"] == pytest.approx(found["ref"], abs=1e-3)


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_free_runs_of_the_demo_that_explode_are_told_from_whole_ones(factor):
    prepared = systems.argon((2, 2, 2))
    start = prepared.state._replace(velocities=1e-4 * np.cos(prepared.state.positions))
    start = jax.tree.map(jnp.asarray, start)

    def fly(system, state, graph):
        return state._replace(positions=state.positions + 10.0 * state.velocities, velocities=factor * state.velocities)

    search = neighbors.plan(prepared.system, prepared.state, 4.0, prepared.skin, 1.3)
    frames = free_runs.free_run(prepared.system, fly, search, 1, jnp.float64)(start)
    if factor > 1:
        assert frames is None
    else:
        np.testing.assert_allclose(frames.positions[-1], start.positions + 1280 * start.velocities, atol=1e-9)


@pytest.mark.slow
def test_the_demo_reports_both_runs_in_the_same_bath(tmp_path, monkeypatch, capsys):
    config = small_config(periodic=False, layers=1)
    masses = (1.008, 12.011, 14.007, 15.999)
    config = dataclasses.replace(config, elements=(1, 6, 7, 8), masses=masses, time_step_fs=7.0)

    def flight(system, state, graph):
        return state._replace(positions=state.positions + 7.0 * state.velocities)

    monkeypatch.setattr(model_files, "load", lambda _: model.Model(config, {}))
    monkeypatch.setattr(model, "propagator", lambda *_, **__: flight)
    monkeypatch.setattr(free_runs, "N_STARTS", 3)
    monkeypatch.setattr(free_runs, "N_STEPS", 4)
    make, made = free_runs.free_run, []

    def free_run(*options):
        made.append(make(*options))
        runs = iter([lambda _: None, made[-1], made[-1]])  # of the model and of the reference, the first explodes
        return lambda start: next(runs)(start)

    monkeypatch.setattr(free_runs, "free_run", free_run)
    out = tmp_path / "demo"
    ffmd("demo", "--system", "paracetamol", "--out", out, "--length-ps", 0.07)
    printed = capsys.readouterr().out
    assert "VDOS overlap" in printed and "1 of 3" in printed
    summary = json.loads((out / "summary.json").read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    assert summary["free_runs_exploded"] == 1 and summary["error_growth"]["steps"] == [1, 2, 4]
    assert (out / "report.html").stat().st_size > 10_000
    for name in ("force_free", "reference"):
        metadata = trajectory.read_metadata(out / f"{name}.h5")
        assert [metadata[key] for key in ("thermostat", "tau_fs", "friction_tau_fs")] == ["csvr", 70.0, 4000.0]
    monkeypatch.setattr(free_runs, "free_run", lambda *_: lambda _: None)
    frames = trajectory.read(out / "reference.h5").frames
    assert free_runs.run(systems.get("paracetamol"), config, flight, frames) == (None, 3)


ABSENT = teachers.Teacher("", "no_such_package", "pip install no_such_package", lambda: None)


@pytest.mark.slow
def test_the_demo_of_a_crystal_alone_shows_its_card(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(teachers.TEACHERS, "chgnet", ABSENT)
    ffmd("demo", "--system", "copper-iodide", "--out", tmp_path / "demo", "--length-ps", 1.2)
    said = capsys.readouterr().out
    assert "no reference beside it: chgnet needs" in said and "activation energy" in said
    assert trajectory.read(tmp_path / "demo" / "force_free.h5").metadata["temperature_K"] == 600


@pytest.mark.slow
def test_the_demo_of_a_molecule_runs_alone_where_its_teacher_is_not_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(teachers.TEACHERS, "gfn2-xtb", ABSENT)
    ffmd("demo", "--smiles", "O", "--out", tmp_path / "demo", "--length-ps", 0.1)
    said = capsys.readouterr().out
    assert "no reference beside it: gfn2-xtb needs the package no_such_package: pip install no_such_package" in said
    assert (tmp_path / "demo" / "report.html").exists() and not (tmp_path / "demo" / "reference.h5").exists()


@pytest.mark.slow
def test_the_demo_beside_shipped_curves_needs_no_teacher(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(teachers.TEACHERS, "sevennet-0", ABSENT)
    fails(capsys, "demo", "--system", "quartz-sevennet", "--out", tmp_path / "short", "--length-ps", 1)
    ffmd("demo", "--system", "quartz-sevennet", "--out", tmp_path / "demo", "--length-ps", 3)
    said = capsys.readouterr().out
    assert "speed is not measured: sevennet-0 needs the package no_such_package" in said
    found = {line[:36].strip(): [float(x) for x in line[36:].split() if x != "–"] for line in said.splitlines()
             if line.startswith(("temperature of", "VDOS overlap", "g(r) RMSE", "speed /"))}  # fmt: skip
    assert set(found) == {"temperature of O / K", "temperature of Si / K", "VDOS overlap with it, its halves'",
                          "g(r) RMSE from it, of its halves", "speed / ns/day"}  # fmt: skip
    assert found["VDOS overlap with it, its halves'"][0] > 0.8
    assert all(abs(kelvin - 300) < 60 for name in ("O", "Si") for kelvin in found[f"temperature of {name} / K"])
    assert (tmp_path / "demo" / "report.html").exists() and not (tmp_path / "short").exists()


def test_a_demo_with_impossible_options_writes_nothing(tmp_path, capsys):
    for options in (["--length-ps", 0.01], ["--tau-fs", 0], ["--friction-tau-fs", -1]):
        fails(capsys, "demo", "--system", "paracetamol", "--out", tmp_path / "demo", *options)
        assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A model folder with random weights for Si and O."""
    path = tmp_path_factory.mktemp("untrained") / "model"
    with jax.enable_x64(True):
        model_files.save(path, model.Model(small_config(), random_params(small_config())))
    return path


def quartz_file(path, change=lambda atoms: None, momenta=True):
    prepared = systems.quartz((2, 2, 2))
    atoms = ase.Atoms(prepared.system.species, prepared.state.positions, cell=prepared.state.cell, pbc=True)
    if momenta:
        atoms.set_momenta(np.random.default_rng(0).normal(size=(72, 3)))
    change(atoms)
    ase.io.write(path, atoms)
    return path


def set_carbon(atoms):
    atoms.numbers[0] = 6


def set_nan(atoms):
    atoms.positions[3, 1] = np.nan


def flatten_cell(atoms):
    atoms.cell[2] = atoms.cell[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"change": set_carbon}, "holds C"),
        ({"change": set_nan}, "NaN"),
        ({"change": flatten_cell}, "singular"),
        ({"momenta": False}, "velocities"),
    ],
)
def test_bad_start_structures_are_refused(untrained, tmp_path, capsys, options, message):
    start = quartz_file(tmp_path / "start.traj", **options)
    out = tmp_path / "run.h5"
    assert message in fails(capsys, "rollout", untrained, "--start", start, "--out", out, "--steps", 5)
    assert list(tmp_path.iterdir()) == [start]


def test_other_bad_input_is_refused(untrained, chain, tmp_path, capsys):
    start = quartz_file(tmp_path / "start.traj")
    assert "positive multiple" in fails(
        capsys, "rollout", untrained, "--start", start, "--out", tmp_path / "a.h5", "--steps", 5, "--every", 2
    )
    assert "no model folder" in fails(
        capsys, "rollout", "nonsense", "--start", start, "--out", tmp_path / "a.h5", "--steps", 5
    )
    assert "not a multiple" in fails(capsys, "dataset", chain / "ref.h5", "--out", tmp_path / "a.h5", "--time-step", 30)
    assert "Δt = 40 fs, the model 10 fs" in fails(capsys, "evaluate", untrained, chain / "data.h5")
    torn = tmp_path / "torn.h5"
    torn.write_bytes((chain / "ref.h5").read_bytes()[:4000])
    assert "torn.h5" in fails(capsys, "dataset", torn, "--out", tmp_path / "a.h5", "--time-step", 40)
    assert "does not exist" in fails(capsys, "info", tmp_path / "missing.h5")
    assert "does not exist" in fails(capsys, "reference", "argon", "--out", tmp_path / "none" / "a.h5")
    assert "multiple of the time step" in fails(
        capsys, "reference", "argon", "--out", tmp_path / "a.h5", "--frame-fs", 3
    )
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.slow
def test_an_unstable_model_ends_with_a_clear_line(untrained, tmp_path, capsys):
    wild = model_files.load(untrained)
    wild.params["readout"]["1o"] = wild.params["readout"]["1o"] * 1e38
    model_files.save(tmp_path / "wild", wild)
    start = quartz_file(tmp_path / "start.traj")
    message = fails(
        capsys, "rollout", tmp_path / "wild", "--start", start, "--out", tmp_path / "a.h5", "--steps", 10,
        "--ensemble", "nve", code=3,
    )  # fmt: skip
    assert "diverged" in message and "nothing is written" in message
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["rollot", "quartz"], 2, "unknown command 'rollot'; did you mean rollout?"),
        (["info", "quarz"], 1, "did you mean quartz?"),
        (["evaluate", "quarz", "x.h5"], 1, "did you mean quartz?"),
        (["reference", "silicone", "--out", "x.h5"], 1, "unknown system 'silicone'; did you mean silicon?"),
        (["energy", "Watr", "x.xyz"], 1, "unknown system 'Watr'; did you mean water?"),
    ],
)
def test_misspelt_words_are_recognised(tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.xyz").write_text("1\n\nAr 0 0 0\n")
    assert message in fails(capsys, *arguments, code=code)


def test_bars_count_what_is_counted(capsys):
    with progress.progress(5, "reading", "files") as bar:
        bar.update(5)
    with progress.progress(2.5, "running") as bar:
        bar.update(2.5)
    shown = capsys.readouterr().err
    assert "5/5 files" in shown and "2.5/2.5 ps" in shown


def test_a_resumed_bar_takes_its_speed_from_its_own_work(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    with progress.progress(100, "resumed", begin=90.0) as bar:
        time.sleep(0.3)  # longer than the interval of its updates
        bar.update(1)
        assert bar.n == 91 and bar.format_dict["rate"] < 1 / 0.3
