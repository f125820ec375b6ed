"""Silica after van Beest, Kramer & van Santen."""

import functools

import jax.numpy as jnp
import numpy as np

from ffmd_jax.core.state import Array, Energy, Graph, State, System
from ffmd_jax.reference_md import coulomb, energies

CHARGES = {8: -1.2, 14: 2.4}  # e
# A (eV), b (1/Å), C (eV Å⁶) by the number of Si atoms in the pair; Si–Si has none.
BUCKINGHAM = ((1388.7730, 2.76, 175.0), (18003.7572, 4.87318, 133.5381), (0.0, 0.0, 0.0))


@functools.cache  # one function, one compilation, for all structures
def bks(cutoff: float = 10.0, alpha: float = 0.2) -> Energy:
    """Silica after van Beest, Kramer & van Santen 1990 (doi:10.1103/PhysRevLett.64.1955), truncated Coulomb.

    Buckingham A exp(−br) − C/r⁶ cut and shifted at ``cutoff`` (Å), damped-shifted-force Coulomb with ``alpha`` (1/Å).
    Below about 1.2 Å (Si–O) the original potential turns attractive without bound: not for temperatures of melts.
    """
    damped = coulomb.damped_shifted(alpha, cutoff)
    products = (CHARGES[8] ** 2, CHARGES[8] * CHARGES[14], CHARGES[14] ** 2)

    def pair(squared: Array, z_i: Array, z_j: Array) -> Array:
        kind = (z_i + z_j - 16) // 6  # number of Si atoms: 0, 1 or 2
        a, b, c = (jnp.asarray(column, squared.dtype)[kind] for column in zip(*BUCKINGHAM, strict=True))

        charges = jnp.asarray(products, squared.dtype)[kind]
        inverse = 1 / squared

        def buckingham(r, inverse):
            return a * jnp.exp(-b * r) - c * inverse**3

        shift = buckingham(cutoff, cutoff**-2)
        return charges * damped(squared) + buckingham(squared * jnp.sqrt(inverse), inverse) - shift

    def self_energy(system: System, state: State, graph: Graph) -> Array:
        one = np.array([coulomb.damped_shifted_self(CHARGES[z], alpha, cutoff) for z in (8, 14)])
        return jnp.sum(jnp.asarray(one, state.positions.dtype)[(jnp.asarray(system.species) == 14).astype(int)])

    return energies.total(energies.pairwise(pair, cutoff), self_energy)
