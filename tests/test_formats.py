"""LAMMPS dumps, MDAnalysis, velocities from positions; and a table of bad files, each refused in one line."""

import gzip
import re
import sys
import warnings

import ase
import ase.io
import numpy as np
import pytest

from ffmd_jax.core import units
from ffmd_jax.core.state import State, make_system
from ffmd_jax.formats import trajectory
from ffmd_jax.formats.trajectory import Hints

CELL = np.array([[6.0, 0.0, 0.0], [-2.0, 5.0, 0.0], [-1.0, 0.5, 7.0]])  # lower triangular, as LAMMPS wants it
METAL = Hints(lammps_units="metal", lammps_timestep_fs=0.5, elements=("Si", "O"))
ORIGIN = np.array([-1.0, 2.0, 0.5])


def free_flight(n_frames=12, interval=5.0) -> trajectory.Trajectory:
    """Nine atoms that cross the cell."""
    rng = np.random.default_rng(0)
    species = np.array([14, 14, 14, 8, 8, 8, 8, 8, 8])
    velocities = rng.normal(size=(9, 3)) * 0.03
    times = interval * np.arange(n_frames)
    positions = ORIGIN + rng.uniform(0, 1, (9, 3)) @ CELL + velocities * times[:, None, None]
    frames = State(positions, np.broadcast_to(velocities, positions.shape).copy(), np.tile(CELL, (n_frames, 1, 1)))
    system = make_system(species, np.where(species == 14, 28.085, 15.999), True)
    return trajectory.Trajectory(system, frames, times, {}, {})


def bounds_of(cell):
    """BOX BOUNDS of a triclinic cell at ORIGIN."""
    (lx, _, _), (xy, ly, _), (xz, yz, lz) = cell
    x = ORIGIN[0] + min(0, xy, xz, xy + xz), ORIGIN[0] + lx + max(0, xy, xz, xy + xz), xy
    y = ORIGIN[1] + min(0, yz), ORIGIN[1] + ly + max(0, yz), xz
    return [x, y, (ORIGIN[2], ORIGIN[2] + lz, yz)]


def dump(original, columns="id type x y z vx vy vz", scale=1e3, header=(), steps_per_frame=10, cells=None) -> list[str]:
    """The text of each frame of a LAMMPS dump, atoms in random order, velocities in Å/fs × scale."""
    texts, rng = [], np.random.default_rng(1)
    for i, (r, v, cell) in enumerate(zip(*original.frames, strict=True)):
        cell = cell if cells is None else cells[i]
        fractional = (r - ORIGIN) @ np.linalg.inv(cell)
        image = np.floor(fractional)
        wrapped = r - image @ cell
        values = dict(zip(("x", "y", "z"), wrapped.T, strict=True))
        values |= dict(zip(("xu", "yu", "zu"), r.T, strict=True))
        values |= dict(zip(("xs", "ys", "zs"), (fractional - image).T, strict=True))
        values |= dict(zip(("xsu", "ysu", "zsu"), fractional.T, strict=True))
        values |= dict(zip(("ix", "iy", "iz"), image.astype(int).T, strict=True))
        values |= dict(zip(("vx", "vy", "vz"), scale * v.T, strict=True))
        if original.forces is not None:
            values |= dict(zip(("fx", "fy", "fz"), original.forces[i].T, strict=True))
        values["id"] = np.arange(1, 10)
        values["type"] = np.where(original.system.species == 14, 1, 2)
        values["element"] = np.where(original.system.species == 14, "Si", "O")
        lines = ["ITEM: TIMESTEP", str(steps_per_frame * i), *header, "ITEM: NUMBER OF ATOMS", "9"]
        lines += ["ITEM: BOX BOUNDS xy xz yz pp pp pp", *(" ".join(map(repr, map(float, b))) for b in bounds_of(cell))]
        lines += [f"ITEM: ATOMS {columns}"]
        rows = [" ".join(str(values[name][atom]) for name in columns.split()) for atom in rng.permutation(9)]
        texts.append("\n".join(lines + rows) + "\n")
    return texts


