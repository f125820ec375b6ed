"""Prepared systems: a structure with its force field, by name; and the same force fields for structures of the user."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import ase
import ase.build
import ase.data
import ase.spacegroup
import numpy as np

from ffmd_jax.core import commands
from ffmd_jax.core.state import Energy, State, System, make_system
from ffmd_jax.formats import ase_files
from ffmd_jax.reference_md import energies, molecular, opls, silica, silicon, water

Structure = tuple[System, State]


class Reference(NamedTuple):
    """A system with what is needed to run reference MD on it.

    Attributes:
        name: as on the command line.
        system: species, masses, periodic directions.
        state: at rest, near a minimum of the energy.
        energy: the force field.
        cutoff: Å, of the neighbour table that the energy needs.
        dt: fs, recommended time step of the integrator.
        skin: Å, of the neighbour table.
    """

    name: str
    system: System
    state: State
    energy: Energy
    cutoff: float
    dt: float
    skin: float


def quartz(repeat: tuple[int, int, int] = (3, 3, 2), structure: Structure | None = None) -> Reference:
    """α-quartz with the BKS potential; 9 atoms a unit cell, 162 in the paper's 3×3×2.

    Space group 152 (P3₁21), a = 4.9134 Å, c = 5.4052 Å, Si (0.4697, 0, 1/3), O (0.4135, 0.2669, 0.2142).
    """
    if structure is None:
        cell = ase.spacegroup.crystal(
            ["Si", "O"],
            basis=[(0.4697, 0, 1 / 3), (0.4135, 0.2669, 0.2142)],
            spacegroup=152,
            cellpar=[4.9134, 4.9134, 5.4052, 90, 90, 120],
        )
        structure = ase_files.from_atoms(cell.repeat(repeat))
    system, state = _of_elements(structure, "quartz", (8, 14))
    return Reference("quartz", system, state, silica.bks(), cutoff=10.0, dt=1.0, skin=1.0)


def silicon_diamond(repeat: tuple[int, int, int] = (3, 3, 3), structure: Structure | None = None) -> Reference:
    """Silicon in the diamond structure, a = 5.431 Å, with the Stillinger–Weber potential; 8 atoms a unit cell."""
    if structure is None:
        structure = ase_files.from_atoms(ase.build.bulk("Si", "diamond", a=5.431, cubic=True).repeat(repeat))
    system, state = _of_elements(structure, "silicon", (14,))
    cutoff = silicon.CUTOFF * silicon.SIGMA
    return Reference("silicon", system, state, silicon.stillinger_weber(), cutoff, dt=1.0, skin=0.6)


def argon(repeat: tuple[int, int, int] = (3, 3, 3), structure: Structure | None = None) -> Reference:
    """Face-centred cubic argon, Lennard-Jones (ε/k_B = 119.8 K, σ = 3.405 Å) cut and shifted at 2.5 σ; 4 atoms a cell.

    Parameters: Rahman 1964, doi:10.1103/PhysRev.136.A405.
    """
    if structure is None:
        structure = ase_files.from_atoms(ase.build.bulk("Ar", "fcc", a=5.4, cubic=True).repeat(repeat))
    system, state = _of_elements(structure, "argon", (18,))
    sigma = 3.405
    energy = energies.lennard_jones(0.010323, sigma, 2.5 * sigma)
    return Reference("argon", system, state, energy, cutoff=2.5 * sigma, dt=4.0, skin=1.6)


def water_ewald(molecules: int = 64, structure: Structure | None = None) -> Reference:
    """Liquid water, flexible SPC/Fw with Ewald's sum, 1 g/cm³ in a cubic box."""
    return _water("water", water.ewald, molecules, structure)


def water_dsf(molecules: int = 64, structure: Structure | None = None) -> Reference:
    """Liquid water, flexible SPC/Fw with damped-shifted-force Coulomb: several times as fast as Ewald's sum."""
    return _water("water-dsf", water.damped, molecules, structure)


