"""Devices, processes, and the order of the data."""

import os

import jax
import numpy as np
import pytest
from conftest import springs

from ffmd_jax.core import launch
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.training import batches, parallel, settings


@pytest.mark.parametrize("n_devices", [1, 3, 4, 6, 8])
def test_padding_counts_nothing(n_devices):
    rows, weights = parallel.padded(np.arange(10).reshape(2, 5), n_devices)
    assert rows.shape[1] % n_devices == 0
    np.testing.assert_allclose(rows @ weights, [2, 7], rtol=1e-6)
    assert set(rows[1]) == {5, 6, 7, 8, 9}


def test_an_epoch_sees_every_pair_once_in_any_blocks():
    sets, training = pair_sets.form(springs(12, 2))[0], settings.Training(batch_size=4, seed=3)
    pairs, seen = sets.train, {}
    buckets = batches.buckets([sets.system], [pairs], pair_sets.padded)
    for length, done in ((1, 0), (2, 0), (7, 0), (7, 2)):
        feed = batches.blocks(buckets, training, done, length, parallel.mesh())
        blocks = (block for block, _ in zip(feed, range(6), strict=False))
        seen[length, done] = np.concatenate([x.batches[0].pairs.displacements[: x.n_steps] for x in blocks])
    for (_, done), found in seen.items():
        np.testing.assert_array_equal(found[: 6 - done], seen[1, 0][done:])
    first, second = (np.sort(seen[1, 0][i : i + 3].ravel()) for i in (0, 3))
    np.testing.assert_array_equal(first, np.sort(pairs.displacements.ravel()))
    np.testing.assert_array_equal(second, first)
    assert np.any(seen[1, 0][:3] != seen[1, 0][3:])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "here:1"}, "belong together"),
        ({"coordinator": "here:1", "num_processes": 2, "process_id": 2}, "from 0 to 2 - 1"),
        ({"coordinator": "here", "num_processes": 2, "process_id": 0}, "HOST:PORT"),
    ],
)
def test_processes_that_do_not_fit_together_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        launch.Processes(**given)


SLURM_TASK = dict.fromkeys(("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"), "0")


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, False),  # in the batch script, before srun
        ({**SLURM_TASK, "SLURM_NTASKS": "1"}, False),  # one task has all devices of its machine
        ({**SLURM_TASK, "SLURM_NTASKS": "4"}, True),
        ({"OMPI_MCA_orte_hnp_uri": "0", "OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # any pod
    ],
)
def test_only_one_of_several_processes_joins_others(environment, several, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "JOB_")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **options: joined.append(given))
    launch.start(launch.Processes())
    assert bool(joined) == several


def test_an_unknown_mpi_does_not_start_trainings_beside_each_other(monkeypatch):
    monkeypatch.delenv("OMPI_MCA_orte_hnp_uri", raising=False)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"`coordinator`"):
        launch.start(launch.Processes())
