"""Sets of reference runs: start states, energy conservation, restart, and the doors for ASE and jax-md."""

import json
import shlex
import sys
import types

import ase
import ase.build
import ase.calculators.calculator
import ase.calculators.emt
import ase.io
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import fails, ffmd

from ffmd_jax.core import mechanics, units
from ffmd_jax.core.state import State, make_system, take
from ffmd_jax.data import nve
from ffmd_jax.dynamics import rollout
from ffmd_jax.dynamics.engine import Block
from ffmd_jax.dynamics.ensemble import NVT
from ffmd_jax.formats import trajectory
from ffmd_jax.reference_md import ase_engine, drift, jax_md_adapter, production, sampling, systems, teachers

EMT = "ase.calculators.emt:EMT"


pytestmark = pytest.mark.usefixtures("restore_precision")


def cluster():
    """Five copper atoms, no symmetry."""
    atoms = ase.Atoms("Cu5", [[0, 0, 0], [2.4, 0, 0], [1.2, 2.1, 0], [1.2, 0.7, 2.0], [1.2, 0.7, -2.0]])
    atoms.rattle(0.02, seed=1)
    return atoms


def emt_engine(dt=2.0):
    return ase_engine.engine("EMT", cluster(), ase_engine.make_calculator(EMT, {}), dt)


@pytest.fixture
def structure(tmp_path):
    ase.io.write(tmp_path / "cluster.traj", cluster())
    return tmp_path / "cluster.traj"


def emt(structure, *arguments):
    """A short set of three runs of the cluster."""
    short = ["--length-ps", 0.4, "--equilibrate-ps", 0.1, "--spacing-ps", 0.1, "--dt", 2]
    return ["reference", "ase", "--calculator", EMT, "--start", structure, *short, *arguments]


def frames(path):
    with h5py.File(path, "r") as file:
        return file["particles/all/position/value"][()], file["particles/all/velocity/value"][()]


def test_prepared_systems_give_independent_nve_runs(tmp_path, capsys):
    ffmd("reference", "argon", "--repeat", 2, 2, 2, "--temperature", 60, "--runs", 2, "--out", tmp_path / "ref.h5",
         "--length-ps", 4, "--equilibrate-ps", 1, "--spacing-ps", 0.3, "--frame-fs", 20)  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ref_0.h5", "ref_1.h5"]
    runs = [trajectory.read(tmp_path / f"ref_{i}.h5") for i in range(2)]
    for run in runs:
        nve.check(run)
        np.testing.assert_allclose(run.times, 20 * np.arange(1, 201))
        assert abs(np.einsum("i,tix->tx", run.system.masses, run.frames.velocities)).max() < 1e-6
        kinetic = mechanics.kinetic_energy(run.system, run.frames.velocities)
        potential, total = (run.observables[f"{name}_energy_eV"] for name in ("potential", "total"))
        np.testing.assert_allclose(potential + kinetic, total, atol=1e-6)
    assert abs(runs[0].frames.positions[0] - runs[1].frames.positions[0]).max() > 0.1
    assert capsys.readouterr().out.count("meV/atom/ps, energy fluctuation") == 2


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_forces_of_frames_are_stored_where_they_are_asked_for(tmp_path, ensemble):
    ffmd("reference", "argon", "--repeat", 2, 2, 2, "--temperature", 60, "--out", tmp_path / "ref.h5", "--forces",
         "--ensemble", ensemble, "--length-ps", 0.2, "--equilibrate-ps", 0.2, "--spacing-ps", 0.1,
         "--frame-fs", 20)  # fmt: skip
    run = trajectory.read(tmp_path / "ref.h5")
    argon = systems.argon((2, 2, 2))
    for i in (0, 9):
        value, forces = production.energy_and_forces(argon, take(run.frames, i))
        np.testing.assert_allclose(run.forces[i], forces, atol=1e-5)  # stored in single precision, as positions are
        assert run.observables["potential_energy_eV"][i] == pytest.approx(float(value), abs=1e-5)
    assert np.abs(run.forces).max() > 1e-3 and run.forces.shape == (10, 32, 3)


