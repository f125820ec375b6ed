"""The report is one page that needs nothing else, and its verdict neither flatters nor cries wolf."""

import io
import itertools
import json
import os
import re

import matplotlib
import numpy as np
import pytest
from conftest import make_trajectory as trajectory_of
from PIL import Image

from ffmd_jax.analysis import checks, comparison, distributions, figures, frames, movie, properties, report
from ffmd_jax.analysis.error_growth import error_growth
from ffmd_jax.analysis.report import Report
from ffmd_jax.core import files, units
from ffmd_jax.core.state import State, make_system
from ffmd_jax.formats import trajectory
from ffmd_jax.formats.trajectory import Trajectory


def make_trajectory(seed, temperature_K=300.0, shift_eV=0.0, hot_hydrogen=1.0, n_frames=3000):
    """Oscillators damped and driven by noise about the sites of 12 molecules: stationary, with known T."""
    rng = np.random.default_rng(seed)
    system = make_system([8, 1, 1] * 12, [16.0, 1.0, 1.0] * 12, True)
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
        State(np.array(positions), np.array(velocities), np.tile(7.0 * np.eye(3), (n_frames, 1, 1))),
        np.arange(n_frames) * 1.0,
        {"potential_energy_eV": energy},
        {"ensemble": "nvt", "temperature_K": temperature_K},
    )


@pytest.fixture(scope="module")
def runs():
    """Two equal runs, and one with warm hydrogen and another potential energy."""
    same, reference = (properties.analyze(make_trajectory(seed)) for seed in (1, 2))
    other = properties.analyze(make_trajectory(3, shift_eV=1.0, hot_hydrogen=1.3))
    return same, other, reference


def molecule_run(seed, center=0.7):
    """Hydrogen peroxide whose torsion is drawn anew in every frame."""
    rng = np.random.default_rng(seed)
    angle = rng.vonmises(center, 4.0, 2000)
    ends = np.stack([np.full_like(angle, 1.8), 0.95 * np.cos(angle), 0.95 * np.sin(angle)], axis=-1)
    fixed = np.array([[-0.35, 0.95, 0], [0, 0, 0], [1.45, 0, 0]])
    positions = np.concatenate([np.broadcast_to(fixed, (2000, 3, 3)), ends[:, None]], axis=1)
    system = make_system([1, 8, 8, 1], [1.0, 16.0, 16.0, 1.0])
    return properties.analyze(trajectory_of(system, positions, 0.01 * rng.normal(size=(2000, 4, 3)), 2.0))


@pytest.fixture(scope="module")
def molecule():
    return molecule_run(6)


@pytest.fixture(scope="module")
def growth():
    rng = np.random.default_rng(4)
    system = make_system([8, 1], [16.0, 1.0], True)
    cells = np.tile(7.0 * np.eye(3), (8, 257, 1, 1))
    reference = State(rng.normal(size=(8, 257, 2, 3)), rng.normal(size=(8, 257, 2, 3)), cells)
    noise = 0.01 * np.cumsum(rng.normal(size=(8, 257, 2, 3)), axis=1)
    return error_growth(State(*(x + noise for x in reference[:2]), cells), reference, system)


def with_temperature(analysis, mean, error, length_ps=None, **metadata):
    """The analysis with a mean temperature of all atoms and elements, its standard error, and a length."""
    found = analysis.temperatures._replace(
        mean=mean,
        error=error,
        mean_by_species=dict.fromkeys(analysis.temperatures.mean_by_species, mean),
        error_by_species=dict.fromkeys(analysis.temperatures.error_by_species, error),
    )
    times = analysis.times_fs * (1 if length_ps is None else length_ps / checks.length_ps(analysis))
    return analysis._replace(temperatures=found, times_fs=times, metadata=analysis.metadata | metadata)


def of_temperature(found, against):
    return [check for check in found if (check.quantity, check.against) == ("temperature", against)]


def text_of(page):
    """The words of a page: without tags, styles and images."""
    return re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)


@pytest.mark.slow
def test_a_short_reference_does_not_hide_a_wrong_temperature(runs):
    run = with_temperature(runs[0], 281.7, 3.3)
    short = with_temperature(runs[2], 288.0, 12.0)
    found = Report(run, short)
    assert {check.outcome for check in of_temperature(found.checks, "target")} == {"differs"}
    assert found.outcome == found.summary["outcome"] == "differs"
    assert found.verdict.startswith("The run differs from the target in temperature (all atoms, H, O).")
    assert "281.7 ± 3.3 K, -18 ± 3.3 K from the target (300 K)" in found.verdict
    assert Report(run).outcome == "differs"  # without a reference, too
    assert Report(with_temperature(run, 299.0, 1.9)).outcome == "agrees"