def assert_same_motion(found, expected, atol=1e-9):
    """Equal but for the lattice translations of the first frame."""
    first = found.frames.positions[0] - expected.frames.positions[0]
    shift = first @ np.linalg.inv(expected.frames.cell[0])
    np.testing.assert_allclose(shift, np.round(shift), atol=1e-6)
    np.testing.assert_allclose(found.frames.positions - first, expected.frames.positions, atol=atol)
    np.testing.assert_allclose(found.frames.velocities, expected.frames.velocities, atol=atol / 10)
    np.testing.assert_allclose(found.times - found.times[0], expected.times - expected.times[0], atol=1e-9)
    np.testing.assert_array_equal(found.system.species, expected.system.species)
    assert found.frames.cell.shape == (len(found.times), 3, 3)
    np.testing.assert_allclose(found.frames.cell, expected.frames.cell, atol=1e-6)


@pytest.mark.parametrize(
    "where", ["x y z", "xu yu zu", "xs ys zs", "xsu ysu zsu", "x y z ix iy iz", "xs ys zs ix iy iz"]
)
def test_lammps_positions_of_every_kind(tmp_path, where):
    original = free_flight()
    (tmp_path / "a.dump").write_text("".join(dump(original, f"id element {where} vx vy vz")))
    found = trajectory.read(tmp_path / "a.dump", hints=Hints(lammps_units="metal", lammps_timestep_fs=0.5))
    assert_same_motion(found, original)
    if "u" in where or "i" in where.split()[-1]:
        np.testing.assert_allclose(found.frames.positions, original.frames.positions, atol=1e-9)
    strided = trajectory.read(tmp_path / "a.dump", every=4, hints=METAL)
    np.testing.assert_array_equal(strided.frames.positions, found.frames.positions[::4])
    start = trajectory.read_start(tmp_path / "a.dump", frame=3, hints=METAL)[1]
    np.testing.assert_array_equal(start.velocities, found.frames.velocities[3])


@pytest.mark.parametrize(
    ("scale", "header", "hints"),
    [
        (1.0, (), Hints(lammps_units="real", lammps_timestep_fs=0.5, elements=("Si", "O"))),
        (1e3, ("ITEM: UNITS", "metal"), Hints(lammps_timestep_fs=0.5, elements=("Si", "O"))),
        (1e3, (), METAL),
    ],
)
def test_lammps_units_time_steps_and_types(tmp_path, scale, header, hints):
    original = free_flight()
    frames = dump(original, scale=scale)
    frames[0] = "\n".join([*header, frames[0]])
    with gzip.open(tmp_path / "a.lammpstrj.gz", "wt") as file:
        file.write("".join(frames))
    assert_same_motion(trajectory.read(tmp_path / "a.lammpstrj.gz", hints=hints), original)


@pytest.mark.parametrize(("name", "per_eV_per_A"), [("real", 23.06054783), ("metal", 1.0)])
def test_lammps_forces_are_in_the_units_of_the_dump(tmp_path, name, per_eV_per_A):
    original = free_flight()
    forces = np.random.default_rng(2).normal(size=original.frames.positions.shape)
    given, scale = original._replace(forces=per_eV_per_A * forces), {"real": 1.0, "metal": 1e3}[name]
    hints = Hints(lammps_units=name, lammps_timestep_fs=0.5, elements=("Si", "O"))
    texts = dump(given, "id type x y z vx vy vz fx fy fz", scale)
    (tmp_path / "a.dump").write_text("".join(texts))
    found = trajectory.read(tmp_path / "a.dump", hints=hints)
    assert_same_motion(found, original)
    np.testing.assert_allclose(found.forces, forces, rtol=1e-8)
    (tmp_path / "a.dump").write_text("".join([*texts[:-1], dump(given, scale=scale)[-1]]))
    assert trajectory.read(tmp_path / "a.dump", hints=hints).forces is None  # the last frame has none


