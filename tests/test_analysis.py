"""Laws of the analysis on cases with known answers."""

import jax
import numpy as np
import pytest
from conftest import make_trajectory, oscillators

from ffmd_jax.analysis import comparison, diffusion, drifts, properties, statistics, temperatures
from ffmd_jax.analysis.error_growth import error_growth
from ffmd_jax.core import mechanics, units
from ffmd_jax.core.state import State, make_system


def test_block_error_of_an_autoregressive_series():
    rng, memory, n = np.random.default_rng(0), 0.9, 2**14
    noise = rng.normal(size=(40, n)) * np.sqrt(1 - memory**2)
    series = np.zeros((40, n))
    for i in range(1, n):
        series[:, i] = memory * series[:, i - 1] + noise[:, i]
    errors = [statistics.block_error(values + 3)[1] for values in series]
    exact = np.sqrt((1 + memory) / (1 - memory) / n)
    # Blocks at the plateau are finite in length: the estimate lacks a few per cent, and scatters by ten.
    assert np.mean(errors) == pytest.approx(exact, rel=0.1)
    assert np.std(errors) < 0.2 * exact
    assert statistics.block_error(series[0] + 3)[0] == pytest.approx(3, abs=5 * exact)


def test_block_error_of_white_noise_and_of_degenerate_series():
    values = np.random.default_rng(1).normal(size=4096)
    assert statistics.block_error(values)[1] == pytest.approx(1 / 64, rel=0.2)
    assert statistics.block_error(np.full(100, 2.0)) == (2.0, 0.0)
    assert np.isnan(statistics.block_error(np.array([1.0]))[1])


def maxwell_boltzmann_run(periodic, n_frames=400, temperature_K=300.0):
    rng = np.random.default_rng(5)
    numbers, masses = [6, 6, 8, 1, 1, 1], [12.0, 12.0, 16.0, 1.0, 1.0, 1.0]
    system = make_system(numbers, masses, periodic)
    positions = np.array([[0, 0, 0], [1.5, 0, 0], [2, 1.3, 0], [-1, 0, 1], [0, -1, 0], [2, 2, 1.0]])
    positions = positions + 0.1 * rng.normal(size=(n_frames, 6, 3))
    keys = jax.random.split(jax.random.key(0), n_frames)
    draw = jax.jit(jax.vmap(mechanics.maxwell_boltzmann, in_axes=(0, None, 0, None)))
    run = make_trajectory(system, positions, cell=8.0 * np.eye(3))
    return run._replace(frames=jax.tree.map(np.asarray, draw(keys, system, run.frames, temperature_K)))


@pytest.mark.parametrize("periodic", [True, False])
def test_temperatures_of_maxwell_boltzmann_samples(periodic):
    found = temperatures.temperatures(maxwell_boltzmann_run(periodic, n_frames=4000))
    assert found.degrees_of_freedom == (15 if periodic else 12)
    exact = 300 * np.sqrt(2 / found.degrees_of_freedom / 4000)
    assert found.error == pytest.approx(exact, rel=0.3)
    assert found.mean == pytest.approx(300, abs=5 * exact)
    assert set(found.by_species) == {"H", "C", "O"}
    for symbol, mean in found.mean_by_species.items():
        assert mean == pytest.approx(300, abs=5 * found.error_by_species[symbol])
        assert found.error_by_species[symbol] < 10
    grid = np.linspace(0, 3000, 30001)
    density = temperatures.canonical_distribution(300, found.degrees_of_freedom, grid)
    variance = np.trapezoid(density * (grid - 300) ** 2, grid)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-4)
    assert np.var(found.total) == pytest.approx(variance, rel=5 * np.sqrt(4 / 4000))


def test_a_single_atom_has_no_temperature():
    system = make_system([18], [40.0], True)
    with pytest.raises(ValueError, match="no temperature"):
        properties.analyze(make_trajectory(system, np.zeros((8, 1, 3))))


def test_momentum_drift_is_zero_unless_planted():
    run = maxwell_boltzmann_run(True, n_frames=16)
    assert drifts.momentum_drift(run) < 1e-6
    velocities = np.array(run.frames.velocities)
    velocities[10, :, 0] += 0.01
    run = run._replace(frames=run.frames._replace(velocities=velocities))
    masses, speeds = run.system.masses, np.linalg.norm(run.frames.velocities, axis=-1)
    planted = 0.01 * masses.sum() / np.mean(speeds @ masses)
    assert drifts.momentum_drift(run) == pytest.approx(planted, rel=1e-5)


def test_energy_drift_is_the_planted_slope():
    run = maxwell_boltzmann_run(True, n_frames=100)
    assert np.isnan(drifts.energy_drift(run))
    energies = 5 + 0.006 * run.times / units.PS  # 6 meV/ps over 6 atoms
    energies[::3] = np.nan
    run.observables["total_energy_eV"] = energies
    assert drifts.energy_drift(run) == pytest.approx(1)


def test_error_growth_on_solvable_numbers():
    rng = np.random.default_rng(6)
    system = make_system([1] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], True)
    reference = State(rng.normal(size=(4, 11, 5, 3)), rng.normal(size=(4, 11, 5, 3)), np.tile(np.eye(3), (4, 11, 1, 1)))
    step = np.arange(11)[:, None, None]
    moved = reference.positions + np.array([0.1, 0, 0]) * step
    scaled = reference._replace(positions=moved, velocities=1.1 * reference.velocities)
    growth = error_growth(scaled, reference, system)
    assert growth.steps.tolist() == [1, 2, 4, 8]
    assert growth.position_error_A == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert growth.position_standard_error_A == pytest.approx(0, abs=1e-12)
    assert growth.velocity_error == pytest.approx(0.1)
    assert growth.kinetic_energy_ratio == pytest.approx(1.1**2)
    assert growth.kinetic_energy_ratio_standard_error == pytest.approx(0, abs=1e-12)


