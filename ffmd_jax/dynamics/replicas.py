"""Runs side by side: one program for all of them, on one device or divided over several.

Each device has its share of the replicas.  What all replicas decide together, such as when neighbour tables are made
anew, is decided over all devices: their number changes a trajectory by rounding only.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from ffmd_jax.core import processes
from ffmd_jax.core.state import Array
from ffmd_jax.dynamics.records import Carry, Monitor, Run

AXIS = "replicas"
SAME, FIRST, SECOND = P(), P(AXIS), P(None, AXIS)  # the axis of an array that runs over replicas: none, or which
_ALL: Any = [FIRST] * len(Carry._fields)
CARRY: Any = Carry(*_ALL)._replace(step=SAME)


class Replicas(NamedTuple):
    """That a run is one of replicas, and the devices that they are divided over; static, hashable.

    Attributes:
        devices: a mesh of one axis; None: all replicas are on the same device.
    """

    devices: Mesh | None = None


def over(n_replicas: int, devices: int | Sequence[Any] | None = None) -> Replicas:
    """Replicas divided over so many devices as get equal shares.

    Args:
        devices: to choose from; a number: at most so many of all processes; None: all.

    Raises:
        ValueError: there are fewer devices, or no equal share for each process.
    """
    if isinstance(devices, Sequence):
        used = max(n for n in range(1, len(devices) + 1) if n_replicas % n == 0)
        return _on(devices[:used])
    each = processes.count()
    at_most = jax.device_count() if devices is None else len(processes.devices(devices))
    shares = [n for n in range(each, at_most + 1, each) if n_replicas % n == 0]
    if not shares:
        raise ValueError(f"{n_replicas} replicas cannot be shared by {each} processes equally")
    return _on(processes.devices(shares[-1]))


def _on(devices: Sequence[Any]) -> Replicas:
    if len(devices) == 1:
        return Replicas()
    return Replicas(jax.make_mesh((len(devices),), (AXIS,), devices=devices, axis_types=(AxisType.Auto,)))


def any_of(replicas: Replicas | None, flags: Array) -> Array:
    """True if a flag is, of any replica on any device."""
    found = jnp.any(flags)
    if replicas is None or replicas.devices is None:
        return found
    return jax.lax.pmax(found.astype(jnp.int32), AXIS) > 0


def all_of(replicas: Replicas | None, flags: Array) -> Array:
    """True if all flags are, of all replicas on all devices."""
    return ~any_of(replicas, ~jnp.asarray(flags))


def own(replicas: Replicas | None, values: Array, like: Array) -> Array:
    """Of one value, or one for each replica, those of this device's replicas, of the shape of ``like`` ``[n_own]``."""
    if np.ndim(values) and replicas is not None and replicas.devices is not None:
        return jax.lax.dynamic_slice_in_dim(values, jax.lax.axis_index(AXIS) * len(like), len(like))
    return jnp.broadcast_to(values, like.shape)


def each(run: Run, replicas: Replicas | None) -> Callable:
    """``function(run, …) -> function`` of all replicas; its other arguments have the axes ``in_axes``, 0 by default."""
    if replicas is None:
        return lambda function, in_axes=0: function
    of_run: Any = None
    if _differ(run):
        monitor: Any = None if run.monitor is None else Monitor(limits=0, start=None, look=None, observe=None)  # type: ignore[arg-type]
        of_run = Run(*[None] * len(Run._fields))._replace(system=0, monitor=monitor)  # type: ignore[arg-type]

    def mapped(function: Callable, in_axes: Any = 0) -> Callable:
        def call(run: Run, *arguments: Any) -> Any:
            axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(arguments)
            return jax.vmap(function, (of_run, *axes))(run, *arguments)

        return call

    return mapped


def divided_over(replicas: Replicas | None, function: Callable, run: Run, arguments: tuple, out: Any) -> Any:
    """``function(run, *arguments)``, on every device for its share of the replicas.

    Args:
        function: of a run and its state; uses `any_of` and `all_of` where replicas decide together.
        arguments: a `Carry`, arrays with a leading axis of replicas, or scalars.
        out: like the results, with `FIRST`, `SECOND`, `CARRY` or `SAME` for the axis of the replicas.
    """
    if replicas is None or replicas.devices is None:
        return function(run, *arguments)
    specs = (_of_run(run), *(CARRY if isinstance(given, Carry) else _first(given) for given in arguments))
    divided = jax.shard_map(function, mesh=replicas.devices, in_specs=specs, out_specs=out, check_vma=False)
    return divided(run, *arguments)


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: FIRST if np.ndim(leaf) else SAME, tree)


def _of_run(run: Run) -> Any:
    """Where the parts of a run are: those of each replica with it, all others everywhere."""
    same: Any = [SAME] * len(Run._fields)
    if not _differ(run):
        return Run(*same)
    monitor: Any = run.monitor and Monitor(*same[:4])._replace(limits=_first(run.monitor.limits))
    return Run(*same)._replace(system=_first(run.system), monitor=monitor)


def _differ(run: Run) -> bool:
    """True where every replica is a system of its own."""
    return np.ndim(run.system.species) > 1
