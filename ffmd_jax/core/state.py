"""The records that everything else passes around: immutable pytrees without behaviour."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

Array = jax.Array | np.ndarray


class Constraints(NamedTuple):
    """What atoms of another program's run could not do; no propagator knows of any.

    Attributes:
        bonds: degrees of freedom that constant distances take from each atom, ``[n_atoms]``.
        fixed: True for atoms that never move, bool ``[n_atoms]``; None: there are none.
    """

    bonds: Array
    fixed: Array | None = None


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["species", "masses", "constraints"],
    meta_fields=["pbc", "linear", "padded"],
)
@dataclasses.dataclass(frozen=True)
class System:
    """What stays constant along a trajectory, whatever happens to the cell.

    Attributes:
        species: atomic numbers, int ``[n_atoms]``.
        masses: u, ``[n_atoms]``.
        pbc: periodic directions, three bools; static where programs are compiled.
        linear: an isolated molecule whose atoms lie on a line; static.
        padded: some atoms are padding, of element and mass 0, which nothing acts on; static.
        constraints: of a run of another program; None: all atoms move freely.
    """

    species: Array
    masses: Array
    pbc: tuple[bool, bool, bool] = (False, False, False)
    linear: bool = False
    padded: bool = False
    constraints: Constraints | None = None


class State(NamedTuple):
    """A point of phase space; with a leading frame axis, a trajectory.

    Attributes:
        positions: unwrapped, Å, ``[..., n_atoms, 3]``.
        velocities: Å/fs, ``[..., n_atoms, 3]``.
        cell: rows are the lattice vectors, Å, ``[..., 3, 3]``; rows of open directions only complete the basis.
    """

    positions: Array
    velocities: Array
    cell: Array


class Domain(NamedTuple):
    """Which atoms are a device's own, where one system is divided over several; see `domains`.

    Attributes:
        receivers: atoms of the rows of its graph, int32 ``[n_rows]``; rows that pad it repeat the last.
        rows: of all atoms, in the graphs of all devices one after the other, int32 ``[n_atoms]``.
        offsets: to the domains, on a ring, that its neighbours are in, int32 ``[n_seen]``.
    """

    receivers: Array
    rows: Array
    offsets: Array


class Graph(NamedTuple):
    """Neighbours j of every atom i as dense, padded rows.

    Attributes:
        senders: index of j, int32 ``[n_atoms, n_neighbors]``; padding points to atom 0.
        shifts: lattice translations S, int8 ``[n_atoms, n_neighbors, 3]``, such that the edge vector is
            ``positions[j] + S @ cell - positions[i]`` for unwrapped positions.
        mask: True where the entry is a neighbour, bool ``[n_atoms, n_neighbors]``.
        domain: the atoms that the rows are of, ``[n_rows, …]``; None: all.
    """

    senders: Array
    shifts: Array
    mask: Array
    domain: Domain | None = None


Energy = Callable[[System, State, Graph], Array]  # eV, scalar: a force field, or a trained potential
Propagate = Callable[[System, State, Graph], State]  # the state an interval later: a network, or an integrator
Correct = Callable[[System, State, State], State]  # (system, before, after) -> after, with a conservation law restored
Thermostat = Callable[..., State]  # (key, system, state[, temperature_K]) -> state


def is_isolated(system: System) -> bool:
    """True without any periodic direction: then the total angular momentum is conserved, too."""
    return not any(system.pbc)


def make_system(species, masses, pbc: Any = False) -> System:
    """Returns a checked `System` with host arrays, masses in float64.

    Args:
        species: atomic numbers, ``[n_atoms]``.
        masses: u, ``[n_atoms]``.
        pbc: one bool or three.

    Raises:
        ValueError: wrong shapes, unphysical masses or species.
    """
    species = np.asarray(species, dtype=np.int32)
    masses = np.asarray(masses, dtype=np.float64)
    if species.ndim != 1 or species.size == 0 or masses.shape != species.shape:
        raise ValueError(
            f"a system needs species [n_atoms] and masses [n_atoms], not {species.shape} and {masses.shape}"
        )
    if species.min() < 1 or species.max() > 118:
        raise ValueError(f"species must be atomic numbers from 1 to 118, found {species.min()}…{species.max()}")
    if not (np.isfinite(masses).all() and masses.min() > 0):
        raise ValueError("masses must be positive and finite (u)")
    first, second, third = np.broadcast_to(np.asarray(pbc, dtype=bool), (3,)).tolist()
    return System(species, masses, (first, second, third))


def make_cell(cell: Any, pbc: Any) -> np.ndarray:
    """A checked cell, Å, float64 ``[..., 3, 3]``; zero rows of open directions complete the basis by unit vectors.

    Args:
        cell: ``[..., 3, 3]``, ``[3]`` (orthorhombic), or None for an open system.
        pbc: one bool or three.

    Raises:
        ValueError: another shape, NaN, or a singular cell in periodic directions.
    """
    cell = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64)
    if cell.shape == (3,):
        cell = np.diag(cell)
    if cell.shape[-2:] != (3, 3):
        raise ValueError(f"a cell is [3, 3], not {cell.shape}")
    if not np.isfinite(cell).all():
        raise ValueError("the cell holds NaN or infinite entries")
    pbc = np.broadcast_to(np.asarray(pbc, dtype=bool), (3,))
    if cell.ndim > 2:
        flat = cell.reshape(-1, 3, 3)
        if len(flat) and (flat == flat[0]).all():  # most trajectories; checked once
            return np.broadcast_to(make_cell(flat[0], pbc), cell.shape)
        return np.stack([make_cell(one, pbc) for one in flat]).reshape(cell.shape)
    cell = cell.copy()
    for axis in range(3):
        if not pbc[axis] and np.linalg.norm(cell[axis]) < 1e-6:
            given = [row for row in cell if np.linalg.norm(row) > 1e-6]
            basis = np.linalg.svd(np.array(given))[2] if given else np.eye(3)
            cell[axis] = basis[-1]
    lengths = np.linalg.norm(cell, axis=1)
    if lengths.min() < 1e-6 or abs(np.linalg.det(cell / lengths[:, None])) < 1e-4:
        raise ValueError(f"the cell is singular (lattice vector lengths {np.round(lengths, 4).tolist()} Å)")
    return cell


def take(tree, index):
    """The pytree with ``index`` applied to the first axis of every array: a frame, a part, a replica."""
    return jax.tree.map(lambda values: values[index], tree)


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` with its matrix products in the precision of their operands.

    By default GPUs and TPUs round the operands to 10 (TF32) or 7 bits (bfloat16) of mantissa: a position 10 Å from the
    origin by 0.005 or 0.03 Å, and the network would not be equivariant.  CPUs never do.
    """

    @functools.wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return exact


