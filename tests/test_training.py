"""Dataset, loss, optimizer step, fit, and the files of models."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config

from ffmd_jax.core import json_records
from ffmd_jax.data import dataset
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.models import config, model_files, trajcast
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import systems
from ffmd_jax.training import batches, loop, losses, optimizer, parallel, scales, settings, tasks
from ffmd_jax.training import states as states_module

ARGON = systems.argon((2, 2, 2))
SIZES = config.Architecture(
    cutoff=5.0, lmax=1, channels=4, layers=1, radial_hidden=(8,), speed_hidden=(8,), velocity_input=True
)


CALIBRATION = config.Calibration(1e-3, 3e-3, (0.01, 0.02), 1e-7, (0.01, 0.03), 310.0)


@pytest.fixture(scope="module")
def data(argon_run):
    return pair_sets.form(dataset.make([argon_run], 40.0, 20.0))


def fit(data, training, state=None, **options):
    model_config = scales.configure(data, SIZES)
    return model_config, list(loop.fit(model_config, data, training, state, **options))


def loss_of(model_config, sets, pairs, **options):
    bucket = batches.buckets([sets.system], [pairs], pair_sets.padded)[0]
    return losses.make_loss(model_config, batches.pair_search(bucket, SIZES.cutoff), **options)


def as_batch(sets, pairs, backwards, weights):
    systems = batches.buckets([sets.system], [pairs], pair_sets.padded)[0].of_examples()
    arrays = jax.tree.map(jnp.asarray, (systems, pairs))
    return batches.Batch(*arrays, jnp.asarray(backwards), jnp.float32(weights), jnp.zeros(len(weights)))


@pytest.mark.slow
def test_training_learns_and_the_average_is_better_than_chance(data):
    training = settings.Training(epochs=6, batch_size=4, learning_rate=0.03, warmup_steps=5)
    _, progress = fit(data, training)
    errors = [p.validation for p in progress if p.validation]
    assert len(errors) == 6
    assert errors[-1].velocity_percent < 25 < 30 < errors[0].velocity_percent < 100
    assert progress[-1].loss < 0.2 * progress[0].loss


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adam", "learning_rate": 1e-3},
        # A plateau at the end of the first epoch, since no epoch is better by a factor of 100 than none at all.
        {"schedule": "plateau", "plateau_patience": 1},
    ],
)
def test_training_resumes_bit_for_bit(data, tmp_path, options, monkeypatch):
    # 12 steps an epoch in blocks of 6: the stop is inside the second epoch.
    training = settings.Training(epochs=2, batch_size=13, **options)
    worse = itertools.chain([1.0, 2.0], itertools.repeat(3.0))
    monkeypatch.setattr(losses.Errors, "mean_percent", property(lambda _: next(worse)))
    _, whole = fit(data, training, block_steps=6)
    model_config = scales.configure(data, SIZES)
    worse = itertools.chain([1.0, 2.0], itertools.repeat(3.0))
    stopped = list(itertools.islice(loop.fit(model_config, data, training, block_steps=6), 3))[-1].state
    with states_module.TrainingStates(tmp_path / "states") as states:
        states.save(int(stopped.step), stopped, best=1.5, validation=2.0)
    with states_module.TrainingStates(tmp_path / "states") as states:
        steps = 2 * batches.n_batches(tasks.buckets(model_config, data, "train"), training)
        restored, best = states.restore(loop.initial(model_config, training, steps))
    assert best == 1.5
    _, rest = fit(data, training, restored, block_steps=6)
    for a, b in zip(jax.tree.leaves(whole[-1].state), jax.tree.leaves(rest[-1].state), strict=True):
        np.testing.assert_array_equal(a, b)
    if training.schedule == "plateau":
        assert float(whole[-1].state.plateau.scale) == np.float32(0.8)


@pytest.mark.slow
def test_the_rate_falls_at_a_plateau_and_not_before(data, monkeypatch):
    training = settings.Training(
        schedule="plateau", plateau_factor=0.5, plateau_patience=2, warmup_steps=1, learning_rate=0.02
    )
    state, after_epoch = optimizer.plateau(training).init(jnp.zeros(())), optimizer.make_after_epoch(training)
    scales = []
    for error in (5.0, 4.0, 4.5, 4.5, 3.0, 3.0, 3.0, 3.0, 3.0):
        state = after_epoch(state, error)
        scales.append(float(state.scale))
    assert scales == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
    monkeypatch.setattr(losses.Errors, "mean_percent", property(lambda _: 1.0))
    _, progress = fit(data, dataclasses.replace(training, epochs=5, batch_size=158))
    assert [p.learning_rate for p in progress] == pytest.approx([0.0, 0.02, 0.02, 0.01, 0.01])


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_all_blocks_of_all_epochs_are_one_program_that_reuses_its_memory(data, monkeypatch, schedule):
    # 17 steps an epoch in blocks of 5: the last of each epoch has 2.
    training = settings.Training(epochs=3, batch_size=9, optimizer="adam", schedule=schedule)
    model_config, traces, compiled = scales.configure(data, SIZES), [], []

    def convolution(*arguments):
        traces.append(1)
        return convolutions.edge_convolution(*arguments)

    programs, make_block = [], loop.make_block
    monkeypatch.setattr(loop, "make_block", lambda *given: programs.append(make_block(*given)) or programs[0])
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    seen = []
    for progress in loop.fit(model_config, data, training, block_steps=5, convolution=convolution):
        if seen:
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(seen[-1].state.params))
        seen.append(progress)
        if progress.epoch == 1:
            traces_of_one_epoch = len(traces)
            compiled.clear()
    assert [round(17 * p.epoch) for p in seen[:5]] == [5, 10, 15, 17, 22]
    assert programs[0]._cache_size() == 1
    assert len(traces) == traces_of_one_epoch
    assert not [name for name in compiled if "compile" in name]
    assert seen[0].configurations_per_s is None
    assert all(p.configurations_per_s > 0 for p in seen[1:])


@pytest.mark.slow
def test_newest_and_best_states_are_both_kept(data, tmp_path):
    state, step = loop.initial(scales.configure(data, SIZES), settings.Training(optimizer="adam"), 10), 0
    for kept, errors in (([2, 4], (3.0, 1.0, 2.0, 2.5)), ([2, 6], (4.0, 1.5)), ([7, 8], (0.5, None))):
        # A resumed training knows the errors of what an earlier one has saved; 8 was not validated.
        with states_module.TrainingStates(tmp_path / "states") as states:
            for error in errors:
                step += 1
                states.save(step, state, 1.0, *([] if error is None else [error]))
        found = sorted(int(entry.name) for entry in (tmp_path / "states").iterdir() if entry.name.isdigit())
        assert found == kept


def test_a_state_with_other_parts_is_refused_in_one_line(tmp_path):
    """As one that an optimizer of another version has saved."""
    with states_module.TrainingStates(tmp_path / "states") as states:
        states.save(7, {"weights": jnp.ones(3)}, 1.0)
    with states_module.TrainingStates(tmp_path / "states") as states, pytest.raises(ValueError) as caught:
        states.restore({"weights": jnp.ones(3), "moments": jnp.ones(3)})
    assert "after 7 steps" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_step_without_finite_gradient_changes_nothing(data):
    model_config, training = scales.configure(data, SIZES), settings.Training(batch_size=1, optimizer="adam")
    few = jax.tree.map(lambda x: x[:1], data[0].validation)
    batch = as_batch(data[0], few, [False], [1.0])
    state, rule = loop.initial(model_config, training, 10), optimizer.make(training, 10)
    loss = loss_of(model_config, data[0], few)
    step = jax.jit(loop.make_train_step([loss], training, rule, parallel.mesh(), together=False))
    displacements = batch.pairs.displacements.at[0, 0, 0].set(jnp.nan)
    after, _ = step(state, [batch._replace(pairs=batch.pairs._replace(displacements=displacements))])
    assert int(after.skipped) == 1
    for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)
    good, _ = step(state, [batch])
    good, _ = step(good, [batch])  # the first has learning rate zero
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (good.params, state.params)), strict=True))


def test_the_decay_of_weights_fades_with_the_rate():
    training = settings.Training(learning_rate=0.2, weight_decay=0.5, warmup_steps=4)
    rule, rates = optimizer.make(training, 20), optimizer.schedule(training, 20)
    params, found = {"w": jnp.ones((2, 3))}, []
    state = rule.init(params)
    for _ in range(20):
        updates, state = rule.update({"w": jnp.zeros((2, 3))}, state, params)
        found.append(float(updates["w"][0, 0]))
    expected = [-0.5 * float(rates(step)) ** 2 / 0.2 for step in range(20)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)


@pytest.mark.slow
def test_pairs_together_and_one_by_one_give_the_same_step(data):
    model_config, training = scales.configure(data, SIZES), settings.Training(optimizer="adam", warmup_steps=0)
    few, devices = jax.tree.map(lambda x: x[:3], data[0].validation), parallel.mesh()
    loss = loss_of(model_config, data[0], few)
    batch = as_batch(data[0], few, [True, False, True], [0.5, 0.3, 0.2])
    state = loop.initial(model_config, training, 10)
    found = []
    for together in (False, True):
        step = loop.make_train_step([loss], training, optimizer.make(training, 10), devices, together)
        evaluate = losses.make_evaluate(loss, 1, devices, 2 if together else 1)
        errors = evaluate(state.params, (batch.systems, batch.pairs, jnp.zeros(3, int), batch.weights))
        found.append((jax.jit(step)(state, [batch])[1], errors))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize(
    ("failed", "found", "errors", "message"),
    [
        (2, [np.nan, np.nan], None, "no finite gradient in the last 2 steps"),
        (0, [2e4, 3e4, 0.5], None, "the loss is 2.0e"),
        (0, [0.5, 0.4], losses.Errors(np.nan, 1.0, 1.0, 1.0, {}), "validation error"),
        (1, [np.nan], None, None),  # one bad pair
        (0, [2e4, 0.5, 0.4], losses.Errors(1.0, 1.0, 1.0, 1.0, {}), None),
    ],
)
def test_divergence_is_told_from_a_bad_pair(failed, found, errors, message):
    if message is None:
        loop.check_converges(7, failed, np.array(found), errors)
    else:
        with pytest.raises(loop.Diverged, match=message):
            loop.check_converges(7, failed, np.array(found), errors)


def test_model_files_give_the_same_numbers(tmp_path):

    model_config = small_config()
    params = trajcast.init(jax.random.key(0), model_config)
    model_files.save(tmp_path / "m", Model(model_config, params, CALIBRATION))
    loaded = model_files.load(tmp_path / "m")
    assert loaded.config == model_config and loaded.calibration == CALIBRATION and loaded.kind == "propagator"
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(loaded.params), strict=True):
        np.testing.assert_array_equal(a, b)
    weights = tmp_path / "m" / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ValueError, match="cannot be read"):
        model_files.load(tmp_path / "m")
    model_files.save(tmp_path / "m", Model(model_config, params))  # of an earlier model, no calibration stays
    assert model_files.load(tmp_path / "m").calibration is None


def test_models_of_version_0_1_load_with_the_same_bits(tmp_path):
    now = Model(small_config(periodic=False), trajcast.init(jax.random.key(0), small_config()), CALIBRATION)
    model_files.save(tmp_path / "m", now)
    (tmp_path / "m" / "calibration.json").unlink()
    old = {**json.loads(json_records.to_json(now.config)), "calibration": dataclasses.asdict(CALIBRATION)}
    old["conserve_angular_momentum"] = old.pop("isolated")
    old["architecture"]["velocity_skip"] = False
    (tmp_path / "m" / "config.json").write_text(json.dumps(old))
    loaded = model_files.load(tmp_path / "m")
    assert loaded.config == now.config and loaded.calibration == CALIBRATION
    for a, b in zip(jax.tree.leaves(now.params), jax.tree.leaves(loaded.params), strict=True):
        np.testing.assert_array_equal(a, b)
    old["architecture"]["velocity_skip"] = True
    (tmp_path / "m" / "config.json").write_text(json.dumps(old))
    with pytest.raises(ValueError, match=r"velocity-skip, which only version 0\.1 has"):
        model_files.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "ffmd_jax model 3"}, "has the format"),
        ({"kind": "oracle"}, "of the kind 'oracle', this version knows propagator"),
    ],
)
def test_formats_and_kinds_that_are_not_known_are_refused(change, message):
    text = model_files.config_json(small_config())
    assert model_files.read_config(text) == ("propagator", small_config(), None)
    with pytest.raises(ValueError, match=message):
        model_files.read_config(json.dumps({**json.loads(text), **change}))


def test_weights_of_another_size_are_refused(tmp_path):

    model_config = small_config()
    model_files.save(tmp_path / "m", Model(model_config, trajcast.init(jax.random.key(0), model_config)))
    larger = dataclasses.replace(model_config, architecture=dataclasses.replace(model_config.architecture, channels=8))
    (tmp_path / "m" / "config.json").write_text(model_files.config_json(larger))
    with pytest.raises(ValueError, match="do not fit"):
        model_files.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.replace('"time_step_fs"', '"dt"'), "no field dt"),
        (lambda c: c.replace('"lmax": 1', '"lmax": "1"'), "lmax must be a int"),
        (lambda c: c.replace('"time_step_fs": 10.0,', ""), "lacks the field time_step_fs"),
        (lambda c: c[:40], "no JSON"),
        (lambda c: c.replace('"cutoff": 4.0', '"cutoff": -1'), "cutoff must be positive"),
    ],
)
def test_damaged_configurations_are_refused(change, message):
    text = model_files.config_json(small_config())
    assert change(text) != text
    with pytest.raises(ValueError, match=message):
        model_files.read_config(change(text))
