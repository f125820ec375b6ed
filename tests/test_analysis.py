"""Laws of the analysis on cases with known answers."""

import jax
import numpy as np
import pytest

from ffmd_jax import analysis, diffusion, mechanics, torsions, units
from ffmd_jax.growth import error_growth
from ffmd_jax.state import State, make_system
from ffmd_jax.trajectory import Trajectory

HEXAGONAL = np.array([[7.0, 0.0, 0.0], [-3.5, 3.5 * np.sqrt(3), 0.0], [0.0, 0.0, 8.0]])


def make_trajectory(system, positions, velocities=None, interval=1.0, **observables):
    velocities = np.zeros_like(positions) if velocities is None else velocities
    times = interval * np.arange(len(positions))
    return Trajectory(system, State(positions, velocities), times, observables, {})


def test_block_error_of_an_autoregressive_series():
    rng, memory, n = np.random.default_rng(0), 0.9, 2**14
    noise = rng.normal(size=(40, n)) * np.sqrt(1 - memory**2)
    series = np.zeros((40, n))
    for i in range(1, n):
        series[:, i] = memory * series[:, i - 1] + noise[:, i]
    errors = [analysis.block_error(values + 3)[1] for values in series]
    exact = np.sqrt((1 + memory) / (1 - memory) / n)
    # Blocks at the plateau are finite in length: the estimate lacks a few per cent, and scatters by ten.
    assert np.mean(errors) == pytest.approx(exact, rel=0.1)
    assert np.std(errors) < 0.2 * exact
    assert analysis.block_error(series[0] + 3)[0] == pytest.approx(3, abs=5 * exact)


def test_block_error_of_white_noise_and_of_degenerate_series():
    values = np.random.default_rng(1).normal(size=4096)
    assert analysis.block_error(values)[1] == pytest.approx(1 / 64, rel=0.2)
    assert analysis.block_error(np.full(100, 2.0)) == (2.0, 0.0)
    assert np.isnan(analysis.block_error(np.array([1.0]))[1])


@pytest.mark.parametrize("pair", [(8, 14), (8, 8)])
def test_rdf_of_an_ideal_gas_is_one_beyond_half_a_hexagonal_cell(pair):
    rng, n_frames = np.random.default_rng(2), 300
    system = make_system([8] * 12 + [14] * 9, [16.0] * 12 + [28.0] * 9, HEXAGONAL, True)
    # Unwrapped atoms may be several cells away.
    positions = (rng.random((n_frames, 21, 3)) + rng.integers(-3, 4, (n_frames, 21, 3))) @ HEXAGONAL
    r_max = 6.9 if pair == (8, 8) else 12.0  # below the shortest lattice vector no atom meets its own image
    curve = analysis.radial_distribution(make_trajectory(system, positions), pair, r_max, bin_A=r_max / 24)
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
    system = make_system([18] * 4, [40.0] * 4, [lattice] * 3, True)
    curve = analysis.radial_distribution(make_trajectory(system, basis[None]), (18, 18), r_max_A, r_max_A / 400)
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
    curve = analysis.radial_distribution(make_trajectory(system, np.array([molecule] * 3)), (8, 1), 5.0)
    assert np.sum(curve.g) * 0.04 == pytest.approx(1)
    assert curve.r_A[np.argmax(curve.g)] == pytest.approx(0.96, abs=0.025)
    with pytest.raises(ValueError, match="no pair"):
        analysis.radial_distribution(make_trajectory(system, molecule[None]), (8, 8))


def test_rdfs_of_cells_of_different_size_lie_on_one_grid():
    curves = []
    for length in (13.33, 17.77):
        atoms = make_system([18] * 2, [40.0] * 2, [length] * 3, True)
        trajectory = make_trajectory(atoms, np.array([[[0, 0, 0], [3.7, 0, 0]]]))
        curves.append(analysis.radial_distribution(trajectory, (18, 18)))
    small, large = curves
    assert len(large.r_A) > len(small.r_A) and np.array_equal(small.r_A, large.r_A[: len(small.r_A)])


def test_rdf_rmse_of_a_shift_is_the_shift():
    r = np.linspace(0.1, 5, 50)
    a = analysis.RadialDistribution(r, np.ones(50))
    assert analysis.rdf_rmse(a, a) == 0
    assert analysis.rdf_rmse(a, analysis.RadialDistribution(r, np.full(50, 1.5))) == pytest.approx(0.5)
    longer = analysis.RadialDistribution(np.linspace(0.1, 9, 300), np.full(300, 1.5))
    assert analysis.rdf_rmse(a, longer) == pytest.approx(0.5) == analysis.rdf_rmse(longer, a)


