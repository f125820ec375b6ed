"""The report is one page that needs nothing else, and its verdict follows the numbers."""

import re

import matplotlib
import numpy as np
import pytest

from ffmd_jax.analysis import figures, frames, properties, report
from ffmd_jax.analysis.error_growth import error_growth
from ffmd_jax.core import units
from ffmd_jax.core.state import State, make_system
from ffmd_jax.formats.trajectory import Trajectory


def make_trajectory(seed, temperature_K=300.0, shift_eV=0.0, hot_hydrogen=1.0, n_frames=3000):
    """Oscillators damped and driven by noise about the sites of 12 molecules: stationary, with known T."""
    rng = np.random.default_rng(seed)
    system = make_system([8, 1, 1] * 12, [16.0, 1.0, 1.0] * 12, [7.0, 7.0, 7.0], True)
    sites = np.random.default_rng(0).random((12, 1, 3)) * 7 + np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    sites = sites.reshape(36, 3)
    omega = 2 * np.pi * np.tile([600.0, 1600.0, 3000.0], 12)[:, None] / (1000 * units.TERAHERTZ_IN_PER_CM)
    masses = system.masses[:, None]
    scale = np.where(masses < 2, hot_hydrogen, 1.0)
    speed = np.sqrt(scale * units.BOLTZMANN * units.EV * temperature_K / masses)
    r, v = speed / omega * rng.normal(size=(36, 3)), speed * rng.normal(size=(36, 3))
    positions, velocities, keep = [], [], np.exp(-0.02)
    for _ in range(n_frames):
        r, v = r * np.cos(omega) + v / omega * np.sin(omega), v * np.cos(omega) - r * omega * np.sin(omega)
        v = keep * v + np.sqrt(1 - keep**2) * speed * rng.normal(size=(36, 3))
        positions.append(sites + r)
        velocities.append(v - system.masses @ v / system.masses.sum())
    energy = shift_eV + np.sum(rng.normal(size=(n_frames, 8)) ** 2, axis=1) * 0.05
    energy[1::2] = np.nan
    return Trajectory(
        system,
        State(np.array(positions), np.array(velocities)),
        np.arange(n_frames) * 1.0,
        {"potential_energy_eV": energy},
        {"ensemble": "nvt", "temperature_K": temperature_K},
    )


@pytest.fixture(scope="module")
def runs():
    same, reference = (properties.analyze(make_trajectory(seed)) for seed in (1, 2))
    other = properties.analyze(make_trajectory(3, shift_eV=1.0, hot_hydrogen=1.3))
    return same, other, reference


@pytest.fixture(scope="module")
def growth():
    rng = np.random.default_rng(4)
    system = make_system([8, 1], [16.0, 1.0], [7.0] * 3, True)
    reference = State(rng.normal(size=(8, 257, 2, 3)), rng.normal(size=(8, 257, 2, 3)))
    noise = 0.01 * np.cumsum(rng.normal(size=(8, 257, 2, 3)), axis=1)
    return error_growth(State(*(x + noise for x in reference)), reference, system)


def test_report_is_one_page_with_its_figures_inside(runs, growth, tmp_path):
    same, _, reference = runs
    path = tmp_path / "new" / "report.html"
    report.write(path, "Water <test>", same, reference, {"steps per second": 12.5}, growth, time_step_fs=7.0)
    page = path.read_text(encoding="utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    assert page.count("data:image/png;base64,iVBOR") == 6
    assert not re.search(r"https?:|<script|<link|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    assert "Water &lt;test&gt;" in page and "steps per second" in page and "12.5" in page
    assert "temperature of H" in page and "nan" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)


def test_the_verdict_does_not_compare_spectra_that_sparse_frames_have_folded(runs):
    dense, _, reference = runs
    every = properties.analyze(frames.part(make_trajectory(1), slice(None, None, 15)))  # resolves 1,112 of 3,000 /cm
    assert "cannot be compared" in report.verdict(every, reference)
    assert "vibrational spectra overlap" not in report.verdict(every, reference)
    assert "vibrational spectra overlap" in report.verdict(dense, reference)


def test_report_without_a_reference(runs, tmp_path):
    alone = runs[0]._replace(potential_energy_eV=np.full(5, np.nan))
    report.write(tmp_path / "report.html", "Alone", alone)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 4 and "No reference" in page


def test_failed_report_leaves_the_old_one_and_nothing_else(runs, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(report.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        report.write(path, "New", runs[0])
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_verdict_follows_the_numbers(runs):
    same, other, reference = runs
    assert "agrees with the reference within the noise" in report.verdict(same, reference)
    found = report.verdict(other, reference)
    assert "differs" in found
    for what in ("temperatures", "potential energy"):
        assert what in found.split(".")[0]


def test_verdict_states_the_thermostat_and_unlike_ensembles(runs):
    same, _, reference = runs
    bath = same._replace(metadata={"ensemble": "nvt", "temperature_K": 350.0})
    found = report.verdict(bath, reference._replace(metadata={"ensemble": "nve"}))
    assert "The thermostat was set to 350 K, the mean temperature is" in found
    assert "The run is NVT, the reference NVE" in found
    assert "The run is" not in report.verdict(bath, reference._replace(metadata=bath.metadata))
    assert "thermostat was set" not in report.verdict(same._replace(metadata={}), reference)


def test_the_report_repeats_what_the_monitors_said(runs):
    alarm = {"text": "it is hot", "time_fs": 30.0, "count": 4}
    alone = runs[0]._replace(metadata={"alarms": [alarm], "fallback_frames": 8})
    found = report.verdict(alone)
    assert "it is hot (first at 30 fs, 4 times)" in found and "took over for 8 frames" in found
    assert "no alarm" in report.verdict(alone._replace(metadata={"alarms": []}), runs[2])
    assert "alarm" not in report.verdict(runs[0], runs[2])


def test_figures_are_files_and_leave_global_state_alone(runs, growth, tmp_path):
    before = dict(matplotlib.rcParams)
    same, _, reference = runs
    paths = report.save_figures(tmp_path / "figures", same, reference, growth)
    assert {path.name for path in paths} == {
        "vdos.png", "temperature.png", "rdf.png", "potential_energy.png", "msd.png", "error_growth.png"
    }  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000 for path in paths)
    assert dict(matplotlib.rcParams) == before


def test_every_axis_has_a_label_with_its_unit(runs, growth):
    same, _, reference = runs
    dimensionless = {"g(r)", "element", "steps", "force-free / reference", "RMS error / RMS velocity"}
    for figure in figures.make(same, reference, growth).values():
        for axes in (axes for axes in figure.axes if axes.axison):
            for label in (axes.get_xlabel(), axes.get_ylabel()):
                assert label in dimensionless or " / " in label


def test_a_molecule_shows_the_distribution_of_its_pair_distances():
    rng = np.random.default_rng(5)
    system = make_system([8, 1, 1], [16.0, 1.0, 1.0])
    positions = np.array([[0, 0, 0], [0.96, 0, 0], [0, 0.96, 0.0]]) + 0.05 * rng.normal(size=(64, 3, 3))
    velocities = 0.01 * rng.normal(size=(64, 3, 3))
    run = Trajectory(system, State(positions, velocities), 2.0 * np.arange(64), {}, {})
    figure = figures.rdf(properties.analyze(run))
    assert figure.axes[0].get_ylabel() == "density / Å⁻¹"
