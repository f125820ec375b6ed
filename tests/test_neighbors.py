"""Edges against an independent exact list (vesin), for cells of every kind."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vesin

from ffmd_jax.core import neighbors, state

HEXAGONAL = np.array([[9.83, 0, 0], [-4.915, 8.513, 0], [0, 0, 10.81]])
CELLS = {
    "hexagonal": (HEXAGONAL, (True, True, True), 40, 4.5),
    "tilted": (np.array([[8.0, 0, 0], [5.5, 7.0, 0], [-4.0, 3.0, 9.0]]), (True, True, True), 30, 5.0),
    "tiny": (np.array([[2.6, 0, 0], [0.9, 2.9, 0], [0, 0.4, 3.1]]), (True, True, True), 2, 6.0),
    "slab": (np.diag([7.0, 8.0, 25.0]), (True, True, False), 25, 5.0),
    "wire": (np.diag([4.0, 30.0, 30.0]), (True, False, False), 12, 4.5),
    "open": (np.zeros((3, 3)), (False, False, False), 20, 5.5),
}


def random_system(name, seed=0):
    cell, pbc, n_atoms, cutoff = CELLS[name]
    system = state.make_system(np.full(n_atoms, 14), np.full(n_atoms, 28.0), pbc)
    rng = np.random.default_rng(seed)
    extent = np.where(np.array(pbc), 3.0, 1.0)  # unwrapped: atoms sit in several images of the cell
    size = cell if np.any(cell) else 8.0 * np.eye(3)
    return system, at((rng.uniform(-1, 1, (n_atoms, 3)) * extent) @ size, state.make_cell(cell, pbc)), cutoff


def at(positions, cell):
    return state.State(np.asarray(positions), np.zeros_like(positions), cell)


def moved_by(start, steps):
    return start._replace(positions=start.positions + steps)


def on_device(start):
    return jax.tree.map(jnp.asarray, start)


def edges_of(start, graph):
    """Sorted rows (i, j, Sx, Sy, Sz) and the matching distances."""
    mask = np.asarray(graph.mask)
    i = np.nonzero(mask)[0]
    rows = np.concatenate([i[:, None], np.asarray(graph.senders)[mask][:, None], np.asarray(graph.shifts)[mask]], 1)
    lengths = np.linalg.norm(np.asarray(neighbors.vectors(start, graph)), axis=-1)[mask]
    order = np.lexsort(rows.T[::-1])
    return rows[order], lengths[order]


def expected_edges(system, start, cutoff):
    search = vesin.NeighborList(cutoff=cutoff, full_list=True)
    i, j, shifts, lengths = search.compute(
        points=start.positions,
        box=start.cell * np.asarray(system.pbc)[:, None],
        periodic=system.pbc,
        quantities="ijSd",
    )
    rows = np.concatenate([i[:, None], j[:, None], shifts], axis=1).astype(int)
    order = np.lexsort(rows.T[::-1])
    return rows[order], lengths[order]


@pytest.mark.parametrize("name", CELLS)
def test_edges_equal_an_independent_exact_list(name):
    with jax.enable_x64(True):
        system, start, cutoff = random_system(name)
        search = neighbors.plan(system, start, cutoff)
        table = jax.jit(neighbors.build, static_argnums=0)(search, system, on_device(start))
        rows, lengths = edges_of(start, table.graph)
    expected_rows, expected_lengths = expected_edges(system, start, cutoff)
    assert not table.overflow
    assert len(rows) > 20
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(lengths, expected_lengths, atol=1e-12)


def test_table_with_skin_stays_exact_until_rebuilt():
    with jax.enable_x64(True):
        system, start, cutoff = random_system("hexagonal")
        search = neighbors.plan(system, start, cutoff, skin=0.6, headroom=1.5)
        table = neighbors.build(search, system, on_device(start))
        rng = np.random.default_rng(1)
        for size, rebuilt in ((0.25, False), (0.8, True)):
            step = rng.normal(size=start.positions.shape)
            step *= size / np.linalg.norm(step, axis=-1).max()
            moved = on_device(moved_by(start, step))
            fresh = jax.jit(neighbors.update, static_argnums=0)(search, system, moved, table)
            assert bool(jnp.any(fresh.positions != table.positions)) == rebuilt
            lengths = edges_of(moved, fresh.graph)[1]
            expected = expected_edges(system, jax.tree.map(np.asarray, moved), cutoff)[1]
            np.testing.assert_allclose(np.sort(lengths[lengths < cutoff]), np.sort(expected), atol=1e-12)


def test_overflow_is_flagged_and_stays_flagged():
    system, start, cutoff = random_system("hexagonal")
    full = neighbors.plan(system, start, cutoff, skin=0.4)
    search = neighbors.Search(full.cutoff, full.skin, full.capacity // 2, full.translations)
    table = neighbors.build(search, system, on_device(start))
    assert table.overflow
    sparse = on_device(start._replace(positions=10 * start.positions))
    open_system = dataclasses.replace(system, pbc=(False,) * 3)  # there the table fits, but the block is still lost
    assert neighbors.update(search, open_system, sparse, table).overflow
    assert not neighbors.build(neighbors.grow(search, system, start.cell, 2.5), system, on_device(start)).overflow


@pytest.mark.parametrize(("name", "shrink"), [("hexagonal", 0.6), ("tilted", 0.7), ("tiny", 0.8)])
def test_a_cell_too_small_for_its_plan_is_flagged_and_the_grown_search_is_exact(name, shrink):
    with jax.enable_x64(True):
        system, start, cutoff = random_system(name)
        search = dataclasses.replace(neighbors.plan(system, start, cutoff, skin=0.2), capacity=800)
        small = start._replace(positions=shrink * start.positions, cell=shrink * start.cell)
        table = neighbors.build(search, system, on_device(small))
        assert table.overflow
        found = neighbors.build(neighbors.grow(search, system, small.cell), system, on_device(small))
        assert not found.overflow
        lengths = edges_of(small, found.graph)[1]
        np.testing.assert_allclose(lengths, expected_edges(system, small, search.radius)[1], atol=1e-12)


def test_a_changed_cell_makes_a_table_stale():
    system, start, cutoff = random_system("hexagonal")
    search = neighbors.plan(system, start, cutoff, skin=0.4, headroom=1.3)
    table = neighbors.build(search, system, on_device(start))
    assert not neighbors.stale(search, on_device(start), table)
    assert neighbors.stale(search, on_device(start._replace(cell=1.001 * start.cell)), table)


@pytest.mark.slow
def test_bins_too_thin_for_a_smaller_cell_are_flagged_and_given_up():
    rng, system = np.random.default_rng(0), state.make_system(np.full(900, 14), np.full(900, 28.0), True)
    start = at(rng.uniform(0, 22, (900, 3)), 22.0 * np.eye(3))
    with jax.enable_x64(True):
        search = dataclasses.replace(neighbors.plan(system, start, 4.0, skin=0.4), capacity=900, bin_capacity=400)
        assert search.bins
        small = start._replace(positions=0.7 * start.positions, cell=0.7 * start.cell)
        assert neighbors.build(search, system, on_device(small)).overflow
        grown = neighbors.grow(search, system, small.cell)
        assert not grown.bins
        lengths = edges_of(small, neighbors.build(grown, system, on_device(small)).graph)[1]
        np.testing.assert_allclose(np.sort(lengths), np.sort(expected_edges(system, small, search.radius)[1]))


@pytest.mark.parametrize("cutoff", [0.0, -1.0, np.nan])
def test_bad_cutoff_is_refused(cutoff):
    system, start, _ = random_system("open")
    with pytest.raises(ValueError, match="cutoff"):
        neighbors.plan(system, start, cutoff)


def test_cutoff_without_neighbours_is_refused():
    system = state.make_system([18, 18], [40.0, 40.0])
    with pytest.raises(ValueError, match="no atom has a neighbour"):
        neighbors.plan(system, at(np.array([[0, 0, 0], [9.0, 0, 0]]), np.eye(3)), 3.0)


LARGE = {
    "crystal": (np.diag([22.0, 25.0, 28.0]), (True, True, True)),
    "tilted": (np.array([[24.0, 0, 0], [9.0, 22.0, 0], [-8.0, 6.0, 26.0]]), (True, True, True)),
    "slab": (np.diag([22.0, 20.0, 40.0]), (True, True, False)),
    "open": (np.zeros((3, 3)), (False, False, False)),
}


@pytest.mark.parametrize("name", LARGE)
def test_bins_give_the_exact_edges_also_beyond_their_window(name):
    cell, pbc = LARGE[name]
    n_atoms, cutoff = 1500, 3.0
    system = state.make_system(np.full(n_atoms, 14), np.full(n_atoms, 28.0), pbc)
    rng = np.random.default_rng(2)
    size = cell if np.any(cell) else 25.0 * np.eye(3)
    positions = rng.uniform(-1, 1, (n_atoms, 3)) * np.where(pbc, 3.0, 1.0) @ size
    start = at(positions, state.make_cell(cell, pbc))
    with jax.enable_x64(True):
        search = neighbors.plan(system, start, cutoff, skin=0.4, headroom=1.3)
        assert search.bins
        build = jax.jit(neighbors.build, static_argnums=0)
        # The second set reaches beyond the window of open vectors.
        for moved in (positions, positions * 1.2 if name == "open" else positions + np.array([3.0, -2.0, 5.0])):
            moved = start._replace(positions=moved)
            table = build(search, system, on_device(moved))
            rows, lengths = edges_of(moved, table.graph)
            expected_rows, expected_lengths = expected_edges(system, moved, search.radius)
            assert not table.overflow
            assert len(rows) > n_atoms
            np.testing.assert_array_equal(rows, expected_rows)
            np.testing.assert_allclose(lengths, expected_lengths, atol=1e-12)
        crowded = start._replace(positions=positions * np.array([1.0, 1.0, 0.05]))
        assert build(search, system, on_device(crowded)).overflow


def test_selection_keeps_the_pairs_within_the_cutoff_and_flags_too_many():
    system, start, cutoff = random_system("hexagonal")
    with jax.enable_x64(True):
        search = neighbors.plan(system, start, cutoff, skin=1.0, headroom=1.2, select=True)
        assert search.selected < search.capacity
        table = neighbors.build(search, system, on_device(start))
        graph, too_many = neighbors.select(search, on_device(start), table)
        assert graph.mask.shape[1] == search.selected
        np.testing.assert_array_equal(edges_of(start, graph)[0], expected_edges(system, start, cutoff)[0])
        assert not too_many
        narrow = neighbors.Search(search.cutoff, search.skin, search.capacity, search.translations, selected=3)
        assert neighbors.select(narrow, on_device(start), table)[1]
