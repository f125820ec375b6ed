"""Thermostats, applied between propagator steps: ``(key, system, state, temperature_K, tau_fs, interval_fs) -> State``.

All numbers may be traced.  `ensemble` owns and checks them.
"""

import jax
import jax.numpy as jnp
from jax.core import Tracer

from ffmd_jax.core import mechanics, units
from ffmd_jax.core.state import Array, State, System

Number = Array | float


def csvr(key: Array, system: System, state: State, temperature_K: Number, tau_fs: Number, interval_fs: Number) -> State:
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
    """
    kinetic = mechanics.kinetic_energy(system, state.velocities)
    scale = _csvr_scale(key, kinetic, mechanics.degrees_of_freedom(system), temperature_K, interval_fs / tau_fs)
    return mechanics.zero_momenta(system, state._replace(velocities=scale * state.velocities))


def _csvr_scale(key: Array, kinetic: Array, freedom: int | Array, temperature_K: Number, ratio_of_times: Number):
    """The factor α of `csvr` for a kinetic energy, eV, of so many degrees of freedom."""
    dtype = kinetic.dtype
    keep = jnp.exp(jnp.asarray(-ratio_of_times, dtype))
    key_normal, key_gamma = jax.random.split(key)
    normal = jax.random.normal(key_normal, dtype=dtype)
    # chi² with f − 1 degrees of freedom is twice a Gamma variate; f = 1 leaves nothing to draw.
    shape = jnp.asarray((freedom - 1) / 2, dtype)
    if not isinstance(freedom, Tracer) and freedom <= 1:
        chi_squared = jnp.zeros((), dtype)
    else:
        chi_squared = 2 * jax.random.gamma(key_gamma, shape, dtype=dtype)
    ratio = jnp.asarray(0.5 * units.BOLTZMANN * temperature_K, dtype) / kinetic
    cross = jnp.sqrt(keep * (1 - keep) * ratio)
    squared = keep + (1 - keep) * ratio * (normal**2 + chi_squared) + 2 * normal * cross
    # R very negative turns the velocities round (footnote in the paper); it matters at few degrees of freedom.
    sign = jnp.where(normal * (1 - keep) * ratio + cross >= 0, 1, -1).astype(dtype)
    return sign * jnp.sqrt(squared)


def langevin(
    key: Array, system: System, state: State, temperature_K: Number, tau_fs: Number, interval_fs: Number
) -> State:
    """Ornstein–Uhlenbeck velocities: v ← c v + sqrt((1 − c²) k_B T/m) ξ, c = exp(−Δt/τ); momenta set to zero after.

    Thermalises every mode by itself, so it equilibrates faster than `csvr` and disturbs the dynamics more.  Two halves
    of it, one before and one after the propagator, are one whole between two propagators: the chain of states is that
    of OBABO (Bussi & Parrinello 2007, doi:10.1103/PhysRevE.75.056707), recorded half a thermostat later.

    Args:
        temperature_K: target, K.
        tau_fs: velocity relaxation time 1/γ, fs.
        interval_fs: time between two applications, fs.
    """
    dtype = state.velocities.dtype
    keep = jnp.exp(jnp.asarray(-interval_fs / tau_fs, dtype))
    variance = (1 - keep**2) * jnp.asarray(units.BOLTZMANN * units.EV * temperature_K, dtype)
    width = jnp.sqrt(variance * mechanics.inverse_masses(system))[:, None]
    noise = width * jax.random.normal(key, state.velocities.shape, dtype)
    return mechanics.zero_momenta(system, state._replace(velocities=keep * state.velocities + noise))


def fast_langevin(
    key: Array,
    system: System,
    state: State,
    partners: Array,
    temperature_K: Number,
    tau_fs: Number,
    above_per_cm: Number,
    interval_fs: Number,
) -> tuple[State, Array]:
    """Friction and noise on fast motions: a generalised Langevin equation with one partner s of each velocity v.

    (Ceriotti, Bussi & Parrinello 2010, doi:10.1021/ct900563s.)  With γ = 1/τ and ω₀ = 2πc ν₀,

        d(v, s) = −a (a · (v, s)) dt + a sqrt(2 k_B T/m) dW,   a = (sqrt(γ), sqrt(ω₀))

    so that a motion of angular frequency ω feels the friction γ ω²/(ω² + ω₀²): half of γ at ω₀, and none at rest.
    Friction and noise act along one direction of (v, s), where the solution over an interval is that of Ornstein and
    Uhlenbeck; velocities and partners have the same canonical distribution, independent.

    Args:
        partners: s, Å/fs, ``[n_atoms, 3]``; `free_velocities` at the start.
        temperature_K: target, K.
        tau_fs: relaxation time 1/γ of the fastest motions, fs.
        above_per_cm: ν₀, cm⁻¹.
        interval_fs: time between two applications, fs.
    """
    dtype = state.velocities.dtype
    friction, slowest = 1 / tau_fs, 2 * jnp.pi * above_per_cm / units.TERAHERTZ_IN_PER_CM / units.PS
    rate = friction + slowest
    on_velocity, on_partner = (jnp.sqrt(jnp.asarray(part / rate, dtype)) for part in (friction, slowest))
    along = on_velocity * state.velocities + on_partner * partners
    keep = jnp.exp(jnp.asarray(-interval_fs * rate, dtype))
    noise = jnp.sqrt(1 - keep**2) * free_velocities(key, system, state, temperature_K)
    change = noise - (1 - keep) * along
    moved = state._replace(velocities=state.velocities + on_velocity * change)
    return mechanics.zero_momenta(system, moved), partners + on_partner * change


def free_velocities(key: Array, system: System, state: State, temperature_K: Number) -> Array:
    """Velocities of free atoms at a temperature, as the partners of `fast_langevin` have, Å/fs ``[n_atoms, 3]``."""
    dtype = state.velocities.dtype
    variance = jnp.asarray(units.BOLTZMANN * units.EV * temperature_K, dtype)
    width = jnp.sqrt(variance * mechanics.inverse_masses(system))[:, None]
    return width * jax.random.normal(key, state.velocities.shape, dtype)
