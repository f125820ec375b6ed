"""Training on systems of different sizes: padding changes nothing, and every system counts."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config

from ffmd_jax import api
from ffmd_jax.core import mechanics, neighbors, state, units
from ffmd_jax.core.state import State, take
from ffmd_jax.data import labelled
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.data.dataset_file import Dataset, Group, Run
from ffmd_jax.dynamics import alarms, rollout, thermostat
from ffmd_jax.dynamics import monitors as monitor_limits
from ffmd_jax.models import elements, potential, trajcast
from ffmd_jax.models.config import Architecture, PotentialConfig
from ffmd_jax.training import batches, calibration, fine_tuning, loop, parallel, scales, settings, tasks

CUTOFF = 4.0
SIZES = Architecture(
    cutoff=CUTOFF, lmax=1, channels=4, layers=2, radial_hidden=(8,), speed_hidden=(8,), radial_intervals=0
)
SHALLOW = dataclasses.replace(SIZES, layers=1)  # where training is tested, not messages
SPECIES = {"small": [14, 8, 8, 8], "large": [8, 14, 8, 8, 14, 8, 8], "other": [8, 8, 8, 14, 14]}
MASSES = {8: 15.999, 14: 28.085}


def group(name, n_pairs=(12, 4, 3)):
    """A molecule whose atoms are on springs; every run holds pieces of two frames, which are a pair."""
    species = SPECIES[name]
    rng = np.random.default_rng(len(species))
    sites = 1.9 * np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1).reshape(-1, 3)[: len(species)]
    turn, omega = 0.3, 0.03
    runs = []
    for split, n in zip(("train", "validation", "test"), n_pairs, strict=False):
        away, speed = rng.normal(scale=0.1, size=(2, n, len(species), 3)) * np.array([1, omega])[:, None, None, None]
        away, speed = (x - x.mean(axis=1, keepdims=True) for x in (away, speed))
        ends = [(away, speed), (away * np.cos(turn) + speed * np.sin(turn) / omega,
                                speed * np.cos(turn) - away * np.sin(turn) * omega)]  # fmt: skip
        r = np.stack([sites + x for x, _ in ends], axis=1).reshape(-1, len(species), 3)
        v = np.stack([x for _, x in ends], axis=1).reshape(-1, len(species), 3)
        energies, forces = np.sum((r - sites) ** 2, axis=(1, 2)), -2 * (r - sites)
        cells = np.broadcast_to(np.eye(3), (2 * n, 3, 3))
        runs.append(Run(State(r, v, cells), 10.0, split, 2, name, energies, forces))
    return Group(state.make_system(species, [MASSES[z] for z in species]), tuple(runs))


@pytest.fixture(scope="module")
def data():
    return Dataset((group("small"), group("large", (6, 4)), group("other")), 10.0)


def bucket_of(sets, examples, pad, n_atoms=None):
    size = n_atoms or len(sets.system.species)
    return batches._bucket([sets.system], [examples], [0.0], [0], size, pad)


def test_padding_atoms_are_no_neighbours(data):
    sets = pair_sets.form(data)[0]
    plain, padded = (bucket_of(sets, sets.train, pair_sets.padded, n) for n in (None, 9))
    tables = []
    for bucket in (plain, padded):
        search = batches.pair_search(bucket, CUTOFF)
        build = jax.jit(jax.vmap(lambda system, state, search=search: neighbors.build(search, system, state).graph))
        tables.append(build(bucket.of_examples(), bucket.examples.state))
    assert not np.any(tables[1].mask[:, 4:])
    np.testing.assert_array_equal(tables[0].senders, tables[1].senders[:, :4])
    np.testing.assert_array_equal(tables[0].mask, tables[1].mask[:, :4])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["propagator", "potential"])
def test_padding_changes_neither_loss_nor_gradient(data, kind):
    if kind == "propagator":
        sets, task, config = pair_sets.form(data)[0], tasks.TASKS[kind], small_config(False)
        params = trajcast.init(jax.random.key(0), config)
    else:
        sets, task = labelled.form(data)[0], tasks.TASKS[kind]
        config = PotentialConfig((8, 14), (0.0, 0.0), 0.5, 3.0, True, 1.0, SIZES)
        params = potential.init(jax.random.key(0), config)
    found = []
    for n_atoms in (None, 9):
        bucket = bucket_of(sets, sets.validation, task.pad, n_atoms)
        loss = tasks.make_loss_of(config, [sets])(bucket)
        both = jax.jit(jax.vmap(jax.value_and_grad(loss, has_aux=True), (None, 0, 0)))
        (values, errors), gradients = both(params, bucket.of_examples(), jax.tree.map(jnp.asarray, bucket.examples))
        found.append((values, errors[..., : errors.shape[-1] - (0 if n_atoms is None else 5)], gradients))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6 * float(np.max(np.abs(a))) + 1e-9)


def test_sizes_waste_little():
    sizes, counts = np.array([3, 4, 5, 12, 12, 14, 30]), np.array([10, 10, 10, 10, 10, 10, 10])
    found = batches._sizes(sizes, counts)
    assert found[-1] == 30 and 1 < len(found) <= 4
    filled = np.array(found)[np.searchsorted(found, sizes)]
    assert counts @ filled**1.5 <= 1.25 * (counts @ sizes**1.5)
    assert batches._sizes(np.array([7, 7]), np.array([3, 5])) == (7,)
    assert batches._sizes(np.array([7, 8]), np.array([3, 5])) == (8,)


def test_linear_molecules_are_a_bucket_of_their_own(data):
    groups = pair_sets.form(data)
    systems = [sets.system for sets in groups]
    systems[0] = state.System(systems[0].species, systems[0].masses, systems[0].pbc, linear=True)
    found = batches.buckets(systems, [sets.train for sets in groups], pair_sets.padded)
    assert sorted(bucket.systems.linear for bucket in found) == [False] * (len(found) - 1) + [True]


def test_an_epoch_sees_every_pair_of_every_system_once(data):
    groups, training = pair_sets.form(data), settings.Training(batch_size=3, seed=1)
    of_epoch = [
        batches._bucket(
            [groups[i].system for i in own], [groups[i].train for i in own], [0.0] * len(own), own, 7, pair_sets.padded
        )
        for own in ([0, 2], [1])
    ]
    n_steps, seen = batches.n_batches(of_epoch, training), [[], []]
    assert n_steps == 24 // 3 + 6 // 3
    orders = []
    for block in batches.blocks(of_epoch, training, 0, 4, parallel.mesh()):
        for i in range(block.n_steps):
            own = int(block.order[i])
            orders.append(own)
            seen[own].append(np.asarray(block.batches[own].pairs.displacements[i]))
            systems = take(block.batches[own].systems, i)
            assert np.all((systems.species > 0) == (np.asarray(seen[own][-1])[..., 0] != 0))
        if block.ends_epoch:
            break
    assert len(orders) == n_steps and orders != sorted(orders)
    for bucket, found in zip(of_epoch, seen, strict=True):
        np.testing.assert_array_equal(
            np.sort(np.concatenate(found).ravel()), np.sort(bucket.examples.displacements.ravel())
        )


def random_molecule(name, seed=3):
    sets = pair_sets.form(Dataset((group(name),), 10.0))[0]
    return sets.system, jax.tree.map(lambda x: np.asarray(x, np.float64), take(sets.train.state, seed))


def padded_together(pairs, n_atoms):
    singles = [
        dataclasses.replace(
            system,
            species=np.pad(system.species, (0, n_atoms - len(system.species))),
            masses=np.pad(system.masses, (0, n_atoms - len(system.species))),
            padded=True,
        )
        for system, _ in pairs
    ]
    fill = lambda x: pair_sets.pad_atoms(x[None], n_atoms)[0]  # noqa: E731
    states = [State(fill(at.positions), fill(at.velocities), at.cell) for _, at in pairs]
    return tuple(jax.tree.map(lambda *x: np.stack(x), *both) for both in (singles, states))


@pytest.mark.slow
def test_replicas_that_are_systems_of_their_own_run_as_each_alone():
    config, names = small_config(False), ("small", "large")
    propagate = trajcast.make_propagate(config, trajcast.init(jax.random.key(1), config))
    pairs = [random_molecule(name) for name in names]
    how = {"cutoff": CUTOFF, "time_step_fs": 10.0, "n_steps": 6, "key": jax.random.key(0), "select": True}
    alone = []
    with jax.enable_x64(True):
        monitors = []
        for system, at in pairs:
            limits = monitor_limits.limits(config, None, system)._replace(distance=0.5)
            n_more = 7 - len(system.species)
            monitors.append(limits._replace(speeds=np.pad(limits.speeds, (0, n_more), constant_values=1.0)))
            watch = alarms.monitor(propagate, limits, 2, halt=False)
            alone.append(rollout.gather(rollout.run(system, at, propagate, monitor=watch, **how)))
        systems, states = padded_together(pairs, 7)
        watch = alarms.monitor(propagate, jax.tree.map(lambda *x: np.stack(x), *monitors), 2, halt=False)
        both = rollout.gather(
            rollout.run(
                systems, states, propagate, monitor=watch, replicas=2, **(how | {"key": jax.random.split(how["key"])})
            )
        )
    for i, (one, (system, _)) in enumerate(zip(alone, pairs, strict=True)):
        n = len(system.species)
        for field in ("positions", "velocities"):
            found = getattr(both.frames, field)[:, i, :n]
            np.testing.assert_allclose(found, getattr(one.frames, field), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            both.observables["round_trip_error"][:, i], one.observables["round_trip_error"], rtol=1e-7
        )


@pytest.mark.parametrize("act", [thermostat.csvr, thermostat.langevin])
def test_thermostats_count_no_padding(act):
    """The kinetic energy of a padded molecule is canonical: mean f kT/2, variance f (kT)²/2, with f of its atoms."""
    system, at = random_molecule("small")
    systems, states = padded_together([(system, at)], 9)
    padded, start = take(systems, 0), take(states, 0)
    assert int(mechanics.degrees_of_freedom(padded)) == mechanics.degrees_of_freedom(system) == 6

    def step(at, key):
        at = act(key, padded, at, 300.0, 1.0, 1.0)
        return at, mechanics.kinetic_energy(padded, at.velocities)

    with jax.enable_x64(True):
        begin = mechanics.zero_momenta(padded, jax.tree.map(jnp.asarray, start))
        run = jax.jit(lambda keys: jax.lax.scan(step, begin, keys)[1])
        kinetic = np.asarray(run(jax.random.split(jax.random.key(1), 20_000)))[100:] / (units.BOLTZMANN * 300.0)
    n_free = len(kinetic) / 3.0  # τ of one step: samples are correlated over little more than one
    for values, mean, spread in (
        (kinetic, 3.0, np.sqrt(3.0)),
        ((kinetic - 3.0) ** 2, 3.0, np.sqrt(3 * 3.0**2 + 6 * 3.0)),
    ):
        assert abs(values.mean() - mean) < 5 * spread / np.sqrt(n_free)


@pytest.mark.slow
def test_a_system_trained_alone_gives_the_same_weights_padded_or_not(data, monkeypatch):
    """And a system without training pairs beside it changes nothing."""
    training = settings.Training(epochs=2, batch_size=2, optimizer="adam", learning_rate=1e-3, warmup_steps=1)
    alone = pair_sets.form(Dataset(data.groups[:1], 10.0))
    config = scales.configure(alone, SHALLOW)
    large = pair_sets.form(data)[1]
    idle = large._replace(**{split: take(large.train, slice(0, 0)) for split in ("train", "validation", "test")})
    ends = [list(loop.fit(config, groups, training))[-1].state for groups in (alone, (*alone, idle))]
    monkeypatch.setattr(batches, "_sizes", lambda sizes, counts: (8,))
    ends.append(list(loop.fit(config, alone, training))[-1].state)
    for a, b, c in zip(*(jax.tree.leaves(end.params) for end in ends), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_systems_are_learned_together_and_judged_each(data, monkeypatch):
    monkeypatch.setattr(batches, "_WASTE", 1.0)  # several buckets
    groups, training = pair_sets.form(data), settings.Training(epochs=30, batch_size=3, learning_rate=0.02)
    config = scales.configure(groups, SHALLOW)
    assert config.elements == (8, 14) and config.isolated
    *_, last = loop.fit(config, groups, training)
    errors = tasks.evaluate(config, last.state.average, groups)
    assert set(errors.by_system) == {"small", "other"}  # the large one has no test pairs
    assert set(last.validation.by_system) == {"small", "other", "large"}
    for own in last.validation.by_system.values():
        assert own.displacement_percent < 60
    mean = np.mean([own.velocity_mae for own in errors.by_system.values()])
    np.testing.assert_allclose(errors.velocity_mae, mean)
    assert errors.as_dict()["systems"]["small"]["velocity_mae_A_per_fs"] == errors.by_system["small"].velocity_mae
    found = calibration.calibrate(config, jax.tree.map(np.asarray, last.state.average), groups)
    assert len(found.formulas) == 3 and all(speed > 0 for speed in found.speeds)
    assert 0 < found.round_trip <= found.round_trip_atom and np.isfinite(found.temperature_K)


def test_what_cannot_be_learned_together_is_named(data):
    small, large, _ = pair_sets.form(data)
    periodic = large._replace(system=state.System(large.system.species, large.system.masses, (True,) * 3))
    with pytest.raises(ValueError, match="large: periodic and isolated systems need a model each"):
        scales.elements_of([small, periodic])
    heavy = large._replace(system=state.System(large.system.species, 2 * np.asarray(large.system.masses)))
    with pytest.raises(ValueError, match=r"large: O has a mass of 31\.998 u, elsewhere 15\.999 u"):
        scales.elements_of([small, heavy])


@pytest.mark.slow
def test_fine_tuning_rehearses_what_the_model_knows(data, tmp_path, monkeypatch):
    """From the weights of a model, at its Δt and a lower rate; a share of the pairs is old, and none of it judges."""
    sizes, how = SHALLOW, settings.Training(epochs=2, batch_size=3, optimizer="adam", learning_rate=1e-3)
    first = api.train(data, tmp_path / "first", training=how, architecture=sizes, progress=False)
    assert first.config.time_step_fs == 10.0 and len(first.calibration.formulas) == 3
    new = Dataset((group("other", (9, 4, 3)),), 10.0)
    seen = []
    fit = loop.fit
    monkeypatch.setattr(loop, "fit", lambda config, groups, *given: seen.append(groups) or fit(config, groups, *given))
    tuned = api.train(
        new, tmp_path / "tuned", init=tmp_path / "first", rehearse=data, rehearse_share=0.25,
        training=settings.Training(epochs=1, batch_size=3, optimizer="adam"), progress=False,
    )  # fmt: skip
    (groups,) = seen
    old = sum(len(sets.train.displacements) for sets in groups[1:])
    assert [len(groups[0].train.displacements), old] == [9, 3]
    assert all(len(sets.validation.displacements) == 0 for sets in groups[1:])
    assert tuned.config == first.config
    saved = json.loads((tmp_path / "tuned" / "training.json").read_text())
    assert saved["learning_rate"] == 0.01
    with pytest.raises(ValueError, match="it needs `init`"):
        api.train(new, tmp_path / "x", rehearse=data, progress=False)
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        api.train(new, tmp_path / "x", init=tmp_path / "first", rehearse=data, rehearse_share=1.0, progress=False)
    with pytest.raises(ValueError, match=r"channels = 5, but .*first has 4"):
        api.train(
            new, tmp_path / "x", init=tmp_path / "first", progress=False,
            architecture=dataclasses.replace(sizes, channels=5),
        )  # fmt: skip
    assert not (tmp_path / "x").exists()
    assert json.loads((tmp_path / "tuned" / "architecture.json").read_text())["channels"] == 4


def test_fine_tuning_to_another_time_step_scales_the_outputs_to_the_data(data):
    config, said = scales.configure(pair_sets.form(data), SIZES), []
    first = data.groups[0]
    runs_of = [run._replace(frames=take(run.frames, slice(0, 6)), segment=0) for run in first.runs]
    doubled = pair_sets.form(dataclasses.replace(data, groups=(first._replace(runs=tuple(runs_of)),)), 20.0)
    found = fine_tuning.with_time_step(config, doubled, 20.0, said.append)
    of_pairs = pair_sets.statistics(doubled)
    assert (found.time_step_fs, found.displacement_rms) == (20.0, of_pairs.displacement_rms)
    assert found.velocity_rms == of_pairs.velocity_rms and "not the 10 fs of `init`" in said[0]
    assert fine_tuning.with_time_step(config, doubled, None, said.append) is config


def test_fine_tuning_on_faster_atoms_raises_the_speeds_that_the_network_sees(data):
    groups, said = pair_sets.form(data), []
    config = scales.configure(groups, SIZES)
    assert fine_tuning.with_speed_limits(config, groups, said.append) is config and not said
    alone = groups[:1]  # of both elements; chance is not taken for heat
    assert fine_tuning.with_speed_limits(config, alone, said.append) is config
    slower = dataclasses.replace(config, speed_limits=(0.5 * config.speed_limits[0], config.speed_limits[1]))
    found = fine_tuning.with_speed_limits(slower, groups, said.append)
    assert found.speed_limits == config.speed_limits and "O " in said[0] and "Si" not in said[0]
    hot = [
        sets._replace(train=sets.train._replace(state=sets.train.state._replace(
            velocities=2 * sets.train.state.velocities))) for sets in groups
    ]  # fmt: skip
    found = fine_tuning.with_speed_limits(config, hot, said.append)
    assert found.speed_limits == tuple(min(2 * limit, config.speed_max) for limit in config.speed_limits)
    assert (
        fine_tuning.with_speed_limits(dataclasses.replace(config, speed_limits=()), hot, said.append).speed_limits == ()
    )


_ON_DEVICES = """
import dataclasses
import jax
import test_groups as tests
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.data.dataset_file import Dataset
from jax.sharding import AxisType
from ffmd_jax.training import batches, loop, parallel, scales, settings
batches._WASTE = 1.0  # a bucket for each size
groups = pair_sets.form(Dataset((tests.group("small", (6, 4)), tests.group("large", (3, 4))), 10.0))
how = settings.Training(epochs=1, batch_size=3, optimizer="adam", learning_rate=1e-2, warmup_steps=1)
assert jax.device_count() == 4
for devices in (jax.devices()[:1], jax.devices()):
    mesh = jax.make_mesh((len(devices),), (parallel.AXIS,), devices=devices, axis_types=(AxisType.Auto,))
    parallel.mesh = lambda mesh=mesh: mesh
    *_, last = loop.fit(scales.configure(groups, tests.SHALLOW), groups, how)
    print(repr(last.validation.velocity_percent))
