"""Parity with the reference network, on numbers made by it, and import and export of its weights."""

import dataclasses
import functools
import json
import re
import types
from pathlib import Path

import ase.io
import ase.units
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from ase.data import chemical_symbols
from conftest import fails, perturbed
from plain_trajcast import plain_network

from ffmd_jax.__main__ import main
from ffmd_jax.core import conservation, json_records, mechanics, neighbors
from ffmd_jax.core import state as states
from ffmd_jax.formats import trajectory
from ffmd_jax.interop import trajcast as interop
from ffmd_jax.models import config as configs
from ffmd_jax.models import layers, model, model_files, radial_tables, trajcast

DATA = Path(__file__).parent / "data"
NAMES = ["benzene_l2", "quartz_l1"]
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}


@functools.lru_cache
def golden(name):
    """The reference's numbers: its configuration, its state dict, our import of both, and the start."""
    data = dict(np.load(DATA / f"{name}.npz"))
    reference_config = json.loads(str(data["config"]))
    state_dict = interop.read_weights(DATA / f"{name}.npz")
    config, params = interop.import_model(reference_config, state_dict, data["elements"].tolist(), 7.0)
    system = states.make_system(data["atomic_numbers"], data["masses"], data["pbc"])
    start = states.State(data["positions"], data["velocities"], states.make_cell(data["cell"], data["pbc"]))
    return types.SimpleNamespace(**locals())


def error(found, expected):
    """Largest deviation relative to the largest number."""
    return np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max()


def modulo_lattice(difference, cell):
    fractional = difference @ np.linalg.inv(cell)
    return (fractional - np.round(fractional)) @ cell


def as_torch(features):
    """Features in the layout of the reference: irreps by (l, parity), each channel by channel."""
    blocks = [np.swapaxes(features[irrep], 1, 2) for irrep in layers.ordered(features)]
    return np.concatenate([block.reshape(len(block), -1) for block in blocks], axis=-1)


def compiled(config, search, system):
    """One step in which nothing is hidden: (params, state) -> (next state, features, number of edges)."""
    network, correct = trajcast.TrajCast(config), trajcast.correction(config)

    def step(params, state):
        graph = neighbors.build(search, system, state).graph
        output, inner = network.apply({"params": params}, system, state, graph, capture_intermediates=True)
        moved = state.positions + config.displacement_rms * output[:, 0]
        after = correct(system, state, states.State(moved, config.velocity_rms * output[:, 1], state.cell))
        return after, inner["intermediates"], graph.mask.sum()

    return jax.jit(step, compiler_options={"xla_backend_optimization_level": 0})  # compiles faster


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("name", NAMES)
def test_features_target_and_three_steps_are_those_of_the_reference(name, precision):
    gold = golden(name)
    config, data = gold.config, gold.data
    system, state = states.cast(model.isolate(config, gold.system, gold.start), jnp.dtype(precision))
    search = neighbors.plan(gold.system, gold.start, config.architecture.cutoff)
    step = compiled(config, search, system)
    names = {"initial": "LinearInit", "compress": "LinearCompression", "readout": "LinearReadOut"}
    names |= {f"layer{i}": f"mp_layer_{i}" for i in range(config.architecture.layers)}
    for k in range(3):
        state, features, n_edges = step(states.cast(gold.params, jnp.dtype(precision)), state)
        positions = np.asarray(state.positions, np.float64)
        wrong = modulo_lattice(positions - data["positions_steps"][k], data["cell"])
        assert np.abs(wrong).max() < TOLERANCE[precision] * np.abs(data["positions_steps"][k]).max()
        assert error(state.velocities, data["velocities_steps"][k]) < TOLERANCE[precision]
        if k == 0:
            assert n_edges == data["edge_count"]
            for ours, theirs in names.items():
                found = as_torch(features[ours]["__call__"][0])
                assert error(found, data[f"intermediate/{theirs}"]) < TOLERANCE[precision], theirs
            # In float64 also after a float32 network: the difference of two rounded positions has few digits.
            output = np.asarray(features["readout"]["__call__"][0][layers.VECTOR], np.float64)
            moved = gold.start.positions + config.displacement_rms * output[..., 0]
            after = states.State(moved, config.velocity_rms * output[..., 1], gold.start.cell)
            after = trajcast.correction(config)(states.cast(system, jnp.float64), gold.start, after)
            moved = (after.positions - gold.start.positions) / config.displacement_rms
            target = np.concatenate([moved, after.velocities / config.velocity_rms], axis=-1)
            assert error(target, data["target_normalised_step1"]) < TOLERANCE[precision]


