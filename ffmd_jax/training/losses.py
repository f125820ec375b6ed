"""What a training minimises, and what validation and test measure."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jax.sharding import Mesh

from ffmd_jax.core import display, neighbors
from ffmd_jax.core.state import Array, State, System, cast, is_isolated, take
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.data.pairs import Pairs, PairSets
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.models import model, trajcast
from ffmd_jax.models.config import Architecture, ModelConfig
from ffmd_jax.training import batches, parallel

Loss = Callable[[trajcast.Params, Any], tuple[Array, Array]]  # of one pair or frame: loss, absolute errors


class Errors(NamedTuple):
    """Mean absolute errors per component, and mean absolute values to relate them to; Å and Å/fs.

    The errors of each element's velocities are relative to the mean absolute component of these, %: where masses
    differ, the fast, light atoms alone decide the errors of all.
    """

    displacement_mae: float
    velocity_mae: float
    displacement_mean: float
    velocity_mean: float
    velocity_percent_by_element: dict[str, float]

    def __repr__(self) -> str:
        return display.line("Errors", self._rows())

    def _repr_html_(self) -> str:
        return display.table("Mean absolute errors of one step", self._rows())

    @property
    def displacement_percent(self) -> float:
        """MAE of the displacements relative to their mean absolute value, %."""
        return 100 * self.displacement_mae / self.displacement_mean

    @property
    def velocity_percent(self) -> float:
        """MAE of the velocities relative to their mean absolute value, %."""
        return 100 * self.velocity_mae / self.velocity_mean

    @property
    def mean_percent(self) -> float:
        """What makes a model the best: mean of the relative errors of displacements and velocities, %."""
        return 0.5 * (self.displacement_percent + self.velocity_percent)

    @property
    def finite(self) -> bool:
        """False after a training that left the finite numbers."""
        return bool(np.isfinite(self.displacement_mae + self.velocity_mae))

    @property
    def brief(self) -> str:
        """For a progress bar."""
        return f"v {self.velocity_percent:.2f} %"

    def as_dict(self) -> dict[str, float]:
        """Errors by their names in JSON."""
        by_element = self.velocity_percent_by_element.items()
        return {
            "displacement_mae_A": self.displacement_mae,
            "displacement_mae_relative_percent": self.displacement_percent,
            "velocity_mae_A_per_fs": self.velocity_mae,
            "velocity_mae_relative_percent": self.velocity_percent,
            **{f"velocity_mae_relative_percent_{element}": value for element, value in by_element},
        }

    def describe(self) -> str:
        """One line for people."""
        (_, displacements), (_, velocities), *elements = self._rows()
        by_element = f"; {elements[0][1]}" if elements else ""
        return f"mean absolute errors: Δr {displacements}, v {velocities}{by_element}"

    def _rows(self) -> list[tuple[str, str]]:
        """In words, with units."""
        rows = [
            ("displacements", f"{_plain(self.displacement_mae)} Å ({self.displacement_percent:.2f} %)"),
            ("velocities", f"{_plain(self.velocity_mae)} Å/fs ({self.velocity_percent:.2f} %)"),
        ]
        of = [f"{element} {value:.2f} %" for element, value in self.velocity_percent_by_element.items()]
        return [*rows, ("velocities by element", ", ".join(of))] if of else rows


def make_loss(
    config: ModelConfig,
    system: System,
    search: neighbors.Search,
    convolution: trajcast.Convolution = convolutions.edge_convolution,
    mass_weighting: bool = True,
    reversible: bool = False,
) -> Loss:
    """Returns ``(params, pair) -> (loss, absolute errors)`` for one pair.

    The loss is ½ MSE(Δr) + ½ MSE(v), each in units of its RMS.  ``mass_weighting`` multiplies squares by the atoms'
    masses, over their harmonic mean: with and without it, to predict zeros is a loss of 1 at equilibrium.
    ``reversible``: of the time-symmetrised step (`propagators.reversible`).  The errors are the mean absolute ones of
    each atom's components, ``[2, n_atoms]``, Å and Å/fs.

    Args:
        search: with room for the neighbours of all pairs that will come (`batches.search`).
    """
    weights = system.masses * np.mean(1 / system.masses) if mass_weighting else np.ones_like(system.masses)
    weights = weights[:, None]

    def loss(params: trajcast.Params, pair: Pairs) -> tuple[Array, Array]:
        propagate = trajcast.make_propagate(config, params, convolution, reversible=reversible)
        predicted = propagate(system, pair.state, neighbors.build(search, system, pair.state).graph)
        error_r = predicted.positions - pair.state.positions - pair.displacements
        error_v = predicted.velocities - pair.velocities
        scaled = (error_r / config.displacement_rms) ** 2 + (error_v / config.velocity_rms) ** 2
        return 0.5 * jnp.mean(weights * scaled), jnp.mean(jnp.abs(jnp.stack([error_r, error_v])), axis=-1)

    return loss


def make_evaluate(loss: Loss, devices: Mesh, at_once: int) -> Callable[[trajcast.Params, Any], Array]:
    """Returns ``(params, (examples, weights)) -> mean`` of what the loss measures; ``at_once`` examples together."""

    def share(params, pairs):
        errors = jax.lax.map(lambda pair: pair[1] * loss(params, pair[0])[1], pairs, batch_size=at_once)
        return jnp.sum(errors, axis=0)

    return jax.jit(parallel.map_shares(share, devices))


def make_validate(
    loss: Loss, summarize: Callable[[np.ndarray], Any], examples: Any, devices: Mesh, at_once: int = 8
) -> Callable[[trajcast.Params], Any]:
    """Returns ``params -> errors`` on pairs or frames, which stay on the devices.

    Args:
        summarize: makes the errors of the mean of what the loss measures.
        at_once: examples together.
    """
    placed, absolute = batches.whole(examples, devices), make_evaluate(loss, devices, at_once)
    return lambda params: summarize(np.asarray(absolute(params, placed)))


def summarize(config: ModelConfig, system: System, pairs: Pairs, found: np.ndarray) -> Errors:
    """`Errors` from the mean of what `make_loss` measures."""
    means = np.stack([np.mean(np.abs(x), axis=(0, 2)) for x in (pairs.displacements, pairs.velocities)])
    species, by_element = np.asarray(system.species), {}
    for element in config.elements:
        own = species == element
        if own.any():
            by_element[chemical_symbols[element]] = float(100 * found[1, own].mean() / means[1, own].mean())
    (error_r, error_v), (mean_r, mean_v) = found.mean(axis=1).tolist(), means.mean(axis=1).tolist()
    return Errors(error_r, error_v, mean_r, mean_v, by_element)


def _plain(value: float) -> str:
    """Three significant digits without exponent."""
    return np.format_float_positional(value, 3, unique=False, fractional=False)


def configure(sets: PairSets, architecture: Architecture) -> ModelConfig:
    """The model's configuration for some pairs: elements, masses, Δt, scales, neighbours from the training pairs.

    Raises:
        ValueError: no atom has a neighbour within the cutoff.
    """
    system = sets.system
    species, masses = np.asarray(system.species), np.asarray(system.masses)
    elements = tuple(int(z) for z in np.unique(species))
    scales = pair_sets.statistics(sets.train)
    few = take(sets.train.state, slice(None, None, max(1, len(sets.train.displacements) // 64)))
    mean, shortest = neighborhood(system, few, architecture.cutoff)
    # Gaussians up to 1.3 of the largest training speed leave room for a hotter moment in a rollout.
    return ModelConfig(
        elements=elements,
        masses=tuple(float(masses[species == z][0]) for z in elements),
        time_step_fs=sets.time_step_fs,
        displacement_rms=scales.displacement_rms,
        velocity_rms=scales.velocity_rms,
        speed_max=1.3 * scales.speed_max,
        speed_limits=tuple(pair_sets.speed_limits(sets.train, species, elements)),
        average_neighbors=mean,
        shortest_distance=shortest,
        isolated=is_isolated(system),
        architecture=architecture,
    )


def neighborhood(system: System, states: State, cutoff: float) -> tuple[float, float]:
    """Mean number of neighbours within the cutoff, and the shortest distance, Å, in some states."""
    search, alone = neighbors.plan(system, states, cutoff), single(system)

    @jax.jit
    def look(states: State):
        def of_one(state: State):
            graph = neighbors.build(search, alone, state).graph
            squares = jnp.sum(neighbors.vectors(state, graph) ** 2, axis=-1)
            return jnp.sum(graph.mask), jnp.min(jnp.where(graph.mask, squares, jnp.inf))

        return jax.lax.map(of_one, states)

    counts, squares = (np.asarray(values) for values in look(states))
    return float(counts.sum() / (len(counts) * len(system.species))), float(np.sqrt(squares.min()))


def check_fits(config: ModelConfig, data: PairSets) -> None:
    """Raises ValueError for pairs at another Δt than the model's, of other elements or masses."""
    if abs(data.time_step_fs - config.time_step_fs) > 1e-6:
        raise ValueError(f"the data have Δt = {data.time_step_fs:g} fs, the model {config.time_step_fs:g} fs")
    model.check_system(config, data.system)


def single(system: System) -> System:
    """The system in single precision, on the host: a program of several processes takes no array of one device."""
    return jax.tree.map(np.asarray, cast(system, jnp.float32))
