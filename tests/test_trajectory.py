"""Files give back what was written, in the right units, and refuse what they cannot mean."""

import shutil
import tracemalloc
import warnings

import ase
import ase.io
import h5py
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from ffmd_jax.core import units
from ffmd_jax.core.state import State, make_cell, make_system, take
from ffmd_jax.data import nve
from ffmd_jax.formats import trajectory

QUARTZ_CELL = np.array([[4.916, 0.0, 0.0], [-2.458, 4.2574, 0.0], [0.0, 0.0, 5.4054]])
METADATA = {"system": "quartz", "ensemble": "nve", "temperature_K": 300, "seed": 1}


def make_trajectory(n_frames=23, cell=QUARTZ_CELL, pbc=True, interval=10.0, speed=0.02) -> trajectory.Trajectory:
    """Nine atoms in free flight, fast enough to cross the cell."""
    rng = np.random.default_rng(0)
    species = np.array([14, 14, 14, 8, 8, 8, 8, 8, 8])
    masses = np.where(species == 14, 28.085, 15.999)
    velocities = rng.normal(size=(9, 3)) * speed
    times = 100.0 + interval * np.arange(n_frames)
    positions = rng.uniform(0, 5, (9, 3)) + velocities * (times - 100.0)[:, None, None]
    cells = np.tile(make_cell(cell, pbc), (n_frames, 1, 1))
    frames = State(positions, np.broadcast_to(velocities, positions.shape).copy(), cells)
    observables = {"potential_energy_eV": rng.normal(size=n_frames), "total_energy_eV": np.ones(n_frames)}
    return trajectory.Trajectory(make_system(species, masses, pbc), frames, times, observables, METADATA)


def make_atoms(original: trajectory.Trajectory, momenta=True, column=False, wrap=False) -> list[ase.Atoms]:
    """The trajectory as ASE structures with times."""
    system, images = original.system, []
    for positions, velocities, cell, time in zip(*original.frames, original.times, strict=True):
        atoms = ase.Atoms(system.species, positions, cell=cell, pbc=system.pbc, masses=system.masses)
        atoms.info["time"] = time
        if momenta:
            atoms.set_velocities(velocities / units.ASE_VELOCITY)
        if column:
            atoms.set_array("velocities", velocities)
        if wrap:
            atoms.wrap()
        images.append(atoms)
    return images


def assert_same(found, expected, atol=2e-6):
    np.testing.assert_allclose(found.frames.positions, expected.frames.positions, atol=atol)
    np.testing.assert_allclose(found.frames.velocities, expected.frames.velocities, atol=atol / 100)
    np.testing.assert_allclose(found.times, expected.times, rtol=1e-12)
    np.testing.assert_array_equal(found.system.species, expected.system.species)
    assert found.system.pbc == expected.system.pbc
    np.testing.assert_allclose(found.system.masses, expected.system.masses, atol=1e-3)
    assert found.frames.cell.shape == (len(found.times), 3, 3)
    np.testing.assert_allclose(found.frames.cell, expected.frames.cell, atol=1e-6)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "run.h5"
    trajectory.write(path, make_trajectory())
    return path


@pytest.mark.parametrize("pbc", [True, False, (True, True, False), (False, True, False)])
def test_h5md_round_trip(tmp_path, pbc):
    original = make_trajectory(cell=None if pbc is False else QUARTZ_CELL, pbc=pbc)
    trajectory.write(tmp_path / "a.h5", original)
    found = trajectory.read(tmp_path / "a.h5")
    assert_same(found, original, atol=1e-5)
    np.testing.assert_array_equal(found.times, original.times)
    np.testing.assert_array_equal(found.frames.cell, original.frames.cell)
    np.testing.assert_array_equal(found.system.masses, original.system.masses)
    assert found.observables.keys() == original.observables.keys()
    for name, values in original.observables.items():
        np.testing.assert_array_equal(found.observables[name], values)
    assert found.metadata == METADATA
    assert all(values.dtype == np.float64 for values in found.frames)


