"""Torsions on molecules with known answers."""

import dataclasses

import numpy as np
import pytest
from conftest import make_trajectory

from ffmd_jax.analysis import torsions
from ffmd_jax.core import units
from ffmd_jax.core.state import make_system


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

    # At the linear atoms of acetonitrile, propyne and allene, an angle would be noise.
    linear = ("CH3CN", "C3H4_C3v", "C3H4_D2d")
    for name, expected in (("C6H6", 0), ("C2H6", 1), ("CH3CH2OH", 2), ("H2O", 0), ("trans-butane", 3),
                           *((name, 0) for name in linear)):  # fmt: skip
        atoms = molecule(name)
        system = make_system(atoms.numbers, atoms.get_masses())
        assert len(torsions.dihedrals(system, atoms.positions)) == expected
    butane = molecule("trans-butane")
    system = make_system(butane.numbers, butane.get_masses())
    carbon = [d[0] for d in torsions.dihedrals(system, butane.positions) if all(butane.numbers[list(d[0])] == 6)]
    assert abs(torsions.angles(butane.positions[None], carbon[0])[0]) == pytest.approx(np.pi, abs=1e-3)
    assert torsions.dihedrals(dataclasses.replace(system, pbc=(True,) * 3), butane.positions) == []
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


def test_surfaces_are_of_torsions_that_do_not_end_in_hydrogen():
    from ase.build import molecule

    atoms = molecule("trans-butane")
    system = make_system(atoms.numbers, atoms.get_masses())
    trajectory = make_trajectory(system, np.array([atoms.positions] * 4))
    assert len(torsions.profiles(trajectory, 300.0)) == 3
    assert torsions.surfaces(trajectory, 300.0) == {}  # methyl groups aside, one torsion is left
