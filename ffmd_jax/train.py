"""Training: the loss, one optimizer step, and `fit`.

Pairs live on the device with their neighbour tables, which are computed once; several steps run per call of the
compiled program.  The order of the data depends on seed and step alone, so that a resumed run repeats what an
uninterrupted one would have done.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ffmd_jax import dataset as datasets
from ffmd_jax import model, neighbors
from ffmd_jax.config import Architecture, ModelConfig, Training
from ffmd_jax.state import Array, Graph, State, System, cast


class TrainState(NamedTuple):
    """What changes in training: weights, their moving average, optimizer state, step, and steps skipped for NaN."""

    params: model.Params
    average: model.Params
    optimizer: Any
    step: Array
    skipped: Array


class Examples(NamedTuple):
    """Pairs with their neighbour tables, ``[n_pairs, …]``: both ends of each, so that time can run backwards."""

    before: State
    after: State
    displacements: Array
    graph_before: Graph
    graph_after: Graph


class Errors(NamedTuple):
    """Mean absolute errors per component, and mean absolute values to relate them to; Å and Å/fs."""

    displacement_mae: float
    velocity_mae: float
    displacement_mean: float
    velocity_mean: float

    @property
    def displacement_percent(self) -> float:
        """MAE of the displacements relative to their mean absolute value, %."""
        return 100 * self.displacement_mae / self.displacement_mean

    @property
    def velocity_percent(self) -> float:
        """MAE of the velocities relative to their mean absolute value, %."""
        return 100 * self.velocity_mae / self.velocity_mean


class Diverged(ValueError):
    """Training that left the finite numbers for good."""


def model_config(data: datasets.Dataset, architecture: Architecture) -> ModelConfig:
    """The model's configuration for a dataset: elements, masses, Δt, scales, neighbours from the training pairs.

    Raises:
        ValueError: no atom has a neighbour within the cutoff.
    """
    species, masses = np.asarray(data.system.species), np.asarray(data.system.masses)
    elements = tuple(int(z) for z in np.unique(species))
    scales = datasets.statistics(data.train)
    sample = data.train.state.positions[:: max(1, len(data.train.displacements) // 64)]
    search = neighbors.plan(data.system, sample, architecture.cutoff)

    def look(positions: Array) -> tuple[Array, Array]:
        system = cast(data.system, positions.dtype)
        graph = neighbors.build(search, system, positions).graph
        lengths = jnp.linalg.norm(neighbors.vectors(system, positions, graph), axis=-1)
        return jnp.sum(graph.mask, axis=-1), jnp.min(jnp.where(graph.mask, lengths, jnp.inf))

    counts, shortest = jax.lax.map(look, sample)
    # Gaussians up to 1.3 of the largest training speed leave room for a hotter moment in a roll-out.
    return ModelConfig(
        elements=elements,
        masses=tuple(float(masses[species == z][0]) for z in elements),
        time_step_fs=data.time_step_fs,
        displacement_rms=scales.displacement_rms,
        velocity_rms=scales.velocity_rms,
        speed_max=1.3 * scales.speed_max,
        speed_limits=tuple(datasets.speed_limits(data.train, species, elements)),
        average_neighbors=float(jnp.mean(counts)),
        shortest_distance=float(jnp.min(shortest)),
        conserve_angular_momentum=not bool(np.any(data.system.pbc)),
        architecture=architecture,
    )


def examples(system: System, pairs: datasets.Pairs, cutoff: float) -> Examples:
    """Moves pairs to the device and computes their neighbour tables, padded to one capacity."""
    after = State(pairs.state.positions + pairs.displacements, pairs.velocities)
    both = np.concatenate([pairs.state.positions, after.positions])
    search = neighbors.plan(system, both, cutoff)
    single = cast(system, jnp.float32)

    @jax.jit
    def graphs(positions):
        graph = neighbors.build(search, single, positions).graph
        return graph._replace(senders=graph.senders.astype(jnp.int16 if len(system.species) < 2**15 else jnp.int32))

    def tables(positions):
        return jax.lax.map(graphs, jnp.asarray(positions))

    return Examples(
        jax.tree.map(jnp.asarray, pairs.state),
        jax.tree.map(jnp.asarray, after),
        jnp.asarray(pairs.displacements),
        tables(pairs.state.positions),
        tables(after.positions),
    )


def reverse(pair: Examples) -> Examples:
    """The pair with time running backwards: (r', −v') → (r, −v)."""
    return Examples(
        State(pair.after.positions, -pair.after.velocities),
        State(pair.before.positions, -pair.before.velocities),
        -pair.displacements,
        pair.graph_after,
        pair.graph_before,
    )


def make_loss(config: ModelConfig, system: System) -> Callable[[model.Params, Examples], tuple[Array, Array]]:
    """Returns ``(params, pair) -> (loss, absolute errors)`` for one pair.

    The loss is ½ MSE(Δr) + ½ MSE(v), each in units of its RMS; the errors are the mean absolute ones, Å and Å/fs.
    """

    def loss(params: model.Params, pair: Examples) -> tuple[Array, Array]:
        predicted = model.make_propagate(config, params)(system, pair.before, pair.graph_before)
        error_r = predicted.positions - pair.before.positions - pair.displacements
        error_v = predicted.velocities - pair.after.velocities
        squares = jnp.mean((error_r / config.displacement_rms) ** 2) + jnp.mean((error_v / config.velocity_rms) ** 2)
        return 0.5 * squares, jnp.stack([jnp.mean(jnp.abs(error_r)), jnp.mean(jnp.abs(error_v))])

    return loss


def make_optimizer(training: Training, n_steps: int) -> optax.GradientTransformation:
    """Clipping, then Muon or Adam with warm-up and cosine decay over ``n_steps``."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, training.learning_rate, min(training.warmup_steps, max(1, n_steps // 10)), n_steps
    )
    if training.optimizer == "muon":
        rule = optax.contrib.muon(schedule, weight_decay=training.weight_decay, adam_b2=0.99)
    else:
        rule = optax.amsgrad(schedule)
    return optax.chain(optax.clip_by_global_norm(training.clip_norm), rule)


