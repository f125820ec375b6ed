"""A training that starts from a model: what it takes over, what its data change, and what it learns again."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ffmd_jax.core.state import take
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.models import elements
from ffmd_jax.models import model as models
from ffmd_jax.models.config import Architecture


def check_same_sizes(own: Architecture, wanted: Architecture | None, init: Any) -> None:
    """Raises ValueError where other sizes are wanted than those of the model to start from."""
    for field, value in vars(own).items():
        if wanted is not None and getattr(wanted, field) != value:
            raise ValueError(
                f"{field} = {getattr(wanted, field)}, but {init} has {value}: a training that starts from its weights "
                "takes its sizes; leave them out"
            )


def with_new_elements(config: Any, weights: Any, groups: Sequence[Any], say: Callable[[str], None]) -> tuple[Any, Any]:
    """The model with the elements that the data have and it does not."""
    masses: dict[int, float] = {}
    for sets in groups:
        masses |= dict(zip(np.asarray(sets.system.species).tolist(), map(float, sets.system.masses), strict=True))
    new = {z: mass for z, mass in masses.items() if z not in config.elements}
    if not new:
        return config, weights
    limits = dict(zip(new, pair_sets.speed_limits([s for s in groups if pair_sets.count(s.train)], tuple(new)),
                      strict=True))  # fmt: skip
    config, weights, like = elements.extended(config, weights, new, limits)
    listed = ", ".join("{} as {}".format(*models.symbols(pair)) for pair in sorted(like.items()))
    say(f"elements that the model does not know begin like others: {listed}")
    return config, weights


def with_time_step(config: Any, groups: Sequence[Any], wanted_fs: float | None, say: Callable[[str], None]) -> Any:
    """The model with the Δt that was asked for, its outputs in units of what the atoms move in that time."""
    if wanted_fs in (None, config.time_step_fs):
        return config
    say(f"Δt is {wanted_fs:g} fs, not the {config.time_step_fs:g} fs of `init`: its outputs are scaled to the data")
    found = pair_sets.statistics(groups)
    scales = {"displacement_rms": float(found.displacement_rms), "velocity_rms": float(found.velocity_rms)}
    return dataclasses.replace(config, time_step_fs=wanted_fs, **scales)


def with_speed_limits(config: Any, groups: Sequence[Any], say: Callable[[str], None]) -> Any:
    """The model with higher speed limits, for elements of which ten times as many atoms exceed them as do by chance.

    Speeds above its limit look to the network like the limit: from a hotter run it could not learn.
    """
    trained = [sets for sets in groups if pair_sets.count(sets.train)]
    there = tuple(sorted({int(z) for sets in trained for z in np.asarray(sets.system.species)}))
    usual, limits = pair_sets.speed_limits(trained, there, 1e-3), pair_sets.speed_limits(trained, there)
    before = dict(zip(config.elements, config.speed_limits, strict=False))
    higher = {
        z: min(limit, config.speed_max)
        for z, often, limit in zip(there, usual, limits, strict=True)
        if often > before.get(z, np.inf)
    }
    if not higher:
        return config
    listed = ", ".join(f"{models.symbols([z])[0]} {limit:.3f}" for z, limit in higher.items())
    say(f"the data have faster atoms than those of `init`: its speed limits become {listed} Å/fs")
    return dataclasses.replace(config, speed_limits=tuple((before | higher)[z] for z in config.elements))


def to_rehearse(old: Sequence[Any], new: Sequence[Any], share: float) -> tuple[Any, ...]:
    """Old systems, with so many of their training pairs that these are a share of all, and nothing to judge by.

    Raises:
        ValueError: a share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"rehearse_share must lie between 0 and 1, not {share}")
    n_new = sum(pair_sets.count(sets.train) for sets in new)
    sizes = [pair_sets.count(sets.train) for sets in old]
    chosen = pair_sets.evenly(sum(sizes), max(1, round(n_new * share / (1 - share))))
    found, low = [], 0
    for sets, size in zip(old, sizes, strict=True):
        own = chosen[(chosen >= low) & (chosen < low + size)] - low
        nothing = take(sets.train, slice(0, 0))
        found.append(sets._replace(train=take(sets.train, own), validation=nothing, test=nothing))
        low += size
    return tuple(found)
