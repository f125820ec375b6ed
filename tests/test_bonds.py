"""Bonds that form and break: told from vibrations, from any frames, live and afterwards."""

import json

import ase
import numpy as np
import pytest
from conftest import fails, ffmd

from ffmd_jax import api
from ffmd_jax.analysis import bonds
from ffmd_jax.core.state import State, make_system
from ffmd_jax.formats import trajectory
from ffmd_jax.simulation import windows
from ffmd_jax.simulation.simulate import simulate

OHO = make_system([8, 1, 8], [15.999, 1.008, 15.999], False)


def frames_of(distances, cell=None):
    """A hydrogen between two oxygens 2.5 Å apart, at distances from the first, along x."""
    positions = np.zeros((len(distances), 3, 3))
    positions[:, 1, 0], positions[:, 2, 0] = distances, 2.5
    cell = np.eye(3) if cell is None else cell
    return State(positions, np.zeros_like(positions), np.broadcast_to(cell, (len(positions), 3, 3)))


def first(frames):
    return State(*(values[0] for values in frames))


def test_a_transfer_is_told_from_vibrations_and_returns():
    times = np.arange(12) * 5.0
    #           0    1     2     3    4    5    6     7     8     9     10   11
    walk = [0.97, 1.10, 1.25, 1.05, 0.9, 1.2, 1.45, 1.53, 1.45, 1.3, 1.25, 1.30]
    frames = frames_of(walk)
    watch = bonds.Watch(OHO, first(frames))
    found = watch.see(frames, times)
    assert found == [bonds.Change(30.0, (0, 1), "broken"), bonds.Change(30.0, (1, 2), "formed")]
    assert bonds.describe(found, OHO) == ["0.03 ps: H1 from O0 to O2"]
    assert bonds.changes(trajectory.Trajectory(OHO, frames, times, {}, {})) == found
    # 1.25 Å on both sides is within the hysteresis: the bond stays with the second.
    assert watch.see(frames_of([1.25, 1.2, 1.3]), times[:3]) == []
    back = watch.see(frames_of([1.0, 0.9]), np.array([100.0, 105.0]))
    assert bonds.describe(back, OHO) == ["0.1 ps: H1 from O2 to O0"] and len(watch.changes) == 4


def test_blocks_of_frames_make_no_difference(monkeypatch):
    rng = np.random.default_rng(0)
    walk = 1.25 + 0.35 * np.sin(np.arange(400) / 9) + rng.normal(0, 0.12, 400)
    frames, times = frames_of(walk), np.arange(400) * 2.0
    whole = bonds.Watch(OHO, first(frames))
    whole.see(frames, times)
    # What the definition says, frame by frame.
    bonded, expected = {(0, 1): abs(walk[0]) < 1.3 * 0.97, (1, 2): abs(2.5 - walk[0]) < 1.3 * 0.97}, []
    for time, x in zip(times, walk, strict=True):
        for pair, r in (((0, 1), abs(x)), ((1, 2), abs(2.5 - x))):
            now = True if r < 1.15 * 0.97 else False if r > 1.45 * 0.97 else bonded[pair]
            if now != bonded[pair]:
                expected.append((time, pair, "formed" if now else "broken"))
            bonded[pair] = now
    assert [tuple(change) for change in whole.changes] == expected and len(expected) > 10
    monkeypatch.setattr(bonds, "_AT_ONCE", 21)
    parts = bonds.Watch(OHO, first(frames))
    for some in np.array_split(np.arange(400), 7):
        parts.see(State(*(values[some] for values in frames)), times[some])
    assert parts.changes == whole.changes


def test_bonds_go_across_the_boundary_of_a_cell():
    cell = np.diag([9.0, 9.0, 9.0])
    system = make_system([8, 1, 8], [15.999, 1.008, 15.999], True)
    frames = frames_of([0.97, 0.97, 1.6], cell)
    for values in (frames.positions[1:, 1],):
        values += [9.0, -9.0, 18.0]
    watch = bonds.Watch(system, first(frames))
    assert [change.kind for change in watch.see(frames, np.arange(3.0))] == ["broken", "formed"]
    with pytest.raises(ValueError, match=r"at least 3\.8 Å high"):
        bonds.Watch(system, first(frames_of([0.97], np.diag([9.0, 9.0, 3.0]))))