def test_lammps_stated_times_and_shrink_wrapped_directions(tmp_path):
    original = free_flight()
    texts = dump(original, steps_per_frame=1)
    texts = [t.replace("ITEM: NUMBER", f"ITEM: TIME\n{0.005 * i!r}\nITEM: NUMBER") for i, t in enumerate(texts)]
    (tmp_path / "a.dump").write_text("".join(texts))
    found = trajectory.read(tmp_path / "a.dump", hints=Hints(lammps_units="metal", elements=("Si", "O")))
    assert_same_motion(found, original)
    # In z the box follows the atoms.
    cells = [CELL * [1, 1, 1 + 0.01 * i] for i in range(12)]
    slab = [t.replace("pp pp pp", "pp pp ss") for t in dump(original, "id type xu yu zu vx vy vz", cells=cells)]
    (tmp_path / "slab.dump").write_text("".join(slab))
    found = trajectory.read(tmp_path / "slab.dump", hints=METAL)
    assert found.system.pbc == (True, True, False)
    np.testing.assert_allclose(found.frames.positions, original.frames.positions, atol=1e-9)


def test_lammps_reader_agrees_with_ase(tmp_path):
    original = free_flight()
    text = "".join(dump(original, "id element x y z vx vy vz"))
    (tmp_path / "a.dump").write_text(text)
    found = trajectory.read(tmp_path / "a.dump", hints=METAL)
    images = ase.io.read(tmp_path / "a.dump", ":", format="lammps-dump-text", units="metal")
    for i in (0, 11):
        np.testing.assert_allclose(images[i].cell.array, found.frames.cell[i], atol=1e-9)
        np.testing.assert_allclose(
            images[i].get_velocities() * units.ASE_VELOCITY, found.frames.velocities[i], atol=1e-12
        )
    np.testing.assert_allclose(images[0].positions, found.frames.positions[0], atol=1e-9)


def lines_swapped(texts):
    return [*texts[:3], texts[4], texts[3], *texts[5:]]


def without_a_line(text):
    return "".join(text.splitlines(keepends=True)[:-1])


BAD_DUMPS = {
    "units": (lambda t: t, Hints(lammps_timestep_fs=0.5, elements=("Si", "O")), "`lammps_units` real or metal"),
    "time step": (lambda t: t, Hints(lammps_units="metal", elements=("Si", "O")), "`lammps_timestep_fs`"),
    "elements": (lambda t: t, Hints(lammps_units="metal", lammps_timestep_fs=0.5), "`elements`"),
    "too few elements": (lambda t: t, Hints(None, "metal", 0.5, ("Si",)), "types reach 2"),
    "no element": (lambda t: t, Hints(None, "metal", 0.5, ("Si", "Ox")), "'Ox': no element"),
    "other units": (lambda t: ["ITEM: UNITS\nlj\n" + t[0], *t[1:]], Hints(None, None, 0.5), "'lj' are not supported"),
    "contradiction": (lambda t: ["ITEM: UNITS\nreal\n" + t[0], *t[1:]], METAL, "states units real"),
    "lost frame": (lambda t: t[:5] + t[6:], METAL, "gaps differ: frame 5 at 30 fs comes 10 fs"),
    "repeated frame": (lambda t: [*t[:5], t[4], *t[5:]], METAL, "frame 5 at 20 fs comes 0 fs after"),
    "frames out of order": (lines_swapped, METAL, "times must increase: frame 4"),
    "cut atoms": (lambda t: [*t[:-1], t[-1][:-60]], METAL, "frame 11: .*truncated.* of 9 atoms"),
    "lost atom line": (lambda t: [*t[:4], without_a_line(t[4]), *t[5:]], METAL, "frame 4: .*8 of 9 atoms"),
    "cut header": (lambda t: [*t, "ITEM: TIMESTEP\n120\n"], METAL, "truncated in the header of frame 12"),
    "other atoms": (lambda t: [*t[:2], t[2].replace("\n9 2 ", "\n9 1 "), *t[3:]], METAL, "frame 2 holds other atoms"),
    "NaN": (lambda t: [*t[:2], re.sub(r"\n9 2 \S+", "\n9 2 nan", t[2]), *t[3:]], METAL, "NaN .* atom 8 of frame 2"),
    "not a number": (lambda t: [*t[:2], re.sub(r"\n9 2 \S+", "\n9 2 x", t[2]), *t[3:]], METAL, "frame 2: could not"),
    "no velocities": (
        lambda t: [x.replace("vx vy vz", "c1 c2 c3") for x in t],
        METAL,
        "no velocities .*`velocities` central-difference",
    ),
    "no id": (lambda t: [x.replace("ATOMS id", "ATOMS mol") for x in t], METAL, "column id is missing"),
    "no positions": (lambda t: [x.replace("x y z v", "a b c v") for x in t], METAL, "positions are missing"),
    "general triclinic": (
        lambda t: [x.replace("BOUNDS xy xz yz", "BOUNDS abc origin") for x in t],
        METAL,
        "general triclinic",
    ),
}


