"""Pairs are what happens in Δt; splits are independent; what is not one NVE run is refused with the number."""

import dataclasses
import json
from pathlib import Path

import ase
import ase.io
import h5py
import jax
import numpy as np
import pytest

from ffmd_jax import __main__ as entry
from ffmd_jax.core import units
from ffmd_jax.core.state import State, make_system
from ffmd_jax.data import dataset, dataset_file, nve
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.formats import trajectory
from ffmd_jax.formats.trajectory import Hints, Trajectory

N_ATOMS = 16
SYSTEM, CELL = make_system(np.full(N_ATOMS, 18), np.full(N_ATOMS, 39.95), True), 40.0 * np.eye(3)


def oscillators(n_frames=600, interval=10.0, fastest=0.05, kick=None, seed=0) -> Trajectory:
    """Atoms in harmonic wells of 0.005 … ``fastest`` rad/fs at 100 K, exact, without energies, as most files come.

    Args:
        kick: ``(rng, v, dt) -> v``, five times a frame.
    """
    rng = np.random.default_rng(seed)
    omega = rng.uniform(0.005, fastest, (N_ATOMS, 3))
    speed = np.sqrt(units.BOLTZMANN * 100 * units.EV / 39.95)
    x, v, dt = rng.normal(size=(N_ATOMS, 3)) * speed / omega, rng.normal(size=(N_ATOMS, 3)) * speed, interval / 5
    cos, sin = np.cos(omega * dt), np.sin(omega * dt)
    positions, velocities = [], []
    for step in range(5 * n_frames):
        if step % 5 == 0:
            positions.append(x)
            velocities.append(v)
        x, v = x * cos + v * sin / omega, v * cos - x * omega * sin
        v = v if kick is None else kick(rng, v, dt)
    centres = rng.uniform(0, 40, (N_ATOMS, 3))
    frames = State(centres + np.array(positions), np.array(velocities), np.tile(CELL, (n_frames, 1, 1)))
    return Trajectory(SYSTEM, frames, interval * np.arange(n_frames), {}, {})


def forces_of(run, fastest=0.05, seed=0):
    """Those of `oscillators` without kicks, eV/Å: −m ω² x, with the same random numbers."""
    rng = np.random.default_rng(seed)
    omega = rng.uniform(0.005, fastest, (N_ATOMS, 3))
    rng.normal(size=(2, N_ATOMS, 3))
    centres = rng.uniform(0, 40, (N_ATOMS, 3))
    return -39.95 / units.EV * omega**2 * (run.frames.positions - centres)


def langevin(tau):
    def kick(rng, v, dt):
        keep = np.exp(-dt / tau)
        return keep * v + np.sqrt((1 - keep**2) * units.BOLTZMANN * 100 * units.EV / 39.95) * rng.normal(size=v.shape)

    return kick


def csvr(tau):
    """Bussi, Donadio & Parrinello 2007, as a plain Euler step of the kinetic energy."""

    def kick(rng, v, dt):
        kinetic, target = 0.5 * 39.95 * np.sum(v**2), 1.5 * N_ATOMS * units.BOLTZMANN * 100 * units.EV
        noise = 2 * np.sqrt(kinetic * target * dt / (3 * N_ATOMS * tau)) * rng.normal()
        return v * np.sqrt((kinetic + (target - kinetic) * dt / tau + noise) / kinetic)

    return kick


@pytest.fixture(scope="module")
def run():
    return oscillators()


def replaced(run, positions=None, velocities=None, **fields):
    r, v, cells = run.frames
    r, v = (r if positions is None else positions), (v if velocities is None else velocities)
    return run._replace(frames=State(r, v, cells[: len(r)]), **fields)


def pairs_of(run, time_step, stride=10.0):
    """The pairs of a whole run."""
    part = dataset.Run(run.frames, trajectory.frame_interval(run.times), "train")
    return pair_sets.of_run(part, time_step, stride)


