"""What a training needs to know of the kind of its model: propagators learn pairs, potentials labelled frames."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ffmd_jax.data import labelled
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.data.dataset_file import Dataset
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.models import family, potential, trajcast
from ffmd_jax.models.config import FamilyConfig, ModelConfig, PotentialConfig
from ffmd_jax.models.trajcast import Convolution
from ffmd_jax.training import batches, family_losses, losses, parallel, potential_losses, scales
from ffmd_jax.training.batches import Bucket
from ffmd_jax.training.losses import Loss
from ffmd_jax.training.settings import Training

_DEFAULTS = Training()


class Task(NamedTuple):
    """Functions of the configuration of a model and of the systems that it learns from.

    Attributes:
        form: ``(dataset, Δt or None, configuration or None) -> groups``: of each system its train, validation and test
            set, with its name.
        configure: ``(groups, architecture) -> configuration``.
        check_fits: ``(configuration, group)``, raises ValueError where they do not belong together.
        init: ``(key, configuration) -> weights``.
        pad: ``(examples, n_atoms) -> examples`` with atoms added.
        search: ``(bucket, cutoff) -> neighbour search`` with room for all its examples.
        make_loss: ``(configuration, groups, search, training, convolution, reversible) -> loss``.
        summarize: ``(configuration, group, examples, found) -> errors`` of the mean of what the loss measures.
        reverse: turns the time of an example round.
        member: ``(configuration, weights, label of examples) -> what the loss takes``; default: the weights.
        learner: ``(configuration, training, weights, their average, label of a batch)``: the same while it learns.
    """

    form: Callable[..., Any]
    configure: Callable[..., Any]
    check_fits: Callable[..., None]
    init: Callable[..., Any]
    pad: Callable[[Any, int], Any]
    search: Callable[..., Any]
    make_loss: Callable[..., Loss]
    summarize: Callable[..., Any]
    reverse: Callable[[Any], Any]
    member: Callable[[Any, Any, Any], Any] = lambda config, params, label: params
    learner: Callable[[Any, Training, Any, Any, Any], Any] = lambda config, training, params, average, label: params


def _form_pairs(data: Dataset, time_step_fs: float | None, config: ModelConfig | None) -> Any:
    if config is None or time_step_fs is not None:
        return pair_sets.form(data, time_step_fs)
    try:
        return pair_sets.form(data, config.time_step_fs)
    except ValueError as error:
        if abs(data.time_step_fs - config.time_step_fs) < 1e-6:
            raise
        mismatch = f"the data have Δt = {data.time_step_fs:g} fs, the model {config.time_step_fs:g} fs"
        raise ValueError(f"{mismatch}, and {error}") from error


def _propagator_loss(config, groups, search, training, convolution, reversible) -> Loss:
    inverse_mass = scales.mean_inverse_mass(groups) if training.mass_weighting else None
    return losses.make_loss(config, search, convolution, inverse_mass, reversible)


def _family_loss(config, groups, search, training, convolution, reversible) -> Loss:
    inverse_mass = scales.mean_inverse_mass(groups) if training.mass_weighting else None
    return family_losses.make_loss(config, search, convolution, inverse_mass, reversible)


def _form_frames(data: Dataset, time_step_fs: float | None, config: PotentialConfig | None) -> Any:
    if time_step_fs is not None:
        raise ValueError("a potential has no time step: it learns from single frames")
    return labelled.form(data) if config is None else labelled.form(data, config.elements, config.atomic_energies_eV)


def _potential_loss(config, groups, search, training, convolution, reversible) -> Loss:
    if reversible:
        raise ValueError("only the step of a propagator can be time-symmetrised")
    return potential_losses.make_loss(config, search, groups[0].known, training, convolution)


TASKS = {
    "propagator": Task(
        _form_pairs, scales.configure, scales.check_fits, trajcast.init, pair_sets.padded, batches.pair_search,
        _propagator_loss, losses.summarize, batches.reverse,
    ),
    "family": Task(
        family_losses.form, family_losses.configure, family_losses.check_fits, family.init,
        pair_sets.padded, batches.pair_search, _family_loss, family_losses.summarize, batches.reverse, family.member,
        family_losses.learner,
    ),
    "potential": Task(
        _form_frames, potential_losses.configure, potential_losses.check_fits, potential.init, labelled.padded,
        batches.state_search, _potential_loss, potential_losses.summarize, lambda frame: frame,
    ),
}  # fmt: skip


def kind_of(config: Any) -> str:
    """Of the model with this configuration."""
    kinds = {PotentialConfig: "potential", FamilyConfig: "family"}
    return kinds.get(type(config), "propagator")


def labels(config: Any) -> tuple[float, ...]:
    """Of the batches, whose losses count relative to those of the same label: errors at a small Δt are small, too."""
    return config.time_steps_fs if isinstance(config, FamilyConfig) else ()


def of(config: Any) -> Task:
    """The task of the model with this configuration."""
    return TASKS[kind_of(config)]


def buckets(config: Any, groups: Sequence[Any], split: str) -> tuple[Bucket, ...]:
    """The examples of a split of all systems, padded to few sizes."""
    systems, examples = [sets.system for sets in groups], [getattr(sets, split) for sets in groups]
    labels = [sets.time_step_fs for sets in groups] if kind_of(config) == "family" else None
    return batches.buckets(systems, examples, of(config).pad, labels)


def make_loss_of(
    config: Any,
    groups: Sequence[Any],
    training: Training = _DEFAULTS,
    convolution: Convolution = convolutions.edge_convolution,
    reversible: bool = False,
) -> Callable[[Bucket], Loss]:
    """Returns ``bucket -> loss``, with room for the neighbours of its examples."""
    task = of(config)

    def loss_of(bucket: Bucket) -> Loss:
        search = task.search(bucket, config.architecture.cutoff)
        return task.make_loss(config, groups, search, training, convolution, reversible)

    return loss_of


def make_summarize(config: Any, groups: Sequence[Any], split: str) -> Callable[[dict[int, np.ndarray]], Any]:
    """Returns what makes the errors on a split of the means, of each system, of what the loss measures."""

    def summarize(found: dict[int, np.ndarray]) -> Any:
        of_groups = {}
        for i in sorted(found):
            examples = getattr(groups[i], split)
            of_groups[groups[i].name or str(i)] = of(config).summarize(config, groups[i], examples, found[i])
        return losses.together(of_groups)

    return summarize


def check_fits(config: Any, groups: Sequence[Any]) -> None:
    """Raises ValueError for data of other elements, masses or Δt than the model's; of several systems it names one."""
    for sets in groups:
        try:
            of(config).check_fits(config, sets)
        except ValueError as error:
            raise ValueError(f"{sets.name}: {error}" if len(groups) > 1 else str(error)) from error


def evaluate(config: Any, params: Any, groups: Sequence[Any], split: str = "test", reversible: bool = False) -> Any:
    """Errors of a model on some pairs or frames; ``reversible``: of the time-symmetrised step.

    Raises:
        ValueError: pairs at another Δt than the model's, other elements or masses, or nothing in the split.
    """
    pair_sets.check_split(groups, split)
    check_fits(config, groups)
    at_once = 8 if trajcast.batches_together(config) else 1
    alike = Training(mass_weighting=False)  # which decides the loss, not the errors
    loss_of = make_loss_of(config, groups, alike, reversible=reversible)
    summarize = make_summarize(config, groups, split)
    devices = parallel.mesh()
    member = functools.partial(of(config).member, config)
    validate = losses.make_validate(loss_of, summarize, buckets(config, groups, split), devices, at_once, member)
    return validate(parallel.replicate(params, devices))
