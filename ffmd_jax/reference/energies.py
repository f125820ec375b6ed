"""Force fields as ``Energy(system, state, graph) -> scalar`` in eV.

jax-md's `bks_silica` is another parametrisation and its neighbour lists need boxes of twice the cutoff, which the
paper's quartz cell is not; so the pair energies are written here, on the exact neighbours of `neighbors`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax import units
from ffmd_jax.state import Array, Graph, State, System

Energy = Callable[[System, State, Graph], Array]
PairEnergy = Callable[[Array, Array, Array], Array]  # distances Å, species of i, species of j -> eV


def pairwise(pair_energy: PairEnergy, cutoff: float) -> Energy:
    """Σ over pairs of ``pair_energy(r, Z_i, Z_j)``, eV, for r < cutoff (Å).

    Each pair is in the graph as (i, j) and (j, i).  Letting gradients through r_i only, and counting both entries,
    gives the full force on i from row i alone: no scatter-add in the backward pass.  First derivatives are exact;
    second derivatives are not those of the energy.
    """

    def energy(system: System, state: State, graph: Graph) -> Array:
        positions = state.positions
        fixed = jax.lax.stop_gradient(positions)
        cell = jnp.asarray(system.cell, positions.dtype)
        others = fixed[graph.senders] + graph.shifts.astype(positions.dtype) @ cell
        squared = jnp.sum((others - positions[:, None]) ** 2, axis=-1)
        inside = graph.mask & (squared < cutoff**2)
        distances = jnp.sqrt(jnp.where(inside, squared, 1.0))
        species = jnp.asarray(system.species)
        values = pair_energy(distances, species[:, None], species[graph.senders])
        twice = jnp.sum(jnp.where(inside, values, 0.0))
        return twice - jax.lax.stop_gradient(0.5 * twice)

    return energy


def forces(energy: Energy) -> Callable[[System, State, Graph], tuple[Array, Array]]:
    """Returns ``(system, state, graph) -> (energy, forces)``, eV and eV/Å ``[n_atoms, 3]``."""

    def evaluate(system: System, state: State, graph: Graph) -> tuple[Array, Array]:
        def of_positions(positions):
            return energy(system, state._replace(positions=positions), graph)

        value, gradient = jax.value_and_grad(of_positions)(state.positions)
        return value, -gradient

    return evaluate


def lennard_jones(epsilon_eV: float, sigma_A: float, cutoff: float) -> Energy:
    """4ε((σ/r)¹² − (σ/r)⁶), cut and shifted to zero at the cutoff (Å)."""

    def unshifted(r):
        sixth = (sigma_A / r) ** 6
        return 4 * epsilon_eV * (sixth**2 - sixth)

    return pairwise(lambda r, zi, zj: unshifted(r) - unshifted(cutoff), cutoff)


def damped_shifted_coulomb(r: Array, charge_product: Array, alpha: float, cutoff: float) -> Array:
    """Damped-shifted-force Coulomb energy of a pair, eV (Fennell & Gezelter 2006, doi:10.1063/1.2206581).

    k q_i q_j [erfc(αr)/r − erfc(αR)/R + (erfc(αR)/R² + 2α exp(−α²R²)/(√π R)) (r − R)], R the cutoff.
    """
    shift, slope = _dsf_constants(alpha, cutoff)
    return units.COULOMB * charge_product * (jax.scipy.special.erfc(alpha * r) / r - shift + slope * (r - cutoff))


def _dsf_constants(alpha: float, cutoff: float) -> tuple[float, float]:
    """Value and minus the slope of erfc(αr)/r at the cutoff."""
    from scipy.special import erfc

    shift = float(erfc(alpha * cutoff)) / cutoff
    slope = shift / cutoff + 2 * alpha / np.sqrt(np.pi) * np.exp(-((alpha * cutoff) ** 2)) / cutoff
    return shift, float(slope)


_BKS_CHARGES = {8: -1.2, 14: 2.4}  # e
# A (eV), b (1/Å), C (eV Å⁶); Si–Si has none.
_BKS_BUCKINGHAM = {(8, 8): (1388.7730, 2.76, 175.0), (8, 14): (18003.7572, 4.87318, 133.5381)}


def bks(cutoff: float = 10.0, alpha: float = 0.2) -> Energy:
    """Silica after van Beest, Kramer & van Santen 1990 (doi:10.1103/PhysRevLett.64.1955), truncated Coulomb.

    Buckingham A exp(−br) − C/r⁶ cut and shifted at ``cutoff`` (Å), damped-shifted-force Coulomb with ``alpha`` (1/Å).
    Below about 1.2 Å (Si–O) the original potential turns attractive without bound: not for temperatures of melts.
    """
    shift, slope = _dsf_constants(alpha, cutoff)

    def table(values: dict, z_i: Array, z_j: Array) -> Array:
        """Looks a pair parameter up by the number of Si atoms in the pair: 0, 1 or 2."""
        return jnp.asarray([values.get(8, 0.0), values.get(11, 0.0), values.get(14, 0.0)])[(z_i + z_j - 16) // 6]

    def parameter(k: int, r: Array, z_i: Array, z_j: Array) -> Array:
        by_mean = {(a + b) // 2: p[k] for (a, b), p in _BKS_BUCKINGHAM.items()}
        return table(by_mean, z_i, z_j).astype(r.dtype)

    def pair(r: Array, z_i: Array, z_j: Array) -> Array:
        a, b, c = (parameter(k, r, z_i, z_j) for k in range(3))
        charges = {8: _BKS_CHARGES[8] ** 2, 11: _BKS_CHARGES[8] * _BKS_CHARGES[14], 14: _BKS_CHARGES[14] ** 2}
        coulomb = damped_shifted_coulomb(r, table(charges, z_i, z_j).astype(r.dtype), alpha, cutoff)

        def buckingham(r):
            return a * jnp.exp(-b * r) - c / r**6

        return coulomb + buckingham(r) - buckingham(cutoff)

    pairs = pairwise(pair, cutoff)

    def energy(system: System, state: State, graph: Graph) -> Array:
        charges = jnp.where(jnp.asarray(system.species) == 14, _BKS_CHARGES[14], _BKS_CHARGES[8])
        self_energy = -units.COULOMB * ((shift + slope * cutoff) / 2 + alpha / np.sqrt(np.pi)) * jnp.sum(charges**2)
        return pairs(system, state, graph) + self_energy

    return energy
