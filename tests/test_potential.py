"""Potentials: symmetries, derivatives, training on energies, forces and stresses, and what refuses them."""

import dataclasses
import functools
import json

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import fails, ffmd, perturbed

from ffmd_jax import api
from ffmd_jax.core import mechanics, neighbors, units
from ffmd_jax.core.state import State, take
from ffmd_jax.data import dataset_file, labelled
from ffmd_jax.dynamics import rollout
from ffmd_jax.formats import ase_files, stresses, trajectory
from ffmd_jax.interop import ase as ase_interop
from ffmd_jax.models import config, convolution, model_files, potential
from ffmd_jax.models import model as models
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import energies, production, systems
from ffmd_jax.training import potential_losses, settings

pytestmark = pytest.mark.usefixtures("restore_precision")

SIZES = config.Architecture.small(cutoff=4.0, channels=4, layers=3, radial_hidden=(8,), radial_intervals=16)
CONFIG = config.PotentialConfig((8, 14), (-3.0, -5.0), 1.5, 20.0, shortest_distance=1.0, architecture=SIZES)


@functools.lru_cache
def weights(seed=0):
    return potential.init(jax.random.key(seed), CONFIG, jnp.float64)


def graph_of(system, state, cutoff=4.0):
    return neighbors.build(neighbors.plan(system, state, cutoff), system, state).graph


@functools.lru_cache
def energy_function(block=None):
    if block is None:
        return potential.make_energy(CONFIG, weights())
    return potential.make_energy(CONFIG, weights(), functools.partial(convolution.edge_convolution, block=block))


def rotation(seed=0):
    matrix = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return -matrix if np.linalg.det(matrix) > 0 else matrix  # improper: rotates and inverts


def test_energy_forces_and_stress_turn_with_the_atoms_and_are_derivatives():
    system, state = perturbed()
    graph, turn = graph_of(system, state), rotation()
    evaluate = jax.jit(functools.partial(potential.energy_forces_stress, energy_function()))
    value, forces, stress = evaluate(system, state, graph)
    turned = State(state.positions @ turn + 3.0, state.velocities @ turn, state.cell @ turn)
    value_2, forces_2, stress_2 = evaluate(system, turned, graph)
    assert float(jnp.abs(forces).max()) > 0.01
    np.testing.assert_allclose(value_2, value, rtol=1e-12)
    np.testing.assert_allclose(forces_2, forces @ turn, atol=1e-10)
    tensor, tensor_2 = (np.asarray(s)[np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])] for s in (stress, stress_2))
    np.testing.assert_allclose(tensor_2, turn.T @ tensor @ turn, atol=1e-10)
    np.testing.assert_allclose(np.sum(forces, axis=0), 0, atol=1e-10)
    energy = jax.jit(lambda x: energy_function()(system, state._replace(positions=x), graph))
    shift = jnp.zeros((9, 3)).at[2, 1].set(1e-5)
    slope = (energy(state.positions + shift) - energy(state.positions - shift)) / 2e-5
    np.testing.assert_allclose(-slope, forces[2, 1], rtol=1e-6)
    np.testing.assert_allclose(energies.stress(energy_function(), 1e-5)(system, state, graph), stress, atol=1e-7)


def test_energies_of_elements_count_once_for_every_atom():
    system, state = perturbed()
    graph = graph_of(system, state)
    bare = potential.make_energy(dataclasses.replace(CONFIG, atomic_energies_eV=(0.0, 0.0)), weights())
    difference = energy_function()(system, state, graph) - bare(system, state, graph)
    np.testing.assert_allclose(difference, 6 * -3.0 + 3 * -5.0, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.kernel
def test_second_derivatives_of_the_kernel_are_those_of_xla():
    system, state = perturbed()
    graph = graph_of(system, state)

    def loss(block, params, positions):
        energy = potential.make_energy(
            CONFIG, params, convolution.edge_convolution if block is None else _blocked(block)
        )
        value, forces, stress = potential.energy_forces_stress(
            energy, system, state._replace(positions=positions), graph
        )
        return jnp.sum(jnp.sin(3 * forces)) + jnp.sum(stress**2) + value**2

    kernel, plain = (
        jax.jit(jax.value_and_grad(functools.partial(loss, block), (0, 1)))(weights(), state.positions)
        for block in (None, 9)
    )
    np.testing.assert_allclose(kernel[0], plain[0], rtol=1e-12)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain[1]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10 * scale), kernel[1], plain[1])