def write_start(path, gold, column="momenta"):
    atoms = ase.Atoms(gold.data["atomic_numbers"], gold.start.positions, cell=gold.data["cell"], pbc=True)
    atoms.set_masses(gold.data["masses"])
    if column == "momenta":
        atoms.set_velocities(gold.start.velocities / ase.units.fs)
    else:
        atoms.arrays["velocities"] = gold.start.velocities
    ase.io.write(path, atoms)


# ASE writes eight decimals in extxyz, so that the start is not quite the same.
@pytest.mark.parametrize(
    ("name", "start", "tolerance"), [("benzene_l2", "start.extxyz", 1e-5), ("quartz_l1", "start.traj", 1e-9)]
)
def test_commands_give_the_steps_of_the_reference(name, start, tolerance, tmp_path, monkeypatch):
    gold = golden(name)
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump({"model": gold.reference_config}))
    elements = [chemical_symbols[z] for z in gold.data["elements"]]
    main(["import-trajcast", "--config", "config.yaml", "--weights", str(DATA / f"{name}.npz"), "--elements",
          *elements, "--time-step", "7", "--out", "model"])  # fmt: skip
    write_start(start, gold)
    options = "--ensemble nve --steps 3 --every 1 --float64 --no-tables --no-monitors"  # the weights are random
    main(f"rollout model --start {start} {options} --out run.h5".split())
    with h5py.File("run.h5") as file:
        particles = file["particles/all"]
        positions, velocities = particles["position/value"][()], particles["velocity/value"][()]
    assert np.abs(modulo_lattice(positions - gold.data["positions_steps"], gold.data["cell"])).max() < tolerance
    assert error(velocities, gold.data["velocities_steps"]) < tolerance


@pytest.mark.parametrize("column", ["momenta", "velocities"])
def test_start_files_give_velocities_in_angstrom_per_fs(column, tmp_path):
    gold = golden("quartz_l1")
    write_start(tmp_path / "start.extxyz", gold, column)
    _, start = trajectory.read_start(tmp_path / "start.extxyz")
    np.testing.assert_allclose(start.velocities, gold.start.velocities, atol=1e-8)


def test_molecule_in_a_box_is_isolated_even_across_the_boundary():
    gold = golden("benzene_l2")
    system, whole = model.isolate(gold.config, gold.system, gold.start)
    assert states.is_isolated(system)
    np.testing.assert_array_equal(whole.positions, gold.start.positions)
    cut = gold.start._replace(positions=(gold.start.positions + np.array([10.0, 0.0, 9.0])) % 20.0)
    _, joined = model.isolate(gold.config, gold.system, cut)
    np.testing.assert_allclose(joined.positions - joined.positions[0], whole.positions - whole.positions[0], atol=1e-12)
    with pytest.raises(ValueError, match="see periodic images"):
        model.isolate(gold.config, gold.system, gold.start._replace(cell=np.diag([20.0, 20.0, 4.5])))
    system, _ = model.isolate(golden("quartz_l1").config, gold.system, gold.start)
    assert system.pbc == (True, True, True)


def test_fixed_momenta_are_imposed_and_move_the_centre_of_mass():
    system, before = perturbed(periodic=False)
    rng = np.random.default_rng(5)
    moved = before.positions + rng.normal(size=(9, 3))
    after = states.State(moved, jnp.asarray(rng.normal(size=(9, 3))), before.cell)
    momentum, spin = (0.1, -0.2, 0.3), (1.0, 0.5, -0.7)
    fixed = conservation.momenta(10.0, momentum, spin)(system, before, after)
    np.testing.assert_allclose(mechanics.linear_momentum(system, fixed.velocities), momentum, atol=1e-12)
    np.testing.assert_allclose(mechanics.angular_momentum(system, fixed), spin, atol=1e-12)
    moved = mechanics.center_of_mass(system, fixed.positions - before.positions)
    np.testing.assert_allclose(moved, 10.0 * np.array(momentum) / system.masses.sum(), atol=1e-12)
    assert np.abs(mechanics.linear_momentum(system, before.velocities) - np.array(momentum)).max() > 0.01


