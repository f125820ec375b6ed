"""The experiments run from end to end, at sizes that mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
def test_stages_that_an_experiment_does_not_have_are_refused(system):
    done = run(f"{system}/run.py", "nonsense")
    assert done.returncode == 2 and "unknown stage nonsense" in done.stderr


def test_the_table_in_the_readme_is_the_one_of_the_results():
    done = run("table.py")
    assert done.returncode == 0
    assert "| MAE v, 1e-5 Å/fs |" in done.stdout
    assert done.stdout in (EXPERIMENTS / "README.md").read_text()
