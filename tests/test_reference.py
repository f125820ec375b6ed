"""Force fields against numbers of independent engines, and the prepared systems."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ffmd_jax.reference import energies, production, systems
from ffmd_jax.state import State, make_system

DATA = Path(__file__).parent / "data"


def test_bks_agrees_with_lammps():
    # LAMMPS evaluates erfc approximately: 3e-5 eV/Å is its own error.
    given = np.load(DATA / "quartz_bks.npz")
    numbers = given["atomic_numbers"]
    system = make_system(numbers, np.where(numbers == 14, 28.085, 15.999), given["cell"], given["pbc"])
    value, forces = production.energy_and_forces(systems.quartz(), system, given["positions"])
    assert np.abs(given["forces_eV_per_A"]).max() > 1
    np.testing.assert_allclose(forces, given["forces_eV_per_A"], atol=1e-4)
    np.testing.assert_allclose(value, given["energy_eV"], atol=1e-2)


@pytest.mark.parametrize("prepared", [systems.quartz((1, 1, 1)), systems.argon((1, 1, 1))], ids=lambda p: p.name)
def test_forces_are_minus_the_gradient_in_cells_below_the_cutoff(prepared):
    rng = np.random.default_rng(0)
    positions = prepared.positions + rng.normal(scale=0.05, size=prepared.positions.shape)
    _, forces = production.energy_and_forces(prepared, prepared.system, positions)
    step = 1e-4
    for atom, axis in ((0, 0), (3, 2)):
        ends = []
        for sign in (1, -1):
            moved = positions.copy()
            moved[atom, axis] += sign * step
            ends.append(float(production.energy_and_forces(prepared, prepared.system, moved)[0]))
        np.testing.assert_allclose(forces[atom, axis], -(ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-6)


def test_energy_of_a_supercell_is_a_multiple():
    small, large = systems.quartz((1, 1, 1)), systems.quartz((2, 1, 2))
    one = production.energy_and_forces(small, small.system, small.positions)[0]
    four = production.energy_and_forces(large, large.system, large.positions)[0]
    np.testing.assert_allclose(four, 4 * one, rtol=1e-12)


def test_quartz_has_the_bond_length_and_size_of_the_paper():
    quartz = systems.quartz()
    assert len(quartz.positions) == 162
    silicon, oxygen = (quartz.positions[quartz.system.species == z] for z in (14, 8))
    difference = oxygen[None] - silicon[:, None]
    fractional = difference @ np.linalg.inv(quartz.system.cell)
    nearest = np.sort(np.linalg.norm((fractional - np.round(fractional)) @ quartz.system.cell, axis=-1), axis=1)[:, :4]
    assert 1.60 < nearest.min() <= nearest.max() < 1.615


def test_lennard_jones_minimum():
    energy = energies.lennard_jones(0.01, 3.4, 10.0)
    system = make_system([18, 18], [40.0, 40.0])
    shift = 4 * 0.01 * ((3.4 / 10) ** 12 - (3.4 / 10) ** 6)
    reference = systems.argon((1, 1, 1))._replace(energy=energy, cutoff=10.0)
    value, forces = production.energy_and_forces(reference, system, np.array([[0, 0, 0], [3.4 * 2 ** (1 / 6), 0, 0]]))
    np.testing.assert_allclose(value, -0.01 - shift, rtol=1e-12)
    np.testing.assert_allclose(forces, 0.0, atol=1e-12)


def test_energies_of_frames_reuse_their_neighbours():
    quartz = systems.quartz((2, 2, 2))
    rng = np.random.default_rng(1)
    frames = quartz.positions + np.cumsum(rng.normal(scale=0.08, size=(6, 72, 3)), axis=0)
    found = production.potential_energies(quartz, quartz.system, frames)
    expected = [production.energy_and_forces(quartz, quartz.system, frame)[0] for frame in frames]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_unknown_system_is_refused():
    with pytest.raises(ValueError, match="unknown system 'steam'"):
        systems.get("steam")
    with pytest.raises(ValueError, match="repeat"):
        systems.get("argon", (0, 1, 1))


def test_pair_energy_counts_each_pair_once():
    system = make_system([18, 18, 18], [40.0] * 3)
    positions = jnp.asarray([[0.0, 0, 0], [3.0, 0, 0], [0, 4.0, 0]])
    harmonic = energies.pairwise(lambda r, zi, zj: r**2, 4.5)
    from ffmd_jax import neighbors

    graph = neighbors.build(neighbors.plan(system, positions, 4.5), system, positions).graph
    assert float(harmonic(system, State(positions, positions), graph)) == pytest.approx(9.0 + 16.0)
