"""Force fields against numbers of independent engines, and the prepared systems."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import State, make_cell, make_system, take
from ffmd_jax.reference_md import energies, production, silicon, systems

DATA = Path(__file__).parent / "data"


def at_rest(positions, cell=None):
    return State(np.asarray(positions, np.float64), np.zeros(np.shape(positions)), make_cell(cell, False))


def test_bks_agrees_with_lammps():
    # LAMMPS evaluates erfc approximately: 3e-5 eV/Å is its own error.
    given = np.load(DATA / "quartz_bks.npz")
    numbers = given["atomic_numbers"]
    system = make_system(numbers, np.where(numbers == 14, 28.085, 15.999), given["pbc"])
    state = at_rest(given["positions"], make_cell(given["cell"], given["pbc"]))
    quartz = systems.get("quartz", structure=(system, state))
    value, forces = production.energy_and_forces(quartz, quartz.state)
    assert np.abs(given["forces_eV_per_A"]).max() > 1
    np.testing.assert_allclose(forces, given["forces_eV_per_A"], atol=1e-4)
    np.testing.assert_allclose(value, given["energy_eV"], atol=1e-2)


def rattled(prepared, width=0.05):
    positions = np.asarray(prepared.state.positions)
    return at_rest(positions + np.random.default_rng(0).normal(scale=width, size=positions.shape), prepared.state.cell)


@functools.cache
def unit_cell(name):
    """One cell, smaller than the cutoff in every direction."""
    return systems.get(name, repeat=(1, 1, 1))


@pytest.mark.parametrize("name", ["quartz", "silicon", "argon"])
def test_forces_are_minus_the_gradient_in_cells_below_the_cutoff(name):
    prepared = unit_cell(name)
    assert prepared.cutoff > 0.5 * neighbors.heights(prepared.state.cell).min()
    state = rattled(prepared)
    search = neighbors.plan(prepared.system, state, prepared.cutoff, skin=0.1)
    along = np.random.default_rng(1).normal(size=state.positions.shape)

    @jax.jit
    def at(step):
        moved = state._replace(positions=state.positions + step * along)
        graph = neighbors.build(search, prepared.system, moved).graph
        value, forces = energies.forces(prepared.energy)(prepared.system, moved, graph)
        return value, jnp.sum(forces * along), jnp.sum(forces, axis=0)

    step = 1e-5
    numerical = -(at(step)[0] - at(-step)[0]) / (2 * step)
    np.testing.assert_allclose(at(0.0)[1], numerical, rtol=1e-5)
    np.testing.assert_allclose(at(0.0)[2], 0, atol=1e-11)


@pytest.mark.parametrize("name", ["quartz", "silicon", "argon"])
def test_energy_of_a_supercell_is_a_multiple(name):
    small, large = unit_cell(name), systems.get(name, repeat=(2, 1, 1))
    state = rattled(small)
    twice = np.concatenate([state.positions, state.positions + state.cell[0]])
    one, forces = production.energy_and_forces(small, state)
    two, large_forces = production.energy_and_forces(large, at_rest(twice, large.state.cell))
    np.testing.assert_allclose(two, 2 * one, rtol=1e-12)
    np.testing.assert_allclose(large_forces, np.tile(forces, (2, 1)), atol=1e-11)


@pytest.mark.slow
def test_stillinger_weber_agrees_with_jax_md():
    from jax_md import energy, space

    prepared = systems.get("silicon", repeat=(2, 2, 2))
    state = rattled(prepared, 0.15)
    theirs = energy.stillinger_weber(space.periodic(jnp.asarray(state.cell[0, 0]))[0])
    expected, gradient = jax.jit(jax.value_and_grad(theirs))(jnp.asarray(state.positions))
    value, forces = production.energy_and_forces(prepared, state)
    assert np.abs(gradient).max() > 1
    # jax-md adds 1e-7 Å to the lengths in cos θ.
    np.testing.assert_allclose(value, expected, rtol=1e-7)
    np.testing.assert_allclose(forces, -gradient, atol=1e-6)


@pytest.mark.slow
def test_lennard_jones_agrees_with_jax_md():
    from jax_md import energy, space

    # A cluster inside of all cutoffs: jax-md smooths where this package shifts.
    system = make_system([18] * 32, [39.948] * 32)
    positions = rattled(systems.get("argon", repeat=(2, 2, 2)), 0.15).positions
    argon = systems.argon((1, 1, 1))
    cluster = argon._replace(system=system, energy=energies.lennard_jones(0.010323, 3.405, 3e3), cutoff=3e3)
    # With Python numbers, jax-md's factor float32(4) rounds ε to float32.
    sigma, epsilon = jnp.asarray(3.405, jnp.float64), jnp.asarray(0.010323, jnp.float64)
    theirs = energy.lennard_jones_pair(space.free()[0], None, sigma, epsilon, jnp.asarray(1e3), jnp.asarray(2e3))
    expected, gradient = jax.jit(jax.value_and_grad(theirs))(jnp.asarray(positions))
    value, forces = production.energy_and_forces(cluster, at_rest(positions))
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(forces, -gradient, atol=1e-12)


def test_silicon_has_its_cohesive_energy():
    # Stillinger & Weber 1985: the diamond structure is the minimum, at −2ε an atom, here 2.351 Å nearest neighbours.
    prepared = systems.get("silicon")
    value, forces = production.energy_and_forces(prepared, prepared.state)
    np.testing.assert_allclose(value / len(prepared.state.positions), -2 * silicon.EPSILON, rtol=1e-4)
    np.testing.assert_allclose(forces, 0, atol=1e-9)


def test_quartz_has_the_bond_length_and_size_of_the_paper():
    quartz = systems.quartz()
    positions, cell = quartz.state.positions, quartz.state.cell
    assert len(positions) == 162
    silicon, oxygen = (positions[quartz.system.species == z] for z in (14, 8))
    difference = oxygen[None] - silicon[:, None]
    fractional = difference @ np.linalg.inv(cell)
    nearest = np.sort(np.linalg.norm((fractional - np.round(fractional)) @ cell, axis=-1), axis=1)[:, :4]
    assert 1.60 < nearest.min() <= nearest.max() < 1.615


def test_lennard_jones_minimum():
    energy = energies.lennard_jones(0.01, 3.4, 10.0)
    system = make_system([18, 18], [40.0, 40.0])
    shift = 4 * 0.01 * ((3.4 / 10) ** 12 - (3.4 / 10) ** 6)
    reference = systems.argon((1, 1, 1))._replace(system=system, energy=energy, cutoff=10.0)
    value, forces = production.energy_and_forces(reference, at_rest([[0, 0, 0], [3.4 * 2 ** (1 / 6), 0, 0]]))
    np.testing.assert_allclose(value, -0.01 - shift, rtol=1e-12)
    np.testing.assert_allclose(forces, 0.0, atol=1e-12)


def test_energies_of_frames_reuse_their_neighbours():
    quartz = systems.quartz((2, 2, 2))
    rng = np.random.default_rng(1)
    positions = quartz.state.positions + np.cumsum(rng.normal(scale=0.08, size=(6, 72, 3)), axis=0)
    frames = State(positions, np.zeros_like(positions), np.broadcast_to(quartz.state.cell, (6, 3, 3)))
    found = production.potential_energies(quartz, frames)
    expected = [production.energy_and_forces(quartz, take(frames, i))[0] for i in range(6)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_wrong_names_sizes_and_structures_are_refused():
    quartz = unit_cell("quartz")
    structure = quartz.system, quartz.state
    cases: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("unknown system 'steam'", "steam", {}),
        ("repeat must be at least 1", "argon", {"repeat": (0, 1, 1)}),
        ("quartz has no option 'molecules': its size is set by 'repeat'", "quartz", {"molecules": 3}),
        ("water has no option 'repeat': its size is set by 'molecules'", "water", {"repeat": (1, 1, 1)}),
        ("paracetamol has no option 'repeat': it has one size", "paracetamol", {"repeat": (1, 1, 1)}),
        ("at least 8 molecules", "water", {"molecules": 0}),
        ("no repeat or molecules", "quartz", {"structure": structure, "repeat": (1, 1, 1)}),
        ("no parameters for O", "silicon", {"structure": structure}),
    )
    for message, name, options in cases:
        with pytest.raises(ValueError, match=message):
            systems.get(name, **options)


def test_pair_energy_counts_each_pair_once():
    system = make_system([18, 18, 18], [40.0] * 3)
    positions = np.array([[0.0, 0, 0], [3.0, 0, 0], [0, 4.0, 0]])
    squares = energies.pairwise(lambda squared, zi, zj: squared, 4.5)
    reference = systems.get("argon")._replace(system=system, energy=squares, cutoff=4.5)
    value, forces = production.energy_and_forces(reference, at_rest(positions))
    assert float(value) == pytest.approx(9.0 + 16.0)
    np.testing.assert_allclose(forces, -2 * np.array([[-3, -4, 0], [3, 0, 0], [0, 4, 0]]), atol=1e-12)
