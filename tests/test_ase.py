"""The ASE driver behaves as an ASE MolecularDynamics and is the roll-out of the library."""

import io

import ase
import ase.constraints
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import perturbed, random_params, small_config

from ffmd_jax.core import units
from ffmd_jax.core.state import cast
from ffmd_jax.dynamics import monitors, rollout
from ffmd_jax.dynamics.ensemble import NVE, NVT
from ffmd_jax.formats import ase_files
from ffmd_jax.interop.ase import ForceFreeDynamics
from ffmd_jax.models import model, model_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small untrained model."""
    folder, config = tmp_path_factory.mktemp("ase"), small_config()
    with jax.enable_x64(True):
        model_files.save(folder / "model", model.Model(config, cast(random_params(config), jnp.float32)))
    return folder


def crystal():
    return ase_files.to_atoms(*perturbed())


LANGEVIN = NVT(300, 1000.0, "langevin")


def dynamics(folder, atoms, ensemble=LANGEVIN, **options):
    return ForceFreeDynamics(atoms, folder / "model", ensemble, **{"on_alarm": "ignore", **options})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ensemble", "reversible"), [(LANGEVIN, False), (NVT(300, 1000.0, friction_tau_fs=2000.0), True)]
)
def test_it_is_the_roll_out_of_the_library(folder, ensemble, reversible):
    system, state = perturbed()
    used = model_files.load(folder / "model")
    expected = rollout.gather(
        rollout.run(
            system, cast(state, jnp.float32), model.propagator(used, reversible=reversible),
            cutoff=used.config.architecture.cutoff, time_step_fs=10.0, n_steps=6, key=jax.random.key(3), select=True,
            ensemble=ensemble,
        )
    )  # fmt: skip
    atoms, log, seen = crystal(), io.StringIO(), []
    options = {"logfile": log, "loginterval": 2, "trajectory": str(folder / "run.traj"), "seed": 3}
    run = dynamics(folder, atoms, ensemble, **options, reversible=reversible)
    run.attach(lambda: seen.append(atoms.get_positions()), interval=3)
    run.run(4)
    assert run.run(2) and run.nsteps == 6 and run.get_time() == pytest.approx(60 / units.ASE_TIME)
    np.testing.assert_allclose(atoms.positions, expected.frames.positions[-1], atol=2e-5)
    velocities = atoms.get_velocities() * units.ASE_VELOCITY
    np.testing.assert_allclose(velocities, expected.frames.velocities[-1], atol=1e-6)
    assert len(seen) == 3 and atoms.calc is None
    lines = log.getvalue().splitlines()
    assert lines[0].split() == ["Time[ps]", "Ekin[eV]", "T[K]"] and len(lines) == 5
    assert float(lines[-1].split()[0]) == 0.06
    assert float(lines[-1].split()[1]) == pytest.approx(atoms.get_kinetic_energy(), abs=1e-3)
    frames = ase.io.read(folder / "run.traj", ":")
    np.testing.assert_array_equal(frames[-1].get_momenta(), atoms.get_momenta())


@pytest.mark.slow
def test_changed_atoms_are_taken_as_they_are(folder):
    atoms, other = crystal(), crystal()
    run = dynamics(folder, atoms, NVE())
    run.run(2)
    other.positions, other.arrays["momenta"] = atoms.positions + 0.01, 0.5 * atoms.get_momenta()
    atoms.positions += 0.01
    atoms.set_momenta(0.5 * atoms.get_momenta())
    before = run.alarms
    run.run(1)
    assert before and run.alarms[: len(before)] == before  # the untrained model's, with their times
    dynamics(folder, other, NVE()).run(1)
    np.testing.assert_array_equal(atoms.positions, other.positions)


@pytest.mark.slow
def test_alarms_stop_it_and_bad_atoms_are_refused(folder):
    run = dynamics(folder, crystal(), NVE(), on_alarm="stop")
    with pytest.raises(monitors.Stopped, match="misses the start"):
        run.run(3)
    assert run.nsteps == 0
    fixed = crystal()
    fixed.set_constraint(ase.constraints.FixAtoms([0]))
    with pytest.raises(ValueError, match="constraints"):
        dynamics(folder, fixed)
    with pytest.raises(ValueError, match="constant temperature"):
        dynamics(folder, crystal(), NVT(300, end_K=200))
    carbon = crystal()
    carbon.numbers[0] = 6
    with pytest.raises(ValueError, match="holds C"):
        dynamics(folder, carbon)
