"""Screening: molecules from SMILES, conformers from frames, tables."""

import contextlib
import csv
import json
import os
import signal
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import fails, ffmd

from ffmd_jax.analysis import torsions
from ffmd_jax.core import mechanics, processes, units
from ffmd_jax.core.state import State, make_system
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics.ensemble import NVT
from ffmd_jax.formats import trajectory
from ffmd_jax.models import model_files
from ffmd_jax.reference_md import teachers
from ffmd_jax.screening import beside, conformers, description, molecules, page, pools, runs, screen, shapes

pytest.importorskip("rdkit")


@pytest.fixture(scope="module")
def model():
    return model_files.load("paracetamol")


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("C1CC", "invalid SMILES"),
        ("CC(=O)[O-]", "has a charge of -1"),
        ("C[CH2]", "is a radical"),
        ("CCl", "holds Cl; the model knows H C N O"),
        ("C.O", "several molecules"),
        ("[2H]C", "names isotopes"),
        ("C" * 80, "242 atoms are more than 200"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_reason(model, smiles, reason):
    with pytest.raises(ValueError, match=reason):
        molecules.prepare(molecules.Entry("x", smiles), model.config, 2)


def test_starts_are_structures_of_the_molecule(model):
    found = molecules.prepare(molecules.Entry("propanol", "CCCO"), model.config, 3)
    assert found.starts.shape == (3, 12, 3) and found.smiles == "CCCO"
    assert sorted(found.system.species.tolist()) == [1] * 8 + [6] * 3 + [8]
    for start in found.starts:
        distances = np.linalg.norm(start[:, None] - start, axis=-1)[np.triu_indices(12, 1)]
        assert 0.9 < distances.min() < 1.0  # O–H
    again = molecules.prepare(molecules.Entry("propanol", "CCCO"), model.config, 3)
    np.testing.assert_array_equal(found.starts, again.starts)
    water = molecules.Partner("water", np.array([8, 1, 1]), np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]))
    both = molecules.prepare(molecules.Entry("propanol", "CCCO"), model.config, 3, partner=water)
    assert both.n_own == 12 and both.starts.shape == (3, 15, 3)
    gap = np.linalg.norm(both.starts[:, :12, None] - both.starts[:, None, 12:], axis=-1).min(axis=(1, 2))
    assert np.all((gap > 2.19) & (gap < 2.4))


def test_all_starts_are_one_stereoisomer(model):
    for smiles, chosen in (("CC(O)C(N)C", True), ("CC=CC", True), ("C/C=C\\C", False), ("CCO", False)):
        molecule = molecules.prepare(molecules.Entry("m", smiles), model.config, 6)
        assert molecule.isomer_chosen == chosen
        if "N" in smiles:  # handedness about both stereocentres: the same in all starts
            for centre, near in ((1, (0, 2, 3)), (3, (1, 4, 5))):
                edges = molecule.starts[:, near] - molecule.starts[:, [centre]]
                assert abs(np.sign(np.linalg.det(edges)).sum()) == 6
        if "=" in smiles:  # four carbons in a row: cis or trans, the same in all starts
            angles = np.array([torsions.angles(start[None], (0, 1, 2, 3))[0] for start in molecule.starts])
            assert len({bool(abs(angle) < 1) for angle in angles}) == 1
            assert chosen or abs(angles).max() < 1
    stated = molecules.prepare(molecules.Entry("m", molecule.smiles), model.config, 1)
    assert not stated.isomer_chosen