def test_error_growth_standard_errors_match_the_scatter_of_repeats():
    rng = np.random.default_rng(7)
    system = make_system([1, 8], [1.0, 16.0], True)
    noise = 0.01 * rng.normal(size=(200, 25, 2, 2, 3))
    velocities, cells = rng.normal(size=noise.shape), np.tile(np.eye(3), (25, 2, 1, 1))
    repeats = [
        error_growth(State(x, v + 0.3 * y, cells), State(0 * x, v, cells), system)
        for x, v, y in zip(noise, velocities, rng.normal(size=noise.shape), strict=True)
    ]
    for value, error in (
        ("position_error_A", "position_standard_error_A"),
        ("velocity_error", "velocity_standard_error"),
        ("kinetic_energy_ratio", "kinetic_energy_ratio_standard_error"),
    ):
        scatter = np.std([getattr(growth, value) for growth in repeats])
        assert np.mean([getattr(growth, error) for growth in repeats]) == pytest.approx(scatter, rel=0.2)
    assert np.mean([growth.position_error_A for growth in repeats]) == pytest.approx(0.01 * np.sqrt(3), rel=0.02)


def test_compare_finds_no_difference_from_itself_and_a_planted_one():
    run = maxwell_boltzmann_run(False, n_frames=200)
    energies = np.random.default_rng(8).normal(size=200)
    energies[::2] = np.nan
    run = run._replace(observables={"potential_energy_eV": energies})
    itself = properties.analyze(run)
    same = comparison.compare(itself, itself)
    assert same["vdos_overlap"] == pytest.approx(1) and same["rdf_rmse"] == 0
    assert same["potential_energy_shift_meV_per_atom"] == 0
    assert 0 < same["reference_vdos_halves_overlap"] < 1 and same["rdf_halves_rmse"] > 0
    assert {type(x) for x in same["rdf_rmse_by_pair"].values()} == {float}
    assert set(same["rdf_rmse_by_pair"]) == {"H-H", "H-C", "H-O", "C-C", "C-O"}
    hot = run._replace(
        frames=run.frames._replace(velocities=1.1 * run.frames.velocities),
        observables={"potential_energy_eV": energies + 0.6},
    )
    found = comparison.compare(properties.analyze(hot), itself)
    assert found["temperature_K"] == pytest.approx(1.21 * found["reference_temperature_K"])
    assert found["potential_energy_shift_meV_per_atom"] == pytest.approx(100)
    assert found["energy_drift_meV_per_atom_per_ps"] is None
    with pytest.raises(ValueError, match="elements"):
        comparison.compare(properties.analyze(oscillators([500.0, 900.0], 100)), itself)


def test_msd_of_random_walks_gives_the_diffusion_coefficient_and_its_error():
    rng, n_frames, width = np.random.default_rng(10), 800, 0.05
    system = make_system([18] * 20, [40.0] * 20, True)
    # The centre of mass, which also drifts, is taken out: 19 of 20 degrees of freedom diffuse.
    expected = width**2 / 2 / 2.0 * 0.1 * 19 / 20  # Å²/fs in cm²/s
    deviations, errors = [], []
    for _ in range(60):
        walk = np.cumsum(width * rng.normal(size=(n_frames, 20, 3)), axis=0) + 3.0 * np.arange(n_frames)[:, None, None]
        found = diffusion.mean_square_displacement(make_trajectory(system, walk, None, 2.0, 20.0 * np.eye(3)))
        value, error = diffusion.diffusion_coefficient(found)
        exact = 3 * width**2 * np.arange(len(found.lag_fs)) * 19 / 20
        assert diffusion.is_resolved(found)
        deviations.append([value - expected, found.msd_A2[10] - exact[10], found.msd_A2[-1] - exact[-1]])
        errors.append([error, found.error_A2[10], found.error_A2[-1]])
    scatter = np.std(deviations, axis=0, ddof=1)
    assert np.all(abs(np.mean(deviations, axis=0)) < 5 * scatter / np.sqrt(60))
    assert scatter[0] < 0.2 * expected
    # The parts are shorter than the run and not quite independent.
    ratio = np.sqrt(np.mean(np.square(errors), axis=0)) / scatter
    assert np.all((ratio > 0.6) & (ratio < 1.7))


def test_msd_by_fourier_transform_is_the_double_sum_and_ballistic_at_first():
    rng = np.random.default_rng(11)
    system = make_system([18, 8], [40.0, 16.0])
    positions = np.cumsum(rng.normal(size=(64, 2, 3)), axis=0) + 1e3
    found = diffusion.mean_square_displacement(make_trajectory(system, positions), 8)
    relative = positions[:, 1] - np.einsum("i,fia->fa", system.masses, positions) / 56.0
    for lag in range(1, len(found.lag_fs)):
        direct = np.mean(np.sum((relative[lag:] - relative[:-lag]) ** 2, axis=-1))
        assert found.msd_A2[lag] == pytest.approx(direct, rel=1e-9)
    vibrating = diffusion.mean_square_displacement(oscillators([800.0, 2000.0], 4000))
    value, error = diffusion.diffusion_coefficient(vibrating)
    assert abs(value) < 5 * error + 1e-9 and not diffusion.is_resolved(vibrating)
