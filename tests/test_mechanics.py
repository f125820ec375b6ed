"""Temperatures, degrees of freedom and momenta."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ffmd_jax.core import matrices, mechanics, units
from ffmd_jax.core.state import Constraints, State, cast, check_state, is_isolated, make_cell, make_system


def system_of(periodic, n_atoms=5):
    masses = np.linspace(1.0, 30.0, n_atoms)
    species = np.where(np.arange(n_atoms) < 2, 1, 8)
    return make_system(species, masses, periodic)


def at(positions, velocities=None):
    positions = jnp.asarray(positions)
    return State(positions, jnp.zeros_like(positions) if velocities is None else velocities, 9.0 * jnp.eye(3))


@pytest.mark.parametrize("periodic", [True, False])
def test_temperatures_are_unbiased_for_all_and_for_each_element(periodic):
    system = system_of(periodic)
    start = at(np.random.default_rng(0).normal(size=(5, 3)))
    keys = jax.random.split(jax.random.key(0), 20_000)
    states = jax.vmap(lambda key: mechanics.maxwell_boltzmann(key, system, start, 300.0))(keys)
    total = np.asarray(jax.vmap(lambda s: mechanics.temperature(system, s))(states))
    parts = np.asarray(jax.vmap(lambda s: mechanics.temperature_by_species(system, s, (1, 8)))(states))
    for values in (total, parts[:, 0], parts[:, 1]):
        assert abs(values.mean() - 300.0) < 5 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize(
    ("periodic", "n_atoms", "expected"), [(True, 5, 12), (False, 5, 9), (False, 2, 1), (False, 3, 3)]
)
def test_degrees_of_freedom(periodic, n_atoms, expected):
    system = system_of(periodic, n_atoms)
    positions = jnp.asarray(np.random.default_rng(1).normal(size=(n_atoms, 3)))
    assert mechanics.degrees_of_freedom(system) == expected
    np.testing.assert_allclose(jnp.sum(mechanics.degrees_of_freedom_by_atom(system, positions)), expected, rtol=1e-10)


@pytest.mark.parametrize("periodic", [True, False])
def test_the_motion_of_the_whole_is_no_temperature(periodic):
    system = system_of(periodic)
    state = at(np.random.default_rng(2).normal(size=(5, 3)))
    state = mechanics.maxwell_boltzmann(jax.random.key(1), system, state, 300.0)
    spin = jnp.cross(jnp.array([0.02, -0.01, 0.03]), state.positions) if not periodic else 0.0
    moved = state._replace(velocities=state.velocities + jnp.array([0.1, 0.0, -0.2]) + spin)
    for measure in (mechanics.temperature, lambda *given: mechanics.temperature_by_species(*given, (1, 8))):
        np.testing.assert_allclose(measure(system, moved), measure(system, state), rtol=1e-9)


def test_linear_molecules_are_found_and_bend_freely():
    rng = np.random.default_rng(4)
    carbon_dioxide = np.array([[-1.16, 0, 0], [0, 0, 0], [1.16, 0, 0]])
    acetylene = np.array([[-1.66, 0, 0], [-0.6, 0, 0], [0.6, 0, 0], [1.66, 0, 0]])
    water = np.array([[0.76, 0.59, 0], [0, 0, 0], [-0.76, 0.59, 0]])
    isocyanic_acid = np.array([[-1.9, 0.9, 0], [-1.2, 0, 0], [0, 0, 0], [1.17, 0.1, 0]])
    # Off the line by as much as at 300 K: hydrogen of acetylene by 0.17 Å, carbon dioxide's carbon by 0.06 Å.
    for sites, linear, bent in ((carbon_dioxide, True, [0.02, 0.04, 0.02]), (acetylene, True, [0.12, 0.02, 0.02, 0.12]),
                                (water, False, [0.1] * 3), (isocyanic_acid, False, [0.1] * 4)):  # fmt: skip
        n_atoms = len(sites)
        free = make_system([6] * n_atoms, np.linspace(12, 16, n_atoms))
        system = mechanics.on_a_line(free, sites + np.array(bent)[:, None] * rng.normal(size=(50, *sites.shape)))
        assert system.linear == linear
        assert mechanics.degrees_of_freedom(system) == 3 * n_atoms - (5 if linear else 6)
    assert not mechanics.on_a_line(make_system([6] * 3, [12.0] * 3, True), carbon_dioxide).linear
    system = mechanics.on_a_line(make_system([8, 6, 8], [16.0, 12.0, 16.0]), carbon_dioxide)
    start = at(carbon_dioxide + 0.05 * rng.normal(size=(3, 3)))
    keys = jax.random.split(jax.random.key(0), 20_000)
    states = jax.vmap(lambda key: mechanics.maxwell_boltzmann(key, system, start, 300.0))(keys)
    kelvin = np.asarray(jax.vmap(lambda state: mechanics.temperature(system, state))(states))
    assert abs(kelvin.mean() - 300) < 5 * kelvin.std() / np.sqrt(len(kelvin))
    np.testing.assert_allclose(np.asarray(mechanics.degrees_of_freedom_by_atom(system, start.positions)).sum(), 4)


def test_fixed_atoms_and_constant_distances_take_their_degrees_of_freedom():
    free = system_of(True)
    held = dataclasses.replace(free, constraints=Constraints(np.zeros(5), np.arange(5) < 2))
    assert mechanics.degrees_of_freedom(held) == 9
    bonded = dataclasses.replace(free, constraints=Constraints(np.array([0.5, 0.5, 0, 0, 0])))
    assert mechanics.degrees_of_freedom(bonded) == 11
    state = mechanics.maxwell_boltzmann(jax.random.key(1), free, at(np.zeros((5, 3))), 300.0)
    for system in (held, bonded):
        np.testing.assert_allclose(
            np.asarray(mechanics.degrees_of_freedom_by_atom(system, state.positions)).sum(),
            mechanics.degrees_of_freedom(system),
        )
        with pytest.raises(ValueError, match=r"fixed|constrained"):
            mechanics.refuse_constraints(system)
    assert np.isnan(mechanics.temperature(make_system([18], [40.0], True), at(np.zeros((1, 3)))))


def test_kinetic_energies_of_frames_on_the_host_are_those_of_the_device():
    system, velocities = system_of(True), np.random.default_rng(3).normal(size=(4, 5, 3))
    on_host = mechanics.kinetic_energy(system, velocities)
    assert isinstance(on_host, np.ndarray) and on_host.shape == (4,)
    np.testing.assert_allclose(on_host, [mechanics.kinetic_energy(system, jnp.asarray(v)) for v in velocities])


def test_kinetic_energy_in_electronvolts():
    # ½ · 1 u · (1 Å/fs)² = ½ · 1.66054e-27 kg · 1e10 m²/s² = 51.82 eV
    system = make_system([1], [1.0])
    np.testing.assert_allclose(mechanics.kinetic_energy(system, jnp.array([[1.0, 0, 0]])), 51.8213, rtol=1e-5)
    np.testing.assert_allclose(units.BOLTZMANN, 8.617333e-5, rtol=1e-6)
    np.testing.assert_allclose(units.KCAL_PER_MOL_IN_EV, 0.0433641, rtol=1e-6)


def test_rotation_of_a_rigid_body_is_removed():
    system = system_of(False)
    positions = jnp.asarray(np.random.default_rng(2).normal(size=(5, 3)))
    spinning = at(positions, jnp.cross(jnp.array([0.01, -0.02, 0.03]), positions) + 0.1)
    assert np.abs(mechanics.zero_momenta(system, spinning).velocities).max() < 1e-12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [1.0]), "species"),
        (([0], [1.0]), "atomic numbers"),
        (([1], [-1.0]), "masses"),
    ],
)
def test_bad_systems_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_system(*arguments)


@pytest.mark.parametrize(
    ("given", "pbc"),
    [
        (True, (True, True, True)),
        (np.False_, (False, False, False)),
        (np.array([1, 0, 1]), (True, False, True)),
        ([False, True, False], (False, True, False)),
    ],
)
def test_periodic_directions_are_three_bools_that_programs_take_as_constants(given, pbc):
    system = make_system([1, 8], [1.0, 16.0], given)
    assert system.pbc == pbc and {type(one) for one in system.pbc} == {bool}
    assert is_isolated(system) == (pbc == (False, False, False))
    assert len(jax.tree.leaves(system)) == 2
    traced = []

    @jax.jit
    def mass(system):
        traced.append(system.pbc)
        return jnp.sum(system.masses)

    for one in (system, dataclasses.replace(system, masses=2 * system.masses)):
        mass(one)
    assert traced == [pbc]
    mass(dataclasses.replace(system, pbc=tuple(not one for one in pbc)))
    assert len(traced) == 2  # other directions are another program
    with pytest.raises(dataclasses.FrozenInstanceError):
        system.pbc = (True, True, True)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (np.zeros((3, 3)), "singular"),
        ([[1, 0, 0], [2, 0, 0], [0, 0, 1]], "singular"),
        (np.full((3, 3), np.nan), "NaN"),
        (np.eye(2), r"\[3, 3\]"),
        ([np.eye(3), np.zeros((3, 3))], "singular"),
    ],
)
def test_bad_cells_are_refused(cell, message):
    with pytest.raises(ValueError, match=message):
        make_cell(cell, True)


def test_open_directions_of_a_cell_are_completed_by_unit_vectors():
    np.testing.assert_allclose(np.abs(np.linalg.det(make_cell(None, False))), 1.0)
    slab = make_cell([[2.0, 0, 0], [1.0, 3.0, 0], [0, 0, 0]], (True, True, False))
    np.testing.assert_allclose(slab @ slab[2], [0, 0, 1], atol=1e-12)
    many = make_cell(np.stack([slab, 2 * slab]), (True, True, False))
    np.testing.assert_array_equal(many, [slab, 2 * slab])


def test_nan_states_are_refused_and_located():
    system = system_of(True)
    positions = np.zeros((3, 5, 3))
    positions[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match="atom 2 of frame 1"):
        check_state(system, State(positions, np.zeros((3, 5, 3)), np.tile(np.eye(3), (3, 1, 1))))
    with pytest.raises(ValueError, match=r"the cell must be finite and \[3, 3, 3\]"):
        check_state(system, State(np.zeros((3, 5, 3)), np.zeros((3, 5, 3)), np.eye(3)))


def test_cast_touches_floats_only():
    system = cast(system_of(True), jnp.float32)
    assert system.masses.dtype == jnp.float32
    assert system.species.dtype == np.int32


def test_inverses_in_closed_form_are_those_of_lapack():
    matrix = np.random.default_rng(3).normal(size=(50, 3, 3))
    np.testing.assert_allclose(matrices.determinant(matrix), np.linalg.det(matrix), rtol=1e-10)
    np.testing.assert_allclose(matrices.inverse(matrix), np.linalg.inv(matrix), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", ["many", "plane", "ball", "long", "line", "two", "one", "bent line"])
def test_the_inverse_of_the_inertia_leaves_out_the_axis_of_a_line(shape):
    rng = np.random.default_rng(5)
    line = np.array([1.0, -2.0, 0.5]) * np.arange(4.0)[:, None]
    positions = {
        "many": rng.normal(size=(6, 3)), "plane": rng.normal(size=(6, 3)) * [1, 1, 0], "ball": np.eye(3) - 1 / 3,
        "long": rng.normal(size=(30, 3)) * [30, 1, 1], "line": line, "two": line[:2], "one": line[:1],
        "bent line": line + 0.1 * rng.normal(size=(4, 3)),
    }[shape]  # fmt: skip
    n_atoms = len(positions)
    system = dataclasses.replace(make_system([6] * n_atoms, rng.uniform(1, 20, n_atoms), False),
                                 linear=shape == "bent line")  # fmt: skip
    tensor = mechanics.inertia(system, jnp.asarray(positions))
    if shape == "bent line":
        moments, axes = np.linalg.eigh(tensor)
        expected = (axes[:, 1:] / moments[1:]) @ axes[:, 1:].T
    else:
        expected = np.linalg.pinv(tensor, hermitian=True, rtol=1e-9)
    found = mechanics._inverse_inertia(system, tensor)
    np.testing.assert_allclose(found, expected, atol=1e-12, rtol=1e-8)
    slopes = jax.jacobian(lambda x: mechanics._inverse_inertia(system, mechanics.inertia(system, x)))(positions)
    assert np.isfinite(slopes).all()


def test_no_program_calls_lapack():
    """Two of its routines for batches in one program can wait for each other for ever."""
    sources = Path(mechanics.__file__).parents[1].rglob("*.py")
    lines = [line for path in sources for line in path.read_text().splitlines()]
    assert not [line for line in lines if re.search(r"jnp\.linalg\.(?!norm\b)|jax\.scipy\.linalg|lax\.linalg", line)]
    molecule = make_system([6] * 4, [12.0] * 4, False)
    states = State(*np.random.default_rng(0).normal(size=(2, 9, 4, 3)), np.broadcast_to(np.eye(3), (9, 3, 3)))
    lowered = jax.jit(jax.vmap(lambda state: mechanics.zero_momenta(molecule, state))).lower(states)
    assert "lapack" not in lowered.as_text() and "lapack" in jax.jit(jnp.linalg.eigh).lower(np.eye(3)).as_text()