def test_forces_of_calculators_are_those_of_the_stored_frames(structure, tmp_path):
    ffmd(*emt(structure, "--out", tmp_path / "ref.h5", "--forces"))
    ffmd(*emt(structure, "--out", tmp_path / "bare.h5"))
    run, bare = (trajectory.read(tmp_path / name) for name in ("ref.h5", "bare.h5"))
    assert bare.forces is None
    np.testing.assert_array_equal(run.frames.positions, bare.frames.positions)
    atoms = cluster()
    atoms.calc = ase.calculators.emt.EMT()
    for positions, forces in zip(run.frames.positions[::9], run.forces[::9], strict=True):
        atoms.set_positions(positions)
        np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-4)  # stored in single precision
    assert np.abs(run.forces).max() > 0.1


@pytest.mark.slow
def test_start_states_are_apart_near_the_mean_energy_and_at_rest():
    engine = emt_engine(dt=2.0)
    options = {"temperature_K": 300.0, "equilibrate_fs": 500.0, "spacing_fs": 200.0}
    blocks = list(sampling.heat(engine, NVT(300.0, 100.0, "langevin"), 50 + 6 * 40, jax.random.key(0)))
    starts = sampling.choose(engine.system, blocks, n_starts=6, **options)
    assert starts.times_fs[0] >= 700 and np.diff(starts.times_fs).min() >= 200
    for i, energy in enumerate(starts.total_energies_eV):
        state = take(starts.states, i)
        assert abs(mechanics.linear_momentum(engine.system, state.velocities)).max() < 1e-12
        assert abs(mechanics.angular_momentum(engine.system, state)).max() < 1e-12
        whole = rollout.gather(engine.run(state, n_steps=1, every=1, key=jax.random.key(0)))
        assert whole.observables["total_energy_eV"][0] == pytest.approx(energy, abs=1e-3)
    # Canonical: σ² = f k²T² for f harmonic degrees of freedom; ten frames to choose from leave about σ/10.
    canonical = np.sqrt(9) * units.BOLTZMANN * 300
    assert np.sqrt(np.mean((starts.total_energies_eV - starts.mean_energy_eV) ** 2)) < 0.6 * canonical
    fewer = sampling.choose(engine.system, blocks, n_starts=2, **options)
    np.testing.assert_array_equal(fewer.states.positions, starts.states.positions[:2])
    with pytest.raises(ValueError, match="gives 6 start states, 9 are needed"):
        sampling.choose(engine.system, blocks, n_starts=9, **options)


