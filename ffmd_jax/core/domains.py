"""One system over several devices: each sums over the neighbours of the atoms of its own domain.

Domains are slabs with equal numbers of atoms, chosen anew with each neighbour table.  A graph with a `Domain` holds the
rows of one of them, inside a `jax.shard_map` over the axis `AXIS`.  What has few numbers for each atom (positions,
velocities, what a step makes of them) is on every device; what belongs to neighbours is not, and of the atoms' features
a device sees its own domain and those in reach.  Without a domain, all functions return what they are given.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from ffmd_jax.core import processes
from ffmd_jax.core.state import Array, Domain, Graph

AXIS = "domains"
SAME: Any = P()  # an array that is whole on every device
ROWS: Any = P(AXIS)  # one that is divided along its first axis
GRAPH = Graph(ROWS, ROWS, ROWS, Domain(receivers=ROWS, rows=SAME, offsets=SAME))


def devices_of(n_domains: int) -> Mesh:
    """The devices that so many domains are on, equally many of each process."""
    devices = processes.devices(n_domains)
    return jax.make_mesh((n_domains,), (AXIS,), devices=devices, axis_types=(AxisType.Auto,))


def over(devices: Mesh, function: Callable, arguments: tuple, out: Any) -> Any:
    """``function(*arguments)`` on every device: of graphs with its own rows, of all else with the whole.

    Args:
        out: like the results, with `SAME` or `GRAPH`.
    """

    def place(tree: Any) -> Any:
        is_graph = lambda part: isinstance(part, Graph)  # noqa: E731
        return jax.tree.map(lambda part: GRAPH if is_graph(part) else SAME, tree, is_leaf=is_graph)

    specs = tuple(map(place, arguments))
    return jax.shard_map(function, mesh=devices, in_specs=specs, out_specs=out, check_vma=False)(*arguments)


def sizes(n_atoms: int, n_domains: int) -> np.ndarray:
    """Atoms of each domain: equal numbers, but the first have one more where they must."""
    least, more = divmod(n_atoms, n_domains)
    return least + (np.arange(n_domains) < more)


def reach(along: np.ndarray, width: float, periodic: bool, n_domains: int) -> int:
    """Domains on either side that atoms within ``width`` are in, at most; of fractional coordinates, ``[n_atoms]``."""
    n_atoms, along = len(along), np.sort(along)
    along = np.concatenate([along - 1, along, along + 1]) if periodic else along
    ranks = np.searchsorted(along, along - width), np.arange(len(along))
    ends = np.cumsum(sizes(n_atoms, n_domains))
    first, last = (np.searchsorted(ends, r % n_atoms, "right") + r // n_atoms * n_domains for r in ranks)
    return max(1, int(np.max(last - first)))


def own(graph: Graph, values: Array) -> Array:
    """Of values of all atoms, ``[n_atoms, …]``, those of the rows of the graph, ``[n_rows, …]``."""
    return values if graph.domain is None else jnp.asarray(values)[graph.domain.receivers]


def whole(graph: Graph, values: Array) -> Array:
    """Values of all atoms, ``[n_atoms, …]``, from those of the rows on every device, ``[n_rows, …]``."""
    if graph.domain is None:
        return values
    # Atoms last: a TPU pads the last axes to tiles of 8 and 128, and would send the padding.
    sent = jax.lax.all_gather(values.reshape(len(values), -1).T, AXIS, axis=1, tiled=True)
    return sent.T[graph.domain.rows].reshape(-1, *values.shape[1:])


def any_of(graph: Graph, flag: Array) -> Array:
    """True if the flag is on any device."""
    return flag if graph.domain is None else jax.lax.pmax(flag.astype(jnp.int32), AXIS) > 0


def exchanged(graph: Graph, features: dict[Any, Array]) -> dict[Any, Array]:
    """Of features ``[n_rows, 2l + 1, channels]`` those of the domains in reach, one after the other; see `local`."""
    if graph.domain is None:
        return features
    joined = jnp.concatenate(list(features.values()), axis=1)  # one message, not one for each irrep
    # Flat, so that there is little padding.
    seen = _exchange(joined.reshape(len(joined), -1), len(graph.domain.offsets)).reshape(-1, *joined.shape[1:])
    ends = np.cumsum([values.shape[1] for values in features.values()])[:-1].tolist()
    return dict(zip(features, jnp.split(seen, ends, axis=1), strict=True))


def _exchange(values: Array, n_seen: int) -> Array:
    n_domains, reach = jax.lax.axis_size(AXIS), n_seen // 2
    if n_seen == n_domains:
        return jax.lax.all_gather(values, AXIS, tiled=True)

    def of(k: int) -> Array:
        return jax.lax.ppermute(values, AXIS, [(i, (i - k) % n_domains) for i in range(n_domains)]) if k else values

    return jnp.concatenate([of(k) for k in range(-reach, reach + 1)])


def local(graph: Graph) -> Graph:
    """The graph with senders that are rows of `exchanged` features."""
    if graph.domain is None:
        return graph
    return graph._replace(senders=jnp.where(graph.mask, _places(graph.domain, graph.senders), 0))


def beyond_reach(graph: Graph) -> Array:
    """True where a neighbour is in none of the domains in reach, ``[n_rows, n_neighbors]``."""
    assert graph.domain is not None
    n_rows, n_seen = len(graph.domain.receivers), len(graph.domain.offsets)
    return graph.mask & (_places(graph.domain, graph.senders) >= n_seen * n_rows)


def _places(domain: Domain, atoms: Array) -> Array:
    n_rows, n_domains = len(domain.receivers), jax.lax.axis_size(AXIS)
    first = 0 if len(domain.offsets) == n_domains else (jax.lax.axis_index(AXIS) + domain.offsets[0]) * n_rows
    return (domain.rows[atoms] - first) % (n_domains * n_rows)


def divide(order: Array, reach: int) -> tuple[Domain, Array]:
    """The domain of this device, and which of its rows are not padding, bool ``[n_rows]``.

    Args:
        order: atoms in the order in which domains take them, int32 ``[n_atoms]``.
        reach: domains on either side that neighbours are in; all, if that is as many as there are.
    """
    n_atoms, n_domains = len(order), jax.lax.axis_size(AXIS)
    least, more = divmod(n_atoms, n_domains)  # see `sizes`
    n_rows = least + (more > 0)
    index = jax.lax.axis_index(AXIS)
    begin, size = index * least + jnp.minimum(index, more), least + (index < more)
    place = jnp.arange(n_rows)
    receivers = order[begin + jnp.minimum(place, size - 1)]
    rank = jnp.arange(n_atoms)
    rows = rank + jnp.maximum(rank - more * n_rows, 0) // least if more else rank
    rows = jnp.zeros_like(order).at[order].set(rows.astype(order.dtype))
    offsets = jnp.arange(n_domains) if 2 * reach + 1 >= n_domains else jnp.arange(-reach, reach + 1)
    return Domain(receivers, rows, offsets.astype(order.dtype)), place < size


def same_everywhere(values: Array) -> Array:
    """The values of the first device, on all: devices that round differently must not disagree who has an atom."""
    return jax.lax.psum(jnp.where(jax.lax.axis_index(AXIS) == 0, values, jnp.zeros_like(values)), AXIS)
