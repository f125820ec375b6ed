"""What a trained model shows on states that it was not trained on: the limits of its monitors."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import mechanics, neighbors, units
from ffmd_jax.core.state import Array, State, System, cast, take
from ffmd_jax.data import pairs
from ffmd_jax.data.pairs import PairSets
from ffmd_jax.dynamics import alarms, records, stepping
from ffmd_jax.models import model as models
from ffmd_jax.models import radial_tables, trajcast
from ffmd_jax.models.config import Calibration, ModelConfig
from ffmd_jax.training import batches
from ffmd_jax.training.batches import Bucket

_FREE_STEPS = 64
_STATES, _MOST_STATES = 24, 96  # one system; many systems
_AT_ONCE = 256  # states
_ENOUGH_FREEDOM = 10  # of what has fewer degrees of freedom, the temperature says little


def calibrate(
    config: ModelConfig,
    params: Any,
    groups: Sequence[PairSets],
    show: Callable[[Sequence], Iterable] = iter,
) -> Calibration:
    """What the model shows on the validation pairs of some systems, of which a few are taken, evenly chosen.

    From each of these, one step and its round trip, and 64 free steps, whose mean kinetic energy is compared with that
    of all held-out states of the same system.  ``show`` passes the chosen on, perhaps with a progress bar.
    """
    systems = [sets.system for sets in groups]
    buckets = batches.buckets(systems, [sets.validation for sets in groups], pairs.padded)
    places = [(b, row) for b, bucket in enumerate(buckets) for row in range(len(bucket.which))]
    n_states = max(_STATES, min(_MOST_STATES, len(groups)))
    chosen = np.unique(np.linspace(0, len(places) - 1, n_states).round().astype(int))
    looks = [jax.jit(_make_look(config, params, bucket)) for bucket in buckets]
    held_out = _mean_temperatures(config, buckets)
    seen, expected = [], []
    for b, row in show([places[i] for i in chosen]):
        bucket = buckets[b]
        system, state = take(bucket.systems, bucket.which[row]), take(bucket.examples.state, row)
        seen.append(jax.tree.map(np.asarray, looks[b](system, state)))
        expected.append(held_out[int(bucket.groups[bucket.which[row]])])
    mean, worst, change, free = (np.stack([one[i] for one in seen]) for i in range(4))
    sums = np.nansum(free.mean(axis=1), axis=0), np.nansum(expected, axis=0)
    drift = np.abs(sums[0] / np.where(sums[1] > 0, sums[1], np.nan) - 1)  # NaN: an element that no chosen state has
    return Calibration(
        round_trip=_finite(mean),
        round_trip_atom=_finite(worst),
        kinetic_drift=tuple(_finite(x, 1.0) for x in drift),
        momentum_change=max(_finite(change), float(np.finfo(np.float32).eps)),
        speeds=_largest_speeds(config, groups),
        temperature_K=_highest_temperature(groups),
        formulas=tuple(sorted({models.formula(system) for system in systems})),
        volumes_A3=_volumes(groups),
    )


def _mean_temperatures(config: ModelConfig, buckets: Sequence[Bucket]) -> dict[int, np.ndarray]:
    """Mean kinetic temperature of each element in the held-out states of each system, K; NaN where it has none."""
    kelvins = jax.jit(jax.vmap(lambda system, state: mechanics.temperature_by_species(system, state, config.elements)))
    found = {}
    for bucket in buckets:
        parts = [slice(i, i + _AT_ONCE) for i in range(0, len(bucket.which), _AT_ONCE)]
        systems, states = bucket.of_examples(), bucket.examples.state
        values = np.concatenate([np.asarray(kelvins(take(systems, part), take(states, part))) for part in parts])
        for i, group in enumerate(bucket.groups):
            found[int(group)] = values[bucket.which == i].mean(axis=0)
    return found


def _largest_speeds(config: ModelConfig, groups: Sequence[PairSets]) -> tuple[float, ...]:
    """Of each element in the held-out states, or, where only others have it, in the training states; Å/fs."""
    found = dict.fromkeys(config.elements, 0.0)
    for split in ("validation", "train"):
        missing = {z for z, speed in found.items() if speed == 0}
        for sets in groups:
            species = np.asarray(sets.system.species)
            speeds = np.linalg.norm(getattr(sets, split).state.velocities, axis=-1)
            for z in missing & set(species.tolist()) if len(speeds) else ():
                found[z] = max(found[z], float(speeds[:, species == z].max()))
    return tuple(found.values())


def _highest_temperature(groups: Sequence[PairSets]) -> float:
    """Highest temperature of a held-out state, K, of systems with some degrees of freedom, if there are any."""
    held_out = [sets for sets in groups if pairs.count(sets.validation)]
    freedoms = [float(mechanics.degrees_of_freedom(sets.system)) for sets in held_out]
    enough = min(_ENOUGH_FREEDOM, max(freedoms))
    hottest = 0.0
    for sets, freedom in zip(held_out, freedoms, strict=True):
        if freedom >= enough:
            masses, velocities = (
                np.asarray(sets.system.masses),
                np.asarray(sets.validation.state.velocities, np.float64),
            )
            velocities = velocities - (masses @ velocities)[:, None] / masses.sum()
            kinetic = np.max(0.5 * np.sum(masses[:, None] * velocities**2, axis=(1, 2))) / units.EV
            hottest = max(hottest, float(2 * kinetic / (units.BOLTZMANN * freedom)))
    return hottest


def _volumes(groups: Sequence[PairSets]) -> tuple[float, float] | None:
    """Smallest and largest volume of an atom in the training states, Å³; None where they have none."""
    if not all(all(sets.system.pbc) for sets in groups):
        return None
    found = [
        mechanics.volume(np.asarray(sets.train.state.cell, np.float64)) / len(sets.system.species) for sets in groups
    ]
    return float(min(values.min() for values in found if len(values))), float(
        max(values.max() for values in found if len(values))
    )


def _make_look(config: ModelConfig, params: Any, bucket: Bucket):
    """Returns ``(system, start) -> (round trip, of its worst atom, momentum change, temperatures)``.

    The temperatures are ``[64, n_elements]``.
    """
    propagate = trajcast.make_propagate(config, cast(radial_tables.tabulate(config, params), jnp.float32))
    planned = batches.search(
        bucket, bucket.examples.state, config.architecture.cutoff, neighbors.SKIN, 1.5, select=True
    )

    def look(system: System, start: State) -> tuple[Array, Array, Array, Array]:
        step = stepping.make_step(records.Run(system, propagate), planned)
        carry = stepping.start(planned, system, start, jax.random.key(0))
        _, (states, _) = stepping.scan(step, carry, _FREE_STEPS)
        first = take(states, 0)
        trip = alarms.round_trip(propagate, planned, system, start, first, config)
        change = jnp.linalg.norm(mechanics.linear_momentum(system, first.velocities - start.velocities))
        change /= jnp.sum(system.masses * jnp.linalg.norm(start.velocities, axis=-1))
        free = jax.vmap(lambda state: mechanics.temperature_by_species(system, state, config.elements))(states)
        return trip.mean, trip.worst, change, free

    return look


def _finite(values: np.ndarray, instead: float = 1e3) -> float:
    """The largest value; another number for a model that explodes."""
    largest = float(np.max(values))
    return largest if np.isfinite(largest) else instead