@pytest.mark.parametrize("case", BAD_DUMPS)
def test_bad_lammps_dumps_are_refused_in_one_line(tmp_path, case):
    change, hints, message = BAD_DUMPS[case]
    (tmp_path / "bad.dump").write_text("".join(change(dump(free_flight()))))
    with pytest.raises(ValueError, match=rf"bad\.dump: .*{message}") as caught:
        trajectory.read(tmp_path / "bad.dump", hints=hints)
    assert "\n" not in str(caught.value)


def test_changing_cell_of_a_dump_is_refused(tmp_path):
    cells = [CELL * (1 + 1e-4 * (i > 6)) for i in range(12)]
    (tmp_path / "a.dump").write_text("".join(dump(free_flight(), cells=cells)))
    with pytest.raises(ValueError, match=r"changing cell \(NPT\) is not supported here, first change at frame 7"):
        trajectory.read(tmp_path / "a.dump", hints=METAL)


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz"])
def test_damaged_compressed_files_are_named(tmp_path, ending):
    import bz2
    import lzma

    compress = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[ending]
    content = compress("".join(dump(free_flight())).encode())
    (tmp_path / f"a.dump.{ending}").write_bytes(content)
    assert len(trajectory.read(tmp_path / f"a.dump.{ending}", hints=METAL).times) == 12
    (tmp_path / f"cut.dump.{ending}").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"cut\.dump\.{ending}.*truncated"):
        trajectory.read(tmp_path / f"cut.dump.{ending}", hints=METAL)


def test_truncated_ase_files_are_named(tmp_path):
    original = free_flight()
    images = [ase.Atoms(original.system.species, r, cell=CELL, pbc=True) for r in original.frames.positions]
    for i, atoms in enumerate(images):
        atoms.set_array("velocities", original.frames.velocities[i])
        atoms.info["time"] = original.times[i]
    for ending in ("extxyz", "traj"):
        path = tmp_path / f"a.{ending}"
        ase.io.write(path, images)
        content = path.read_bytes()
        path.write_bytes(content[: int(0.93 * len(content))])
        with pytest.raises(ValueError, match=rf"a\.{ending}: .*truncated"):
            trajectory.read(path)
    del images[5].info["time"]
    ase.io.write(tmp_path / "b.extxyz", images)
    with pytest.raises(ValueError, match="frame 5 has no 'time'"):
        trajectory.read(tmp_path / "b.extxyz")