def test_start_energies_of_a_small_system_are_those_of_the_bath_after_a_short_run():
    """24 vibrations, 1.5 ps of Langevin dynamics: the mean total energy is off by 20 K, the estimate by 5 K."""
    rng, n_runs, n_frames, kT = np.random.default_rng(8), 40, 150, units.BOLTZMANN * 300
    system = make_system([18] * 9, [40.0] * 9, True)
    shapes = np.linalg.qr(np.column_stack([np.kron(np.ones((9, 1)), np.eye(3)), rng.normal(size=(27, 24))]))[0][:, 3:]
    omega = 2 * np.pi * np.linspace(200, 3000, 24) / (1000 * units.TERAHERTZ_IN_PER_CM)
    x, p = np.sqrt(kT) * rng.normal(size=(2, n_runs, 24))  # √(eV): energies are ½x² + ½p²
    keep, turn, potential, momenta = np.exp(-1 / 100), omega * 1.0, [], []
    for step in range(10 * n_frames):  # 1 fs each
        x, p = x * np.cos(turn) + p * np.sin(turn), p * np.cos(turn) - x * np.sin(turn)
        p = keep * p + np.sqrt((1 - keep**2) * kT) * rng.normal(size=p.shape)
        if step % 10 == 9:
            potential.append(0.5 * np.sum(x**2, axis=-1))
            momenta.append(p)
    velocities = np.sqrt(units.EV / 40.0) * (np.array(momenta) @ shapes.T).reshape(n_frames, n_runs, 9, 3)
    cells, times = np.tile(10 * np.eye(3), (n_frames, 1, 1)), 10.0 * np.arange(1, n_frames + 1)
    options = {"temperature_K": 300.0, "n_starts": 1, "equilibrate_fs": 0.0, "spacing_fs": 750.0}
    found, plain = [], []
    for run in range(n_runs):
        frames, energies = State(0 * velocities[:, run], velocities[:, run], cells), np.array(potential)[:, run]
        block = Block(frames, times, {"potential_energy_eV": energies}, None)
        starts = sampling.choose(system, [block], **options)
        found.append([starts.mean_energy_eV, starts.total_energies_eV[0]])
        plain.append(np.mean(energies + mechanics.kinetic_energy(system, velocities[:, run])))
    kelvin = np.array(found) / (24 * units.BOLTZMANN)
    assert abs(kelvin.mean(axis=0) - 300).max() < 5 * kelvin.std(axis=0).max() / np.sqrt(n_runs)
    assert kelvin[:, 0].std() < 7 < 15 < np.std(plain) / (24 * units.BOLTZMANN)
    assert np.sqrt(np.mean((kelvin[:, 1] - 300) ** 2)) < 10


def oscillators(dt, n_steps=4000):
    """Velocity Verlet of 50 oscillators with ω = 0.1 / fs, as energies."""
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(2, 50, 3))
    kinetic, potential = [], []
    for _ in range(n_steps):
        v = v - 0.5 * dt * 0.01 * x
        x = x + dt * v
        v = v - 0.5 * dt * 0.01 * x
        kinetic.append(0.5 * np.sum(v**2) * 100)
        potential.append(0.5 * np.sum(x**2))
    times = dt * np.arange(1, n_steps + 1)
    kinetic = np.array(kinetic) / 100 * 1e3
    potential = 0.01 * np.array(potential) * 1e3
    return drift.Energies(times, kinetic + potential, kinetic)


def test_the_energy_of_an_oscillator_fluctuates_with_the_square_of_the_step():
    system = make_system([18] * 50, [40.0] * 50)
    for dt in (2.0, 4.0):
        found = drift.summarize(system, oscillators(dt)).relative_fluctuation
        share = (0.1 * dt / 2) ** 2
        assert found == pytest.approx(share / (1 - share), rel=1e-6)
    drift.check(system, oscillators(8.0))
    with pytest.raises(drift.Unphysical, match=r"0\.33 times as much as the kinetic"):
        drift.check(system, oscillators(10.0))


def test_drift_is_fitted_with_its_error_and_refused_where_it_heats():
    system = make_system([18] * 50, [40.0] * 50)
    rng = np.random.default_rng(0)
    times = 10.0 * np.arange(1, 1001)
    kinetic = 2.0 + 0.2 * rng.normal(size=1000)  # 316 K in 147 degrees of freedom
    found = [
        drift.summarize(system, drift.Energies(times, 5e-3 * times / 1000 + 0.01 * rng.normal(size=1000), kinetic))
        for _ in range(200)
    ]
    slopes, errors = (np.array([getattr(run, name) for run in found]) for name in ("drift", "drift_error"))
    assert slopes.mean() == pytest.approx(1000 * 5e-3 / 50, abs=5 * slopes.std() / np.sqrt(200))
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(slopes.std(), rel=0.25)
    assert found[0].fluctuation == pytest.approx(1000 * 0.01 / 50, rel=0.1)
    heating = 0.06 * 147 * units.BOLTZMANN * found[0].temperature_K / 10  # 6 % in 10 ps
    kinetic = 2.0 + 0.6 * rng.normal(size=1000)
    drift.check(system, drift.Energies(times, 0.5 * heating * times / 1000, kinetic))
    with pytest.raises(drift.Unphysical, match=r"temperature by 6\.\d %"):
        drift.check(system, drift.Energies(times, heating * times / 1000, kinetic))


