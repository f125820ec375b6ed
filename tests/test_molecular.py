"""Water and paracetamol: forces of independent engines, topology of wrapped structures, and the terms by themselves."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ffmd_jax.core import mechanics, neighbors, units
from ffmd_jax.core.state import Graph, State, make_cell, make_system, take
from ffmd_jax.dynamics import rollout
from ffmd_jax.reference_md import coulomb, energies, images, molecular, opls, production, systems, water

DATA = Path(__file__).parent / "data"
KCAL = units.KCAL_PER_MOL_IN_EV


def at_rest(positions, cell):
    return State(np.asarray(positions, np.float64), np.zeros(np.shape(positions)), cell)


def golden(name):
    """(System, State), energy and forces in eV and eV/Å of a file of LAMMPS results."""
    given = np.load(DATA / f"{name}.npz")
    parameters = opls.load("paracetamol")
    masses = dict(zip(parameters.species, parameters.masses, strict=True))
    system = make_system(given["atomic_numbers"], [masses[z] for z in given["atomic_numbers"]], given["pbc"])
    return (
        (system, at_rest(given["positions"], make_cell(given.get("cell"), given["pbc"]))),
        given["energy_kcal_per_mol"] * KCAL,
        given["forces_kcal_per_mol_per_A"] * KCAL,
    )


def evaluate(name, structure):
    """Energy and forces with the force field of that name, and the reference."""
    reference = systems.get(name, structure=structure)
    value, forces = production.energy_and_forces(reference, reference.state)
    return float(value), np.asarray(forces)


def shuffled(structure, seed=0):
    """The structure with its atoms in another order, wrapped into the cell after a shift, and the order."""
    system, state = structure
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(state.positions))
    fractional = (state.positions + rng.uniform(-50, 50, 3)) @ np.linalg.inv(state.cell)
    wrapped = (fractional % 1.0) @ state.cell
    other = dataclasses.replace(system, species=system.species[order], masses=system.masses[order])
    return (other, state._replace(positions=wrapped[order])), order


def liquid(n_molecules, seed=0):
    """A disordered box of water."""
    system, state = water.lattice(n_molecules, seed)
    away = np.random.default_rng(seed).normal(scale=0.05, size=state.positions.shape)
    return system, state._replace(positions=state.positions + away)


def test_paracetamol_agrees_with_lammps():
    structure, energy, forces = golden("paracetamol_opls")
    found_energy, found = evaluate("paracetamol", structure)
    assert np.abs(forces).max() > 1
    np.testing.assert_allclose(found, forces, rtol=0, atol=1e-8 * KCAL)
    np.testing.assert_allclose(found_energy, energy, rtol=0, atol=1e-8 * KCAL)


def test_water_agrees_with_lammps():
    structure, energy, forces = golden("water_spcfw")
    found_energy, found = evaluate("water", structure)
    assert np.abs(forces).max() > 1
    np.testing.assert_allclose(found, forces, rtol=0, atol=2e-3 * KCAL)
    np.testing.assert_allclose(found_energy, energy, rtol=0, atol=0.02 * KCAL)


def test_paracetamol_in_a_box_is_the_isolated_molecule():
    structure, energy, forces = golden("paracetamol_opls")
    cell = np.array([[9.0, 0, 0], [2.0, 9.5, 0], [-1.0, 3.0, 10.0]])
    boxed = dataclasses.replace(structure[0], pbc=(True, True, True))
    wrapped = ((structure[1].positions @ np.linalg.inv(cell)) % 1.0) @ cell
    assert np.linalg.norm(wrapped[0] - wrapped, axis=1).max() > 9  # torn
    found_energy, found = evaluate("paracetamol", (boxed, at_rest(wrapped, cell)))
    np.testing.assert_allclose(found, forces, atol=1e-8 * KCAL)
    np.testing.assert_allclose(found_energy, energy, atol=1e-8 * KCAL)


@functools.cache
def small_box(name):
    """Eight molecules: a box of 6.2 Å, smaller than the cutoff of 9 Å; or paracetamol."""
    return systems.get(name, structure=golden("paracetamol_opls")[0] if name == "paracetamol" else liquid(8))


@pytest.mark.parametrize(("name", "tolerance"), [("water", 2e-6), ("water-dsf", 1e-12)])
def test_supercells_are_multiples_also_wrapped_and_in_another_order(name, tolerance):
    # Ewald's sum is cut where its terms are 2e-6 of the first.
    small = small_box(name)
    energy, forces = production.energy_and_forces(small, small.state)
    np.testing.assert_allclose(np.sum(forces, axis=0), 0, atol=1e-11)
    double = make_system(np.tile(small.system.species, 2), np.tile(small.system.masses, 2), True)
    positions = np.concatenate([small.state.positions, small.state.positions + small.state.cell[0]])
    twice = at_rest(positions, small.state.cell * [[2], [1], [1]])
    structure, order = shuffled((double, twice))
    assert not np.array_equal(water.find_molecules(*structure), water.find_molecules(double, twice))
    large_energy, large_forces = evaluate(name, structure)
    scale = abs(energy) + len(small.state.positions)
    np.testing.assert_allclose(large_energy, 2 * energy, rtol=0, atol=tolerance * scale)
    np.testing.assert_allclose(large_forces, np.tile(forces, (2, 1))[order], rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize(("name", "tolerance"), [("water", 1e-3), ("water-dsf", 1e-5), ("paracetamol", 1e-5)])
def test_forces_of_molecules_are_minus_the_gradient(name, tolerance):
    # Ewald's pair energies end with a small jump at the cutoff, which differences of energies see and forces do not.
    reference = small_box(name)
    along = np.random.default_rng(3).normal(size=reference.state.positions.shape)
    search = neighbors.plan(reference.system, reference.state, reference.cutoff, headroom=2.0)

    @jax.jit
    def at(step):
        moved = reference.state._replace(positions=reference.state.positions + step * along)
        graph = neighbors.build(search, reference.system, moved).graph
        value, forces = energies.forces(reference.energy)(reference.system, moved, graph)
        return value, jnp.sum(forces * along)

    step = 1e-4
    numerical = -(at(step)[0] - at(-step)[0]) / (2 * step)
    np.testing.assert_allclose(at(0.0)[1], numerical, rtol=tolerance)


def test_small_and_large_boxes_of_water_have_the_same_force_field(monkeypatch):
    # Large ones read the neighbour table, small ones go through all pairs.
    few = systems.get("water-dsf", structure=liquid(8))
    monkeypatch.setattr(water, "_MOST_FOR_ALL_PAIRS", 0)
    many = systems.get("water-dsf", structure=liquid(8))
    assert many.cutoff > few.cutoff
    one, other = (production.energy_and_forces(r, r.state) for r in (few, many))
    np.testing.assert_allclose(one[0], other[0], rtol=0, atol=1e-11)
    np.testing.assert_allclose(one[1], other[1], rtol=0, atol=1e-11)


def ewald(charges, system, positions, cell, alpha, cutoff=10.0):
    """Energy and gradient by Ewald's sum."""
    pairs = images.all_pairs(coulomb.screened(alpha, cutoff), charges, cutoff, cell)
    waves = coulomb.ewald_reciprocal(charges, cell, alpha, wave_cutoff=2 * alpha * 5)
    graph = Graph(np.zeros((1, 1), int), np.zeros((1, 1, 3), int), np.zeros((1, 1), bool))  # ignored

    def energy(x):
        return pairs(x, jnp.asarray(cell)) + waves(system, State(x, x, jnp.asarray(cell)), graph)

    return jax.jit(jax.value_and_grad(energy))(jnp.asarray(positions))


