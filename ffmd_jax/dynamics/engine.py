"""A rollout as a compiled block of steps, for any propagator: one system, or replicas side by side.

Two runs that differ in their blocks alone are the same bit for bit: a frame during which the neighbour table overflows
is repeated from the frame before it, wherever blocks begin.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import neighbors, processes
from ffmd_jax.core.state import Array, Graph, Propagate, State, System, cast
from ffmd_jax.dynamics import barostat as barostats
from ffmd_jax.dynamics import division as divisions
from ffmd_jax.dynamics import energetics
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics.division import Division
from ffmd_jax.dynamics.ensemble import NPT, NVE, Ensemble
from ffmd_jax.dynamics.potentials import Potential
from ffmd_jax.dynamics.records import Carry, Conserving, Monitor, Run
from ffmd_jax.dynamics.replicas import each as of_replicas
from ffmd_jax.dynamics.replicas import own
from ffmd_jax.dynamics.stepping import make_step, scan

AHEAD = 5.0  # RMS components of a model's step: how far the neighbour table of its end looks
Observe = Callable[[System, State, Graph], dict[str, Array]]


class Block(NamedTuple):
    """Some frames of a rollout, on the host; of replicas, arrays have a second axis ``n_replicas``.

    Attributes:
        frames: positions (unwrapped, Å), velocities (Å/fs) and cells (Å), ``[n_frames, …]``.
        times: fs, ``[n_frames]``.
        observables: per-frame values of ``observe`` and of the monitor, ``[n_frames, ...]``.
        carry: where the next block starts.
        valid: False for frames of a replica that has ended, bool ``[n_frames, n_replicas]``; None without replicas.
    """

    frames: State
    times: np.ndarray
    observables: dict[str, np.ndarray]
    carry: Carry
    valid: np.ndarray | None = None


class Shape(NamedTuple):
    """What a compiled block of steps depends on besides the shapes of its arguments; hashable."""

    search: neighbors.Search
    every: int
    block_frames: int
    division: Division
    wrap: bool
    conserving: Conserving

    def with_search(self, search: Any, own: neighbors.Search | None) -> "Shape":
        """The shape with other tables."""
        return self._replace(search=search, conserving=self.conserving._replace(search=own))

    @property
    def carry(self) -> Any:
        """Where the parts of a carry are."""
        return self.division.carry(self.conserving.search is not None)


class Engine:
    """A rollout as a compiled block of steps; compiled anew, with larger tables, where a neighbour table overflows.

    Programs belong to shapes, not to engines: another engine of the same shapes compiles nothing.

    Args:
        system: species, masses; used in the precision of ``state``.  With a leading axis, every replica is a system of
            its own, padded to one size.
        state: to plan the neighbour tables by, unless ``searches`` are given; of replicas, with a leading axis.
        propagate: one step of ``time_step_fs``: a model's, or a reference integrator's.
        cutoff: Å, of the propagator.
        every: steps between two frames.
        ensemble: its thermostat acts after each step.
        ramp_steps: over which its temperature changes.
        observe: extra per-frame values, computed inside jit; of a system over devices, it sees the graph of a domain.
        skin: Å, of the neighbour table.
        select: give ``propagate`` only the pairs within the cutoff, not those within cutoff + skin; pays where an edge
            costs more than a comparison, in networks.
        block_steps: steps per call of the compiled program, about.
        monitor: looks at every step, and may end the run.
        wrap: bring atoms back into the cell and count images, so that float32 keeps its precision far from it: the
            error of a step is half a unit in the last place of the cell's size, not of the way that an atom has gone.
        replicas: number of runs side by side; 0: one, without the axis.
        devices: how many at most, or some of which, replicas are divided over (None: all of all processes); how many
            one system is (None: one), see `core.domains`.
        potential: gives the energies of the run, and with them energy conservation and constant pressure; None: none.
        conserve_energy: scale velocities after each step so that the propagator leaves the total energy as it is.
        ahead: Å, how far atoms may go in a step, about; where the potential shares the propagator's table.
        searches: of an engine that is to be continued exactly.

    Raises:
        ValueError: constant pressure or energy conservation without a potential; a division that is not possible.
    """

    def __init__(
        self,
        system: System,
        state: State,
        propagate: Propagate,
        *,
        cutoff: float,
        time_step_fs: float,
        every: int = 1,
        ensemble: Ensemble = NVE(),  # a frozen record
        ramp_steps: int = 1,
        observe: Observe | None = None,
        skin: float = neighbors.SKIN,
        select: bool = False,
        block_steps: int = 100,
        monitor: Monitor | None = None,
        wrap: bool = False,
        replicas: int = 0,
        devices: int | Sequence[Any] | None = None,
        potential: Potential | None = None,
        conserve_energy: bool = False,
        ahead: float = 0.3,
        searches: tuple[neighbors.Search, neighbors.Search | None] | None = None,
    ):
        if potential is None and (conserve_energy or isinstance(ensemble, NPT)):
            raise ValueError("energy conservation and constant pressure need a potential")
        self.system = cast(system, state.positions.dtype)
        shared = potential is not None and potential.cutoff <= cutoff
        division = divisions.over(len(system.species), replicas, devices)
        if division.domains is not None and potential is not None and not potential.digest:
            raise ValueError("a force field is not divided over devices: use a trained potential, or none")
        if searches is None:
            own = None
            if potential is not None and not shared:
                own = neighbors.plan(
                    self.system, state, potential.cutoff, skin, headroom=1.15, n_domains=division.n_domains
                )
            ahead = ahead if shared else 0.0
            first = neighbors.plan(
                self.system, state, cutoff, skin, 1.15, select=select, ahead=ahead, n_domains=division.n_domains
            )
            searches = first, own
        if searches[0].domains != division.n_domains:
            raise ValueError(f"the run was begun on {searches[0].domains} device(s): continue it on as many")
        self.time_step_fs, self._replicas = time_step_fs, replicas
        conserving = Conserving(searches[1], conserve_energy)
        self._shape = Shape(searches[0], every, max(1, block_steps // every), division, wrap, conserving)
        self._run = Run(
            self.system,
            as_partial(propagate),
            time_step_fs,
            ensembles.complete(ensemble, time_step_fs),
            ramp_steps,
            monitor,
            None if observe is None else as_partial(observe),
            None if potential is None else as_partial(potential.energy),
            None if potential is None else potential.molecules,
        )

    @property
    def search(self) -> neighbors.Search:
        """Of the propagator's neighbour tables."""
        return self._shape.search

    @property
    def searches(self) -> tuple[neighbors.Search, neighbors.Search | None]:
        """Of the neighbour tables, whose sizes fix the order of sums, and of the potential's own, if it has one."""
        return self._shape.search, self._shape.conserving.search

    @property
    def every(self) -> int:
        """Steps between two frames."""
        return self._shape.every

    @property
    def block_frames(self) -> int:
        """Frames of a call of the compiled program."""
        return self._shape.block_frames

    def start(self, state: State, key: Array, step: int = 0) -> Carry:
        """The carry of a state (of replicas, with a leading axis) after ``step`` steps."""
        return _start(self._shape, self._run, cast(state, state.positions.dtype), key, jnp.asarray(step, jnp.int32))

    def begin_anew(self, carry: Carry, state: State, key: Array, step: int) -> Carry:
        """The carry of another state after ``step`` steps, with the record of a monitor of what was before."""
        after = self.start(cast(state, carry.state.positions.dtype), key, step)
        record = getattr(carry.memory, "record", None)
        if record is not None:
            after = after._replace(memory=after.memory._replace(record=record))
        if self._run.energy is not None:
            after = after._replace(energies=after.energies._replace(gained=carry.energies.gained))
        return after._replace(barostat=carry.barostat, partners=carry.partners)

    def advance(self, carry: Carry, n_frames: int) -> Block:
        """At most ``n_frames`` more frames, and at most ``block_frames``.

        Fewer where the monitor ends the run (``carry.halted``) or where tables had to grow; none where it ends at once.
        """
        repeats = 0
        while True:
            after, (states, (seen, images, halted)) = _advance(self._shape, self._run, carry, n_frames)
            overflow = bool(jnp.any(after.table.overflow))
            if overflow:
                repeats += 1
                smaller = barostats.SMALLEST**repeats if isinstance(self._run.ensemble, NPT) else 1
                cells = processes.whole(after.state.cell) * smaller  # it may have been a trial that was too small
                grown = (None if each is None else neighbors.grow(each, self.system, cells) for each in self.searches)
                self._shape = self._shape.with_search(*grown)
                after = after._replace(table=self._build(self._shape.search, after.state))
                if self._shape.conserving.search is not None:
                    own = self._build(self._shape.conserving.search, after.state)
                    after = after._replace(energies=after.energies._replace(table=own))
            made = (int(after.step) - int(carry.step)) // self.every
            if made or not overflow:
                break
            carry = after
        frames, seen, images, halted = _first(processes.whole((states, seen, images, halted)), made)
        times = (int(carry.step) // self.every + 1 + np.arange(made)) * self.every * self.time_step_fs
        return Block(_unwrapped(frames, images), times, seen, after, ~halted if self._replicas else None)

    def _build(self, search: neighbors.Search, state: State) -> neighbors.Neighbors:
        return _build(search, self._shape.division, self._run, state)

    def state(self, carry: Carry) -> State:
        """The state of a carry on the host, positions unwrapped."""
        state, images = processes.whole((carry.state, carry.images))
        return _unwrapped(jax.tree.map(np.asarray, state), images)


def as_partial(function: Callable) -> Any:
    """The function as an argument of compiled programs: a `jax.tree_util.Partial`, whose arrays are arguments, too."""
    return function if isinstance(function, jax.tree_util.Partial) else jax.tree_util.Partial(function)


@functools.partial(jax.jit, static_argnums=0)
def _advance(shape: Shape, run: Run, carry: Carry, wanted: Array):
    """Up to ``wanted`` frames, padded to the frames of a block."""

    def advance(run: Run, carry: Carry, wanted: Array):
        replicas = shape.division.replicas
        step = make_step(run, shape.search, shape.every, replicas=replicas, conserving=shape.conserving)
        return scan(step, carry, shape.block_frames, functools.partial(_look, shape, run), wanted, replicas)

    return shape.division.apply(advance, run, (carry, wanted), (shape.carry, shape.division.frames))


def _look(shape: Shape, run: Run, carry: Carry) -> Any:
    """What is stored with a frame."""
    each, seen = of_replicas(run, shape.division.replicas), {}
    if run.observe is not None:
        seen |= each(lambda run, *given: run.observe(run.system, *given))(run, carry.state, carry.table.graph)
    if run.monitor is not None:
        seen |= each(lambda run, memory: run.monitor.observe(memory))(run, carry.memory)
    if run.energy is not None:
        seen |= each(lambda run, *given: energetics.observe(run.system, *given))(run, carry.state, carry.energies)
    if isinstance(run.ensemble, NPT):
        seen |= each(lambda run, *given: energetics.observe_volume(*given))(run, carry.state, carry.barostat)
    return seen, carry.images, carry.halted


@functools.partial(jax.jit, static_argnums=(0, 1))
def _build(search: neighbors.Search, division: Division, run: Run, state: State) -> neighbors.Neighbors:
    """Neighbour tables of a state."""

    def build(run: Run, state: State) -> neighbors.Neighbors:
        each = of_replicas(run, division.replicas)
        return each(lambda run, state: neighbors.build(search, run.system, state))(run, state)

    return division.apply(build, run, (state,), division.table)


@functools.partial(jax.jit, static_argnums=0)
def _start(shape: Shape, run: Run, state: State, key: Array, step: Array) -> Carry:
    def start(run: Run, state: State, key: Array, step: Array) -> Carry:
        each, memory = of_replicas(run, shape.division.replicas), ()
        if run.monitor is not None:
            memory = each(lambda run, state: run.monitor.start(run.monitor.limits, run.system, state))(run, state)
        images = jnp.zeros(state.positions.shape, jnp.int32) if shape.wrap else ()
        table = each(lambda run, state: neighbors.build(shape.search, run.system, state))(run, state)
        energies, barostat = (), ()
        if run.energy is not None:
            begin = lambda run, *given: energetics.start(run, shape.search, shape.conserving, *given)  # noqa: E731
            energies = each(begin)(run, state, table)
        if isinstance(run.ensemble, NPT):
            barostat = each(lambda run, state: barostats.start(state))(run, state)
        halted = jnp.zeros(state.positions.shape[:-2], bool)
        kelvin = ensembles.temperature(run.ensemble, step / run.ramp_steps)
        kelvin = own(shape.division.replicas, jnp.asarray(kelvin, state.positions.dtype), halted)
        draw = lambda run, key, *given: ensembles.start(run.ensemble, jax.random.fold_in(key, 1), run.system, *given)  # noqa: E731
        partners = each(draw)(run, key, state, kelvin)
        return Carry(key, state, table, step, images, memory, halted, energies, barostat, partners)

    return shape.division.apply(start, run, (state, key, step), shape.carry)


def _unwrapped(frames: State, images: Any) -> State:
    """The frames with the lattice vectors put back that were taken off, in float64 where there are any."""
    if isinstance(images, tuple):
        return frames
    return frames._replace(positions=frames.positions + np.asarray(images) @ np.asarray(frames.cell, np.float64))


def _first(results: Any, n_frames: int) -> Any:
    return jax.tree.map(lambda values: np.asarray(values)[:n_frames], results)
