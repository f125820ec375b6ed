"""The network and the propagator made of it.

`TrajCast` is the network of Thiemann et al. 2026 (doi:10.1038/s42256-026-01227-7) with the options of
`config.Architecture`; `make_propagate` gives ``Propagate(system, state, graph)`` for roll-outs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import conservation, neighbors, propagators
from ffmd_jax.core import state as state_module
from ffmd_jax.core.state import Array, Graph, Propagate, State, System, full_precision
from ffmd_jax.models import convolution as products
from ffmd_jax.models import layers
from ffmd_jax.models.config import ModelConfig
from ffmd_jax.models.irreps import Irrep
from ffmd_jax.models.layers import EVEN_SCALAR, VECTOR, Features

Params = Any
Convolution = Callable[[Features, products.Edges, layers.RadialWeights, list[products.Path]], Features]


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
    edges: products.Edges


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
        message = self.convolution(features, embedded.edges, network(embedded.lengths), paths)
        message = {irrep: x / self.config.average_neighbors for irrep, x in message.items()}
        message = layers.Linear(dict.fromkeys(message, width), name="contract")(message)

        paths = self._paths(message)
        speed = layers.MLP((*sizes.speed_hidden, len(paths) * width), name="speed")(embedded.speed)
        message = products.atom_product(message, embedded.velocity_harmonics, speed, paths)

        outputs = dict.fromkeys(layers.ordered(message), width)
        n_gated = sum(irrep.l > 0 for irrep in outputs)
        update = layers.Linear({**outputs, EVEN_SCALAR: width * (1 + n_gated)}, name="update")(message)
        update = layers.gate(update, width, sizes.bounded_gates)
        residual = layers.SpeciesProduct(outputs, name="residual")(features, embedded.one_hot)
        # An irrep that the layer makes for the first time has no residual.
        scale = np.sqrt(0.5).astype(embedded.one_hot.dtype)
        return {irrep: scale * (x + residual[irrep]) if irrep in residual else scale * x for irrep, x in update.items()}

    def _paths(self, features: Features) -> list[products.Path]:
        sizes = self.config.architecture
        return products.coupling_paths(layers.ordered(features), sizes.lmax_harmonics, sizes.lmax, sizes.natural_parity)


class TrajCast(nn.Module):
    """Displacements and new velocities in units of their RMS, ``[n_atoms, 2, 3]``, before conservation laws.

    Attributes:
        config: sizes and scales.
        convolution: the product over neighbours, one of `products`.
    """

    config: ModelConfig
    convolution: Convolution = products.edge_convolution

    @nn.compact
    def __call__(self, system: System, state: State, graph: Graph) -> Array:
        sizes = self.config.architecture
        embedded = self._embed(system, state, graph)
        irreps = [Irrep(l, (-1) ** l) for l in range(sizes.lmax + 1)]
        inputs = {irrep: embedded.velocity_harmonics[:, irrep.l**2 : (irrep.l + 1) ** 2, None] for irrep in irreps}
        inputs[EVEN_SCALAR] = jnp.concatenate([embedded.one_hot, embedded.speed], axis=-1)[:, None]
        if sizes.velocity_input:
            scaled = state.velocities[..., None] / self.config.velocity_rms
            inputs[VECTOR] = jnp.concatenate([inputs[VECTOR], scaled], axis=-1)
        features = layers.Linear(dict.fromkeys(inputs, sizes.channels), name="initial")(inputs)
        for i in range(sizes.layers):
            features = Layer(self.config, self.convolution, name=f"layer{i}")(features, embedded)
        vectors = layers.Linear({VECTOR: sizes.channels // 4}, name="compress")(features)
        vectors = layers.Linear({VECTOR: 2}, name="readout")(vectors)
        output = jnp.swapaxes(vectors[VECTOR], 1, 2)
        if sizes.velocity_skip:
            flight = self.config.time_step_fs / self.config.displacement_rms, 1 / self.config.velocity_rms
            output += state.velocities[:, None] * jnp.asarray(flight, output.dtype)[:, None]
        return output

    def _embed(self, system: System, state: State, graph: Graph) -> Embedded:
        config, sizes = self.config, self.config.architecture
        dtype = state.positions.dtype
        one_hot = (jnp.asarray(system.species)[:, None] == jnp.asarray(config.elements)).astype(dtype)
        vectors = neighbors.vectors(system, state.positions, graph)
        distances = layers.norm(vectors)
        n_pi = np.pi * np.arange(1, sizes.radial_basis + 1)
        roots = self.param("bessel_roots", lambda key: jnp.asarray(n_pi, dtype))
        if sizes.radial_intervals:
            places = jnp.linspace(config.splines_from, sizes.cutoff, sizes.radial_intervals + 1, dtype=dtype)
            waves = layers.bessel_basis(places, roots, sizes.cutoff, sizes.cutoff_power)
        else:
            waves = layers.bessel_basis(distances, roots, sizes.cutoff, sizes.cutoff_power)
            waves = jnp.where(graph.mask[..., None], waves, 0.0)
        speeds = layers.norm(state.velocities)
        if config.speed_limits:
            speeds = jnp.minimum(speeds, one_hot @ jnp.asarray(config.speed_limits, dtype))
        gaussians = layers.gaussian_basis(speeds, config.speed_max, sizes.speed_basis)
        mix = layers.SpeciesProduct({EVEN_SCALAR: sizes.speed_basis}, name="speed_embedding")
        return Embedded(
            one_hot=one_hot,
            speed=mix({EVEN_SCALAR: gaussians[:, None]}, one_hot)[EVEN_SCALAR][:, 0],
            velocity_harmonics=layers.spherical_harmonics(state.velocities, sizes.lmax_harmonics),
            lengths=layers.Lengths(distances, waves, at_knots=sizes.radial_intervals > 0),
            edges=products.Edges(graph, layers.spherical_harmonics(vectors, sizes.lmax_harmonics)),
        )


def shapes(config: ModelConfig, dtype=jnp.float32) -> Params:
    """Shapes and types of the weights, without computing anything."""
    n_atoms = 2
    zeros = np.zeros((n_atoms, 3), dtype)  # numpy: arrays of jax cost a compilation each
    system = System(
        np.full(n_atoms, config.elements[0]), np.ones(n_atoms, dtype), np.eye(3, dtype=dtype), np.zeros(3, bool)
    )
    graph = Graph(np.zeros((n_atoms, 1), np.int32), np.zeros((n_atoms, 1, 3), np.int8), np.zeros((n_atoms, 1), bool))
    network = TrajCast(config, products.shapes)
    make = lambda positions: network.init(jax.random.key(0), system, State(positions, positions), graph)  # noqa: E731
    return jax.eval_shape(make, zeros)["params"]


def init(key: Array, config: ModelConfig, dtype=jnp.float32) -> Params:
    """Random weights: standard normal, since the fan-in factors stand in the layers; Bessel roots n π.

    All are cut from one draw: compiling flax's draw for each weight takes most of a minute.
    """
    leaves, structure = jax.tree.flatten(shapes(config, dtype))
    ends = np.cumsum([leaf.size for leaf in leaves])
    drawn = jnp.split(jax.random.normal(key, (int(ends[-1]),), dtype), ends[:-1])
    params = structure.unflatten([values.reshape(leaf.shape) for values, leaf in zip(drawn, leaves, strict=True)])
    return {**params, "bessel_roots": jnp.pi * jnp.arange(1, config.architecture.radial_basis + 1, dtype=dtype)}


def batches_together(config: ModelConfig) -> bool:
    """True where a batch of systems by vmap is faster than one after the other, which XLA's CPU code is not."""
    sizes = config.architecture
    return jax.default_backend() != "cpu" or (sizes.radial_intervals > 0 and products.kernel_serves(sizes.lmax))