def test_pairs_hold_what_happens_in_one_time_step(run):
    pairs = pairs_of(run, 40.0)
    np.testing.assert_allclose(pairs.displacements[7], run.frames.positions[11] - run.frames.positions[7], atol=1e-5)
    np.testing.assert_allclose(pairs.velocities[7], run.frames.velocities[11], rtol=1e-6)
    assert len(pairs_of(run, 40.0, 80.0).displacements) == 75


def test_one_trajectory_is_cut_in_time_with_gaps(run):
    data = pair_sets.form(dataset.make([run], 20.0, 10.0))[0]
    ends = {"train": (0, 480), "validation": (480 + 15, 540), "test": (540 + 15, 600)}  # 2.5 % of 600 frames
    for split, (first, last) in ends.items():
        part = getattr(data, split)
        assert len(part.displacements) == last - first - 2
        np.testing.assert_allclose(part.state.velocities[0], run.frames.velocities[first], rtol=1e-6)
        np.testing.assert_allclose(part.velocities[-1], run.frames.velocities[last - 1], rtol=1e-6)
    short = pair_sets.form(dataset.make([run], 10.0))[0]  # 10 Δt is less than 2.5 %
    np.testing.assert_allclose(short.test.state.velocities[0], run.frames.velocities[550], rtol=1e-6)


def test_three_trajectories_are_split_by_trajectory():
    runs = [oscillators(n_frames=100, seed=seed) for seed in (1, 2, 3, 4)]
    data = dataset.make(runs, 40.0, 10.0, names=["a", "b", "c", "d"])
    sets = pair_sets.form(data)[0]
    for split, run in (("validation", runs[2]), ("test", runs[3])):
        np.testing.assert_allclose(getattr(sets, split).state.velocities[0], run.frames.velocities[0], rtol=1e-6)
    assert len(sets.train.displacements) == 2 * 96
    assert data.metadata["sources"] == ["a", "b", "c", "d"]
    few = pair_sets.form(dataset.thinned(data, 50))[0]
    assert len(few.train.displacements) == 50
    assert len(few.test.displacements) == 96
    # Even: both trajectories give half.
    from_first = [any(np.array_equal(v, w) for w in sets.train.velocities[:96]) for v in few.train.velocities]
    assert sum(from_first) == 25
    assert len(pair_sets.form(dataset.thinned(data, 1000, 1000))[0].train.displacements) == 192
    fewer = pair_sets.form(dataset.thinned(data, None, 12))[0]
    counts = [len(getattr(fewer, split).displacements) for split in dataset.SPLITS]
    assert counts == [192, 12, 12]
    np.testing.assert_array_equal(fewer.test.velocities, sets.test.velocities[::8])
    with pytest.raises(ValueError, match="validation and test pairs must be at least 1"):
        dataset.thinned(data, None, 0)


@pytest.mark.parametrize(
    ("interval", "time_step", "steps"),
    [(0.1, 0.3, 3), (0.1 * 3, 30.0, 100), (10 / 3, 10.0, 3), (0.25, 7.0, 28), (1.0, 1.0, 1), (2 / 3, 2.0, 3)],
)
def test_time_steps_are_counted_exactly(interval, time_step, steps):
    assert pair_sets.steps_per_interval(interval, time_step) == steps
    times = interval * np.arange(5000)
    assert pair_sets.steps_per_interval(trajectory.frame_interval(times), time_step) == steps


@pytest.mark.parametrize(
    ("interval", "time_step", "message"),
    [
        (9.99, 10.0, "Δt = 10 fs is not a multiple of the 9.99 fs"),
        (10.0, 9.99, "Δt = 9.99 fs is not a multiple of the 10 fs"),
        (7.0, 10.0, "7 fs"),
        (0.3, 10.0, "0.3 fs"),
        (10.0, 5.0, "Δt = 5 fs"),
        (10.0, 10.0002, "10.0002 fs"),
        (1.0, -3.0, "positive"),
        (1.0, float("nan"), "positive"),
    ],
)
def test_time_steps_that_do_not_fit_are_refused(interval, time_step, message):
    with pytest.raises(ValueError, match=message):
        pair_sets.steps_per_interval(interval, time_step)