@pytest.mark.parametrize(
    ("difference", "detectable", "outcome"),
    [(7, 6, "differs"), (-7, 6, "differs"), (-3, 4, "agrees"), (3, 6, "cannot tell"), (np.nan, 1, "cannot tell"),
     (0, np.nan, "cannot tell")],
)  # fmt: skip
def test_a_check_that_could_not_have_seen_a_difference_says_so(difference, detectable, outcome):
    assert checks.Check("temperature", "H", "target", difference, detectable, 5.0, "K", "").outcome == outcome


def test_a_short_reference_is_shown_and_does_not_decide(runs):
    """All comparisons are rows; where the target can tell, what the reference cannot tell does not count."""
    run, short = with_temperature(runs[0], 299.0, 1.9), with_temperature(runs[2], 301.0, 2.0)
    found = Report(run, short)
    assert [check.outcome for check in of_temperature(found.checks, "target")] == ["agrees"] * 3
    assert [check.outcome for check in of_temperature(found.checks, "reference")] == ["cannot tell"] * 3
    decisive = checks.decisive(found.checks)
    assert len(of_temperature(decisive, "target")) == 3 and not of_temperature(decisive, "reference")
    assert found._repr_html_().count("<td>Temperature of H</td>") == 3  # key numbers, target, reference
    cannot_tell = found.text(200).split("Cannot tell:")[1].split("Agrees:")[0]
    assert "temperature of H is 299 ± 1.9 K, -2 ± 2.8 K from the reference" in cannot_tell
    assert "temperature" not in found.verdict.split("remains open")[1].split(".")[0]
    lost = with_temperature(run, 299.0, 9.0)  # neither can tell
    assert len(of_temperature(checks.decisive(Report(lost, short).checks), "reference")) == 3


def test_the_text_for_terminals_has_lists_in_lines_of_a_width(runs):
    shown = Report(runs[1], runs[2]).text(70)
    assert shown.startswith("The run differs from the target in temperature")
    lines = shown.splitlines()
    assert all(len(line) <= 70 or line.lstrip().startswith("ffmd ") for line in lines)
    assert next(line for line in lines if line.endswith(":")) == "Differs:"
    assert "What to do:" in lines and "Notes:" in lines


def test_runs_of_the_required_length_can_tell(runs):
    nve = {"ensemble": "nve"}
    run, reference = (with_temperature(runs[i], 300.0, error, 2.0, **nve) for i, error in ((0, 3.0), (2, 8.0)))
    short = of_temperature(checks.checks(run, reference), "reference")
    assert {check.outcome for check in short} == {"cannot tell"}
    run_ps, reference_ps = checks.required_ps(short)
    assert reference_ps == pytest.approx(run_ps * (8 / 3) ** 2)
    long = [
        with_temperature(analysis, 300.0, error * np.sqrt(2.0 / length), length, **nve)
        for analysis, error, length in ((run, 3.0, 1.0001 * run_ps), (reference, 8.0, 1.0001 * reference_ps))
    ]
    enough = of_temperature(checks.checks(*long), "reference")
    assert {check.outcome for check in enough} == {"agrees"} and checks.required_ps(enough) == (None, None)
    assert [check.detectable for check in enough] == pytest.approx([checks.THERMAL_SHARE * 300] * 3, rel=1e-3)
    assert f"the reference would need about {reference_ps:.2g}"[:-2] in Report(run, reference).verdict
    assert "make a reference of about" in " ".join(Report(run, reference).advice)


def test_the_noise_between_runs_follows_from_their_halves():
    rng, system = np.random.default_rng(6), make_system([8] * 12, [16.0] * 12, True)
    found = [
        distributions.radial_distributions(
            trajectory_of(system, 7.0 * rng.random((length, 12, 3)), cell=7.0 * np.eye(3))
        )
        for length in (80, 80, 80, 240, 240, 240)
    ]
    ratios = [
        distributions.rdf_rmse(a["O-O"], b["O-O"]) / (np.hypot(half, other) / 2)
        for (a, half), (b, other) in itertools.combinations(found, 2)
    ]
    assert np.mean(ratios) == pytest.approx(1, abs=0.1) and max(ratios) < np.sqrt(2)


