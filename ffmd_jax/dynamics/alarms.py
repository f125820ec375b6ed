"""Alarms of a rollout: quantities that are looked at in every step inside jit, each against a limit.

    not finite       a NaN, or an atom faster than 1 Å/fs; the run cannot continue
    too fast         speed of an atom
    too close        closest pair of atoms
    too hot          temperature
    temperature      of an element against the target, or without one against that of all atoms, averaged over a window
    kinetic drift    kinetic energy of a window against that of the first one (without a target only)
    momentum         change of the total momentum since the first step, relative to Σ m|v|
    round trip       time reversal, RMS over the atoms
    round trip of an atom
    total energy     change since the start, relative to the kinetic energy (with a potential, without a target)
    propagator energy  what the propagator itself gains or loses in 200 steps, likewise (with a potential)
    volume           of an atom, beyond the volumes of the training data

Round trip: Newton's equations run backwards as they run forwards, so F(R F(x)) = R x, where R turns velocities round.
The error of that, for which no label is needed, in units of the RMS components of a step:

    e_i² = ½ |δr_i|² / (3 rms(Δr)²) + ½ |δv_i|² / (3 rms(v)²)

It costs one more step in every k-th.  It sees errors that do not cancel on the way back; it cannot see those that are
reversible themselves, such as a force field that is a little wrong.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import domains, mechanics, neighbors
from ffmd_jax.core.state import Array, Propagate, State, System
from ffmd_jax.dynamics.engine import as_partial
from ffmd_jax.dynamics.records import FASTEST, Monitor, StepRecord

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
    "total energy",
    "propagator energy",
    "volume",
)
_FATAL = np.arange(len(KINDS)) == 0
_GAIN_STEPS = 200
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
        energy: change of the total energy, relative to the kinetic energy.
        gain: energy that the propagator gains in 200 steps, relative to the kinetic energy.
        volumes: of an atom, Å³, smallest and largest.
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
    energy: float = np.inf
    gain: float = np.inf
    volumes: tuple[float, float] = (0.0, np.inf)


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
        gain: mean of the window of the energy that the propagator gains in a step, eV.
        gained: since the start, eV.
        record: alarms so far.
    """

    average: Array
    weight: Array
    age: Array
    first: Array
    momentum: Array
    round_trip: Array
    gain: Array
    gained: Array
    record: Record


class RoundTrip(NamedTuple):
    """A round trip: RMS error over the atoms, error and index of the worst atom, and the overflow of its table."""

    mean: Array
    worst: Array
    atom: Array
    overflow: Array


def monitor(propagate: Propagate, limits: Limits, every: int = 100, halt: bool = True) -> Monitor:
    """The monitor of a rollout.

    Args:
        propagate: of the step back: that of the rollout, or, where its steps are time-symmetrised and always find back,
            the plain one that they are made of.
        every: steps between two round trips; the first step has one.
        halt: any alarm ends the run; else only numbers that are not finite do.
    """
    partial = jax.tree_util.Partial
    look = partial(_look, as_partial(propagate), every, _FATAL | halt)
    return Monitor(limits, partial(_remember_nothing), look, partial(_observe))


def _look(
    propagate: Propagate,
    every: Array,
    halting: Array,
    limits: Limits,
    search: neighbors.Search,
    system: System,
    record: StepRecord,
    memory: Memory,
):
    measured = record.step % every == 0
    nothing = jnp.zeros((), record.before.positions.dtype)
    trip = jax.lax.cond(
        measured,
        lambda: round_trip(propagate, search, system, record.before, record.moved, limits),
        lambda: RoundTrip(nothing, nothing, jnp.argmax(nothing), jnp.zeros((), bool)),
    )
    memory = _remember(limits, system, record, memory)
    found = _found(limits, system, record, memory, trip)
    raised = ~(found[0] <= 1)
    raised = jnp.where(raised[0], jnp.asarray(_FATAL), raised)  # a NaN has one reason, wherever it shows
    noted = _noted(memory.record, raised, record.step + 1, found)
    memory = memory._replace(record=noted, round_trip=jnp.where(measured, trip.mean, memory.round_trip))
    stop = domains.any_of(record.graph, jnp.any(raised & halting))
    return memory, stop, trip.overflow & ~stop