@pytest.mark.parametrize("interval", [2.0, 10.0, 40.0, 60.0, 80.0])
def test_nve_passes_at_any_interval(interval):
    nve.check(oscillators(interval=interval))  # 0.05 rad/fs times 60 fs is beyond what frames resolve


@pytest.mark.parametrize(
    ("factor", "cause"),
    [
        (10.1805, "10.18 times smaller than stated"),
        (1 / 10.1805, "10.18 times larger than stated"),
        (1000.0, "1000 times smaller than stated"),
        (100.0, "another unit than stated"),
        (0.001, "1000 times larger than stated"),
        (2.0, "perhaps 0.5 times what is stated"),
        (0.5, "perhaps 2 times what is stated"),
    ],
)
def test_a_wrong_velocity_unit_is_found(run, factor, cause):
    with pytest.raises(ValueError, match=r"displacements are .* times what the velocities give") as caught:
        nve.check(replaced(run, velocities=run.frames.velocities * factor))
    assert float(str(caught.value).split()[2]) == pytest.approx(1 / factor, rel=0.02)
    assert cause in str(caught.value)


@pytest.mark.parametrize(
    ("kick", "interval", "message"),
    [
        (langevin(100.0), 10.0, r"single atoms jump at random.* relaxation time of (9|10)[0-9](\.[0-9])? fs"),
        (langevin(2000.0), 10.0, r"single atoms jump at random.*relaxation time of (1|2)\.[0-9]*e\+03 fs"),
        (csvr(100.0), 10.0, "all atoms together jump at random"),
        (csvr(1000.0), 5.0, "all atoms together jump at random"),
    ],
)
def test_thermostats_are_found_without_energies(kick, interval, message):
    with pytest.raises(ValueError, match=message):
        nve.check(oscillators(n_frames=1000, interval=interval, kick=kick))


def test_canonical_kinetic_energy_is_found_where_frames_resolve_nothing():
    nve.check(oscillators(n_frames=3000, interval=50.0, fastest=0.2))
    with pytest.raises(ValueError, match=r"kinetic energy fluctuates .* times as much as in the canonical ensemble"):
        nve.check(oscillators(n_frames=3000, interval=50.0, fastest=0.2, kick=csvr(100.0)))


def test_half_step_velocities_are_found(run):
    fine = oscillators(n_frames=3000, interval=1.0)
    lagging = 0.5 * (fine.frames.velocities[1:] + fine.frames.velocities[:-1])
    found = replaced(run, fine.frames.positions[1::10], lagging[::10], times=10.0 * np.arange(300))
    with pytest.raises(ValueError, match=r"a time 0\.(5|49\d*|50\d*) fs before the positions"):
        nve.check(found)


def test_stored_energies_decide(run):
    kinetic = 0.5 * np.einsum("i,tix->t", SYSTEM.masses, run.frames.velocities**2) / units.EV
    nve.check(run._replace(observables={"potential_energy_eV": 5.0 - kinetic}))
    drift = np.linspace(0, 0.1, 600)
    for observables in ({"potential_energy_eV": 5.0 - kinetic + drift}, {"total_energy_eV": 5.0 + drift}):
        with pytest.raises(ValueError, match=r"total energy fluctuates by 0\.0289 eV.*not an NVE run"):
            nve.check(run._replace(observables=observables))


@pytest.mark.parametrize("interval", [10.0, 60.0])
def test_forces_are_held_against_the_virial_theorem(interval):
    run = oscillators(interval=interval)
    forces = forces_of(run)
    nve.check(run._replace(forces=forces))
    for hint, wrong in {
        "Hartree/Bohr": forces / 51.42206747,
        "kcal/mol/Å": forces / 0.0433641153,
        "kJ/mol/nm": forces / 0.001036427,
        "of the opposite sign": -forces,
        "other frames or atoms": np.roll(forces, 1, axis=1),
    }.items():
        with pytest.raises(ValueError, match=f"forces do not belong to the motion.*{hint}"):
            nve.check(run._replace(forces=wrong))


