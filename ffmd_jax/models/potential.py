"""A potential energy of the same layers as the propagator's, without velocities: the sum of the atoms' energies.

The last layer makes scalars alone, and the read-out sees nothing else: the energy is invariant under rotations,
reflections and translations.  Forces and stress are its derivatives.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import domains, mechanics, neighbors
from ffmd_jax.core.state import Array, Energy, Graph, State, System, full_precision
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.models import layers, trajcast
from ffmd_jax.models.config import PotentialConfig
from ffmd_jax.models.layers import EVEN_SCALAR, Features
from ffmd_jax.models.trajcast import Convolution, Params


class Layer(nn.Module):
    """One message-passing layer; ``lmax`` of its output."""

    config: PotentialConfig
    convolution: Convolution
    lmax: int

    @nn.compact
    def __call__(
        self, features: Features, one_hot: Array, lengths: layers.Lengths, edges: convolutions.Edges
    ) -> Features:
        sizes = self.config.architecture
        width = sizes.channels
        paths = convolutions.coupling_paths(layers.ordered(features), sizes.lmax_harmonics, self.lmax, True)
        span = (self.config.splines_from, sizes.cutoff)
        network = layers.RadialNetwork((*sizes.radial_hidden, len(paths) * width), width, span, True, name="radial")
        seen = domains.exchanged(edges.graph, features)
        message = self.convolution(seen, edges, network(lengths), paths)
        message = layers.Linear(dict.fromkeys(message, width), name="contract")(message)
        outputs = dict.fromkeys(layers.ordered(message), width)
        n_gated = sum(irrep.l > 0 for irrep in outputs)
        update = layers.Linear({**outputs, EVEN_SCALAR: width * (1 + n_gated)}, name="update")(message)
        update = layers.gate(update, width, bounded=True)
        residual = layers.SpeciesProduct(outputs, name="residual")(features, one_hot)
        scale = np.sqrt(0.5).astype(one_hot.dtype)
        return {irrep: scale * (x + residual[irrep]) if irrep in residual else scale * x for irrep, x in update.items()}


class AtomicEnergies(nn.Module):
    """Energies of the atoms in units of ``config.energy_scale_eV``, ``[n_atoms]``, without the elements' constants."""

    config: PotentialConfig
    convolution: Convolution = convolutions.edge_convolution

    @nn.compact
    def __call__(self, system: System, state: State, graph: Graph) -> Array:
        config, sizes = self.config, self.config.architecture
        dtype = state.positions.dtype
        species = domains.own(graph, jnp.asarray(system.species))
        one_hot = (species[:, None] == jnp.asarray(config.elements)).astype(dtype)
        vectors = neighbors.vectors(state, graph)
        roots = self.param("bessel_roots", lambda key: jnp.pi * jnp.arange(1, sizes.radial_basis + 1, dtype=dtype))
        lengths = layers.lengths(layers.norm(vectors), graph.mask, roots, sizes, config.splines_from)
        harmonics = layers.spherical_harmonics(vectors, sizes.lmax_harmonics)
        edges = convolutions.Edges(domains.local(graph), harmonics, config.average_neighbors)
        features = layers.Linear({EVEN_SCALAR: sizes.channels}, name="initial")({EVEN_SCALAR: one_hot[:, None]})
        for i in range(sizes.layers):
            lmax = sizes.lmax if i < sizes.layers - 1 else 0
            features = Layer(config, self.convolution, lmax, name=f"layer{i}")(features, one_hot, lengths, edges)
        scalars = layers.Linear({EVEN_SCALAR: sizes.channels // 2}, name="compress")(features)
        scalars = {EVEN_SCALAR: layers.silu(scalars[EVEN_SCALAR])}
        scalars = layers.Linear({EVEN_SCALAR: 1}, name="readout")(scalars)
        return domains.whole(graph, scalars[EVEN_SCALAR][:, 0, 0])


@functools.cache
def shapes(config: PotentialConfig, dtype=jnp.float32) -> Params:
    """Shapes and types of the weights, without computing anything."""
    n_atoms = 2
    zeros = np.zeros((n_atoms, 3), dtype)
    system = System(np.full(n_atoms, config.elements[0]), np.ones(n_atoms, dtype))
    graph = Graph(np.zeros((n_atoms, 1), np.int32), np.zeros((n_atoms, 1, 3), np.int8), np.zeros((n_atoms, 1), bool))
    network, cell = AtomicEnergies(config, convolutions.shapes), np.eye(3, dtype=dtype)
    make = lambda r: network.init(jax.random.key(0), system, State(r, r, cell), graph)  # noqa: E731
    return jax.eval_shape(make, zeros)["params"]


def init(key: Array, config: PotentialConfig, dtype=jnp.float32) -> Params:
    """Random weights, as `trajcast.init`."""
    return trajcast.draw(key, shapes(config, dtype), config.architecture.radial_basis, dtype)


def make_energy(
    config: PotentialConfig, params: Params, convolution: Convolution = convolutions.edge_convolution
) -> Energy:
    """Returns the potential energy, eV, constants of the elements included, as a force field gives it.

    Summed in double precision where that is enabled: thousands of eV, of which a hundredth matters.  A
    `jax.tree_util.Partial`, whose weights are arguments of compiled programs.

    Args:
        params: for rollouts those of `radial_tables.tabulate`.
    """
    return jax.tree_util.Partial(_energy(config, convolution), params)


@functools.cache
def _energy(config: PotentialConfig, convolution: Convolution) -> Callable[[Params, System, State, Graph], Array]:
    network = AtomicEnergies(config, convolution)

    @jax.jit
    @full_precision
    def energy(params: Params, system: System, state: State, graph: Graph) -> Array:
        atoms = jnp.asarray(network.apply({"params": params}, system, state, graph))
        precise = jnp.result_type(float)
        members = jnp.asarray(system.species)[:, None] == jnp.asarray(config.elements)
        constants = jnp.sum(members, axis=0).astype(precise) @ jnp.asarray(config.atomic_energies_eV, precise)
        return config.energy_scale_eV * jnp.sum(atoms.astype(precise)) + constants

    return energy


def energy_forces_stress(energy: Energy, system: System, state: State, graph: Graph) -> tuple[Array, Array, Array]:
    """Energy, eV, forces, eV/Å ``[n_atoms, 3]``, and stress, eV/Å³, as xx, yy, zz, yz, xz, xy, ``[6]``, by gradients.

    The stress is positive under tension, and without the motion of the atoms.
    """

    def of(positions: Array, strain: Array) -> Array:
        symmetric = (strain + strain.T) / 2
        return energy(system, mechanics.strained(state._replace(positions=positions), symmetric), graph)

    nothing = jnp.zeros((3, 3), state.positions.dtype)
    value, (gradient, virial) = jax.value_and_grad(of, (0, 1))(state.positions, nothing)
    components = virial[(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
    return value, -gradient, components / mechanics.volume(state.cell)