def correction(config: ModelConfig) -> state_module.Correct:
    """The conservation laws of a model."""
    if config.conserve_angular_momentum:
        return conservation.linear_and_angular(
            config.time_step_fs, config.net_linear_momentum, config.net_angular_momentum
        )
    return conservation.linear(config.time_step_fs, config.net_linear_momentum)


def make_propagate(
    config: ModelConfig,
    params: Params,
    convolution: Convolution = products.edge_convolution,
    *,
    reversible: bool = False,
) -> Propagate:
    """Returns one step of Δt: network, then conservation laws; Å and Å/fs.

    For roll-outs, give ``tables.tabulate(config, params)`` as ``params``.  ``reversible``: the step that
    `stepping.reversible` makes of it.
    """
    network, correct = TrajCast(config, convolution), correction(config)

    @full_precision
    def propagate(system: System, state: State, graph: Graph) -> State:
        output = jnp.asarray(network.apply({"params": params}, system, state, graph))
        moved = state.positions + config.displacement_rms * output[:, 0]
        return correct(system, state, State(moved, config.velocity_rms * output[:, 1]))

    if not reversible:
        return propagate
    step = propagators.reversible(propagate)
    # Once more: the start on the other side has another angular momentum, by the square of the miss.
    return full_precision(lambda system, state, graph: correct(system, state, step(system, state, graph)))