def test_every_frame_has_its_cell_in_memory_and_in_the_file(tmp_path, written):
    original, whole = make_trajectory(), trajectory.read(written)
    assert whole.frames.cell.shape == (23, 3, 3)
    np.testing.assert_array_equal(whole.frames.cell, original.frames.cell)
    with h5py.File(written) as file:
        box = file["particles/all/box"]
        assert list(box.attrs["boundary"]) == ["periodic"] * 3 and box["edges/value"].attrs["unit"] == "Angstrom"
        np.testing.assert_array_equal(box["edges/value"], original.frames.cell)
        np.testing.assert_array_equal(box["edges/time"], original.times)
    assert trajectory.read(written, every=5).frames.cell.shape == (5, 3, 3)
    np.testing.assert_array_equal(trajectory.read_start(written, frame=4)[1].cell, QUARTZ_CELL)
    trajectory.write(tmp_path / "b.h5", whole)
    np.testing.assert_array_equal(trajectory.read(tmp_path / "b.h5").frames.cell, whole.frames.cell)
    ase.io.write(tmp_path / "a.extxyz", make_atoms(original))
    np.testing.assert_allclose(trajectory.read(tmp_path / "a.extxyz").frames.cell, original.frames.cell, atol=1e-7)
    # A cell without a frame axis, or of another number of frames, is no trajectory's.
    for cell in (QUARTZ_CELL, original.frames.cell[:22]):
        with (
            pytest.raises(ValueError, match=r"the cell must be finite and \[23, 3, 3\]"),
            trajectory.Writer(tmp_path / "c.h5", original.system, {}) as writer,
        ):
            writer.append(original.frames._replace(cell=cell), original.times, {})
        assert not (tmp_path / "c.h5").exists()


def test_float64_files_are_exact(tmp_path):
    original = make_trajectory()
    with trajectory.Writer(tmp_path / "a.h5", original.system, {}, dtype=np.float64) as writer:
        writer.append(original.frames, original.times, {})
    found = trajectory.read(tmp_path / "a.h5")
    for one, other in zip(found.frames, original.frames, strict=True):
        np.testing.assert_array_equal(one, other)


def pushed(original, seed=1):
    """The trajectory with some forces, eV/Å."""
    forces = np.random.default_rng(seed).normal(size=original.frames.positions.shape)
    return original._replace(forces=forces)


def test_forces_are_kept_where_they_are_known(tmp_path, written):
    original = pushed(make_trajectory())
    trajectory.write(tmp_path / "a.h5", original)
    found = trajectory.read(tmp_path / "a.h5")
    assert_same(found, original, atol=1e-5)
    assert found.forces.dtype == np.float64
    np.testing.assert_allclose(found.forces, original.forces, rtol=1e-6)
    np.testing.assert_array_equal(trajectory.read(tmp_path / "a.h5", every=5).forces, found.forces[::5])
    np.testing.assert_array_equal(trajectory.part(found, slice(3, 9)).forces, found.forces[3:9])
    assert trajectory.read(written).forces is None
    assert trajectory.part(trajectory.read(written), [1, 2]).forces is None


@pytest.mark.parametrize(
    ("unit", "per_eV_per_A"),
    [("kJ mol-1 nm-1", 964.8533212), ("kcal mol-1 Angstrom-1", 23.06054783), ("eV/nm", 10.0), ("eV Angstrom-1", 1.0)],
)
def test_forces_of_other_programs_are_in_their_units(tmp_path, unit, per_eV_per_A):
    original = pushed(make_trajectory())
    trajectory.write(tmp_path / "a.h5", original)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["ffmd_jax"]
        force = file["particles/all/force/value"]
        force[...] = per_eV_per_A * original.forces
        force.attrs["unit"] = unit
    found = trajectory.read(tmp_path / "a.h5")
    np.testing.assert_allclose(found.forces, original.forces, rtol=1e-6)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["particles/all/force/value"].attrs["unit"]
    with pytest.raises(ValueError, match=r"a\.h5: .*force/value has no unit"):
        trajectory.read(tmp_path / "a.h5")


