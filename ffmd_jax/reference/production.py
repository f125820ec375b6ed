"""Reference MD: equilibrate at a temperature, then produce NVE or NVT frames."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from ffmd_jax.core import mechanics, neighbors, units
from ffmd_jax.core import state as state_module
from ffmd_jax.core.state import Array, Energy, Graph, State, System, cast
from ffmd_jax.dynamics import rollout, thermostat
from ffmd_jax.reference import sampling
from ffmd_jax.reference.energies import forces
from ffmd_jax.reference.engine import Bath, Teacher
from ffmd_jax.reference.integrator import drift_kick_drift
from ffmd_jax.reference.systems import Reference


def observe_energies(energy: Energy) -> rollout.Observe:
    """Per-frame potential and total energy, eV."""

    def observe(system: System, state: State, graph: Graph) -> dict[str, Array]:
        potential = energy(system, state, graph)
        total = potential + mechanics.kinetic_energy(system, state.velocities)
        return {"potential_energy_eV": potential, "total_energy_eV": total}

    return observe


def equilibrate(
    reference: Reference, temperature_K: float, key: Array, length_ps: float = 3.0
) -> Iterator[rollout.Block]:
    """Yields blocks of Langevin dynamics (τ = 100 fs) from the prepared structure; the last frame is equilibrated.

    Total momenta are zero throughout.  3 ps are 30 relaxation times of the velocities.
    """
    engine = teacher(reference)
    n_frames = max(1, round(length_ps * units.PS / sampling.frame_interval(engine)))
    return sampling.heat(engine, Bath("langevin", temperature_K, 100.0), n_frames, key)


def teacher(reference: Reference) -> Teacher:
    """The prepared system as a `Teacher`, in double precision if jax allows it."""

    def run_in_bath(
        start: State, *, n_steps: int, every: int, key: Array, bath: Bath | None = None
    ) -> Iterator[rollout.Block]:
        applied = None
        if bath is not None:
            times = (bath.temperature_K, bath.tau_fs, reference.dt)
            applied = thermostat.make(bath.kind, *times, friction_tau_fs=bath.friction_tau_fs)
        start = State(*(jnp.asarray(values) for values in start))
        return run(reference, start, n_steps=n_steps, every=every, key=key, bath=applied)

    return Teacher(reference.name, reference.system, reference.positions, reference.dt, run_in_bath)


def run(
    reference: Reference,
    start: State,
    *,
    n_steps: int,
    every: int,
    key: Array,
    bath: state_module.Thermostat | None = None,
) -> Iterator[rollout.Block]:
    """Yields blocks of reference MD with energies, in the precision of ``start``; NVE without a ``bath``."""
    return rollout.run(
        reference.system,
        start,
        drift_kick_drift(reference.energy, reference.dt),
        cutoff=reference.cutoff,
        time_step_fs=reference.dt,
        n_steps=n_steps,
        every=every,
        key=key,
        thermostat=bath,
        observe=observe_energies(reference.energy),
        skin=reference.skin,
        block_steps=200,
    )


def energy_and_forces(reference: Reference, system: System, positions: Array) -> tuple[Array, Array]:
    """Energy, eV, and forces, eV/Å ``[n_atoms, 3]``, of one structure with the reference's force field."""
    search = neighbors.plan(system, positions, reference.cutoff)
    return _energy_and_forces(reference.energy, search, system, jnp.asarray(positions))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _energy_and_forces(energy: Energy, search: neighbors.Search, system: System, positions: Array):
    graph = neighbors.build(search, system, positions).graph
    return forces(energy)(system, State(positions, positions), graph)


def potential_energies(reference: Reference, system: System, positions: Array) -> Array:
    """Energies, eV ``[n_frames]``, of frames ``[n_frames, n_atoms, 3]``, Å, that need not come from this force field.

    Raises:
        ValueError: the neighbour table overflowed; frames too different from the first.
    """
    positions = jnp.asarray(positions)
    system = cast(system, positions.dtype)
    search = neighbors.plan(system, positions[:: max(1, len(positions) // 8)], reference.cutoff, reference.skin, 1.2)

    table, values = _energies(reference.energy, search, system, positions)
    if bool(table.overflow):
        raise ValueError("atoms crowd together in these frames: more neighbours than the table holds")
    return values


@functools.partial(jax.jit, static_argnums=(0, 1))
def _energies(energy: Energy, search: neighbors.Search, system: System, frames: Array):
    """The last neighbour table and the energy of each frame."""

    def evaluate(table, frame):
        table = neighbors.update(search, system, frame, table)
        return table, energy(system, State(frame, frame), table.graph)

    return jax.lax.scan(evaluate, neighbors.build(search, system, frames[0]), frames)
