"""The optimizer of a training and its learning rate."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from ffmd_jax.training.settings import Training


def schedule(training: Training, n_steps: int) -> optax.Schedule:
    """Learning rate of a step: linear warm-up, then cosine decay to zero over ``n_steps``, or none before a plateau."""
    warmup = min(training.warmup_steps, max(1, n_steps // 10))
    if training.schedule == "plateau":
        return optax.warmup_constant_schedule(0.0, training.peak_rate, warmup)
    return optax.warmup_cosine_decay_schedule(0.0, training.peak_rate, warmup, n_steps)


def make(training: Training, n_steps: int) -> optax.GradientTransformation:
    """Clipping, then Muon or Adam (with AMSGrad) at the rates of `schedule`.

    The decay of the weights fades with the rate (Defazio 2025, doi:10.48550/arXiv.2506.02285).  With a constant one,
    the last steps end where it balances the gradient, not where the gradient vanishes: predictions are too small by a
    few 1e-4, which no error shows, but in a rollout takes energy from one element that another has to make up for.
    """
    rates = schedule(training, n_steps)
    # optax takes a schedule; the types of muon do not say so.
    decay: Any = lambda step: training.weight_decay * rates(step) / training.peak_rate  # noqa: E731
    if training.optimizer == "muon":
        rule = optax.contrib.muon(rates, weight_decay=decay, adam_b2=0.99)
    else:
        rule = optax.amsgrad(rates)
    return optax.chain(optax.clip_by_global_norm(training.clip_norm), rule)


def plateau(training: Training) -> optax.GradientTransformationExtraArgs:
    """What scales the learning rate by validation errors, one at the end of each epoch."""
    return optax.contrib.reduce_on_plateau(training.plateau_factor, training.plateau_patience)


def make_after_epoch(training: Training) -> Callable[[Any, float], Any]:
    """Returns ``(state, validation error) -> state`` of `plateau` at the end of an epoch; compiled once."""
    rule = plateau(training)
    update = jax.jit(lambda state, value: rule.update((), state, value=value)[1])
    return lambda state, error: update(state, np.float32(error))
