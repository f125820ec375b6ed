"""g(r) and vibrational spectra on cases with known answers."""

import numpy as np
import pytest
from conftest import make_trajectory, oscillators

from ffmd_jax.analysis import distributions, spectra
from ffmd_jax.core.state import make_system

HEXAGONAL = np.array([[7.0, 0.0, 0.0], [-3.5, 3.5 * np.sqrt(3), 0.0], [0.0, 0.0, 8.0]])


@pytest.mark.parametrize("pair", [(8, 14), (8, 8)])
def test_rdf_of_an_ideal_gas_is_one_beyond_half_a_hexagonal_cell(pair):
    rng, n_frames = np.random.default_rng(2), 300
    system = make_system([8] * 12 + [14] * 9, [16.0] * 12 + [28.0] * 9, True)
    # Unwrapped atoms may be several cells away.
    positions = (rng.random((n_frames, 21, 3)) + rng.integers(-3, 4, (n_frames, 21, 3))) @ HEXAGONAL
    r_max = 6.9 if pair == (8, 8) else 12.0  # below the shortest lattice vector no atom meets its own image
    run = make_trajectory(system, positions, cell=HEXAGONAL)
    curve = distributions.radial_distribution(run, pair, r_max, bin_A=r_max / 24)
    exact = 1 - 1 / 12 if pair == (8, 8) else 1.0
    edges = np.linspace(0, r_max, 25)
    n_pairs = 12 * 11 / 2 if pair == (8, 8) else 12 * 9
    shells = 4 / 3 * np.pi * np.diff(edges**3) / abs(np.linalg.det(HEXAGONAL))
    error = 1 / np.sqrt(n_frames * n_pairs * shells)
    assert np.all(abs(curve.g - exact)[4:] < 5 * error[4:])
    assert curve.r_A == pytest.approx(0.5 * (edges[1:] + edges[:-1]))


@pytest.mark.parametrize("r_max_A", [2.0, 5.0, 9.0])
def test_rdf_of_a_crystal_integrates_to_its_coordination_numbers(r_max_A):
    lattice = 4.0
    basis = lattice * np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    system = make_system([18] * 4, [40.0] * 4, True)
    run = make_trajectory(system, basis[None], cell=lattice * np.eye(3))
    curve = distributions.radial_distribution(run, (18, 18), r_max_A, r_max_A / 400)
    edges = np.linspace(0, r_max_A, 401)
    neighbours = np.cumsum(4 / 3 * np.pi * np.diff(edges**3) * 4 / lattice**3 * curve.g)
    for radius, number in (
        (1.9, 0),
        (3.4, 12),
        (4.5, 18),
        (5.2, 42),
        (8.9, 12 + 6 + 24 + 12 + 24 + 8 + 48 + 6 + 36),
    ):
        if radius < r_max_A:
            assert np.interp(radius, edges[1:], neighbours) == pytest.approx(number, abs=1e-6)


def test_rdf_of_a_molecule_is_the_density_of_its_pair_distances():
    system = make_system([8, 1, 1], [16.0, 1.0, 1.0])
    molecule = np.array([[0, 0, 0], [0.96, 0, 0], [0, 0.96, 0.0]])
    curve = distributions.radial_distribution(make_trajectory(system, np.array([molecule] * 3)), (8, 1), 5.0)
    assert np.sum(curve.g) * 0.04 == pytest.approx(1)
    assert curve.r_A[np.argmax(curve.g)] == pytest.approx(0.96, abs=0.025)
    with pytest.raises(ValueError, match="no pair"):
        distributions.radial_distribution(make_trajectory(system, molecule[None]), (8, 8))


def test_rdfs_of_cells_of_different_size_lie_on_one_grid():
    curves = []
    for length in (13.33, 17.77):
        atoms = make_system([18] * 2, [40.0] * 2, True)
        trajectory = make_trajectory(atoms, np.array([[[0, 0, 0], [3.7, 0, 0]]]), cell=length * np.eye(3))
        curves.append(distributions.radial_distribution(trajectory, (18, 18)))
    small, large = curves
    assert len(large.r_A) > len(small.r_A) and np.array_equal(small.r_A, large.r_A[: len(small.r_A)])


