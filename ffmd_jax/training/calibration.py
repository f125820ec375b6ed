"""What a trained model shows on states that it was not trained on: the limits of its monitors."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import mechanics, neighbors
from ffmd_jax.core.state import Array, State, System, cast, take
from ffmd_jax.data.pairs import Pairs
from ffmd_jax.dynamics import alarms, monitors, records, stepping
from ffmd_jax.models import model as models
from ffmd_jax.models import radial_tables, trajcast
from ffmd_jax.models.config import Calibration, ModelConfig

_STATES, _FREE_STEPS = 24, 64
_AT_ONCE = 256  # states


def calibrate(
    config: ModelConfig,
    params: Any,
    pairs: Pairs,
    system: System,
    show: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Calibration:
    """What the model shows on held-out pairs, of which at most 24 are taken, evenly chosen.

    From each of these, one step and its round trip, and 64 free steps, whose mean kinetic energy is compared with that
    of all held-out states.  ``show`` passes the chosen on, perhaps with a progress bar.
    """
    system, states = cast(system, jnp.float32), jax.tree.map(lambda x: np.asarray(x, np.float32), pairs.state)
    n_states = len(states.positions)
    chosen = np.unique(np.linspace(0, n_states - 1, _STATES).round().astype(int))
    look = jax.jit(_make_look(config, params, system, take(states, chosen)))
    seen = [jax.tree.map(np.asarray, look(take(states, i))) for i in show(chosen.tolist())]
    mean, worst, change, free = (np.stack([one[i] for one in seen]) for i in range(4))
    kelvins = jax.jit(jax.vmap(lambda state: mechanics.temperature_by_species(system, state, config.elements)))
    parts = (take(states, slice(i, i + _AT_ONCE)) for i in range(0, n_states, _AT_ONCE))
    held_out = np.concatenate([kelvins(part) for part in parts])
    drift = np.abs(free.mean(axis=(0, 1)) / held_out.mean(axis=0) - 1)
    speeds, species = np.linalg.norm(states.velocities, axis=-1), np.asarray(system.species)
    totals = jax.jit(jax.vmap(lambda state: mechanics.temperature(system, state)))(states)
    return Calibration(
        round_trip=_finite(mean),
        round_trip_atom=_finite(worst),
        kinetic_drift=tuple(_finite(x, 1.0) for x in drift),
        momentum_change=max(_finite(change), float(np.finfo(np.float32).eps)),
        speeds=tuple(float(speeds[:, species == z].max()) for z in config.elements),
        temperature_K=float(np.max(totals)),
        formulas=(models.formula(system),),
    )


def volumes(system: System, states: State) -> tuple[float, float] | None:
    """Smallest and largest volume of an atom, Å³, in some states; None where they have none."""
    if not all(system.pbc):
        return None
    found = mechanics.volume(np.asarray(states.cell, np.float64)) / len(system.species)
    return float(found.min()), float(found.max())


def _make_look(config: ModelConfig, params: Any, system: System, states: State):
    """Returns ``start -> (round trip, of its worst atom, momentum change, temperatures [64, n_elements])``."""
    propagate = trajcast.make_propagate(config, cast(radial_tables.tabulate(config, params), jnp.float32))
    search = neighbors.plan(system, states, config.architecture.cutoff, neighbors.SKIN, 1.5, select=True)
    step, scales = stepping.make_step(records.Run(system, propagate), search), monitors.limits(config, None, system)

    def look(start: State) -> tuple[Array, Array, Array, Array]:
        carry = stepping.start(search, system, start, jax.random.key(0))
        _, (states, _) = stepping.scan(step, carry, _FREE_STEPS)
        first = take(states, 0)
        trip = alarms.round_trip(propagate, search, system, start, first, scales)
        change = jnp.linalg.norm(mechanics.linear_momentum(system, first.velocities - start.velocities))
        change /= jnp.sum(system.masses * jnp.linalg.norm(start.velocities, axis=-1))
        free = jax.vmap(lambda state: mechanics.temperature_by_species(system, state, config.elements))(states)
        return trip.mean, trip.worst, change, free

    return look


def _finite(values: np.ndarray, instead: float = 1e3) -> float:
    """The largest value; another number for a model that explodes."""
    largest = float(np.max(values))
    return largest if np.isfinite(largest) else instead