def test_forces_that_do_not_fit_are_refused(tmp_path):
    original = pushed(make_trajectory())
    bad = np.array(original.forces)
    bad[5, 2] = np.nan
    for forces in (original.forces[:, :8], original.forces[:22], bad):
        with (
            pytest.raises(ValueError, match="force"),
            trajectory.Writer(tmp_path / "a.h5", original.system, {}) as writer,
        ):
            writer.append(original.frames, original.times, {}, forces=forces)
        assert not (tmp_path / "a.h5").exists()
    first, second = (trajectory.part(original, chosen) for chosen in (slice(0, 9), slice(9, 23)))
    for one, other in ((first.forces, None), (None, second.forces)):
        with trajectory.Writer(tmp_path / "a.h5", original.system, {}, overwrite=True) as writer:
            writer.append(first.frames, first.times, {}, forces=one)
            with pytest.raises(ValueError, match="force"):
                writer.append(second.frames, second.times, {}, forces=other)
        assert len(trajectory.read(tmp_path / "a.h5").times) == 9
    trajectory.write(tmp_path / "b.h5", original)
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        file["particles/all/force/value"][5, 2] = np.nan
    with pytest.raises(ValueError, match=r"b\.h5: forces hold NaN .* atom 2 of frame 5"):
        trajectory.read(tmp_path / "b.h5")


