"""Thermostats, applied between propagator steps: ``Thermostat(key, system, state) -> State``.

Each also takes a fourth argument, a temperature, K, in place of its own: for ramps, and for replicas.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from ffmd_jax.core import mechanics, units
from ffmd_jax.core.state import Array, State, System, Thermostat

Kind = Literal["csvr", "csvr-by-species", "langevin"]


def make(
    kind: Kind,
    temperature_K: float,
    tau_fs: float,
    interval_fs: float,
    *,
    elements: tuple[int, ...] = (),
    friction_tau_fs: float | None = None,
) -> Thermostat:
    """The thermostat of that name, and after it, with ``friction_tau_fs``, `langevin` of that relaxation time.

    `csvr` holds the temperature and weak friction spreads the kinetic energy: a motion whose energy a propagator feeds
    at a rate r is too hot by a factor 1/(1 − r τ/2), τ that of the friction, if nothing else couples it to the others.

    Args:
        kind: which.
        temperature_K, tau_fs, interval_fs: its arguments.
        elements: atomic numbers of the system, which "csvr-by-species" needs.
        friction_tau_fs: velocity relaxation time of the friction, fs; None: none.

    Raises:
        ValueError: friction on top of friction, a negative temperature or a time that is not positive.
    """
    options = (temperature_K, tau_fs, interval_fs)
    if kind == "langevin" and friction_tau_fs is not None:
        raise ValueError("langevin has friction already; its relaxation time is tau")
    if kind == "csvr-by-species":
        bath = csvr_by_species(*options, elements)
    else:
        bath = {"csvr": csvr, "langevin": langevin}[kind](*options)
    return bath if friction_tau_fs is None else in_turn(bath, langevin(temperature_K, friction_tau_fs, interval_fs))


def in_turn(*baths: Thermostat) -> Thermostat:
    """One thermostat after the other; each leaves the canonical ensemble as it is, so all together do."""

    def apply(key: Array, system: System, state: State, *temperature_K: Array | float) -> State:
        for bath, own in zip(baths, jax.random.split(key, len(baths)), strict=True):
            state = bath(own, system, state, *temperature_K)
        return state

    return apply


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

    def apply(key: Array, system: System, state: State, temperature_K: Array | float = temperature_K) -> State:
        kinetic = mechanics.kinetic_energy(system, state.velocities)
        scale = _csvr_scale(key, kinetic, mechanics.degrees_of_freedom(system), temperature_K, interval_fs / tau_fs)
        return mechanics.zero_momenta(system, state._replace(velocities=scale * state.velocities))

    return apply


def csvr_by_species(temperature_K: float, tau_fs: float, interval_fs: float, elements: tuple[int, ...]) -> Thermostat:
    """`csvr` on the kinetic energy of each element by itself, so that none stays cold at the cost of another.

    Scaling one element alone would leave the space of zero momenta, where elements share degrees of freedom.  So the
    rigid motion, absent until then, is drawn from its canonical distribution first: the 3 N_s velocity components of an
    element are then independent.  It is taken out again at the end.  Hides a violation of equipartition.

    Args:
        temperature_K: target, K.
        tau_fs: relaxation time of the kinetic energies, fs.
        interval_fs: time between two applications, fs.
        elements: atomic numbers of the system, or of more.
    """
    _check(temperature_K, tau_fs, interval_fs)

    def apply(key: Array, system: System, state: State, temperature_K: Array | float = temperature_K) -> State:
        key_rigid, key_scale = jax.random.split(key)
        width = jnp.sqrt(units.BOLTZMANN * units.EV * temperature_K / system.masses)[:, None]
        drawn = state._replace(velocities=width * jax.random.normal(key_rigid, state.velocities.shape, width.dtype))
        rigid = drawn.velocities - mechanics.zero_momenta(system, drawn).velocities
        velocities = mechanics.zero_momenta(system, state).velocities + rigid
        members = jnp.asarray(elements)[:, None] == system.species
        kinetic = members @ (0.5 * system.masses * jnp.sum(velocities**2, axis=-1)) / units.EV
        keys = jax.random.split(key_scale, len(elements))
        freedom = 3 * jnp.sum(members, axis=1)
        scale_each = jax.vmap(_csvr_scale, in_axes=(0, 0, 0, None, None))
        scale = scale_each(keys, kinetic, freedom, temperature_K, interval_fs / tau_fs)
        scale = jnp.where(freedom > 0, scale, 1)  # of an element that the system does not have, NaN
        return mechanics.zero_momenta(system, state._replace(velocities=(scale @ members)[:, None] * velocities))

    return apply


def _csvr_scale(key: Array, kinetic: Array, freedom: Array, temperature_K: Array | float, ratio_of_times: float):
    """The factor α of `csvr` for a kinetic energy, eV, of so many degrees of freedom."""
    dtype = kinetic.dtype
    freedom = freedom.astype(dtype)
    keep = jnp.exp(jnp.asarray(-ratio_of_times, dtype))
    key_normal, key_gamma = jax.random.split(key)
    normal = jax.random.normal(key_normal, dtype=dtype)
    # chi² with f − 1 degrees of freedom is twice a Gamma variate; f = 1 leaves nothing to draw.
    shape = jnp.maximum(freedom - 1, 1e-3) / 2
    chi_squared = jnp.where(freedom > 1, 2 * jax.random.gamma(key_gamma, shape, dtype=dtype), 0)
    ratio = 0.5 * units.BOLTZMANN * temperature_K / kinetic
    cross = jnp.sqrt(keep * (1 - keep) * ratio)
    squared = keep + (1 - keep) * ratio * (normal**2 + chi_squared) + 2 * normal * cross
    # R very negative turns the velocities round (footnote in the paper); it matters at few degrees of freedom.
    sign = jnp.where(normal * (1 - keep) * ratio + cross >= 0, 1, -1).astype(dtype)
    return sign * jnp.sqrt(squared)


def langevin(temperature_K: float, tau_fs: float, interval_fs: float) -> Thermostat:
    """Ornstein–Uhlenbeck velocities: v ← c v + sqrt((1 − c²) k_B T/m) ξ, c = exp(−Δt/τ); momenta set to zero after.

    Thermalises every mode by itself, so it equilibrates faster than `csvr` and disturbs the dynamics more.  Two halves
    of it, one before and one after the propagator, are one whole between two propagators: the chain of states is that
    of OBABO (Bussi & Parrinello 2007, doi:10.1103/PhysRevE.75.056707), recorded half a thermostat later.

    Args:
        temperature_K: target, K.
        tau_fs: velocity relaxation time 1/γ, fs.
        interval_fs: time between two applications, fs.
    """
    _check(temperature_K, tau_fs, interval_fs)

    def apply(key: Array, system: System, state: State, temperature_K: Array | float = temperature_K) -> State:
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