def test_only_a_constant_target_is_a_reference(runs):
    for metadata in ({"ensemble": "nve"}, {"temperature_end_K": 400.0}, {"temperature_K": None}, {"ensemble": None}):
        assert checks.checks(with_temperature(runs[0], 250.0, 1.0, **metadata)) == []
    assert checks.checks(with_temperature(runs[0], 250.0, 1.0, temperature_end_K=300.0))


def test_a_reference_that_misses_its_target_enlarges_the_errors(runs):
    run = with_temperature(runs[0], 310.0, 2.0)
    good, bad = with_temperature(runs[2], 301.0, 2.0), with_temperature(runs[2], 292.0, 2.0)
    for reference, scale in ((good, 1.0), (bad, 4.0)):
        assert checks.error_scale(reference) == pytest.approx(scale)
        detectable = [check.detectable for check in of_temperature(checks.checks(run, reference), "target")]
        assert detectable == pytest.approx([3 * 2.0 * scale] * 3)
    assert "misses its target by 4.0 standard errors" in Report(run, bad).verdict
    assert "misses" not in Report(run, good).verdict


def test_equal_runs_do_not_differ_and_unequal_ones_do(runs):
    same, other, reference = runs
    assert "differs" not in {check.outcome for check in checks.checks(same, reference)}
    found = {check.quantity for check in checks.checks(other, reference) if check.outcome == "differs"}
    assert {"temperature", "potential energy"} <= found
    headline = Report(other, reference).verdict.split(".")[0]
    assert "temperature" in headline and "potential energy" in headline


def test_unlike_ensembles_are_compared_in_structure_and_vibrations_only(runs):
    same, _, reference = runs
    bath = same._replace(metadata={"ensemble": "nvt", "temperature_K": 350.0})
    found = Report(bath, reference._replace(metadata={"ensemble": "nve"}))
    assert "The run is NVT at 350 K, the reference NVE" in found.verdict
    of_reference = [check for check in found.checks if check.against == "reference"]
    assert {check.quantity for check in of_reference if check.comparable} == {"structure", "vibrations"}
    left_out = {check.quantity: check for check in of_reference if not check.comparable}
    assert left_out.keys() == {"temperature", "potential energy"}
    assert {check.outcome for check in left_out.values()} == {"not compared"}
    assert "because the run is NVT at 350 K, the reference NVE" in left_out["temperature"].statement
    assert "Not compared:" in found.text() and "not compared: the run is NVT" in text_of(found._repr_html_())
    assert found.advice[0].startswith("Reference: compare with a reference in the same ensemble")
    assert "The run is" not in Report(bath, reference._replace(metadata=bath.metadata)).verdict


def test_different_heat_baths_are_named_before_the_model_is_blamed(runs):
    """Friction broadens spectra; the advice is a command that makes a reference in the bath of the run."""
    bath = {"ensemble": "nvt", "temperature_K": 300.0, "thermostat": "csvr", "tau_fs": 70.0, "friction_tau_fs": 1000.0}
    made = {"command": "ffmd reference ase --calculator a:B --start 'my start.xyz' --ensemble nvt --tau-fs 100",
            "file": "old/nvt.h5"}  # fmt: skip
    run = runs[0]._replace(metadata=bath)
    run = run._replace(vdos=run.vdos._replace(density=run.vdos.density[::-1]))  # another spectrum
    other = runs[2]._replace(metadata={**bath, "tau_fs": 100.0, "friction_tau_fs": None, **made})
    found = Report(run, other)
    assert "with CSVR (τ = 70 fs) and friction (1/γ = 1000 fs), the reference NVT at 300 K with CSVR (τ = 100 fs)" in (
        found.verdict
    )
    assert "broadens the spectral lines of the run by 5.3 cm⁻¹, and slows diffusion" in found.verdict
    fast = Report(run._replace(metadata={**bath, "friction_above_per_cm": 1500.0}), other).verdict
    assert "and friction (1/γ = 1000 fs) above 1500 cm⁻¹, the reference" in fast and "slows" not in fast
    assert "by 5.3 cm⁻¹ (half of that at 1500 cm⁻¹, less below)." in fast
    both = {"thermostat": "langevin", "friction_tau_fs": 200.0, "friction_above_per_cm": 900.0}
    both = Report(run._replace(metadata=bath | both), other).verdict
    assert "of the run by 76 cm⁻¹ and of the run by 27 cm⁻¹ (half of that at 900 cm⁻¹" in both and "slows" in both
    command = (
        "`ffmd reference ase --calculator a:B --start 'my start.xyz' --length-ps 3 --ensemble nvt --tau-fs 70"
        " --friction-tau-fs 1000 --temperature 300 --out old/nvt_same_bath.h5`"
    )
    assert found.advice[0].startswith("Reference:") and found.advice[0].endswith(command)
    assert "Vibrations: if they still differ in the same heat bath, train longer" in found.advice[1]
    assert "different heat baths" in " ".join(check.statement for check in found.checks)
    same = Report(run, other._replace(metadata=bath))
    assert "heat bath" not in same.verdict and same.advice[0].startswith("Vibrations: train longer")
    unknown = Report(run, other._replace(metadata={"ensemble": "nvt", "temperature_K": 300.0}))
    assert "heat bath" not in unknown.verdict