def test_lists_of_molecules_are_read(tmp_path, model):
    (tmp_path / "a.smi").write_text("# comment\nCCO ethanol\n\nCO\nCCN ethanol\n")
    assert [entry.name for entry in molecules.read(tmp_path / "a.smi")] == ["ethanol", "molecule2", "ethanol_2"]
    (tmp_path / "b.smi").write_text("C a\nCC a_2\nCCC a\nCCCC A\nCCCCC a\n")  # a file each, whatever they are called
    assert [entry.name for entry in molecules.read(tmp_path / "b.smi")] == ["a", "a_2", "a_3", "A_4", "a_5"]
    first = molecules.prepare(molecules.Entry("ethanol", "CCO"), model.config, 1)
    (tmp_path / "a.sdf").write_text(f"{first.block}$$$$\n{first.block}$$$$\n")
    again = [molecules.prepare(entry, model.config, 1) for entry in molecules.read(tmp_path / "a.sdf")]
    assert len({one.name for one in again}) == 2
    np.testing.assert_allclose(again[0].starts[0], first.starts[0], atol=1e-4)  # the structure of the record
    (tmp_path / "empty.smi").write_text("# nothing\n")
    for name, message in (("empty.smi", "holds no molecule"), ("a.xyz", "come from .smi")):
        (tmp_path / "a.xyz").write_text("1\n\nH 0 0 0\n")
        with pytest.raises(ValueError, match=message):
            molecules.read(tmp_path / name)


@pytest.mark.parametrize("shift", [0.0, 2.5])
def test_basins_are_the_parts_between_deep_minima(shift):
    """Three wells of known populations, wherever they lie on the turn."""
    rng, shares = np.random.default_rng(0), (0.6, 0.3, 0.1)
    centres = np.array([-2.0, 0.1, 2.2]) + shift
    angles = np.concatenate([rng.normal(c, 0.25, int(20_000 * p)) for c, p in zip(centres, shares, strict=True)])
    angles = (angles + np.pi) % (2 * np.pi) - np.pi
    found = conformers.basins(angles)
    assert len(found.centres) == 3
    which = found.of(angles)
    for centre, share in zip(centres, shares, strict=True):
        i = int(found.of(np.array([(centre + np.pi) % (2 * np.pi) - np.pi]))[0])
        assert abs(np.mean(which == i) - share) < 0.01
        assert abs(np.angle(np.exp(1j * (found.centres[i] - centre)))) < 0.03
    assert len(conformers.basins(rng.uniform(-np.pi, np.pi, 5000)).centres) == 1
    assert len(conformers.basins(rng.normal(0, 0.2, 5000)).centres) == 1


def butane(angles, model):
    """Butane with its torsion at each of the angles, rad; and the molecule."""
    from rdkit import Chem
    from rdkit.Chem import AllChem, rdMolTransforms

    whole = Chem.AddHs(Chem.MolFromSmiles("CCCC"))
    AllChem.EmbedMolecule(whole, randomSeed=1)
    place, found = whole.GetConformer(), []
    for angle in angles:
        rdMolTransforms.SetDihedralRad(place, 0, 1, 2, 3, float(angle))
        found.append(place.GetPositions())
    numbers = [atom.GetAtomicNum() for atom in whole.GetAtoms()]
    return make_system(numbers, [12.011 if z == 6 else 1.008 for z in numbers]), np.array(found), whole


def test_conformers_have_their_populations_and_free_energies(model):
    rng = np.random.default_rng(1)
    starts, counts = [], []
    for _ in range(4):
        n_trans = rng.binomial(200, 0.7)
        counts.append(n_trans)
        angles = np.concatenate([rng.normal(np.pi, 0.15, n_trans), rng.normal(1.1, 0.15, 200 - n_trans)])
        system, frames, whole = butane(angles, model)
        starts.append(frames)
    listed, found, changes = conformers.found_in(system, starts, 300.0, np.ones(800))
    assert changes == 4  # each start once: too few for errors
    assert found[0].population_error is None and found[1].free_energy_error_kJ_mol is None
    starts = [frames[rng.permutation(200)] for frames in starts]
    listed, found, changes = conformers.found_in(system, starts, 300.0, np.ones(800))
    assert changes > 100
    central = next(torsion for torsion in listed if torsion.atoms[1:3] == (1, 2))
    assert len(listed) == 3 and len(central.centres) == 2
    assert len(found) == 2 and abs(abs(float(found[0].label)) - 180) < 3
    share = sum(counts) / 800
    assert found[0].population == pytest.approx(share) and f"{found[0].free_energy_kJ_mol:.1f}" == "0.0"
    assert found[1].free_energy_kJ_mol == pytest.approx(2.494339 * np.log(share / (1 - share)), rel=1e-4)
    assert found[0].population_error == pytest.approx(np.std(np.array(counts) / 200, ddof=1) / 2)
    run, frame = found[1].frame
    turn = np.degrees(conformers.torsions.angles(starts[run][frame][None], (0, 1, 2, 3))[0])
    assert abs(turn - np.degrees(1.1)) < 3
    from rdkit import Chem

    text = conformers.write_structures(Chem.MolToMolBlock(whole), "CCCC", starts, found, "butane")
    assert text.count("$$$$") == 2 and "butane conformer 2" in text
    assert text.count("<SMILES>") == text.count("<free_energy_error_kJ_mol>") == 2