@pytest.mark.slow
@pytest.mark.parametrize(
    "ensemble",
    [
        NVT(300.0, 2.0),
        NVT(300.0, 1e6, friction_tau_fs=4.0),
        NVT(300.0, 2.0, friction_tau_fs=50.0, friction_above_per_cm=100.0),
        NVT(300.0, 4.0, "langevin"),
    ],
    ids=["csvr", "friction", "friction on fast motions", "langevin"],
)
def test_thermostats_of_ase_runs_are_canonical_and_count_rotations_out(ensemble):
    engine = emt_engine(dt=4.0)
    start = mechanics.maxwell_boltzmann(jax.random.key(1), engine.system, engine.state, 300.0)
    blocks = engine.run(start, n_steps=2500, every=1, key=jax.random.key(2), ensemble=ensemble)
    run = rollout.gather(blocks)
    kinetic = mechanics.kinetic_energy(engine.system, run.frames.velocities)[20:]
    expected = 0.5 * 9 * units.BOLTZMANN * 300
    # Correlated over τ = 2 fs, half a frame.  3N − 3 degrees of freedom: a mean of 4/3, a variance of 3/4 (of 16/9).
    error = expected * np.sqrt(2 / 9) / np.sqrt(len(kinetic))
    assert abs(kinetic.mean() - expected) < 5 * error < 0.2 * expected
    assert kinetic.var() == pytest.approx(2 / 9 * expected**2, rel=0.2)


def test_a_mean_temperature_that_is_off_comes_with_its_reason():
    system = make_system([18] * 9, [40.0] * 9, True)
    for kelvin, reason in ((340.0, "300 K were asked for: "), (303.0, ""), (500.0, "")):
        kinetic = np.full(100, 12 * units.BOLTZMANN * kelvin)
        found = drift.explain(
            system, drift.summarize(system, drift.Energies(np.arange(100.0), kinetic, kinetic)), 300.0
        )
        assert bool(found) == bool(reason) and reason in found
        assert not found or "± 61 K in 24 degrees of freedom" in found


class Remembering(ase.calculators.emt.EMT):
    """Its results depend on how often it was called, as those of a self-consistent field depend on its last guess."""

    calls = 0

    def calculate(self, *arguments):
        super().calculate(*arguments)
        self.calls += 1
        self.results["forces"] = self.results["forces"] * (1 + 1e-6 * self.calls)


def test_a_run_does_not_depend_on_those_before_it():
    engine = ase_engine.engine("remembering", cluster(), Remembering, 2.0)
    start = mechanics.maxwell_boltzmann(jax.random.key(1), engine.system, engine.state, 300.0)
    one, other = (rollout.gather(engine.run(start, n_steps=20, every=5, key=jax.random.key(0))) for _ in range(2))
    np.testing.assert_array_equal(one.frames.positions, other.frames.positions)


def test_ase_runs_conserve_energy_and_momenta(structure, tmp_path, capsys):
    ffmd(*emt(structure, "--out", tmp_path / "ref.h5"))
    assert not (tmp_path / "ref_starts.npz").exists()
    run = trajectory.read(tmp_path / "ref.h5")
    nve.check(run)
    for i in (0, -1):
        state = take(run.frames, i)
        assert abs(mechanics.linear_momentum(run.system, state.velocities)).max() < 1e-5
        assert abs(mechanics.angular_momentum(run.system, state)).max() < 1e-5
    assert np.std(run.observables["total_energy_eV"]) < 1e-3
    assert "energy drift" in capsys.readouterr().out