def no_velocities(run):
    return replaced(run, velocities=0 * run.frames.velocities)


BAD_RUNS = {
    "zero velocities": (no_velocities, "all velocities are zero"),
    "nvt by its own word": (lambda run: run._replace(metadata={"ensemble": "nvt"}), "ensemble is NVT"),
    "atoms at rest": (lambda run: replaced(run, positions=0 * run.frames.positions), "do not move"),
    "other boundaries": (
        lambda run: run._replace(system=dataclasses.replace(SYSTEM, pbc=(True, True, False))),
        "periodic in",
    ),
    "other masses": (
        lambda run: run._replace(system=dataclasses.replace(SYSTEM, masses=SYSTEM.masses * 2)),
        "other masses",
    ),
    "too short": (
        lambda run: trajectory.part(run, slice(3)),
        "a part with 2 frames of 10 fs holds no pair",
    ),
    "other interval": (lambda run: run._replace(times=run.times * 1.1), "not a multiple of the 11 fs"),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_bad_runs_are_refused(run, case):
    change, message = BAD_RUNS[case]
    with pytest.raises(ValueError, match=message):
        dataset.make([run, change(run)], 40.0, names=["first", "second"])


def test_the_same_atoms_in_two_cells_make_one_dataset(run, tmp_path):
    cells = CELL, 41 * np.eye(3)
    runs = [run._replace(frames=run.frames._replace(cell=np.tile(cell, (len(run.times), 1, 1)))) for cell in cells]
    data, path = dataset.make(runs, 40.0), tmp_path / "data.h5"
    sets = pair_sets.form(data)[0]
    for half, cell in zip(np.split(sets.train.state.cell, 2), cells, strict=True):
        np.testing.assert_array_equal(half, np.broadcast_to(np.float32(cell), half.shape))
    dataset.write(path, data)
    again = pair_sets.form(dataset_file.read(path))[0]
    np.testing.assert_array_equal(again.train.state.cell, sets.train.state.cell)
    assert dataset_file.facts(path)["cells"] == 2
    assert pair_sets.fingerprint([again]) == pair_sets.fingerprint([sets])
    state = sets.train.state._replace(cell=sets.train.state.cell[::-1])
    other = sets._replace(train=sets.train._replace(state=state))
    assert pair_sets.fingerprint([other]) != pair_sets.fingerprint([sets])


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_version_0_1_are_refused_with_the_command_that_makes_them_anew(tmp_path, version):
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": f"ffmd_jax dataset {version}", "time_step_fs": 30.0})
        file.attrs["facts"] = json.dumps({"metadata": {"sources": ["a.h5", "b.h5"]}})
    for reader in (dataset_file.read, dataset_file.facts):
        with pytest.raises(ValueError, match=r"version 0\.1.*ffmd dataset a\.h5 b\.h5 --time-step 30 --out"):
            reader(path)


def test_one_file_gives_pairs_at_any_time_step_that_its_frames_allow(run, tmp_path):
    dataset.write(tmp_path / "data.h5", dataset.make([run], 40.0))
    data = dataset_file.read(tmp_path / "data.h5")
    for step in (10.0, 20.0, 40.0, 70.0):
        sets = pair_sets.form(data, step)[0]
        assert sets.time_step_fs == step
        first, n = sets.train, round(step / 10)
        np.testing.assert_allclose(first.velocities[:5], run.frames.velocities[n : 6 * n : n], rtol=1e-6)
        np.testing.assert_allclose(
            first.displacements[1], run.frames.positions[2 * n] - run.frames.positions[n], atol=1e-7
        )
    with pytest.raises(ValueError, match="not a multiple of the 10 fs"):
        pair_sets.form(data, 25.0)[0]


def test_energies_and_forces_are_kept_where_all_frames_have_them(run, tmp_path):
    energies, forces = np.arange(600.0), forces_of(run)
    kinetic = 0.5 * np.einsum("i,tix->t", SYSTEM.masses, run.frames.velocities**2) / units.EV
    known = run._replace(observables={"potential_energy_eV": 5.0 - kinetic}, forces=forces)
    dataset.write(tmp_path / "data.h5", dataset.make([known], 40.0))
    (group,) = dataset_file.read(tmp_path / "data.h5").groups
    assert [part.split for part in group.runs] == ["train", "validation", "test"]
    np.testing.assert_array_equal(group.runs[0].potential_energies, 5.0 - kinetic[:480])
    np.testing.assert_array_equal(group.runs[0].forces, forces[:480])
    facts = dataset_file.facts(tmp_path / "data.h5")
    assert facts["energies"] and facts["forces"]
    gaps = np.where(energies < 300, 5.0 - kinetic, np.nan)
    assert (
        dataset.make([run._replace(observables={"potential_energy_eV": gaps})], 40.0).groups[0].runs[2].forces is None
    )


def test_trajectories_of_different_systems_are_groups_of_one_dataset(run, tmp_path, caplog):
    mixed = np.array([36, *[18] * (N_ATOMS - 1)])
    krypton, turned = (
        run._replace(system=dataclasses.replace(SYSTEM, species=species)) for species in (mixed, mixed[::-1])
    )
    names = ["ar_0.h5", "kr_0.h5", "ar_1.h5", "isomer.h5", "ar_2.h5"]
    made = dataset.make([run, krypton, run, turned, run], 40.0, names=names)
    assert "isomer.h5 has the atoms of kr_0.h5 in another order" in caplog.text
    dataset.write(tmp_path / "data.h5", made)
    again = dataset_file.read(tmp_path / "data.h5")
    assert [group.system.species.tolist() for group in again.groups] == [[18] * N_ATOMS, [*mixed], [*mixed[::-1]]]
    assert [run.split for run in again.groups[0].runs] == ["train", "validation", "test"]
    facts = dataset_file.facts(tmp_path / "data.h5")
    assert [(group["name"], group["elements"]) for group in facts["groups"]] == [
        ("ar", [18]), ("kr_0", [18, 36]), ("isomer", [18, 36]),
    ]  # fmt: skip
    assert facts["train_pairs"] == sum(group["train_pairs"] for group in facts["groups"])
    few = pair_sets.form(dataset.thinned(again, 30))
    assert sum(len(sets.train.displacements) for sets in few) == 30
    assert all(len(sets.train.displacements) > 4 for sets in few)


def test_a_folder_stands_for_its_files(run, tmp_path):
    folder = tmp_path / "runs" / "further"
    folder.mkdir(parents=True)
    (folder / ".hidden").write_text("no trajectory")
    for path in (folder.parent / "b.h5", folder / "a.h5"):
        trajectory.write(path, run)
    found = dataset.from_files([folder.parent], 40.0)
    assert [Path(source).name for source in found.metadata["sources"]] == ["b.h5", "a.h5"]
    with pytest.raises(ValueError, match="a folder without files"):
        (tmp_path / "empty").mkdir()
        dataset.from_files([tmp_path / "empty"], 40.0)


def test_no_trajectories_are_refused():
    with pytest.raises(ValueError, match="no trajectories"):
        dataset.make([], 40.0)


def test_dataset_file_round_trip_and_damage(run, tmp_path):
    path, data = tmp_path / "data.h5", dataset.make([run], 40.0, names=["run.h5"])
    dataset.write(path, data)
    again = dataset_file.read(path)
    for before, after in zip(*(jax.tree.leaves(pair_sets.form(x)[0]) for x in (data, again)), strict=True):
        np.testing.assert_array_equal(before, after)
    for before, after in zip(data.groups[0].runs, again.groups[0].runs, strict=True):
        np.testing.assert_array_equal(before.frames.positions, after.frames.positions)  # all digits
    assert again.time_step_fs == 40.0
    assert again.metadata == {"sources": ["run.h5"]}
    facts, sets = dataset_file.facts(path), pair_sets.form(data)[0]
    assert facts["velocity_rms"] == pytest.approx(pair_sets.statistics([sets]).velocity_rms, rel=1e-12)
    assert facts["train_pairs"] == 119
    assert facts["speed_limits"] == pair_sets.speed_limits([sets], (18,))
    with pytest.raises(FileExistsError):
        dataset.write(path, data)
    path.write_bytes(path.read_bytes()[:3000])
    for reader in (dataset_file.read, dataset_file.facts):
        with pytest.raises(ValueError, match="cannot be read"):
            reader(path)
        with pytest.raises(FileNotFoundError):
            reader(tmp_path / "none.h5")


def trajcast_file(path, pairs, rows, change=lambda i, atoms: None):
    """Pairs in TrajCast's extxyz format."""
    images = []
    for i in rows:
        atoms = ase.Atoms(SYSTEM.species, pairs.state.positions[i], cell=CELL, pbc=True)
        atoms.set_array("velocities", pairs.state.velocities[i].astype(float))
        atoms.set_array("displacements", pairs.displacements[i].astype(float))
        atoms.set_array("update_velocities", pairs.velocities[i].astype(float))
        change(len(images), atoms)
        images.append(atoms)
    ase.io.write(path, images)
    return path


@pytest.mark.parametrize("n_files", [1, 3])
def test_trajcast_pairs_are_read_as_they_are(run, tmp_path, n_files):
    pairs, per_file = pairs_of(run, 40.0), 20
    order = np.random.default_rng(0).permutation(590)  # their frames are independent
    rows = [order[per_file * i : per_file * (i + 1)] for i in range(n_files)]
    paths = [trajcast_file(tmp_path / f"{i}.extxyz", pairs, rows[i]) for i in range(n_files)]
    data = pair_sets.form(dataset.make_from_pairs(paths, 40.0))[0]
    expected = rows if n_files == 3 else [rows[0][:16], rows[0][16:18], rows[0][18:]]
    for split, chosen in zip(dataset.SPLITS, expected, strict=True):
        part = getattr(data, split)
        np.testing.assert_allclose(part.state.positions, pairs.state.positions[chosen], atol=1e-5)
        np.testing.assert_allclose(part.state.velocities, pairs.state.velocities[chosen], atol=1e-8)
        np.testing.assert_allclose(part.displacements, pairs.displacements[chosen], atol=1e-8)
        np.testing.assert_allclose(part.velocities, pairs.velocities[chosen], atol=1e-8)
    with pytest.raises(ValueError, match="TrajCast's format"):
        trajectory.read(paths[0], hints=Hints(frame_interval_fs=40.0))


def ase_units(i, atoms):
    for name in ("velocities", "update_velocities"):
        atoms.arrays[name] *= units.ASE_TIME


def drop(name):
    def change(i, atoms):
        if i == 3:
            del atoms.arrays[name]

    return change


def hole(i, atoms):
    if i == 2:
        atoms.arrays["displacements"][5, 1] = np.nan


def reordered(i, atoms):
    if i == 4:
        atoms.numbers[0] = 36


def stretched(i, atoms):
    if i == 4:
        atoms.cell[1, 1] += 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (ase_units, r"displacements are 0\.1[0-9]* times what the velocities give"),
        (drop("update_velocities"), "frame 3 has no per-atom column update_velocities"),
        (hole, "atom 5 of frame 2"),
        (reordered, "frame 4 holds other atoms"),
        (stretched, "changing cell .* frame 4"),
    ],
)
def test_bad_trajcast_pairs_are_refused(run, tmp_path, change, message):
    path = trajcast_file(tmp_path / "bad.extxyz", pairs_of(run, 40.0), range(10), change)
    with pytest.raises(ValueError, match=rf"bad\.extxyz: .*{message}"):
        dataset.make_from_pairs([path], 40.0)