def test_shapes_do_not_depend_on_where_a_molecule_is(model):
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(2)
    system, frames, _ = butane(rng.normal(np.pi, 0.1, 30), model)
    moved = np.stack(
        [
            Rotation.from_quat(rng.normal(size=4)).apply(x) + rng.normal(size=3)
            for x in frames + rng.normal(scale=0.05, size=frames.shape)
        ]
    )
    turned = moved @ Rotation.from_rotvec([1.0, 0.3, 2.0]).as_matrix()
    weights = shapes.rotational_weights(system, moved)
    np.testing.assert_allclose(weights, shapes.rotational_weights(system, turned))
    flexibility = shapes.flexibility(system, moved, weights)
    assert flexibility == pytest.approx(shapes.flexibility(system, turned, weights), rel=1e-6)
    assert 0.05 < flexibility < 0.4
    by_hand = [
        np.sqrt(system.masses @ np.sum((x - system.masses @ x / system.masses.sum()) ** 2, -1) / system.masses.sum())
        for x in moved
    ]
    np.testing.assert_allclose(shapes.radius_of_gyration(system, moved), by_hand)


@pytest.mark.slow
def test_weights_make_up_for_the_rotation_that_runs_do_not_have():
    """Four atoms in a chain that turns freely: with rotation, all angles are equally likely."""
    masses, lengths = [12.0, 1.0, 1.0, 12.0], jnp.array([2.0, 1.0, 2.0])
    system = make_system([6, 1, 1, 6], masses)
    start = State(jnp.array([[-0.35, 1.97, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.35, 0.0, 1.97]]),
                  jnp.zeros((4, 3)), jnp.eye(3))  # fmt: skip
    bath, dt, kelvin = NVT(300.0, 200.0, "langevin"), 1.0, 300.0

    def energy(x):
        bonds = jnp.linalg.norm(x[1:] - x[:-1], axis=-1)
        ends = jnp.linalg.norm(x[2:] - x[:-2], axis=-1)
        return 5.0 * jnp.sum((bonds - lengths) ** 2) + 5.0 * jnp.sum((ends - 2.386) ** 2)

    def acceleration(x):
        return -jax.grad(energy)(x) * units.EV / jnp.array(masses)[:, None]

    def step(state, key):
        v = state.velocities + 0.5 * dt * acceleration(state.positions)
        x = state.positions + dt * v
        state = State(x, v + 0.5 * dt * acceleration(x), state.cell)
        return ensembles.apply(bath, key, system, state, kelvin, dt, ())[0], None

    def keep(state, key):
        state = jax.lax.scan(step, state, jax.random.split(key, 100))[0]
        return state, state.positions

    def run(key):
        key_start, key = jax.random.split(key)
        state = mechanics.maxwell_boltzmann(key_start, system, start, kelvin)
        return jax.lax.scan(keep, state, jax.random.split(key, 30))[1][10:]

    chains = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 300)))
    positions = chains.reshape(-1, 4, 3)
    angles = np.abs(conformers.torsions.angles(positions, (0, 1, 2, 3)))
    weights = shapes.rotational_weights(system, positions)

    def shares(weights):
        """Parts of a turn, and their standard errors from the spread of the chains, which are independent."""
        bins = np.clip((angles / np.pi * 6).astype(int), 0, 5)
        each = np.stack([(weights * (bins == i)).reshape(len(chains), -1).mean(axis=1) for i in range(6)], axis=1)
        return each.mean(axis=0), each.std(axis=0, ddof=1) / np.sqrt(len(chains))

    found, errors = shares(weights)
    assert np.all(np.abs(found - 1 / 6) < 4 * errors) and np.all(errors < 0.012)
    found, errors = shares(np.ones(len(positions)))
    assert np.abs((found - 1 / 6) / errors).max() > 7