def test_rdf_rmse_of_a_shift_is_the_shift():
    r = np.linspace(0.1, 5, 50)
    a = distributions.RadialDistribution(r, np.ones(50))
    assert distributions.rdf_rmse(a, a) == 0
    assert distributions.rdf_rmse(a, distributions.RadialDistribution(r, np.full(50, 1.5))) == pytest.approx(0.5)
    longer = distributions.RadialDistribution(np.linspace(0.1, 9, 300), np.full(300, 1.5))
    assert distributions.rdf_rmse(a, longer) == pytest.approx(0.5) == distributions.rdf_rmse(longer, a)


@pytest.mark.parametrize("n_frames", [2001, 10000])
def test_vdos_of_oscillators_peaks_at_their_wave_numbers_and_counts_them(n_frames):
    trajectory = oscillators([800.0, 3000.0, 3000.0], n_frames)
    total, oxygen, hydrogen = (spectra.vdos(trajectory, z) for z in (None, 8, 1))
    resolution = total.wavenumber_per_cm[1]
    assert oxygen.wavenumber_per_cm[np.argmax(oxygen.density)] == pytest.approx(800, abs=resolution)
    assert hydrogen.wavenumber_per_cm[np.argmax(hydrogen.density)] == pytest.approx(3000, abs=resolution)
    assert np.trapezoid(total.density, total.wavenumber_per_cm) == pytest.approx(6, rel=1e-2)  # 3 atoms, periodic
    assert np.trapezoid(oxygen.density, oxygen.wavenumber_per_cm) == pytest.approx(2, rel=1e-2)
    assert total.density == pytest.approx(oxygen.density + hydrogen.density)


def test_vdos_integral_is_exact_for_white_noise_and_uniform_motion():
    rng = np.random.default_rng(4)
    system = make_system([1, 1], [1.0, 1.0], True)
    for velocities, error in (
        (rng.normal(size=(40000, 2, 3)), 5 * np.sqrt(2 / 240000) * 3),
        (np.ones((4000, 2, 3)), 1e-6),
    ):
        spectrum = spectra.vdos(make_trajectory(system, velocities, velocities, cell=10.0 * np.eye(3)))
        assert np.trapezoid(spectrum.density, spectrum.wavenumber_per_cm) == pytest.approx(3, abs=error)


def test_vdos_of_runs_of_different_length_lie_on_one_grid():
    a, b = (spectra.vdos(oscillators([500.0, 900.0], n), segment_ps=2.0) for n in (4000, 9001))
    assert np.array_equal(a.wavenumber_per_cm, b.wavenumber_per_cm)
    assert spectra.vdos_overlap(a, b) > 0.99


def test_vdos_overlap_of_identical_is_one_and_of_disjoint_zero():
    same, other = (spectra.vdos(oscillators([w, w], 5000)) for w in (700.0, 2500.0))
    half = spectra.vdos(oscillators([700.0, 2500.0], 5000))
    assert spectra.vdos_overlap(same, same) == pytest.approx(1)
    assert spectra.vdos_overlap(same, same._replace(density=7 * same.density)) == pytest.approx(1)
    assert spectra.vdos_overlap(same, other) < 1e-6
    assert spectra.vdos_overlap(same, half) == pytest.approx(0.5, abs=0.02)
    coarse = spectra.vdos(oscillators([700.0, 700.0], 2500, interval=2.0))
    assert spectra.vdos_overlap(same, coarse) > 0.98
    # Frames every 12 fs resolve 1,390 /cm and fold what is beyond: nothing to compare.
    folded = spectra.vdos(oscillators([2500.0, 2500.0], 1000, interval=12.0))
    assert np.isnan(spectra.vdos_overlap(other, folded)) and np.isnan(spectra.vdos_overlap(folded, other))


@pytest.mark.slow
def test_errors_of_rdf_cover_the_scatter_between_runs_of_an_ideal_gas():
    rng, system = np.random.default_rng(5), make_system([8] * 20, [16.0] * 20, True)
    deviations = []
    for _ in range(6):
        positions = rng.uniform(size=(400, 20, 3)) @ HEXAGONAL
        curve, _ = distributions._of_parts(make_trajectory(system, positions, cell=HEXAGONAL), (8, 8))
        far = curve.r_A > 2.0  # bins with many pairs; 1 − 1/N, but at lattice vectors
        inside = far & (curve.r_A < 6.0)
        deviations.append((curve.g[inside] - 0.95) / curve.error[inside])
    # Of Student's t with three degrees of freedom, half lies within 0.765.
    assert 0.4 < np.mean(np.abs(np.concatenate(deviations)) < 0.765) < 0.6
