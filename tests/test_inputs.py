"""Inputs as people bring them: nothing wrong in silence, nothing right refused, nothing "unexpected"."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import ase.io
import h5py
import jax
import numpy as np
import pytest
from conftest import fails, ffmd

from ffmd_jax import api
from ffmd_jax.formats import Hints, common, trajectory

HERE = Path(__file__).parent
METAL = ("--lammps-units", "metal", "--lammps-timestep-fs", 2)

pytestmark = pytest.mark.usefixtures("restore_precision")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Small files of situations that were once got wrong: argon, mostly 32 atoms every 10 fs."""
    folder = tmp_path_factory.mktemp("cases")
    with tarfile.open(HERE / "data" / "cases.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model and a data set of the run in `bad_inputs`."""
    import bad_inputs

    return bad_inputs.prepared(tmp_path_factory.mktemp("small"))


def summary(capsys, *command):
    capsys.readouterr()
    ffmd(*command, "--json")
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def make_dataset(path, out, *options, step=20):
    """The dataset's frames: positions of each run."""
    ffmd("dataset", path, "--time-step", step, "--out", out, *options)
    with h5py.File(out) as file:
        return [run["positions"][()] for run in file["groups/0/runs"].values()]


@pytest.mark.parametrize("name", ["swap.h5", "swap.extxyz"])
def test_ids_order_the_atoms_and_without_them_a_swap_is_noticed(cases, tmp_path, capsys, name):
    parts = make_dataset(cases / "same-element-swap" / name, tmp_path / "o.h5", step=40)
    assert max(np.abs(np.diff(part, axis=0)).max() for part in parts) < 0.15
    images = ase.io.read(cases / "same-element-swap" / "swap.extxyz", ":")
    for atoms in images:
        del atoms.arrays["id"]
    ase.io.write(tmp_path / "without.extxyz", images, columns=["symbols", "positions", "velocities"])
    line = fails(capsys, "dataset", tmp_path / "without.extxyz", "--time-step", 40, "--out", tmp_path / "p.h5")
    assert "between frames 29 and 30" in line and "changed places" in line


@pytest.mark.slow
def test_fixed_atoms_have_no_degrees_of_freedom_and_no_propagator(cases, tmp_path, capsys):
    slab = cases / "frozen-atoms" / "slab.traj"
    assert summary(capsys, "analyze", slab, "--out", tmp_path / "r")["temperature_K"] == pytest.approx(60.6, abs=0.05)
    line = fails(capsys, "dataset", slab, "--time-step", 40, "--out", tmp_path / "o.h5")
    assert "16 of 32 atoms are fixed" in line and not (tmp_path / "o.h5").exists()
    facts = summary(capsys, "info", slab)
    assert facts["degrees_of_freedom"] == 48 and facts["constraints"] == "16 of 32 atoms are fixed"
    line = fails(
        capsys, "rollout", cases / "model_argon", "--start", slab, "--temperature", 60, "--out", tmp_path / "o.h5",
        "--steps", 2,
    )  # fmt: skip
    assert "fixed" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mass.extxyz", "masses.extxyz", "mass_energy.extxyz"])
def test_columns_of_masses_count(cases, tmp_path, capsys, name):
    path = cases / "extxyz-mass-column" / name
    assert summary(capsys, "analyze", path, "--out", tmp_path / "r")["temperature_K"] == pytest.approx(57.0, abs=0.05)
    line = fails(capsys, "dataset", path, "--time-step", 20, "--out", tmp_path / "o.h5")
    assert "39.948, 79.9 u" in line


def test_masses_in_the_info_count_and_contradictions_are_refused(cases, tmp_path):
    images = ase.io.read(cases / "extxyz-mass-column" / "masses.extxyz", ":3")
    given = images[0].arrays["masses"].copy()
    for atoms in images:
        atoms.info["masses"] = atoms.arrays.pop("masses")
    ase.io.write(tmp_path / "info.extxyz", images)
    np.testing.assert_allclose(trajectory.read(tmp_path / "info.extxyz").system.masses, given)
    for atoms in images:
        atoms.arrays["mass"] = given + 1
    ase.io.write(tmp_path / "both.extxyz", images)
    with pytest.raises(ValueError, match=r"both\.extxyz: frame 0: .*disagree"):
        trajectory.read(tmp_path / "both.extxyz")


def test_repeated_and_overlapping_frames_are_named(cases, tmp_path, capsys):
    command = ("--frame-interval-fs", 10, "--time-step", 20, "--out", tmp_path / "o.h5")
    assert "frame 80 repeats" in fails(capsys, "dataset", cases / "repeated-frames" / "repeated.traj", *command)
    assert "between frames 79 and 80" in fails(capsys, "dataset", cases / "repeated-frames" / "overlap.traj", *command)


@pytest.mark.parametrize("name, factor", [("t_ps.traj", "1e+03"), ("t_ase.traj", "10.2")])
def test_analyses_notice_times_in_another_unit(cases, tmp_path, capsys, name, factor):
    line = fails(capsys, "analyze", cases / "analyze-times-in-other-units" / name, "--out", tmp_path / "r", "--json")
    assert f"displacements are {factor} times" in line and not (tmp_path / "r").exists()


def test_moving_atoms_whose_velocities_are_zero_have_no_temperature(cases, tmp_path, capsys):
    images = ase.io.read(cases / "analyze-times-in-other-units" / "t_ps.traj", ":20")
    for i, atoms in enumerate(images):
        atoms.info["time"] = 10.0 * i
        atoms.set_momenta(0 * atoms.positions)
    ase.io.write(tmp_path / "zero.traj", images)
    line = fails(capsys, "analyze", tmp_path / "zero.traj", "--out", tmp_path / "r")
    assert "zero.traj: all velocities are zero although the atoms move; --velocities central-difference" in line
    ffmd("analyze", tmp_path / "zero.traj", "--velocities", "central-difference", "--out", tmp_path / "r")


def test_files_without_a_cell_are_said_to_be_clusters_and_wrapped_ones_wrapped(cases, tmp_path, capsys):
    command = ("--velocities", "central-difference", "--time-step", 20, "--out", tmp_path / "o.h5")
    ffmd("dataset", cases / "cp2k-xyz-without-cell" / "run-pos-1.xyz", *command)
    assert "note: run-pos-1.xyz: no cell was found" in capsys.readouterr().err
    facts = summary(capsys, "info", cases / "cp2k-xyz-without-cell" / "run-pos-1.xyz")
    assert facts["periodic"] == [False] * 3 and facts["frame_interval_fs"] == 10
    line = fails(capsys, "dataset", cases / "cp2k-xyz-without-cell" / "wrapped-pos-1.xyz", *command, "--overwrite")
    assert "wrapped into a cell" in line


def test_a_column_velo_holds_velocities(cases):
    _, state = trajectory.read_start(cases / "start-with-velo-column" / "start.extxyz")
    assert state.velocities[0] == pytest.approx([-0.00081706, 0.00025427, 0.00163510])


def test_velocities_under_another_name_are_noted(cases, tmp_path, caplog):
    text = (cases / "start-with-velo-column" / "start.extxyz").read_text().replace("velo:R", "velocity:R")
    (tmp_path / "other.extxyz").write_text(text)
    trajectory.read_start(tmp_path / "other.extxyz", need_velocities=False)
    assert "other.extxyz: 'velocity' is not read" in caplog.text


def test_a_single_atom_has_no_temperature(cases, tmp_path, capsys):
    one, model = cases / "one-atom" / "one.traj", cases / "model_argon"
    assert "a single atom has no temperature" in fails(capsys, "analyze", one, "--out", tmp_path / "r")
    run = ("rollout", model, "--start", one, "--out", tmp_path / "o.h5", "--steps", 2)
    assert "a single atom has no temperature" in fails(capsys, *run, "--temperature", 60)
    ffmd(*run, "--ensemble", "nve")
    assert "no alarms" in capsys.readouterr().out


@pytest.mark.parametrize("name, hints", [("run.trr", ()), ("run.ncdf", ("--frame-interval-fs", 10))])
def test_times_in_ps_as_32_bit_numbers_are_regular(cases, tmp_path, name, hints):
    folder = cases / "trr-netcdf-float32-times"
    before = sorted(folder.iterdir())
    for topology in ("top.pdb", "conf.gro"):
        parts = make_dataset(folder / name, tmp_path / f"{topology}.h5", "--topology", folder / topology, *hints)
        assert sum(map(len, parts)) > 90
    assert sorted(folder.iterdir()) == before
    times = np.float32(0.005 * np.arange(20_000)).astype(np.float64) * 1000
    assert trajectory.frame_interval(times) == 5.0
    with pytest.raises(ValueError, match="frame 15000 at"):
        trajectory.frame_interval(np.delete(times, 15_000))


@pytest.mark.slow
def test_hints_are_taken_wherever_a_file_is_read(cases, tmp_path, capsys):
    folder = cases / "advice-with-options-that-are-not-there"
    report = summary(capsys, "analyze", folder / "no_times.traj", "--out", tmp_path / "r", "--frame-interval-fs", 10)
    assert report["length_ps"] == pytest.approx(0.19)
    assert summary(capsys, "info", folder / "no_times.traj")["frame_interval_fs"] is None
    assert "--lammps-units" in fails(capsys, "info", folder / "run.lammpstrj")
    assert summary(capsys, "info", folder / "run.lammpstrj", *METAL, "--elements", "Ar")["elements"] == "Ar"
    for name, hints in (("run.lammpstrj", (*METAL, "--elements", "Ar")), ("start.gro", ())):
        ffmd(
            "rollout", cases / "model_argon", "--start", folder / name, *hints, "--temperature", 60, "--steps", 2,
            "--on-alarm", "warn", "--out", tmp_path / f"{name}.h5",
        )  # fmt: skip


def test_lammps_dumps_as_people_have_them(cases, tmp_path):
    folder, hints = (
        cases / "lammps-columns-and-ends",
        Hints(lammps_units="metal", lammps_timestep_fs=2, elements=("Ar",)),
    )
    whole = trajectory.read(folder / "blank_line.lammpstrj", hints=hints)
    assert len(whole.times) == 100
    assert trajectory.read(folder / "no_iz.lammpstrj", hints=hints).system.species.tolist() == [18] * 32
    heavy = trajectory.read(folder / "element_D.lammpstrj", hints=hints).system
    assert set(heavy.species) == {1} and np.allclose(heavy.masses, 2.014, atol=1e-3)
    names = [folder / f"frame.{i}.lammpstrj" for i in (0, 10, 5)]
    joined = trajectory.join([trajectory.read(name, hints=hints) for name in names], names)
    assert joined.times.tolist() == [0, 10, 20]


def test_type_labels_that_are_elements_are_read(cases, tmp_path):
    lines = (cases / "lammps-columns-and-ends" / "frame.0.lammpstrj").read_text().splitlines()
    labelled = [" ".join([row[0], "Ar", *row[2:]]) if len(row := line.split()) > 6 and row[1] == "1" else line
                for line in lines]  # fmt: skip
    (tmp_path / "label.lammpstrj").write_text("\n".join(labelled))
    hints = Hints(lammps_units="metal", lammps_timestep_fs=2)
    assert set(trajectory.read(tmp_path / "label.lammpstrj", hints=hints).system.species) == {18}


def test_deuterium_is_hydrogen_with_its_mass(cases, tmp_path):
    system = trajectory.read(cases / "extxyz-deuterium" / "D.extxyz").system
    masses = system.masses[np.asarray(system.species) == 1]
    assert len(masses) > 0 and np.allclose(masses, 2.014, atol=1e-3)
    frame = "2\nProperties=species:S:1:pos:R:3:velocities:R:3:id:I:1 time={}\n{}\n{}\n"
    heavy, light = "D 0 0 {0} 0 0 0.01 1", "H 0 0 {0} 0 0 0.01 2"
    rows = [(heavy.format(0.0), light.format(1.0)), (light.format(1.05), heavy.format(0.05))]
    (tmp_path / "HD.extxyz").write_text("".join(frame.format(5 * i, *rows[i % 2]) for i in range(2)))
    np.testing.assert_allclose(trajectory.read(tmp_path / "HD.extxyz").system.masses, [2.014, 1.008], atol=1e-3)


def tumbling(name, n_molecules=4, n_frames=40):
    """Frames of rigid molecules that turn about changing axes and fly, periodic, 2 fs apart."""
    import bad_inputs
    from ase.build import molecule
    from scipy.spatial.transform import Rotation

    shape, rng, times = molecule(name), np.random.default_rng(0), 2.0 * np.arange(n_frames)
    sites, masses = shape.positions - shape.get_center_of_mass(), shape.get_masses()

    def at(t):
        turn = Rotation.from_euler("zyz", np.stack([0.3 + w * t, 0.5 + 0.1 * np.sin(w * t), 0.7 * w * t], axis=1))
        return (turn.as_matrix() @ sites.T).swapaxes(1, 2) + (places + drift * t)[:, None]

    w = rng.uniform(0.005, 0.01, n_molecules)
    places, drift = 12.0 * np.arange(n_molecules)[:, None] * [1, 0, 0], 0.002 * rng.normal(size=(n_molecules, 3))
    positions = np.array([at(t).reshape(-1, 3) for t in times])
    velocities = np.array([(at(t + 1e-4) - at(t - 1e-4)).reshape(-1, 3) / 2e-4 for t in times])
    symbols = tuple(shape.get_chemical_symbols()) * n_molecules
    return bad_inputs.Run(positions, velocities, times, None, 60.0 * np.eye(3), np.tile(masses, n_molecules), symbols)


@pytest.mark.parametrize("name, each", [("H2O", 6), ("C6H6", 6), ("CCl4", 6), ("C2H2", 5), ("CO2", 5), ("N2", 5)])
def test_rigid_molecules_have_six_or_five_degrees_of_freedom(tmp_path, capsys, name, each):
    import bad_inputs

    bad_inputs.write_traj(tmp_path / "run.traj", tumbling(name))
    assert summary(capsys, "info", tmp_path / "run.traj")["degrees_of_freedom"] == 4 * each - 3
    found = trajectory.read(tmp_path / "run.traj")
    trajectory.write(tmp_path / "run.h5", found._replace(system=dataclasses.replace(found.system, constraints=None)))
    assert summary(capsys, "info", tmp_path / "run.h5")["degrees_of_freedom"] == 4 * each - 3


def test_bonds_that_happen_to_vibrate_little_are_not_rigid(tmp_path):
    import bad_inputs

    rng, times = np.random.default_rng(1), 2.0 * np.arange(40)
    amplitude = np.where(np.arange(20) < 3, 1e-5, 0.03)[:, None]
    stretch = 1.1 + amplitude * np.sin(0.3 * times + rng.uniform(0, 6, (20, 1)))
    faster = 0.3 * amplitude * np.cos(0.3 * times + rng.uniform(0, 6, (20, 1)))
    positions, velocities = np.zeros((40, 40, 3)), np.zeros((40, 40, 3))
    positions[:, :20] = 3.0 * np.arange(20)[:, None] * [0, 1, 0] + 1e-3 * times[:, None, None]
    positions[:, 20:] = positions[:, :20] + stretch.T[..., None] * [1, 0, 0]
    velocities[:, 20:, 0] = faster.T
    run = bad_inputs.Run(positions, velocities + 1e-3, times, None, 90.0 * np.eye(3), np.full(40, 14.007), ("N",) * 40)
    bad_inputs.write_traj(tmp_path / "gas.traj", run)
    assert trajectory.read(tmp_path / "gas.traj").system.constraints is None


def test_blank_lines_between_frames_lose_none(tmp_path):
    import bad_inputs

    bad_inputs.write_extxyz(tmp_path / "run.extxyz", bad_inputs.lennard_jones(10))
    lines = (tmp_path / "run.extxyz").read_text().splitlines()
    for name, blank in (("one", ["", *lines[:90], "", *lines[90:]]), ("each", [])):
        blank = blank or [line for i in range(10) for line in (*lines[18 * i : 18 * (i + 1)], "  ")]
        (tmp_path / f"{name}.extxyz").write_text("\n".join(blank))
        assert len(trajectory.read(tmp_path / f"{name}.extxyz").times) == 10


def test_comments_that_speak_of_cells_are_no_others_programs(tmp_path):
    import bad_inputs

    bad_inputs.write_extxyz(tmp_path / "run.extxyz", bad_inputs.lennard_jones(4))
    text = (tmp_path / "run.extxyz").read_text().replace(" pbc=", " config_type=supercell unit_cell=fcc pbc=")
    (tmp_path / "run.extxyz").write_text(text)
    assert len(trajectory.read(tmp_path / "run.extxyz").times) == 4


@pytest.mark.parametrize("factor", [1822.888, 1e-3, 103.6427])
def test_masses_in_another_unit_are_refused(tmp_path, capsys, factor):
    import bad_inputs

    run = bad_inputs.lennard_jones(10)
    for kind in ("extxyz", "lammps"):
        name, write, hints = bad_inputs.FORMATS[kind]
        write(tmp_path / name, bad_inputs.with_(run, masses=factor * run.masses, energies=None))
        line = fails(capsys, "analyze", tmp_path / name, "--out", tmp_path / "r", *hints)
        assert "masses in another unit" in line


@pytest.mark.parametrize("unit", ["kJ/mol", "kJ mol^-1", "kcal/mol", np.array([b"kJ mol-1"]), " hartree "])
def test_spellings_of_units_are_understood(tmp_path, unit):
    import bad_inputs

    bad_inputs.write_h5md(tmp_path / "a.h5", bad_inputs.lennard_jones(6))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["observables/potential_energy/value"].attrs["unit"] = unit
        for name, spelling in (("position", "nm "), ("velocity", "nm*ps^-1")):
            file[f"particles/all/{name}/value"].attrs["unit"] = spelling
        species = file["particles/all/species"][()]
        del file["particles/all/species"]
        file["particles/all/species"] = species.astype(float) if isinstance(unit, str) else np.array([b"Ar"] * 16)
    found = trajectory.read(tmp_path / "a.h5")
    assert "potential_energy_eV" in found.observables and set(found.system.species) == {18}


def test_late_times_as_32_bit_numbers_need_their_interval(tmp_path):
    times = np.float32(100_000 + 0.01 * np.arange(40)).astype(np.float64) * 1000  # from 100 ns on
    with pytest.raises(ValueError, match="frame_interval_fs"):
        common.regular(times)
    np.testing.assert_allclose(np.diff(common.regular(times, 10.0)), 10.0)


def test_directions_that_are_held_and_wrong_statements_are_refused(tmp_path, capsys):
    import bad_inputs

    run = bad_inputs.lennard_jones(20)
    flat = bad_inputs.with_(
        run, positions=run.positions * [1, 1, 0], velocities=run.velocities * [1, 1, 0], energies=None
    )
    bad_inputs.write_traj(tmp_path / "flat.traj", flat)
    assert "never move along z" in fails(capsys, "analyze", tmp_path / "flat.traj", "--out", tmp_path / "r")
    bad_inputs.write_traj(tmp_path / "said.traj", bad_inputs.with_(run, fixed=(0, 1)))
    assert "is fixed, but it moves" in fails(capsys, "analyze", tmp_path / "said.traj", "--out", tmp_path / "r")


@pytest.mark.process
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_any_locale_will_do(cases, small, tmp_path, encoding):
    model, data = small
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for command in (["evaluate", model, data], ["info", model]):
        done = subprocess.run(
            [sys.executable, "-m", "ffmd_jax", *map(str, command)], env=environment, capture_output=True, text=True,
            errors="replace",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


# A limit on the size of files: what a full disk does, without one.
_ON_A_FULL_DISK = """
import contextlib, io, json, resource, sys
from pathlib import Path
from ffmd_jax.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20 * 1024, 20 * 1024))
found = []
for command in json.loads(sys.argv[1]):
    said, code = io.StringIO(), 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(command)
        except SystemExit as stop:
            code = stop.code
    found.append((code, said.getvalue(), [str(path) for path in Path(sys.argv[2]).iterdir()]))
print(json.dumps(found))
"""


@pytest.mark.process
def test_a_full_disk_ends_in_one_line_and_leaves_nothing(small, tmp_path):
    model, data = small
    run = data.parent / "run.traj"
    commands = {
        "data": ["dataset", run, "--time-step", 20, "--out", tmp_path / "d.h5"],
        "roll-out": ["rollout", model, "--start", run, "--temperature", 60, "--steps", 400, "--on-alarm", "warn",
                     "--float64", "--out", tmp_path / "r.h5"],
        "report": ["analyze", run, "--out", tmp_path / "report"],
    }  # fmt: skip
    words = json.dumps([[str(word) for word in command] for command in commands.values()])
    done = subprocess.run(
        [sys.executable, "-c", _ON_A_FULL_DISK, words, tmp_path], capture_output=True, text=True,
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0", "MPLCONFIGDIR": str(small[0])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    for name, (code, said, left) in zip(commands, json.loads(done.stdout.splitlines()[-1]), strict=True):
        lines = [line for line in said.splitlines() if line.startswith("ffmd: ")]
        assert code == 1 and len(lines) == 1 and "cannot be written" in lines[0], (name, said[-500:])
        assert left == [], name


@pytest.mark.slow
def test_outputs_never_replace_inputs(small, tmp_path, capsys):
    model, data = (Path(shutil.copytree(small[0], tmp_path / "m")), tmp_path / "data.h5")
    shutil.copy(small[1], data)
    before = data.read_bytes()
    os.link(data, tmp_path / "link.h5")
    for command in (
        ["train", data, "--out", data, "--overwrite"],
        ["train", data, "--out", tmp_path, "--overwrite"],
        ["train", data, "--out", model, "--init", model, "--overwrite"],
        ["rollout", model, "--start", data, "--out", data, "--steps", 2, "--overwrite"],
        ["rollout", model, "--start", f"{data}:1", "--out", data, "--steps", 2, "--overwrite"],
        ["dataset", data, "--time-step", 20, "--out", data, "--overwrite"],
        ["rollout", model, "--start", data, "--out", model / "weights.npz", "--steps", 2, "--overwrite"],
        ["rollout", model, "--start", data, "--out", tmp_path / "link.h5", "--steps", 2, "--overwrite"],
    ):
        assert "would replace the input" in fails(capsys, *command)
    assert data.read_bytes() == before and (model / "weights.npz").exists()


@pytest.mark.slow
def test_a_model_is_noted_to_have_seen_another_molecule(small, cases, tmp_path, capsys):
    start = cases / "frozen-atoms" / "slab.traj"
    atoms = ase.io.read(start)
    atoms.set_constraint()
    atoms.pbc = True
    ase.io.write(tmp_path / "start.traj", atoms)
    known = json.loads((small[0] / "calibration.json").read_text())
    assert known["formulas"] == ["Ar"]
    folder = Path(shutil.copytree(small[0], tmp_path / "model"))
    (folder / "calibration.json").write_text(json.dumps(known | {"formulas": ["Ar3Kr"]}))
    command = ["rollout", folder, "--start", tmp_path / "start.traj", "--temperature", 60, "--steps", 2]
    ffmd(*command, "--on-alarm", "warn", "--out", tmp_path / "o.h5")
    assert "trained on Ar3Kr and has not seen Ar" in capsys.readouterr().err


@pytest.mark.slow
def test_hints_for_one_file_do_not_contradict_the_other(small, cases, tmp_path):
    import bad_inputs

    bad_inputs.write_ours(tmp_path / "ours.h5", bad_inputs.lennard_jones(40))
    bad_inputs.write_traj(tmp_path / "b.traj", bad_inputs.with_(bad_inputs.lennard_jones(20), timed=False))
    report = api.analyze(tmp_path / "b.traj", tmp_path / "ours.h5", hints=Hints(frame_interval_fs=10.0), progress=False)
    assert report.reference is not None and len(report.analysis.times_fs) == 20
    other = bad_inputs.with_(bad_inputs.lennard_jones(40), times=20.0 * np.arange(40))
    other = bad_inputs.with_(other, velocities=other.velocities / 2, energies=None)
    bad_inputs.write_ours(tmp_path / "slow.h5", other)
    api.analyze(tmp_path / "b.traj", tmp_path / "slow.h5", hints=Hints(frame_interval_fs=10.0), progress=False)


@pytest.mark.parametrize("unit, size", [("kJ mol-1", 96.48533), ("hartree", 1 / 27.211386), ("eV", 1.0)])
def test_energies_of_h5md_are_converted(tmp_path, unit, size):
    import bad_inputs

    run = bad_inputs.lennard_jones(20)
    bad_inputs.write_h5md(tmp_path / "a.h5", run)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        values = file["observables/potential_energy/value"]
        values[...], values.attrs["unit"] = run.energies * size, unit
    found = trajectory.read(tmp_path / "a.h5").observables["potential_energy_eV"]
    np.testing.assert_allclose(found, run.energies, rtol=1e-6)


def test_g_of_r_of_different_boundaries_is_not_compared(small, tmp_path):
    import bad_inputs

    periodic, cluster = tmp_path / "a.traj", tmp_path / "b.traj"
    run = bad_inputs.lennard_jones(60)
    bad_inputs.write_traj(periodic, run)
    bad_inputs.write_traj(cluster, bad_inputs.with_(run, periodic=False))
    report = api.analyze(periodic, cluster, progress=False)
    structure = next(check for check in report.checks if check.quantity == "structure")
    assert structure.outcome == "cannot tell" and "different directions" in structure.statement
    assert report.summary["rdf_rmse"] is None


@pytest.mark.slow
@pytest.mark.process
def test_hundreds_of_inputs_end_in_a_right_result_or_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, HERE / "bad_inputs.py", tmp_path / "all"], capture_output=True, text=True, check=False,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)},
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (found[-1:], done.stderr[-2000:])  # the last one that began has crashed
    wrong = [one for one in found if one.get("faults") and "case" in one]
    assert not wrong
    assert found[-1]["inputs"] >= 250 and found[-1]["accepted"] >= 50