def test_ewald_of_rock_salt_is_the_madelung_constant():
    # Energy per ion pair −1.747564594633 k/d at distance d; in the two-ion cell, which is rhombohedral.
    cell = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * 2.8
    salt = make_system([11, 17], [23.0, 35.5], True)
    found, _ = ewald([1.0, -1.0], salt, [[0.0, 0, 0], [2.8, 0, 0]], cell, 0.45)
    np.testing.assert_allclose(found, -1.747564594633 * units.COULOMB / 2.8, rtol=1e-8)


def test_ewald_in_a_tilted_cell_does_not_depend_on_the_screening():
    cell = np.array([[6.0, 0, 0], [1.5, 5.0, 0], [-1.0, 2.0, 7.0]])
    rng = np.random.default_rng(0)
    charges, positions = np.array([0.9, -0.4, 0.7, -1.2]), rng.uniform(-9, 9, (4, 3))
    system = make_system([18] * 4, [40.0] * 4, True)
    (one, gradient), (other, other_gradient) = (ewald(charges, system, positions, cell, alpha) for alpha in (0.44, 0.5))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    np.testing.assert_allclose(gradient, other_gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("n_atoms", "tilt"), [(5, 0.0), (6, 2.0)])
def test_sum_over_images_is_that_of_explicit_copies(n_atoms, tilt):
    rng = np.random.default_rng(n_atoms)
    cell = np.array([[5.0, 0, 0], [tilt, 6.0, 0], [-tilt, tilt / 2, 7.0]])
    positions, charges, cutoff = rng.uniform(-9, 9, (n_atoms, 3)), rng.normal(size=n_atoms), 8.0
    copies = np.array(list(np.ndindex(13, 13, 13))) - 6
    vectors = positions[None, :, None] - positions[:, None, None] + copies @ cell
    distances = np.linalg.norm(vectors, axis=-1)
    inside = (distances > 1e-9) & (distances < cutoff)
    assert inside[:, :, 0].sum() < inside.sum() / 2
    products = (charges[:, None] * charges)[..., None]
    expected = 0.5 * np.sum(np.where(inside, products / np.where(inside, distances, 1) ** 2, 0))
    # u = 1/r²: the force on i is Σ −2 (r_j − r_i) q_i q_j / r⁴.
    weights = np.where(inside, -2 * products / np.where(inside, distances, 1) ** 4, 0)
    force = np.einsum("ijs,ijsx->ix", weights, vectors)
    energy = images.all_pairs(lambda squared: 1 / squared, charges, cutoff, cell)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: energy(x, jnp.asarray(cell))))(jnp.asarray(positions))
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, -force, atol=1e-11)


