"""Corrections that make conservation laws exact: ``Correct(system, before, after) -> State``.

A network predicts each atom on its own; the totals are then right only to its accuracy.  Adding the same rigid
translation and rotation to all atoms restores them and disturbs the prediction least.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ffmd_jax.core import mechanics
from ffmd_jax.core.state import Array, Correct, State, System, is_isolated


def momenta(
    time_step_fs: Any,
    momentum: Sequence[float] | None = None,
    angular_momentum: Sequence[float] | None = None,
) -> Correct:
    """Conserves the total momentum P and, of an isolated system, the angular momentum L about the centre of mass.

    The centre of mass moves by P Δt/M, and v ← v + ω × (r − R) with ω = I⁻¹ ΔL at the new positions (TrajCast,
    doi:10.1038/s42256-026-01227-7).

    TrajCast's code only takes out the mean displacement, and only where P is exactly zero: for P ≠ 0 its centre
    of mass moves as the network says, on purpose not so here.  For P = 0 both agree.

    Args:
        time_step_fs: Δt, fs; a number, or traced.
        momentum: the P to impose, u Å/fs ``[3]``, whatever the state has; None: that before the step.
        angular_momentum: the L to impose on isolated systems, u Å²/fs ``[3]``; None: that before the step.
    """

    def correct(system: System, before: State, after: State) -> State:
        if momentum is None:
            drift = mechanics.center_of_mass(system, before.velocities)
        else:
            drift = jnp.asarray(momentum, after.velocities.dtype) / jnp.sum(system.masses)
        error_v = mechanics.center_of_mass(system, after.velocities) - drift
        moved = mechanics.center_of_mass(system, after.positions - before.positions)
        after = after._replace(
            positions=after.positions - (moved - drift * time_step_fs), velocities=after.velocities - error_v
        )
        if not is_isolated(system):
            return after
        if angular_momentum is None:
            target = mechanics.angular_momentum(system, before)
        else:
            target = jnp.asarray(angular_momentum, after.velocities.dtype)
        return mechanics.rotate_velocities(system, after, target - mechanics.angular_momentum(system, after))

    return correct


def add_energy(system: System, state: State, wanted_eV: Array) -> tuple[State, Array]:
    """The state with its kinetic energy changed by ``wanted_eV``, and what of it was not added, eV.

    Velocities of the internal motion are scaled by one factor, so that momentum and, of an isolated system, angular
    momentum stay as they are.  The factor is between 0.8 and 1.25, and 1 for an energy that is no finite number: what
    is not added is for the caller to carry to the next step.
    """
    own = mechanics.internal(system, state).velocities
    precise = jnp.asarray(own, jnp.result_type(float))
    kinetic = mechanics.kinetic_energy(system, precise)
    squared = (kinetic + wanted_eV) / jnp.where(kinetic > 0, kinetic, 1.0)
    squared = jnp.where(jnp.isfinite(squared) & (kinetic > 0), jnp.clip(squared, 0.8**2, 1.25**2), 1.0)
    factor = jnp.sqrt(squared).astype(own.dtype)
    added = (jnp.square(factor.astype(precise.dtype)) - 1) * kinetic
    rest = jnp.where(jnp.isfinite(wanted_eV), wanted_eV - added, 0.0)
    return state._replace(velocities=state.velocities + (factor - 1) * own), rest


def momentum_error(system: System, before: State, after: State):
    """Change of the total momentum relative to Σ m |v|, dimensionless ``[3]``."""
    change = mechanics.linear_momentum(system, after.velocities - before.velocities)
    return change / jnp.sum(system.masses[:, None] * jnp.abs(before.velocities))