def test_friction_that_steps_do_not_resolve_is_refused_before_a_file_is_removed(structure, tmp_path, capsys):
    out = tmp_path / "ref.h5"
    out.write_bytes(b"old")
    options = ["--ensemble", "nvt", "--friction-tau-fs", 500, "--friction-above-per-cm", 1e6, "--overwrite"]
    assert "--friction-above-per-cm must be below" in fails(capsys, *emt(structure, *options, "--out", out))
    assert out.read_bytes() == b"old"


@pytest.mark.slow
def test_ase_runs_have_friction_and_say_so(structure, tmp_path):
    options = ["--ensemble", "nvt", "--friction-tau-fs", 500, "--friction-above-per-cm", 200, "--seed", 4]
    ffmd(*emt(structure, *options, "--out", tmp_path / "ref.h5"))
    found = trajectory.read_metadata(tmp_path / "ref.h5")
    bath = {"ensemble": "nvt", "temperature_K": 300.0, "thermostat": "csvr", "tau_fs": 100.0, "friction_tau_fs": 500.0}
    assert (bath | {"friction_above_per_cm": 200.0}).items() <= found.items()
    command = found["command"]
    assert "--length-ps" not in command and f"--start {structure}" in command
    ffmd(*shlex.split(command)[1:], "--length-ps", 0.4, "--out", tmp_path / "again.h5")
    for one, other in zip(frames(tmp_path / "ref.h5"), frames(tmp_path / "again.h5"), strict=True):
        np.testing.assert_array_equal(one, other)


def interrupt_in_run(monkeypatch, number):
    """Ctrl-C after a block of that run has been written."""
    original = trajectory.Writer.append

    def append(self, *arguments, **options):
        original(self, *arguments, **options)
        if self._path.name == f"ref_{number}.h5.partial":
            raise KeyboardInterrupt

    monkeypatch.setattr(trajectory.Writer, "append", append)


@pytest.mark.slow
def test_a_resumed_set_is_the_same_bit_for_bit(structure, tmp_path, monkeypatch, capsys):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir(), torn.mkdir()
    arguments = emt(structure, "--runs", 3)
    ffmd(*arguments, "--out", whole / "ref.h5")
    with monkeypatch.context() as patch:
        interrupt_in_run(patch, 1)
        message = fails(capsys, *arguments, "--out", torn / "ref.h5", code=130)
    assert "1 of 3 runs are finished" in message and "--resume" in message
    assert sorted(path.name for path in torn.iterdir()) == ["ref_0.h5", "ref_starts.npz"]
    assert "unfinished" in fails(capsys, *arguments[:-1], 1, "--out", torn / "ref.h5")
    message = fails(capsys, *arguments, "--out", torn / "ref.h5", "--resume", "--seed", 1)
    assert "--seed = 1" in message and "made with 0" in message
    message = fails(capsys, *arguments, "--out", torn / "ref.h5", "--resume", "--frame-fs", 20)
    assert "--frame-fs" in message
    (torn / "ref_1.h5.partial").write_bytes(b"killed here")
    before = (torn / "ref_0.h5").stat().st_mtime_ns
    ffmd(*arguments, "--out", torn / "ref.h5", "--resume")
    assert (torn / "ref_0.h5").stat().st_mtime_ns == before
    assert sorted(path.name for path in torn.iterdir()) == ["ref_0.h5", "ref_1.h5", "ref_2.h5"]
    (torn / "ref_2.h5").unlink()
    ffmd(*arguments, "--out", torn / "ref.h5", "--resume")  # start states made again
    for i in range(3):
        for one, other in zip(frames(whole / f"ref_{i}.h5"), frames(torn / f"ref_{i}.h5"), strict=True):
            np.testing.assert_array_equal(one, other)
    capsys.readouterr()
    ffmd(*arguments, "--out", torn / "ref.h5", "--resume")
    assert "all 3 runs are finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ensemble", "dt", "reason"),
    [("nve", 24, "times as much as the kinetic"), ("nvt", 24, "times as much"), ("nve", 50, "in a heat bath of 300 K")],
)
def test_a_time_step_that_does_not_conserve_energy_is_refused(structure, tmp_path, capsys, ensemble, dt, reason):
    options = ["--out", tmp_path / "ref.h5", "--dt", dt, "--frame-fs", dt, "--ensemble", ensemble, "--length-ps", 1.44]
    message = fails(capsys, *emt(structure, *options))
    assert reason in message and f"--dt than {dt} fs, such as {dt // 2}" in message
    assert list(tmp_path.iterdir()) == [structure]


