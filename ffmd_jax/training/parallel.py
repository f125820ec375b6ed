"""The devices of a training: one mesh over all of them, with batches divided along "data".

Weights are on every device.  A process places only its own devices' part of a batch.  One device is the mesh of one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def mesh() -> Mesh:
    """All devices of all processes, along one axis."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


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
