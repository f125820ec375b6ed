"""The network and the propagator made of it.

`TrajCast` is the network of Thiemann et al. 2026 (doi:10.1038/s42256-026-01227-7) with the options of
`config.Architecture`; `make_propagate` gives ``Propagate(system, state, graph)`` for rollouts.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import e3nn_jax as e3nn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import conservation, domains, neighbors, propagators
from ffmd_jax.core.state import Array, Correct, Graph, Propagate, State, System, full_precision
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.models import layers
from ffmd_jax.models.config import ModelConfig
from ffmd_jax.models.layers import EVEN_SCALAR, VECTOR, Features

Params = Any
Convolution = Callable[[Features, convolutions.Edges, layers.RadialWeights, list[convolutions.Path]], Features]


class Embedded(NamedTuple):
    """What every layer sees besides the features.

    Attributes:
        one_hot: species, ``[n_atoms, n_species]``.
        speed: embedding of |v|, ``[n_atoms, speed_basis]``.
        velocity_harmonics: Y(v̂), ``[n_atoms, (lmax + 1)²]``.
        lengths: of the edges, with their radial basis.
        edges: neighbours and Y(r̂).
    """

    one_hot: Array
    speed: Array
    velocity_harmonics: Array
    lengths: layers.Lengths
    edges: convolutions.Edges


class Layer(nn.Module):
    """One message-passing layer: neighbours, then the own velocity, then a gate and a residual."""

    config: ModelConfig
    convolution: Convolution

    @nn.compact
    def __call__(self, features: Features, embedded: Embedded) -> Features:
        sizes = self.config.architecture
        width = sizes.channels
        paths = self._paths(features)
        span = (self.config.splines_from, sizes.cutoff)
        network = layers.RadialNetwork((*sizes.radial_hidden, len(paths) * width), width, span, name="radial")
        seen = domains.exchanged(embedded.edges.graph, features)
        message = self.convolution(seen, embedded.edges, network(embedded.lengths), paths)
        message = layers.Linear(dict.fromkeys(message, width), name="contract")(message)

        paths = self._paths(message)
        speed = layers.MLP((*sizes.speed_hidden, len(paths) * width), name="speed")(embedded.speed)
        message = convolutions.atom_product(message, embedded.velocity_harmonics, speed, paths)

        outputs = dict.fromkeys(layers.ordered(message), width)
        n_gated = sum(irrep.l > 0 for irrep in outputs)
        update = layers.Linear({**outputs, EVEN_SCALAR: width * (1 + n_gated)}, name="update")(message)
        update = layers.gate(update, width, sizes.bounded_gates)
        residual = layers.SpeciesProduct(outputs, name="residual")(features, embedded.one_hot)
        # An irrep that the layer makes for the first time has no residual.
        scale = np.sqrt(0.5).astype(embedded.one_hot.dtype)
        return {irrep: scale * (x + residual[irrep]) if irrep in residual else scale * x for irrep, x in update.items()}

    def _paths(self, features: Features) -> list[convolutions.Path]:
        sizes = self.config.architecture
        return convolutions.coupling_paths(
            layers.ordered(features), sizes.lmax_harmonics, sizes.lmax, sizes.natural_parity
        )


class TrajCast(nn.Module):
    """Displacements and new velocities in units of their RMS, ``[n_atoms, 2, 3]``, before conservation laws.

    Attributes:
        config: sizes and scales.
        convolution: the product over neighbours, one of `models.convolution`.
    """

    config: ModelConfig
    convolution: Convolution = convolutions.edge_convolution

    @nn.compact
    def __call__(self, system: System, state: State, graph: Graph) -> Array:
        sizes = self.config.architecture
        embedded = self._embed(system, state, graph)
        irreps = [e3nn.Irrep(l, (-1) ** l) for l in range(sizes.lmax + 1)]
        inputs = {irrep: embedded.velocity_harmonics[:, irrep.l**2 : (irrep.l + 1) ** 2, None] for irrep in irreps}
        inputs[EVEN_SCALAR] = jnp.concatenate([embedded.one_hot, embedded.speed], axis=-1)[:, None]
        if sizes.velocity_input:
            scaled = domains.own(graph, state.velocities)[..., None] / self.config.velocity_rms
            inputs[VECTOR] = jnp.concatenate([inputs[VECTOR], scaled], axis=-1)
        features = layers.Linear(dict.fromkeys(inputs, sizes.channels), name="initial")(inputs)
        for i in range(sizes.layers):
            features = Layer(self.config, self.convolution, name=f"layer{i}")(features, embedded)
        vectors = layers.Linear({VECTOR: sizes.channels // 4}, name="compress")(features)
        vectors = layers.Linear({VECTOR: 2}, name="readout")(vectors)
        return domains.whole(graph, jnp.swapaxes(vectors[VECTOR], 1, 2))

    def _embed(self, system: System, state: State, graph: Graph) -> Embedded:
        config, sizes = self.config, self.config.architecture
        dtype = state.positions.dtype
        species, velocities = (domains.own(graph, x) for x in (jnp.asarray(system.species), state.velocities))
        one_hot = (species[:, None] == jnp.asarray(config.elements)).astype(dtype)
        vectors = neighbors.vectors(state, graph)
        harmonics = layers.spherical_harmonics(vectors, sizes.lmax_harmonics)
        n_pi = np.pi * np.arange(1, sizes.radial_basis + 1)
        roots = self.param("bessel_roots", lambda key: jnp.asarray(n_pi, dtype))
        speeds = layers.norm(velocities)
        if config.speed_limits:
            speeds = jnp.minimum(speeds, one_hot @ jnp.asarray(config.speed_limits, dtype))
        gaussians = layers.gaussian_basis(speeds, config.speed_max, sizes.speed_basis)
        mix = layers.SpeciesProduct({EVEN_SCALAR: sizes.speed_basis}, name="speed_embedding")
        return Embedded(
            one_hot=one_hot,
            speed=mix({EVEN_SCALAR: gaussians[:, None]}, one_hot)[EVEN_SCALAR][:, 0],
            velocity_harmonics=layers.spherical_harmonics(velocities, sizes.lmax_harmonics),
            lengths=layers.lengths(layers.norm(vectors), graph.mask, roots, sizes, config.splines_from),
            edges=convolutions.Edges(domains.local(graph), harmonics, config.average_neighbors),
        )


@functools.cache
def shapes(config: ModelConfig, dtype=jnp.float32) -> Params:
    """Shapes and types of the weights, without computing anything."""
    n_atoms = 2
    zeros = np.zeros((n_atoms, 3), dtype)  # numpy: arrays of jax cost a compilation each
    system = System(np.full(n_atoms, config.elements[0]), np.ones(n_atoms, dtype))
    graph = Graph(np.zeros((n_atoms, 1), np.int32), np.zeros((n_atoms, 1, 3), np.int8), np.zeros((n_atoms, 1), bool))
    network, cell = TrajCast(config, convolutions.shapes), np.eye(3, dtype=dtype)
    make = lambda r: network.init(jax.random.key(0), system, State(r, r, cell), graph)  # noqa: E731
    return jax.eval_shape(make, zeros)["params"]


def init(key: Array, config: ModelConfig, dtype=jnp.float32) -> Params:
    """Random weights: standard normal, since the fan-in factors stand in the layers; Bessel roots n π.

    All are cut from one draw: compiling flax's draw for each weight takes most of a minute.
    """
    return draw(key, shapes(config, dtype), config.architecture.radial_basis, dtype)


def draw(key: Array, shapes: Params, radial_basis: int, dtype) -> Params:
    """Weights of these shapes as `init` draws them."""
    leaves, structure = jax.tree.flatten(shapes)
    ends = np.cumsum([leaf.size for leaf in leaves])
    drawn = jnp.split(jax.random.normal(key, (int(ends[-1]),), dtype), ends[:-1])
    params = structure.unflatten([values.reshape(leaf.shape) for values, leaf in zip(drawn, leaves, strict=True)])
    return {**params, "bessel_roots": jnp.pi * jnp.arange(1, radial_basis + 1, dtype=dtype)}


def batches_together(config: ModelConfig) -> bool:
    """True where a batch of systems by vmap is faster than one after the other, which XLA's CPU code is not."""
    sizes = config.architecture
    return jax.default_backend() != "cpu" or (sizes.radial_intervals > 0 and convolutions.kernel_serves(sizes.lmax))


