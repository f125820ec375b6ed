"""Symplectic integration of Newton's equations as a propagator."""

import functools

import jax

from ffmd_jax.core import units
from ffmd_jax.core.state import Energy, Graph, Propagate, State, System
from ffmd_jax.reference_md.energies import forces


@functools.cache  # one function, one compilation
def drift_kick_drift(energy: Energy, dt: float, n_substeps: int = 1) -> Propagate:
    """Position Verlet: half a drift, a full kick, half a drift; ``n_substeps`` times ``dt`` (fs).

    Symplectic, time-reversible and of second order like velocity Verlet, with one force evaluation a step and
    no forces to carry along (Tuckerman, Berne & Martyna 1992, doi:10.1063/1.463137).  The neighbour graph must stay
    valid over all substeps.
    """
    evaluate = forces(energy)

    def propagate(system: System, state: State, graph: Graph) -> State:
        def substep(state: State, _):
            half = state._replace(positions=state.positions + 0.5 * dt * state.velocities)
            _, force = evaluate(system, half, graph)
            velocities = half.velocities + dt * units.EV * force / system.masses[:, None]
            return half._replace(positions=half.positions + 0.5 * dt * velocities, velocities=velocities), None

        return jax.lax.scan(substep, state, length=n_substeps)[0]

    return propagate