def _water(name: str, force_field, molecules: int, structure: Structure | None) -> Reference:
    system, state = water.lattice(molecules) if structure is None else structure
    if not all(system.pbc):
        raise ValueError(f"the force field of {name} needs a structure that is periodic along its three vectors")
    energy = force_field(system, state.cell, water.find_molecules(system, state))
    # Where the energy ignores the table, it is kept small.
    cutoff, skin = (water.CUTOFF, 1.5) if water.needs_table(system) else (3.0, 3.0)
    return Reference(name, system, state, energy, cutoff=cutoff, dt=0.5, skin=skin)


def paracetamol(structure: Structure | None = None) -> Reference:
    """One molecule of paracetamol in vacuum, C₈H₉NO₂, with OPLS-AA.

    Periodic boundaries of a structure are dropped, after atoms were joined across them.
    """
    parameters = opls.load("paracetamol")
    if structure is None:
        positions = np.asarray(parameters.positions, np.float64)
        structure = (
            make_system(parameters.species, parameters.masses),
            State(positions, np.zeros_like(positions), np.eye(3)),
        )
    system, state = structure
    if not np.array_equal(system.species, parameters.species):
        order = " ".join(ase.data.chemical_symbols[z] for z in parameters.species)
        raise ValueError(f"the force field of paracetamol needs its 20 atoms in this order: {order}")
    if any(system.pbc):
        state = state._replace(positions=molecular.make_whole(system, state, parameters.bonds[0]))
        system = make_system(system.species, system.masses)
    # The energy ignores the table, which holds the whole molecule: wider than it may turn, so never built again.
    return Reference("paracetamol", system, state, opls.opls("paracetamol"), cutoff=20.0, dt=0.5, skin=20.0)


def _of_elements(structure: Structure, name: str, elements: tuple[int, ...]) -> Structure:
    """The structure, if the force field knows its elements."""
    system, state = structure
    unknown = sorted(set(np.asarray(system.species).tolist()) - set(elements))
    if unknown:
        raise ValueError(
            f"the force field of {name} has no parameters for {ase.data.chemical_symbols[unknown[0]]} "
            f"(atomic number {unknown[0]})"
        )
    return system, state


SYSTEMS: dict[str, Callable[..., Reference]] = {
    "quartz": quartz,
    "water": water_ewald,
    "water-dsf": water_dsf,
    "paracetamol": paracetamol,
    "silicon": silicon_diamond,
    "argon": argon,
}


def get(
    name: str,
    repeat: tuple[int, int, int] | None = None,
    molecules: int | None = None,
    structure: Structure | None = None,
) -> Reference:
    """The prepared system of that name, in a size or with a structure of the caller's.

    Args:
        name: one of `SYSTEMS`.
        repeat: number of unit cells along each lattice vector, for crystals.
        molecules: number of molecules, for water.
        structure: system and state (wrapped or not) to apply the force field to, instead of
            the prepared structure; read the state from the result, which may have been made whole.

    Raises:
        ValueError: an unknown name, a size that the system does not have or that is too small, a size and a
            structure, or a structure that the force field is not for.
    """
    if name not in SYSTEMS:
        meant = commands.did_you_mean(name, SYSTEMS)
        raise ValueError(f"unknown system '{name}'{meant or '; prepared systems are ' + ', '.join(SYSTEMS)}")
    options = {"repeat": repeat, "molecules": molecules, "structure": structure}
    options = {option: value for option, value in options.items() if value is not None}
    known = [option for option in inspect.signature(SYSTEMS[name]).parameters if option != "structure"]
    for option in options:
        if option not in ("structure", *known):
            has = f"its size is set by '{known[0]}'" if known else "it has one size only"
            raise ValueError(f"{name} has no option '{option}': {has}")
    if structure is not None and len(options) > 1:
        raise ValueError("a structure has its own size: give no repeat or molecules with it")
    if repeat is not None and min(repeat) < 1:
        raise ValueError(f"repeat must be at least 1 along every vector, not {repeat}")
    return SYSTEMS[name](**options)