def test_rotational_weights_of_linear_molecules_are_those_of_two_rotations():
    pair = make_system([8, 8], [15.999, 15.999])
    apart = np.array([1.0, 2.0, 4.0])
    positions = np.zeros((3, 2, 3))
    positions[:, 1, 0] = apart
    np.testing.assert_allclose(shapes.rotational_weights(pair, positions), apart**2 / np.mean(apart**2))
    assert shapes.rotational_weights(make_system([2], [4.0]), np.zeros((2, 1, 3))).tolist() == [1.0, 1.0]


def test_contacts_are_counted_in_time():
    system = make_system([8, 8], [15.999, 15.999])
    near = [1, 1, 1, 0, 0, 1, 1, 0, 1]  # contacts of 3 and 2 frames that end, one that lasts
    frames = np.array([[[0.0, 0, 0], [3.0 if x else 6.0, 0, 0]] for x in near])
    found = shapes.contacts(system, 1, [frames], 20.0)
    assert found.share == pytest.approx(6 / 9) and found.ended == 2
    assert found.lifetime_ps == pytest.approx(2.5 * 0.02)
    assert shapes.contacts(system, 1, [frames[:3]], 20.0).lifetime_ps is None  # NaN is no JSON


@pytest.mark.slow
def test_molecules_of_different_sizes_run_side_by_side_as_alone(model):
    """The same seed and the same starts; padding and neighbours change rounding errors only."""
    found = [molecules.prepare(molecules.Entry(*entry), model.config, 2) for entry in
             (("paracetamol", "CC(=O)Nc1ccc(O)cc1"), ("acetanilide", "CC(=O)Nc1ccccc1"))]  # fmt: skip
    given = runs.Conditions(length_ps=0.4, equilibrate_ps=0.0, frame_fs=14.0)
    (batch,) = runs.batches(found, model, 2)
    both = dict((molecule.name, frames) for molecule, frames in runs.run(batch, model, given))
    (alone,) = runs.run(batch._replace(molecules=batch.molecules[:1]), model, given)
    assert batch.n_atoms == 24 and len(both) == 2
    for one, other in zip(both["paracetamol"].positions, alone[1].positions, strict=True):
        assert len(one) == 15
        np.testing.assert_allclose(one[:8], other[:8], atol=2e-3)
    kelvins = np.concatenate(both["paracetamol"].temperatures_K)
    assert 100 < kelvins.mean() < 500


