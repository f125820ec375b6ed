"""Energies along rollouts, energy conservation, and the Monte Carlo barostat."""

import json
import re

import ase.build
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import fails, ffmd, perturbed

from ffmd_jax import api
from ffmd_jax.analysis import properties
from ffmd_jax.core import conservation, mechanics, units
from ffmd_jax.core.state import State, make_system, take
from ffmd_jax.dynamics import barostat, monitors, potentials, rollout
from ffmd_jax.dynamics.engine import Engine
from ffmd_jax.dynamics.ensemble import NPT, NVE
from ffmd_jax.dynamics.potentials import Potential
from ffmd_jax.formats import ase_files, trajectory
from ffmd_jax.interop.ase import ForceFreeDynamics
from ffmd_jax.models import config as configs
from ffmd_jax.models import model_files, trajcast
from ffmd_jax.models import potential as potential_models
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import integrator, systems
from ffmd_jax.simulation.simulate import simulate

pytestmark = pytest.mark.usefixtures("restore_precision")

ARGON = systems.argon((2, 2, 2))
EXACT = Potential("argon", ARGON.energy, ARGON.cutoff)


@pytest.fixture(scope="module")
def start():
    with jax.enable_x64(True):
        return mechanics.maxwell_boltzmann(jax.random.key(3), ARGON.system, ARGON.state, 60.0)


@pytest.mark.parametrize("periodic", [True, False])
def test_energy_is_added_exactly_and_momenta_stay(periodic):
    system, state = perturbed(periodic)
    state = state._replace(velocities=state.velocities + jnp.array([1e-3, 2e-3, 0]))
    before = mechanics.kinetic_energy(system, state.velocities)
    for wanted in (0.03, -0.02):
        after, rest = conservation.add_energy(system, state, jnp.asarray(wanted))
        np.testing.assert_allclose(mechanics.kinetic_energy(system, after.velocities) - before, wanted, rtol=1e-10)
        np.testing.assert_allclose(rest, 0, atol=1e-12)
        momenta = (mechanics.linear_momentum(system, x.velocities) for x in (state, after))
        np.testing.assert_allclose(*momenta, atol=1e-12)
        if not periodic:
            np.testing.assert_allclose(*(mechanics.angular_momentum(system, x) for x in (state, after)), atol=1e-12)


@pytest.mark.parametrize("wanted", [100.0, -100.0, np.nan, np.inf])
def test_what_cannot_be_added_is_carried_or_dropped_but_never_a_nan(wanted):
    system, state = perturbed()
    after, rest = conservation.add_energy(system, state, jnp.asarray(wanted))
    assert np.isfinite(after.velocities).all()
    change = mechanics.kinetic_energy(system, after.velocities) - mechanics.kinetic_energy(system, state.velocities)
    np.testing.assert_allclose(rest, wanted - change if np.isfinite(wanted) else 0.0, rtol=1e-10, atol=1e-12)


def drifting(system, state, graph):
    """A reference step that loses a little of the velocities: what the potential should make up for."""
    moved = integrator.drift_kick_drift(ARGON.energy, 10.0)(system, state, graph)
    return moved._replace(velocities=0.999 * moved.velocities)


def run(start, **options):
    given = {"cutoff": ARGON.cutoff, "time_step_fs": 10.0, "key": jax.random.key(0), "potential": EXACT, "every": 5}
    return rollout.gather(
        rollout.run(ARGON.system, jax.tree.map(jnp.asarray, start), drifting, **{**given, **options}, skin=1.0)
    )


def test_conservation_keeps_the_total_energy_and_counts_what_the_propagator_loses(start):
    kinetic = float(mechanics.kinetic_energy(ARGON.system, start.velocities))
    plain, kept = (run(start, n_steps=300, conserve_energy=conserve) for conserve in (False, True))
    total = plain.observables["total_energy_eV"]
    assert total[-1] < total[0] - 0.2 * kinetic
    lost = plain.observables["propagator_gain_eV"]
    np.testing.assert_allclose(total - total[0], lost - lost[0], atol=1e-9)  # nothing else changes the energy
    total = kept.observables["total_energy_eV"]
    np.testing.assert_allclose(total, total[0], atol=1e-10)
    assert kept.observables["propagator_gain_eV"][-1] < -0.2 * kinetic
    # The energies are those of the frames, also where the table was not built in the last step.
    exact = systems.get("argon", structure=(ARGON.system, take(kept.frames, -1)))
    from ffmd_jax.reference_md import production

    np.testing.assert_allclose(
        production.energy_and_forces(exact, exact.state)[0], kept.observables["potential_energy_eV"][-1], rtol=1e-12
    )


