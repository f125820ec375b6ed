"""Thermostats, applied between propagator steps: ``Thermostat(key, system, state) -> State``."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ffmd_jax import mechanics, units
from ffmd_jax.state import Array, State, System

Thermostat = Callable[[Array, System, State], State]


def csvr(temperature_K: float, tau_fs: float, interval_fs: float) -> Thermostat:
    """Canonical sampling through velocity rescaling (Bussi, Donadio & Parrinello 2007, doi:10.1063/1.2408420).

    Scales all velocities by one factor α such that the kinetic energy follows its canonical distribution.  The exact
    solution over ``interval_fs``, with c = exp(−Δt/τ), f degrees of freedom, K̄ = f k_B T/2, R normal, S chi² (f − 1):

        α² = c + (1 − c) K̄ (R² + S) / (f K) + 2 R sqrt(c (1 − c) K̄ / (f K))

    Total momenta are set to zero: rounding errors in them would grow exponentially where a propagator dissipates
    and the scaling makes up for it.  Modes that the propagator couples badly keep their share of the energy, so a
    right temperature says nothing about equipartition: look at the temperature of each species.

    Args:
        temperature_K: target, K.
        tau_fs: relaxation time of the kinetic energy, fs.
        interval_fs: time between two applications, fs.

    Raises:
        ValueError: a negative temperature or a time that is not positive.
    """
    _check(temperature_K, tau_fs, interval_fs)

    def apply(key: Array, system: System, state: State) -> State:
        dtype = state.velocities.dtype
        freedom = mechanics.degrees_of_freedom(system).astype(dtype)
        keep = jnp.exp(jnp.asarray(-interval_fs / tau_fs, dtype))
        key_normal, key_gamma = jax.random.split(key)
        normal = jax.random.normal(key_normal, dtype=dtype)
        # chi² with f − 1 degrees of freedom is twice a Gamma variate; f = 1 leaves nothing to draw.
        shape = jnp.maximum(freedom - 1, 1e-3) / 2
        chi_squared = jnp.where(freedom > 1, 2 * jax.random.gamma(key_gamma, shape, dtype=dtype), 0)
        ratio = 0.5 * units.BOLTZMANN * temperature_K / mechanics.kinetic_energy(system, state.velocities)
        cross = jnp.sqrt(keep * (1 - keep) * ratio)
        squared = keep + (1 - keep) * ratio * (normal**2 + chi_squared) + 2 * normal * cross
        # R very negative turns the velocities round (footnote in the paper); it matters at few degrees of freedom.
        sign = jnp.where(normal * (1 - keep) * ratio + cross >= 0, 1, -1).astype(dtype)
        scaled = state._replace(velocities=sign * jnp.sqrt(squared) * state.velocities)
        return mechanics.zero_momenta(system, scaled)

    return apply


def langevin(temperature_K: float, tau_fs: float, interval_fs: float) -> Thermostat:
    """Ornstein–Uhlenbeck velocities: v ← c v + sqrt((1 − c²) k_B T/m) ξ, c = exp(−Δt/τ); momenta set to zero after.

    Thermalises every mode by itself, so it equilibrates faster than `csvr` and disturbs the dynamics more.

    Args:
        temperature_K: target, K.
        tau_fs: velocity relaxation time 1/γ, fs.
        interval_fs: time between two applications, fs.
    """
    _check(temperature_K, tau_fs, interval_fs)

    def apply(key: Array, system: System, state: State) -> State:
        dtype = state.velocities.dtype
        keep = jnp.exp(jnp.asarray(-interval_fs / tau_fs, dtype))
        width = jnp.sqrt((1 - keep**2) * units.BOLTZMANN * units.EV * temperature_K / system.masses)[:, None]
        noise = width * jax.random.normal(key, state.velocities.shape, dtype)
        return mechanics.zero_momenta(system, state._replace(velocities=keep * state.velocities + noise))

    return apply


def _check(temperature_K: float, tau_fs: float, interval_fs: float) -> None:
    if not (temperature_K >= 0 and tau_fs > 0 and interval_fs > 0):
        raise ValueError(
            f"a thermostat needs a temperature ≥ 0 K and positive times, "
            f"not {temperature_K} K, τ = {tau_fs} fs every {interval_fs} fs"
        )
