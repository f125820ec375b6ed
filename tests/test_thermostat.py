"""Thermostats alone, at few degrees of freedom: mean and variance of the kinetic energy within 5 standard errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ffmd_jax.core import mechanics, units
from ffmd_jax.core.state import State, make_system
from ffmd_jax.dynamics import thermostat

KT = units.BOLTZMANN * 300.0
# Atoms in a periodic box have 3N − 3 degrees of freedom, isolated ones 3N − 6.
SYSTEMS = {6: (3, True), 60: (21, True), 15: (7, False)}


def start(freedom, n_chains):
    n_atoms, periodic = SYSTEMS[freedom]
    rng = np.random.default_rng(0)
    masses = rng.uniform(1.0, 40.0, n_atoms)
    system = make_system(np.full(n_atoms, 6), masses, np.eye(3) * 10 if periodic else None, periodic)
    positions = jnp.asarray(rng.normal(size=(n_atoms, 3)))
    keys = jax.random.split(jax.random.key(1), n_chains)
    hot = jax.vmap(lambda key: mechanics.maxwell_boltzmann(key, system, positions, 900.0))(keys)
    return system, hot


def csvr_with_friction(*options):
    return thermostat.make("csvr", *options, friction_tau_fs=200.0)


def kinetic_energies(bath, freedom, n_chains=400, n_steps=600):
    """Kinetic energies ``[n_kept, n_chains]`` after equilibration from 900 K, every chain with its own key."""
    system, state = start(freedom, n_chains)

    def step(carry, key):
        state = jax.vmap(lambda key, s: bath(key, system, s))(jax.random.split(key, n_chains), carry)
        return state, jax.vmap(lambda s: mechanics.kinetic_energy(system, s.velocities))(state)

    keys = jax.random.split(jax.random.key(2), n_steps)
    return np.asarray(jax.jit(lambda state: jax.lax.scan(step, state, keys)[1])(state))[n_steps // 3 :]


@pytest.mark.parametrize("freedom", SYSTEMS)
@pytest.mark.parametrize("make", [thermostat.csvr, thermostat.langevin, csvr_with_friction])
def test_kinetic_energy_is_canonical(make, freedom):
    kinetic = kinetic_energies(make(300.0, 50.0, 25.0), freedom)
    expected_mean, expected_variance = freedom * KT / 2, freedom * KT**2 / 2
    # Chains are independent: the spread of their means gives the standard error, correlation and all.
    means, variances = kinetic.mean(axis=0), ((kinetic - expected_mean) ** 2).mean(axis=0)
    for values, expected in ((means, expected_mean), (variances, expected_variance)):
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert abs(values.mean() - expected) < 5 * error
        assert 5 * error < 0.05 * expected  # sharp enough to see a wrong number of degrees of freedom


@pytest.mark.parametrize("freedom", [6, 15])
def test_by_species_every_energy_is_canonical_and_shares_degrees_of_freedom(freedom):
    # Two elements: two atoms are one, the others the other; their shares of 3N − 3 or 3N − 6 come from the masses.
    system, state = start(freedom, 400)
    n_atoms = len(system.species)
    system = system._replace(species=np.where(np.arange(n_atoms) < 2, 1, 6))
    bath = thermostat.csvr_by_species(300.0, 50.0, 25.0, (1, 6))
    first = np.asarray(mechanics.degrees_of_freedom_by_atom(system, state.positions[0]))[:2].sum()

    def step(carry, key):
        state = jax.vmap(lambda key, s: bath(key, system, s))(jax.random.split(key, 400), carry)
        squares = jnp.sum(system.masses[:, None] * state.velocities**2, axis=-1) / (2 * units.EV)
        return state, jnp.stack([squares.sum(axis=-1), squares[:, :2].sum(axis=-1)])

    keys = jax.random.split(jax.random.key(2), 600)
    energies = np.asarray(jax.jit(lambda s: jax.lax.scan(step, s, keys)[1])(state))[200:]
    total = freedom * KT / 2
    for values, expected in (
        (energies[:, 0], total),
        ((energies[:, 0] - total) ** 2, freedom * KT**2 / 2),
        (energies[:, 1], first * KT / 2),
    ):
        means = values.mean(axis=0)
        error = means.std(ddof=1) / np.sqrt(len(means))
        assert abs(means.mean() - expected) < 5 * error < 0.25 * expected


def test_kinetic_energy_relaxes_with_tau():
    kinetic = kinetic_energies(thermostat.csvr(300.0, 500.0, 25.0), 60, n_chains=2000, n_steps=30)
    system, hot = start(60, 2000)
    initial = float(jnp.mean(jax.vmap(lambda s: mechanics.kinetic_energy(system, s.velocities))(hot)))
    target = 30 * KT
    expected = target + (initial - target) * np.exp(-25.0 * 11 / 500.0)
    error = kinetic[0].std() / np.sqrt(2000)
    assert abs(kinetic[0].mean() - expected) < 5 * error


def by_species(*options):
    return thermostat.csvr_by_species(*options, (1, 6))  # of more elements than there are


@pytest.mark.parametrize("make", [thermostat.csvr, thermostat.langevin, by_species, csvr_with_friction])
def test_momenta_stay_zero_and_keys_are_used_once(make):
    system, state = start(15, 1)
    state = State(state.positions[0], state.velocities[0])
    with jax.debug_key_reuse(True):
        after = make(300.0, 50.0, 10.0)(jax.random.key(3), system, state)
    scale = float(jnp.sum(system.masses[:, None] * jnp.abs(after.velocities)))
    assert np.abs(mechanics.linear_momentum(system, after.velocities)).max() < 1e-12 * scale
    assert np.abs(mechanics.angular_momentum(system, after)).max() < 1e-11 * scale
    assert np.abs(after.velocities - state.velocities).max() > 0


@pytest.mark.parametrize(("friction_tau_fs", "shared"), [(None, False), (250.0, True)])
def test_friction_shares_what_a_propagator_feeds_to_one_element(friction_tau_fs, shared):
    # A step heats H by 1 % and cools C by 1 %; CSVR keeps the total, and only friction the shares.
    system, state = start(60, 200)
    hydrogen = np.arange(21) < 10
    system = system._replace(species=np.where(hydrogen, 1, 6))
    bath = thermostat.make("csvr", 300.0, 50.0, 10.0, friction_tau_fs=friction_tau_fs)
    feed = jnp.where(hydrogen, 1.005, 0.995)[:, None]

    def step(carry, key):
        fed = carry._replace(velocities=feed * carry.velocities)
        state = jax.vmap(lambda key, s: bath(key, system, s))(jax.random.split(key, 200), fed)
        energies = jnp.sum(system.masses[:, None] * state.velocities**2, axis=-1) / (2 * units.EV)
        return state, jnp.stack([energies.sum(axis=-1), energies[:, hydrogen].sum(axis=-1)])

    keys = jax.random.split(jax.random.key(5), 600)
    total, own = np.asarray(jax.jit(lambda s: jax.lax.scan(step, s, keys)[1])(state))[300:].mean(axis=(0, 2))
    freedom = np.asarray(mechanics.degrees_of_freedom_by_atom(system, state.positions[0]))[:10].sum()
    assert abs(total / (30 * KT) - 1) < 0.06  # CSVR takes 20 % of an excess in a step, and up to 1 % comes in
    # Friction takes 2/τ of an energy's excess, so what gains 1 % a step is 1/(1 − 0.01/0.08) too hot: + 14 %.
    excess = own / (freedom * KT / 2)
    assert (abs(excess - 1.14) < 0.04) if shared else excess > 1.8


def test_unphysical_parameters_are_refused():
    with pytest.raises(ValueError, match="friction already"):
        thermostat.make("langevin", 300.0, 50.0, 1.0, friction_tau_fs=100.0)
    for wrong in ((-1.0, 50.0, 1.0), (300.0, 0.0, 1.0), (300.0, 50.0, -1.0)):
        with pytest.raises(ValueError, match="thermostat needs"):
            thermostat.csvr(*wrong)


def test_momenta_do_not_grow_under_a_dissipative_propagator():
    # The thermostat scales up what the propagator scales down: any momentum would double in every step.
    system, state = start(15, 1)
    bath = thermostat.csvr(300.0, 0.01, 10.0)
    drifting = State(state.positions[0], state.velocities[0] + 1e-9)

    def step(state, key):
        return bath(key, system, state._replace(velocities=0.5 * state.velocities)), None

    after = jax.jit(lambda s: jax.lax.scan(step, s, jax.random.split(jax.random.key(4), 100))[0])(drifting)
    scale = float(jnp.sum(system.masses[:, None] * jnp.abs(after.velocities)))
    assert np.abs(mechanics.linear_momentum(system, after.velocities)).max() < 1e-12 * scale
