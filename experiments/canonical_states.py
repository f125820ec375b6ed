"""Errors of a step from states of a heat bath, by how fast the fastest atom is.

    ffmd reference paracetamol --ensemble nvt --tau-fs 70 --frame-fs 7 --length-ps 2800 --out nvt.h5
    python experiments/canonical_states.py nvt.h5 --system paracetamol --model paracetamol

Each state is advanced by Δt with the reference, at its own time step, and with the model, plain and reversible.  Prints
JSON: states, their share of all, errors of the velocities, %, and the largest error of a component, in units of the RMS
velocity.
"""

import argparse
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import ffmd_jax as ffmd
from ffmd_jax.core.state import Propagate, State, System, take
from ffmd_jax.dynamics import rollout
from ffmd_jax.formats import trajectory
from ffmd_jax.models import model as models
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import integrator, systems

EDGES = (0.0, 2.25, 2.5, 2.75, 3.0, 4.0)  # of the speed of the fastest atom beside the RMS speed of its element


def after(
    system: System, states: State, propagate: Propagate, cutoff: float, time_step_fs: float, n_steps: int
) -> np.ndarray:
    """Velocities after so many steps at constant energy, Å/fs, ``[n_states, n_atoms, 3]``."""
    n_states = len(states.positions)
    blocks = rollout.run(
        system, states, propagate, cutoff=cutoff, time_step_fs=time_step_fs, n_steps=n_steps, every=n_steps,
        key=jax.random.split(jax.random.key(0), n_states), replicas=n_states,
    )  # fmt: skip
    return np.asarray(rollout.gather(blocks).frames.velocities)[-1]


def measure(model: Model, prepared: systems.Reference, frames: State, n_states: int) -> list[dict]:
    """Errors in each range of speeds."""
    config, species = model.config, np.asarray(prepared.system.species)
    squared = np.sum(np.square(frames.velocities, dtype=np.float64), axis=-1)
    relative = [squared[:, species == z].max(axis=1) / squared[:, species == z].mean() for z in np.unique(species)]
    fastest = np.sqrt(np.max(relative, axis=0))
    rng, found, n_steps = np.random.default_rng(0), [], round(config.time_step_fs / prepared.dt)
    exact = integrator.drift_kick_drift(prepared.energy, config.time_step_fs / n_steps)
    for low, high in itertools.pairwise(EDGES):
        there = np.flatnonzero((fastest >= low) & (fastest < high))
        chosen = rng.choice(there, min(n_states, len(there)), replace=False)
        if not len(chosen):
            continue
        states = jax.tree.map(lambda x, chosen=chosen: jnp.asarray(take(x, chosen), jnp.float64), frames)
        truth = after(prepared.system, states, exact, prepared.cutoff, config.time_step_fs / n_steps, n_steps)
        line = {"fastest_atom": [low, high], "states": len(chosen), "share": len(there) / len(fastest)}
        for name in ("plain", "reversible"):
            step = models.propagator(model, jnp.float64, reversible=name == "reversible")
            given = after(prepared.system, states, step, config.architecture.cutoff, config.time_step_fs, 1)
            off = np.abs(given - truth)
            line[name] = {
                "velocities_percent": round(100 * float(off.mean() / np.abs(truth).mean()), 2),
                "largest_in_rms": round(float(off.max() / np.sqrt(np.mean(truth**2))), 2),
            }
        found.append(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path, help="trajectory in a heat bath")
    parser.add_argument("--system", default="paracetamol", help="prepared system that it is of (default: %(default)s)")
    parser.add_argument("--model", default="paracetamol", help="folder or shipped name (default: %(default)s)")
    parser.add_argument("--states", type=int, default=64, help="of each range (default: %(default)s)")
    given = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    frames = jax.tree.map(np.asarray, trajectory.read(given.reference).frames)
    for line in measure(ffmd.load(given.model), systems.get(given.system), frames, given.states):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
