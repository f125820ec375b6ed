"""Reference MD: equilibrate at a temperature, then produce NVE or NVT frames."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ffmd_jax.core import mechanics, neighbors, units
from ffmd_jax.core.state import Array, Energy, Graph, State, System, cast, take
from ffmd_jax.dynamics import rollout
from ffmd_jax.dynamics.engine import Block, Observe
from ffmd_jax.dynamics.ensemble import NPT, NVE, NVT, Ensemble
from ffmd_jax.dynamics.potentials import Potential, find_molecules
from ffmd_jax.formats.stresses import observables_of
from ffmd_jax.models import model as models
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import energies as energy_terms
from ffmd_jax.reference_md import sampling
from ffmd_jax.reference_md.energies import forces
from ffmd_jax.reference_md.engine import FORCES, ReferenceEngine
from ffmd_jax.reference_md.integrator import drift_kick_drift
from ffmd_jax.reference_md.systems import Reference

_AHEAD = 0.1  # Å, of the step of an integrator


@functools.cache  # one function, one compilation
def observe_energies(energy: Energy, with_forces: bool = False) -> Observe:
    """Per-frame potential and total energy, eV, and, if asked for, forces, eV/Å ``[n_atoms, 3]``, and stress.

    The stress (`stresses`) is that of crystals and liquids, which have a volume.
    """

    def observe(system: System, state: State, graph: Graph) -> dict[str, Array]:
        if with_forces:
            potential, found = forces(energy)(system, state, graph)
        else:
            potential, found = energy(system, state, graph), None
        total = potential + mechanics.kinetic_energy(system, state.velocities)
        energies = {"potential_energy_eV": potential, "total_energy_eV": total}
        if found is not None:
            energies |= {FORCES: found}
            if all(system.pbc):
                energies |= observables_of(energy_terms.stress(energy)(system, state, graph))
        return energies

    return observe


def equilibrate(reference: Reference, temperature_K: float, key: Array, length_ps: float = 3.0) -> Iterator[Block]:
    """Yields blocks of Langevin dynamics (τ = 100 fs) from the prepared structure; the last frame is equilibrated.

    Total momenta are zero throughout.  3 ps are 30 relaxation times of the velocities.
    """
    made = engine(reference)
    n_frames = max(1, round(length_ps * units.PS / sampling.frame_interval(made)))
    return sampling.heat(made, NVT(temperature_K, tau_fs=100.0, thermostat="langevin"), n_frames, key)


def engine(reference: Reference, with_forces: bool = False) -> ReferenceEngine:
    """The prepared system as a `ReferenceEngine`, in double precision; its frames have forces, if asked for."""
    produce = functools.partial(run, reference, with_forces=with_forces)
    return ReferenceEngine(reference.name, reference.system, reference.state, reference.dt, produce)


def of_model(model: Model, system: System, state: State, dt: float = 0.5, dtype: Any = jnp.float64) -> Reference:
    """A trained potential as a force field, in double precision unless another is asked for.

    Args:
        dt: fs, time step of the integrator.
        dtype: of the network's arithmetic; runs of single precision start from a state of it, too.

    Raises:
        ValueError: elements or boundary conditions that the potential was not made for.
    """
    models.check_potential(model.config, system)
    made = models.energy(model, dtype)

    def energy(system: System, state: State, graph: Graph) -> Array:  # hashable; a Partial is not
        return made(system, state, graph)

    return Reference(model.name, system, state, energy, model.config.architecture.cutoff, dt, skin=1.0)


def run(
    reference: Reference,
    start: State,
    *,
    n_steps: int,
    every: int,
    key: Array,
    ensemble: Ensemble = NVE(),
    with_forces: bool = False,
) -> Iterator[Block]:
    """Yields blocks of reference MD with energies and, if asked for, forces, in the precision of ``start``."""
    potential = None
    if isinstance(ensemble, NPT):
        potential = Potential(
            reference.name, reference.energy, reference.cutoff, find_molecules(reference.system, start)
        )
    return rollout.run(
        reference.system,
        jax.tree.map(jnp.asarray, start),
        drift_kick_drift(reference.energy, reference.dt),
        cutoff=reference.cutoff,
        time_step_fs=reference.dt,
        n_steps=n_steps,
        every=every,
        key=key,
        ensemble=ensemble,
        observe=observe_energies(reference.energy, with_forces),
        skin=reference.skin,
        block_steps=200,
        potential=potential,
        ahead=_AHEAD,
    )


def energy_and_forces(reference: Reference, state: State) -> tuple[Array, Array]:
    """Energy, eV, and forces, eV/Å ``[n_atoms, 3]``, of one structure with the reference's force field."""
    search = neighbors.plan(reference.system, state, reference.cutoff)
    return _energy_and_forces(reference.energy, search, reference.system, jax.tree.map(jnp.asarray, state))


def stress(reference: Reference, state: State) -> Array:
    """Stress, eV/Å³, of one structure as xx, yy, zz, yz, xz, xy; see `energies.stress`."""
    search = neighbors.plan(reference.system, state, reference.cutoff)
    return _stress(reference.energy, search, reference.system, jax.tree.map(jnp.asarray, state))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _stress(energy: Energy, search: neighbors.Search, system: System, state: State) -> Array:
    graph = neighbors.build(search, system, state).graph
    return energy_terms.stress(energy)(system, state, graph)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _energy_and_forces(energy: Energy, search: neighbors.Search, system: System, state: State):
    graph = neighbors.build(search, system, state).graph
    return forces(energy)(system, state, graph)


def potential_energies(reference: Reference, frames: State) -> Array:
    """Energies, eV ``[n_frames]``, of frames ``[n_frames, …]`` that need not come from this force field.

    Raises:
        ValueError: the neighbour table overflowed; frames too different from the first.
    """
    frames = jax.tree.map(jnp.asarray, frames)
    system = cast(reference.system, frames.positions.dtype)
    few = take(frames, slice(None, None, max(1, len(frames.positions) // 8)))
    search = neighbors.plan(system, few, reference.cutoff, reference.skin, 1.2)
    table, values = _energies(reference.energy, search, system, frames)
    if bool(table.overflow):
        raise ValueError("atoms crowd together in these frames: more neighbours than the table holds")
    return values


@functools.partial(jax.jit, static_argnums=(0, 1))
def _energies(energy: Energy, search: neighbors.Search, system: System, frames: State):
    """The last neighbour table and the energy of each frame."""

    def evaluate(table, frame):
        table = neighbors.update(search, system, frame, table)
        return table, energy(system, frame, table.graph)

    return jax.lax.scan(evaluate, neighbors.build(search, system, take(frames, 0)), frames)