def isolate(config: ModelConfig, system: System, state: State) -> tuple[System, State]:
    """The same molecule without its box, for a model of isolated molecules; anything else as it is.

    Structure files often put a molecule into a periodic box.  The box is dropped if it does nothing: once
    molecules are joined across the boundary, no atom may see another one through it.  Molecules that are
    farther apart than the cutoff stay where the file has their first atoms.

    Raises:
        ValueError: an atom sees a periodic image within the cutoff.
    """
    if not (config.conserve_angular_momentum and np.any(system.pbc)):
        return system, state
    search = neighbors.plan(system, state.positions, config.architecture.cutoff)
    build = jax.jit(lambda positions: neighbors.build(search, system, positions).graph)
    graph = jax.tree.map(np.asarray, build(state.positions))
    images, seen = np.zeros((len(system.species), 3), int), set()
    for first in range(len(images)):
        waiting = [] if first in seen else [first]
        seen.update(waiting)
        while waiting:
            i = waiting.pop()
            for j, shift in zip(graph.senders[i][graph.mask[i]], graph.shifts[i][graph.mask[i]], strict=True):
                if int(j) not in seen:
                    images[j] = images[i] + shift
                    seen.add(int(j))
                    waiting.append(int(j))
    if np.any((images[graph.senders] - images[:, None] != graph.shifts)[graph.mask]):
        raise ValueError(
            "the model conserves angular momentum: it is for isolated molecules, but atoms see periodic "
            f"images within its cutoff of {config.architecture.cutoff:g} Å"
        )
    whole = state._replace(positions=state.positions + images @ system.cell)
    return system._replace(pbc=np.zeros(3, bool)), whole


def check_system(config: ModelConfig, system: System) -> None:
    """Raises ValueError if the model was not made for these elements, masses or boundary conditions."""
    from ase.data import chemical_symbols as symbols

    unknown = sorted(set(np.asarray(system.species).tolist()) - set(config.elements))
    known = ", ".join(symbols[z] for z in config.elements)
    if unknown:
        names = ", ".join(symbols[z] for z in unknown)
        raise ValueError(f"the structure holds {names}, which the model does not know; it was trained on {known}")
    expected = np.asarray(config.masses)[np.searchsorted(config.elements, system.species)]
    wrong = np.abs(system.masses - expected) > 1e-2 * expected
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"atom {i} ({symbols[system.species[i]]}) has mass {system.masses[i]:.4g} u, "
            f"the model was trained with {expected[i]:.4g} u"
        )
    if config.conserve_angular_momentum and np.any(system.pbc):
        raise ValueError("the model conserves angular momentum: it is for isolated molecules, not periodic cells")