def test_a_potential_with_a_larger_cutoff_has_a_table_of_its_own(start):
    def free(system, state, graph):
        return state._replace(positions=state.positions + 10.0 * state.velocities)

    frames = [
        rollout.gather(
            rollout.run(
                ARGON.system, jax.tree.map(jnp.asarray, start), free, cutoff=cutoff, time_step_fs=10.0, n_steps=200,
                every=20, key=jax.random.key(0), potential=EXACT, skin=0.8, ahead=0.05,
            )
        )
        for cutoff in (4.5, ARGON.cutoff)
    ]  # fmt: skip
    one, other = (block.observables["potential_energy_eV"] for block in frames)
    np.testing.assert_allclose(one, other, rtol=1e-12)
    assert np.ptp(one) > 0.01


@pytest.mark.slow
def test_steps_beyond_what_the_table_was_planned_for_are_noticed(start):
    """With no look ahead the table would miss pairs at the end of a step; it grows, and energies stay exact."""

    def leap(system, state, graph):
        return state._replace(positions=state.positions + 400.0 * state.velocities)

    def energies(ahead):
        engine = Engine(
            ARGON.system, jax.tree.map(jnp.asarray, start), leap, cutoff=ARGON.cutoff, time_step_fs=400.0, skin=0.6,
            potential=EXACT, ahead=ahead, block_steps=4,
        )  # fmt: skip
        block = engine.advance(engine.start(start, jax.random.key(0)), 4)
        return engine, block.observables["potential_energy_eV"][0]

    small, found = energies(0.05)
    large, expected = energies(4.0)
    assert small.search.ahead > 0.05 and large.search.ahead == 4.0
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.slow
def test_the_volume_of_an_ideal_gas_follows_its_distribution():
    """p(V) ~ V^N exp(−PV/kT): mean and variance within five standard errors."""
    n_atoms, length = 12, 20.0
    rng = np.random.default_rng(0)
    system = make_system([18] * n_atoms, [40.0] * n_atoms, True)
    velocities = rng.normal(size=(n_atoms, 3)) * 0.003
    state = State(rng.uniform(0, length, (n_atoms, 3)), velocities - velocities.mean(axis=0), length * np.eye(3))
    pressure = n_atoms * units.BOLTZMANN * 300 / length**3 / units.BAR

    def free(system, state, graph):
        return state._replace(positions=state.positions + 5.0 * state.velocities)

    def nothing(system, state, graph):
        return jnp.zeros(())

    block = rollout.gather(
        rollout.run(
            system, jax.tree.map(jnp.asarray, state), free, cutoff=4.0, time_step_fs=5.0, n_steps=40_000, every=10,
            key=jax.random.key(1), ensemble=NPT(300.0, 50.0, pressure_bar=pressure, barostat_every=1), ahead=0.2,
            potential=Potential("nothing", nothing, 3.0), wrap=True, block_steps=4_000,
        )
    )  # fmt: skip
    volumes = block.observables["volume_A3"] / length**3
    parts = volumes.reshape(20, -1)
    for found, expected in ((parts.mean(axis=1), 1 + 1 / n_atoms), (parts.var(axis=1), (1 + 1 / n_atoms) / n_atoms)):
        # The variance within a part is a little too small: parts are some tens of correlation times.
        assert abs(found.mean() - expected) < 5 * found.std() / np.sqrt(20) + 0.02 * expected
    assert 0.2 < block.observables["barostat_acceptance"][-1] < 0.99
    scaled = block.frames.cell[:, 0, 0] ** 3
    np.testing.assert_allclose(scaled / length**3, volumes, rtol=1e-6)


def water_state():
    prepared = systems.get("water", molecules=16)
    return prepared.system, prepared.state


def test_molecules_are_found_and_moved_as_rigid_bodies_also_where_they_are_wrapped():
    system, state = water_state()
    molecules = potentials.find_molecules(system, state)
    assert molecules is not None and int(molecules.number) == 16
    np.testing.assert_array_equal(molecules.member, np.repeat(np.arange(16), 3))
    inside = np.asarray(state.positions) @ np.linalg.inv(state.cell)
    wrapped = state._replace(positions=(inside % 1.0) @ state.cell)
    assert np.abs(wrapped.positions - state.positions).max() > 1
    moved = barostat.scaled(system, jax.tree.map(jnp.asarray, wrapped), jnp.array([1.03, 1.03, 1.03]), molecules)
    np.testing.assert_allclose(moved.cell, 1.03 * np.asarray(state.cell))

    def shape(positions, cell):
        """Vectors from the first atom of each molecule, at the nearest image."""
        away = positions.reshape(16, 3, 3) - positions.reshape(16, 3, 3)[:, :1]
        return away - np.round(away @ np.linalg.inv(cell)) @ cell

    np.testing.assert_allclose(
        shape(np.asarray(moved.positions), np.asarray(moved.cell)), shape(wrapped.positions, state.cell), atol=1e-9
    )
    masses = np.tile(system.masses[:3], (16, 1))[..., None]

    def centres(positions, cell):
        first = positions.reshape(16, 3, 3)[:, 0]
        return first + (masses * shape(positions, cell)).sum(axis=1) / masses[0].sum()

    np.testing.assert_allclose(
        centres(np.asarray(moved.positions), np.asarray(moved.cell)),
        1.03 * centres(wrapped.positions, state.cell),
        atol=1e-9,
    )


