"""What a training minimises, and what validation and test measure."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jax.sharding import Mesh

from ffmd_jax.core import mechanics
from ffmd_jax.core.state import Array, State, System, cast
from ffmd_jax.data import dataset as datasets
from ffmd_jax.models import convolution as products
from ffmd_jax.models import trajcast
from ffmd_jax.models.config import ModelConfig
from ffmd_jax.training import batches, parallel
from ffmd_jax.training.batches import Batch, Examples
from ffmd_jax.training.settings import Training

Loss = Callable[[trajcast.Params, Examples], tuple[Array, Array]]
Prepare = Callable[[trajcast.Params, Batch], Examples]


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


def make_prepare(config: ModelConfig, system: System, training: Training, convolution: trajcast.Convolution) -> Prepare:
    """Returns what makes of weights and an entry of a batch the pair to learn from.

    The entry's chain is reversed in time or not; the network takes some steps along it (push-forward); noise is added.
    """
    sigma = State(
        jnp.float32(training.noise * config.displacement_rms), jnp.float32(training.noise * config.velocity_rms)
    )

    def prepare(params: trajcast.Params, entry: Batch) -> Examples:
        own = system._replace(cell=entry.pairs.cell[0])
        turned = batches.reverse_chain(entry.pairs)
        chain = jax.tree.map(lambda a, b: jnp.where(entry.backwards, a, b), turned, entry.pairs)
        pair = jax.tree.map(lambda x: x[-1], chain)
        key_steps, key_noise = jax.random.split(jax.random.key(entry.seeds))
        if training.push_forward:
            propagate = trajcast.make_propagate(config, jax.lax.stop_gradient(params), convolution)
            n_own = jax.random.randint(key_steps, (), 0, training.push_forward + 1)
            pair = batches.push_forward(propagate, own, chain, n_own)
        return batches.perturb(key_noise, own, pair, sigma) if training.noise else pair

    return prepare


def make_loss(
    config: ModelConfig,
    system: System,
    convolution: trajcast.Convolution = products.edge_convolution,
    kinetic_energy_penalty: float = 0.0,
    mass_weighting: bool = True,
    reversible: bool = False,
) -> Loss:
    """Returns ``(params, pair) -> (loss, absolute errors)`` for one pair.

    The loss is ½ MSE(Δr) + ½ MSE(v), each in units of its RMS, and ``kinetic_energy_penalty`` times the squared
    relative error of the kinetic energy.  ``mass_weighting`` multiplies squares by the atoms' masses, over their
    harmonic mean: with and without it, to predict zeros is a loss of 1 at equilibrium.  ``reversible``: of the step
    that `stepping.reversible` makes of the model's.  The errors are the mean absolute ones of each atom's
    components, ``[2, n_atoms]``, Å and Å/fs.
    """
    weights = system.masses * np.mean(1 / system.masses) if mass_weighting else np.ones_like(system.masses)
    weights = weights[:, None]

    def loss(params: trajcast.Params, pair: Examples) -> tuple[Array, Array]:
        propagate = trajcast.make_propagate(config, params, convolution, reversible=reversible)
        predicted = propagate(system._replace(cell=pair.cell), pair.before, pair.graph_before)
        error_r = predicted.positions - pair.before.positions - pair.displacements
        error_v = predicted.velocities - pair.after.velocities
        scaled = (error_r / config.displacement_rms) ** 2 + (error_v / config.velocity_rms) ** 2
        squares = jnp.mean(weights * scaled)
        if kinetic_energy_penalty:
            found, right = (mechanics.kinetic_energy(system, x.velocities) for x in (predicted, pair.after))
            squares += 2 * kinetic_energy_penalty * (found / right - 1) ** 2
        return 0.5 * squares, jnp.mean(jnp.abs(jnp.stack([error_r, error_v])), axis=-1)

    return loss


def make_evaluate(loss: Loss, devices: Mesh, at_once: int) -> Callable[[trajcast.Params, Any], Array]:
    """Returns ``(params, (examples, weights)) -> [2, n_atoms]``: mean absolute errors of Δr, Å, and v, Å/fs.

    ``at_once`` pairs together.
    """

    def share(params, pairs):
        errors = jax.lax.map(lambda pair: pair[1] * loss(params, pair[0])[1], pairs, batch_size=at_once)
        return jnp.sum(errors, axis=0)

    return jax.jit(parallel.map_shares(share, devices))


def evaluate(
    config: ModelConfig,
    params: trajcast.Params,
    data: datasets.Dataset,
    pairs: datasets.Pairs,
    reversible: bool = False,
) -> Errors:
    """Errors of a model on some pairs of a dataset; ``reversible``: of the step that `stepping.reversible` makes of it.

    Raises:
        ValueError: data at another Δt than the model's, other elements or masses.
    """
    check_fits(config, data)
    devices = parallel.mesh()
    loss = make_loss(config, single(data.system), reversible=reversible)
    return make_validate(config, dataclasses.replace(data, validation=pairs), loss, devices)(
        parallel.replicate(params, devices)
    )


def make_validate(
    config: ModelConfig, data: datasets.Dataset, loss: Loss, devices: Mesh, at_once: int = 8
) -> Callable[[trajcast.Params], Errors]:
    """Returns ``params -> errors`` on the validation pairs, which stay on the devices."""
    table = batches.make(data.system, data.validation, config.architecture.cutoff)
    pairs = batches.whole(table, devices)
    absolute = make_evaluate(loss, devices, at_once if trajcast.batches_together(config) else 1)
    values = data.validation.displacements, data.validation.velocities
    means = np.stack([np.mean(np.abs(x), axis=(0, 2)) for x in values])

    def errors(params: trajcast.Params) -> Errors:
        found = np.asarray(absolute(params, pairs))
        by_element = {}
        for element in config.elements:
            own = data.system.species == element
            by_element[chemical_symbols[element]] = float(100 * found[1, own].mean() / means[1, own].mean())
        (error_r, error_v), (mean_r, mean_v) = found.mean(axis=1).tolist(), means.mean(axis=1).tolist()
        return Errors(error_r, error_v, mean_r, mean_v, by_element)

    return errors


def check_fits(config: ModelConfig, data: datasets.Dataset) -> None:
    """Raises ValueError for data at another Δt than the model's, of other elements or masses."""
    if abs(data.time_step_fs - config.time_step_fs) > 1e-6:
        raise ValueError(f"the data have Δt = {data.time_step_fs:g} fs, the model {config.time_step_fs:g} fs")
    trajcast.check_system(config, data.system)


def single(system: System) -> System:
    """The system in single precision, on the host: a program of several processes takes no array of one device."""
    return jax.tree.map(np.asarray, cast(system, jnp.float32))
