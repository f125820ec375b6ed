"""How much kinetic energy one step of a model loses, by element, beside the square of its error.

    python experiments/one_step_energy.py quartz experiments/quartz/data/pairs_30fs.h5

A regression with squared errors predicts the mean of what may happen, which has less energy than what happens: the two
numbers are equal for a model without bias.  On 1,000 validation pairs, with the standard error from ten blocks of them.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import take
from ffmd_jax.data import dataset_file
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.models import model, model_files
from ffmd_jax.training import batches, scales

N_PAIRS, N_BLOCKS = 1000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder, or name of a shipped model")
    parser.add_argument("data", help="dataset made by `ffmd dataset`")
    options = parser.parse_args()
    used = model_files.load(options.model)
    (data,) = pair_sets.form(dataset_file.read(options.data), used.config.time_step_fs)
    scales.check_fits(used.config, data)
    pairs = take(data.validation, slice(N_PAIRS))
    (bucket,) = batches.buckets([data.system], [pairs], pair_sets.padded)
    search = batches.pair_search(bucket, used.config.architecture.cutoff)
    propagate, system = model.propagator(used), take(bucket.systems, 0)

    def one(state):
        return propagate(system, state, neighbors.build(search, system, state).graph)

    step = jax.jit(lambda states: jax.lax.map(one, states))
    predicted = np.asarray(step(jax.tree.map(jnp.asarray, pairs.state)).velocities, float)
    print("| element | kinetic energy over the true one, − 1 | squared error over the true square |\n|---|---|---|")
    for element in used.config.elements:
        members = np.asarray(data.system.species) == element
        found, true = predicted[:, members], pairs.velocities[:, members].astype(float)
        gain, error = (np.sum(x, axis=(1, 2)) for x in (found**2 - true**2, (found - true) ** 2))
        mean = np.mean(np.sum(true**2, axis=(1, 2)))
        spread = np.std([np.mean(block) for block in np.array_split(gain, N_BLOCKS)], ddof=1) / np.sqrt(N_BLOCKS)
        ratio = f"{np.mean(gain) / mean:.1e} ± {spread / mean:.0e}"
        print(f"| {chemical_symbols[element]} | {ratio} | {np.mean(error) / mean:.1e} |")


if __name__ == "__main__":
    main()