def correction(config: ModelConfig) -> Correct:
    """The conservation laws that a step of the model obeys."""
    return conservation.momenta(config.time_step_fs, config.net_linear_momentum, config.net_angular_momentum)


def make_propagate(
    config: ModelConfig,
    params: Params,
    convolution: Convolution = convolutions.edge_convolution,
    *,
    reversible: bool = False,
) -> Propagate:
    """Returns one step of Δt: network, then conservation laws; Å and Å/fs.

    A `jax.tree_util.Partial`: in compiled programs the weights are arguments, so that models of one shape share them.

    Args:
        params: for rollouts those of `radial_tables.tabulate`.
        reversible: the time-symmetrised step that `propagators.reversible` makes of it.
    """
    return jax.tree_util.Partial(_step(config, convolution, reversible), params)


@functools.cache  # one function for each configuration: jit compares functions by identity
def _step(
    config: ModelConfig, convolution: Convolution, reversible: bool
) -> Callable[[Params, System, State, Graph], State]:
    network, correct, units = TrajCast(config, convolution), correction(config), units_of(config)

    @jax.jit  # traced once for a run and its monitor
    @full_precision
    def step(params: Params, system: System, state: State, graph: Graph) -> State:
        return advance(network, params, units, correct, system, state, graph)

    if not reversible:
        return step

    @full_precision
    def symmetrised(params: Params, system: System, state: State, graph: Graph) -> State:
        return reversed_and_back(functools.partial(step, params), correct)(system, state, graph)

    return symmetrised