@pytest.mark.slow
@pytest.mark.process
def test_the_command_names_what_it_leaves_out_and_goes_on(tmp_path, capsys, monkeypatch):
    (tmp_path / "m.smi").write_text("CC(=O)Nc1ccc(O)cc1 paracetamol\nCC(=O)[O-] acetate\nCC(=O)Nc1ccccc1 acetanilide\n")
    out = tmp_path / "out"
    options = ["--model", "paracetamol", "--length-ps", 0.6, "--starts", 2, "--workers", 1, "--equilibrate-ps", 0.1]
    ffmd("screen", tmp_path / "m.smi", "--out", out, *options)
    printed = capsys.readouterr().out
    assert "note: acetate: has a charge of -1" in printed and "2 molecules" in printed
    table = list(csv.DictReader((out / "molecules.csv").read_text().splitlines()))
    assert [row["name"] for row in table] == ["paracetamol", "acetanilide", "acetate"]
    assert table[2]["not_run"].startswith("has a charge of -1") and table[2]["conformers"] == table[0]["not_run"] == ""
    found = json.loads((out / "molecules" / "paracetamol.json").read_text())
    assert found["n_atoms"] == 20 and sum(one["population"] for one in found["conformers"]) == pytest.approx(1)
    html = (out / "index.html").read_text()
    assert (
        html.count("<svg") > 4
        and "acetate" in html
        and "http" not in html.replace("http://www.w3.org", "").replace("http://www.rdkit.org", "")
    )
    (out / "molecules" / "acetanilide.json").unlink()
    written = (out / "molecules" / "paracetamol.json").stat().st_mtime_ns
    here = types.SimpleNamespace(map=map)
    monkeypatch.setattr(pools, "pool", lambda n: contextlib.nullcontext(here))  # another would compile anew
    other = ["--beside", "mmff94", "--beside-molecules", 1]
    ffmd("screen", tmp_path / "m.smi", "--out", out, *options, "--resume", *other)
    (ours, theirs) = csv.DictReader((out / "beside.csv").read_text().splitlines())
    assert (ours["method"], theirs["method"]) == ("paracetamol", "mmff94") and not ours["torsion_overlap"]
    assert float(ours["length_ps"]) == float(theirs["length_ps"]) and 0 < float(theirs["torsion_overlap"]) <= 1
    assert "Beside other methods" in (out / "index.html").read_text()
    assert (out / "molecules" / "acetanilide.json").exists()
    assert (out / "molecules" / "paracetamol.json").stat().st_mtime_ns == written
    capsys.readouterr()
    with pytest.raises(SystemExit):
        ffmd("screen", tmp_path / "m.smi", "--out", out, *options[:-1], 0.2, "--resume")
    assert "cannot resume with equilibrate_ps = 0.2" in capsys.readouterr().err
    assert "leave out --pair" in fails(
        capsys, "screen", tmp_path / "m.smi", "--out", tmp_path / "w", *other, "--pair", tmp_path / "m.smi"
    )
    assert "takes module:Class" in fails(
        capsys, "screen", tmp_path / "m.smi", "--out", tmp_path / "w", "--beside", "cheese"
    )
    (tmp_path / "ions.smi").write_text("CC(=O)[O-] acetate\n")
    assert "none of the 1 molecules could be run" in fails(
        capsys, "screen", tmp_path / "ions.smi", "--out", tmp_path / "ions", *options
    )
    with pytest.raises(SystemExit):
        ffmd("screen", tmp_path / "m.smi", "--out", tmp_path / "w", "--model", "water")
    assert "is no propagator of isolated molecules" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_several_processes_run_their_shares_into_one_table(model, tmp_path, monkeypatch):
    (tmp_path / "m.smi").write_text("CCO a\nCO b\nCC(=O)[O-] c\nC d\nCC e\n[NH4+] f\n")
    out, said = tmp_path / "out", {0: [], 1: []}
    here = threading.local()

    def run(ready, model, given, out, *more):
        for molecule in ready:
            found = {"name": molecule.name, "smiles": molecule.smiles, "failed": f"in {here.index}", "given": "?"}
            (out / "molecules" / f"{molecule.name}.json").write_text(json.dumps(found))

    def screened(index):
        here.index = index
        return screen.screen(tmp_path / "m.smi", out, model, progress=False, say=said[index].append)

    both = threading.Barrier(2, timeout=60)
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "index", lambda: here.index)
    monkeypatch.setattr(processes, "wait_for_all", lambda where: both.wait())
    monkeypatch.setattr(processes, "agree", lambda *own: [both.wait(), own][1])
    monkeypatch.setattr(screen, "_run_all", run)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(screened, (0, 1))
    assert [(row["name"], row["alarms"]) for row in first.table] == [
        ("a", "in 0"), ("b", "in 1"), ("d", "in 1"), ("e", "in 0")
    ]  # fmt: skip
    assert set(first.refused) == {"c", "f"} and set(second.refused) == {"f"} and second.table == first.table
    assert [text.partition(";")[0] for text in said[0]] == ["c: has a charge of -1", "f: has a charge of +1"]
    rows = csv.DictReader((out / "molecules.csv").read_text().splitlines())
    assert "".join(row["name"] for row in rows) == "abdecf"
    assert not list(out.glob("share_*"))


