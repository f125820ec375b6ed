"""Thermostats alone, at few degrees of freedom: mean and variance of the kinetic energy within 5 standard errors."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ffmd_jax.core import mechanics, units
from ffmd_jax.core.state import State, make_system, take
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics.ensemble import NVE, NVT

KT = units.BOLTZMANN * 300.0
# Atoms in a periodic box have 3N − 3 degrees of freedom, isolated ones 3N − 6.
SYSTEMS = {6: (3, True), 60: (21, True), 15: (7, False)}


def start(freedom, n_chains):
    n_atoms, periodic = SYSTEMS[freedom]
    rng = np.random.default_rng(0)
    masses = rng.uniform(1.0, 40.0, n_atoms)
    system = make_system(np.full(n_atoms, 6), masses, periodic)
    positions = jnp.asarray(rng.normal(size=(n_atoms, 3)))
    at_rest = State(positions, jnp.zeros_like(positions), 10.0 * jnp.eye(3))
    keys = jax.random.split(jax.random.key(1), n_chains)
    hot = jax.vmap(lambda key: mechanics.maxwell_boltzmann(key, system, at_rest, 900.0))(keys)
    return system, hot


class Bath(NamedTuple):
    """An ensemble as a step of states and its memory."""

    ensemble: NVT
    interval_fs: float

    def start(self, key, system, state):
        return ensembles.start(self.ensemble, key, system, state, self.ensemble.temperature_K)

    def __call__(self, key, system, state, memory=()):
        kelvin = self.ensemble.temperature_K
        return ensembles.apply(self.ensemble, key, system, state, kelvin, self.interval_fs, memory)


def make(kind, temperature_K, tau_fs, interval_fs, friction_tau_fs=None, above=None):
    return Bath(NVT(temperature_K, tau_fs, kind, friction_tau_fs, friction_above_per_cm=above), interval_fs)


KINDS = [("csvr", None, None), ("langevin", None, None), ("csvr", 200.0, None), ("csvr", 50.0, 300.0)]


def kinetic_energies(bath, freedom, n_chains=400, n_steps=600):
    """Kinetic energies ``[n_kept, n_chains]`` after equilibration from 900 K, every chain with its own key."""
    system, state = start(freedom, n_chains)

    def step(carry, key):
        keys = jax.random.split(key, n_chains)
        state, memory = jax.vmap(lambda key, s, memory: bath(key, system, s, memory))(keys, *carry)
        return (state, memory), jax.vmap(lambda s: mechanics.kinetic_energy(system, s.velocities))(state)

    def run(state):
        keys = jax.random.split(jax.random.key(7), n_chains)
        memory = jax.vmap(lambda key, s: bath.start(key, system, s))(keys, state)
        return jax.lax.scan(step, (state, memory), jax.random.split(jax.random.key(2), n_steps))[1]

    return np.asarray(jax.jit(run)(state))[n_steps // 3 :]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "friction", "above", "freedom"),
    [(*kind, freedom) for kind in KINDS for freedom in SYSTEMS if kind[2] is None or freedom == 15],
)
def test_kinetic_energy_is_canonical(kind, friction, above, freedom):
    kinetic = kinetic_energies(make(kind, 300.0, 50.0, 25.0, friction, above), freedom)
    expected_mean, expected_variance = freedom * KT / 2, freedom * KT**2 / 2
    # Chains are independent: the spread of their means gives the standard error, correlation and all.
    means, variances = kinetic.mean(axis=0), ((kinetic - expected_mean) ** 2).mean(axis=0)
    for values, expected in ((means, expected_mean), (variances, expected_variance)):
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert abs(values.mean() - expected) < 5 * error
        assert 5 * error < 0.05 * expected  # sharp enough to see a wrong number of degrees of freedom


def test_kinetic_energy_relaxes_with_tau():
    kinetic = kinetic_energies(make("csvr", 300.0, 500.0, 25.0), 60, n_chains=2000, n_steps=30)
    system, hot = start(60, 2000)
    initial = float(jnp.mean(jax.vmap(lambda s: mechanics.kinetic_energy(system, s.velocities))(hot)))
    target = 30 * KT
    expected = target + (initial - target) * np.exp(-25.0 * 11 / 500.0)
    error = kinetic[0].std() / np.sqrt(2000)
    assert abs(kinetic[0].mean() - expected) < 5 * error


@pytest.mark.parametrize(("kind", "friction", "above"), KINDS)
def test_momenta_stay_zero_and_keys_are_used_once(kind, friction, above):
    system, state = start(15, 1)
    state, bath = take(state, 0), make(kind, 300.0, 50.0, 10.0, friction, above)
    memory = bath.start(jax.random.key(4), system, state)
    with jax.debug_key_reuse(True):
        after, _ = bath(jax.random.key(3), system, state, memory)
    scale = float(jnp.sum(system.masses[:, None] * jnp.abs(after.velocities)))
    assert np.abs(mechanics.linear_momentum(system, after.velocities)).max() < 1e-12 * scale
    assert np.abs(mechanics.angular_momentum(system, after)).max() < 1e-11 * scale
    assert np.abs(after.velocities - state.velocities).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize(("friction_tau_fs", "shared"), [(None, False), (250.0, True)])
def test_friction_shares_what_a_propagator_feeds_to_one_element(friction_tau_fs, shared):
    # A step heats H by 1 % and cools C by 1 %; CSVR keeps the total, and only friction the shares.
    system, state = start(60, 200)
    hydrogen = np.arange(21) < 10
    system = dataclasses.replace(system, species=np.where(hydrogen, 1, 6))
    bath = make("csvr", 300.0, 50.0, 10.0, friction_tau_fs)
    feed = jnp.where(hydrogen, 1.005, 0.995)[:, None]

    def step(carry, key):
        fed = carry._replace(velocities=feed * carry.velocities)
        state = jax.vmap(lambda key, s: bath(key, system, s)[0])(jax.random.split(key, 200), fed)
        energies = jnp.sum(system.masses[:, None] * state.velocities**2, axis=-1) / (2 * units.EV)
        return state, jnp.stack([energies.sum(axis=-1), energies[:, hydrogen].sum(axis=-1)])

    keys = jax.random.split(jax.random.key(5), 600)
    total, own = np.asarray(jax.jit(lambda s: jax.lax.scan(step, s, keys)[1])(state))[300:].mean(axis=(0, 2))
    freedom = np.asarray(mechanics.degrees_of_freedom_by_atom(system, state.positions[0]))[:10].sum()
    assert abs(total / (30 * KT) - 1) < 0.06  # CSVR takes 20 % of an excess in a step, and up to 1 % comes in
    # Friction takes 2/τ of an energy's excess, so what gains 1 % a step is 1/(1 − 0.01/0.08) too hot: + 14 %.
    excess = own / (freedom * KT / 2)
    assert (abs(excess - 1.14) < 0.04) if shared else excess > 1.8


@pytest.mark.parametrize("interval_fs", [0.1, 5.0])
def test_friction_on_fast_motions_leaves_slow_ones_alone(interval_fs):
    # Oscillators without noise, in pairs that move against each other: energy is lost at the rate γ ω²/(ω² + ω₀²).
    tau, above = 300.0, 1500.0
    per_cm = np.array([10.0, 500.0, 1500.0, 3000.0])
    omega = np.repeat(2 * np.pi * per_cm / units.TERAHERTZ_IN_PER_CM / units.PS, 2)[:, None]
    cos, sin = np.cos(omega * interval_fs), np.sin(omega * interval_fs)
    system = make_system([6] * 8, [12.0] * 8, True)
    bath = make("csvr", 0.0, 1e30, interval_fs, tau, above)
    away = np.where(np.arange(8) % 2, -1.0, 1.0)[:, None] * np.ones(3)

    def step(carry, key):
        state, memory = carry
        turned = (cos * state.positions + sin / omega * state.velocities,
                  cos * state.velocities - sin * omega * state.positions)  # fmt: skip
        return bath(key, system, State(*turned, state.cell), memory), None

    def energies(state):
        return np.mean((omega * state.positions) ** 2 + state.velocities**2, axis=1)[::2]

    n_steps = round(2 * tau / interval_fs)
    carry = (State(away / omega, 0 * away, 10.0 * np.eye(3)), 0 * away)
    run = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys)[0])
    for _ in range(2):  # the partners follow within the first
        before = energies(carry[0])
        carry = run(carry, jax.random.split(jax.random.key(0), n_steps))
    rates = -np.log(energies(carry[0]) / before) / (n_steps * interval_fs) * tau
    # Steps of half a period act a little more strongly; energies swing by a part of 0.002 as friction comes and goes.
    expected = per_cm**2 / (per_cm**2 + above**2)
    np.testing.assert_allclose(rates, expected, rtol=0.02 if interval_fs < 1 else 0.16, atol=0.002)


def test_unphysical_parameters_are_refused():
    with pytest.raises(ValueError, match="friction already"):
        NVT(300.0, 50.0, "langevin", friction_tau_fs=100.0)
    NVT(300.0, 50.0, "langevin", friction_tau_fs=100.0, friction_above_per_cm=1000.0)
    with pytest.raises(ValueError, match="needs friction"):
        NVT(300.0, friction_above_per_cm=1000.0)
    with pytest.raises(ValueError, match="csvr or langevin"):
        NVT(300.0, 50.0, "berendsen")  # pyright: ignore[reportArgumentType]
    for wrong, named in (
        ({"temperature_K": -1.0}, "temperature_K"),
        ({"temperature_K": np.nan}, "temperature_K"),
        ({"temperature_K": (300.0, -1.0)}, "temperature_K"),
        ({"end_K": -1.0}, "end_K"),
        ({"tau_fs": 0.0}, "tau_fs must be positive"),
        ({"friction_tau_fs": -1.0}, "friction_tau_fs must be positive"),
        ({"friction_tau_fs": 1.0, "friction_above_per_cm": 0.0}, "friction_above_per_cm must be positive"),
    ):
        with pytest.raises(ValueError, match=named):
            NVT(**wrong)


def test_the_ensemble_is_the_one_source_of_all_that_depends_on_it():
    ramp = ensembles.complete(NVT(200, end_K=400, friction_tau_fs=np.inf), 7.0)
    assert ramp == NVT(200.0, 70.0, "csvr", None, 400.0)
    assert [float(ensembles.temperature(ramp, x)) for x in (0, 0.25, 1)] == [200, 250, 400]
    assert ensembles.hottest(ramp) == 400 and ensembles.hottest(NVE()) is None
    assert ensembles.at(ramp, 0.5) == NVT(300.0, 70.0)
    said = ensembles.metadata(ramp)
    assert said["temperature_K"] is None and said["temperature_end_K"] == 400 and said["tau_fs"] == 70
    assert ensembles.metadata(NVE())["ensemble"] == "nve"
    with pytest.raises(ValueError, match=r"below 556 cm⁻¹, the fastest motion that steps of 30 fs"):
        ensembles.complete(NVT(300, friction_tau_fs=500, friction_above_per_cm=1000), 30.0)
    several = ensembles.complete(NVT((100, 300), 50), 1.0)
    np.testing.assert_array_equal(ensembles.temperature(several), [100, 300])
    assert ensembles.hottest(several) == 300


def test_an_ensemble_at_another_temperature_is_the_same_program():
    traces = []

    @jax.jit
    def act(ensemble, key, system, state):
        traces.append(ensemble)
        return ensembles.apply(ensemble, key, system, state, ensembles.temperature(ensemble), 10.0)[0]

    system, state = start(15, 1)
    for kelvin, tau in ((300.0, 50.0), (10.0, 70.0)):
        act(NVT(kelvin, tau), jax.random.key(0), system, take(state, 0))
    assert len(traces) == 1


def test_momenta_do_not_grow_under_a_dissipative_propagator():
    # The thermostat scales up what the propagator scales down: any momentum would double in every step.
    system, state = start(15, 1)
    bath, state = make("csvr", 300.0, 0.01, 10.0), take(state, 0)
    drifting = state._replace(velocities=state.velocities + 1e-9)

    def step(state, key):
        return bath(key, system, state._replace(velocities=0.5 * state.velocities))[0], None

    after = jax.jit(lambda s: jax.lax.scan(step, s, jax.random.split(jax.random.key(4), 100))[0])(drifting)
    scale = float(jnp.sum(system.masses[:, None] * jnp.abs(after.velocities)))
    assert np.abs(mechanics.linear_momentum(system, after.velocities)).max() < 1e-12 * scale
