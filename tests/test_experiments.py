"""The experiments run from end to end, at sizes that mean nothing."""

import importlib
import json
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import fails, perturbed

from ffmd_jax import trajectory

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"


def run(script, *arguments):
    return subprocess.run(
        ["timeout", "-k", "5", "400", sys.executable, EXPERIMENTS / script, *arguments],
        capture_output=True, text=True,
    )  # fmt: skip


def test_an_experiment_runs_and_goes_on_where_it_was(tmp_path):
    first = run("paracetamol/run.py", "--smoke", tmp_path)
    assert first.returncode == 0, first.stderr[-2000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"training", "one_step", "spectrum"}
    assert results["training"]["hours"] > 0
    assert 0 < results["one_step"]["velocity_mae_relative_percent"] < 200
    assert results["spectrum"]["potential_energy_shift_meV_per_atom"] is not None
    again = run("paracetamol/run.py", "reference", "--smoke", tmp_path)
    assert again.returncode == 0 and "all 5 runs are finished" in again.stdout


@pytest.mark.parametrize("system", ["paracetamol", "quartz", "water"])
def test_every_command_of_an_experiment_is_understood(system, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    pipeline = importlib.import_module("pipeline")
    experiment = runpy.run_path(str(EXPERIMENTS / system / "run.py"))["EXPERIMENT"]
    commands = []

    def record(*words, json_line=False, may_alarm=False):
        commands.append([str(word) for word in words])
        return {} if json_line else 0

    monkeypatch.setattr(pipeline, "_ffmd", record)
    stages = pipeline.Stages(experiment, tmp_path, smoke=False, model="nowhere")
    crystal, state = perturbed()
    with trajectory.Writer(tmp_path / "data" / "nvt.h5", crystal, {}) as writer:
        writer.append(jax.tree.map(lambda x: x[None], state), np.zeros(1), {})
    (tmp_path / "runs" / "demo").mkdir()
    speeds = ("ns_per_day", "reference_ns_per_day", "free_runs", "free_runs_exploded")
    (tmp_path / "runs" / "demo" / "summary.json").write_text(json.dumps(dict.fromkeys(speeds, 1)))
    for stage in ("evaluate", "rollout", "transfer", "demo"):
        getattr(stages, stage)()
    names = {"one_step", "spectrum", "friction", "weak", "free", "supercell", "demo"}
    names |= {"long"} if experiment.n_spectrum < 100_000 else set()
    assert set(json.loads((tmp_path / "results.json").read_text())) == names
    with_friction = [words for words in commands if "--friction-tau-fs" in words]
    assert len(with_friction) == len(names & {"friction", "long", "supercell"})
    assert commands.pop()[:3] == ["demo", "--system", system]
    for words in commands:
        fails(capsys, *words)  # the model or the run is not there: exit code 1; of wrong options it would be 2


@pytest.mark.parametrize("system", ["paracetamol", "quartz", "water"])
def test_stages_that_an_experiment_does_not_have_are_refused(system):
    done = run(f"{system}/run.py", "nonsense")
    assert done.returncode == 2 and "unknown stage nonsense" in done.stderr


def test_the_table_in_the_readme_is_the_one_of_the_results():
    done = run("table.py")
    assert done.returncode == 0
    assert "| MAE v, 1e-5 Å/fs |" in done.stdout
    assert done.stdout in (EXPERIMENTS / "README.md").read_text()
