"""Prepared systems: a structure with its force field, by name."""

from collections.abc import Callable
from typing import NamedTuple

import ase
import ase.build
import ase.spacegroup
import numpy as np

from ffmd_jax.reference import energies
from ffmd_jax.state import System, make_system


class Reference(NamedTuple):
    """A system with what is needed to run reference MD on it.

    Attributes:
        name: as on the command line.
        system: species, masses, cell.
        positions: Å, ``[n_atoms, 3]``, near a minimum of the energy.
        energy: the force field.
        cutoff: Å, of the force field.
        dt: fs, recommended time step of the integrator.
        skin: Å, of the neighbour table.
    """

    name: str
    system: System
    positions: np.ndarray
    energy: energies.Energy
    cutoff: float
    dt: float
    skin: float


def from_atoms(atoms: ase.Atoms) -> System:
    """The `System` of an ASE structure."""
    return make_system(atoms.numbers, atoms.get_masses(), np.asarray(atoms.cell), atoms.pbc)


def quartz(repeat: tuple[int, int, int] = (3, 3, 2)) -> Reference:
    """α-quartz with the BKS potential; 9 atoms a unit cell, 162 in the paper's 3×3×2.

    Space group 152 (P3₁21), a = 4.9134 Å, c = 5.4052 Å, Si (0.4697, 0, 1/3), O (0.4135, 0.2669, 0.2142).
    """
    cell = ase.spacegroup.crystal(
        ["Si", "O"],
        basis=[(0.4697, 0, 1 / 3), (0.4135, 0.2669, 0.2142)],
        spacegroup=152,
        cellpar=[4.9134, 4.9134, 5.4052, 90, 90, 120],
    )
    atoms = cell.repeat(repeat)
    return Reference("quartz", from_atoms(atoms), atoms.positions, energies.bks(), cutoff=10.0, dt=1.0, skin=1.0)


def argon(repeat: tuple[int, int, int] = (3, 3, 3)) -> Reference:
    """Face-centred cubic argon, Lennard-Jones (ε/k_B = 119.8 K, σ = 3.405 Å) cut and shifted at 2.5 σ; 4 atoms a cell.

    Parameters: Rahman 1964, doi:10.1103/PhysRev.136.A405.
    """
    atoms = ase.build.bulk("Ar", "fcc", a=5.4, cubic=True).repeat(repeat)
    sigma = 3.405
    energy = energies.lennard_jones(0.010323, sigma, 2.5 * sigma)
    return Reference("argon", from_atoms(atoms), atoms.positions, energy, cutoff=2.5 * sigma, dt=4.0, skin=0.8)


SYSTEMS: dict[str, Callable[..., Reference]] = {"quartz": quartz, "argon": argon}


def get(name: str, repeat: tuple[int, int, int] | None = None) -> Reference:
    """The prepared system of that name; ``repeat`` overrides the number of unit cells along each vector.

    Raises:
        ValueError: an unknown name, or a repeat below one.
    """
    if name not in SYSTEMS:
        raise ValueError(f"unknown system '{name}'; prepared systems are {', '.join(SYSTEMS)}")
    if repeat is not None and min(repeat) < 1:
        raise ValueError(f"repeat must be at least 1 along every vector, not {repeat}")
    return SYSTEMS[name]() if repeat is None else SYSTEMS[name](repeat)