def _observe(memory: Memory) -> dict[str, Array]:
    return {"round_trip_error": memory.round_trip}


def _remember_nothing(limits: Limits, system: System, state: State) -> Memory:
    """The memory at the start of a run."""
    dtype = state.velocities.dtype
    none, zeros = jnp.full(len(KINDS), -1, jnp.int32), jnp.zeros(len(KINDS), dtype)
    elements, scalar = jnp.zeros(len(limits.elements), dtype), jnp.zeros((), dtype)
    empty = Record(none + 1, none, zeros, zeros, none)
    return Memory(
        elements, scalar, jnp.zeros((), jnp.int32), elements, jnp.zeros(3, dtype), scalar, scalar, scalar, empty
    )


def round_trip(
    propagate: Propagate,
    search: neighbors.Search,
    system: System,
    before: State,
    moved: State,
    scales: Any,
) -> RoundTrip:
    """Time-reversal error of the step from ``before`` to ``moved``, in units of the RMS components in ``scales``.

    Atoms that pad the system do not count.

    Args:
        scales: has ``displacement_rms``, Å, and ``velocity_rms``, Å/fs: limits, or the configuration of a model.
    """
    table = neighbors.build(search, system, moved)
    graph, too_many = neighbors.select(search, moved, table)
    back = propagate(system, moved._replace(velocities=-moved.velocities), graph)
    error_r = jnp.sum((back.positions - before.positions) ** 2, axis=-1) / (3 * scales.displacement_rms**2)
    error_v = jnp.sum((back.velocities + before.velocities) ** 2, axis=-1) / (3 * scales.velocity_rms**2)
    squares = jnp.where(jnp.asarray(system.species) > 0, 0.5 * (error_r + error_v), 0.0)
    worst, mean = jnp.argmax(squares), jnp.sum(squares) / mechanics.count_atoms(system)
    return RoundTrip(jnp.sqrt(mean), jnp.sqrt(squares[worst]), worst, table.overflow | too_many)


def _remember(limits: Limits, system: System, record: StepRecord, memory: Memory) -> Memory:
    """The memory with this step's temperatures in its window."""
    kelvin = mechanics.temperature_by_species(system, record.after, limits.elements)
    value = jnp.where(jnp.isnan(record.temperature_K), kelvin, kelvin / record.temperature_K)
    share = jnp.asarray(1 / limits.window, kelvin.dtype)
    average = memory.average + share * (value - memory.average)
    weight, age = memory.weight + share * (1 - memory.weight), memory.age + 1
    first = jnp.where(age == limits.window, average / weight, memory.first)
    momentum = jnp.where(age == 1, mechanics.linear_momentum(system, record.after.velocities), memory.momentum)
    gain, gained = memory.gain, memory.gained
    if record.energies:
        gained = record.energies.gained.astype(kelvin.dtype)
        gain = memory.gain + share * (gained - memory.gained - memory.gain)
    return memory._replace(
        average=average, weight=weight, age=age, first=first, momentum=momentum, gain=gain, gained=gained
    )