def test_crystals_and_atoms_have_no_molecules():
    quartz = systems.get("quartz", repeat=(2, 2, 2))
    assert potentials.find_molecules(quartz.system, quartz.state) is None
    assert potentials.find_molecules(ARGON.system, ARGON.state) is None
    # Two atoms that are bonded through four images of the cell.
    silicon = ase_files.from_atoms(ase.build.bulk("Si", "diamond", a=5.431))
    assert potentials.find_molecules(*silicon) is None


@pytest.mark.slow
def test_a_run_goes_on_only_with_its_own_potential(folder, tmp_path, capsys):
    sizes = configs.Architecture.small(cutoff=5.0, channels=4, layers=1, lmax=1, radial_hidden=(4,))
    config = configs.PotentialConfig((18,), (0.0,), 0.01, 12.0, shortest_distance=3.0, architecture=sizes)

    def save(seed):
        made = Model(config, potential_models.init(jax.random.key(seed), config), kind="potential")
        model_files.save(tmp_path / "potential", made)

    save(0)
    given = command(folder, tmp_path / "r.h5", "--potential", tmp_path / "potential", "--ensemble", "nve")
    ffmd(*given, "--steps", 4)
    ffmd(*given, "--steps", 8, "--resume")
    save(1)
    assert "was made with another potential" in fails(capsys, *given, "--steps", 12, "--resume")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, start):
    """An untrained model of argon that hardly changes velocities, and a start at 60 K."""
    folder = tmp_path_factory.mktemp("pressure")
    sizes = {"cutoff": 5.0, "lmax": 1, "channels": 4, "layers": 1, "radial_hidden": (4,), "speed_hidden": (4,)}
    found = configs.Calibration(1e9, 1e9, (0.1,), 1e-7, (0.01,), 80.0, volumes_A3=(30.0, 60.0))
    config = configs.ModelConfig(
        (18,), (39.948,), 40.0, 0.04, 1.1e-2, 0.01, 12.0, shortest_distance=3.0,
        architecture=configs.Architecture(velocity_input=True, **sizes),
    )  # fmt: skip
    with jax.enable_x64(True):
        params = trajcast.init(jax.random.key(0), config, jnp.float32)
        params["readout"] = {irrep: 0.01 * values for irrep, values in params["readout"].items()}
        model_files.save(folder / "model", Model(config, params, found))
    frames = jax.tree.map(lambda values: np.asarray(values)[None], start)
    trajectory.write(folder / "start.h5", trajectory.Trajectory(ARGON.system, frames, np.zeros(1), {}, {}))
    return folder


def command(folder, out, *options):
    return [
        "rollout", folder / "model", "--start", folder / "start.h5", "--out", out, "--temperature", 60, "--on-alarm",
        "warn", "--no-tables", *options,
    ]  # fmt: skip


NPT_OPTIONS = ("--ensemble", "npt", "--pressure-bar", 200, "--potential", "reference:argon", "--barostat-every", 3)


