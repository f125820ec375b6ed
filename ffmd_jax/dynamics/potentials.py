"""What a rollout needs of a potential: its energy, and what a barostat moves as a whole."""

from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import Energy, State, System
from ffmd_jax.dynamics.barostat import Molecules

_BOND = 1.25  # of the sum of covalent radii


class Potential(NamedTuple):
    """A potential energy of the atoms of a run.

    Attributes:
        name: as in files.
        energy: a `jax.tree_util.Partial`, or any hashable function.
        cutoff: Å, of the neighbour table that it needs.
        molecules: what a barostat scales as rigid bodies; None: every atom by itself.
        digest: of configuration and weights; empty for a force field, which its name tells.
    """

    name: str
    energy: Energy
    cutoff: float
    molecules: Molecules | None = None
    digest: str = ""


def find_molecules(system: System, state: State) -> Molecules | None:
    """The molecules of a structure, by covalent radii; None for crystals, whose bonds go on for ever, and for atoms.

    Raises:
        ValueError: molecules of more than half the cell, which a barostat cannot put together.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    n_atoms, radii = len(system.species), covalent_radii[np.asarray(system.species)]
    single = State(*(np.asarray(values, np.float64) for values in state))
    reach = 2 * _BOND * float(radii.max())
    search = neighbors.plan(system, single, reach, skin=max(0.0, 6.0 - reach))
    graph = neighbors.build(search, system, single).graph
    senders, lengths = np.asarray(graph.senders), np.linalg.norm(neighbors.vectors(single, graph), axis=-1)
    bonded = np.asarray(graph.mask) & (lengths < _BOND * (radii[:, None] + radii[senders]))
    rows, columns = np.nonzero(bonded)
    ends = senders[rows, columns]
    matrix = coo_matrix((np.ones(len(rows)), (rows, ends)), (n_atoms, n_atoms)).tocsr()
    number, member = connected_components(matrix, directed=False)
    if number == n_atoms:
        return None
    first, turns = np.zeros(n_atoms, int), np.zeros((n_atoms, 3))
    translations = np.asarray(graph.shifts)[rows, columns]
    shifts = dict(zip(zip(rows.tolist(), ends.tolist(), strict=True), translations, strict=True))
    for molecule in range(number):
        root = int(np.flatnonzero(member == molecule)[0])
        order, before = breadth_first_order(matrix, root, directed=False)
        first[order] = root
        for atom in order[1:]:
            turns[atom] = turns[before[atom]] + shifts[int(before[atom]), int(atom)]
    # A bond that does not agree with the walk through the others goes on beyond the cell.
    if np.any(turns[rows] + translations != turns[ends]):
        return None
    whole = single.positions + turns @ single.cell
    inverse = np.linalg.inv(single.cell)
    away = (whole - whole[first]) @ inverse
    if np.abs(away).max() >= 0.45:
        raise ValueError("a molecule is as large as half the cell: a barostat cannot move it as a whole")
    return Molecules(member.astype(np.int32), first.astype(np.int32), np.array(number, np.int32))