def plain_from_state(options, weights, elements, system, state):
    search = neighbors.plan(system, state, options["edge_cutoff"])
    graph = jax.jit(lambda state: neighbors.build(search, system, state).graph)(state)
    vectors = np.asarray(neighbors.vectors(state, graph))
    receivers, column = np.nonzero(graph.mask)
    one_hot = (np.asarray(system.species)[:, None] == np.asarray(elements)).astype(float)
    velocities = np.asarray(state.velocities)
    senders = np.asarray(graph.senders)[receivers, column]
    return plain_network(options, weights, one_hot, vectors[receivers, column], receivers, senders, velocities), graph


@pytest.mark.parametrize("name", NAMES)
def test_plain_recomputation_is_the_reference(name):
    gold = golden(name)
    output, _ = plain_from_state(gold.reference_config, gold.state_dict, gold.data["elements"], gold.system, gold.start)
    assert error(output.reshape(len(output), 6), gold.data["intermediate/LinearReadOut"]) < 1e-12


SETTINGS = {
    "lmax1": {
        "lmax": 1,
        "channels": 5,
        "layers": 3,
        "radial_basis": 5,
        "radial_hidden": (7,),
        "cutoff_power": 3,
    },
    "lmax2": {"lmax": 2, "channels": 4, "layers": 1, "speed_basis": 6, "speed_hidden": ()},
    "lmax3": {"lmax": 3, "channels": 6, "layers": 1, "radial_hidden": (7, 5, 6), "speed_hidden": (4, 9)},
}


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_other_settings_agree_with_the_plain_recomputation_and_survive_export(setting):
    sizes = {"cutoff": 3.0, "radial_hidden": (8,), "speed_hidden": (8,), **SETTINGS[setting]}
    config = configs.ModelConfig((1, 8, 14), (1.008, 15.999, 28.085), 10.0, 0.03, 0.004, 0.03, 20.0,
                                 architecture=configs.Architecture(radial_intervals=0, **sizes))  # fmt: skip
    system, state = perturbed()
    rng, shapes = np.random.default_rng(0), jax.eval_shape(lambda: trajcast.init(jax.random.key(0), config))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    options, weights = interop.export_model(config, params)
    again, params_again = interop.import_model(options, weights, config.elements, 10.0, config.masses)
    assert again == config
    assert json_records.from_json(json_records.to_json(config), configs.ModelConfig) == config
    jax.tree.map(np.testing.assert_array_equal, params_again, params)
    expected, graph = plain_from_state(options, weights, config.elements, system, state)
    network = jax.jit(trajcast.TrajCast(config).apply, compiler_options={"xla_backend_optimization_level": 0})
    assert error(network({"params": params}, system, state, graph), expected) < 1e-12


# Options that the TrajCast code does not have, each with a value that makes another network.
FOREIGN = {
    "bounded_gates": True,
    "natural_parity": True,
    "velocity_input": True,
    "radial_intervals": 16,
    "harmonics_lmax": 3,
    "speed_limits": (0.02, 0.03),
}


def random_model(seed):
    """Any configuration with any weights, most with an option or two that the TrajCast code does not have."""
    rng = np.random.default_rng(seed)
    pick = lambda *values: values[rng.integers(len(values))]  # noqa: E731
    foreign = {name: FOREIGN[name] for name in rng.permutation(list(FOREIGN))[: pick(0, 0, 1, 1, 2)]}
    lmax, angular = pick(1, 2), pick(False, True)
    sizes = {"cutoff": 3.1, "lmax": lmax, "channels": pick(4, 5), "layers": pick(1, 2), "radial_basis": pick(1, 3),
             "radial_hidden": pick((), (3, 2)), "speed_hidden": pick((), (2,)), "cutoff_power": pick(2, 5),
             "speed_basis": pick(1, 2), "harmonics_lmax": pick(-1, lmax), "radial_intervals": 0}  # fmt: skip
    sizes |= {name: value for name, value in foreign.items() if name != "speed_limits"}
    scales = rng.uniform(0.001, 0.1, 4).tolist()
    config = configs.ModelConfig(
        (8, 14), pick((15.999, 28.085), (17.0, 30.1)), rng.uniform(5, 30), *scales, angular,
        speed_limits=foreign.get("speed_limits", ()), shortest_distance=pick(0.0, 0.8),
        architecture=configs.Architecture(**sizes), net_linear_momentum=pick(None, (0.0, 0.0, 0.0), (0.1, -0.2, 0.3)),
        net_angular_momentum=pick(None, (0.3, 0.0, 1 / 3)) if angular else None,
    )  # fmt: skip
    dtype = pick(np.float32, np.float64)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(dtype), trajcast.shapes(config))
    return foreign, config, params


