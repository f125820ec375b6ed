"""Which motions of water gain or lose kinetic energy over free steps of a model, beside MD from the same starts.

    python experiments/water/motions.py MODEL

Translation and rotation of whole molecules, and motions within them; H and O.  Needs data/nve_4.h5, which
`run.py reference` makes.
One step's errors average to a number too small to see; over 64 steps what a motion gains adds up.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import State, cast, take
from ffmd_jax.dynamics import records, stepping
from ffmd_jax.formats import trajectory
from ffmd_jax.models import model, model_files
from ffmd_jax.reference_md import water

DATA = Path(__file__).resolve().parent / "data" / "nve_4.h5"
KINDS = ["translation", "rotation", "within molecules", "H", "O"]
N_STARTS, N_STEPS = 24, 64


def kinetic_energies(system, atoms: np.ndarray, state: State) -> np.ndarray:
    """Mean kinetic energies of `KINDS`, u Å²/fs², ``[n_states, 5]``."""
    r, v, m = state.positions[:, atoms], state.velocities[:, atoms], np.asarray(system.masses)[atoms][..., None]
    r = r - r[:, :, :1]
    r -= np.round(r @ np.linalg.inv(state.cell)[:, None]) @ state.cell[:, None]
    total, mean_v = m.sum(axis=1, keepdims=True), (m * v).sum(axis=2, keepdims=True) / m.sum(axis=1, keepdims=True)
    r, inner = r - (m * r).sum(axis=2, keepdims=True) / total, v - mean_v
    angular = (m * np.cross(r, inner)).sum(axis=2)
    tensor = (m * r**2).sum(axis=(2, 3))[..., None, None] * np.eye(3) - np.einsum("ao,faox,faoy->faxy", m[..., 0], r, r)
    spin = np.linalg.solve(tensor, angular[..., None])[..., 0]
    moving, turning = (total[:, 0] * mean_v[:, :, 0] ** 2).sum(axis=-1), (spin * angular).sum(axis=-1)
    of_atoms = (m * v**2).sum(axis=-1)
    inside = of_atoms.sum(axis=-1) - moving - turning
    kinds = [moving, turning, inside, of_atoms[:, :, 1:].sum(axis=-1), of_atoms[:, :, 0]]
    return 0.5 * np.stack([x.mean(axis=1) for x in kinds], axis=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder, or name of a shipped model")
    used = model_files.load(parser.parse_args().model)
    reference = trajectory.read(DATA)
    frames, system = reference.frames, cast(reference.system, jnp.float32)
    starts = np.linspace(0, len(reference.times) - N_STEPS - 1, N_STARTS).astype(int)
    few = jax.tree.map(np.float32, take(frames, starts))
    search = neighbors.plan(system, few, used.config.architecture.cutoff, 0.5, 1.5, select=True)
    step = stepping.make_step(records.Run(system, model.propagator(used), used.config.time_step_fs), search)

    @jax.jit
    def free(start: State) -> tuple[jax.Array, State]:
        carry, (states, _) = stepping.scan(step, stepping.start(search, system, start, jax.random.key(0)), N_STEPS)
        return carry.table.overflow, states

    atoms, gains, means = water.find_molecules(reference.system, take(frames, 0)), [], []
    for i in starts:
        lost, found = free(jax.tree.map(lambda x, i=i: jnp.asarray(x[i], jnp.float32), frames))
        if lost:
            sys.exit("a neighbour table was too small")
        found = kinetic_energies(reference.system, atoms, jax.tree.map(lambda x: np.asarray(x, np.float64), found))
        right = kinetic_energies(reference.system, atoms, take(frames, slice(i + 1, i + N_STEPS + 1)))
        gains.append(found - right)
        means.append(right)
    relative, steps = np.array(gains) / np.mean(means, axis=(0, 1)), np.arange(1, N_STEPS + 1)
    slopes = np.einsum("s,nsk->nk", steps, relative) / np.sum(steps**2)  # of a line through the start
    print("| motion | kinetic energy gained in a step, relative, 1e-4 |\n|---|---|")
    for kind, values in zip(KINDS, slopes.T, strict=True):
        print(f"| {kind} | {1e4 * values.mean():.1f} ± {1e4 * values.std(ddof=1) / np.sqrt(N_STARTS):.1f} |")


if __name__ == "__main__":
    main()