def test_error_function_by_polynomial():
    from scipy.special import erf

    r = np.linspace(0.05, 9.0, 500)
    smooth = coulomb.erf_over_r(0.4, 9.0)
    np.testing.assert_allclose(smooth(jnp.asarray(r**2)), erf(0.4 * r) / r, rtol=0, atol=1e-12)
    slope = jax.jit(jax.vmap(jax.grad(lambda r: smooth(r * r))))(jnp.asarray(r))
    exact = 0.8 / np.sqrt(np.pi) * np.exp(-((0.4 * r) ** 2)) / r - erf(0.4 * r) / r**2
    np.testing.assert_allclose(slope, exact, rtol=0, atol=1e-10)


def test_torsions_are_the_fourier_series_of_the_angle():
    v = np.array([1.3, -0.7, 0.4, 0.9])
    for angle in (0.3, 1.7, np.pi):
        ends = jnp.asarray([[0, 1.0, 0.2], [1.5, 0, 0], [0.3, np.cos(angle), np.sin(angle)]])
        found = molecular.torsions(-ends[0:1], ends[1:2], ends[2:3], jnp.asarray(molecular.fourier(*v[:, None])))
        # i sits at +y from j and l at the torsion angle from it, seen along the axis.
        phi = np.arctan2(np.sin(angle), np.cos(angle)) - np.arctan2(0.2, 1.0)
        cosines = np.cos(np.arange(1, 5) * phi)
        np.testing.assert_allclose(found, 0.5 * np.sum(v * (1 + np.array([1, -1, 1, -1]) * cosines)), rtol=1e-12)


