"""AMBER by OpenMM as a calculator, where OpenMM is installed."""

import numpy as np
import pytest
from ase.build import molecule

from ffmd_jax.models import model_files
from ffmd_jax.reference_md import amber, ase_engine, teachers

pytest.importorskip("openmm")


@pytest.fixture
def dipeptide():
    return ase_engine.read_atoms(model_files.locate("alanine-dipeptide") / "start.xyz")


def test_residues_are_found_by_their_bonds(dipeptide):
    found, order = amber.topology(dipeptide)
    assert [sum(1 for _ in residue.atoms()) for residue in found.residues()] == [6, 10, 6]
    assert found.getNumBonds() == len(dipeptide) - 1
    np.testing.assert_array_equal(order, np.arange(len(dipeptide)))  # residues are in one piece already
    mixed = np.random.default_rng(0).permutation(len(dipeptide))
    other, order = amber.topology(dipeptide[mixed])
    assert sorted(sum(1 for _ in residue.atoms()) for residue in other.residues()) == [6, 6, 10]
    assert [atom.element.atomic_number for atom in other.atoms()] == dipeptide.numbers[mixed][order].tolist()


def test_forces_are_the_slope_of_the_energy_and_small_where_the_model_starts(dipeptide):
    dipeptide.calc = teachers.make("amber-obc")
    assert np.abs(dipeptide.get_forces()).max() < 1e-3
    rng = np.random.default_rng(1)
    dipeptide.positions += 0.05 * rng.normal(size=(len(dipeptide), 3))
    forces, along = dipeptide.get_forces(), rng.normal(size=(len(dipeptide), 3))
    energies = []
    for sign in (1, -1):
        moved = dipeptide.copy()
        moved.positions += sign * 1e-4 * along
        moved.calc = dipeptide.calc
        energies.append(moved.get_potential_energy())
    assert (energies[1] - energies[0]) / 2e-4 == pytest.approx(np.sum(forces * along), rel=1e-5)


def test_what_is_no_peptide_is_refused():
    atoms = molecule("C6H6")
    atoms.calc = amber.Amber()
    with pytest.raises(ValueError, match="No template found"):
        atoms.get_potential_energy()
    atoms.pbc = True
    with pytest.raises(ValueError, match="the structure is periodic"):
        atoms.get_potential_energy()
