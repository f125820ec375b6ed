"""Training: one optimizer step, and `fit`, on one or many devices, in one or many processes.

Several steps run per call of one compiled program, which is the same for every block of every epoch.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ffmd_jax.core.state import Array, cast
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.models import trajcast
from ffmd_jax.training import batches, losses, optimizer, parallel, tasks
from ffmd_jax.training.batches import Batch
from ffmd_jax.training.settings import Training

_DIVERGED_LOSS = 1e4  # a network that predicts that nothing moves has about 1
_FOLLOW = 0.02  # of what a batch adds to the recent loss of its label


class TrainState(NamedTuple):
    """What changes in training: weights, their moving average, optimizer, plateau, step, steps skipped for NaN.

    ``typical`` is the recent loss of each label of batches; (): all batches count the same.
    """

    params: trajcast.Params
    average: trajcast.Params
    optimizer: Any
    plateau: Any
    step: Array
    skipped: Array
    typical: Any = ()


class Diverged(ValueError):
    """Training that left the finite numbers for good."""


class Progress(NamedTuple):
    """Where a fit is, after each block of steps.

    Attributes:
        state: weights and optimizer; valid until the fit goes on, whose next block takes its memory.
        epoch: epochs completed, float.
        loss: mean training loss of the block.
        gradient_norm: mean norm of the gradient in the block, before clipping.
        learning_rate: of the last step.
        configurations_per_s: pairs, or frames, per second in the block; None for the first, which compiles.
        validation: errors on the validation set if this block ended an epoch, else None.
    """

    state: TrainState
    epoch: float
    loss: float
    gradient_norm: float
    learning_rate: float
    configurations_per_s: float | None
    validation: Any


def make_train_step(
    of_buckets: Sequence[losses.Loss],
    training: Training,
    rule: optax.GradientTransformation,
    devices: Mesh,
    together: bool,
    reverse: Callable[[Any], Any] = batches.reverse,
    learner: Callable[[Any, Any, Any], Any] = lambda params, average, label: params,
    labels: Sequence[float] = (),
) -> Callable[[TrainState, Sequence[Batch], Any], tuple[TrainState, Array]]:
    """Returns ``(state, batches, i) -> (state, [loss, gradient norm])``, learning from the batch of the i-th bucket.

    Every device takes its part of the batch.

    A step whose gradient or update is not finite changes nothing but the count of skipped steps.

    Args:
        of_buckets: the loss of each bucket.
        together: all pairs of a device at once, not one after the other (`trajcast.batches_together`).
        reverse: turns the time of a pair round.
        learner: ``(weights, their average, label of the batch)`` -> what the loss takes.
        labels: of batches whose losses are seen relative to the recent loss of their label; (): as they are.
    """

    def make_share(loss: losses.Loss):
        def one(params, batch: Batch):
            turned = jax.tree.map(functools.partial(jnp.where, batch.backwards), reverse(batch.pairs), batch.pairs)
            return batch.weights * loss(params, batch.systems, turned)[0]

        def share(weights, batch: Batch):
            """Loss and gradient, summed."""
            params, average = weights
            if together:
                many = jax.vmap(one, in_axes=(None, 0))
                return jax.value_and_grad(lambda p: jnp.sum(many(learner(p, average, batch.labels[0]), batch)))(params)

            def of_pair(params, pair: Batch):
                return one(learner(params, average, pair.labels), pair)

            def add(total, pair):
                return jax.tree.map(jnp.add, total, jax.value_and_grad(of_pair)(params, pair)), None

            zeros = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, params))
            return jax.lax.scan(add, zeros, batch)[0]

        return parallel.map_shares(share, devices)

    means = [make_share(loss) for loss in of_buckets]

    def step(state: TrainState, batches: Sequence[Batch], i: Any = 0) -> tuple[TrainState, Array]:
        both = zip(means, batches, strict=True)
        branches = [functools.partial(mean, (state.params, state.average), batch) for mean, batch in both]
        value, gradient = branches[0]() if len(branches) == 1 else jax.lax.switch(i, branches)
        typical = state.typical
        if labels:
            own = jnp.asarray(labels, jnp.float32) == jnp.stack([batch.labels[0] for batch in batches])[i]
            usual = jnp.sum(jnp.where(own, typical, 0))
            gradient = jax.tree.map(lambda g: g / usual, gradient)
            typical = jnp.where(own, typical + _FOLLOW * (jnp.clip(value, 0, 10 * usual) - usual), typical)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(norm)
        gradient = jax.tree.map(lambda g: jnp.where(finite, g, 0), gradient)
        updates, moments = rule.update(gradient, state.optimizer, state.params)
        updates = jax.tree.map(lambda u: state.plateau.scale * u, updates)
        finite &= jnp.isfinite(optax.tree.norm(updates))
        params: Any = optax.apply_updates(state.params, updates)
        # The average starts as a plain mean, so that it forgets the random weights.
        decay = jnp.minimum(training.ema_decay, (1 + state.step) / (10 + state.step)).astype(jnp.float32)
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, params)
        new = TrainState(params, average, moments, state.plateau, state.step + 1, state.skipped, typical)
        kept = state._replace(step=state.step + 1, skipped=state.skipped + 1)
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, kept), jnp.stack([value, norm])

    return step


def make_block(
    take_step: Callable, devices: Mesh
) -> Callable[[TrainState, Sequence[Batch], np.ndarray, int], tuple[TrainState, Array]]:
    """Returns the compiled ``(state, many, order, n_steps) -> (state, values)`` of the first ``n_steps`` many.

    ``order`` says which bucket each step takes its batch from.  The number is known only at run time, so that a shorter
    block is no other program.  The state's memory is reused.  ``values`` are those of `make_train_step`,
    ``[block_steps, 2]``.
    """

    def run(state: TrainState, many: Sequence[Batch], order: Array, n_steps: Array) -> tuple[TrainState, Array]:
        def one(i, carry):
            state, values = carry
            state, value = take_step(state, jax.tree.map(lambda x: x[i], many), order[i])
            return state, values.at[i].set(value)

        nothing = jnp.zeros((len(order), 2), jnp.float32)
        return jax.lax.fori_loop(0, n_steps, one, (state, nothing))

    return jax.jit(run, donate_argnums=0, out_shardings=NamedSharding(devices, PartitionSpec()))


def initial(config: Any, training: Training, n_steps: int, params: trajcast.Params | None = None) -> TrainState:
    """The state before the first step, from random or given weights, on all devices."""

    @jax.jit  # one program instead of a hundred small ones
    def begin(weights: trajcast.Params | None) -> TrainState:
        random = jax.random.fold_in(jax.random.key(training.seed), 0)
        given = tasks.of(config).init(random, config) if weights is None else weights
        start: Any = cast(given, jnp.float32)
        zero = jnp.zeros((), jnp.int32)
        moments = optimizer.make(training, n_steps).init(start)
        plateau, n_labels = optimizer.plateau(training).init(zero.astype(jnp.float32)), len(tasks.labels(config))
        typical = jnp.ones(n_labels, jnp.float32) if n_labels else ()
        return TrainState(start, start, moments, plateau, zero, zero, typical)

    return parallel.replicate(begin(params), parallel.mesh())


def fit(
    config: Any,
    groups: Sequence[Any],
    training: Training,
    state: TrainState | None = None,
    block_steps: int = 25,
    convolution: trajcast.Convolution = convolutions.edge_convolution,
) -> Iterator[Progress]:
    """Trains, and yields after every block of steps; give the last ``state`` to go on from there.

    Args:
        config: of a propagator or a potential, which decides what is learned (`tasks`).
        groups: systems with their pairs or labelled frames.

    Raises:
        Diverged: no finite gradient or validation error.
        RuntimeError: the devices have too little memory; the message names a smaller batch.
    """
    tasks.check_fits(config, groups)
    devices, train = parallel.mesh(), tasks.buckets(config, groups, "train")
    per_epoch = batches.n_batches(train, training)
    batch_size = min(training.batch_size, max(batches.count(bucket.examples) for bucket in train))
    n_steps = training.epochs * per_epoch
    rates, after_epoch = optimizer.schedule(training, n_steps), optimizer.make_after_epoch(training)
    current = initial(config, training, n_steps) if state is None else state
    together = trajcast.batches_together(config)
    loss_of = tasks.make_loss_of(config, groups, training, convolution)

    with out_of_memory(batch_size, devices.size):
        rule, task = optimizer.make(training, n_steps), tasks.of(config)
        learner = functools.partial(task.learner, config, training)
        take_step = make_train_step(
            [loss_of(bucket) for bucket in train], training, rule, devices, together, task.reverse, learner,
            tasks.labels(config),
        )  # fmt: skip
        run_block = make_block(take_step, devices)
        at_once = -(-batch_size // devices.size) if together else 1
        summarize, held_out = (
            tasks.make_summarize(config, groups, "validation"),
            tasks.buckets(config, groups, "validation"),
        )
        member = functools.partial(task.member, config)
        validate = losses.make_validate(loss_of, summarize, held_out, devices, at_once, member)
        feed = batches.blocks(train, training, int(current.step), block_steps, devices)
        coming, compiled, failed = next(feed), False, 0
    while (done := int(current.step)) < n_steps:
        block, before, began = coming, int(current.skipped), time.perf_counter()
        with out_of_memory(batch_size, devices.size):
            current, values = run_block(current, block.batches, block.order, block.n_steps)
            if jax.default_backend() == "cpu" and devices.size > 1:
                # Virtual devices share the threads that their collectives wait for: nothing else may run.
                jax.block_until_ready(values)
            coming = next(feed)  # placed while the devices compute
            found, norms = np.asarray(values)[: block.n_steps].T
            speed = block.n_steps * batch_size / (time.perf_counter() - began) if compiled else None
            errors = validate(current.average) if block.ends_epoch else None
        done, skipped, compiled = done + block.n_steps, int(current.skipped), True
        failed = failed + block.n_steps if skipped - before == block.n_steps else 0
        check_converges(done, failed, found, errors)
        rate = float(np.asarray(rates(max(0, done - skipped - 1)) * current.plateau.scale))
        if errors is not None and training.schedule == "plateau":
            current = current._replace(plateau=after_epoch(current.plateau, errors.mean_percent))
        yield Progress(current, done / per_epoch, _mean(found), _mean(norms), rate, speed, errors)


@contextlib.contextmanager
def out_of_memory(batch_size: int, n_devices: int) -> Iterator[None]:
    """Turns XLA's error for memory that does not suffice into a RuntimeError that says what to try."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        smaller = batch_size // 2
        advice = f"try `batch_size` {smaller}" if smaller >= n_devices else "try a smaller network or cutoff"
        raise RuntimeError(
            f"out of memory with {batch_size} pairs a step on {n_devices} device(s): {advice}"
        ) from error


def check_converges(done: int, failed: int, found: np.ndarray, errors: Any) -> None:
    """Raises Diverged if steps or validation gave no finite numbers, or most losses of a block are beyond all reason.

    One step without a finite gradient may be a bad pair; ``failed`` counts those in a row.
    """
    if errors is not None and not errors.finite:
        what = "the validation error is not finite"
    elif failed > 1:
        what = f"no finite gradient in the last {failed} steps"
    elif _median(found) > _DIVERGED_LOSS:
        what = f"the loss is {_median(found):.1e}"
    else:
        return
    raise Diverged(f"training diverged by step {done}, {what}; lower the learning rate")


def _mean(values: np.ndarray) -> float:
    """Mean of the finite values."""
    finite = values[np.isfinite(values)]
    return float(np.mean(finite)) if len(finite) else float("nan")


def _median(values: np.ndarray) -> float:
    """Median of the finite values."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")
