"""AMBER ff99SB-ILDN with OBC solvent for peptides, by OpenMM, as an ASE calculator; lengths Å, energies eV."""

import importlib
from typing import Any, ClassVar

import ase
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.data import covalent_radii

from ffmd_jax.core import units

_FILES = ("amber99sbildn.xml", "amber99_obc.xml")
NM, KJ_PER_MOL = 10.0, units.KCAL_PER_MOL_IN_EV / 4.184  # Å; eV
_STRETCH = 1.25  # of the sum of covalent radii, for a bond


def topology(atoms: ase.Atoms) -> tuple[Any, np.ndarray]:
    """OpenMM's topology of peptides, and for each of its atoms the index of that in ``atoms``.

    Bonds are those of the distances; residues are what is left where bonds from a carbonyl's carbon to a nitrogen that
    has another carbon are cut.  OpenMM knows residues by their bonds, so they need no names.
    """
    app = importlib.import_module("openmm.app")
    numbers, limits = atoms.numbers, _STRETCH * covalent_radii[atoms.numbers]
    distances = atoms.get_all_distances()
    bonded = (distances < limits + limits[:, None]) & ~np.eye(len(atoms), dtype=bool)
    kept = bonded.copy()
    for c, n in np.argwhere(bonded & (numbers[:, None] == 6) & (numbers == 7)):
        oxygens = bonded[c] & (numbers == 8) & (bonded.sum(axis=1) == 1)
        if oxygens.any() and np.sum(bonded[n] & (numbers == 6)) > 1:
            kept[c, n] = kept[n, c] = False
    residue = np.arange(len(atoms))
    for _ in atoms:  # each atom takes the lowest number among its neighbours, until all of a residue have one
        residue = np.where(kept, residue, len(atoms)).min(axis=1, initial=len(atoms)).clip(max=residue)
    made, order = app.Topology(), np.argsort(residue, kind="stable")
    chain, residues, added = made.addChain(), {}, {}
    for i in order:
        if residue[i] not in residues:
            residues[residue[i]] = made.addResidue("", chain)
        element = app.Element.getByAtomicNumber(int(numbers[i]))
        added[i] = made.addAtom(f"{element.symbol}{i}", element, residues[residue[i]])
    for i, j in np.argwhere(np.triu(bonded)):
        made.addBond(added[i], added[j])
    return made, order


def system(atoms: ase.Atoms) -> tuple[Any, np.ndarray]:
    """OpenMM's system, flexible and without cutoff, with the masses of ``atoms``, and the order of `topology`.

    Raises:
        ValueError: a residue that the force field does not have.
    """
    app = importlib.import_module("openmm.app")
    found, order = topology(atoms)
    made = app.ForceField(*_FILES).createSystem(
        found, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False, removeCMMotion=False
    )
    for i, mass in enumerate(atoms.get_masses()[order]):
        made.setParticleMass(i, mass)
    return made, order


class Amber(Calculator):
    """Energies and forces; the bonds are those of the first atoms that it is asked about."""

    implemented_properties: ClassVar = ["energy", "forces"]

    def __init__(self):
        super().__init__()
        self._context: Any = None
        self._order = np.zeros(0, int)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        given: Any = self.atoms
        if any(given.pbc):
            raise ValueError("the implicit water of OBC has no cell, and the structure is periodic: set pbc to none")
        if self._context is None or "numbers" in system_changes:
            openmm = importlib.import_module("openmm")
            made, self._order = system(given)
            # For molecules of tens of atoms several times as fast as the platform CPU.
            platform = openmm.Platform.getPlatformByName("Reference")
            self._context = openmm.Context(made, openmm.VerletIntegrator(0.001), platform)
        self._context.setPositions(given.positions[self._order] / NM)
        state = self._context.getState(energy=True, forces=True)
        forces = np.empty((len(self._order), 3))
        forces[self._order] = state.getForces(asNumpy=True)._value * KJ_PER_MOL / NM
        self.results = {"energy": state.getPotentialEnergy()._value * KJ_PER_MOL, "forces": forces}
