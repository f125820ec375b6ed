"""Monitors: each alarm is raised by what it is for, in time, and by nothing else."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import springs

from ffmd_jax.core import mechanics
from ffmd_jax.core.state import State, make_system
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.dynamics import alarms, monitors, rollout
from ffmd_jax.dynamics.engine import Engine
from ffmd_jax.dynamics.ensemble import NVE, NVT
from ffmd_jax.models import config, trajcast
from ffmd_jax.reference_md import integrator, systems
from ffmd_jax.training import calibration, scales

DT = 4.0
CALIBRATION = config.Calibration(
    round_trip=1e-3,
    round_trip_atom=3e-3,
    kinetic_drift=(0.01,),
    momentum_change=1e-7,
    speeds=(0.01,),
    temperature_K=90.0,
)
CONFIG = config.ModelConfig(
    elements=(18,), masses=(39.95,), time_step_fs=DT, displacement_rms=4.5e-3, velocity_rms=1.1e-3, speed_max=0.01,
    average_neighbors=40.0, shortest_distance=3.1,
    architecture=config.Architecture(cutoff=8.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def argon():
    return systems.argon((2, 2, 2))


@pytest.fixture(scope="module")
def start(argon):
    """An equilibrated crystal at 60 K."""
    with jax.enable_x64(True):
        state = mechanics.maxwell_boltzmann(jax.random.key(0), argon.system, argon.state, 120.0)
        return run(argon, state, 400, monitor=None).carry.state


def run(argon, state, n_steps, damage=None, ensemble=NVE(), **options):
    exact = integrator.drift_kick_drift(argon.energy, DT)

    def propagate(system, state, graph):
        after = exact(system, state, graph)
        return after if damage is None else damage(after)

    # The window of 100 fs is that of all the ensembles here.
    watched = NVE() if ensemble == NVE() else dataclasses.replace(ensemble, tau_fs=100.0)
    limits = monitors.limits(CONFIG, CALIBRATION, argon.system, watched)
    options = {"monitor": alarms.monitor(propagate, limits, every=10), **options}
    blocks = rollout.run(
        argon.system, state, propagate, cutoff=argon.cutoff, time_step_fs=DT, n_steps=n_steps, key=jax.random.key(1),
        skin=0.8, ensemble=ensemble, **options,
    )  # fmt: skip
    return rollout.gather(blocks)


def alarms_of(argon, block):
    return monitors.describe(jax.tree.map(np.asarray, block.carry.memory.record), CONFIG, argon.system)


@pytest.mark.parametrize("ensemble", [NVE(), NVT(60.0, 100.0), NVT(60.0, 100.0, "langevin")])
def test_a_healthy_run_raises_no_alarm(argon, start, ensemble):
    block = run(argon, start, 800, ensemble=ensemble)
    assert len(block.times) == 800 and alarms_of(argon, block) == []
    assert 0 < np.asarray(block.observables["round_trip_error"]).max() < 1e-8  # the reference is reversible


def of_atom(factor, what="velocities"):
    return lambda state: state._replace(**{what: getattr(state, what).at[5].multiply(factor)})


def scaled(factor):
    return lambda state: state._replace(velocities=factor * state.velocities)


def pushed(state):
    return state._replace(velocities=state.velocities + 1e-6)


def squeezed(state):
    near = state.positions[1] + (state.positions[0] - state.positions[1]) * 0.1
    return state._replace(positions=state.positions.at[0].set(near))


@pytest.mark.parametrize(
    ("damage", "kind", "atom"),
    [
        (of_atom(np.nan), "not finite", 5),
        (of_atom(1e4), "not finite", 5),
        (of_atom(40.0), "too fast", 5),
        (squeezed, "too close", 0),
        (scaled(3.0), "too hot", -1),
        (pushed, "momentum", -1),
        (scaled(1.02), "round trip", None),
        (scaled(0.98), "round trip", None),
        (of_atom(1.03), "round trip of an atom", 5),
    ],
)
def test_a_damaged_step_is_caught_at_once_and_good_frames_are_kept(argon, start, damage, kind, atom):
    block = run(argon, start, 40, damage)
    found = alarms_of(argon, block)
    assert kind in [alarm.kind for alarm in found]
    (alarm,) = [alarm for alarm in found if alarm.kind == kind]
    # Momentum is compared with that after the first step.
    assert alarm.time_fs == (2 * DT if kind == "momentum" else DT)
    assert atom is None or alarm.place == atom
    assert len(block.times) == round(found[0].time_fs / DT) - 1
    assert np.isfinite(block.frames.positions).all()
    json.dumps(alarm._asdict())


def test_a_slow_leak_of_energy_is_a_drift_in_nve_and_hides_in_a_bath(argon, start):
    # 0.05 % of the velocity a step: no round trip sees it at this calibration.
    leak = scaled(1 - 5e-4)
    (alarm,) = alarms_of(argon, run(argon, start, 800, leak))
    assert alarm.kind == "kinetic drift" and 200 * DT < alarm.time_fs < 800 * DT
    assert alarms_of(argon, run(argon, start, 800, leak, NVT(60.0, 40.0))) == []


def test_a_temperature_that_the_bath_cannot_hold_is_caught(argon, start):
    cold = scaled(0.995)
    (alarm,) = alarms_of(argon, run(argon, start, 800, cold, NVT(60.0, 400.0)))
    assert alarm.kind == "temperature" and "Ar is at" in alarm.text


def test_warnings_count_and_go_on(argon, start):
    limits = monitors.limits(CONFIG, CALIBRATION, argon.system)
    exact = integrator.drift_kick_drift(argon.energy, DT)

    def damaged(system, state, graph):
        return of_atom(1.03)(exact(system, state, graph))

    block = run(argon, start, 30, of_atom(1.03), monitor=alarms.monitor(damaged, limits, every=10, halt=False))
    assert len(block.times) == 30
    found = {alarm.kind: alarm.count for alarm in alarms_of(argon, block)}
    assert found["momentum"] == 29  # all but the first, which sets it
    assert 1 <= found["round trip of an atom"] <= 3


def test_limits_without_a_calibration_still_see_the_worst(argon, start):
    limits = monitors.limits(CONFIG, None, argon.system)
    assert np.isinf([limits.hottest, limits.momentum_change, limits.round_trip_atom]).all()
    assert limits.round_trip == 0.5


def test_a_round_trip_of_a_map_that_is_wrong_by_a_known_amount(argon, start):
    # v -> 1.02 v after the exact step: back again it is 1.02² v, and positions are off by the second order.
    block = run(argon, start, 1, scaled(1.01), monitor=None)
    limits = monitors.limits(CONFIG, CALIBRATION, argon.system)._replace(displacement_rms=1e9)
    exact = integrator.drift_kick_drift(argon.energy, 1e-3)

    def propagate(system, state, graph):
        return scaled(1.01)(exact(system, state, graph))

    engine = Engine(argon.system, start, propagate, cutoff=argon.cutoff, time_step_fs=1e-3)
    carry = engine.start(start, jax.random.key(0))
    after = propagate(argon.system, start, carry.table.graph)
    trip = alarms.round_trip(propagate, engine.search, argon.system, start, after, limits)
    speed = np.sqrt(np.mean(np.asarray(start.velocities) ** 2))
    assert float(trip.mean) == pytest.approx((1.01**2 - 1) * speed / CONFIG.velocity_rms / np.sqrt(2), rel=1e-3)
    assert len(block.times) == 1


def test_images_keep_float32_exact_where_unwrapped_positions_stop():
    n_steps, step = 300_000, 0.3
    system = make_system([18, 18], [40.0, 40.0], True)
    velocities = jnp.asarray([[step, 0.1, 0], [-step, 0.2, 0]], jnp.float32)
    state = State(jnp.asarray([[1.0, 2, 3], [4, 5, 6]], jnp.float32), velocities, 10 * jnp.eye(3, dtype=jnp.float32))

    def fly(system, state, graph):
        return state._replace(positions=state.positions + state.velocities)

    options = {"cutoff": 6.0, "time_step_fs": 1.0, "every": n_steps // 4, "skin": 4.0}
    exact = np.asarray(state.positions, float) + n_steps * np.asarray(velocities, float)
    error = {}
    for wrap in (True, False):
        blocks = rollout.run(system, state, fly, n_steps=n_steps, key=jax.random.key(0), wrap=wrap, **options)
        error[wrap] = np.abs(rollout.gather(blocks).frames.positions[-1] - exact).max()
    # Half a unit in the last place of 10 Å in every step, at worst; of 1e5 Å without images.
    assert error[True] < n_steps * 2.0**-21 and error[True] < 1e-5 * n_steps * step
    assert error[False] > 100 * error[True]


@pytest.mark.parametrize("n_atoms", [2, 9, 64])
def test_limits_of_temperatures_leave_room_for_chance(n_atoms):
    # Mean squares of few normal numbers are skewed: 5 standard errors, for 9 atoms 48 %, are exceeded too often.
    system = make_system(np.full(n_atoms, 18), np.full(n_atoms, 39.948))
    found = monitors.limits(CONFIG, None, system, NVT(60.0, 100.0), factor=1e-3)
    for samples, limit in ((8, found.kinetic[0]), (10, found.kinetic_total)):
        freedom = samples * 3 * n_atoms
        drawn = np.random.default_rng(0).chisquare(freedom, 3_000_000) / freedom - 1
        assert np.sum(drawn > limit) <= 6 and np.sum(drawn > 0.8 * limit) > 6  # of 3 million, 0.9 expected


@pytest.mark.parametrize(("n_atoms", "wider"), [(20, True), (162, False)])
def test_a_molecule_in_a_thermostat_may_be_hotter_than_its_data_of_constant_energy(n_atoms, wider):
    system = make_system(np.full(n_atoms, 18), np.full(n_atoms, 39.948))
    found = monitors.limits(CONFIG, CALIBRATION, system, NVT(60.0, 100.0)).hottest
    freedom = 3 * n_atoms - 6
    kelvins = 60 * np.random.default_rng(0).chisquare(freedom, 3_000_000) / freedom
    assert kelvins.max() < found
    assert (found > 1.5 * CALIBRATION.temperature_K) == wider
    assert monitors.limits(CONFIG, CALIBRATION, system).hottest == 1.5 * CALIBRATION.temperature_K
    beyond = monitors.limits(CONFIG, CALIBRATION, system, NVT(900.0, 100.0)).hottest
    assert beyond == 1.5 * CALIBRATION.temperature_K  # a target that the data do not reach does not count


@pytest.mark.slow
def test_a_calibration_looks_at_each_state_in_its_own_cell():
    data = springs(n_validation=6)
    (sets,) = pair_sets.form(data)
    sizes = config.Architecture(cutoff=4.5, lmax=1, channels=4, layers=1, radial_hidden=(4,), speed_hidden=(4,))
    with jax.enable_x64(False):
        model_config = scales.configure([sets], sizes)
        params = trajcast.init(jax.random.key(0), model_config)

        def calibrated(states):
            return calibration.calibrate(
                model_config, params, [sets._replace(validation=sets.validation._replace(state=states))]
            )

        states = sets.validation.state
        wider = states._replace(cell=np.float32(1.2) * states.cell)
        mixed = states._replace(cell=np.concatenate([states.cell[:3], wider.cell[3:]]))
        one, other, both = (calibrated(given) for given in (states, wider, mixed))
    assert one.round_trip != other.round_trip
    trips = [found.round_trip for found in (one, other)]
    assert both.round_trip == pytest.approx(max(trips), rel=1e-3) or min(trips) < both.round_trip < max(trips)


def test_a_thermostat_alone_makes_the_monitor_watch_temperatures_not_energies(argon, start):
    """The ensemble is given once: there is no way to run a thermostat that the monitor takes for NVE."""
    found = run(argon, start, 300, scaled(0.995), NVT(60.0, 400.0))
    assert "kinetic drift" not in [alarm.kind for alarm in alarms_of(argon, found)]
    record = jax.tree.map(np.asarray, found.carry.memory)
    assert 0.5 < float(record.average[0] / record.weight) < 1.5  # ratios to the target, not kelvins


@pytest.mark.parametrize(("tables", "alarmed"), [(True, True), (False, False)])
def test_pairs_closer_than_the_tables_begin_are_an_alarm_of_models_with_unknown_data(argon, tables, alarmed):
    imported = dataclasses.replace(CONFIG, shortest_distance=0.0)
    limits = monitors.limits(imported, None, argon.system, tables=tables)
    assert (limits.distance == imported.splines_from) == alarmed

    def collapse(system, state, graph):
        near = state.positions[1] + jnp.asarray([0.3, 0, 0])
        return state._replace(positions=state.positions.at[0].set(near))

    block = rollout.gather(
        rollout.run(
            argon.system, jax.tree.map(jnp.asarray, argon.state), collapse, cutoff=argon.cutoff, time_step_fs=DT,
            n_steps=2, key=jax.random.key(0), skin=0.8, monitor=alarms.monitor(collapse, limits, halt=False),
        )
    )  # fmt: skip
    record = jax.tree.map(np.asarray, block.carry.memory.record)
    texts = [alarm.text for alarm in monitors.describe(record, imported, argon.system) if alarm.kind == "too close"]
    assert bool(texts) == alarmed and all("without `tables`" in text for text in texts)
