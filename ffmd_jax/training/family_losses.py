"""What the training of a family minimises: the losses of its members, each at its Δt."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import Array, System, take
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.data.dataset_file import Dataset
from ffmd_jax.data.pairs import Pairs, PairSets
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.models import family, trajcast
from ffmd_jax.models import model as models
from ffmd_jax.models.config import Architecture, FamilyConfig
from ffmd_jax.training import losses, scales
from ffmd_jax.training.losses import Loss
from ffmd_jax.training.settings import Training

_TERMS = 2  # functions of Δt: with more, what is learned at one Δt helps the others less


def form(data: Dataset, time_steps_fs: Sequence[float] | None, config: FamilyConfig | None) -> Any:
    """The pairs at every Δt; as many at each to validate and to test with, so that one program does."""
    if time_steps_fs is None:
        assert config is not None
        time_steps_fs = config.time_steps_fs
    formed = [sets for step in time_steps_fs for sets in pair_sets.form(data, step)]
    for split in ("validation", "test"):
        most = min(pair_sets.count(getattr(sets, split)) for sets in formed)
        for i, sets in enumerate(formed):
            held = getattr(sets, split)
            even = pair_sets.evenly(pair_sets.count(held), most) if most else slice(0, 0)
            formed[i] = sets._replace(**{split: take(held, even)})
    several = len(data.groups) > 1
    return tuple(
        sets._replace(name=f"{sets.name}, {sets.time_step_fs:g} fs" if several else f"{sets.time_step_fs:g} fs")
        for sets in formed
    )


def configure(groups: Sequence[PairSets], architecture: Architecture) -> FamilyConfig:
    """The configuration of a family for pairs at several Δt.

    Raises:
        ValueError: as `scales.configure`.
    """
    steps = sorted({sets.time_step_fs for sets in groups})
    own = [[sets for sets in groups if sets.time_step_fs == step] for step in steps]
    units = tuple(pair_sets.statistics(of_step).displacement_rms for of_step in own)
    member = scales.configure(own[-1], architecture)
    kept = tuple(scales.carried(of_step, member.elements) for of_step in own)
    return FamilyConfig(tuple(steps), units, kept, min(len(steps), _TERMS), member)


def check_fits(config: FamilyConfig, data: PairSets) -> None:
    """Raises ValueError for pairs at a Δt beyond those of the family, of other elements or masses."""
    family.check(config, data.time_step_fs)
    models.check_system(config.member, data.system)


def learner(config: FamilyConfig, training: Training, params: Any, average: Any, time_step_fs: Any) -> family.Member:
    """The member with a Δt, fs, while it learns; with that of Δt/2, if a step is to be two of half its length."""
    own = family.member(config, params, time_step_fs)
    return family.with_half(config, own, average, training.semigroup_weight) if training.semigroup_weight else own


def make_loss(
    config: FamilyConfig,
    search: neighbors.Search,
    convolution: trajcast.Convolution = convolutions.edge_convolution,
    inverse_mass: float | None = None,
    reversible: bool = False,
) -> Loss:
    """Returns ``(member, system, pair) -> (loss, absolute errors)`` as `losses.make_loss`, for any member of a family.

    The loss of a member with a half is also what it differs by from two steps of that.
    """

    def loss(member: family.Member, system: System, pair: Pairs) -> tuple[Array, Array]:
        make = functools.partial(family.make_propagate, config, convolution=convolution, reversible=reversible)
        rms = (member.displacement_rms, config.member.velocity_rms)
        predicted = losses.step_of(make(member), search, system, pair.state)
        value, errors = losses.errors_of(predicted, pair, rms, inverse_mass, system)
        if member.half:
            (half, weight), twice = member.half, pair.state
            for _ in range(2):
                twice = losses.step_of(make(half), search, system, twice)
            target = pair._replace(displacements=twice.positions - pair.state.positions, velocities=twice.velocities)
            value += weight * losses.errors_of(predicted, target, rms, inverse_mass, system)[0]
        return value, errors

    return loss


def summarize(config: FamilyConfig, sets: PairSets, pairs: Pairs, found: np.ndarray) -> losses.Errors:
    """The errors at one Δt; see `losses.summarize`."""
    return losses.summarize(config.member, sets, pairs, found)
