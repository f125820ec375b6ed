"""The examples run from end to end at a small size."""

import logging
import runpy
import warnings
from pathlib import Path

import jax
import matplotlib
import pytest

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.py"))

pytestmark = pytest.mark.slow


def test_there_are_five():
    assert [path.name[:2] for path in EXAMPLES] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FFMD_SMALL", "1")
    monkeypatch.setattr(logging.getLogger("ffmd_jax"), "level", logging.WARNING)  # an example changes it
    matplotlib.use("Agg")
    with jax.enable_x64(False), warnings.catch_warnings():
        warnings.simplefilter("default")  # short runs warn
        runpy.run_path(str(path), run_name="__main__")
