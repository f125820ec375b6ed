"""Alarms of a roll-out: quantities that are looked at in every step inside jit, each against a limit.

    not finite       a NaN, or an atom faster than 1 Å/fs; the run cannot go on
    too fast         speed of an atom
    too close        closest pair of atoms
    too hot          temperature
    temperature      of an element against the target, averaged over a window (with a target only)
    kinetic drift    kinetic energy of a window against that of the first one (without a target only)
    momentum         change of the total momentum since the first step, relative to Σ m|v|
    round trip       time reversal, RMS over the atoms
    round trip of an atom

Round trip: Newton's equations run backwards as they run forwards, so F(R F(x)) = R x, where R turns velocities round.
The error of that, for which no label is needed, in units of the RMS components of a step:

    e_i² = ½ |δr_i|² / (3 rms(Δr)²) + ½ |δv_i|² / (3 rms(v)²)

It costs one more step in every k-th.  It sees errors that do not cancel on the way back; it cannot see those that are
reversible themselves, such as a force field that is a little wrong.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import mechanics, neighbors
from ffmd_jax.core import state as state_module
from ffmd_jax.core.state import Array, State, System
from ffmd_jax.dynamics import rollout

KINDS = (
    "not finite",
    "too fast",
    "too close",
    "too hot",
    "temperature",
    "kinetic drift",
    "momentum",
    "round trip",
    "round trip of an atom",
)
_FATAL = np.arange(len(KINDS)) == 0
_MOMENTUM_CAP = 0.01  # of Σ m|v|: beyond it nothing is rounding


class Limits(NamedTuple):
    """Where alarms are raised; inf switches one off.

    Attributes:
        speeds: Å/fs, of each atom ``[n_atoms]``.
        distance: Å, of the closest pair; 0: none.
        hottest: K.
        kinetic: relative deviation of the mean kinetic energy in a window, of each element ``[n_elements]``.
        kinetic_total: the same of all atoms, as a logarithm: half is as bad as twice.
        momentum_change: per step, relative to Σ m|v|.
        round_trip: RMS over the atoms.
        round_trip_atom: of the worst atom.
        window: steps, of the exponential average.
        elements: atomic numbers.
        displacement_rms: RMS component of a step, Å.
        velocity_rms: RMS component, Å/fs.
    """

    speeds: np.ndarray
    distance: float
    hottest: float
    kinetic: np.ndarray
    kinetic_total: float
    momentum_change: float
    round_trip: float
    round_trip_atom: float
    window: int
    elements: tuple[int, ...]
    displacement_rms: float
    velocity_rms: float


class Record(NamedTuple):
    """Alarms of each of `KINDS`, ``[n_kinds]``: how many; of the first: step (−1: none), value, limit, and where.

    ``place`` is an atom, for ``temperature`` an element, else −1.
    """

    count: Array
    step: Array
    value: Array
    limit: Array
    place: Array


class Memory(NamedTuple):
    """What is carried from step to step.

    Attributes:
        average: sum of the window of each element's temperature, or of its ratio to the target, ``[n_elements]``.
        weight: sum of the window of ones.
        age: steps since the window was started.
        first: mean of the first window, ``[n_elements]``.
        momentum: after the first step, u Å/fs ``[3]``; a thermostat may take out what the start has.
        round_trip: the last one measured.
        record: alarms so far.
    """

    average: Array
    weight: Array
    age: Array
    first: Array
    momentum: Array
    round_trip: Array
    record: Record


class Trip(NamedTuple):
    """A round trip: RMS error over the atoms, error and index of the worst atom, and the overflow of its table."""

    mean: Array
    worst: Array
    atom: Array
    overflow: Array


def watch(propagate: state_module.Propagate, limits: Limits, every: int = 100, halt: bool = True) -> rollout.Watch:
    """The watch of a roll-out.

    Args:
        propagate: of the step back: that of the roll-out, or, where its steps are made reversible and always find back,
            the one that they are made of.
        every: steps between two round trips; the first step has one.
        halt: any alarm ends the run; else only numbers that are not finite do.
    """
    halting = jnp.asarray(_FATAL | halt)

    def look(search: neighbors.Search, system: System, moment: rollout.Moment, memory: Memory):
        measured = moment.step % every == 0
        nothing = jnp.zeros((), moment.before.positions.dtype)
        trip = jax.lax.cond(
            measured,
            lambda: round_trip(propagate, search, system, moment.before, moment.moved, limits),
            lambda: Trip(nothing, nothing, jnp.argmax(nothing), jnp.zeros((), bool)),
        )
        memory = _remember(limits, system, moment, memory)
        found = _found(limits, system, moment, memory, trip)
        raised = ~(found[0] <= 1)
        raised = jnp.where(raised[0], jnp.asarray(_FATAL), raised)  # a NaN has one reason, wherever it shows
        record = _noted(memory.record, raised, moment.step + 1, found)
        memory = memory._replace(record=record, round_trip=jnp.where(measured, trip.mean, memory.round_trip))
        stop = jnp.any(raised & halting)
        return memory, stop, trip.overflow & ~stop

    return rollout.Watch(
        lambda system, state: remember_nothing(limits, state),
        look,
        lambda memory: {"round_trip_error": memory.round_trip},
    )


def remember_nothing(limits: Limits, state: State) -> Memory:
    """The memory at the start of a run."""
    dtype = state.velocities.dtype
    none, zeros = jnp.full(len(KINDS), -1, jnp.int32), jnp.zeros(len(KINDS), dtype)
    elements, scalar = jnp.zeros(len(limits.elements), dtype), jnp.zeros((), dtype)
    empty = Record(none + 1, none, zeros, zeros, none)
    return Memory(elements, scalar, jnp.zeros((), jnp.int32), elements, jnp.zeros(3, dtype), scalar, empty)


def round_trip(
    propagate: state_module.Propagate,
    search: neighbors.Search,
    system: System,
    before: State,
    moved: State,
    limits: Limits,
) -> Trip:
    """Time-reversal error of the step from ``before`` to ``moved``."""
    table = neighbors.build(search, system, moved.positions)
    graph, too_many = neighbors.select(search, system, moved.positions, table)
    back = propagate(system, moved._replace(velocities=-moved.velocities), graph)
    error_r = jnp.sum((back.positions - before.positions) ** 2, axis=-1) / (3 * limits.displacement_rms**2)
    error_v = jnp.sum((back.velocities + before.velocities) ** 2, axis=-1) / (3 * limits.velocity_rms**2)
    squares = 0.5 * (error_r + error_v)
    worst = jnp.argmax(squares)
    return Trip(jnp.sqrt(jnp.mean(squares)), jnp.sqrt(squares[worst]), worst, table.overflow | too_many)


def _remember(limits: Limits, system: System, moment: rollout.Moment, memory: Memory) -> Memory:
    """The memory with this step's temperatures in its window."""
    kelvin = mechanics.temperature_by_species(system, moment.after, limits.elements)
    value = jnp.where(jnp.isnan(moment.temperature_K), kelvin, kelvin / moment.temperature_K)
    share = 1 / limits.window
    average = memory.average + share * (value - memory.average)
    weight, age = memory.weight + share * (1 - memory.weight), memory.age + 1
    first = jnp.where(age == limits.window, average / weight, memory.first)
    momentum = jnp.where(age == 1, mechanics.linear_momentum(system, moment.after.velocities), memory.momentum)
    return memory._replace(average=average, weight=weight, age=age, first=first, momentum=momentum)