def test_what_has_no_bonds_or_too_many_atoms_is_refused():
    argon = make_system([18] * 3, [39.948] * 3, False)
    with pytest.raises(ValueError, match="no bonds to watch"):
        bonds.Watch(argon, State(np.eye(3) * 8, np.zeros((3, 3)), np.eye(3)))
    many = make_system([1] * 2001, [1.008] * 2001, False)
    with pytest.raises(ValueError, match="up to 2000 atoms"):
        bonds.Watch(many, State(np.zeros((2001, 3)), np.zeros((2001, 3)), np.eye(3)))


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A start of paracetamol with its hydroxyl hydrogen half torn off, on the way out: the model pulls it back."""
    from ffmd_jax.formats import ase_files
    from ffmd_jax.reference_md import systems

    prepared = systems.get("paracetamol")
    atoms = ase_files.to_atoms(prepared.system, prepared.state)
    oxygen = next(i for i in range(len(atoms)) if atoms[i].symbol == "O" and _n_hydrogens(atoms, i))
    hydrogen = min(
        (i for i in range(len(atoms)) if atoms[i].symbol == "H"), key=lambda i: atoms.get_distance(oxygen, i)
    )
    atoms.set_distance(oxygen, hydrogen, 1.3, fix=0)
    velocities = np.zeros((len(atoms), 3))
    velocities[hydrogen] = 0.03 * atoms.get_distance(oxygen, hydrogen, vector=True) / 1.3 / ase.units.fs
    atoms.set_velocities(velocities)
    path = tmp_path_factory.mktemp("broken") / "start.traj"
    atoms.write(path)
    return path, (oxygen, hydrogen)


def _n_hydrogens(atoms, i):
    return sum(atoms[j].symbol == "H" and atoms.get_distance(i, j) < 1.2 for j in range(len(atoms)) if j != i)


@pytest.mark.slow
def test_a_rollout_says_what_breaks_and_notes_it(broken, tmp_path, capsys, restore_precision):
    start, pair = broken
    command = ["rollout", "paracetamol", "--start", start, "--ensemble", "nve", "--on-alarm", "warn", "--watch-bonds"]
    out, parts = tmp_path / "run.h5", tmp_path / "parts.h5"
    ffmd(*command, "--steps", 30, "--out", out)
    whole, printed = trajectory.read(out), capsys.readouterr()
    noted = bonds.from_metadata(whole.metadata)
    assert noted[0].atoms == tuple(sorted(pair)) and noted[0].kind == "formed" and 7 < noted[0].time_fs < 40
    said = f"note: bonds: {noted[0].time_fs / 1000:g} ps: O{pair[0]}–H{pair[1]} formed"
    assert said in printed.err and "; bonds that formed or broke: 1" in printed.out
    assert "--watch-bonds" in whole.metadata["command"]
    watch = bonds.Watch(*trajectory.read_start(start))
    assert watch.see(whole.frames, whole.times) == noted
    for steps in (2, 17, 30):  # also over the end of a part
        ffmd(*command, "--steps", steps, "--out", parts, "--resume")
    assert bonds.from_metadata(trajectory.read_metadata(parts)) == noted
    assert "Bonds changed: " in api.analyze(out, progress=False).text(10_000)
    ffmd(*[word for word in command if word != "--watch-bonds"], "--steps", 12, "--out", tmp_path / "not.h5")
    assert json.dumps(trajectory.read_metadata(tmp_path / "not.h5")).count("bond_changes") == 0
    replicas = ["--replicas", 2, "--temperature", 300, "--draw-velocities"]
    message = fails(capsys, *command, "--steps", 4, *replicas, "--out", tmp_path / "x.h5")
    assert "bonds are watched in one run: no replicas" in message and not (tmp_path / "x.h5").exists()


def test_changes_near_each_other_share_a_file_and_others_have_names_of_their_own():
    assert windows.spans([5, 4, 5, 9, 0], 11) == [(0, -1, 1), (4, 2, 6), (9, 7, 10)]
    assert windows.spans([3, 4, 5], 6) == [(3, 1, 5)] and windows.spans([0], 1) == [(0, -1, 0)]
    assert windows.name_of(1_285_004.0) == "bonds_at_1285004fs.extxyz" != windows.name_of(1_285_000.0)
    assert windows.name_of(12.5) == "bonds_at_12.5fs.extxyz"


def test_every_step_around_a_change_is_kept_where_fewer_frames_are_stored(broken, tmp_path, monkeypatch):
    options = {"ensemble": api.NVT(300, friction_tau_fs=500), "watch_bonds": True, "seed": 2, "monitors": False}
    full = simulate("paracetamol", broken[0], steps=12, progress=False, **options)
    (change,) = full.bond_changes
    assert change.kind == "formed" and 7 < change.time_fs < 40
    out, folder = tmp_path / "run.h5", tmp_path / "run_bonds"
    folder.mkdir()
    (folder / "bonds_at_7fs.extxyz").write_text("of an earlier run")
    # Said to be in the third of four frames, so that random numbers of the first three steps are to be passed over.
    monkeypatch.setattr(bonds.Watch, "see", lambda *_: [bonds.Change(63.0, broken[1], "formed")])
    simulate("paracetamol", broken[0], steps=12, every=3, out=out, progress=False, **options)
    (file,) = folder.iterdir()
    assert file.name == "bonds_at_63fs.extxyz"
    found = trajectory.read(file)
    np.testing.assert_allclose(found.times, 7.0 * np.arange(4, 13))
    np.testing.assert_allclose(found.frames.positions, full.frames.positions[3:], atol=1e-5)
    np.testing.assert_allclose(found.frames.velocities, full.frames.velocities[3:], atol=1e-6)