@functools.lru_cache
def _blocked(block):
    return functools.partial(convolution.edge_convolution, block=block)


def test_energy_is_smooth_where_a_pair_leaves_the_cutoff():
    system, _ = perturbed()
    system = dataclasses.replace(system, species=np.array([8, 14]), masses=np.ones(2), pbc=(False,) * 3)

    def at(distance):
        state = State(jnp.zeros((2, 3)).at[1, 0].set(distance), jnp.zeros((2, 3)), jnp.eye(3))
        return neighbors.build(search, system, state).graph, state

    search = dataclasses.replace(neighbors.plan(system, State(*[np.eye(3)[:2]] * 2, np.eye(3)), 4.0), capacity=4)
    values = []
    for distance in (3.9, 3.999, 4.0 - 1e-6, 4.0 + 1e-6, 4.5):
        graph, state = at(distance)
        values.append(potential.energy_forces_stress(energy_function(), system, state, graph)[:2])
    alone, forces = values[-1]
    assert abs(values[0][0] - alone) > 1e-9
    np.testing.assert_allclose(values[2][0], alone, atol=1e-12)
    np.testing.assert_allclose(np.abs(forces).max(), 0, atol=1e-15)
    pulls = [float(np.abs(force).max()) for _, force in values]
    assert pulls[0] > 1e-6 and pulls[1] < 1e-3 * pulls[0] and pulls[2] < 1e-8 * pulls[0]


ARGON = systems.argon((2, 2, 2))


@pytest.fixture(scope="module")
def argon_files(tmp_path_factory):
    """Three runs of argon at 60 K with forces and stresses, at two volumes, and their dataset."""
    folder = tmp_path_factory.mktemp("argon")
    api.reference(
        "argon", folder / "a.h5", temperature_K=60.0, length_ps=4.0, frame_fs=80.0, runs=2, repeat=(2, 2, 2),
        volumes=(1.0, 1.06), forces=True, equilibrate_ps=1.0, spacing_ps=0.2, progress=False,
    )  # fmt: skip
    files = [folder / f"a_v{volume}_{i}.h5" for volume in ("1", "1.06") for i in (0, 1)]
    api.make_dataset([files[0], files[2], files[3], files[1]], 80.0, out=folder / "data.h5", progress=False)
    return folder, files


@pytest.mark.slow
def test_reference_runs_store_the_stress_of_their_volume(argon_files):
    run = trajectory.read(argon_files[1][2])
    stress = stresses.from_observables(run.observables)
    assert stress.shape == (50, 6) and mechanics.volume(np.asarray(run.frames.cell[0])) > 1.059 * 10.8**3
    frame = State(*(jnp.asarray(values[7]) for values in run.frames))
    prepared = systems.get("argon", structure=(run.system, frame))
    graph = graph_of(run.system, frame, ARGON.cutoff)
    # −dE/dV at constant fractional coordinates is minus the mean of the diagonal.
    energy = [prepared.energy(run.system, mechanics.strained(frame, h * jnp.eye(3)), graph) for h in (1e-4, -1e-4)]
    slope = (energy[0] - energy[1]) / (2e-4 * 3 * mechanics.volume(frame.cell))
    np.testing.assert_allclose(stress[7, :3].mean(), slope, rtol=1e-3, atol=1e-7)  # positions are stored in float32


def test_labelled_frames_are_those_of_the_dataset_without_the_constants(argon_files):
    data = api.make_dataset([argon_files[1][0]], 80.0, progress=False)
    (sets,) = labelled.form(data)
    assert sets.known == ("energies", "forces", "stresses")
    run = trajectory.read(argon_files[1][0])
    energies_there = run.observables["potential_energy_eV"][:40]
    np.testing.assert_allclose(sets.train.energies, energies_there - 32 * sets.atomic_energies_eV[0], atol=1e-6)
    np.testing.assert_allclose(np.mean(sets.train.energies), 0, atol=1e-6)
    without = dataclasses.replace(
        data, groups=(data.groups[0]._replace(runs=tuple(r._replace(forces=None) for r in data.groups[0].runs)),)
    )
    assert labelled.form(without)[0].known == ("energies", "stresses")
    none = dataclasses.replace(
        data,
        groups=(data.groups[0]._replace(runs=tuple(r._replace(potential_energies=None) for r in data.groups[0].runs)),),
    )
    with pytest.raises(ValueError, match="not all runs of the dataset have energies"):
        labelled.form(none)


