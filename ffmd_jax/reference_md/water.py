"""Flexible SPC/Fw water, with Ewald's sum or with damped-shifted-force Coulomb.

Wu, Tepper & Voth 2006, doi:10.1063/1.2136877.  Molecules are found in a structure by distance; vectors within them are
taken to the nearest image, so that frames may be wrapped or not.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from ffmd_jax.core import units
from ffmd_jax.core.state import Array, Energy, Graph, State, System, make_system
from ffmd_jax.reference_md import coulomb, energies, images, molecular

CUTOFF = 9.0  # Å, of Lennard-Jones and of the Coulomb pairs
CHARGES = {1: 0.41, 8: -0.82}  # e
MASSES = {1: 1.008, 8: 15.999}  # u
SIGMA, EPSILON = 3.165492, 0.1554253 * units.KCAL_PER_MOL_IN_EV  # Å, eV
BOND_K, BOND_LENGTH = 0.5 * 1059.162 * units.KCAL_PER_MOL_IN_EV, 1.012  # eV/Å², Å
ANGLE_K, ANGLE = 0.5 * 75.90 * units.KCAL_PER_MOL_IN_EV, np.radians(113.24)  # eV/rad², rad

VOLUME = 12.41721096**3 / 64  # Å³ a molecule: 1.000 g/cm³
_LONGEST_BOND = 1.5  # Å
_EWALD_REACH = 3.5  # αR = G_max/2α: pairs and waves are cut where exp(−x²) is 5e-6
_DSF_ALPHA = 0.2  # 1/Å
_MOST_FOR_ALL_PAIRS = 800  # atoms


def ewald(system: System, cell: Array, molecules: np.ndarray) -> Energy:
    """SPC/Fw with Ewald's sum: forces to some 1e-4 kcal/mol/Å.  Planned for a cell; that of a call may differ by 6 %.

    Args:
        system: periodic along the three vectors of its cell; species 8 and 1.
        cell: Å, ``[3, 3]``.
        molecules: indices of O, H, H, ``[n_molecules, 3]``, from `find_molecules`.
    """
    alpha = _EWALD_REACH / CUTOFF
    waves = coulomb.ewald_reciprocal(charges_of(system), cell, alpha, wave_cutoff=2 * alpha * _EWALD_REACH)
    return energies.total(_pairs(system, cell, coulomb.screened(alpha, CUTOFF)), waves, _intramolecular(molecules))


def damped(system: System, cell: Array, molecules: np.ndarray) -> Energy:
    """SPC/Fw with damped-shifted-force Coulomb, α = 0.2 /Å, cut at 9 Å: faster than `ewald`, not the same liquid.

    Within molecules k q q/r is taken out of the sum over all pairs, as for `ewald` (and as LAMMPS does).
    """
    self_energy = coulomb.damped_shifted_self(charges_of(system), _DSF_ALPHA, CUTOFF)

    def constant(system: System, state: State, graph: Graph) -> Array:
        return jnp.asarray(self_energy, state.positions.dtype)

    pairs = _pairs(system, cell, coulomb.damped_shifted(_DSF_ALPHA, CUTOFF))
    return energies.total(pairs, constant, _intramolecular(molecules))


def charges_of(system: System) -> np.ndarray:
    """Partial charges of O and H, e, ``[n_atoms]``."""
    return np.where(np.asarray(system.species) == 8, CHARGES[8], CHARGES[1])


def needs_table(system: System) -> bool:
    """Whether the pair energies read the neighbour table (up to `CUTOFF`) or go through all pairs and ignore it.

    All pairs are faster for some hundred atoms (see `images`), 7 against 18 ms a step for 600 on one core; the table is
    for more, 25 against 177 ms for 1,536.
    """
    return len(system.species) > _MOST_FOR_ALL_PAIRS


def _pairs(system: System, cell: Array, coulomb_pair: Callable[[Array], Array]) -> Energy:
    """Coulomb of all pairs, also those within molecules, and Lennard-Jones between oxygens."""

    def dispersion_pair(squared: Array) -> Array:
        return energies.lennard_jones_pair(squared, EPSILON, SIGMA, CUTOFF)

    if needs_table(system):
        products = (CHARGES[1] ** 2, CHARGES[1] * CHARGES[8], CHARGES[8] ** 2)

        def pair(squared: Array, z_i: Array, z_j: Array) -> Array:
            n_oxygens = (z_i + z_j) // 8  # 2, 9 or 16 over 8
            charges = jnp.asarray(products, squared.dtype)[n_oxygens]
            return charges * coulomb_pair(squared) + jnp.where(n_oxygens == 2, dispersion_pair(squared), 0.0)

        return energies.pairwise(pair, CUTOFF)
    oxygens = np.flatnonzero(np.asarray(system.species) == 8)
    electric = images.all_pairs(coulomb_pair, charges_of(system), CUTOFF, cell)
    dispersion = images.all_pairs(dispersion_pair, np.ones(len(oxygens)), CUTOFF, cell)

    def energy(system: System, state: State, graph: Graph) -> Array:
        return electric(state.positions, state.cell) + dispersion(state.positions[oxygens], state.cell)

    return energy


def _intramolecular(molecules: np.ndarray) -> Energy:
    """Bonds and angles, less the Coulomb energy of the pairs within molecules."""
    ordered = np.array_equal(molecules.reshape(-1), np.arange(molecules.size))

    def energy(system: System, state: State, graph: Graph) -> Array:
        # Gathers of rows become slow scatters backwards: none where the atoms are O, H, H, O, … already.
        atoms = state.positions if ordered else state.positions[molecules.reshape(-1)]
        atoms = atoms.reshape(-1, 3, 3)
        first, second = (molecular.minimum_image(system, atoms[:, i] - atoms[:, 0], state.cell) for i in (1, 2))
        value = molecular.angles(first, second, ANGLE_K, ANGLE)
        for bond in (first, second):
            value += molecular.bonds(bond, BOND_K, BOND_LENGTH)
        for vector, product in (
            (first, CHARGES[1] * CHARGES[8]),
            (second, CHARGES[1] * CHARGES[8]),
            (second - first, CHARGES[1] ** 2),
        ):
            value -= units.COULOMB * product * jnp.sum(1 / jnp.sqrt(jnp.sum(vector**2, axis=-1)))
        return value

    return energy


def find_molecules(system: System, state: State) -> np.ndarray:
    """Indices of O, H, H of every molecule, ``[n_molecules, 3]``: each O with its two nearest H; atoms may be wrapped.

    Raises:
        ValueError: other elements, not two H for each O, or atoms that do not form H₂O molecules.
    """
    species, positions = np.asarray(system.species), np.asarray(state.positions, np.float64)
    oxygens, hydrogens = np.flatnonzero(species == 8), np.flatnonzero(species == 1)
    if len(oxygens) + len(hydrogens) != len(species) or len(hydrogens) != 2 * len(oxygens) or not len(oxygens):
        raise ValueError(
            f"the force field of water needs H2O molecules, not {len(oxygens)} O, {len(hydrogens)} H and "
            f"{len(species) - len(oxygens) - len(hydrogens)} other atoms"
        )
    vectors = molecular.minimum_image(
        system, positions[hydrogens] - positions[oxygens][:, None], np.asarray(state.cell)
    )
    distances = np.linalg.norm(vectors, axis=-1)
    nearest = np.sort(np.argsort(distances, axis=1)[:, :2], axis=1)
    lengths = np.take_along_axis(distances, nearest, axis=1)
    if lengths.max() > _LONGEST_BOND:
        o, h = np.argwhere(lengths > _LONGEST_BOND)[0]
        raise ValueError(
            f"the atoms are not H2O molecules: atom {oxygens[o]} (O) has only {h} H within {_LONGEST_BOND} Å; "
            "is the unit Å, and is the cell given?"
        )
    if len(np.unique(nearest)) != len(hydrogens):
        shared = hydrogens[np.argmax(np.bincount(nearest.reshape(-1), minlength=len(hydrogens)))]
        raise ValueError(f"the atoms are not H2O molecules: atom {shared} (H) is bonded to two O")
    return np.concatenate([oxygens[:, None], hydrogens[nearest]], axis=1)


def lattice(n_molecules: int, seed: int = 0) -> tuple[System, State]:
    """A start for the liquid at 1 g/cm³, at rest in a cubic box: O, H, H, O, …

    Molecules sit on a simple cubic lattice (of which some sites stay empty unless the number is a cube).  One after
    another takes, out of 30 random orientations, that of the lowest Coulomb energy with those placed before; so no
    two hydrogens meet, and Langevin dynamics at 300 K melts the lattice within some ps.

    Raises:
        ValueError: fewer than 8 molecules, where a molecule would see itself next door.
    """
    if n_molecules < 8:
        raise ValueError(f"water needs at least 8 molecules, not {n_molecules}")
    rng = np.random.default_rng(seed)
    length = (n_molecules * VOLUME) ** (1 / 3)
    n_sites = int(np.ceil(round(n_molecules ** (1 / 3), 9)))
    sites = np.array(list(np.ndindex(n_sites, n_sites, n_sites))) * (length / n_sites)
    sites = sites[np.sort(rng.permutation(len(sites))[:n_molecules])]
    half = ANGLE / 2
    hydrogen = BOND_LENGTH * np.array([[np.sin(half), 0, np.cos(half)], [-np.sin(half), 0, np.cos(half)]])
    molecule, charges = np.concatenate([np.zeros((1, 3)), hydrogen]), np.array([CHARGES[8], CHARGES[1], CHARGES[1]])
    placed = np.zeros((0, 3))
    for site in sites:
        trials = site + np.einsum("tab,ib->tia", Rotation.random(30, rng=rng).as_matrix(), molecule)
        vectors = trials[:, :, None] - placed
        vectors -= length * np.round(vectors / length)
        energy = np.einsum("i,tij,j->t", charges, 1 / np.linalg.norm(vectors, axis=-1), np.resize(charges, len(placed)))
        placed = np.concatenate([placed, trials[np.argmin(energy)]])
    species = np.tile([8, 1, 1], n_molecules)
    masses = np.where(species == 8, MASSES[8], MASSES[1])
    return make_system(species, masses, True), State(placed, np.zeros_like(placed), length * np.eye(3))