def test_misspelt_arguments_of_calculators_are_noted(caplog):
    ase_engine.make_calculator(EMT, {"asap_cutof": True})
    assert "asap_cutof=…; did you mean asap_cutoff?" in caplog.text


class Nothing(ase.calculators.calculator.Calculator):
    """Gives energies, no forces."""

    implemented_properties = ("energy",)

    def calculate(self, *arguments):
        self.results = {"energy": 0.0}


def no_weights():
    raise RuntimeError("no weights")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"calculator": "nosuch.module:Thing"}, "install the package that has nosuch.module"),
        ({"calculator": "tblite.nosuch:Thing"}, "pip install 'ffmd-jax[xtb]'"),
        ({"calculator": "ase.calculators.emt:EMTT"}, "has no calculator 'EMTT'; did you mean EMT?"),
        ({"calculator": "ase.calculators.emt"}, "takes module:Class"),
        ({"calculator": "absent"}, "absent needs the package no_such_package: pip install no_such_package"),
        ({"calculator": "broken"}, "broken fails (RuntimeError: no weights)"),
        ({"calculator": "broken", "calculator-args": "a=1"}, "broken has no --calculator-args"),
        ({"calculator": "ase:Atoms"}, "no ASE calculator?"),
        ({"calculator": "fake:Nothing"}, "gives no energies and forces"),
        ({"calculator-args": "nonsense"}, "key=value"),
        ({"calculator": "ase.build:bulk", "calculator-args": "wrong=1"}, "does not accept --calculator-args"),
        ({"start": "missing.xyz"}, "does not exist"),
        ({"start": "empty.xyz"}, "without atoms"),
        ({"frame-fs": 3}, "not a multiple of the time step"),
        ({"spacing-ps": 0.01}, "--spacing-ps must be at least 0.1"),
        ({"repeat": (1, 1, 1)}, "no --repeat"),
        ({"runs": 0}, "--runs must be at least 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(structure, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    fake = types.ModuleType("fake")
    fake.Nothing = Nothing
    monkeypatch.setitem(sys.modules, "fake", fake)
    absent = teachers.Teacher("", "no_such_package", "pip install no_such_package", Nothing)
    monkeypatch.setitem(teachers.TEACHERS, "absent", absent)
    monkeypatch.setitem(teachers.TEACHERS, "broken", teachers.Teacher("", "ase", "pip install ase", no_weights))
    (tmp_path / "empty.xyz").write_text("0\n\n")
    options = [
        part
        for name, value in change.items()
        for part in (f"--{name}", *(value if isinstance(value, tuple) else (value,)))
    ]
    assert message in fails(capsys, *emt(structure, "--out", "ref.h5", *options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster.traj", "empty.xyz"]


def test_chgnet_computes_the_stress_only_where_it_is_asked_for(monkeypatch):
    """A stand-in for the package, which is not a dependency."""

    class Whole(ase.calculators.calculator.Calculator):
        implemented_properties = ("energy", "forces", "stress")

        def __init__(self, use_device):
            super().__init__()
            self.tasks = []

        def calculate(self, atoms=None, properties=None, system_changes=None, task="efsm"):
            super().calculate(atoms, properties, system_changes)
            self.tasks.append(task)
            self.results |= {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}
            self.results |= {"stress": np.zeros(6)} if "s" in task else {}

    fake = types.ModuleType("chgnet.model.dynamics")
    fake.CHGNetCalculator = Whole
    for name in ("chgnet", "chgnet.model"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "chgnet.model.dynamics", fake)
    atoms = ase.build.bulk("Cu", cubic=True)
    atoms.calc = teachers.TEACHERS["chgnet"].make()
    atoms.get_potential_energy()
    atoms.get_forces()
    assert atoms.calc.tasks == ["ef"]
    atoms.get_stress()
    assert atoms.calc.tasks == ["ef", "efs"]


def test_calculator_arguments_are_literals_or_strings():
    found = ase_engine.parse_arguments("method=GFN2-xTB,accuracy=0.1, kpts=(2,2,2),fast=true,n=3,label='a,b',x=none")
    assert found == {
        "method": "GFN2-xTB",
        "accuracy": 0.1,
        "kpts": (2, 2, 2),
        "fast": True,
        "n": 3,
        "label": "a,b",
        "x": None,
    }
    with pytest.raises(ValueError, match="twice"):
        ase_engine.parse_arguments("a=1,a=2")


@pytest.mark.slow
def test_jax_md_energies_run_as_prepared_systems():
    from jax_md import energy, smap, space

    argon = systems.argon((4, 4, 4))
    moves = np.random.default_rng(0).normal(scale=0.1, size=argon.state.positions.shape)
    state = argon.state._replace(positions=argon.state.positions + moves)
    distance = space.metric(space.periodic(np.diag(state.cell))[0])
    epsilon, sigma = 0.010323, 3.405

    def pair(r, **_):
        inverse = jnp.where(r > 0, sigma / jnp.where(r > 0, r, 1.0), 0.0)  # padding has r = 0
        shifted = 4 * epsilon * (inverse**12 - inverse**6 - 2.5**-12 + 2.5**-6)
        return jnp.where(r < 2.5 * sigma, shifted, 0.0)

    expected, forces = production.energy_and_forces(argon, state)
    for name in ("Dense", "OrderedSparse"):
        energy_fn = smap.pair_neighbor_list(pair, distance)
        wrapped = jax_md_adapter.reference(
            "argon", argon.system, state, energy_fn, cutoff=2.5 * sigma, dt=4.0, skin=0.5, format=name
        )
        value, found = production.energy_and_forces(wrapped, state)
        assert float(value) == pytest.approx(float(expected), abs=1e-9)
        np.testing.assert_allclose(found, forces, atol=1e-9)
    plain = jax_md_adapter.reference("argon", argon.system, state, smap.pair(pair, distance), cutoff=None, dt=4.0)
    value = plain.energy(argon.system, jax.tree.map(jnp.asarray, state), None)
    assert float(value) == pytest.approx(float(expected), abs=1e-9)
    small = systems.argon((3, 3, 3))
    with pytest.raises(ValueError, match="take a larger cell"):
        jax_md_adapter.reference("argon", small.system, small.state, energy.lennard_jones, cutoff=8.0, dt=4.0)


@pytest.mark.slow
def test_xtb_teaches_ethanol(tmp_path, capsys):
    pytest.importorskip("tblite.ase")
    ase.io.write(tmp_path / "ethanol.xyz", ase.build.molecule("CH3CH2OH"))
    ffmd("reference", "ase", "--calculator", "tblite.ase:TBLite", "--calculator-args", "method=GFN2-xTB,accuracy=0.1",
         "--start", tmp_path / "ethanol.xyz", "--length-ps", 0.2, "--frame-fs", 2, "--equilibrate-ps", 0.05,
         "--spacing-ps", 0.1, "--out", tmp_path / "ref.h5")  # fmt: skip
    run = trajectory.read(tmp_path / "ref.h5")
    nve.check(run)
    settings = run.metadata["settings"]
    assert settings["dt"] == 0.5 and json.loads(json.dumps(settings)) == settings
    assert np.std(run.observables["total_energy_eV"]) < 0.1 * np.std(run.observables["potential_energy_eV"])
    assert "|" not in capsys.readouterr().out  # tblite's own tables
