"""Devices and processes of a training: one mesh over all of them, with batches divided along "data".

Weights are on every device.  A process places only its own devices' part of a batch.  One device is the mesh of one.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ffmd_jax.training.settings import Processes

AXIS = "data"


def start(processes: Processes) -> None:
    """Joins the processes of this training; does nothing where there is only one.  Comes before any use of a device.

    Raises:
        RuntimeError: the other processes cannot be reached within five minutes, or an MPI that jax does not know.
    """
    if processes.coordinator is not None:
        jax.distributed.initialize(
            processes.coordinator,
            processes.num_processes,
            processes.process_id,
            cluster_detection_method="deactivate",
        )
    elif _announced():
        jax.distributed.initialize()
    elif int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        raise RuntimeError(
            "jax does not find the other processes of this mpirun (it knows Open MPI 4); say `coordinator` HOST:PORT "
            "`num_processes` $OMPI_COMM_WORLD_SIZE `process_id` $OMPI_COMM_WORLD_RANK"
        )
    elif _tpu():
        # Only the TPU's metadata tell whether this is one machine of a slice; jax reads them.
        try:
            jax.distributed.initialize()
        except ValueError:
            return


def _announced() -> bool:
    """True if the environment of this process says that it is one of several, in a way that jax understands.

    A single process is left alone: jax would give it one GPU of several under Slurm.
    """
    slurm = {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"} <= os.environ.keys()
    if slurm and int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        return True
    if "OMPI_MCA_orte_hnp_uri" in os.environ and int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return True
    # Every pod of Kubernetes looks like one of a cluster; those of an indexed job have a number.
    pod = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= os.environ.keys()
    return pod and importlib.util.find_spec("kubernetes") is not None


def _tpu() -> bool:
    """True on a machine with TPU chips and jax's library for them."""
    if importlib.util.find_spec("libtpu") is None:
        return False
    return Path("/dev/accel0").exists() or any(Path("/dev").glob("vfio/[0-9]*"))


def mesh() -> Mesh:
    """All devices of all processes, along one axis."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def is_first() -> bool:
    """True in the process that writes files and prints."""
    return jax.process_index() == 0


def replicate(tree: Any, devices: Mesh) -> Any:
    """A copy of the arrays on every device; all processes must give the same."""
    sharding = NamedSharding(devices, PartitionSpec())

    def copy(values):
        host = np.array(jnp.asarray(values))
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(copy, tree)


def divide(tree: Any, rows: np.ndarray, devices: Mesh, axis: int = -1) -> Any:
    """Rows of host arrays, one axis of ``rows`` divided over the devices.

    Args:
        tree: arrays ``[n, …]``.
        rows: indices ``[…]`` into the first axis.
        axis: of ``rows``; its length is a multiple of the number of devices.

    Returns:
        arrays ``[*rows.shape, …]``, of which a process has read only what its devices hold.
    """
    sharding = NamedSharding(devices, PartitionSpec(*[None] * (axis % rows.ndim), AXIS))

    def place(values):
        values = np.asarray(values)
        shape = rows.shape + values.shape[1:]
        return jax.make_array_from_callback(shape, sharding, lambda index: values[rows[(index or ())[: rows.ndim]]])

    return jax.tree.map(place, tree)


def padded(rows: np.ndarray, n_devices: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows ``[…, n_rows]`` filled up to a multiple of ``n_devices``, and their weights in the mean, ``[padded]``.

    The padding repeats the first of the rows, at weight 0: what is not finite there is not finite anyway.
    """
    n_rows = rows.shape[-1]
    n_more = -n_rows % n_devices
    filled = np.concatenate([rows, np.repeat(rows[..., :1], n_more, axis=-1)], axis=-1)
    return filled, np.where(np.arange(n_rows + n_more) < n_rows, 1 / n_rows, 0.0).astype(np.float32)


def map_shares(function: Callable, devices: Mesh) -> Callable:
    """``(params, batch) -> sum over devices of function(params, the device's part of the batch)``.

    One message for all results: many small ones would cost more than the step of a small network.
    """

    def share(params, batch):
        results, unravel = flatten_util.ravel_pytree(function(params, batch))
        return unravel(jax.lax.psum(results, AXIS))

    specs = (PartitionSpec(), PartitionSpec(AXIS))
    return jax.shard_map(share, mesh=devices, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)


def agree(*flags: bool) -> tuple[bool, ...]:
    """Each flag True if any process says so; all processes must ask."""
    if jax.process_count() == 1:
        return flags
    from jax.experimental import multihost_utils

    everyone = multihost_utils.process_allgather(np.asarray(flags, np.int32))
    return tuple(bool(flag) for flag in np.any(everyone, axis=0))


def wait_for_all(where: str) -> None:
    """Returns when all processes have come here."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(where)