@pytest.mark.parametrize("seed", range(24))
def test_export_is_the_inverse_of_import_or_names_what_the_other_code_lacks(seed):
    foreign, config, params = random_model(seed)
    if foreign:
        with pytest.raises(ValueError, match=r"the TrajCast code has no [^\n]+$") as refused:
            interop.export_model(config, params)
        assert set(re.findall(r"(\w+) = ", str(refused.value))) == set(foreign)
        return
    options, weights = interop.export_model(config, params)
    options = json.loads(json.dumps(options))
    again, params_again = interop.import_model(options, weights, config.elements, config.time_step_fs, config.masses)
    sizes = dataclasses.replace(again.architecture, harmonics_lmax=config.architecture.harmonics_lmax)
    known = dataclasses.replace(again, shortest_distance=config.shortest_distance)  # of the data, of no weight
    assert dataclasses.replace(known, architecture=sizes) == config
    assert sizes.lmax_harmonics == again.architecture.lmax_harmonics
    jax.tree.map(np.testing.assert_array_equal, params_again, params)
    assert {x.dtype for x in jax.tree.leaves(params_again)} == {x.dtype for x in jax.tree.leaves(params)}


@pytest.mark.parametrize("name", model_files.pretrained())
def test_shipped_models_are_not_exported_as_other_networks(name, tmp_path, capsys):
    line = fails(capsys, "export-trajcast", name, "--out", tmp_path / "weights.npz")
    assert "bounded_gates" in line and "speed_limits" in line
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_fit_are_not_exported():
    gold = golden("quartz_l1")
    with pytest.raises(ValueError, match="do not fit"):
        interop.export_model(gold.config, radial_tables.tabulate(gold.config, gold.params))


@pytest.mark.parametrize("container", ["plain.npz", "prefixed.npz", "float32.npz"])
def test_npz_files_are_read_in_their_precision(container, tmp_path):
    gold = golden("quartz_l1")
    prefix = "state_dict/" if container.startswith("prefixed") else ""
    dtype = np.float32 if container.startswith("float32") else np.float64
    stored = {prefix + name: x.astype(dtype) for name, x in gold.state_dict.items()}
    np.savez(tmp_path / container, **stored)
    read = interop.read_weights(tmp_path / container)
    config, params = interop.import_model(gold.reference_config, read, ["O", "Si"], 7.0)
    assert config.displacement_rms == pytest.approx(gold.config.displacement_rms, rel=1e-7)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))
    model_files.save(tmp_path / "model", model.Model(config, params))
    again = model_files.load(tmp_path / "model").params
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(again))


@pytest.mark.parametrize("wrapped", [False, True])
def test_torch_files_are_read(wrapped, tmp_path):
    torch = pytest.importorskip("torch")
    gold = golden("quartz_l1")
    content = {name: torch.tensor(values) for name, values in gold.state_dict.items()}
    content = {"epoch": 3, "model_state_dict": content} if wrapped else content
    torch.save(content, tmp_path / "model.pt")
    read = interop.read_weights(tmp_path / "model.pt")
    assert read.keys() == gold.state_dict.keys()
    jax.tree.map(np.testing.assert_array_equal, read, gold.state_dict)


def test_commands_export_what_they_import(tmp_path, monkeypatch):
    gold = golden("benzene_l2")
    monkeypatch.chdir(tmp_path)
    model_files.save(Path("model"), model.Model(gold.config, gold.params))
    main(["export-trajcast", "model", "--out", "weights.npz"])
    assert json.loads(Path("weights.json").read_text()) == gold.reference_config
    with np.load("weights.npz") as file:
        assert set(file.files) == gold.state_dict.keys()
        for name, values in gold.state_dict.items():
            np.testing.assert_allclose(file[name], values, rtol=0, atol=1e-15 * ("_w3j_" in name))