def ffmd(*arguments):
    entry.main([str(argument) for argument in arguments])


def lammps_dump(path, run, velocities="vx vy vz"):
    with path.open("w") as file:
        for i, (r, v) in enumerate(zip(run.frames.positions, run.frames.velocities, strict=True)):
            file.write(f"ITEM: TIMESTEP\n{20 * i}\nITEM: NUMBER OF ATOMS\n{N_ATOMS}\nITEM: BOX BOUNDS pp pp pp\n")
            file.write("0 40\n0 40\n0 40\nITEM: ATOMS id type x y z " + velocities + "\n")
            rows = np.hstack([r % 40, 1e3 * v])
            file.writelines(f"{n + 1} 1 " + " ".join(f"{x:.6g}" for x in row) + "\n" for n, row in enumerate(rows))
    return path


def test_the_command_makes_datasets_of_dumps_and_pairs(run, tmp_path, capsys):
    dump = lammps_dump(tmp_path / "run.dump", run)
    options = ("--lammps-units", "metal", "--lammps-timestep-fs", 0.5, "--elements", "Ar", "--time-step", 40)
    ffmd("dataset", dump, "--out", tmp_path / "a.h5", "--train-pairs", 60, *options)
    data = pair_sets.form(dataset_file.read(tmp_path / "a.h5"))[0]
    assert [len(getattr(data, split).displacements) for split in dataset.SPLITS] == [60, 11, 11]  # stride Δt
    first = pairs_of(run, 40.0, 40.0)
    np.testing.assert_allclose(data.train.velocities[0], first.velocities[0], rtol=1e-5)
    np.testing.assert_allclose(data.train.displacements[0], first.displacements[0], atol=2e-4)  # six digits
    pairs = trajcast_file(tmp_path / "pairs.extxyz", pairs_of(run, 40.0), range(0, 590, 20))
    ffmd("dataset", pairs, "--out", tmp_path / "b.h5", "--time-step", 40)
    capsys.readouterr()
    ffmd("info", tmp_path / "b.h5", "--json")
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["sources"] == [str(pairs)]
    assert facts["train_pairs"] == 24
    assert facts["speed_limits"].keys() == {"Ar"}