def test_the_frames_of_a_start_are_a_trajectory_with_its_temperature(model, tmp_path):
    """Of two starts: joined, they would jump from one to the other, and frames without velocities would be at 0 K."""
    molecule = molecules.prepare(molecules.Entry("ethanol", "CCO"), model.config, 2)
    positions = [np.repeat(start[None], n, axis=0) for start, n in zip(molecule.starts, (9, 8), strict=True)]
    rng = np.random.default_rng(0)
    velocities = [rng.normal(scale=0.01, size=x.shape) for x in positions]
    given, alarms = runs.Conditions(frame_fs=21.0, equilibrate_ps=0.21), [[], []]
    frames = runs.Frames(positions, [np.zeros((9, 4))] * 2, alarms, [False, False], 21.0, velocities)
    screen._write_trajectory(tmp_path / "ethanol.h5", molecule, frames, model, given)
    for i, n_frames in enumerate((9, 8)):
        found = trajectory.read(tmp_path / f"ethanol.h5:{i}")
        assert len(found.times) == n_frames and found.times[0] == 231.0  # after the equilibration
        np.testing.assert_allclose(found.frames.velocities, velocities[i], rtol=1e-6)
        assert (found.metadata["temperature_K"], found.metadata["thermostat"]) == (300.0, "langevin")


def test_a_finished_molecule_is_not_taken_for_another_of_its_name(model, tmp_path):
    """In a list without names they follow from the order: a line more, and each belongs to another molecule."""
    out, given = tmp_path / "out", runs.Conditions()
    screen._make_folder(out, screen._settings(model, given, 4, None, 200), True)
    (out / "molecules" / "molecule1.json").write_text('{"name": "molecule1", "smiles": "CO", "given": "CO"}')
    with pytest.raises(ValueError, match="cannot resume with molecule1 = CCO"):
        screen.screen(["CCO", "CO"], out, model, resume=True, progress=False)
    (out / "list.smi").write_text("CCO\n")
    with pytest.raises(FileExistsError, match="would replace the input"):  # with all of the folder
        screen.screen(out / "list.smi", out, model, overwrite=True, progress=False)
    assert (out / "list.smi").exists()
    prepared = molecules.prepare(molecules.Entry("m", "OC"), model.config, 1)
    assert (prepared.given, prepared.smiles) == ("OC", "CO")


@pytest.mark.process
def test_ctrl_c_is_not_waited_for_after_rdkit_has_made_conformers(model, request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    molecules.prepare(molecules.Entry("ethanol", "CCO"), model.config, 2, 200, 0)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), pools.pool(1) as pool:
        running = pool.submit(time.sleep, 120)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        running.result()
    assert time.monotonic() - began < 60


@pytest.mark.process
def test_a_process_that_dies_ends_in_one_line():
    with pytest.raises(ChildProcessError, match="fewer `workers`"), pools.pool(1) as pool:
        pool.submit(os.abort).result()


def test_a_molecule_that_failed_is_in_the_table():
    table = [page.row({"name": "a", "smiles": "C", "failed": "no frame: it ended at once"})]
    assert "no frame" in page.csv_text(table)


