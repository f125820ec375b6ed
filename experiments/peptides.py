"""Capped peptides with AMBER ff99SB-ILDN, in implicit water (OBC) or among SPC/Fw molecules, by OpenMM.

Lengths are Å, times fs, energies eV, as in all of ffmd_jax.  Atoms have OpenMM's order, in which those of a residue
follow each other.
"""

import functools
import io
from typing import Any, NamedTuple

import ase
import numpy as np
import openmm
from ase import units as ase_units
from ase.md.velocitydistribution import Stationary, ZeroRotation
from openmm import app
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolTransforms

from ffmd_jax.core import units
from ffmd_jax.core.state import State
from ffmd_jax.data.dataset_file import Run
from ffmd_jax.reference_md import amber, water

NM, KJ_PER_MOL = amber.NM, amber.KJ_PER_MOL  # Å; eV
RESIDUE = Chem.MolFromSmarts("[CX3](=O)[NX3][CX4][CX3](=O)[NX3]")
PHI, PSI, OMEGA = (0, 2, 3, 4), (2, 3, 4, 6), (3, 4, 6)  # numbers in the pattern; of OMEGA, the carbon that follows
HELIX, EXTENDED = (-60.0, -45.0), (-140.0, 140.0)  # φ and ψ, degrees
CUTOFF = 9.0  # Å, of Lennard-Jones and of the real-space part of PME

# Wu, Tepper & Voth 2006: what `ffmd_jax.reference_md.water` computes, in OpenMM's units.
SPC_FW = f"""<ForceField>
 <AtomTypes>
  <Type name="spcfw-O" class="OSF" element="O" mass="{water.MASSES[8]}"/>
  <Type name="spcfw-H" class="HSF" element="H" mass="{water.MASSES[1]}"/>
 </AtomTypes>
 <Residues>
  <Residue name="HOH">
   <Atom name="O" type="spcfw-O"/> <Atom name="H1" type="spcfw-H"/> <Atom name="H2" type="spcfw-H"/>
   <Bond from="0" to="1"/> <Bond from="0" to="2"/>
  </Residue>
 </Residues>
 <HarmonicBondForce>
  <Bond class1="OSF" class2="HSF" length="{water.BOND_LENGTH / NM}" k="{2 * water.BOND_K / KJ_PER_MOL * NM**2}"/>
 </HarmonicBondForce>
 <HarmonicAngleForce>
  <Angle class1="HSF" class2="OSF" class3="HSF" angle="{water.ANGLE}" k="{2 * water.ANGLE_K / KJ_PER_MOL}"/>
 </HarmonicAngleForce>
 <NonbondedForce coulomb14scale="0.833333" lj14scale="0.5">
  <Atom type="spcfw-O" charge="{water.CHARGES[8]}" sigma="{water.SIGMA / NM}" epsilon="{water.EPSILON / KJ_PER_MOL}"/>
  <Atom type="spcfw-H" charge="{water.CHARGES[1]}" sigma="1" epsilon="0"/>
 </NonbondedForce>
</ForceField>"""


class Peptide(NamedTuple):
    """What the dynamics need.

    Attributes:
        atoms: elements and places, Å; for a peptide among water, with its cell, and the peptide first.
        phi, psi: indices of four atoms for each residue, ``[n_residues, 4]``.
        system: OpenMM's, flexible.
    """

    atoms: ase.Atoms
    phi: np.ndarray
    psi: np.ndarray
    system: openmm.System


def alanines(n: int) -> str:
    """The SMILES of ACE-(ALA)ₙ-NME."""
    return "CC(=O)" + n * "N[C@@H](C)C(=O)" + "NC"


@functools.cache
def alone(smiles: str, shape: tuple[float, float] = EXTENDED) -> Peptide:
    """A peptide in implicit water, without cutoff, with φ and ψ of all residues as given, degrees."""
    found = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(found, randomSeed=1, useRandomCoords=found.GetNumAtoms() > 60)
    places = found.GetConformer()
    matches = sorted(found.GetSubstructMatches(RESIDUE))
    for match in matches:
        for four, degrees in ((PHI, shape[0]), (PSI, shape[1])):
            i, j, k, l = (match[at] for at in four)
            if not found.GetBondBetweenAtoms(j, k).IsInRing():  # φ of proline is as it is
                rdMolTransforms.SetDihedralDeg(places, i, j, k, l, degrees)
        rdMolTransforms.SetDihedralDeg(places, *(match[i] for i in OMEGA), _carbon_after(found, match), 180.0)
    atoms = ase.Atoms([a.GetAtomicNum() for a in found.GetAtoms()], places.GetPositions())
    system, order = amber.system(atoms)
    phi, psi = ([[order.tolist().index(match[i]) for i in four] for match in matches] for four in (PHI, PSI))
    return Peptide(atoms[order], np.array(phi), np.array(psi), system)


def _carbon_after(found: Chem.Mol, match: tuple[int, ...]) -> int:
    """The carbon that follows the last nitrogen of a residue's pattern."""
    near = found.GetAtomWithIdx(match[6]).GetNeighbors()
    return next(a.GetIdx() for a in near if a.GetAtomicNum() == 6 and a.GetIdx() != match[4])


