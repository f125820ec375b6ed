"""Families: a propagator for each Δt of a range, learned together."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import fails, ffmd

from ffmd_jax import api
from ffmd_jax.core import mechanics, neighbors
from ffmd_jax.core.state import State, cast, make_system, take
from ffmd_jax.data import dataset
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.dynamics.ensemble import NVE
from ffmd_jax.formats import trajectory
from ffmd_jax.models import family, model_files, trajcast
from ffmd_jax.models.config import Architecture, Calibration, Carried, FamilyCalibration, FamilyConfig, ModelConfig
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import systems
from ffmd_jax.simulation.simulate import simulate
from ffmd_jax.training import batches, family_losses, loop, losses, optimizer, parallel, scales, settings, tasks

SIZES = Architecture(
    cutoff=4.0, lmax=1, channels=4, layers=1, radial_hidden=(4,), speed_hidden=(4,), radial_intervals=8,
    velocity_input=True,
)  # fmt: skip
STEPS = (5.0, 10.0, 20.0)
MEMBER = ModelConfig((8, 14), (15.999, 28.085), 20.0, 0.1, 0.01, 0.05, 4.0, True, (0.04, 0.03), 1.2, SIZES)
CARRIED = (
    Carried((4.8, 4.6), (0.9, 0.8), 0.01, 0.004), Carried((8.5, 8.0), (0.6, 0.4), 0.04, 0.008),
    Carried((12.0, 10.0), (0.1, -0.2), 0.09, 0.01),
)  # fmt: skip
CONFIG = FamilyConfig(STEPS, (0.03, 0.06, 0.1), CARRIED, 3, MEMBER)


@pytest.fixture(scope="module")
def params():
    """Weights that differ at every Δt."""
    with jax.enable_x64(True):
        first, rest = (trajcast.init(jax.random.key(k), MEMBER, jnp.float64) for k in range(2))
        small = jax.tree.map(lambda x: 0.3 * x, rest)
        return {"term0": first, "term1": small, "term2": jax.tree.map(lambda x: -0.5 * x, small)}


@pytest.fixture(scope="module")
def molecule():
    species = [14, 8, 8, 8]
    system = make_system(species, np.array([28.085 if z == 14 else 15.999 for z in species]))
    rng = np.random.default_rng(0)
    r = np.array([[0, 0, 0], [1.6, 0, 0], [0, 1.6, 0], [0, 0, 1.6]]) + 0.05 * rng.normal(size=(4, 3))
    return system, State(r, 0.01 * rng.normal(size=(4, 3)), np.eye(3))


def graph_of(system, state):
    return neighbors.build(neighbors.plan(system, state, SIZES.cutoff), system, state).graph


@pytest.mark.parametrize("step_fs", [5.0, 13.0, 20.0])
def test_a_member_is_the_propagator_of_its_step_and_obeys_the_laws(step_fs, params, molecule):
    system, state = molecule
    config, weights = family.at(CONFIG, params, step_fs)
    graph = graph_of(system, state)
    plain = trajcast.make_propagate(config, weights)(system, state, graph)
    of_step = lambda step: family.make_propagate(CONFIG, family.member(CONFIG, params, step))  # noqa: E731
    traced = jax.jit(lambda step: of_step(step)(system, state, graph))(step_fs)
    for one, other in zip(plain, traced, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    drift = mechanics.center_of_mass(system, state.velocities)
    moved = mechanics.center_of_mass(system, np.asarray(plain.positions) - state.positions)
    np.testing.assert_allclose(moved, drift * step_fs, atol=1e-12)
    before, after = (np.asarray(mechanics.angular_momentum(system, x)) for x in (state, plain))
    np.testing.assert_allclose(after, before, atol=1e-12)


def test_weights_pass_through_those_of_three_steps_and_units_through_those_of_the_data(params):
    """Three terms are a parabola of log Δt, which three values fix."""
    logs = np.log([5.0, 10.0, 20.0])
    leaf = lambda step: np.asarray(family.at(CONFIG, params, step)[1]["readout"]["1o"])  # noqa: E731
    expected = sum(
        leaf(step) * np.prod([(np.log(7.0) - logs[j]) / (logs[i] - logs[j]) for j in range(3) if j != i])
        for i, step in enumerate(STEPS)
    )
    np.testing.assert_allclose(leaf(7.0), expected, rtol=1e-9)
    for step, rms, carried in zip(STEPS, CONFIG.displacement_rms, CARRIED, strict=True):
        config, _ = family.at(CONFIG, params, step)
        assert config.displacement_rms == pytest.approx(rms)
        for name, value in vars(carried).items():
            np.testing.assert_allclose(getattr(config.carried, name), value, rtol=1e-6)
    between = family.at(CONFIG, params, 7.0)[0].carried
    assert 4.8 < between.displacements_fs[0] < 8.5 and 0.004 < between.velocity_unit < 0.008


def test_the_calibration_between_two_steps_is_the_larger():
    made = [Calibration(x, 2 * x, (x, 1 - x), 1e-7, (0.05, 0.04), 300 + x, ("O3Si",)) for x in (0.1, 0.3, 0.2)]
    found = FamilyCalibration(tuple(made))
    assert family.calibration_at(CONFIG, found, 10.0) == made[1]
    between = family.calibration_at(CONFIG, found, 12.0)
    assert between.round_trip == 0.3 and between.kinetic_drift == (0.3, 0.8) and between.temperature_K == 300.3


def test_what_is_carried_is_the_linear_fit_of_each_element(molecule):
    """Velocities that turn by an angle of each element, and what is left of them is known."""
    system, _ = molecule
    rng, n = np.random.default_rng(0), 4000
    v, other = rng.normal(size=(2, n, 4, 3))
    part = np.where(np.asarray(system.species) == 14, 0.8, 0.3)[:, None]
    pairs = pair_sets.Pairs(State(v, v, np.broadcast_to(np.eye(3), (n, 3, 3))), 7 * part * v, part * v + 0.5 * other)
    found = scales.carried([pair_sets.PairSets(system, 10.0, pairs, pairs, pairs)], (8, 14))
    np.testing.assert_allclose(found.displacements_fs, [7 * 0.3, 7 * 0.8], rtol=1e-6)
    np.testing.assert_allclose(found.velocities, [0.3, 0.8], atol=0.02)
    assert found.displacement_unit < 1e-6 and found.velocity_unit == pytest.approx(0.5, rel=0.02)


def example(molecule, n, step):
    """Pairs of free flight for a time."""
    _, state = molecule
    rng = np.random.default_rng(int(step))
    states = jax.tree.map(lambda x: np.broadcast_to(np.asarray(x, np.float32), (n, *x.shape)), state)
    v = (0.01 * rng.normal(size=(n, 4, 3))).astype(np.float32)
    return pair_sets.Pairs(states._replace(velocities=v), step * v, v)


def sets_of(molecule, counts):
    named = []
    for step, n in zip(STEPS, counts, strict=True):
        pairs = example(molecule, n, step)
        held = take(pairs, slice(0, 3))
        named.append(pair_sets.PairSets(molecule[0], step, pairs, held, held, f"{step:g} fs"))
    return tuple(named)


def test_a_batch_has_one_step_and_an_epoch_every_pair_once(molecule):
    groups, training = sets_of(molecule, (9, 4, 2)), settings.Training(batch_size=2)
    (bucket,) = tasks.buckets(CONFIG, groups, "train")
    assert batches.n_batches([bucket], training) == 4 + 2 + 1
    block = next(batches.blocks([bucket], training, 0, 100, parallel.mesh()))
    labels, moved = np.asarray(block.batches[0].labels), np.asarray(block.batches[0].pairs.displacements)
    assert labels.shape == (7, 2) and np.all(labels == labels[:, :1])
    assert sorted(labels[:, 0].tolist()) == [5.0] * 4 + [10.0] * 2 + [20.0]
    assert len(np.unique(moved.reshape(14, -1), axis=0)) == 14
    velocities = np.asarray(block.batches[0].pairs.velocities)
    np.testing.assert_allclose(moved, labels[..., None, None] * velocities, rtol=1e-6)


@pytest.mark.slow
def test_the_loss_of_a_member_is_that_of_its_propagator(params, molecule):
    groups = sets_of(molecule, (3, 3, 3))
    single = cast(params, jnp.float32)
    (bucket,) = tasks.buckets(CONFIG, groups, "train")
    search, system = batches.pair_search(bucket, SIZES.cutoff), take(bucket.systems, 0)
    of_family = family_losses.make_loss(CONFIG, search, inverse_mass=0.05)
    for sets in groups:
        pair, step = take(sets.train, 1), sets.time_step_fs
        config, weights = family.at(CONFIG, single, step)
        expected = losses.make_loss(config, search, inverse_mass=0.05)(weights, system, pair)
        found = jax.jit(lambda step, pair: of_family(family.member(CONFIG, single, step), system, pair))(step, pair)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5)


@pytest.mark.slow
def test_a_step_learns_to_be_two_of_half_its_length(params, molecule):
    """The term is what the step differs by from two of the averaged weights; none where Δt/2 is below the range."""
    other = jax.tree.map(lambda x: 1.1 * x, params)
    (bucket,) = tasks.buckets(CONFIG, sets_of(molecule, (3, 3, 3)), "train")
    search, system = batches.pair_search(bucket, SIZES.cutoff), jax.tree.map(jnp.asarray, molecule[0])
    loss, pair = family_losses.make_loss(CONFIG, search), cast(take(bucket.examples, 0), jnp.float64)
    propagate = lambda weights, step: family.make_propagate(CONFIG, family.member(CONFIG, weights, step))  # noqa: E731
    advance = lambda made, state: made(system, state, neighbors.build(search, system, state).graph)  # noqa: E731
    for step, weight in ((5.0, 0.0), (20.0, 0.3)):
        own = family.member(CONFIG, params, step)
        extra = loss(family.with_half(CONFIG, own, other, 0.3), system, pair)[0] - loss(own, system, pair)[0]
        once, twice = advance(propagate(params, step), pair.state), pair.state
        for _ in range(2):
            twice = advance(propagate(other, max(step / 2, 5.0)), twice)
        scaled = ((once.positions - twice.positions) / own.displacement_rms) ** 2
        scaled += ((once.velocities - twice.velocities) / MEMBER.velocity_rms) ** 2
        np.testing.assert_allclose(extra, weight * 0.5 * jnp.mean(scaled), rtol=1e-6)
    gradient = jax.grad(lambda x: loss(family.with_half(CONFIG, own, x, 0.3), system, pair)[0])(other)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_small_steps_count_as_much_as_large_ones(params, molecule):
    """Gradients are relative to the recent loss at the Δt of the batch, which follows it."""
    groups, training = sets_of(molecule, (2, 2, 2)), settings.Training(batch_size=2, clip_norm=1e9)
    single, devices = cast(params, jnp.float32), parallel.mesh()
    (bucket,) = tasks.buckets(CONFIG, groups, "train")
    loss = tasks.make_loss_of(CONFIG, groups)(bucket)
    learner = lambda params, average, label: family.member(CONFIG, params, label)  # noqa: E731
    batch = [jax.tree.map(lambda x: x[0], next(batches.blocks([bucket], training, 0, 3, devices)).batches[0])]
    place, found = STEPS.index(float(batch[0].labels[0])), []
    step = jax.jit(
        loop.make_train_step(
            [loss], training, optimizer.make(training, 10), devices, True, batches.reverse, learner, STEPS
        )
    )
    for usual in (1.0, 0.1):
        state = loop.initial(CONFIG, training, 10, single)
        after, seen = step(state._replace(typical=state.typical.at[place].set(usual)), batch)
        others = np.delete(np.asarray(after.typical), place)
        np.testing.assert_array_equal(others, 1)
        followed = usual + 0.02 * (min(float(seen[0]), 10 * usual) - usual)
        assert float(after.typical[place]) == pytest.approx(followed, rel=1e-5)
        found.append(np.asarray(seen))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert found[1][1] == pytest.approx(10 * found[0][1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("restore_precision")
def test_a_family_is_trained_evaluated_and_runs_at_any_step(argon_run, tmp_path, capsys):
    data, out, run = tmp_path / "pairs.h5", tmp_path / "family", tmp_path / "run.h5"
    dataset.write(data, dataset.make([argon_run], 40.0, 20.0))
    sizes = ["--config.cutoff", 5, "--config.lmax", 1, "--config.channels", 4, "--config.layers", 1]
    sizes += ["--config.radial-hidden", 4, "--config.speed-hidden", 4, "--batch-size", 4, "--epochs", 2]
    ffmd("train", data, "--out", out, "--time-steps", 20, 40, *sizes)
    assert "20 fs" in capsys.readouterr().out
    model = api.load(out)
    assert model.kind == "family" and model.config.time_steps_fs == (20.0, 40.0) and "20 to 40 fs" in repr(model)
    assert len(model.calibration.members) == 2
    ffmd("evaluate", out, data, "--json")
    errors = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(errors["systems"]) == {"20 fs", "40 fs"}
    ffmd("evaluate", out, data, "--json", "--time-step", 40)
    alone = json.loads(capsys.readouterr().out.splitlines()[-1])
    # As many pairs of each Δt are held out, of which the dataset has more at the smaller one.
    assert alone["velocity_mae_relative_percent"] == pytest.approx(
        errors["systems"]["40 fs"]["velocity_mae_relative_percent"], rel=0.02
    )
    trajectory.write(tmp_path / "start.h5", trajectory.part(argon_run, slice(-1, None)))
    ffmd("rollout", out, "--start", tmp_path / "start.h5", "--out", run, "--steps", 4, "--time-step", 30,
         "--ensemble", "nve", "--on-alarm", "warn")  # fmt: skip
    found = trajectory.read(run)
    np.testing.assert_allclose(np.diff(found.times), 30.0)
    assert found.metadata["time_step_fs"] == 30.0 and "--time-step 30" in found.metadata["command"]
    ffmd("info", out)
    told = capsys.readouterr().out
    assert "20 40 fs" in told and "functions of Δt" in told and "{" not in told

    rollout = ["rollout", out, "--start", tmp_path / "start.h5", "--out", tmp_path / "no.h5", "--steps", 4]
    assert "choose a time step" in fails(capsys, *rollout)
    assert "20 to 40 fs" in fails(capsys, *rollout, "--time-step", 50)
    assert "needs two" in fails(capsys, "train", data, "--out", tmp_path / "no", "--time-steps", 20, *sizes)
    assert "not a multiple" in fails(capsys, "train", data, "--out", tmp_path / "no", "--time-steps", 20, 35, *sizes)
    several = ["train", data, "--out", tmp_path / "no", "--time-steps", 20, 40]
    assert "no time step" in fails(capsys, *several, "--kind", "potential", *sizes)
    assert "leave out" in fails(capsys, *several, "--init", out, *sizes)
    assert not (tmp_path / "no").exists() and not (tmp_path / "no.h5").exists()


@pytest.fixture(scope="module")
def argon(tmp_path_factory):
    """A family of untrained propagators that hardly change velocities, whose monitors alarm above 1.5 · 45 K."""
    folder, argon = tmp_path_factory.mktemp("argon"), systems.argon((2, 2, 2))
    sizes = dataclasses.replace(SIZES, cutoff=5.0, radial_intervals=0)
    member = ModelConfig((18,), (39.948,), 40.0, 0.04, 1.1e-2, 0.01, 12.0, shortest_distance=3.0, architecture=sizes)
    carried = Carried((0.0,), (0.0,), 0.04, 1.1e-2)
    config = FamilyConfig((5.0, 40.0), (0.005, 0.04), (carried, carried), 2, member)
    seen = Calibration(1e9, 1e9, (0.1,), 1e-7, (0.01,), 45.0)
    with jax.enable_x64(True):
        params = family.init(jax.random.key(0), config)
        params["term0"]["readout"] = jax.tree.map(lambda x: 0.01 * x, params["term0"]["readout"])
        state = mechanics.maxwell_boltzmann(jax.random.key(0), argon.system, argon.state, 55.0)
    model_files.save(folder / "family", Model(config, params, FamilyCalibration((seen, seen)), kind="family"))
    frames = jax.tree.map(lambda values: np.asarray(values)[None], state)
    trajectory.write(folder / "start.h5", trajectory.Trajectory(argon.system, frames, np.zeros(1), {}, {}))
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("restore_precision")
def test_an_alarm_halves_the_step_and_the_run_stays_on_its_grid(argon, tmp_path, capsys):
    out, parts = tmp_path / "run.h5", tmp_path / "parts.h5"
    command = ["rollout", argon / "family", "--start", argon / "start.h5", "--temperature", 52, "--no-tables",
               "--time-step", "auto", "--tau-fs", 1, "--every", 2, "--fallback-steps", 6, "--seed", 3]  # fmt: skip
    ffmd(*command, "--steps", 120, "--out", out)
    run = trajectory.read(out)
    halvings = run.metadata["halvings"]
    np.testing.assert_allclose(np.diff(run.times), 80.0)
    assert len(run.times) == 60 and run.metadata["time_step_fs"] == 40.0
    assert halvings[0]["time_step_fs"] == 20.0 and {h["time_step_fs"] for h in halvings} >= {20.0, 10.0}
    for halving, after in zip(halvings, [*halvings[1:], None], strict=True):
        inside = (run.times > halving["time_fs"]) & (run.times <= halving["time_fs"] + halving["length_fs"])
        assert np.isnan(run.observables["round_trip_error"][inside]).all() and inside.sum() == halving["length_fs"] / 80
        soon = after is not None and after["time_fs"] <= halving["time_fs"] + halving["length_fs"] + 6 * 40
        expected = halving["time_step_fs"] / 2 if soon else 20.0
        assert after is None or after["time_step_fs"] == expected
    assert f"Δt was halved {len(halvings)} times" in capsys.readouterr().out
    ffmd("analyze", out, "--out", tmp_path / "report")
    assert f"Δt was halved {len(halvings)} times" in (tmp_path / "report" / "report.html").read_text()

    cut = round(halvings[1]["time_fs"] / 80) * 2  # the next alarm comes right after the first part
    ffmd(*command, "--steps", cut, "--out", parts)
    ffmd(*command, "--steps", 120, "--out", parts, "--resume")
    np.testing.assert_array_equal(trajectory.read(parts).frames.positions, run.frames.positions)
    assert trajectory.read(parts).metadata["halvings"] == halvings


@pytest.mark.slow
@pytest.mark.usefixtures("restore_precision")
def test_a_run_that_shorter_steps_do_not_help_ends(argon, tmp_path, capsys):
    command = ["rollout", argon / "family", "--start", argon / "start.h5", "--out", tmp_path / "run.h5", "--no-tables"]
    hot = ["--temperature", 400, "--tau-fs", 100, "--steps", 200, "--time-step", 40, "--fallback-steps", 2]
    message = fails(capsys, *command, *hot, "--on-alarm", "halve", code=3)
    run = trajectory.read(tmp_path / "run.h5")
    assert "the temperature is" in message and "shorter steps did not help" in message
    assert [halving["time_step_fs"] for halving in run.metadata["halvings"]] == [20.0, 10.0, 5.0]
    options = ["--steps", 2, "--temperature", 55, "--overwrite"]
    assert "no replicas" in fails(capsys, *command, *options, "--time-step", "auto", "--replicas", 2)
    assert "with 2.5 fs, too" in fails(capsys, *command, *options, "--time-step", 5, "--on-alarm", "halve")
    assert "does not go with" in fails(capsys, *command, *options, "--time-step", "auto", "--on-alarm", "warn")


def test_another_step_than_the_only_one_is_refused(molecule):
    model = Model(MEMBER, {}, None, "quartz")
    with pytest.raises(ValueError, match="Δt = 20 fs and no other"):
        simulate(model, molecule, steps=1, ensemble=NVE(), time_step_fs=10.0)
    with pytest.raises(ValueError, match="only a family"):
        model.at(10.0)


def test_a_damaged_family_is_refused(params, tmp_path):
    with pytest.raises(ValueError, match="ascending"):
        dataclasses.replace(CONFIG, time_steps_fs=(5.0, 20.0, 10.0))
    with pytest.raises(ValueError, match="terms"):
        dataclasses.replace(CONFIG, terms=4)
    one = Calibration(1.0, 1.0, (0.1, 0.1), 1e-7, (0.1, 0.1), 300.0)
    model_files.save(tmp_path, Model(CONFIG, params, FamilyCalibration((one,)), kind="family"))
    with pytest.raises(ValueError, match="each of the 3 time steps"):
        model_files.load(tmp_path)
