"""The roll-out on exact physics: it never knows whether a network or the reference steps the atoms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_params, small_config

from ffmd_jax.core import mechanics, neighbors, propagators
from ffmd_jax.core.state import State, cast, make_system, take
from ffmd_jax.dynamics import records, rollout, stepping
from ffmd_jax.dynamics.engine import Engine
from ffmd_jax.dynamics.ensemble import NVT
from ffmd_jax.models import convolution, model_files, radial_tables, trajcast
from ffmd_jax.reference_md import energies, integrator, production, systems


@pytest.fixture(scope="module")
def argon():
    return systems.argon((2, 2, 2))


def hot_start(reference, temperature=120.0):
    return mechanics.maxwell_boltzmann(jax.random.key(0), reference.system, reference.state, temperature)


def run(reference, state, n_steps=60, **options):
    options = {"cutoff": reference.cutoff, "time_step_fs": 4.0, "key": jax.random.key(1), "skin": 0.8, **options}
    propagate = integrator.drift_kick_drift(reference.energy, 4.0)
    return rollout.gather(rollout.run(reference.system, state, propagate, n_steps=n_steps, **options))


def test_blocks_strides_and_skins_do_not_change_the_trajectory(argon):
    start = hot_start(argon)
    whole = run(argon, start, block_steps=60)
    parts = run(argon, start, block_steps=7)
    sparse = run(argon, start, every=3)
    narrow = run(argon, start, skin=0.2)
    np.testing.assert_array_equal(whole.frames.positions, parts.frames.positions)
    np.testing.assert_allclose(sparse.frames.positions, whole.frames.positions[2::3], atol=1e-10)
    np.testing.assert_allclose(sparse.times, whole.times[2::3])
    np.testing.assert_allclose(narrow.frames.positions, whole.frames.positions, atol=1e-9)
    moved = np.linalg.norm(whole.frames.positions[-1] - np.asarray(start.positions), axis=-1).max()
    assert moved > 0.4  # half a skin: the table was rebuilt on the way


def test_an_overflowing_table_costs_time_but_no_frame(argon, monkeypatch):
    start = hot_start(argon)
    expected = run(argon, start)
    plan, grow, grown = neighbors.plan, neighbors.grow, []
    monkeypatch.setattr(
        neighbors, "plan", lambda system, states, *a, **k: grow(plan(system, states, *a, **k), system, states.cell, 0.5)
    )
    monkeypatch.setattr(neighbors, "grow", lambda *a: grown.append(a) or grow(*a))
    found = run(argon, start)
    assert grown
    np.testing.assert_allclose(found.frames.positions, expected.frames.positions, atol=1e-9)


def test_integrator_is_reversible(argon):
    start = hot_start(argon)
    search = neighbors.plan(argon.system, start, argon.cutoff, skin=0.8)
    graph = neighbors.build(search, argon.system, start).graph

    def go(state, dt, n):
        return jax.jit(integrator.drift_kick_drift(argon.energy, dt, n))(argon.system, state, graph)

    there = go(start, 4.0, 20)
    back = go(there._replace(velocities=-there.velocities), 4.0, 20)
    np.testing.assert_allclose(back.positions, start.positions, atol=1e-11)
    assert np.abs(there.positions - start.positions).max() > 0.05


def misses(step, system, state, graph):
    """RMS by which a step and one back from its end miss the start."""
    end = step(system, state, graph)
    back = step(system, end._replace(velocities=-end.velocities), graph)
    return float(jnp.sqrt(jnp.mean((back.positions - state.positions) ** 2)))


def test_a_step_made_reversible_neither_gains_nor_loses_energy(argon):
    # An exact step, and friction that no thermostat answers.
    start = hot_start(argon)
    search = neighbors.plan(argon.system, start, argon.cutoff, skin=0.8)
    graph = neighbors.build(search, argon.system, start).graph
    exact = integrator.drift_kick_drift(argon.energy, 4.0)

    def damped(loss):
        def step(system, state, graph):
            end = exact(system, state, graph)
            return end._replace(velocities=(1 - loss) * end.velocities)

        return step

    def left(step, n_steps=50):
        go = jax.jit(lambda s: jax.lax.scan(lambda s, _: (step(argon.system, s, graph), None), s, None, n_steps)[0])
        kinetic = [mechanics.kinetic_energy(argon.system, s.velocities) for s in (go(start), start)]
        return float(kinetic[0] / kinetic[1])

    loss, free = 2e-3, left(exact)
    assert abs(left(damped(loss)) / free - (1 - 2 * loss) ** 50) < 0.03 < 1 - (1 - 2 * loss) ** 50
    assert abs(left(propagators.reversible(damped(loss))) / free - 1) < 2e-3
    few = [misses(propagators.reversible(damped(x)), argon.system, start, graph) for x in (loss, 2 * loss)]
    assert 3.8 < few[1] / few[0] < 4.2  # of second order in the error
    assert misses(damped(loss), argon.system, start, graph) > 100 * few[0]


def test_a_step_made_reversible_has_half_the_squared_error():
    # Oscillators of unit frequency, and an error that is any linear map.
    n_atoms, angle = 12, 0.9
    system = make_system([18] * n_atoms, [40.0] * n_atoms)
    wrong = 1e-4 * jax.random.normal(jax.random.key(0), (6 * n_atoms, 6 * n_atoms))

    def exact(state):
        r, v, cell = state
        return State(np.cos(angle) * r + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * r, cell)

    def step(system, state, graph):
        flat = jnp.concatenate([x.ravel() for x in state[:2]])
        r, v = (flat + wrong @ flat).reshape(2, n_atoms, 3)
        return exact(State(r, v, state.cell))

    keys = jax.random.split(jax.random.key(1), 20)
    states = [State(*jax.random.normal(key, (2, n_atoms, 3)), jnp.eye(3)) for key in keys]
    squares = {
        made: np.mean([np.square(np.stack(made(system, s, None)[:2]) - np.stack(exact(s)[:2])).mean() for s in states])
        for made in (step, propagators.reversible(step))
    }
    plain, corrected = squares.values()
    assert abs(corrected / plain - 0.5) < 0.05


def test_integrator_is_of_second_order():
    # A cluster that no cutoff cuts: where pairs cross one, the jump of the force spoils the order.
    energy = energies.lennard_jones(0.0103, 3.4, 40.0)
    system = make_system([18] * 4, [40.0] * 4)
    corners = jnp.asarray([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 1.4
    start = mechanics.maxwell_boltzmann(jax.random.key(0), system, State(corners, 0 * corners, jnp.eye(3)), 60.0)
    graph = neighbors.build(neighbors.plan(system, start, 40.0), system, start).graph

    def end(dt):
        return jax.jit(integrator.drift_kick_drift(energy, dt, round(400 / dt)))(system, start, graph).positions

    errors = [np.abs(end(dt) - end(0.25)).max() for dt in (4.0, 2.0)]
    assert 3.6 < errors[0] / errors[1] < 4.4


def test_energy_and_momentum_are_conserved_without_a_thermostat(argon):
    start = hot_start(argon)
    energies = rollout.gather(production.run(argon, start, n_steps=2000, every=20, key=jax.random.key(1))).observables[
        "total_energy_eV"
    ]
    kinetic = float(mechanics.kinetic_energy(argon.system, start.velocities))
    time = np.arange(len(energies)) * 80e-3
    drift = np.polyfit(time, energies, 1)[0]
    assert abs(drift) * time[-1] < 2e-3 * kinetic
    assert np.std(energies) < 5e-3 * kinetic


@pytest.mark.parametrize("kind", ["csvr", "langevin"])
def test_baths_around_the_exact_propagator_give_the_temperature(argon, kind):
    frames = run(argon, hot_start(argon, 120.0), n_steps=3000, every=5, ensemble=NVT(60.0, 100.0, kind)).frames
    late = take(frames, slice(200, None))
    kelvin = np.asarray(jax.vmap(lambda state: mechanics.temperature(argon.system, state))(late))
    # 2τ is the correlation time of K: 8 ps hold about 40 independent values.
    error = 60.0 * np.sqrt(2 / 93) / np.sqrt(len(kelvin) * 20 / 200)
    assert abs(kelvin.mean() - 60.0) < 5 * error


@pytest.mark.parametrize(("factor", "message"), [(np.nan, "is no longer finite"), (1e4, r"moves at \d.* Å/fs")])
def test_divergence_is_reported_with_time_and_atom(argon, factor, message):
    def explode(system, state, graph):
        return state._replace(velocities=state.velocities.at[3].multiply(factor))

    blocks = rollout.run(
        argon.system, hot_start(argon), explode, cutoff=8.5, time_step_fs=4.0, n_steps=10, key=jax.random.key(0)
    )
    with pytest.raises(rollout.Diverged, match=f"atom 3 {message} at 4 fs"):
        list(blocks)


@pytest.mark.parametrize(("n_steps", "every"), [(0, 1), (10, 3), (10, 0)])
def test_bad_numbers_of_steps_are_refused(argon, n_steps, every):
    with pytest.raises(ValueError, match="number of steps"):
        run(argon, hot_start(argon), n_steps=n_steps, every=every)


@pytest.mark.slow
def test_reversible_steps_of_a_model_keep_both_momenta():
    model_config = small_config(periodic=False, layers=1)
    system = make_system([8] * 5, [15.999] * 5)
    keys = jax.random.split(jax.random.key(0))
    state = State(jax.random.normal(keys[0], (5, 3)), 0.01 * jax.random.normal(keys[1], (5, 3)), jnp.eye(3))
    graph = neighbors.build(neighbors.plan(system, state, 4.0), system, state).graph
    step = jax.jit(trajcast.make_propagate(model_config, random_params(model_config), reversible=True))
    after = step(system, state, graph)
    angular = [mechanics.angular_momentum(system, s) for s in (state, after)]
    linear = [mechanics.linear_momentum(system, s.velocities) for s in (state, after)]
    np.testing.assert_allclose(angular[1], angular[0], atol=1e-12)  # float64
    np.testing.assert_allclose(linear[1], linear[0], atol=1e-12)


def test_reversible_steps_gain_energy_only_where_the_period_is_one_or_two_steps():
    size, rng = 0.03, np.random.default_rng(0)

    def growth(angle, error):
        """Largest factor of a step of an oscillator that turns by ``angle`` in it, with a linear error."""
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + size * error

        def propagate(system, state, graph):
            return State(*(turn @ np.stack(state[:2])), state.cell)

        ends = [propagators.reversible(propagate)(None, State(*start, None), None)[:2] for start in np.eye(2)]
        return np.abs(np.linalg.eigvals(np.array(ends))).max()

    errors = rng.normal(size=(100, 2, 2))
    for angle in np.pi * np.array([0.1, 0.5, 0.9, 1.1, 1.5, 1.9, 2.1]):
        assert max(growth(angle, error) for error in errors) <= 1
    for angle in (np.pi, 2 * np.pi):
        gains = [growth(angle, error) for error in errors]
        assert np.mean(np.array(gains) > 1) > 0.3 and max(gains) > 1 + size


def test_a_step_rounds_no_operand_of_a_product_on_accelerators():
    reference = systems.get("paracetamol")
    shipped = model_files.load("paracetamol")
    config, params = shipped.config, radial_tables.tabulate(shipped.config, shipped.params)
    propagate = trajcast.make_propagate(config, params, convolution.by_blocks, reversible=True)
    system, start = cast((reference.system, hot_start(reference)), jnp.float32)
    search = neighbors.plan(system, start, config.architecture.cutoff, skin=1.0, select=True)
    step = stepping.make_step(records.Run(system, propagate, 7.0, NVT(300.0, 70.0)), search)
    carry = records.Carry(jax.random.key(0), start, neighbors.build(search, system, start))
    precisions = [
        equation.params["precision"]
        for equation in equations(jax.make_jaxpr(step)(carry).jaxpr)
        if equation.primitive.name == "dot_general"
    ]
    assert len(precisions) > 100
    assert set(precisions) == {(jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)}


def test_an_engine_of_the_same_shapes_compiles_nothing(argon):
    """Neither at another temperature, nor from another start, nor with other numbers in the propagator."""
    traces = []

    def shrink(factor, system, state, graph):
        traces.append(factor)
        return state._replace(velocities=factor * state.velocities)

    def go(factor, kelvin, seed):
        engine = Engine(
            argon.system, hot_start(argon), jax.tree_util.Partial(shrink, factor), cutoff=8.5, time_step_fs=4.0,
            ensemble=NVT(kelvin, 100.0), block_steps=3,
        )  # fmt: skip
        carry = engine.start(hot_start(argon, kelvin), jax.random.key(seed))
        return engine.advance(carry, 3).frames.velocities

    first, second = go(0.9, 60.0, 0), go(0.5, 90.0, 1)
    assert len(traces) == 1 and np.abs(first - second).max() > 0


def equations(jaxpr):
    """All equations of a jaxpr, those of loops and branches too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)
