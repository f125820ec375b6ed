"""What a run is, what its steps carry along, and what its monitor sees: the records of `stepping`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import Array, Energy, Graph, Propagate, State, System
from ffmd_jax.dynamics.barostat import Molecules
from ffmd_jax.dynamics.ensemble import NVE, Ensemble

# Å/fs.  A hydrogen atom at 300 K has 0.03; at 1 it has 5 keV.  Single precision carries an exploded system for long.
FASTEST = 1.0


class Carry(NamedTuple):
    """What a step needs and returns; of replicas, all but ``step`` with a leading axis.

    Attributes:
        key: PRNG key.
        state: of the atoms; positions may be wrapped.
        table: neighbours.
        step: steps taken.
        images: lattice vectors taken off the positions, int32 ``[n_atoms, 3]``; () where nothing is wrapped.
        memory: of the monitor, up to the step that ended the run.
        energies: of a run with a potential; else ().
        barostat: its memory; () where the volume is constant.
        partners: of the velocities, which the thermostat carries along; () if it carries nothing.
        halted: True once the monitor ended the run; then the other fields are those of the last good frame.
    """

    key: Array
    state: State
    table: neighbors.Neighbors
    step: Any = 0
    images: Any = ()
    memory: Any = ()
    halted: Any = False
    energies: Any = ()
    barostat: Any = ()
    partners: Any = ()


Step = Callable[[Carry], Carry]


class Energies(NamedTuple):
    """Energies of a run with a potential, eV; scalars, in double precision where that is enabled.

    Attributes:
        potential: of the state.
        start: potential and kinetic energy at the start of the run.
        gained: by the propagator since the start, before anything was conserved; a thermostat has no part in it.
        owed: what energy conservation could not take out in the last step.
        table: neighbours for an energy that has a table of its own; else ().
    """

    potential: Array
    start: Array
    gained: Array
    owed: Array
    table: Any = ()


class StepRecord(NamedTuple):
    """One step as a monitor sees it.

    Attributes:
        step: number of steps before this one.
        before: state that was propagated, with ``graph``.
        moved: what the propagator made of it.
        after: ``moved`` with the thermostat applied.
        temperature_K: target of the thermostat, or NaN.
        energies: after the step; () in a run without a potential.
    """

    step: Array
    before: State
    graph: Graph
    moved: State
    after: State
    temperature_K: Array
    energies: Any = ()


class Monitor(NamedTuple):
    """What looks at every step, inside the compiled block; `jax.tree_util.Partial`s, whose arrays are its arguments.

    Attributes:
        limits: where it raises alarms.
        start: ``(limits, system, state) -> memory``.
        look: ``(limits, search, system, record, memory) -> (memory, halt, overflow)``; ``halt`` ends the run before
            this frame, ``overflow`` says that a neighbour table that it built was too small.
        observe: ``memory -> values`` to store with every frame.
    """

    limits: Any
    start: Callable[[Any, System, State], Any]
    look: Callable[[Any, neighbors.Search, System, StepRecord, Any], tuple[Any, Array, Array]]
    observe: Callable[[Any], dict[str, Array]]


class Run(NamedTuple):
    """What a run is besides its state: arguments of the compiled program.

    Attributes:
        system: in the precision of the state; with a leading axis where every replica is a system of its own, padded
            to one size, and so are then the limits of the monitor.
        propagate: one step; a `jax.tree_util.Partial` of a function and its arrays, so that models of the same shapes
            share a program, or any hashable function.
        time_step_fs: of a step, fs.
        ensemble: complete, see `ensemble.complete`.
        ramp_steps: over which the temperature changes.
        monitor: looks at every step; None: nothing does.
        observe: ``(system, state, graph) -> values`` to store with every frame; None: nothing.
        energy: potential energy, a Partial as ``propagate``; None: there is none.
        molecules: what the barostat scales as rigid bodies; None: every atom by itself.
    """

    system: System
    propagate: Propagate
    time_step_fs: Any = 1.0
    ensemble: Ensemble = NVE()
    ramp_steps: Any = 1
    monitor: Monitor | None = None
    observe: Callable[[System, State, Graph], dict[str, Array]] | None = None
    energy: Energy | None = None
    molecules: Molecules | None = None


class Conserving(NamedTuple):
    """How a run uses its potential; static.

    Attributes:
        search: of the energy's own neighbour table; None: it shares that of the propagator, whose search looks ahead.
        conserve: scale velocities after each step so that the propagator leaves the total energy as it is.
    """

    search: neighbors.Search | None = None
    conserve: bool = False


PLAIN = Conserving()