def cast(tree, dtype):
    """The pytree with every floating-point array in ``dtype``, so that mixed precision never promotes by accident."""

    def convert(leaf):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        if isinstance(leaf, np.ndarray):  # on the host, without a compilation
            return jax.device_put(leaf.astype(dtype))
        return jnp.asarray(leaf, dtype)

    return jax.tree.map(convert, tree)


def check_state(system: System, state: State) -> None:
    """Raises ValueError unless positions, velocities and cell fit the system and are finite."""
    n_atoms = len(system.species)
    for name, values in (("positions", state.positions), ("velocities", state.velocities)):
        if values.shape[-2:] != (n_atoms, 3):
            raise ValueError(f"{name} must be [..., {n_atoms}, 3], not {tuple(values.shape)}")
        _check_finite(name, values)
    expected = (*state.positions.shape[:-2], 3, 3)
    if state.cell.shape != expected or not np.isfinite(np.asarray(state.cell)).all():
        raise ValueError(f"the cell must be finite and {list(expected)}, not {tuple(state.cell.shape)}")


def check_forces(forces: Array | None) -> None:
    """Raises ValueError unless forces, where they are known, are finite."""
    if forces is not None:
        _check_finite("forces", forces)


def _check_finite(name: str, values: Array) -> None:
    bad = ~np.isfinite(np.asarray(values)).all(axis=-1)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        place = f"atom {where[-1]}" + (f" of frame {where[0]}" if len(where) > 1 else "")
        raise ValueError(f"{name} hold NaN or infinite values (first at {place})")
