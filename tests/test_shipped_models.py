"""The numbers of the shipped models: frames of quartz and water that this version made on 29 November 2026, and
of paracetamol on 1 December, when their weights were new.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ffmd_jax.core.state import State, make_system
from ffmd_jax.dynamics import rollout
from ffmd_jax.dynamics.ensemble import NVE, NVT
from ffmd_jax.models import model, model_files

FRAMES = dict(np.load(Path(__file__).parent / "data" / "shipped_frames.npz"))
ENSEMBLES = {"nve": NVE(), "nvt": NVT(300.0, tau_fs=75.0, friction_tau_fs=1000.0)}


@pytest.mark.parametrize("name", ["paracetamol", "quartz", "water"])
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_shipped_models_give_the_frames_that_they_gave(name, ensemble):
    data = {key.removeprefix(f"{name}/"): values for key, values in FRAMES.items() if key.startswith(f"{name}/")}
    system = make_system(data["species"], data["masses"], data["pbc"])
    start = State(*(jnp.asarray(data[field]) for field in State._fields))
    shipped = model_files.load(name)
    found = rollout.gather(
        rollout.run(
            system,
            start,
            model.propagator(shipped, jnp.float64, reversible=ensemble == "nvt"),
            cutoff=shipped.config.architecture.cutoff,
            time_step_fs=shipped.config.time_step_fs,
            n_steps=3,
            key=jax.random.key(7),
            select=True,
            ensemble=ENSEMBLES[ensemble],
        )
    )
    # Rounding: sums over neighbours in another order.
    np.testing.assert_allclose(found.frames.positions, data[f"{ensemble}_positions"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.frames.velocities, data[f"{ensemble}_velocities"], rtol=0, atol=1e-12)
