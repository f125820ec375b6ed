"""Alanine dipeptide with AMBER ff99SB-ILDN and OBC solvent: the molecule, and its dynamics by OpenMM.

For another peptide, change `SMILES`, `PATTERN`, `PHI` and `PSI`.  Lengths are Å, times fs, energies eV, as in all of
ffmd_jax.
"""

import functools
from typing import Any, NamedTuple

import ase
import numpy as np
import openmm
from rdkit import Chem
from rdkit.Chem import AllChem

from ffmd_jax.core import units
from ffmd_jax.reference_md import amber

SMILES = "CC(=O)N[C@@H](C)C(=O)NC"
PATTERN = "[CH3]C(=O)[NH]C([CH3])C(=O)[NH][CH3]"  # the heavy atoms in order
PHI, PSI = (1, 3, 4, 6), (3, 4, 6, 8)  # numbers in the pattern
NM, KJ_PER_MOL = amber.NM, amber.KJ_PER_MOL  # Å; eV


class Molecule(NamedTuple):
    """What the dynamics need.

    Attributes:
        atoms: elements and places, Å, of one conformer; the atoms of a residue follow each other, as in OpenMM.
        phi, psi: four indices each.
    """

    atoms: ase.Atoms
    phi: tuple[int, ...]
    psi: tuple[int, ...]


@functools.cache
def molecule() -> Molecule:
    """The molecule from its SMILES."""
    found = Chem.AddHs(Chem.MolFromSmiles(SMILES))
    AllChem.EmbedMolecule(found, randomSeed=1)
    heavy = found.GetSubstructMatch(Chem.MolFromSmarts(PATTERN))
    atoms = ase.Atoms([a.GetAtomicNum() for a in found.GetAtoms()], found.GetConformer().GetPositions())
    order = amber.topology(atoms)[1].tolist()
    return Molecule(atoms[order], *(tuple(order.index(heavy[i]) for i in four) for four in (PHI, PSI)))


@functools.cache
def system(held: bool = False) -> openmm.System:
    """Flexible bonds, no cutoff; with ``held``, springs on φ and ψ to the context's parameters phi0 and psi0, rad."""
    of = molecule()
    made = amber.system(of.atoms)[0]
    for name, four in (("phi0", of.phi), ("psi0", of.psi)) if held else ():
        spring = openmm.CustomTorsionForce(f"200*(1-cos(theta-{name}))")  # kJ/mol
        spring.addGlobalParameter(name, 0.0)
        spring.addTorsion(*four, [])
        made.addForce(spring)
    return made


def velocity_verlet(dt_fs: float) -> openmm.CustomIntegrator:
    """Positions and velocities of the same time, which VerletIntegrator does not give."""
    made = openmm.CustomIntegrator(dt_fs / units.PS)
    made.addComputePerDof("v", "v+0.5*dt*f/m")
    made.addComputePerDof("x", "x+dt*v")
    made.addComputePerDof("v", "v+0.5*dt*f/m")
    return made


def langevin(kelvin: float, tau_fs: float, dt_fs: float, seed: int) -> openmm.LangevinMiddleIntegrator:
    made = openmm.LangevinMiddleIntegrator(kelvin, units.PS / tau_fs, dt_fs / units.PS)
    made.setRandomNumberSeed(seed)
    return made


def context(of: openmm.System, integrator: openmm.Integrator, positions: np.ndarray) -> openmm.Context:
    """Ready to run from positions, Å.  The Reference platform is the fastest for 22 atoms, four times CPU."""
    made = openmm.Context(of, integrator, openmm.Platform.getPlatformByName("Reference"))
    made.setPositions(positions / NM)
    return made


def positions(of: openmm.Context) -> np.ndarray:
    """Å, ``[n_atoms, 3]``."""
    return of.getState(positions=True).getPositions(asNumpy=True)._value * NM


def frame(of: openmm.Context) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Positions, Å, velocities, Å/fs, forces, eV/Å, and potential energy, eV."""
    state: Any = of.getState(positions=True, velocities=True, forces=True, energy=True)
    return (
        state.getPositions(asNumpy=True)._value * NM,
        state.getVelocities(asNumpy=True)._value * NM / units.PS,
        state.getForces(asNumpy=True)._value * KJ_PER_MOL / NM,
        state.getPotentialEnergy()._value * KJ_PER_MOL,
    )