def test_blocks_equal_one_write_and_every_counts_frames(tmp_path, written):
    original, whole = make_trajectory(), trajectory.read(written)
    with trajectory.Writer(tmp_path / "b.h5", original.system, METADATA) as writer:
        for block in (slice(0, 1), slice(1, 2), slice(2, 20), slice(20, 23)):
            frames = take(original.frames, block)
            names = original.observables
            writer.append(frames, original.times[block], {name: names[name][block] for name in names})
            assert trajectory.read_start(tmp_path / "b.h5")[1].positions.shape == (9, 3)  # flushed
    blocks = trajectory.read(tmp_path / "b.h5")
    for one, other in zip(blocks.frames, whole.frames, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(blocks.times, whole.times)
    strided = trajectory.read(written, every=5)
    for one, other in zip(strided.frames, whole.frames, strict=True):
        np.testing.assert_array_equal(one, other[::5])
    np.testing.assert_array_equal(strided.times, whole.times[::5])
    np.testing.assert_array_equal(strided.observables["total_energy_eV"], np.ones(5))


def test_strided_reading_and_summaries_hold_few_frames_in_memory(tmp_path):
    original, path = make_trajectory(20_000), tmp_path / "long.h5"
    trajectory.write(path, original)

    def peak(function):
        tracemalloc.start()
        try:
            found = function()
            return found, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    whole, bytes_whole = peak(lambda: trajectory.read(path))
    strided, bytes_strided = peak(lambda: trajectory.read(path, every=200))
    np.testing.assert_array_equal(strided.frames.positions, whole.frames.positions[::200])
    summary, bytes_summary = peak(lambda: trajectory.summary(path))
    np.testing.assert_array_equal(summary.times, original.times)
    np.testing.assert_array_equal(summary.cell, original.frames.cell[0])
    assert summary.observables == sorted(original.observables) and not summary.forces
    assert summary.metadata == METADATA and summary.system.pbc == original.system.pbc
    assert max(bytes_strided, bytes_summary) < bytes_whole / 5


@pytest.mark.slow
def test_a_run_killed_many_times_is_no_larger_on_disk(tmp_path):
    """Each kill leaves the space that HDF5 had set aside; resuming gives it back."""
    original = make_trajectory(4000, speed=0.3)  # images are stored, too
    scalars = original.observables

    def append(writer, first, last):
        chosen = slice(first, last)
        block = {name: values[chosen] for name, values in scalars.items()}
        writer.append(take(original.frames, chosen), original.times[chosen], block)

    def blocks(writer, first, last):
        for i in range(first, last, 20):
            append(writer, i, i + 20)

    with trajectory.Writer(tmp_path / "whole.h5", original.system, METADATA) as writer:
        blocks(writer, 0, 4000)
    path, sizes = tmp_path / "killed.h5", []
    with trajectory.Writer(path, original.system, METADATA) as writer:
        blocks(writer, 0, 100)
    for kept in range(100, 4000, 100):
        live = tmp_path / "live.h5"
        shutil.copy(path, live)
        writer = trajectory.Writer(live, original.system, METADATA, keep_frames=(kept,))
        blocks(writer, kept, min(kept + 160, 4000))
        shutil.copy(live, path)  # as a kill leaves it: not closed, and with frames that no restart file knows
        writer.close()
        sizes.append(path.stat().st_size)
    with trajectory.Writer(path, original.system, METADATA, keep_frames=(4000,)):
        pass
    whole = (tmp_path / "whole.h5").stat().st_size
    assert path.stat().st_size < 1.3 * whole + 2**18
    assert max(sizes) < 1.6 * whole + 2**19
    found, expected = trajectory.read(path), trajectory.read(tmp_path / "whole.h5")
    for one, other in zip(found.frames, expected.frames, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.observables["potential_energy_eV"], scalars["potential_energy_eV"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["killed.h5", "live.h5", "whole.h5"]
    with h5py.File(path) as file:  # still one dataset of times, with several names
        assert file["particles/all/velocity/time"] == file["particles/all/position/time"]
        assert file["observables/total_energy_eV/time"] == file["particles/all/position/time"]


def test_mdanalysis_reads_the_files(written):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mda = pytest.importorskip("MDAnalysis")
        universe = mda.Universe.empty(9, trajectory=False)
        universe.load_new(str(written), format="H5MD")
        original = make_trajectory()
        assert len(universe.trajectory) == 23
        for frame in (0, 7, 22):
            step = universe.trajectory[frame]
            np.testing.assert_allclose(step.positions, original.frames.positions[frame], atol=1e-5)
            np.testing.assert_allclose(step.velocities, 1000 * original.frames.velocities[frame], rtol=1e-5)  # Å/ps
            assert step.time == pytest.approx(original.times[frame] / 1000)  # ps
            np.testing.assert_allclose(step.dimensions, [4.916, 4.916, 5.4054, 90, 90, 120], atol=1e-3)
            assert step.data["potential_energy_eV"] == original.observables["potential_energy_eV"][frame]
        universe.trajectory.close()


def test_units_of_other_programs_are_honoured_and_required(written):
    expected = trajectory.read(written)
    with h5py.File(written, "r+") as file:
        del file["ffmd_jax"]
        everything = file["particles/all"]
        for name, factor, unit in (
            ("position/value", 0.1, "nm"),
            ("box/edges/value", 0.1, "nm"),
            ("velocity/value", 100.0, "nm ps-1"),
            ("position/time", 1e-3, "ps"),
        ):
            everything[name][...] = everything[name][...] * factor
            everything[name].attrs["unit"] = unit
    assert_same(trajectory.read(written), expected, atol=1e-5)
    with h5py.File(written, "r+") as file:
        del file["particles/all/velocity/value"].attrs["unit"]
    with pytest.raises(ValueError, match="velocity/value has no unit"):
        trajectory.read(written)


def test_wrapped_positions_of_other_programs_are_unwrapped(written):
    original = make_trajectory()
    fractional = original.frames.positions @ np.linalg.inv(QUARTZ_CELL)
    image = np.floor(fractional)
    with h5py.File(written, "r+") as file:
        del file["ffmd_jax"]
        file["particles/all/position/value"][...] = (fractional - image) @ QUARTZ_CELL
    found = trajectory.read(written, every=2)
    moved = original.frames.positions - original.frames.positions[0]
    np.testing.assert_allclose(found.frames.positions - found.frames.positions[0], moved[::2], atol=1e-5)
    with h5py.File(written, "r+") as file:
        file["particles/all/image/value"] = image.astype(int)
    assert_same(trajectory.read(written), original, atol=1e-5)


def test_species_that_are_not_atomic_numbers_are_refused(written):
    with h5py.File(written, "r+") as file:
        del file["ffmd_jax"]
        file["particles/all/species"][...] = [1, 1, 1, 2, 2, 2, 2, 2, 2]
    with pytest.raises(ValueError, match="no atomic numbers"):
        trajectory.read(written)


def test_a_changing_cell_is_read_and_refused_as_training_data(written, tmp_path):
    with h5py.File(written, "r+") as file:
        file["particles/all/box/edges/value"][4:, 0, 0] *= 1.001
    found = trajectory.read(written)
    assert len(np.unique(found.frames.cell[:, 0, 0])) == 2
    with pytest.raises(ValueError, match=r"NPT.*frame 4"):
        nve.check(found)
    images = make_atoms(make_trajectory())
    images[6].cell[2, 2] += 0.01
    ase.io.write(tmp_path / "a.extxyz", images)
    assert len(np.unique(trajectory.read(tmp_path / "a.extxyz").frames.cell[:, 2, 2])) == 2


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.99])
def test_truncated_file_is_named(written, kept):
    content = written.read_bytes()
    written.write_bytes(content[: int(kept * len(content))])
    for reader in (trajectory.read, trajectory.read_start):
        with pytest.raises(ValueError, match=r"run\.h5 is not a readable HDF5 file"):
            reader(written)


def test_other_files_are_named(tmp_path):
    (tmp_path / "text.h5").write_text("not HDF5\n")
    with pytest.raises(ValueError, match=r"text\.h5 is not a readable HDF5 file") as caught:
        trajectory.read(tmp_path / "text.h5")
    assert "\n" not in str(caught.value)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = 1.0
    with pytest.raises(ValueError, match=r"data\.h5 is not an H5MD trajectory"):
        trajectory.read(tmp_path / "data.h5")
    (tmp_path / "bad.extxyz").write_text("3\nnothing\nH 0 0\n")
    with pytest.raises(ValueError, match=r"bad\.extxyz: ASE cannot read it"):
        trajectory.read_start(tmp_path / "bad.extxyz")
    with pytest.raises(FileNotFoundError, match=r"absent\.h5"):
        trajectory.read(tmp_path / "absent.h5")


def test_existing_file_is_kept_unless_overwritten(written):
    before, other = written.read_bytes(), make_trajectory(n_frames=3)
    with pytest.raises(FileExistsError, match=r"run\.h5 already exists"):
        trajectory.write(written, other)
    assert written.read_bytes() == before
    trajectory.write(written, other, overwrite=True)
    assert len(trajectory.read(written).times) == 3


def test_failure_before_the_first_block_leaves_things_as_they_were(tmp_path, written):
    before, system = written.read_bytes(), make_trajectory().system
    for path in (tmp_path / "new.h5", written):
        with pytest.raises(RuntimeError), trajectory.Writer(path, system, {}, overwrite=True):
            raise RuntimeError
    assert not (tmp_path / "new.h5").exists()
    assert written.read_bytes() == before
    with pytest.raises(OSError, match="does not exist"):
        trajectory.Writer(tmp_path / "folder" / "a.h5", system, {})


@pytest.mark.parametrize("complete_blocks", [0, 1])
def test_interrupted_block_is_taken_back(tmp_path, monkeypatch, complete_blocks):
    original, path = make_trajectory(), tmp_path / "a.h5"

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), trajectory.Writer(path, original.system, METADATA) as writer:
        if complete_blocks:
            writer.append(original.frames, original.times, {})
        monkeypatch.setattr(h5py.File, "flush", interrupt)
        try:
            writer.append(original.frames, original.times + 230.0, {})
        finally:
            monkeypatch.undo()
    assert path.exists() == bool(complete_blocks)
    if complete_blocks:
        assert_same(trajectory.read(path), original, atol=1e-5)