def test_advice_on_length_has_commands_that_run_as_printed(runs):
    run = with_temperature(runs[0], 300.0, 6.0, time_step_fs=1.0, command="ffmd rollout m --start s.xyz --out r.h5")
    made = {"command": "ffmd reference water --seed 3", "file": "ref_0.h5"}
    found = Report(run, with_temperature(runs[2], 300.0, 6.0, **made))
    advice = next(item for item in found.advice if item.startswith("Length:"))
    assert re.search(r"`ffmd rollout m --start s.xyz --out r.h5 --steps \d+ --resume`", advice)
    assert re.search(r"`ffmd reference water --seed 3 --length-ps \d+ --out ref_0_longer.h5`", advice)
    shown = [line.strip() for line in found.text(60).splitlines()]
    assert any(re.fullmatch(r"ffmd rollout m --start s.xyz --out r.h5 --steps \d+ --resume", line) for line in shown)
    demo = Report(with_temperature(run, 300.0, 6.0, command="ffmd demo --system water --seed 1"), runs[2])
    assert re.search(r"`ffmd demo --system water --seed 1 --length-ps \d+ --out ffmd_demo_longer`", demo.advice[-1])


def test_spectra_that_sparse_frames_have_folded_are_not_compared(runs):
    dense, _, reference = runs
    sparse = properties.analyze(
        trajectory.part(make_trajectory(1), slice(None, None, 15))
    )  # resolves 1,112 of 3,000 /cm
    found = Report(sparse, reference)
    json.dumps(found.summary, allow_nan=False)
    assert "cannot be compared" in found.verdict and "vibrational spectra overlap" not in found.verdict
    assert "`every`" in " ".join(found.advice) and "at most 1 fs" in " ".join(found.advice)
    assert "vibrational spectra overlap" in Report(dense, reference).verdict
    assert "`every`" not in " ".join(Report(dense, reference).advice)


@pytest.mark.slow
def test_runs_of_different_length_have_spectra_of_one_resolution():
    found = report.make(make_trajectory(1, n_frames=400), make_trajectory(2, n_frames=700))
    assert found.reference is not None
    np.testing.assert_array_equal(found.analysis.vdos.wavenumber_per_cm, found.reference.vdos.wavenumber_per_cm)
    sparse = trajectory.part(make_trajectory(2, n_frames=700), slice(None, None, 40))
    assert report.make(make_trajectory(1, n_frames=60), sparse).outcome  # windows of 30 fs hold no frame of the other


def test_advice_names_the_element_and_the_options_that_are_left(runs):
    _, other, reference = runs
    advice = " ".join(Report(other, reference).advice)
    assert (
        re.search(r"H is \d+ K too warm", advice) and "Add friction with a relaxation time `friction_tau_fs`" in advice
    )
    assert "`reversible`" in advice and "Potential energy:" in advice and "`friction_above_per_cm`" in advice
    facts = other.metadata | {"reversible": True, "friction_tau_fs": 900.0, "time_step_fs": 5.0}
    advice = " ".join(Report(other._replace(metadata=facts), reference).advice)
    assert "now 900 fs, usually 500 to 2500 fs" in advice and "`reversible`" not in advice
    facts["friction_above_per_cm"] = 1000.0
    assert "`friction_above_per_cm`" not in " ".join(Report(other._replace(metadata=facts), reference).advice)
    good = with_temperature(runs[0], 300.0, 1.0)
    assert [item.split(":")[0] for item in Report(good).advice] == ["Reference"]


