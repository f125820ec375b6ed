"""Force fields as ``Energy(system, state, graph) -> scalar`` in eV: the pair sum that all of them share, and argon.

jax-md and this package, force field by force field (numbers: ``benchmarks/reference_speed.py``):

- Lennard-Jones and Stillinger–Weber: jax-md's energies, with which the tests compare; not used in production.  Its
  neighbour lists need cells of twice the cutoff plus skin, which the prepared argon is not; its Stillinger–Weber goes
  through all pairs of neighbours of an atom, where `silicon` takes moments; its import takes seconds.
- BKS: `jax_md.energy.bks_silica_*` is another parametrisation (charges ±1.955 and ∓0.977) and needs larger cells.
- OPLS-AA: `jax_md.mm_forcefields` reads the parameters from CHARMM files only.
- Ewald's sum: `jax_md` sums exp(iG·r) wave vector by wave vector, and takes minimum images in real space.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import mechanics
from ffmd_jax.core.state import Array, Energy, Graph, State, System

_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))

PairEnergy = Callable[[Array, Array, Array], Array]  # squared distances Å², species of i, species of j -> eV


def with_gradient(energy: Array, gradient: Array, positions: Array) -> Array:
    """The scalar ``energy``, whose derivative by ``positions`` is the given ``gradient`` of the same shape.

    For gradients written by hand, at a fraction of the cost of the backward pass; where no derivative is asked for,
    they are not computed.  First derivatives by positions are exact; others, by the cell and second ones, are not those
    of the energy.
    """
    return _with_gradient(*jax.lax.stop_gradient((energy, gradient)), positions)


@jax.custom_jvp
def _with_gradient(energy: Array, gradient: Array, positions: Array) -> Array:
    return energy


_with_gradient.defjvp(lambda given, along: (given[0], jnp.sum(given[1] * along[2])))


def pairwise(pair_energy: PairEnergy, cutoff: float) -> Energy:
    """Σ over pairs of ``pair_energy(r², Z_i, Z_j)``, eV, for r < cutoff (Å).

    Each pair is in the graph as (i, j) and (j, i), so row i alone gives the force on i: F_i = Σ_j 2u'(r²) (r_j − r_i),
    without a scatter-add.  u' is the forward derivative of ``pair_energy``.  Second derivatives: see `with_gradient`.
    """

    def energy(system: System, state: State, graph: Graph) -> Array:
        positions = state.positions
        # Not `neighbors.vectors`: to set padding to zero here costs a quarter of the whole.
        shifts = graph.shifts.astype(positions.dtype) @ jnp.asarray(state.cell, positions.dtype)
        vectors = positions[graph.senders] + shifts - positions[:, None]
        squared = jnp.sum(vectors**2, axis=-1)
        inside = graph.mask & (squared < cutoff**2)
        squared = jnp.where(inside, squared, 1.0)
        species = jnp.asarray(system.species)

        def of_squares(squared):
            return pair_energy(squared, species[:, None], species[graph.senders])

        values, slopes = jax.jvp(of_squares, (squared,), (jnp.ones_like(squared),))
        weights = jnp.where(inside, 2 * slopes, 0.0)
        gradient = -jnp.einsum("ij,ijx->ix", weights, vectors, precision="highest")
        return with_gradient(0.5 * jnp.sum(jnp.where(inside, values, 0.0)), gradient, positions)

    return energy


def total(*terms: Energy) -> Energy:
    """The sum of energies."""

    def energy(system: System, state: State, graph: Graph) -> Array:
        return sum((term(system, state, graph) for term in terms), start=jnp.zeros((), state.positions.dtype))

    return energy


def forces(energy: Energy) -> Callable[[System, State, Graph], tuple[Array, Array]]:
    """Returns ``(system, state, graph) -> (energy, forces)``, eV and eV/Å ``[n_atoms, 3]``."""

    def evaluate(system: System, state: State, graph: Graph) -> tuple[Array, Array]:
        def of_positions(positions):
            return energy(system, state._replace(positions=positions), graph)

        value, gradient = jax.value_and_grad(of_positions)(state.positions)
        return value, -gradient

    return evaluate


def stress(energy: Energy, step: float = 1e-4) -> Callable[[System, State, Graph], Array]:
    """Returns ``(system, state, graph) -> [6]``: the stress (1/V) ∂E/∂ε in eV/Å³, as xx, yy, zz, yz, xz, xy.

    Positive under tension, as in ASE, and without the motion of the atoms.  By central differences with strains of ±
    ``step``, in double precision: gradients written by hand know nothing of the cell.
    """
    directions = np.zeros((6, 3, 3))
    for component, (a, b) in zip(directions, _VOIGT, strict=True):
        component[a, b] = component[b, a] = 1.0 if a == b else 0.5

    def evaluate(system: System, state: State, graph: Graph) -> Array:
        def at(strain: Array) -> Array:
            return energy(system, mechanics.strained(state, strain), graph)

        strains = step * jnp.asarray(np.concatenate([directions, -directions]), state.positions.dtype)
        values = jax.lax.map(at, strains)
        return (values[:6] - values[6:]) / (2 * step * mechanics.volume(state.cell))

    return evaluate


def lennard_jones_pair(squared: Array, epsilon_eV: float, sigma_A: float, cutoff: float) -> Array:
    """4ε((σ/r)¹² − (σ/r)⁶), eV, from r² (Å²), shifted to zero at the cutoff (Å)."""

    def unshifted(sixth):
        return 4 * epsilon_eV * (sixth**2 - sixth)

    return unshifted((sigma_A**2 / squared) ** 3) - unshifted((sigma_A / cutoff) ** 6)


@functools.cache  # one function, one compilation, for all structures
def lennard_jones(epsilon_eV: float, sigma_A: float, cutoff: float) -> Energy:
    """4ε((σ/r)¹² − (σ/r)⁶), cut and shifted to zero at the cutoff (Å)."""
    return pairwise(lambda squared, zi, zj: lennard_jones_pair(squared, epsilon_eV, sigma_A, cutoff), cutoff)
