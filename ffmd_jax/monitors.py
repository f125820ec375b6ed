"""Monitors of models: limits for the alarms of a roll-out, calibrated on held-out data, and what an alarm says.

The limit of what a model itself causes (round trip, drift) is 10 times what the same model showed on states that it was
not trained on.  What it should never leave is the range of these states: speeds and temperatures up to 1.5 times the
largest, pairs down to 0.9 times the closest.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from scipy.special import chdtri

from ffmd_jax import alarms, mechanics, neighbors, rollout, tables
from ffmd_jax import model as models
from ffmd_jax.alarms import Limits
from ffmd_jax.config import Calibration, ModelConfig
from ffmd_jax.dataset_file import Pairs
from ffmd_jax.state import Array, State, System, cast

FACTOR = 10.0
_MARGIN = 1.5  # a Maxwell–Boltzmann tail that ends at one sample in 1e5 reaches it at one in 1e10
_WINDOW = 10  # relaxation times of the thermostat; so many independent samples of the total, which only it changes
# Independent samples of an element's kinetic energy in such a window, at least: in reference MD of paracetamol (2.8 ns,
# CSVR, τ = 70 fs) the averages of H spread as of 8.7, of C 8.8, of O 10, of N 23.
_SAMPLES = 8
_CHANCE_STEP = 1e-9  # of a false alarm in a step: none in a hundred million
_CHANCE = 3e-7  # of a false alarm in a window; 5 standard deviations of a normal distribution, which chi² is not yet
_NVE_WINDOW = 200  # steps
_UNKNOWN_DRIFT = 0.02
_NEVER = 0.5  # a model that forgets the velocities reaches 0.7
_STATES, _FREE_STEPS = 24, 64  # of the calibration


class Stopped(ValueError):
    """A roll-out that a monitor ended."""

    exit_code = 3


class Alarm(NamedTuple):
    """The first alarm of a kind, and how many steps had one: JSON-able."""

    kind: str
    time_fs: float
    value: float
    limit: float
    place: int
    count: int
    text: str


def limits(
    config: ModelConfig,
    system: System,
    tau_fs: float | None = None,
    factor: float = FACTOR,
    temperature_K: float | None = None,
) -> Limits:
    """Limits for runs of a system with a model.

    Kinetic energies are averaged over a window of 10 relaxation times of the thermostat, 100 steps or more, without
    thermostat over 200 steps; their limit is at least what one in 3e6 windows of the canonical ensemble exceeds.  A
    model that was not calibrated has fewer monitors; a round trip that misses by half a step always alarms.

    Args:
        tau_fs: relaxation time of the thermostat, fs; None: NVE.
        temperature_K: the highest of the thermostat, in whose ensemble a molecule's kinetic energy spreads further than
            in data of constant energy; counts unless it is beyond these data.
        factor: alarms at this multiple of the calibration.
    """
    found, elements = config.calibration, config.elements
    steps = None if tau_fs is None else tau_fs / config.time_step_fs
    window = _NVE_WINDOW if steps is None else int(np.ceil(max(100.0, _WINDOW * steps)))
    species = np.asarray(system.species)
    counts = np.array([np.sum(species == z) for z in elements])
    drift = np.array(found.kinetic_drift) if found else np.full(len(elements), _UNKNOWN_DRIFT)
    freedoms = 3 * _SAMPLES * np.maximum(counts, 1), 3 * _WINDOW * counts.sum()
    chance, chance_total = (chdtri(freedom, _CHANCE) / freedom - 1 for freedom in freedoms)
    hottest = _MARGIN * found.temperature_K if found else np.inf
    if found and temperature_K is not None and temperature_K <= found.temperature_K:
        freedom = float(mechanics.degrees_of_freedom(system))
        hottest = max(hottest, temperature_K * float(chdtri(freedom, _CHANCE_STEP)) / freedom)
    fastest = np.full(len(elements), config.speed_max)
    if found:
        fastest = np.maximum(found.speeds, config.speed_limits or 0.0)
    return Limits(
        speeds=_MARGIN * fastest[np.searchsorted(elements, species)],
        distance=config.splines_from if config.shortest_distance else 0.0,
        hottest=hottest,
        kinetic=np.maximum(chance, factor * drift),
        kinetic_total=float(np.maximum(chance_total, factor * (counts @ drift) / counts.sum())),
        momentum_change=factor * found.momentum_change if found else np.inf,
        round_trip=min(_NEVER, factor * found.round_trip) if found else _NEVER,
        round_trip_atom=factor * found.round_trip_atom if found else np.inf,
        window=window,
        elements=elements,
        displacement_rms=config.displacement_rms,
        velocity_rms=config.velocity_rms,
    )


def calibrate(
    config: ModelConfig,
    params: Any,
    pairs: Pairs,
    system: System,
    show: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> ModelConfig:
    """The configuration with what the model shows on held-out pairs, of which at most 24 are taken, evenly chosen.

    From each of these, one step and its round trip, and 64 free steps, whose mean kinetic energy is compared with that
    of all held-out states, of one cell.  ``show`` passes the chosen on, perhaps with a progress bar.
    """
    alike = np.all(pairs.cells == pairs.cells[0], axis=(1, 2))
    system = cast(system._replace(cell=pairs.cells[0]), jnp.float32)
    states = State(*(np.asarray(values[alike], np.float32) for values in pairs.state))
    chosen = np.unique(np.linspace(0, len(states.positions) - 1, _STATES).round().astype(int))
    look = jax.jit(_make_look(config, params, system, states.positions[chosen]))
    starts = (State(*(jnp.asarray(values[i]) for values in states)) for i in show(chosen.tolist()))
    seen = [jax.tree.map(np.asarray, look(start)) for start in starts]
    mean, worst, change, free = (np.stack([one[i] for one in seen]) for i in range(4))
    kelvins = jax.jit(jax.vmap(lambda state: mechanics.temperature_by_species(system, state, config.elements)))
    held_out = np.concatenate([kelvins(_part(states, i)) for i in range(0, len(states.positions), 256)])
    drift = np.abs(free.mean(axis=(0, 1)) / held_out.mean(axis=0) - 1)
    speeds, species = np.linalg.norm(states.velocities, axis=-1), np.asarray(system.species)
    totals = jax.jit(jax.vmap(lambda velocities: mechanics.temperature(system, velocities)))(states.velocities)
    found = Calibration(
        round_trip=_finite(mean),
        round_trip_atom=_finite(worst),
        kinetic_drift=tuple(_finite(x, 1.0) for x in drift),
        momentum_change=max(_finite(change), float(np.finfo(np.float32).eps)),
        speeds=tuple(float(speeds[:, species == z].max()) for z in config.elements),
        temperature_K=float(np.max(totals)),
    )
    return dataclasses.replace(config, calibration=found)


def _make_look(config: ModelConfig, params: Any, system: System, positions: Array):
    """Returns ``start -> (round trip, of its worst atom, momentum change, temperatures [64, n_elements])``."""
    propagate = models.make_propagate(config, cast(tables.tabulate(config, params), jnp.float32))
    search = neighbors.plan(system, positions, config.architecture.cutoff, neighbors.SKIN, 1.5, select=True)
    step, scales = rollout.make_step(system, propagate, search), limits(config, system)

    def look(start: State) -> tuple[Array, Array, Array, Array]:
        carry = rollout.start(search, system, start, jax.random.key(0))
        _, (states, _) = rollout.scan(step, carry, _FREE_STEPS)
        first = jax.tree.map(lambda values: values[0], states)
        trip = alarms.round_trip(propagate, search, system, start, first, scales)
        change = jnp.linalg.norm(mechanics.linear_momentum(system, first.velocities - start.velocities))
        change /= jnp.sum(system.masses * jnp.linalg.norm(start.velocities, axis=-1))
        free = jax.vmap(lambda state: mechanics.temperature_by_species(system, state, config.elements))(states)
        return trip.mean, trip.worst, change, free

    return look


def _part(states: State, first: int) -> State:
    return State(*(values[first : first + 256] for values in states))


def _finite(values: np.ndarray, instead: float = 1e3) -> float:
    """The largest value; another number for a model that explodes."""
    largest = float(np.max(values))
    return largest if np.isfinite(largest) else instead


def describe(record: alarms.Record, config: ModelConfig, system: System) -> list[Alarm]:
    """The first alarm of each kind that was raised, in the order in which they came."""
    found = []
    for i, kind in enumerate(alarms.KINDS):
        if int(record.step[i]) >= 0:
            value, limit, place = float(record.value[i]), float(record.limit[i]), int(record.place[i])
            text = _text(kind, value, limit, place, config, system)
            time_fs = int(record.step[i]) * config.time_step_fs
            found.append(Alarm(kind, time_fs, value, limit, place, int(record.count[i]), text))
    return sorted(found, key=lambda alarm: alarm.time_fs)


def _text(kind: str, value: float, limit: float, place: int, config: ModelConfig, system: System) -> str:
    """What, where and beyond which limit."""
    atom = f"atom {place} ({chemical_symbols[int(system.species[place])]})"
    if kind == "not finite":
        what = f"moves at {value:.2g} Å/fs" if np.isfinite(value) else "is no longer finite"
        return f"the trajectory diverged: {atom} {what}"
    if kind == "temperature":
        element = chemical_symbols[config.elements[place]]
        return f"{element} is at {value:.3g} of the target temperature over a window, limit 1 ± {limit:.2g}"
    if kind == "kinetic drift":
        factors = np.exp(np.clip([value, limit], -99, 99))
        return "the kinetic energy has changed by a factor of {:.3g} since the first window, limit {:.3g}".format(
            *factors
        )
    return {
        "too fast": f"{atom} moves at {value:.3g} Å/fs, limit {limit:.3g}",
        "too close": f"{atom} comes as close as {value:.3g} Å to another, limit {limit:.3g} Å",
        "too hot": f"the temperature is {value:.4g} K, limit {limit:.4g} K: beyond the training data",
        "momentum": f"the total momentum has changed by {value:.2g} of Σ m|v|, limit {limit:.2g}",
        "round trip": f"a step backwards misses the start by {value:.3g} of a step, limit {limit:.3g}, worst {atom}",
        "round trip of an atom": f"a step backwards misses the start of {atom} by {value:.3g} of a step, "
        f"limit {limit:.3g}",
    }[kind]