def test_the_report_repeats_the_alarms_of_the_monitors(runs):
    alarm = {"text": "it is hot", "time_fs": 30.0, "count": 4}
    alone = runs[0]._replace(metadata={"alarms": [alarm], "fallback_frames": 8})
    found = Report(alone)
    assert "it is hot (first at 30 fs, 4 times)" in found.verdict and "took over for 8 frames" in found.verdict
    assert found.advice[0].startswith("Alarms:")
    silent = Report(alone._replace(metadata={"alarms": []}), runs[2])
    assert "no alarm" in silent.verdict and "Alarms:" not in " ".join(silent.advice)
    assert "alarm" not in Report(runs[0], runs[2]).verdict


@pytest.mark.slow
def test_a_saved_report_is_one_page_with_figures_and_summary(runs, growth, tmp_path):
    before = dict(matplotlib.rcParams)
    same, _, reference = runs
    settings = {"friction_tau_fs": 900.0, "ns_per_day": 12.5, "reference_ns_per_day": 3.25, "free_runs": 16}
    made = Report(same, reference, "Water <test>", settings, growth)
    made.save(tmp_path / "new" / "report")
    written = {path.name: path for path in (tmp_path / "new" / "report").iterdir()}
    pictures = {"vdos.png", "temperature.png", "rdf.png", "potential_energy.png", "msd.png", "error_growth.png"}
    assert set(written) == pictures | {"report.html", "summary.json"}
    assert all(written[name].read_bytes().startswith(b"\x89PNG") for name in pictures)
    page = written["report.html"].read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,iVBOR") == 6 and page.count("data:image/gif;base64,R0lGOD") == 1
    bare = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|<script|<link|@import|url\(", bare)
    assert "Water &lt;test&gt;" in page and "nan" not in bare
    words = text_of(page)
    assert "Relaxation time of the friction, 1/γ" in words and "12.5" in words and "3.25" in words
    assert not re.search(r"[a-z]_[a-zA-Z]", words)  # a key of the summary
    summary = json.loads(written["summary.json"].read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    assert summary.keys() >= comparison.compare(same, reference).keys() | settings.keys() | {"error_growth", "verdict"}
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_a_report_without_a_reference(runs, tmp_path):
    alone = Report(runs[0]._replace(potential_energy_eV=np.full(3000, np.nan)), title="Alone")
    page = alone.save(tmp_path).read_text(encoding="utf-8")
    assert page.count("data:image/png") == 4 and page.count("data:image/gif") == 1 and "No reference" in page


def test_a_notebook_shows_verdict_tables_and_figures(runs):
    found = Report(runs[0], runs[2], "Water <test>")
    shown = found._repr_html_()
    assert shown.count("<table>") == 3 and shown.count("<img") == 5 and "Water &lt;test&gt;" in shown
    assert found.verdict.split(".")[0] in shown
    assert "Water <test>" in repr(found) and found.outcome in repr(found)


@pytest.mark.slow
def test_a_failed_report_leaves_the_old_one(runs, tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")
    replace = os.replace

    def full(source, target):
        if target.name == "report.html":
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        Report(runs[0]).save(tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"


@pytest.mark.slow
def test_the_page_names_the_system_and_what_is_folded_back(runs, molecule):
    words = " ".join(text_of(Report(runs[0], runs[2])._repr_html_()).split())
    assert "System H24O12 H24O12" in words
    assert "Frames every 1 fs: what vibrates above 16,678 cm⁻¹ is folded back below it." in words
    named = molecule._replace(metadata={"system": "ase"})
    assert "System ase: H2O2" in " ".join(text_of(Report(named)._repr_html_()).split())


@pytest.mark.slow
def test_diffusion_is_shown_where_it_is_resolved(runs, molecule):
    """Atoms on sites do not diffuse, and a molecule only turns about its centre of mass."""
    words = " ".join(text_of(Report(runs[0])._repr_html_()).split())
    assert "Diffusion coefficient of H not resolved" in words
    for run in (runs[0], molecule):
        numbers = Report(run).summary
        assert (
            set(numbers["diffusion_cm2_per_s"].values()) == set(numbers["diffusion_error_cm2_per_s"].values()) == {None}
        )
    assert "Diffusion coefficient" not in text_of(Report(molecule)._repr_html_())


def test_the_torsion_of_a_molecule_is_judged(molecule):
    """One torsion has no surface, but a profile."""
    same = Report(molecule, molecule_run(7))
    (check,) = (check for check in same.checks if check.quantity == "torsions")
    assert check.of == "H0-O1-O2-H3" and check.outcome == "agrees"
    assert same.summary["torsion_overlap"] == {"H0-O1-O2-H3": pytest.approx(1 - check.difference)}
    (check,) = (c for c in checks.checks(molecule, molecule_run(8, center=1.5)) if c.quantity == "torsions")
    assert check.outcome == "differs"


@pytest.mark.slow
def test_the_movie_is_small_and_shows_forty_frames(runs):
    gif = movie.render(runs[0], runs[2])
    assert gif is not None and len(gif) <= movie.LARGEST_BYTES
    image = Image.open(io.BytesIO(gif))
    assert image.n_frames == 40 and image.info["loop"] == 0
    alone = Image.open(io.BytesIO(movie.render(runs[0]) or b""))
    assert alone.width == image.width // 2


def test_large_systems_have_no_movie_but_a_reason():
    system = make_system([18] * 2001, [40.0] * 2001, True)
    large = trajectory_of(system, np.zeros((8, 2001, 3)), cell=40.0 * np.eye(3))
    assert len(frames.snapshots(large).times_fs) == 0
    small = trajectory.part(make_trajectory(1, n_frames=8), slice(None))
    analysis = properties.analyze(small)._replace(system=system, snapshots=frames.snapshots(large))
    assert movie.render(analysis) is None and "2001 atoms" in movie.reason(analysis)


def test_atoms_of_a_crystal_stay_in_their_cell_and_do_not_jump(runs):
    run = runs[0]
    atoms, edges = movie.arrange(run)
    assert edges.shape == (40, 12, 2, 3)
    assert np.linalg.norm(np.diff(atoms, axis=0), axis=-1).max() < 1.0
    middle = np.linalg.norm(atoms.mean(axis=0), axis=-1)
    assert middle.max() <= 7 * np.sqrt(3) / 2  # half the diagonal of the cell, whose middle is the origin
    shifts = 7.0 * np.random.default_rng(0).integers(-3, 4, (36, 3))
    moved = run._replace(snapshots=run.snapshots._replace(positions=run.snapshots.positions + shifts))
    np.testing.assert_allclose(movie.arrange(moved)[0], atoms, atol=1e-9)


def test_a_molecule_is_followed_and_lies_in_the_plane_of_the_picture():
    flight = np.arange(16)[:, None, None] * np.array([3.0, -2.0, 5.0])
    plane = np.array([[0, 0, 0], [0, 2.0, 0], [0, 0, 5.0], [0, 1.0, 4.0]])  # the y-z plane, longest along z
    system = make_system([6, 1, 1, 8], [12.0, 1.0, 1.0, 16.0])
    run = properties.analyze(trajectory_of(system, plane + flight, np.ones((16, 4, 3))))
    atoms, edges = movie.arrange(run)
    assert edges.shape[1] == 0 and len(atoms) == 1
    run = run._replace(snapshots=frames.Snapshots(np.arange(16.0), plane + flight, np.zeros((16, 3, 3))))
    atoms, _ = movie.arrange(run)
    np.testing.assert_allclose(atoms, np.broadcast_to(atoms[0], atoms.shape), atol=1e-9)
    assert np.ptp(atoms[..., 2]) < 1e-9 and np.ptp(atoms[..., 0]) > np.ptp(atoms[..., 1])


def test_figures_have_one_width_and_rows_of_one_height(runs, growth):
    drawn = figures.make(runs[0], runs[2], growth)
    sizes = np.array([figure.get_size_inches() for figure in drawn.values()])
    assert np.all(sizes[:, 0] == sizes[0, 0])
    rows = sizes[:, 1] / sizes[:, 1].min()
    np.testing.assert_allclose(rows, rows.round())


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
    figure = figures.rdf(properties.analyze(trajectory_of(system, positions, velocities, 2.0)))
    assert figure.axes[0].get_ylabel() == "density / Å⁻¹"
    assert 1.4 < figure.axes[0].get_xlim()[1] < 2.5  # the largest distance is 1.5 Å
