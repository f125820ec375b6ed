"""Any energy function of jax-md as a reference engine, with the neighbour tables and integrator of this package.

    from jax_md import energy, space
    from ffmd_jax.reference_md import jax_md_adapter, production

    box = state.cell.T  # jax-md's lattice vectors are columns
    displacement, _ = space.periodic_general(box, fractional_coordinates=False)
    _, energy_fn = energy.lennard_jones_neighbor_list(
        displacement, box, sigma=3.4, epsilon=0.0104, r_cutoff=2.5, fractional_coordinates=False
    )
    argon = jax_md_adapter.reference("my argon", system, state, energy_fn, cutoff=2.5 * 3.4, dt=4.0)
    blocks = production.run(argon, state, n_steps=10_000, every=5, key=jax.random.key(0))

Positions go in as Å, Cartesian and unwrapped (jax-md's displacement functions take the minimum image themselves, those
with ``fractional_coordinates=False``); the energy comes out in eV.  Choose jax-md's own units accordingly.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import Array, Energy, Graph, State, System
from ffmd_jax.reference_md.systems import Reference


def reference(
    name: str,
    system: System,
    state: State,
    energy_fn: Callable[..., Array],
    *,
    cutoff: float | None,
    dt: float,
    skin: float = 0.5,
    format: Literal["Dense", "Sparse", "OrderedSparse"] = "Dense",
) -> Reference:
    """The system with a jax-md energy, for `production` and everything that runs a prepared system.

    Args:
        name: for messages.
        system: species, masses, periodic directions.
        state: start of an equilibration.
        energy_fn: ``energy_fn(R, neighbor=…)``, or ``energy_fn(R)`` if ``cutoff`` is None; eV from Å.
        cutoff: Å, at least what ``energy_fn`` cuts at (2.5 σ above); None for a function of positions alone.
        dt: fs, of the integrator.
        skin: Å, of the neighbour table.
        format: of the neighbor list that ``energy_fn`` takes: sums over pairs any, most many-body energies Dense.

    Raises:
        ValueError: cutoff + skin exceeds half a height of the cell along a periodic direction.  Atoms then see two
            images of a neighbour, which a jax-md neighbour list cannot tell apart.
    """
    state = jax.tree.map(lambda values: np.asarray(values, np.float64), state)
    if cutoff is None:
        # The table is not used, and small for that reason; a search needs some neighbour.
        apart = np.linalg.norm(state.positions - state.positions[:1], axis=1)[1:]
        reach = float(apart.min()) + 1.0 if len(apart) else 1.0
        return Reference(name, system, state, _plain(energy_fn), cutoff=reach, dt=dt, skin=3.0)
    periodic = neighbors.heights(state.cell)[np.asarray(system.pbc)]
    if periodic.size and cutoff + skin > periodic.min() / 2:
        raise ValueError(
            f"jax-md's neighbour lists hold one image of each neighbour: cutoff + skin = {cutoff + skin:g} Å must not "
            f"exceed half the smallest height of the cell, {periodic.min() / 2:.4g} Å; take a larger cell"
        )
    return Reference(name, system, state, _with_neighbors(energy_fn, format), cutoff=cutoff, dt=dt, skin=skin)


def _plain(energy_fn: Callable[..., Array]) -> Energy:
    def energy(system: System, state: State, graph: Graph) -> Array:
        return energy_fn(state.positions)

    return energy


def _with_neighbors(energy_fn: Callable[..., Array], format: str) -> Energy:
    def energy(system: System, state: State, graph: Graph) -> Array:
        return energy_fn(state.positions, neighbor=neighbor_list(state.positions, graph, format))

    return energy


def neighbor_list(positions: Array, graph: Graph, format: str = "Dense") -> Any:
    """The graph as jax-md's NeighborList; padding is the index n_atoms, as there.

    It can be read, not updated.
    """
    from jax_md import partition

    make: Any = partition.NeighborList  # pyright does not see the fields of jax-md's dataclasses
    make_error: Any = partition.PartitionError
    n_atoms, capacity = graph.senders.shape
    receivers = jnp.broadcast_to(jnp.arange(n_atoms, dtype=graph.senders.dtype)[:, None], graph.senders.shape)
    mask = graph.mask & (receivers < graph.senders) if format == "OrderedSparse" else graph.mask
    senders = jnp.where(mask, graph.senders, n_atoms)
    if format == "Dense":
        index = senders
    else:
        index = jnp.stack([jnp.where(mask, receivers, n_atoms).reshape(-1), senders.reshape(-1)])
    return make(
        idx=index,
        reference_position=positions,
        error=make_error(jnp.zeros((), jnp.uint8)),
        cell_list_capacity=None,
        max_occupancy=capacity,
        format=partition.NeighborListFormat[format],
        cell_size=None,
        cell_list_fn=_no_update,
        update_fn=_no_update,
    )


def _no_update(*_, **__):
    raise NotImplementedError("this neighbour list is updated by ffmd_jax.neighbors")