def test_separations_follow_the_bonds():
    ring = np.array([(i, (i + 1) % 6) for i in range(6)] + [(0, 6)])
    apart = molecular.separations(ring, 8)
    assert apart[0].tolist() == [0, 1, 2, 3, 2, 1, 1, 4]
    assert apart[6, 3] == 4


@pytest.mark.parametrize("change", ["other", "ratio", "torn", "shared"])
def test_structures_that_are_not_water_are_refused(change):
    system, state = liquid(8)
    species, positions = system.species.copy(), state.positions.copy()
    if change == "other":
        species[0] = 16
    elif change == "ratio":
        species[1] = 8
    elif change == "torn":
        positions[1] = positions[0] + 2.5
    else:  # the hydrogen of one molecule between two oxygens
        positions[3] = positions[1] + [0.9, 0, 0]
        positions[4] += 40.1
    with pytest.raises(ValueError, match="H2O"):
        systems.get("water", structure=(dataclasses.replace(system, species=species), at_rest(positions, state.cell)))


def test_other_molecules_and_open_boxes_are_refused():
    (system, state), _, _ = golden("paracetamol_opls")
    with pytest.raises(ValueError, match="order"):
        systems.get("paracetamol", structure=(dataclasses.replace(system, species=system.species[::-1]), state))
    system, state = liquid(8)
    for pbc in ((False, False, False), (True, True, False)):
        with pytest.raises(ValueError, match="periodic"):
            systems.get("water-dsf", structure=(dataclasses.replace(system, pbc=pbc), state))


def check_conservation(reference, start, n_steps):
    """NVE from ``start``: total energy and momentum stay, while energy flows between potential and kinetic."""
    block = rollout.gather(production.run(reference, start, n_steps=n_steps, every=20, key=jax.random.key(2)))
    energy = block.observables["total_energy_eV"]
    # Fluctuations of second order in dt; a force wrong by 1 % would heat or cool by many times this.
    kinetic = float(mechanics.kinetic_energy(reference.system, start.velocities))
    assert np.std(block.observables["potential_energy_eV"]) > 10 * np.std(energy)
    assert np.std(energy) < 5e-3 * kinetic
    assert abs(energy[-20:].mean() - energy[:20].mean()) < 5e-3 * kinetic
    momentum = np.einsum("i,tix->tx", reference.system.masses, block.frames.velocities)
    assert np.abs(momentum).max() < 1e-10


def test_paracetamol_conserves_energy():
    reference = systems.get("paracetamol")
    start = mechanics.maxwell_boltzmann(jax.random.key(1), reference.system, reference.state, 300.0)
    check_conservation(reference, start, 4000)


@pytest.mark.slow
def test_prepared_water_equilibrates_and_conserves_energy():
    reference = systems.get("water-dsf", molecules=20)
    density = reference.system.masses.sum() / np.linalg.det(reference.state.cell) / 0.602214076  # g/cm³
    assert abs(density - 1) < 1e-3
    block = rollout.gather(production.equilibrate(reference, 300.0, jax.random.key(0), length_ps=1.0))
    late = jax.vmap(lambda state: mechanics.temperature(reference.system, state))(take(block.frames, slice(50, None)))
    # The last 0.5 ps hold about 5 independent values, of 177 degrees of freedom each: σ = 300 √(2/177/5) K.
    assert abs(float(late.mean()) - 300) < 5 * 300 * np.sqrt(2 / 177 / 5)
    molecules = block.frames.positions[-1].reshape(20, 3, 3)
    assert np.linalg.norm(molecules[:, 1:] - molecules[:, :1], axis=-1).max() < 1.3
    check_conservation(reference, block.carry.state, 1000)
