"""A family of propagators: one for each Δt of a range, whose weights are functions of Δt.

Every weight is a sum of Chebyshev polynomials of log Δt.  At one Δt a member is a propagator like any other, at the
same cost.  What is learned at one Δt is shared by the others as far as their weights are alike.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import conservation
from ffmd_jax.core.state import Array, Graph, Propagate, State, System, full_precision
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.models import trajcast
from ffmd_jax.models.config import Calibration, Carried, FamilyCalibration, FamilyConfig, ModelConfig

_TERM, _LATER = "term{}", 0.5


class Member(NamedTuple):
    """A member while it is trained.

    Attributes:
        params: its weights.
        time_step_fs: Δt, fs.
        displacement_rms: of its data, Å.
        units: of its output, and what it carries over.
        half: the member with Δt/2, two steps of which it should be, and the weight of that; (): there is none.
    """

    params: trajcast.Params
    time_step_fs: Array
    displacement_rms: Array
    units: trajcast.Units
    half: Any = ()


def shapes(config: FamilyConfig) -> trajcast.Params:
    """Shapes and types of the weights: those of a propagator for every term."""
    return {_TERM.format(k): trajcast.shapes(config.member) for k in range(config.terms)}


def init(key: Array, config: FamilyConfig) -> trajcast.Params:
    """Weights that are random and the same at every Δt."""
    first = trajcast.init(key, config.member)
    nothing = jax.tree.map(jnp.zeros_like, first)
    return {_TERM.format(k): nothing if k else first for k in range(config.terms)}


def basis(config: FamilyConfig, time_step_fs: Any) -> Array:
    """The values of the terms at Δt, ``[terms]``: Chebyshev polynomials of log Δt over the range.

    All but the first are halved, so that a step of the optimizer, which changes the weights of all terms, changes those
    of a member little more than it would change them alone.
    """
    low, high = np.log(config.time_steps_fs[0]), np.log(config.time_steps_fs[-1])
    place = 2 * (jnp.log(time_step_fs) - low) / (high - low) - 1
    waves = jnp.cos(jnp.arange(config.terms) * jnp.arccos(jnp.clip(place, -1, 1)))
    return waves * jnp.where(jnp.arange(config.terms) > 0, _LATER, 1.0)


def member(config: FamilyConfig, params: trajcast.Params, time_step_fs: Any) -> Member:
    """The member with a Δt, fs, inside compiled programs."""
    dtype = params[_TERM.format(0)]["bessel_roots"].dtype
    values = basis(config, time_step_fs).astype(dtype)
    terms = [params[_TERM.format(k)] for k in range(config.terms)]
    weights = jax.tree.map(lambda *of_terms: sum(v * x for v, x in zip(values, of_terms, strict=True)), *terms)
    rms, units = _units(config, time_step_fs)
    made = jax.tree.map(lambda x: x.astype(dtype), (jnp.asarray(time_step_fs), rms, units))
    return Member(weights, *made)


def with_half(config: FamilyConfig, own: Member, average: trajcast.Params, weight: float) -> Member:
    """The member with that of Δt/2 by the averaged weights, which do not learn from it; weight 0 below the range."""
    low, half = config.time_steps_fs[0], own.time_step_fs / 2
    teacher = jax.lax.stop_gradient(member(config, average, jnp.maximum(half, low)))
    return own._replace(half=(teacher, jnp.where(half >= low * (1 - 1e-6), weight, 0.0)))


def _units(config: FamilyConfig, time_step_fs: Any) -> tuple[Array, trajcast.Units]:
    """RMS displacement, Å, and units of a member: monotonic cubic splines of log Δt through those of the trained Δt."""
    from scipy.interpolate import PchipInterpolator  # takes half a second, and models of one Δt do without

    steps, n = np.array(config.time_steps_fs), len(config.elements)
    # What is carried of a velocity in Δt, and over Δt as a displacement, hardly depends on a small Δt.
    rows = [
        [*np.array(of.displacements_fs) / step, *of.velocities, *np.log([of.displacement_unit, of.velocity_unit, rms])]
        for step, of, rms in zip(steps, config.carried, config.displacement_rms, strict=True)
    ]
    knots, cubic = np.log(steps), PchipInterpolator(np.log(steps), np.array(rows)).c  # [4, n_steps − 1, n_values]
    place = jnp.log(time_step_fs)
    k = jnp.clip(jnp.searchsorted(jnp.asarray(knots), place, side="right") - 1, 0, len(steps) - 2)
    found = jnp.polyval(jnp.asarray(cubic)[:, k], place - jnp.asarray(knots)[k])
    displacement, velocity, rms = jnp.exp(found[2 * n :])
    return rms, trajcast.Units(displacement, velocity, (found[:n] * time_step_fs, found[n : 2 * n]))


def make_propagate(
    config: FamilyConfig,
    member: Member,
    convolution: trajcast.Convolution = convolutions.edge_convolution,
    *,
    reversible: bool = False,
) -> Propagate:
    """One step of a member of the family, whose Δt may be traced."""
    network, of = trajcast.TrajCast(config.member, convolution), config.member
    correct = conservation.momenta(member.time_step_fs, of.net_linear_momentum, of.net_angular_momentum)

    @full_precision
    def step(system: System, state: State, graph: Graph) -> State:
        return trajcast.advance(network, member.params, member.units, correct, system, state, graph)

    return trajcast.reversed_and_back(step, correct) if reversible else step


def at(config: FamilyConfig, params: trajcast.Params, time_step_fs: float) -> tuple[ModelConfig, trajcast.Params]:
    """Configuration and weights of the propagator with a Δt, fs.

    Raises:
        ValueError: a Δt beyond those that were trained.
    """
    check(config, time_step_fs)
    made = jax.tree.map(np.asarray, _compiled(config)(params, float(time_step_fs)))
    moved, kept = (tuple(map(float, values)) for values in made.units.carried)
    own = dataclasses.replace(
        config.member,
        time_step_fs=float(time_step_fs),
        displacement_rms=float(made.displacement_rms),
        carried=Carried(moved, kept, float(made.units.displacement), float(made.units.velocity)),
    )
    return own, made.params


@functools.cache
def _compiled(config: FamilyConfig) -> Any:
    return jax.jit(functools.partial(member, config))


def check(config: FamilyConfig, time_step_fs: float) -> None:
    """Raises ValueError for a Δt beyond those that were trained."""
    low, high = config.time_steps_fs[0], config.time_steps_fs[-1]
    if not low <= time_step_fs <= high:
        raise ValueError(f"Δt = {time_step_fs:g} fs is beyond what the model was trained for, {low:g} to {high:g} fs")


def calibration_at(config: FamilyConfig, found: FamilyCalibration, time_step_fs: float) -> Calibration:
    """The calibration at a Δt, fs: between two that were trained, the larger of their values."""
    steps = np.array(config.time_steps_fs)
    above = int(np.searchsorted(steps, time_step_fs))
    if steps[above] == time_step_fs:
        return found.members[above]
    low, high = found.members[above - 1], found.members[above]
    larger = {
        name: tuple(map(max, getattr(low, name), getattr(high, name)))
        if name in ("kinetic_drift", "speeds")
        else max(getattr(low, name), getattr(high, name))
        for name in ("round_trip", "round_trip_atom", "kinetic_drift", "momentum_change", "speeds", "temperature_K")
    }
    return dataclasses.replace(high, **larger)
