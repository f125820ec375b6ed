"""OPLS-AA for one molecule in vacuum, from a table of parameters."""

import functools
import json
from collections.abc import Callable
from importlib import resources
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import units
from ffmd_jax.core.state import Array, Energy, Graph, State, System
from ffmd_jax.reference_md import energies, molecular

COULOMB = 332.06371 * units.KCAL_PER_MOL_IN_EV  # eV Å/e², the constant that the parameters are stated with


class Parameters(NamedTuple):
    """A molecule with its force field; energies in eV, lengths in Å, angles in rad.

    Attributes:
        species: atomic numbers, ``[n_atoms]``.
        masses: u, ``[n_atoms]``.
        positions: Å, ``[n_atoms, 3]``, near a minimum of the energy.
        charges: e, ``[n_atoms]``.
        epsilon: Lennard-Jones depths, ``[n_atoms]``.
        sigma: Lennard-Jones diameters, ``[n_atoms]``.
        bonds: indices ``[n_bonds, 2]``, with k and r₀ ``[n_bonds, 2]``.
        angles: indices ``[n_angles, 3]``, with k and θ₀ ``[n_angles, 2]``.
        torsions: indices ``[n_torsions, 4]`` of dihedrals and impropers, with coefficients of cos^p φ.
    """

    species: np.ndarray
    masses: np.ndarray
    positions: np.ndarray
    charges: np.ndarray
    epsilon: np.ndarray
    sigma: np.ndarray
    bonds: tuple[np.ndarray, np.ndarray]
    angles: tuple[np.ndarray, np.ndarray]
    torsions: tuple[np.ndarray, np.ndarray]


@functools.cache
def load(name: str) -> Parameters:
    """The parameters shipped under that name: paracetamol.

    OPLS-AA after Jorgensen, Maxwell & Tirado-Rives 1996 (doi:10.1021/ja9621760) and later sets; the file says more.
    """
    text = resources.files("ffmd_jax.reference_md").joinpath("data", f"opls_{name}.json").read_text(encoding="utf-8")
    table = {key: np.asarray(value) for key, value in json.loads(text).items()}
    kcal = units.KCAL_PER_MOL_IN_EV
    k, sign, n = table["improper_k_d_n"].T
    if not (np.all(sign == -1) and np.all(n == 2)):
        raise ValueError(f"the impropers of {name} are not of the form k(1 − cos 2φ)")
    # k(1 − cos 2φ) is the second term of a dihedral, with V₂ = 2k.
    impropers = molecular.fourier(0 * k, 2 * k, 0 * k, 0 * k)
    return Parameters(
        table["atomic_numbers"],
        table["masses"],
        table["positions"],
        table["charges"],
        table["lj_epsilon"] * kcal,
        table["lj_sigma"],
        (table["bonds"], table["bond_k_r0"] * [kcal, 1.0]),
        (table["angles"], table["angle_k_theta0"] * [kcal, np.pi / 180]),
        (
            np.concatenate([table["dihedrals"], table["impropers"]]),
            np.concatenate([molecular.fourier(*table["dihedral_v1_v4"].T), impropers]) * kcal,
        ),
    )


@functools.cache  # one function, one compilation, for all structures
def opls(name: str) -> Energy:
    """Bonds, angles, torsions, Lennard-Jones and Coulomb of an open molecule; without cutoff, so the graph is ignored.

    Lennard-Jones parameters mix geometrically; pairs one or two bonds apart are excluded, pairs three bonds apart count
    half.
    """
    parameters = load(name)
    nonbonded = _nonbonded(parameters)
    # All bonded vectors at once, as one product with a matrix of 0, 1 and −1: no gathers, no scatters backwards.
    ends = _ends(parameters)
    differences = np.eye(len(parameters.species))[ends[:, 1]] - np.eye(len(parameters.species))[ends[:, 0]]
    bond_table, angle_table, torsion_table = parameters.bonds[1], parameters.angles[1], parameters.torsions[1]
    places = np.cumsum([len(bond_table), *[len(angle_table)] * 2, *[len(torsion_table)] * 3])[:-1]

    def energy(system: System, state: State, graph: Graph) -> Array:
        positions = state.positions
        dtype = positions.dtype
        vectors = jnp.matmul(jnp.asarray(differences, dtype), positions, precision="highest")
        bond, first, second, i_to_j, j_to_k, k_to_l = jnp.split(vectors, places)
        return (
            molecular.bonds(bond, *jnp.asarray(bond_table.T, dtype))
            + molecular.angles(first, second, *jnp.asarray(angle_table.T, dtype))
            + molecular.torsions(i_to_j, j_to_k, k_to_l, jnp.asarray(torsion_table, dtype))
            + nonbonded(positions)
        )

    return energy


def _ends(parameters: Parameters) -> np.ndarray:
    """From where to where the vectors of all bonded terms go, ``[n_vectors, 2]``, in the order of their use."""
    bonds, angles, torsions = parameters.bonds[0], parameters.angles[0], parameters.torsions[0]
    parts = [bonds, angles[:, [1, 0]], angles[:, [1, 2]], *(torsions[:, i : i + 2] for i in range(3))]
    return np.concatenate(parts)


def _nonbonded(parameters: Parameters) -> Callable[[Array], Array]:
    """Returns positions → Lennard-Jones and Coulomb energy of all pairs, eV."""
    n_atoms = len(parameters.species)
    apart = molecular.separations(parameters.bonds[0], n_atoms)
    scale = np.where(apart < 3, 0.0, np.where(apart == 3, 0.5, 1.0))
    epsilon = np.sqrt(np.outer(parameters.epsilon, parameters.epsilon)) * scale
    sixth = np.outer(parameters.sigma, parameters.sigma) ** 3
    charges = COULOMB * np.outer(parameters.charges, parameters.charges) * scale
    own = np.eye(n_atoms)

    def energy(positions: Array) -> Array:
        dtype = positions.dtype
        vectors = positions - positions[:, None]
        # 1 Å² on the diagonal keeps the root finite; its coefficients are zero.
        inverse = 1 / (jnp.sum(vectors**2, axis=-1) + jnp.asarray(own, dtype))
        root = jnp.sqrt(inverse)
        cubed = jnp.asarray(sixth, dtype) * inverse**3
        twelve, q = 4 * jnp.asarray(epsilon, dtype), jnp.asarray(charges, dtype)
        value = 0.5 * jnp.sum(twelve * (cubed**2 - cubed) + q * root)
        slope = (twelve * (12 * cubed**2 - 6 * cubed) + q * root) * inverse  # −u'/r
        gradient = jnp.einsum("ij,ijx->ix", slope, vectors, precision="highest")
        return energies.with_gradient(value, gradient, positions)

    return energy