def _found(limits: Limits, system: System, record: StepRecord, memory: Memory, trip: RoundTrip) -> Array:
    """For each kind: value over limit (an alarm above 1), value, limit and place, ``[4, n_kinds]``."""
    state = record.after
    speeds = jnp.linalg.norm(state.velocities, axis=-1)
    finite = jnp.all(jnp.isfinite(state.positions) & jnp.isfinite(state.velocities), axis=-1)
    broken = ~finite | ~(speeds <= FASTEST)
    allowed = jnp.asarray(limits.speeds, speeds.dtype)
    fastest = jnp.argmax(speeds / allowed)
    closest, near = _closest(state, record.graph)
    # A single atom has no temperature.
    free = system.padded or mechanics.degrees_of_freedom(system)
    kelvin = mechanics.temperature(system, state) if free else jnp.zeros_like(closest)
    targeted, full = ~jnp.isnan(record.temperature_K), memory.age >= limits.window
    ratio, element, drift = _kinetic(limits, system, memory, targeted)
    momentum = mechanics.linear_momentum(system, state.velocities) - memory.momentum
    momentum = jnp.linalg.norm(momentum) / jnp.sum(system.masses * speeds)
    wall = jnp.minimum(limits.momentum_change * memory.age, _MOMENTUM_CAP)  # rounding errors add up
    tolerance = jnp.asarray(limits.kinetic)[element]
    change, gain = _energies(limits, system, record, memory)
    volume = mechanics.volume(state.cell) / mechanics.count_atoms(system)
    low, high = limits.volumes
    off = jnp.maximum(volume / high, low / volume)
    rows = (
        (jnp.where(jnp.any(broken), jnp.inf, 0), speeds[jnp.argmax(broken)], FASTEST, jnp.argmax(broken)),
        (speeds[fastest] / allowed[fastest], speeds[fastest], allowed[fastest], fastest),
        (limits.distance / closest, closest, limits.distance, near),
        (kelvin / limits.hottest, kelvin, limits.hottest, -1),
        (jnp.where(full, jnp.abs(ratio - 1) / tolerance, 0), ratio, tolerance, element),
        (jnp.where(full & ~targeted, jnp.abs(drift) / limits.kinetic_total, 0), drift, limits.kinetic_total, -1),
        (momentum / wall, momentum, wall, -1),
        (trip.mean / limits.round_trip, trip.mean, limits.round_trip, trip.atom),
        (trip.worst / limits.round_trip_atom, trip.worst, limits.round_trip_atom, trip.atom),
        (jnp.where(targeted, 0, jnp.abs(change) / limits.energy), change, limits.energy, -1),
        (jnp.where(full, jnp.abs(gain) / limits.gain, 0), gain, limits.gain, -1),
        (off, volume, jnp.where(volume > high, high, low), -1),
    )
    return jnp.stack([jnp.stack([jnp.asarray(x, speeds.dtype) for x in row]) for row in rows], axis=1)


def _energies(limits: Limits, system: System, record: StepRecord, memory: Memory) -> tuple[Array, Array]:
    """Change of the total energy since the start, and gain of the propagator in 200 steps, of the kinetic energy."""
    kinetic = mechanics.kinetic_energy(system, record.after.velocities)
    if not record.energies:
        return jnp.zeros_like(kinetic), jnp.zeros_like(kinetic)
    change = (record.energies.potential - record.energies.start).astype(kinetic.dtype) + kinetic
    scale = jnp.where(kinetic > 0, kinetic, 1)
    return change / scale, memory.gain / memory.weight * _GAIN_STEPS / scale


def _closest(state: State, graph) -> tuple[Array, Array]:
    """Distance of the closest pair, Å, and one of its atoms."""
    squares = jnp.sum(neighbors.vectors(state, graph) ** 2, axis=-1)
    rows = domains.whole(graph, jnp.min(jnp.where(graph.mask, squares, jnp.inf), axis=1))
    atom = jnp.argmin(rows)
    return jnp.sqrt(rows[atom]), atom


def _kinetic(limits: Limits, system: System, memory: Memory, targeted: Array) -> tuple[Array, Array, Array]:
    """Mean ratio of the element that is farthest beyond its limit, that element, and the drift of all atoms."""
    members = jnp.asarray(limits.elements)[:, None] == system.species
    counts = jnp.sum(members, axis=1)
    average = jnp.where(counts > 0, memory.average / memory.weight, 1)
    whole = jnp.sum(counts * average) / jnp.sum(counts)
    average = jnp.where(targeted | (counts == 0), average, average / jnp.where(whole > 0, whole, 1))
    element = jnp.argmax(jnp.abs(average - 1) / jnp.asarray(limits.kinetic))
    now, first = (
        jnp.sum(jnp.where(counts > 0, counts * values, 0)) for values in (memory.average / memory.weight, memory.first)
    )
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