def test_unclosed_file_holds_the_flushed_blocks(tmp_path):
    original = make_trajectory()
    writer = trajectory.Writer(tmp_path / "a.h5", original.system, METADATA)
    writer.append(original.frames, original.times, {})
    (tmp_path / "killed.h5").write_bytes((tmp_path / "a.h5").read_bytes())
    writer.close()
    assert_same(trajectory.read(tmp_path / "killed.h5"), original, atol=1e-5)


def test_blocks_that_do_not_fit_are_refused(tmp_path):
    original = make_trajectory()
    frames, times, energies = original.frames, original.times, original.observables
    with trajectory.Writer(tmp_path / "a.h5", original.system, {}) as writer:
        writer.append(frames, times, energies)
        with pytest.raises(ValueError, match="first block"):
            writer.append(frames, times + 230.0, {"total_energy_eV": np.ones(23)})
        with pytest.raises(ValueError, match="frame 23"):
            writer.append(frames, times + 231.0, energies)
        with pytest.raises(ValueError, match="needed"):
            writer.append(frames, times[:-1] + 230.0, energies)
        broken = frames._replace(positions=np.where(times[:, None, None] == times[4], np.nan, frames.positions))
        with pytest.raises(ValueError, match=r"NaN.*frame 4"):
            writer.append(broken, times + 230.0, energies)
    assert_same(trajectory.read(tmp_path / "a.h5"), original, atol=1e-5)


