"""Does an accelerator compute the right numbers?  The first thing to run on one; a minute or two.

    python benchmarks/device_check.py

One JSON line for each shipped model: a step in single precision on the device beside the same step in double precision
on the CPU, a step turned beside the turned step, and 1,000 steps in NVT with alarms and temperatures; on a TPU also
the fused kernel beside XLA's product.  Errors are the largest of any component, in units of the RMS of a step's change.
Exit code 1 if one is beyond what single precision explains.
"""

import argparse
import datetime
import functools
import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

import ffmd_jax as ffmd
from ffmd_jax.core import mechanics, neighbors
from ffmd_jax.core.state import State, cast
from ffmd_jax.models import model as models
from ffmd_jax.models import radial_tables, tpu_convolution, trajcast
from ffmd_jax.reference_md import systems

STRUCTURES = {"paracetamol": "paracetamol", "organic": "paracetamol", "quartz": "quartz", "silicon": "silicon"}
STRUCTURES |= {"water": "water-dsf"}
LARGEST = 2e-3  # of the RMS of a step's change; rounding in the longest sums makes a tenth of it


def step_of(model: Any, propagate: Any, system: Any, state: State, dtype: Any) -> np.ndarray:
    """Displacements and changes of the velocities in one step, in units of their RMS, ``[n_atoms, 2, 3]``."""
    system, state = cast(system, dtype), cast(state, dtype)
    search = neighbors.plan(system, state, model.config.architecture.cutoff)
    table = jax.jit(neighbors.build, static_argnums=0)(search, system, state)
    after = jax.jit(propagate)(system, state, table.graph)
    moved = np.asarray(after.positions, float) - np.asarray(state.positions, float)
    return np.stack([
        moved / model.config.displacement_rms, np.asarray(after.velocities, float) / model.config.velocity_rms
    ], axis=1)  # fmt: skip


def turned(system: Any, state: State, turn: np.ndarray) -> State:
    """The state turned about the origin, its cell too."""
    return State(*(np.asarray(x, float) @ turn.T for x in (state.positions, state.velocities, state.cell)))


def check(name: str) -> dict[str, Any]:
    """One line."""
    model, prepared = ffmd.load(name), systems.get(STRUCTURES[name])
    system, dtype = prepared.system, jnp.float32
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        hot = mechanics.maxwell_boltzmann(jax.random.key(0), system, cast(prepared.state, jnp.float64), 300.0)
        hot = jax.tree.map(np.asarray, hot)
        exact = step_of(model, models.propagator(model, jnp.float64), system, hot, jnp.float64)
    propagate = models.propagator(model)
    found = step_of(model, propagate, system, hot, dtype)
    turn = Rotation.random(random_state=1).as_matrix()
    other = step_of(model, propagate, system, turned(system, hot, turn), dtype)
    errors = {
        "against_double": float(np.abs(found - exact).max()),
        "equivariance": float(np.abs(other - found @ turn.T).max()),
    }
    if jax.default_backend() == "tpu":
        params = cast(radial_tables.tabulate(model.config, model.params), dtype)
        fused = trajcast.make_propagate(model.config, params, tpu_convolution.by_tpu_kernel)
        errors["kernel"] = float(np.abs(step_of(model, fused, system, hot, dtype) - found).max())
    bath = ffmd.NVT(300.0, tau_fs=75.0, friction_tau_fs=1000.0 if name != "organic" else 200.0)
    simulate = functools.partial(ffmd.simulate, model, (system, State(*hot)), ensemble=bath, progress=False)
    simulate(steps=100, every=10, on_alarm="warn")
    began = time.perf_counter()
    run = simulate(steps=1000, every=10, on_alarm="warn")
    took = time.perf_counter() - began
    kelvin = np.asarray(jax.vmap(lambda r, v: mechanics.temperature(system, State(r, v, hot.cell)))(
        *(jnp.asarray(x, dtype) for x in run.frames[:2])))  # fmt: skip
    return {
        "model": name, "atoms": len(system.species),
        "largest_errors": {k: float(f"{v:.2g}") for k, v in errors.items()},
        "sound": max(errors.values()) < LARGEST, "alarms": [alarm.text for alarm in run.alarms],
        "temperature_K": round(float(kelvin[len(kelvin) // 2 :].mean()), 1), "ms_per_step": round(took, 3),
        "device": jax.devices()[0].device_kind, "jax": jax.__version__, "date": f"{datetime.date.today()}",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=STRUCTURES, default=list(STRUCTURES))
    sound = True
    for name in parser.parse_args().models:
        line = check(name)
        sound &= line["sound"]
        print(json.dumps(line), flush=True)
    sys.exit(not sound)


if __name__ == "__main__":
    main()