def _found(limits: Limits, system: System, moment: rollout.Moment, memory: Memory, trip: Trip) -> Array:
    """For each kind: value over limit (an alarm above 1), value, limit and place, ``[4, n_kinds]``."""
    state = moment.after
    speeds = jnp.linalg.norm(state.velocities, axis=-1)
    finite = jnp.all(jnp.isfinite(state.positions) & jnp.isfinite(state.velocities), axis=-1)
    broken = ~finite | ~(speeds <= rollout.FASTEST)
    allowed = jnp.asarray(limits.speeds, speeds.dtype)
    fastest = jnp.argmax(speeds / allowed)
    closest, near = _closest(system, state, moment.graph)
    kelvin = mechanics.temperature(system, state.velocities)
    ratio, element, drift = _kinetic(limits, system, memory)
    targeted, full = ~jnp.isnan(moment.temperature_K), memory.age >= limits.window
    momentum = mechanics.linear_momentum(system, state.velocities) - memory.momentum
    momentum = jnp.linalg.norm(momentum) / jnp.sum(system.masses * speeds)
    wall = jnp.minimum(limits.momentum_change * memory.age, _MOMENTUM_CAP)  # rounding errors add up
    tolerance = jnp.asarray(limits.kinetic)[element]
    rows = (
        (jnp.where(jnp.any(broken), jnp.inf, 0), speeds[jnp.argmax(broken)], rollout.FASTEST, jnp.argmax(broken)),
        (speeds[fastest] / allowed[fastest], speeds[fastest], allowed[fastest], fastest),
        (limits.distance / closest, closest, limits.distance, near),
        (kelvin / limits.hottest, kelvin, limits.hottest, -1),
        (jnp.where(targeted & full, jnp.abs(ratio - 1) / tolerance, 0), ratio, tolerance, element),
        (jnp.where(full & ~targeted, jnp.abs(drift) / limits.kinetic_total, 0), drift, limits.kinetic_total, -1),
        (momentum / wall, momentum, wall, -1),
        (trip.mean / limits.round_trip, trip.mean, limits.round_trip, trip.atom),
        (trip.worst / limits.round_trip_atom, trip.worst, limits.round_trip_atom, trip.atom),
    )
    return jnp.stack([jnp.stack([jnp.asarray(x, speeds.dtype) for x in row]) for row in rows], axis=1)


def _closest(system: System, state: State, graph) -> tuple[Array, Array]:
    """Distance of the closest pair, Å, and one of its atoms."""
    squares = jnp.sum(neighbors.vectors(system, state.positions, graph) ** 2, axis=-1)
    rows = jnp.min(jnp.where(graph.mask, squares, jnp.inf), axis=1)
    atom = jnp.argmin(rows)
    return jnp.sqrt(rows[atom]), atom


def _kinetic(limits: Limits, system: System, memory: Memory) -> tuple[Array, Array, Array]:
    """Mean ratio of the element that is farthest beyond its limit, that element, and the drift of all atoms."""
    members = jnp.asarray(limits.elements)[:, None] == system.species
    counts = jnp.sum(members, axis=1)
    average = jnp.where(counts > 0, memory.average / memory.weight, 1)
    element = jnp.argmax(jnp.abs(average - 1) / jnp.asarray(limits.kinetic))
    now, first = (jnp.sum(jnp.where(counts > 0, counts * values, 0)) for values in (average, memory.first))
    return average[element], element, jnp.log(now / first)


def _noted(record: Record, raised: Array, step: Array, found: Array) -> Record:
    """The record with this step's alarms."""
    fresh = raised & (record.step < 0)
    _, value, limit, place = found
    return Record(
        record.count + raised,
        jnp.where(fresh, step, record.step),
        jnp.where(fresh, value, record.value),
        jnp.where(fresh, limit, record.limit),
        jnp.where(fresh, place.astype(jnp.int32), record.place),
    )