@pytest.fixture(scope="module")
def trained(argon_files):
    """A potential of argon, trained by the command for a few seconds."""
    out = argon_files[0] / "potential"
    ffmd(
        "train", argon_files[0] / "data.h5", "--kind", "potential", "--out", out, "--epochs", 12,
        "--config.channels", 4, "--config.layers", 2, "--config.radial-hidden", 16, "--config.lmax", 1,
        "--batch-size", 2, "--learning-rate", 0.05, "--config.cutoff", 6.5,
    )  # fmt: skip
    return out


@pytest.mark.slow
def test_a_potential_learns_energies_forces_and_stresses(trained, argon_files, capsys):
    capsys.readouterr()
    ffmd("evaluate", trained, argon_files[0] / "data.h5", "--json")
    errors = json.loads(capsys.readouterr().out)
    assert errors["force_mae_relative_percent"] < 25 and errors["energy_mae_meV_per_atom"] < 1.0
    assert {"force_mae_meV_per_A", "stress_mae_GPa", "force_mae_relative_percent_Ar"} <= errors.keys()
    found = api.evaluate(trained, argon_files[1][1])  # the test run, all of whose frames count
    assert isinstance(found, potential_losses.PotentialErrors)
    np.testing.assert_allclose(found.force_percent, errors["force_mae_relative_percent"], rtol=0.2)
    # By hand, from the energy function alone.
    run, model = trajectory.read(argon_files[1][1]), api.load(trained)
    energy = models.energy(model, jnp.float64)
    search = neighbors.plan(run.system, run.frames, 6.5)

    @jax.jit
    def evaluate(state):
        return potential.energy_forces_stress(
            energy, run.system, state, neighbors.build(search, run.system, state).graph
        )

    values = [evaluate(take(run.frames, i)) for i in range(0, 50, 10)]
    assert "potential: energy, forces, stress" in repr(model)
    exact = run.observables["potential_energy_eV"][::10]
    by_hand = np.abs(np.array([value for value, _, _ in values]) - exact).mean() / 32 * 1e3
    np.testing.assert_allclose(by_hand, found.energy_mae_meV_per_atom, rtol=1.0)
    pressures = np.array([-np.mean(stress[:3]) for _, _, stress in values])
    there = -stresses.from_observables(run.observables)[::10, :3].mean(axis=1)
    assert np.abs(pressures - there).mean() * units.EV_PER_A3_IN_GPA < 0.05


@pytest.mark.slow
def test_energies_alone_are_enough_to_train_on(argon_files, tmp_path):
    data = dataset_file.read(argon_files[0] / "data.h5")
    bare = dataclasses.replace(
        data,
        groups=(
            data.groups[0]._replace(runs=tuple(r._replace(forces=None, stresses=None) for r in data.groups[0].runs)),
        ),
    )
    sizes = config.Architecture.small(cutoff=6.5, channels=4, layers=1, lmax=1, radial_hidden=(8,))
    how = settings.Training(epochs=30, energy_weight=100.0)
    made = api.train(bare, tmp_path / "m", kind="potential", architecture=sizes, training=how, progress=False)
    errors = api.evaluate(made, bare)
    assert set(errors.as_dict()) == {"energy_mae_meV_per_atom"}
    sets = labelled.form(bare, made.config.elements, made.config.atomic_energies_eV)[0]
    spread = 1e3 * np.abs(sets.test.energies - np.mean(sets.train.energies)).mean() / 32
    assert errors.energy_mae_meV_per_atom < 0.7 * spread


