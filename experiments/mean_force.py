"""What a model's steps do, on average, to a torsion that their forces should not: the error of its free energy.

    python experiments/mean_force.py alanine-dipeptide experiments/alanine_dipeptide/data/nve.h5 6 7 9 16

A step from a state of the data ends with the velocities v' + δv.  Along a torsion q of gradient g = ∂q/∂r and inverse
mass Z = Σ g²/m, the error is that of a force f = (g·δv)/(Z Δt).  Its mean where the torsion is q is minus the slope of
the error of the free energy, so that a barrier that is too low is seen before any roll-out.  The pairs are all of the
data from the sources, those that were trained on, too.  Errors count ten pairs of the data as one value.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import neighbors, units
from ffmd_jax.core.state import Array, System, take
from ffmd_jax.data import dataset_file
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.data.dataset_file import Dataset
from ffmd_jax.models import model, model_files
from ffmd_jax.training import batches, scales

CORRELATED, FEWEST = 10, 50  # pairs


def angle(positions: Array, four: tuple[int, ...]) -> Array:
    """The torsion, rad."""
    i, j, k, l = (positions[atom] for atom in four)
    axis = k - j
    one, two = jnp.cross(j - i, axis), jnp.cross(axis, l - k)
    return jnp.arctan2(jnp.linalg.norm(axis) * jnp.dot(j - i, two), jnp.dot(one, two))


def mean_force(
    system: System, positions: np.ndarray, errors: np.ndarray, time_step_fs: float, four: tuple[int, ...], n_bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Angles of bins, rad, and of each the mean force, its standard error, eV/rad, and the number of states.

    Args:
        positions: at the end of the step, Å, ``[n, n_atoms, 3]``.
        errors: δv, Å/fs, of the same shape.
        four: atoms.
    """
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(lambda x: angle(x, four))))(jnp.asarray(positions))
    slopes = np.asarray(slopes)
    inverse_mass = np.sum(slopes**2 / np.asarray(system.masses)[:, None], axis=(1, 2))
    forces = np.sum(slopes * errors, axis=(1, 2)) / (inverse_mass * time_step_fs) / units.EV
    which = np.clip(((np.asarray(values) + np.pi) / (2 * np.pi) * n_bins).astype(int), 0, n_bins - 1)
    counts = np.bincount(which, minlength=n_bins)
    mean = np.bincount(which, forces, n_bins) / np.maximum(counts, 1)
    square = np.bincount(which, forces**2, n_bins) / np.maximum(counts, 1)
    error = np.sqrt(np.maximum(square - mean**2, 0) / np.maximum(counts / CORRELATED, 1))
    return -np.pi + (np.arange(n_bins) + 0.5) * 2 * np.pi / n_bins, mean, error, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder, or name of a shipped model")
    parser.add_argument("data", help="dataset made by `ffmd dataset`, of one molecule")
    parser.add_argument("atoms", type=int, nargs=4, help="of the torsion, counted from 0")
    parser.add_argument("--bins", type=int, default=18, help="of a turn")
    parser.add_argument("--sources", default="300 K", help="runs whose name begins with this (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=300.0, help="K, for k_B T (default: %(default)g)")
    options = parser.parse_args()
    used, data = model_files.load(options.model), dataset_file.read(options.data)
    (group,) = data.groups
    runs = tuple(run for run in group.runs if run.source.startswith(options.sources))
    if not runs:
        names = "; ".join(sorted({run.source for run in group.runs}))
        parser.error(f"no runs whose name begins with {options.sources}; there are {names}")
    (sets,) = pair_sets.form(Dataset((group._replace(runs=runs),), data.time_step_fs, data.stride_fs))
    scales.check_fits(used.config, sets)
    positions, errors = [], []
    for pairs in (sets.train, sets.validation, sets.test):
        if pair_sets.count(pairs):
            (bucket,) = batches.buckets([sets.system], [pairs], pair_sets.padded)
            search = batches.pair_search(bucket, used.config.architecture.cutoff)
            propagate, system = model.propagator(used), take(bucket.systems, 0)

            def one(state, propagate=propagate, system=system, search=search):
                return propagate(system, state, neighbors.build(search, system, state).graph)

            states = jax.tree.map(jnp.asarray, pairs.state)
            found = jax.jit(lambda states, one=one: jax.lax.map(one, states))(states)
            positions.append(np.asarray(pairs.state.positions + pairs.displacements, np.float64))
            errors.append(np.asarray(found.velocities, np.float64) - np.asarray(pairs.velocities, np.float64))
    with jax.enable_x64(True):
        found = mean_force(
            sets.system, np.concatenate(positions), np.concatenate(errors), sets.time_step_fs,
            tuple(options.atoms), options.bins,
        )  # fmt: skip
    kT = units.BOLTZMANN * options.temperature
    print("| angle / ° | states | mean force / kT/rad | error of the free energy / kT |\n|---|---|---|---|")
    energy = 0.0
    for at, mean, error, count in zip(*found, strict=True):
        if count < FEWEST:
            continue
        energy -= mean / kT * 2 * np.pi / options.bins
        print(f"| {np.degrees(at):.0f} | {count} | {mean / kT:.2f} ± {error / kT:.2f} | {energy:.2f} |")


if __name__ == "__main__":
    main()