class Units(NamedTuple):
    """What a step makes of the output of the network; see `config.Carried`.

    Attributes:
        displacement: Å.
        velocity: Å/fs.
        carried: of each element, what its displacement, fs, and its velocity keep of the velocity before; () nothing.
    """

    displacement: Any
    velocity: Any
    carried: Any = ()


def units_of(config: ModelConfig) -> Units:
    """Those of a model."""
    if config.carried is None:
        return Units(config.displacement_rms, config.velocity_rms)
    of = config.carried
    return Units(of.displacement_unit, of.velocity_unit, (of.displacements_fs, of.velocities))


def advance(
    network: TrajCast, params: Params, units: Units, correct: Correct, system: System, state: State, graph: Graph
) -> State:
    """One step: the network's output in Å and Å/fs, what is carried over, then the conservation laws."""
    output = jnp.asarray(network.apply({"params": params}, system, state, graph))
    moved = state.positions + units.displacement * output[:, 0]
    velocities = units.velocity * output[:, 1]
    if units.carried:
        one_hot = jnp.asarray(system.species)[:, None] == jnp.asarray(network.config.elements)
        kept = one_hot.astype(output.dtype) @ jnp.stack([jnp.asarray(x, output.dtype) for x in units.carried], axis=1)
        moved += kept[:, :1] * state.velocities
        velocities += kept[:, 1:] * state.velocities
    return correct(system, state, state._replace(positions=moved, velocities=velocities))


def reversed_and_back(step: Propagate, correct: Correct) -> Propagate:
    """The time-symmetrised step, with the conservation laws of a step."""
    once = propagators.reversible(step)

    def symmetrised(system: System, state: State, graph: Graph) -> State:
        # Once more: the start on the other side has another angular momentum, by the square of the miss.
        return correct(system, state, once(system, state, graph))

    return symmetrised