@functools.cache
def in_water(smiles: str, edge: float, shape: tuple[float, float] = EXTENDED) -> Peptide:
    """The peptide among SPC/Fw molecules in a cube of ``edge`` Å, with PME, relaxed as by `relaxed`."""
    dry = alone(smiles, shape)
    topology, order = amber.topology(dry.atoms)
    made = app.Modeller(topology, relaxed(dry)[order] / NM)
    field = app.ForceField("amber99sbildn.xml", io.StringIO(SPC_FW))
    made.addSolvent(field, model="spce", boxSize=openmm.Vec3(edge, edge, edge) / NM, neutralize=False)
    numbers = [atom.element.atomic_number for atom in made.topology.atoms()]
    atoms = ase.Atoms(numbers, np.array(made.positions._value) * NM, cell=[edge] * 3, pbc=True)
    system = field.createSystem(
        made.topology, nonbondedMethod=app.PME, nonbondedCutoff=CUTOFF / NM, constraints=None, rigidWater=False,
        removeCMMotion=False, ewaldErrorTolerance=1e-5,
    )  # fmt: skip
    for i, mass in enumerate(atoms.get_masses()):
        system.setParticleMass(i, mass)
    found = Peptide(atoms, dry.phi, dry.psi, system)
    atoms.positions = relaxed(found)
    return found


def relaxed(of: Peptide) -> np.ndarray:
    """Positions, Å, at a minimum of the energy near those of the peptide."""
    at = context(of, openmm.VerletIntegrator(0.001))
    openmm.LocalEnergyMinimizer.minimize(at, 10.0)
    return positions(at)


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


def fast_langevin(
    kelvin: float, tau_fs: float, fast_tau_fs: float, above_per_cm: float, dt_fs: float, seed: int
) -> openmm.CustomIntegrator:
    """Langevin dynamics with friction on fast motions besides, as `ffmd_jax.dynamics.thermostat.fast_langevin` has it.

    Half of the baths before and half after a step of velocity Verlet; the partner of each velocity is begun by
    `set_partners`.
    """
    half, wavenumber = 0.5 * dt_fs, above_per_cm / units.TERAHERTZ_IN_PER_CM
    friction, slowest = 1 / fast_tau_fs, 2 * np.pi * wavenumber / units.PS
    made = openmm.CustomIntegrator(dt_fs / units.PS)
    for name, value in {
        "keep": np.exp(-half / tau_fs), "keep_fast": np.exp(-half * (friction + slowest)),
        "on_v": np.sqrt(friction / (friction + slowest)), "on_s": np.sqrt(slowest / (friction + slowest)),
        "kT": kelvin * units.BOLTZMANN / KJ_PER_MOL,
    }.items():  # fmt: skip
        made.addGlobalVariable(name, float(value))
    made.addPerDofVariable("s", 0.0)
    made.addPerDofVariable("change", 0.0)

    def baths() -> None:
        made.addComputePerDof("v", "keep*v+sqrt((1-keep^2)*kT/m)*gaussian")
        made.addComputePerDof("change", "sqrt((1-keep_fast^2)*kT/m)*gaussian-(1-keep_fast)*(on_v*v+on_s*s)")
        made.addComputePerDof("v", "v+on_v*change")
        made.addComputePerDof("s", "s+on_s*change")

    baths()
    made.addComputePerDof("v", "v+0.5*dt*f/m")
    made.addComputePerDof("x", "x+dt*v")
    made.addComputePerDof("v", "v+0.5*dt*f/m")
    baths()
    made.setRandomNumberSeed(seed)
    return made


def set_partners(of: openmm.Context, kelvin: float, masses: np.ndarray, seed: int) -> None:
    """Draws the partners of the velocities of `fast_langevin` in a context; masses are u."""
    width = np.sqrt(kelvin * units.BOLTZMANN / KJ_PER_MOL / masses)[:, None]
    drawn = width * np.random.default_rng(seed).normal(size=(len(masses), 3))
    of.getIntegrator().setPerDofVariableByName("s", [openmm.Vec3(*row) for row in drawn])


def context(of: Peptide, integrator: openmm.Integrator) -> openmm.Context:
    """Ready to run.  The Reference platform is faster than CPU up to some 110 atoms; for 22, four times."""
    name = "CPU" if len(of.atoms) > 150 else "Reference"
    made = openmm.Context(of.system, integrator, openmm.Platform.getPlatformByName(name))
    made.setPositions(of.atoms.positions / NM)
    return made


def positions(of: openmm.Context) -> np.ndarray:
    """Å, ``[n_atoms, 3]``; molecules are not folded back into the cell."""
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


def cell(of: openmm.Context) -> np.ndarray:
    """Å, ``[3, 3]``."""
    return np.array(of.getState().getPeriodicBoxVectors()._value) * NM


def nve_run(
    peptide: Peptide, warm: openmm.Context, free: openmm.Context, step_fs: float, frame_fs: float, n_frames: int,
    split: str, name: str,
) -> Run:  # fmt: skip
    """A run at constant energy in one context from the state of another, without the motion of the whole."""
    atoms, edges = peptide.atoms.copy(), np.eye(3)
    atoms.positions, velocities, *_ = frame(warm)
    atoms.set_velocities(velocities / ase_units.fs)
    Stationary(atoms, preserve_temperature=False)
    if atoms.pbc.any():
        edges = cell(warm)
        free.setPeriodicBoxVectors(*(edges / NM))
    else:
        atoms.positions -= atoms.get_center_of_mass()
        ZeroRotation(atoms, preserve_temperature=False)
    free.setPositions(atoms.positions / NM)
    free.setVelocities(atoms.get_velocities() * ase_units.fs * units.PS / NM)
    seen = [frame(free)]
    for _ in range(n_frames):
        free.getIntegrator().step(round(frame_fs / step_fs))
        seen.append(frame(free))
    r, v, f, e = (np.array(values) for values in zip(*seen, strict=True))
    r, v, f = (np.asarray(x, np.float32).astype(np.float64) for x in (r, v, f))  # half the size in the file
    return Run(State(r, v, np.broadcast_to(edges, (len(r), 3, 3))), frame_fs, split, 0, name, e, f)