@pytest.mark.slow
def test_kinds_are_not_mixed_up(trained, argon_files, tmp_path, capsys):
    data = argon_files[0] / "data.h5"
    assert "is a potential: --kind propagator cannot start from it" in fails(
        capsys, "train", data, "--out", tmp_path / "m", "--init", trained
    )
    assert "a potential has no time step" in fails(
        capsys, "train", data, "--out", tmp_path / "m", "--kind", "potential", "--time-step", 80
    )
    assert not (tmp_path / "m").exists()
    message = fails(capsys, "rollout", trained, "--start", argon_files[1][0], "--out", tmp_path / "r.h5", "--steps", 2)
    assert "is a potential, not a propagator" in message and not (tmp_path / "r.h5").exists()
    assert "only the step of a propagator" in fails(capsys, "evaluate", trained, data, "--reversible")
    assert "is a potential, not a propagator" in fails(capsys, "export-trajcast", trained, "--out", tmp_path / "m.npz")
    ffmd("info", trained)
    assert "energies of the elements" in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_folder_may_hold_its_potential(trained, tmp_path):
    sizes = config.Architecture.small(cutoff=6.5, channels=4, layers=1, lmax=1, radial_hidden=(4,), speed_hidden=(4,))
    step = config.ModelConfig((18,), (39.948,), 40.0, 0.04, 1e-3, 0.01, 12.0, shortest_distance=3.0, architecture=sizes)
    from ffmd_jax.models import trajcast

    folder = tmp_path / "m"
    model_files.save(folder, Model(step, trajcast.init(jax.random.key(0), step)))
    assert model_files.load(folder).potential is None
    own = model_files.load(trained)
    model_files.save(folder / "potential", own)
    found = model_files.load(folder).potential
    assert found is not None and found.config == own.config
    with pytest.raises(ValueError, match="holds Ar, which the potential does not know"):
        models.check_potential(CONFIG, ARGON.system)


@pytest.mark.slow
def test_reference_md_runs_with_a_trained_potential(trained):
    """Energy is conserved: the forces are the derivative of the energy, and the neighbour table loses no pair."""
    start = mechanics.maxwell_boltzmann(jax.random.key(0), ARGON.system, ARGON.state, 60.0)
    prepared = production.of_model(api.load(trained), ARGON.system, ARGON.state, dt=4.0)
    run = rollout.gather(production.run(prepared, start, n_steps=200, every=10, key=jax.random.key(1)))
    total, kinetic = run.observables["total_energy_eV"], mechanics.kinetic_energy(ARGON.system, run.frames.velocities)
    assert total.std() < 0.02 * kinetic.mean()


@pytest.mark.slow
def test_the_ase_calculator_gives_energy_forces_and_stress(trained, argon_files, capsys):
    """Also where atoms move together, the cell shrinks, and a relaxation by ASE follows the forces."""
    model = api.load(trained)
    atoms = ase_files.to_atoms(ARGON.system, ARGON.state)
    atoms.rattle(0.05, seed=1)
    atoms.calc = ase_interop.Potential(model)
    numbers, forces = atoms.get_potential_energy(), atoms.get_forces()
    system, state = ase_files.from_atoms(atoms)
    energy = models.energy(model, jnp.float64)
    expected = potential.energy_forces_stress(energy, system, state, graph_of(system, state, 6.5))
    np.testing.assert_allclose(numbers, expected[0], rtol=1e-10)
    np.testing.assert_allclose(forces, expected[1], atol=1e-8)
    np.testing.assert_allclose(atoms.get_stress(), expected[2], atol=1e-10)
    atoms.set_cell(0.8 * atoms.cell.array, scale_atoms=True)
    system, state = ase_files.from_atoms(atoms)
    squeezed = energy(system, state, graph_of(system, state, 6.5))
    np.testing.assert_allclose(atoms.get_potential_energy(), squeezed, rtol=1e-10)
    atoms.set_cell(atoms.cell.array / 0.8, scale_atoms=True)
    ase.io.write(argon_files[0] / "s.extxyz", atoms)
    capsys.readouterr()
    ffmd("energy", trained, argon_files[0] / "s.extxyz", "--json")
    printed = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(printed["energy_eV"], numbers, rtol=1e-6)
    np.testing.assert_allclose(printed["stress_GPa"], units.EV_PER_A3_IN_GPA * expected[2], atol=1e-4)
    with pytest.raises(ValueError, match="is a propagator without a potential"):
        ase_interop.Potential("paracetamol")
    atoms.numbers[0] = 10
    with pytest.raises(ValueError, match="holds Ne, which the potential does not know"):
        atoms.get_potential_energy()