"""


@pytest.mark.slow
@pytest.mark.process
def test_several_devices_learn_several_systems_as_one_does():
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    command = [sys.executable, "-c", _ON_DEVICES]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    found = [float(word) for word in ran.stdout.split()]
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.slow
def test_a_model_with_more_elements_is_the_same_on_those_that_it_knew():
    config = small_config(False, natural_parity=False)
    params = trajcast.init(jax.random.key(2), config)
    more, wider, like = elements.extended(config, params, {1: 1.008, 16: 32.06, 9: 18.998}, {})
    assert like == {1: 8, 16: 8, 9: 8} and more.elements == (1, 8, 9, 14, 16)
    assert elements._most_like(17, (1, 6, 7, 8, 9, 16)) == 9 and elements._most_like(16, (1, 6, 7, 8)) == 8
    assert elements._most_like(35, (6, 9, 17)) == 17 and elements._most_like(11, (1, 3, 9)) == 3
    system, at = random_molecule("large")
    search = neighbors.plan(system, at, CUTOFF)
    with jax.enable_x64(True):
        graph = jax.jit(lambda at: neighbors.build(search, system, at).graph)(at)
        ends = [
            trajcast.make_propagate(one, jax.tree.map(lambda x: np.asarray(x, np.float64), weights))(system, at, graph)
            for one, weights in ((config, params), (more, wider))
        ]
        sulphur = dataclasses.replace(system, species=np.where(system.species == 8, 16, system.species))
        ends.append(trajcast.make_propagate(more, wider)(sulphur, at, graph))
    np.testing.assert_allclose(ends[0].positions, ends[1].positions, atol=1e-6)  # wider weights are in float32
    np.testing.assert_allclose(ends[0].velocities, ends[1].velocities, atol=1e-7)
    np.testing.assert_allclose(ends[2].velocities, ends[1].velocities, atol=1e-7)  # sulphur begins as oxygen