@pytest.mark.slow
def test_a_run_at_constant_pressure_is_resumed_bit_for_bit(folder, tmp_path):
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    ffmd(*command(folder, whole, "--steps", 120, *NPT_OPTIONS))
    for steps in (31, 70, 120):
        ffmd(*command(folder, parts, "--steps", steps, *NPT_OPTIONS), "--resume")
    one, other = trajectory.read(whole), trajectory.read(parts)
    for a, b in zip(jax.tree.leaves(one.frames), jax.tree.leaves(other.frames), strict=True):
        np.testing.assert_array_equal(a, b)
    for name in ("volume_A3", "potential_energy_eV", "total_energy_eV", "propagator_gain_eV", "barostat_acceptance"):
        np.testing.assert_array_equal(one.observables[name], other.observables[name])
    assert len(np.unique(one.observables["volume_A3"])) > 10
    np.testing.assert_allclose(mechanics.volume(one.frames.cell), one.observables["volume_A3"], rtol=1e-5)
    assert one.metadata["ensemble"] == "npt" and one.metadata["pressure_bar"] == 200
    summary = api.analyze(whole, reference=parts, progress=False)
    assert "Isothermal compressibility" in summary._repr_html_()
    mean = np.mean(one.observables["volume_A3"])
    assert re.search(rf"The mean volume is of the\s+run {mean:.0f}\S* ± \S+ Å³ \(.*? g/cm³\) and", summary.text())
    density = np.sum(one.system.masses) * 1.66053906660 / one.observables["volume_A3"]
    found = properties.summarize(properties.analyze(one))
    np.testing.assert_allclose(found["density_g_per_cm3"], density.mean(), rtol=1e-4)
    assert found["density_error_g_per_cm3"] > 0 and set(found["cell_length_A"]) == {"a", "b", "c"}
    assert "--pressure-bar 200" in one.metadata["command"] and "reference:argon" in one.metadata["command"]


@pytest.mark.slow
def test_replicas_at_constant_pressure_are_the_single_runs(folder):
    options = {
        "ensemble": NPT(60.0, pressure_bar=200.0, barostat_every=3), "potential": "reference:argon", "steps": 60,
        "velocities": "draw", "progress": False, "on_alarm": "warn", "tables": False, "float64": True,
    }  # fmt: skip
    both = simulate(folder / "model", folder / "start.h5", replicas=2, **options)
    for i in range(2):
        alone = simulate(folder / "model", folder / "start.h5", seed=i, **options).trajectory
        np.testing.assert_allclose(both[i].frames.cell, alone.frames.cell, rtol=1e-9)
        np.testing.assert_allclose(both[i].frames.positions, alone.frames.positions, atol=1e-6)
        np.testing.assert_allclose(
            both[i].observables["total_energy_eV"], alone.observables["total_energy_eV"], atol=1e-6
        )


def test_pressures_that_are_no_pressures_in_bar_are_refused():
    for bar in (1.1e6, -1.1e6, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="the pressure must be at most 1,000,000 bar"):
            NPT(300.0, pressure_bar=bar)
    assert NPT(300.0, pressure_bar=-1000).pressure_bar == -1000


@pytest.mark.slow
def test_energy_alarms_say_what_was_gained(folder, start):
    """Without conservation the untrained model changes the energy; with it the total stays, and the gain is told."""
    options = {"steps": 60, "progress": False, "potential": "reference:argon", "tables": False}
    given = (ARGON.system, start)
    stopped = simulate(folder / "model", given, ensemble=NVE(), energy_conservation=False, on_alarm="warn", **options)
    kinds = [alarm.kind for alarm in stopped.alarms]
    assert "total energy" in kinds
    text = next(alarm.text for alarm in stopped.alarms if alarm.kind == "total energy")
    assert "of the kinetic energy, limit 0.1" in text
    kept = simulate(folder / "model", given, ensemble=NVE(), on_alarm="warn", **options)
    # This model gains more in a step than may be taken out at once: what is left shows, but nothing runs away.
    totals = [np.abs(np.diff(x.observables["total_energy_eV"])).max() for x in (stopped, kept)]
    assert totals[1] < totals[0] and np.isfinite(kept.observables["total_energy_eV"]).all()


def test_a_start_at_another_volume_is_refused_at_constant_pressure_and_noted_otherwise(caplog):
    known = configs.Calibration(0.1, 0.1, (0.1,), 1e-3, (0.1,), 100.0, ("Ar",), (30.0, 40.0))
    cells = [np.eye(3) * (32 * volume) ** (1 / 3) for volume in (29.6, 40.5, 44.0)]
    for cell in cells[:2]:
        monitors.check_volume(known, ARGON.system, cell, NPT(60.0))
    with pytest.raises(ValueError, match="volume of the start is 44 Å³ an atom; the model was trained at 30 to 40 Å³"):
        monitors.check_volume(known, ARGON.system, np.stack(cells), NPT(60.0))
    assert not caplog.records
    monitors.check_volume(known, ARGON.system, cells[2], NVE())
    assert "volume of the start is 44" in caplog.text


