"""What a training needs to know of the kind of its model: propagators learn pairs, potentials labelled frames."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ffmd_jax.data import labelled
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.data.dataset_file import Dataset
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.models import potential, trajcast
from ffmd_jax.models.config import ModelConfig, PotentialConfig
from ffmd_jax.models.trajcast import Convolution
from ffmd_jax.training import batches, losses, parallel, potential_losses
from ffmd_jax.training.losses import Loss
from ffmd_jax.training.settings import Training

_DEFAULTS = Training()


class Task(NamedTuple):
    """Functions of the configuration of a model and of the sets that it learns from.

    Attributes:
        form: ``(dataset, Δt or None, configuration or None) -> sets`` with system, train, validation and test.
        configure: ``(sets, architecture) -> configuration``.
        check_fits: ``(configuration, sets)``, raises ValueError where they do not belong together.
        init: ``(key, configuration) -> weights``.
        make_loss: ``(configuration, sets, examples, training=…, convolution=…) -> loss`` with room for the examples.
        summarize: ``(configuration, sets, examples, found) -> errors`` of the mean of what the loss measures.
        reverse: turns the time of an example round.
    """

    form: Callable[..., Any]
    configure: Callable[..., Any]
    check_fits: Callable[..., None]
    init: Callable[..., Any]
    make_loss: Callable[..., Loss]
    summarize: Callable[..., Any]
    reverse: Callable[[Any], Any]


def _form_pairs(data: Dataset, time_step_fs: float | None, config: ModelConfig | None) -> Any:
    return pair_sets.form(data, time_step_fs)


def _propagator_loss(
    config: ModelConfig,
    sets: Any,
    examples: Any,
    training: Training = _DEFAULTS,
    convolution: Convolution = convolutions.edge_convolution,
    reversible: bool = False,
) -> Loss:
    system = losses.single(sets.system)
    search = batches.search(system, examples, config.architecture.cutoff)
    return losses.make_loss(config, system, search, convolution, training.mass_weighting, reversible)


def _form_frames(data: Dataset, time_step_fs: float | None, config: PotentialConfig | None) -> Any:
    if time_step_fs is not None:
        raise ValueError("a potential has no time step: it learns from single frames")
    return labelled.form(data, None if config is None else config.atomic_energies_eV)


def _potential_loss(
    config: PotentialConfig,
    sets: Any,
    examples: Any,
    training: Training = _DEFAULTS,
    convolution: Convolution = convolutions.edge_convolution,
    reversible: bool = False,
) -> Loss:
    if reversible:
        raise ValueError("only the step of a propagator can be time-symmetrised")
    system = losses.single(sets.system)
    search = potential_losses.search(system, examples, config.architecture.cutoff)
    return potential_losses.make_loss(config, system, search, sets.known, training, convolution)


TASKS = {
    "propagator": Task(
        _form_pairs, losses.configure, losses.check_fits, trajcast.init, _propagator_loss,
        lambda config, sets, examples, found: losses.summarize(config, sets.system, examples, found), batches.reverse,
    ),
    "potential": Task(
        _form_frames, potential_losses.configure, potential_losses.check_fits, potential.init, _potential_loss,
        lambda config, sets, examples, found: potential_losses.summarize(
            config, sets.system, examples, sets.known, found
        ),
        lambda frame: frame,
    ),
}  # fmt: skip


def kind_of(config: Any) -> str:
    """Of the model with this configuration."""
    return "potential" if isinstance(config, PotentialConfig) else "propagator"


def of(config: Any) -> Task:
    """The task of the model with this configuration."""
    return TASKS[kind_of(config)]


def evaluate(config: Any, params: Any, sets: Any, examples: Any, reversible: bool = False) -> Any:
    """Errors of a model on some pairs or frames; ``reversible``: of the time-symmetrised step.

    Raises:
        ValueError: pairs at another Δt than the model's, other elements or masses.
    """
    task, devices = of(config), parallel.mesh()
    task.check_fits(config, sets)
    loss = task.make_loss(config, sets, examples, reversible=reversible)

    def summarize(found: np.ndarray) -> Any:
        return task.summarize(config, sets, examples, found)

    at_once = 8 if trajcast.batches_together(config) else 1
    return losses.make_validate(loss, summarize, examples, devices, at_once)(parallel.replicate(params, devices))