def test_nan_in_files_is_refused(written):
    with h5py.File(written, "r+") as file:
        file["particles/all/position/value"][5, 2, 1] = np.nan
    with pytest.raises(ValueError, match=r"run\.h5: positions hold NaN .*atom 2 of frame 5"):
        trajectory.read(written)
    assert trajectory.read_start(written, frame=4)[1].positions.shape == (9, 3)
    with pytest.raises(ValueError, match="NaN"):
        trajectory.read_start(written, frame=5)


def test_frame_interval_finds_the_wrong_frame():
    times = 0.3 + 0.5 * np.arange(100_000)
    assert trajectory.frame_interval(times) == pytest.approx(0.5, rel=1e-9)
    # float32 at 50 ps resolves 0.004 fs: rounding is no irregularity
    assert trajectory.frame_interval(times.astype(np.float32)) == pytest.approx(0.5, rel=1e-6)
    # float32 beyond 2^24 fs cannot resolve 1 fs, but a lost frame must still be seen
    assert trajectory.frame_interval(2.0**23 + np.arange(9)) == 1.0
    for dtype in (np.float64, np.float32):
        with pytest.raises(ValueError, match=r"gaps differ: frame 700 at .* comes 1 fs after .* others 0.5"):
            trajectory.frame_interval(np.delete(times[:1000], 700).astype(dtype))
        with pytest.raises(ValueError, match="must increase: frame 6 at"):
            trajectory.frame_interval(np.insert(times[:1000], 5, times[5]).astype(dtype))
    with pytest.raises(ValueError, match=r"gaps differ: frame 11"):
        trajectory.frame_interval(times[:1000] + 1e-5 * (np.arange(1000) > 10))
    with pytest.raises(ValueError, match="must increase"):
        trajectory.frame_interval([2.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="two frames"):
        trajectory.frame_interval([1.0])


@pytest.mark.parametrize("name", ["a.extxyz", "a.xyz.gz", "a.traj"])
def test_ase_momenta_are_read(tmp_path, name):
    original = make_trajectory()
    ase.io.write(tmp_path / name, make_atoms(original))
    assert_same(trajectory.read(tmp_path / name), original)


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj"])
def test_ase_forces_are_read_where_all_frames_have_them(tmp_path, name):
    original = pushed(make_trajectory())
    images = make_atoms(original, wrap=True)
    for atoms, energy, forces in zip(images, original.observables["potential_energy_eV"], original.forces, strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    ase.io.write(tmp_path / name, images)
    found = trajectory.read(tmp_path / name)
    np.testing.assert_allclose(found.forces, original.forces, rtol=0, atol=1e-7)
    np.testing.assert_allclose(
        found.observables["potential_energy_eV"], original.observables["potential_energy_eV"], rtol=0, atol=1e-7
    )
    np.testing.assert_array_equal(trajectory.read(tmp_path / name, every=4).forces, found.forces[::4])
    images[7].calc = SinglePointCalculator(images[7], energy=0.0)
    ase.io.write(tmp_path / name, images)
    assert trajectory.read(tmp_path / name).forces is None


def test_momenta_and_velocity_column_agree(tmp_path):
    original = make_trajectory()
    for i, (momenta, column) in enumerate(((False, True), (True, True))):
        ase.io.write(tmp_path / f"{i}.extxyz", make_atoms(original, momenta, column))
        assert_same(trajectory.read(tmp_path / f"{i}.extxyz"), original)
    images = make_atoms(original, momenta=True, column=True)
    images[3].arrays["velocities"] *= 1.01
    ase.io.write(tmp_path / "c.extxyz", images)
    with pytest.raises(ValueError, match="disagree"):
        trajectory.read(tmp_path / "c.extxyz")


def test_missing_velocities_are_refused_with_advice(tmp_path, written):
    ase.io.write(tmp_path / "a.extxyz", make_atoms(make_trajectory(), momenta=False))
    with h5py.File(written, "r+") as file:
        del file["particles/all/velocity"]
    for path in (tmp_path / "a.extxyz", written):
        for reader in (trajectory.read, trajectory.read_start):
            with pytest.raises(ValueError, match=r"no velocities found.*`temperature`"):
                reader(path)
        state = trajectory.read_start(path, need_velocities=False)[1]
        assert not np.any(state.velocities)


def test_start_is_the_chosen_frame(tmp_path, written):
    original = make_trajectory()
    ase.io.write(tmp_path / "a.extxyz", make_atoms(original))
    for path in (written, tmp_path / "a.extxyz"):
        for frame in (-1, 0, 7, -3):
            system, state = trajectory.read_start(path, frame=frame)
            np.testing.assert_allclose(state.positions, original.frames.positions[frame], atol=1e-5)
            np.testing.assert_allclose(state.velocities, original.frames.velocities[frame], atol=1e-7)
            np.testing.assert_array_equal(system.species, original.system.species)
            assert state.cell.shape == (3, 3)
            np.testing.assert_allclose(state.cell, QUARTZ_CELL, atol=1e-6)
        with pytest.raises(ValueError, match=path.name):
            trajectory.read_start(path, frame=99)


def test_ase_times_are_required_and_checked(tmp_path):
    original = make_trajectory()
    images = make_atoms(original)
    for atoms in images:
        del atoms.info["time"]
    ase.io.write(tmp_path / "a.extxyz", images)
    with pytest.raises(ValueError, match=r"`frame_interval_fs`"):
        trajectory.read(tmp_path / "a.extxyz")
    found = trajectory.read(tmp_path / "a.extxyz", every=2, hints=trajectory.Hints(frame_interval_fs=10.0))
    np.testing.assert_allclose(found.times, original.times[::2] - original.times[0])
    ase.io.write(tmp_path / "b.extxyz", make_atoms(original))
    with pytest.raises(ValueError, match="interval is 10 fs, not 5"):
        trajectory.read(tmp_path / "b.extxyz", hints=trajectory.Hints(frame_interval_fs=5.0))
    images = make_atoms(original)
    ase.io.write(tmp_path / "c.extxyz", images[:4] + images[5:])
    with pytest.raises(ValueError, match=r"c\.extxyz: gaps differ: frame 4"):
        trajectory.read(tmp_path / "c.extxyz")


def test_reordered_atoms_are_refused(tmp_path):
    images = make_atoms(make_trajectory())
    images[2] = images[2][::-1]
    ase.io.write(tmp_path / "a.extxyz", images)
    with pytest.raises(ValueError, match="frame 2 holds other atoms"):
        trajectory.read(tmp_path / "a.extxyz")


@pytest.mark.parametrize("pbc", [True, (True, False, True)])
def test_wrapped_ase_frames_are_unwrapped(tmp_path, pbc):
    original = make_trajectory(pbc=pbc)
    if not original.system.pbc[1]:  # an open direction has no images, however far an atom goes in a frame
        original.frames.positions[:, 0] += 0.7 * np.arange(23)[:, None] * QUARTZ_CELL[1]
    images = make_atoms(original, wrap=True)
    ase.io.write(tmp_path / "a.extxyz", images)
    found = trajectory.read(tmp_path / "a.extxyz", every=3).frames.positions
    moved = original.frames.positions - original.frames.positions[0]
    assert np.abs(np.diff([a.positions for a in images], axis=0)).max() > 2.0  # the test wraps at all
    np.testing.assert_allclose(found - found[0], moved[::3], atol=1e-6)
