"""Pair sums over all atoms of a small periodic box, with as many images as the cutoff reaches.

Liquids of some hundred atoms, with light atoms that move fast and a cutoff of half a box or more: their neighbour table
would hold most pairs, grow old within tens of steps, and cost more to build than a hundred force evaluations.
Going through all pairs without a table, each pair once, gathers nothing and vectorises.  The cost is atoms² × images.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import Array
from ffmd_jax.reference_md.coulomb import invert
from ffmd_jax.reference_md.energies import with_gradient


def all_pairs(pair_energy: Callable[[Array], Array], strengths, cutoff: float, cell) -> Callable[[Array, Array], Array]:
    """Returns (positions, cell) → Σ q_i q_j u(r²) over all pairs and images with r < cutoff, eV.

    A pair (i, j) has fractional components f in [−½, ½] at its nearest image; the images of a component are f, f ∓ 1,
    f ± 1, f ∓ 2, … (upper sign for f ≥ 0), at |f| ≥ 0, ½, 1, …: as many as the cutoff reaches make the sum exact.
    Distances and forces are computed in fractional components, with the metric tensor of the cell, for any cell that is
    periodic along its three vectors.  Forces are written by hand: second derivatives are not those of the energy.

    Args:
        pair_energy: u, from r² (Å²) to eV.
        strengths: q, ``[n_atoms]``, of the atoms whose positions are given.
        cutoff: R, Å.
        cell: Å, ``[3, 3]``, for which the images are planned; that of a call may differ by 6 %.
    """
    strengths = np.asarray(strengths, np.float64)
    n_atoms = len(strengths)
    offsets = _planned_offsets(np.asarray(cell, np.float64), cutoff)
    # Atom i meets those that come 0 … n/2 places after it, round the list: every pair once, in a dense array.
    steps = np.arange(n_atoms // 2 + 1)
    partners = (np.arange(n_atoms)[:, None] + steps) % n_atoms
    # An atom and its own images count half, as do, for even n, atoms half a round apart, which meet twice.
    share = np.where((steps == 0) | (2 * steps == n_atoms), 0.5, 1.0)
    products = strengths[:, None] * strengths[partners] * share
    # Where atom j is the partner: row j − step, the same column.
    reactions = (np.arange(n_atoms)[:, None] - steps) % n_atoms * len(steps) + steps

    def energy(positions: Array, cell: Array) -> Array:
        dtype = positions.dtype
        cell = jnp.asarray(cell, dtype)
        metric = cell @ cell.T
        fractional = (positions @ invert(cell)[0]).T
        nearest = fractional[:, partners] - fractional[:, :, None]
        nearest = nearest - jnp.round(nearest)  # [3, n_atoms, n_steps]
        outward = jnp.where(nearest >= 0, -1.0, 1.0).astype(dtype)
        translations = jnp.asarray(offsets, dtype)
        at = nearest[:, None] + translations.T[:, :, None, None] * outward[:, None]  # [3, n_images, n_atoms, n_steps]
        squared = sum((metric[a, a] * at[a] + 2 * metric[a, a - 1] * at[a - 1]) * at[a] for a in range(3))
        inside = (squared < cutoff**2) & (squared > 0)  # zero: an atom with itself
        squared = jnp.where(inside, squared, 1.0)
        values, slopes = jax.jvp(pair_energy, (squared,), (jnp.ones_like(squared),))
        q = jnp.asarray(products, dtype)
        value = jnp.sum(jnp.where(inside, q * values, 0.0))
        # Σ over images of weight × component.  The products keep XLA from computing the weights once for each axis.
        weights = jnp.where(inside, 2 * q * slopes, 0.0)
        moments = jnp.einsum("ms,mij->sij", jnp.insert(translations, 0, 1, axis=1), weights, precision="highest")
        on_partner = moments[0] * nearest + moments[1:] * outward
        by_atom = jnp.sum(on_partner.reshape(3, -1)[:, reactions] - on_partner, axis=-1)
        return with_gradient(value, jnp.matmul(by_atom.T, cell, precision="highest"), positions)

    return energy


def _planned_offsets(cell: np.ndarray, cutoff: float) -> np.ndarray:
    """Translations (0, 1, −1, 2, …) away from the nearest image that can lie within the cutoff, ``[n_images, 3]``."""
    heights = 0.94 * neighbors.heights(cell)
    orders = np.array(list(np.ndindex(*(int(np.ceil(2 * cutoff / height)) for height in heights))))
    if np.allclose(cell @ cell.T, np.diag(np.sum(cell**2, axis=1))):  # Pythagoras: the m-th image has |f| ≥ m/2
        orders = orders[np.sum((orders * heights / 2) ** 2, axis=1) < cutoff**2]
    return np.where(orders % 2 == 1, 1, -1) * ((orders + 1) // 2)