def oscillators(wavenumbers_per_cm, n_frames, interval=1.0, temperature_K=300.0):
    """Independent oscillators, one per atom and direction, of energy k_B T each; the first atom is oxygen."""
    n_atoms = len(wavenumbers_per_cm)
    system = make_system([8] + [1] * (n_atoms - 1), [16.0] + [1.0] * (n_atoms - 1), [10.0] * 3, True)
    omega = 2 * np.pi * np.asarray(wavenumbers_per_cm) / (1000 * units.TERAHERTZ_IN_PER_CM)
    phases = np.random.default_rng(3).uniform(0, 2 * np.pi, (n_atoms, 3))
    angle = omega[:, None] * (interval * np.arange(n_frames))[:, None, None] + phases
    speed = np.sqrt(2 * units.BOLTZMANN * units.EV * temperature_K / system.masses)[:, None]
    return make_trajectory(system, speed * np.sin(angle), speed * np.cos(angle), interval)


@pytest.mark.parametrize("n_frames", [2001, 10000])
def test_vdos_of_oscillators_peaks_at_their_wave_numbers_and_counts_them(n_frames):
    trajectory = oscillators([800.0, 3000.0, 3000.0], n_frames)
    total, oxygen, hydrogen = (analysis.vdos(trajectory, z) for z in (None, 8, 1))
    resolution = total.wavenumber_per_cm[1]
    assert oxygen.wavenumber_per_cm[np.argmax(oxygen.density)] == pytest.approx(800, abs=resolution)
    assert hydrogen.wavenumber_per_cm[np.argmax(hydrogen.density)] == pytest.approx(3000, abs=resolution)
    assert np.trapezoid(total.density, total.wavenumber_per_cm) == pytest.approx(6, rel=1e-2)  # 3 atoms, periodic
    assert np.trapezoid(oxygen.density, oxygen.wavenumber_per_cm) == pytest.approx(2, rel=1e-2)
    assert total.density == pytest.approx(oxygen.density + hydrogen.density)


def test_vdos_integral_is_exact_for_white_noise_and_uniform_motion():
    rng = np.random.default_rng(4)
    system = make_system([1, 1], [1.0, 1.0], [10.0] * 3, True)
    for velocities, error in (
        (rng.normal(size=(40000, 2, 3)), 5 * np.sqrt(2 / 240000) * 3),
        (np.ones((4000, 2, 3)), 1e-6),
    ):
        spectrum = analysis.vdos(make_trajectory(system, velocities, velocities))
        assert np.trapezoid(spectrum.density, spectrum.wavenumber_per_cm) == pytest.approx(3, abs=error)


def test_vdos_of_runs_of_different_length_lie_on_one_grid():
    a, b = (analysis.vdos(oscillators([500.0, 900.0], n), segment_ps=2.0) for n in (4000, 9001))
    assert np.array_equal(a.wavenumber_per_cm, b.wavenumber_per_cm)
    assert analysis.vdos_overlap(a, b) > 0.99


def test_vdos_overlap_of_identical_is_one_and_of_disjoint_zero():
    same, other = (analysis.vdos(oscillators([w, w], 5000)) for w in (700.0, 2500.0))
    half = analysis.vdos(oscillators([700.0, 2500.0], 5000))
    assert analysis.vdos_overlap(same, same) == pytest.approx(1)
    assert analysis.vdos_overlap(same, same._replace(density=7 * same.density)) == pytest.approx(1)
    assert analysis.vdos_overlap(same, other) < 1e-6
    assert analysis.vdos_overlap(same, half) == pytest.approx(0.5, abs=0.02)
    coarse = analysis.vdos(oscillators([700.0, 700.0], 2500, interval=2.0))
    assert analysis.vdos_overlap(same, coarse) > 0.98
    # Frames every 12 fs resolve 1,390 /cm and fold what is beyond: nothing to compare.
    folded = analysis.vdos(oscillators([2500.0, 2500.0], 1000, interval=12.0))
    assert np.isnan(analysis.vdos_overlap(other, folded)) and np.isnan(analysis.vdos_overlap(folded, other))