def make_train_step(
    config: ModelConfig, system: System, training: Training, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Examples, Array], tuple[TrainState, Array]]:
    """Returns ``(state, batch, backwards) -> (state, loss)``; ``backwards`` (bool ``[batch]``) reverses time.

    A step whose gradient is not finite changes nothing but the count of skipped steps.
    """
    loss = make_loss(config, system)

    def one(params, pair, back):
        turned = jax.tree.map(lambda a, b: jnp.where(back, a, b), reverse(pair), pair)
        return loss(params, turned)[0]

    def mean_gradient(params, batch, backwards):
        """Loss and gradient of the batch: at once where there is room, pair by pair where the cache decides."""
        if jax.default_backend() != "cpu":
            many = jax.vmap(one, in_axes=(None, 0, 0))
            return jax.value_and_grad(lambda p: jnp.mean(many(p, batch, backwards)))(params)

        def add(total, x):
            return jax.tree.map(jnp.add, total, jax.value_and_grad(one)(params, *x)), None

        zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        total, _ = jax.lax.scan(add, zeros, (batch, backwards))
        return jax.tree.map(lambda t: t / len(backwards), total)

    def step(state: TrainState, batch: Examples, backwards: Array) -> tuple[TrainState, Array]:
        value, gradient = mean_gradient(state.params, batch, backwards)
        finite = jnp.isfinite(optax.tree.norm(gradient))
        gradient = jax.tree.map(lambda g: jnp.where(finite, g, 0), gradient)
        updates, moments = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        # The average starts as a plain mean, so that it forgets the random weights.
        decay = jnp.minimum(training.ema_decay, (1 + state.step) / (10 + state.step)).astype(jnp.float32)
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, params)
        new = TrainState(params, average, moments, state.step + 1, state.skipped)
        kept = state._replace(step=state.step + 1, skipped=state.skipped + 1)
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, kept), value

    return step


class Progress(NamedTuple):
    """Where a fit is, after each block of steps.

    Attributes:
        state: weights and optimizer; to be saved.
        epoch: epochs completed, float.
        loss: mean training loss of the block.
        validation: errors on the validation set if this block ended an epoch, else None.
    """

    state: TrainState
    epoch: float
    loss: float
    validation: Errors | None


def initial(config: ModelConfig, training: Training, n_steps: int, params: model.Params | None = None) -> TrainState:
    """The state before the first step, from random or given weights."""
    given = model.init(jax.random.fold_in(jax.random.key(training.seed), 0), config) if params is None else params
    weights = cast(given, jnp.float32)
    zero = jnp.zeros((), jnp.int32)
    moments = make_optimizer(training, n_steps).init(weights)
    return TrainState(weights, jax.tree.map(jnp.copy, weights), moments, zero, zero)