def test_the_command_estimates_velocities_only_when_asked(run, tmp_path, capsys):
    dump = lammps_dump(tmp_path / "run.dump", run, "c1 c2 c3")
    command = ("dataset", dump, "--out", tmp_path / "a.h5", "--time-step", 40, "--stride-fs", 10, "--lammps-units",
               "metal", "--lammps-timestep-fs", 0.5, "--elements", "Ar")  # fmt: skip
    with pytest.raises(SystemExit):
        ffmd(*command)
    assert "--velocities central-difference" in capsys.readouterr().err
    assert not (tmp_path / "a.h5").exists()
    ffmd(*command, "--velocities", "central-difference")
    assert "inaccurate by about 2 %" in capsys.readouterr().out  # (0.05 · 10)²/6 is 4 %, the mean over all ω is less
    data = dataset_file.read(tmp_path / "a.h5")
    assert "central differences over ±10 fs" in data.metadata["velocities"]
    velocities = pair_sets.form(data)[0].train.velocities[0]
    np.testing.assert_allclose(velocities, run.frames.velocities[5], rtol=0.05, atol=3e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lammps-units", "real", "--lammps-timestep-fs", 0.5), "0.00101 times what the velocities give"),
        (("--lammps-units", "metal", "--lammps-timestep-fs", 1.0), "times what the velocities give"),
        (("--lammps-units", "metal", "--lammps-timestep-fs", 0.35), "Δt = 40 fs is not a multiple of the 7 fs"),
        (("--lammps-units", "metal"), "--lammps-timestep-fs"),
        ((), "--lammps-units real or metal"),
    ],
)
def test_the_command_refuses_dumps_in_one_line(run, tmp_path, capsys, options, message):
    short = trajectory.part(run, slice(80))
    dump = lammps_dump(tmp_path / "run.dump", short)
    with pytest.raises(SystemExit) as stop:
        ffmd("dataset", dump, "--out", tmp_path / "a.h5", "--time-step", 40, "--elements", "Ar", *options)
    assert stop.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ffmd: ")]
    assert message in line
    assert "run.dump" in line
    assert list(tmp_path.iterdir()) == [dump]