def maxwell_boltzmann_run(periodic, n_frames=400, temperature_K=300.0):
    rng = np.random.default_rng(5)
    numbers, masses = [6, 6, 8, 1, 1, 1], [12.0, 12.0, 16.0, 1.0, 1.0, 1.0]
    system = make_system(numbers, masses, [8.0] * 3 if periodic else None, periodic)
    positions = np.array([[0, 0, 0], [1.5, 0, 0], [2, 1.3, 0], [-1, 0, 1], [0, -1, 0], [2, 2, 1.0]])
    positions = positions + 0.1 * rng.normal(size=(n_frames, 6, 3))
    keys = jax.random.split(jax.random.key(0), n_frames)
    draw = jax.jit(jax.vmap(mechanics.maxwell_boltzmann, in_axes=(0, None, 0, None)))
    velocities = np.asarray(draw(keys, system, positions, temperature_K).velocities, dtype=np.float64)
    return make_trajectory(system, positions, velocities)


@pytest.mark.parametrize("periodic", [True, False])
def test_temperatures_of_maxwell_boltzmann_samples(periodic):
    found = analysis.temperatures(maxwell_boltzmann_run(periodic, n_frames=4000))
    assert found.degrees_of_freedom == (15 if periodic else 12)
    exact = 300 * np.sqrt(2 / found.degrees_of_freedom / 4000)
    assert found.error == pytest.approx(exact, rel=0.3)
    assert found.mean == pytest.approx(300, abs=5 * exact)
    assert set(found.by_species) == {"H", "C", "O"}
    for symbol, mean in found.mean_by_species.items():
        assert mean == pytest.approx(300, abs=5 * found.error_by_species[symbol])
        assert found.error_by_species[symbol] < 10
    grid = np.linspace(0, 3000, 30001)
    density = analysis.canonical_temperature_distribution(300, found.degrees_of_freedom, grid)
    variance = np.trapezoid(density * (grid - 300) ** 2, grid)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-4)
    assert np.var(found.total) == pytest.approx(variance, rel=5 * np.sqrt(4 / 4000))


def test_momentum_drift_is_zero_unless_planted():
    run = maxwell_boltzmann_run(True, n_frames=16)
    assert analysis.momentum_drift(run) < 1e-6
    velocities = np.array(run.frames.velocities)
    velocities[10, :, 0] += 0.01
    run = run._replace(frames=run.frames._replace(velocities=velocities))
    masses, speeds = run.system.masses, np.linalg.norm(run.frames.velocities, axis=-1)
    planted = 0.01 * masses.sum() / np.mean(speeds @ masses)
    assert analysis.momentum_drift(run) == pytest.approx(planted, rel=1e-5)


def test_energy_drift_is_the_planted_slope():
    run = maxwell_boltzmann_run(True, n_frames=100)
    assert np.isnan(analysis.energy_drift(run))
    energies = 5 + 0.006 * run.times / units.PS  # 6 meV/ps over 6 atoms
    energies[::3] = np.nan
    run.observables["total_energy_eV"] = energies
    assert analysis.energy_drift(run) == pytest.approx(1)


def test_error_growth_on_solvable_numbers():
    rng = np.random.default_rng(6)
    system = make_system([1] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], [5.0] * 3, True)
    reference = State(rng.normal(size=(4, 11, 5, 3)), rng.normal(size=(4, 11, 5, 3)))
    step = np.arange(11)[:, None, None]
    scaled = State(reference.positions + np.array([0.1, 0, 0]) * step, 1.1 * reference.velocities)
    growth = error_growth(scaled, reference, system)
    assert growth.steps.tolist() == [1, 2, 4, 8]
    assert growth.position_error_A == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert growth.position_standard_error_A == pytest.approx(0, abs=1e-12)
    assert growth.velocity_error == pytest.approx(0.1)
    assert growth.kinetic_energy_ratio == pytest.approx(1.1**2)
    assert growth.kinetic_energy_ratio_standard_error == pytest.approx(0, abs=1e-12)