def n_batches(n_pairs: int, training: Training) -> int:
    """Optimizer steps per epoch; the remainder of a shuffled epoch waits for the next."""
    return max(1, n_pairs // training.batch_size)


def fit(
    config: ModelConfig,
    data: datasets.Dataset,
    training: Training,
    state: TrainState | None = None,
    block_steps: int = 100,
) -> Iterator[Progress]:
    """Trains, and yields after every block of steps; give the last ``state`` to go on from there.

    Raises:
        Diverged: a whole block without a finite gradient.
    """
    system = cast(data.system, jnp.float32)
    cutoff = config.architecture.cutoff
    if abs(data.time_step_fs - config.time_step_fs) > 1e-6:
        raise ValueError(f"the data have Δt = {data.time_step_fs:g} fs, the model {config.time_step_fs:g} fs")
    model.check_system(config, data.system)
    train, validation = (examples(system, part, cutoff) for part in (data.train, data.validation))
    n_pairs = len(data.train.displacements)
    per_epoch = n_batches(n_pairs, training)
    n_steps = training.epochs * per_epoch
    current = initial(config, training, n_steps) if state is None else state
    take_step = make_train_step(config, system, training, make_optimizer(training, n_steps))
    evaluate = jax.jit(make_evaluate(config, system))
    key = jax.random.fold_in(jax.random.key(training.seed), 1)
    batch_size = min(training.batch_size, n_pairs)

    @jax.jit
    def run_block(state: TrainState, train: Examples, rows: Array, backwards: Array):
        def one(state, x):
            return take_step(state, jax.tree.map(lambda values: values[x[0]], train), x[1])

        return jax.lax.scan(one, state, (rows, backwards))

    while (done := int(current.step)) < n_steps:
        epoch, place = divmod(done, per_epoch)
        key_order, key_time = jax.random.split(jax.random.fold_in(key, epoch))
        order = jax.random.permutation(key_order, n_pairs)[: per_epoch * batch_size].reshape(per_epoch, batch_size)
        flip = jax.random.bernoulli(key_time, 0.5, order.shape) & training.time_reversal
        block = slice(place, min(place + block_steps, per_epoch))
        skipped = int(current.skipped)
        current, losses = run_block(current, train, order[block], flip[block])
        size = block.stop - block.start
        if int(current.skipped) - skipped == size and size > 1:
            raise Diverged(f"no finite gradient in steps {done}…{done + size}: lower the learning rate")
        errors = None
        if block.stop == per_epoch:
            errors = summarize(np.asarray(evaluate(current.average, validation)), data.validation)
        yield Progress(current, int(current.step) / per_epoch, float(jnp.nanmean(losses)), errors)


def make_evaluate(config: ModelConfig, system: System) -> Callable[[model.Params, Examples], Array]:
    """Returns ``(params, examples) -> [2]``: mean absolute errors of Δr, Å, and v, Å/fs."""
    loss = make_loss(config, system)
    return lambda params, pairs: jnp.mean(jax.lax.map(lambda pair: loss(params, pair)[1], pairs), axis=0)


def summarize(absolute: np.ndarray, pairs: datasets.Pairs) -> Errors:
    """Absolute errors with the mean absolute values that they are related to."""
    means = (float(np.mean(np.abs(values))) for values in (pairs.displacements, pairs.velocities))
    return Errors(float(absolute[0]), float(absolute[1]), *means)


def evaluate(config: ModelConfig, params: model.Params, data: datasets.Dataset, pairs: datasets.Pairs) -> Errors:
    """Errors of a model on some pairs of a dataset.

    Raises:
        ValueError: data at another Δt than the model's, other elements or masses.
    """
    if abs(data.time_step_fs - config.time_step_fs) > 1e-6:
        raise ValueError(f"the data have Δt = {data.time_step_fs:g} fs, the model {config.time_step_fs:g} fs")
    model.check_system(config, data.system)
    system = cast(data.system, jnp.float32)
    batch = examples(system, pairs, config.architecture.cutoff)
    return summarize(np.asarray(jax.jit(make_evaluate(config, system))(params, batch)), pairs)