LAYER, LINEAR = "_int_out.mp_layer_1.", "_int_out.LinearInit.linear.weight"
BAD = {
    "missing key": ("options.pop('edge_cutoff')", "lacks edge_cutoff"),
    "missing MLP": ("options.pop('vel_mlp_kwargs')", "lacks vel_mlp_kwargs"),
    "missing flag": ("options.pop('conserve_ang_mom')", "conserve_ang_mom"),
    "no number": ("options['vel_max'] = 'fast'", "vel_max must be a number, not 'fast'"),
    "unknown option": ("options['dropout'] = 0.1", "dropout = 0.1"),
    "activation": (
        "options['edge_mlp_kwargs']['activation'] = 'relu'",
        "edge_mlp_kwargs.activation = 'relu'",
    ),
    "gate": ("options['nl_gate_kwargs']['activation_scalars']['o'] = 'abs'", "activation_scalars.o = 'abs'"),
    "other class": ("options['model_type'] = 'TrajCastModel'", "only EfficientTrajCastModel"),
    "cueq": ("options['o3_backend'] = 'cueq'", "only weights of the e3nn backend"),
    "cueq weights": (f"weights['{LINEAR}'] = weights['{LINEAR}'][None]", r"LinearInit.*\(1, 88\).*cueq"),
    "other model": (
        "weights = {'rms_targets': np.ones(2), 'conv.weight': np.ones(3)}",
        "no weights of an EfficientTraj",
    ),
    "element count": ("elements = ['O', 'Al', 'Si']", "2 elements .* 3 are given"),
    "element order": ("elements = ['Si', 'O']", "must ascend.* O Si"),
    "no element": ("elements = ['O', 'Sx']", "no chemical element: Sx"),
    "no scales": ("weights.pop('rms_targets')", "lack rms_targets"),
    "means": ("weights['mean_targets'] = np.array([0.0, 1e-3])", "mean_targets"),
    "missing weight": (f"weights.pop('{LAYER}tp_resnet.weight')", "missing: .*mp_layer_1.tp_resnet.weight$"),
    "left-over weight": (
        "weights['_int_out.mp_layer_2.edge_mlp.layer0.weight'] = np.ones(3)",
        "left over: .*mp_layer_2",
    ),
    "shape": ("options['num_hidden_channels'] = 12", "num_hidden_channels is 8 in the weights, but 12"),
    "weight shape": (
        f"weights['{LAYER}edge_mlp.layer0.weight'] = np.ones((8, 15))",
        r"\(8, 15\), .* need \(8, 16\)",
    ),
    "not finite": (f"weights['{LINEAR}'] = weights['{LINEAR}'] * np.nan", "NaN"),
    "integers": (f"weights['{LINEAR}'] = weights['{LINEAR}'].astype(int)", "int64; float32 and float64"),
    "other momentum": ("options['net_lin_mom'] = [0.0, 1.0, 0.0]", "net_lin_mom"),
    "masses": ("masses = ['16']", "1 masses are given for 2 elements"),
    "no mapping": ("options = [1, 2]", "mapping of option to value"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_in_one_line_and_leaves_nothing(case, tmp_path, monkeypatch, capsys):
    change, message = BAD[case]
    gold = golden("quartz_l1")
    given = {"options": json.loads(json.dumps(gold.reference_config)), "weights": dict(gold.state_dict)}
    given |= {"elements": ["O", "Si"], "masses": [], "np": np}
    exec(change, given)
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text(json.dumps(given["options"]))
    np.savez("weights.npz", **given["weights"])
    masses = ["--masses", *given["masses"]] if given["masses"] else []
    with pytest.raises(SystemExit) as stop:
        main(["import-trajcast", "--config", "config.json", "--weights", "weights.npz", "--elements",
              *given["elements"], "--time-step", "7", "--out", "model", *masses])  # fmt: skip
    assert stop.value.code == 1
    line = capsys.readouterr().err.strip()
    assert re.search(message, line) and "\n" not in line and "unexpected" not in line, line
    assert not Path("model").exists()