@pytest.fixture
def gromacs(tmp_path):
    """A TRR trajectory with velocities, and a PDB topology with elements, written by MDAnalysis."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mda = pytest.importorskip("MDAnalysis")
        original = free_flight()
        symbols = ["Si"] * 3 + ["O"] * 6
        universe = mda.Universe.empty(9, trajectory=True, velocities=True)
        universe.add_TopologyAttr("elements", symbols)
        universe.add_TopologyAttr("names", symbols)
        box = ase.cell.Cell(CELL).cellpar()
        fractional = (original.frames.positions - ORIGIN) @ np.linalg.inv(CELL)
        wrapped = (fractional - np.floor(fractional)) @ CELL
        for name in ("run.trr", "run.xtc"):
            with mda.Writer(str(tmp_path / name), 9) as writer:
                for i in range(12):
                    step = universe.trajectory.ts
                    step.positions, step.velocities = wrapped[i], 1e3 * original.frames.velocities[i]
                    step.dimensions, step.time, step.frame = box, original.times[i] / 1e3, i
                    step.data["time"], step.data["step"] = original.times[i] / 1e3, i
                    writer.write(universe.atoms)
        universe.atoms.write(str(tmp_path / "topology.pdb"))
        universe.atoms.write(str(tmp_path / "names.gro"))
        names = (tmp_path / "names.gro").read_text()
        (tmp_path / "labels.gro").write_text(names.replace("   Si", "  SI1").replace("    O", "   OW"))
    return tmp_path, original


def test_mdanalysis_trajectories_are_read(gromacs):
    folder, original = gromacs
    found = trajectory.read(folder / "run.trr", hints=Hints(topology=folder / "topology.pdb"))
    moved = original.frames.positions - original.frames.positions[0]
    # Velocities tell directions apart: MDAnalysis keeps the axes of a lower triangular cell.
    np.testing.assert_allclose(found.frames.positions - found.frames.positions[0], moved, atol=1e-4)
    np.testing.assert_allclose(found.frames.velocities, original.frames.velocities, atol=1e-7)
    np.testing.assert_allclose(found.times, original.times, atol=1e-4)
    np.testing.assert_allclose(found.frames.cell, np.tile(CELL, (12, 1, 1)), atol=1e-4)
    np.testing.assert_array_equal(found.system.species, original.system.species)
    state = trajectory.read_start(folder / "run.trr", hints=Hints(topology=folder / "topology.pdb"))[1]
    np.testing.assert_array_equal(state.positions, found.frames.positions[-1])


def test_what_mdanalysis_lacks_is_refused_with_advice(gromacs, monkeypatch):
    folder, _ = gromacs
    pdb, other = Hints(topology=folder / "topology.pdb"), folder / "other.pdb"
    other.write_text("".join((folder / "topology.pdb").read_text().splitlines(keepends=True)[:-3]) + "END\n")
    for path, hints, message in (
        ("run.trr", Hints(), "`topology`"),
        ("run.xtc", pdb, "no velocities .*`velocities` central-difference"),
        ("run.trr", Hints(topology=folder / "labels.gro"), "names no elements, only atoms: SI1 OW"),
        ("run.trr", Hints(topology=folder / "none.pdb"), "does not exist"),
        ("run.trr", Hints(topology=other), "MDAnalysis cannot read it with the topology other.pdb"),
    ):
        with pytest.raises(ValueError, match=rf"{path}: .*{message}"):
            trajectory.read(folder / path, hints=hints)
    content = (folder / "run.trr").read_bytes()
    (folder / "cut.trr").write_bytes(content[: len(content) // 2 + 50])
    with pytest.raises(ValueError, match=r"cut\.trr: .*truncated"):
        trajectory.read(folder / "cut.trr", hints=pdb)
    monkeypatch.setitem(sys.modules, "MDAnalysis", None)
    with pytest.raises(ImportError, match=r"run\.trr needs MDAnalysis.*ffmd-jax\[mdanalysis\]"):
        trajectory.read(folder / "run.trr", hints=pdb)


def test_central_differences_are_as_wrong_as_they_say(tmp_path):
    # One frequency: v comes out as sin(ωδ)/ωδ of the true one.
    omega, interval = 0.05, 8.0
    times = interval * np.arange(400)
    phase = np.random.default_rng(0).uniform(0, 6, (9, 3))
    positions = 5 * np.eye(9, 3) + 0.1 * np.sin(omega * times[:, None, None] + phase)
    velocities = 0.1 * omega * np.cos(omega * times[:, None, None] + phase)
    original = free_flight()
    cells = np.tile(CELL, (400, 1, 1))
    whole = original._replace(frames=State(positions, 0 * positions, cells), times=times)
    trajectory.write(tmp_path / "a.h5", whole)
    found = trajectory.read(tmp_path / "a.h5", hints=Hints(velocities="central-difference"))
    np.testing.assert_array_equal(found.times, times[1:-1])
    expected = np.sin(omega * interval) / (omega * interval)
    np.testing.assert_allclose(found.frames.velocities, expected * velocities[1:-1], atol=1e-6)
    stated = found.metadata["velocity_relative_error"]
    assert stated == pytest.approx(1 - expected, rel=0.05)
    assert "±8 fs" in found.metadata["velocities"]
    with pytest.raises(ValueError, match="five frames"):
        trajectory.central_differences(trajectory.read(tmp_path / "a.h5", every=100))