def test_error_growth_standard_errors_match_the_scatter_of_repeats():
    rng = np.random.default_rng(7)
    system = make_system([1, 8], [1.0, 16.0], [5.0] * 3, True)
    noise = 0.01 * rng.normal(size=(200, 25, 2, 2, 3))
    velocities = rng.normal(size=noise.shape)
    repeats = [
        error_growth(State(x, v + 0.3 * y), State(0 * x, v), system)
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
    itself = analysis.analyze(run)
    same = analysis.compare(itself, itself)
    assert same["vdos_overlap"] == pytest.approx(1) and same["rdf_rmse"] == 0
    assert same["potential_energy_shift_meV_per_atom"] == 0
    assert 0 < same["reference_vdos_halves_overlap"] < 1 and same["rdf_halves_rmse"] > 0
    assert {type(x) for x in same["rdf_rmse_by_pair"].values()} == {float}
    assert set(same["rdf_rmse_by_pair"]) == {"H-H", "H-C", "H-O", "C-C", "C-O"}
    hot = run._replace(
        frames=State(run.frames.positions, 1.1 * run.frames.velocities),
        observables={"potential_energy_eV": energies + 0.6},
    )
    found = analysis.compare(analysis.analyze(hot), itself)
    assert found["temperature_K"] == pytest.approx(1.21 * found["reference_temperature_K"])
    assert found["potential_energy_shift_meV_per_atom"] == pytest.approx(100)
    assert found["energy_drift_meV_per_atom_per_ps"] is None
    with pytest.raises(ValueError, match="elements"):
        analysis.compare(analysis.analyze(oscillators([500.0, 900.0], 100)), itself)


def test_msd_of_random_walks_gives_the_diffusion_coefficient_and_its_error():
    rng, n_frames, width = np.random.default_rng(10), 800, 0.05
    system = make_system([18] * 20, [40.0] * 20, [20.0] * 3, True)
    # The centre of mass, which also drifts, is taken out: 19 of 20 degrees of freedom diffuse.
    expected = width**2 / 2 / 2.0 * 0.1 * 19 / 20  # Å²/fs in cm²/s
    deviations, errors = [], []
    for _ in range(60):
        walk = np.cumsum(width * rng.normal(size=(n_frames, 20, 3)), axis=0) + 3.0 * np.arange(n_frames)[:, None, None]
        found = diffusion.mean_square_displacement(make_trajectory(system, walk, None, 2.0))
        value, error = diffusion.diffusion_coefficient(found)
        exact = 3 * width**2 * np.arange(len(found.lag_fs)) * 19 / 20
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
    assert abs(value) < 5 * error + 1e-9


def test_the_free_energy_of_a_torsion_is_the_potential_that_it_was_drawn_from():
    rng, kT, strength = np.random.default_rng(12), units.BOLTZMANN * 300.0, 1.2
    drawn = rng.vonmises(0.7, strength, 40_000)
    # H-O-O-H, the second hydrogen turned by the angle.
    ends = np.stack([np.full_like(drawn, 1.8), 0.95 * np.cos(drawn), 0.95 * np.sin(drawn)], axis=-1)
    fixed = np.array([[-0.35, 0.95, 0], [0, 0, 0], [1.45, 0, 0]])
    positions = np.concatenate([np.broadcast_to(fixed, (len(drawn), 3, 3)), ends[:, None]], axis=1)
    system = make_system([1, 8, 8, 1], [1.0, 16.0, 16.0, 1.0])
    found = torsions.profiles(make_trajectory(system, positions), 300.0)
    assert list(found) == ["H0-O1-O2-H3"]
    angle, energy, error = found["H0-O1-O2-H3"]
    exact = -1000 * kT * strength * np.cos(angle - 0.7)
    shift = np.average(energy - exact, weights=1 / error**2)
    assert np.all(abs(energy - exact - shift) < 6 * error + 0.3)  # five blocks: the error itself is uncertain
    assert np.all(error < 0.2 * 1000 * kT)


def test_torsions_are_those_of_bonds_outside_rings():
    from ase.build import molecule

    for name, expected in (("C6H6", 0), ("C2H6", 1), ("CH3CH2OH", 2), ("H2O", 0), ("trans-butane", 3)):
        atoms = molecule(name)
        system = make_system(atoms.numbers, atoms.get_masses())
        assert len(torsions.dihedrals(system, atoms.positions)) == expected
    butane = molecule("trans-butane")
    system = make_system(butane.numbers, butane.get_masses())
    carbon = [d[0] for d in torsions.dihedrals(system, butane.positions) if all(butane.numbers[list(d[0])] == 6)]
    assert abs(torsions.angles(butane.positions[None], carbon[0])[0]) == pytest.approx(np.pi, abs=1e-3)
    assert torsions.dihedrals(system._replace(pbc=np.ones(3, bool)), butane.positions) == []
    for given in np.linspace(-3, 3, 7):
        butane.set_dihedral(*carbon[0], np.degrees(given))
        expected = (butane.get_dihedral(*carbon[0]) + 180) % 360 - 180
        assert np.degrees(torsions.angles(butane.positions[None], carbon[0])[0]) == pytest.approx(expected)


def test_torsions_do_not_depend_on_the_numbering_of_atoms_that_are_bonded_alike():
    from ase import Atom
    from ase.build import molecule

    # Phenol: turned by π about C–O, the ring is itself again, with other numbers.
    phenol, rng = molecule("C6H6"), np.random.default_rng(3)
    outward = phenol.positions[6] / np.linalg.norm(phenol.positions[6])
    phenol.numbers[6], phenol.positions[6] = 8, phenol.positions[0] + 1.36 * outward
    phenol.append(Atom("H", phenol.positions[6] + 0.96 * (0.35 * outward + [0, 0, 0.94])))
    system = make_system(phenol.numbers, phenol.get_masses())
    ((dihedral, twin),) = torsions.dihedrals(system, phenol.positions)
    assert abs(phenol.get_dihedral(*dihedral) - phenol.get_dihedral(*twin)) == pytest.approx(180, abs=1)

    def shares(centre: float) -> np.ndarray:
        frames = []
        for angle in rng.normal(centre, 15, 500):
            phenol.set_dihedral(*dihedral, angle, indices=[dihedral[0] if dihedral[0] == 12 else dihedral[3]])
            frames.append(phenol.positions.copy())
        (found,) = torsions.profiles(make_trajectory(system, np.array(frames)), 300.0).values()
        share = np.nan_to_num(np.exp(-found.free_energy_meV / (1000 * units.BOLTZMANN * 300)))
        return share / share.sum()

    assert np.sum(np.minimum(shares(0), shares(180))) > 0.85
    assert np.sum(np.minimum(shares(0), shares(90))) < 0.1
    # Ethane has three hydrogens on either side; the two O of acetic acid are not alike.
    for name, ends in (("C2H6", [{3}]), ("CH3COOH", [{1}, {1, 3}])):
        atoms = molecule(name)
        for equivalent in torsions.dihedrals(make_system(atoms.numbers, atoms.get_masses()), atoms.positions):
            assert {len({dihedral[side] for dihedral in equivalent}) for side in (0, 3)} in ends
            assert len(equivalent) == len(set(equivalent))


def test_a_surface_of_two_independent_angles_is_the_sum_of_their_profiles():
    rng = np.random.default_rng(13)
    first, second = rng.vonmises(0, 1.0, 200_000), rng.vonmises(1, 0.5, 200_000)
    angle, energy = torsions.surface(first, second, 300.0, n_bins=12)
    kT = 1000 * units.BOLTZMANN * 300
    exact = -kT * (np.cos(angle)[:, None] + 0.5 * np.cos(angle - 1))
    assert np.std(energy - exact) < 0.1 * kT
    assert torsions.overlap(energy, exact + 7.0, (300.0, 300.0)) > 0.98


def test_surfaces_overlap_by_the_populations_they_share():
    flat, empty = np.zeros((12, 12)), np.zeros((12, 12))
    assert torsions.overlap(flat, flat + 5, (300.0, 280.0)) == pytest.approx(1)
    empty[:, 3:] = np.nan  # three quarters of what the other visits are missing
    assert torsions.overlap(flat, empty, (300.0, 300.0)) == pytest.approx(0.25)
    assert torsions.overlap(empty, np.where(np.isnan(empty), 0.0, np.nan), (300.0, 300.0)) == 0
    # Populations 2 : 1 of two halves, at two temperatures, are the same populations.
    upper = flat + (np.arange(12) < 6)[:, None]
    energies = [1000 * units.BOLTZMANN * kelvin * np.log(2) * upper for kelvin in (300, 200)]
    assert torsions.overlap(*energies, (300.0, 200.0)) == pytest.approx(1)
    assert torsions.overlap(energies[0], flat, (300.0, 300.0)) == pytest.approx(5 / 6)


def test_errors_of_rdf_cover_the_scatter_between_runs_of_an_ideal_gas():
    rng, system = np.random.default_rng(5), make_system([8] * 20, [16.0] * 20, HEXAGONAL, True)
    deviations = []
    for _ in range(6):
        positions = rng.uniform(size=(400, 20, 3)) @ HEXAGONAL
        curve, _ = analysis._rdf_of_blocks(make_trajectory(system, positions), (8, 8))
        far = curve.r_A > 2.0  # bins with many pairs; 1 − 1/N, but at lattice vectors
        inside = far & (curve.r_A < 6.0)
        deviations.append((curve.g[inside] - 0.95) / curve.error[inside])
    # Of Student's t with three degrees of freedom, half lies within 0.765.
    assert 0.4 < np.mean(np.abs(np.concatenate(deviations)) < 0.765) < 0.6


def test_surfaces_are_of_torsions_that_do_not_end_in_hydrogen():
    from ase.build import molecule

    atoms = molecule("trans-butane")
    system = make_system(atoms.numbers, atoms.get_masses(), np.zeros((3, 3)), False)
    trajectory = make_trajectory(system, np.array([atoms.positions] * 4))
    assert len(torsions.profiles(trajectory, 300.0)) == 3
    assert torsions.surfaces(trajectory, 300.0) == {}  # methyl groups aside, one torsion is left