@pytest.mark.parametrize(("n_frames", "kelvin", "marked"), [(20, 345.0, False), (20, 700.0, True), (1000, 345.0, True)])
def test_a_temperature_is_marked_where_chance_does_not_explain_it(model, n_frames, kelvin, marked):
    molecule = molecules.prepare(molecules.Entry("ethanol", "CCO"), model.config, 2)
    positions = [np.repeat(start[None], n_frames, axis=0) for start in molecule.starts]
    frames = runs.Frames(positions, [np.full((n_frames, 4), kelvin)] * 2, [[], []], [False, False], 40.0, positions)
    found, _ = description.describe(molecule, frames, model, runs.Conditions())
    assert any("it was at" in text for text in found["alarms"]) == marked
    assert found["flexibility_A"] == 0
    # 21 degrees of freedom, whose energy is new after 2 τ = 400 fs.
    assert found["temperature_error_K"] == pytest.approx(300 * np.sqrt(2 / 21 / (2 * n_frames / 10)), abs=0.06)


def test_fewer_than_three_heavy_atoms_have_no_fluctuation(model):
    molecule = molecules.prepare(molecules.Entry("methane", "C"), model.config, 2)
    positions = [np.repeat(start[None], 9, axis=0) for start in molecule.starts]
    frames = runs.Frames(positions, [np.full((9, 4), 300.0)] * 2, [[], []], [False, False], 40.0, positions)
    found, _ = description.describe(molecule, frames, model, runs.Conditions())
    row = page.row(found)
    settings = {**runs.Conditions()._asdict(), "model": "m", "time_step_fs": 7.0, "n_starts": 2, "pair": None}
    html = page.html_page([found], [row], {}, settings, [])
    assert found["flexibility_A"] is None and "None" not in page.csv_text([row]) + html and "methane" in html


@pytest.mark.slow
def test_methods_run_side_by_side_have_their_own_temperatures_and_failures(model):
    molecule = molecules.prepare(molecules.Entry("ethanol", "CCO"), model.config, 2)
    given = runs.Conditions(length_ps=1.2, equilibrate_ps=0.2, friction_tau_fs=20.0, frame_fs=14.0)
    line, angles = beside.run(molecule, model, given, "mmff94")
    assert line["length_ps"] >= 1.2 and 200 < line["temperature_K"] < 400 and line["ns_per_day"] > 0
    assert beside.overlaps(angles, angles)["torsion_overlap"] == 1.0
    assert beside.overlaps([], angles).keys() == {"torsion_overlap_halves"}
    line, angles = beside.run(molecule, model, given, "ase.calculators.tip3p:TIP3P")  # needs three atoms a molecule
    assert "fails on the start structure" in line["failed"] and not angles


def test_mmff94_gives_rdkits_energy_and_its_slope():
    from rdkit import Chem
    from rdkit.Chem import rdForceFieldHelpers as fields

    made = Chem.AddHs(Chem.MolFromSmiles("CC(=O)Nc1ccc(O)cc1"))
    Chem.rdDistGeom.EmbedMolecule(made, randomSeed=1)
    expected = fields.MMFFGetMoleculeForceField(made, fields.MMFFGetMoleculeProperties(made)).CalcEnergy()
    numbers = [atom.GetAtomicNum() for atom in made.GetAtoms()]
    atoms = ase.Atoms(numbers, made.GetConformer().GetPositions(), calculator=teachers.make("mmff94"))
    assert atoms.get_potential_energy() == pytest.approx(expected * 4184 / 96485.332, rel=1e-6)
    forces, along = atoms.get_forces(), np.random.default_rng(1).normal(size=(len(atoms), 3))
    energies = []
    for sign in (1, -1):
        atoms.positions += sign * 1e-4 * along
        energies.append(atoms.get_potential_energy())
        atoms.positions -= sign * 1e-4 * along
    assert (energies[1] - energies[0]) / 2e-4 == pytest.approx(np.sum(forces * along), rel=1e-4)
    with pytest.raises(ValueError, match="no neutral molecule"):
        ase.Atoms("H3", np.eye(3), calculator=teachers.make("mmff94")).get_potential_energy()
    atoms.pbc, atoms.cell = True, np.eye(3) * 20
    with pytest.raises(ValueError, match="the structure is periodic"):  # its energy would know nothing of the cell
        atoms.get_potential_energy()