@pytest.mark.slow
def test_a_volume_beyond_the_training_data_is_an_alarm(folder, start):
    ensemble = NPT(60.0, pressure_bar=40_000.0, barostat_every=1)
    run = simulate(
        folder / "model", (ARGON.system, start), ensemble=ensemble, steps=300, potential="reference:argon",
        progress=False, on_alarm="warn", tables=False,
    )  # fmt: skip
    assert "volume" in [alarm.kind for alarm in run.alarms]
    alarm = next(alarm for alarm in run.alarms if alarm.kind == "volume")
    assert alarm.value < alarm.limit and "beyond the training data" in alarm.text
    np.testing.assert_allclose(alarm.limit, 30 / 1.02, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ensemble", "npt"), "constant pressure needs a potential"),
        (("--pressure-bar", 3), "are of --ensemble npt"),
        (("--potential", "paracetamol"), "is a propagator without a potential"),
        (("--potential", "reference:quartz"), "has no parameters for Ar"),
        (("--ensemble", "npt", "--pressure-bar", "nan", "--potential", "reference:argon"), "at most 1,000,000 bar"),
        (("--ensemble", "npt", "--potential", "nowhere"), "nowhere is no model folder"),
    ],
)
def test_what_does_not_go_together_is_refused(folder, tmp_path, capsys, options, message):
    assert message in fails(capsys, *command(folder, tmp_path / "r.h5", "--steps", 4, *options))
    assert not (tmp_path / "r.h5").exists()


def test_a_molecule_or_a_slab_has_no_volume(folder, start, tmp_path):
    for pbc, what in (((False,) * 3, "an isolated molecule"), ((True, True, False), "a slab or wire")):
        system = make_system(ARGON.system.species, ARGON.system.masses, pbc)
        with pytest.raises(ValueError, match=f"{what} has no volume"):
            simulate(
                folder / "model", (system, start), ensemble=NPT(60.0), steps=2, potential="reference:argon",
                progress=False,
            )  # fmt: skip


@pytest.mark.slow
def test_argon_at_constant_pressure_has_the_volume_of_reference_md(tmp_path):
    """The barostat beside the exact propagator and the exact energy, against `ffmd reference` with npt."""
    ffmd(
        "reference", "argon", "--repeat", 2, 2, 2, "--ensemble", "npt", "--pressure-bar", 500, "--temperature", 60,
        "--length-ps", 60, "--frame-fs", 80, "--tau-fs", 200, "--equilibrate-ps", 2, "--out", tmp_path / "npt.h5",
    )  # fmt: skip
    found = trajectory.read(tmp_path / "npt.h5")
    volumes = found.observables["volume_A3"][150:]
    # At the mean volume the mean pressure is that of the barostat: the virial theorem, with forces of another run.
    length = float(np.cbrt(volumes.mean()))
    ffmd(
        "reference", "argon", "--repeat", 2, 2, 2, "--volumes", volumes.mean() / 10.8**3, "--ensemble", "nvt",
        "--temperature", 60, "--length-ps", 40, "--frame-fs", 40, "--equilibrate-ps", 2, "--tau-fs", 200, "--forces",
        "--out", tmp_path / "nvt.h5",
    )  # fmt: skip
    from ffmd_jax.formats import stresses

    fixed = trajectory.read(tmp_path / "nvt.h5")
    virial = -stresses.from_observables(fixed.observables)[:, :3].mean(axis=1) / units.BAR
    pressure = virial + 32 * units.BOLTZMANN * 60 / length**3 / units.BAR
    parts = pressure[: len(pressure) // 10 * 10].reshape(10, -1).mean(axis=1)
    spread = volumes[: len(volumes) // 10 * 10].reshape(10, -1).mean(axis=1).std() / np.sqrt(10)
    stiffness = units.BOLTZMANN * 60 / volumes.var() / units.BAR * 1.0  # −dP/dV of the fluctuations, bar/Å³
    error = np.hypot(parts.std() / np.sqrt(10), spread * stiffness)
    assert abs(pressure.mean() - 500) < 5 * error, (pressure.mean(), error)
    assert error < 150
    assert json.dumps(found.metadata["settings"]["pressure_bar"]) == "500.0"


@pytest.mark.slow
def test_the_ase_driver_changes_the_cell_as_a_rollout_does(folder, start):
    atoms = ase_files.to_atoms(ARGON.system, jax.tree.map(np.asarray, start))
    ensemble = NPT(60.0, pressure_bar=200.0, barostat_every=3)
    dynamics = ForceFreeDynamics(
        atoms, model_files.load(folder / "model"), ensemble, potential="reference:argon", seed=5, on_alarm="ignore"
    )
    cells = []
    dynamics.attach(lambda: cells.append(atoms.cell.array.copy()))
    dynamics.run(40)
    assert len(np.unique(np.round(cells, 6), axis=0)) > 4
    assert dynamics.nsteps == 40 and np.isfinite(atoms.positions).all()
