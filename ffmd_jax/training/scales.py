"""What a model takes from the data that it learns: elements, masses, scales, and the number of neighbours."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import State, System, is_isolated, take
from ffmd_jax.data import pairs as pair_sets
from ffmd_jax.data.pairs import PairSets
from ffmd_jax.models import model
from ffmd_jax.models.config import Architecture, Carried, ModelConfig
from ffmd_jax.training import batches
from ffmd_jax.training.batches import Bucket


def configure(groups: Sequence[PairSets], architecture: Architecture) -> ModelConfig:
    """The model's configuration for some pairs: elements, masses, Δt, scales, neighbours from the training pairs.

    Raises:
        ValueError: no atom has a neighbour within the cutoff, or the systems do not go together.
    """
    elements, masses = elements_of(groups)
    of_pairs = pair_sets.statistics(groups)
    some = [few(sets.train, len(groups)) for sets in groups]
    mean, shortest = neighborhood(
        batches.buckets([sets.system for sets in groups], some, pair_sets.padded), architecture.cutoff
    )
    # Gaussians up to 1.3 of the largest training speed leave room for a hotter moment in a rollout.
    return ModelConfig(
        elements=elements,
        masses=masses,
        time_step_fs=groups[0].time_step_fs,
        displacement_rms=of_pairs.displacement_rms,
        velocity_rms=of_pairs.velocity_rms,
        speed_max=1.3 * of_pairs.speed_max,
        speed_limits=tuple(pair_sets.speed_limits(groups, elements)),
        average_neighbors=mean,
        shortest_distance=shortest,
        isolated=is_isolated(groups[0].system),
        architecture=architecture,
    )


def carried(groups: Sequence[PairSets], elements: tuple[int, ...]) -> Carried:
    """What a step carries over of each element's velocities: the least-squares fit to the training pairs."""
    sums = np.zeros((4, len(elements)))  # of v·v, v·Δr, v·v' and components, of each element
    squares = np.zeros((2, len(elements)))
    for sets in groups:
        if not pair_sets.count(sets.train):
            continue
        before, after = (
            np.asarray(sets.train.state.velocities, np.float64),
            np.asarray(sets.train.velocities, np.float64),
        )
        moved = np.asarray(sets.train.displacements, np.float64)
        for i, element in enumerate(elements):
            own = np.asarray(sets.system.species) == element
            v, r, w = before[:, own], moved[:, own], after[:, own]
            sums[:, i] += np.sum(v * v), np.sum(v * r), np.sum(v * w), v.size
            squares[:, i] += np.sum(r * r), np.sum(w * w)
    kept = sums[1:3] / np.where(sums[0] > 0, sums[0], 1)
    whole = np.sum(squares, axis=1) / sums[3].sum()
    left = np.maximum(whole - np.sum(kept**2 * sums[0], axis=1) / sums[3].sum(), 1e-16 * whole)
    return Carried(tuple(kept[0].tolist()), tuple(kept[1].tolist()), *np.sqrt(left).tolist())


def elements_of(groups: Sequence[Any]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Atomic numbers of the systems that are trained on, ascending, and the mass of each, u.

    Raises:
        ValueError: some systems are periodic and others not, or an element has two masses.
    """
    found: dict[int, float] = {}
    for sets in groups:
        if is_isolated(sets.system) != is_isolated(groups[0].system):
            raise ValueError(f"{sets.name}: periodic and isolated systems need a model each")
        for z, mass in zip(np.asarray(sets.system.species).tolist(), sets.system.masses, strict=True):
            if abs(found.setdefault(z, float(mass)) - mass) > 1e-3 * mass:
                raise ValueError(
                    f"{sets.name}: {chemical_symbols[z]} has a mass of {mass:g} u, elsewhere {found[z]:g} u"
                )
    elements = tuple(sorted(found))
    return elements, tuple(found[z] for z in elements)


def mean_inverse_mass(groups: Sequence[PairSets]) -> float:
    """Mean of 1/m over the atoms of the training pairs, 1/u."""
    counts = np.array([pair_sets.count(sets.train) for sets in groups], np.float64)
    sums = np.array([np.sum(1 / np.asarray(sets.system.masses, np.float64)) for sets in groups])
    return float(counts @ sums / (counts @ np.array([len(sets.system.species) for sets in groups])))


def few(examples: Any, n_groups: int) -> Any:
    """A few of the examples of one of so many groups."""
    return take(examples, slice(None, None, max(1, pair_sets.count(examples) // max(4, 64 // n_groups))))


def neighborhood(buckets: Sequence[Bucket], cutoff: float) -> tuple[float, float]:
    """Mean number of neighbours within the cutoff, and the shortest distance, Å, in the states of some examples."""
    n_pairs, n_atoms, shortest = 0, 0, np.inf
    for bucket in buckets:
        search = batches.state_search(bucket, cutoff)

        @jax.jit
        def look(systems: System, states: State, search=search):
            def of_one(given):
                system, state = given
                graph = neighbors.build(search, system, state).graph
                squares = jnp.sum(neighbors.vectors(state, graph) ** 2, axis=-1)
                return jnp.sum(graph.mask), jnp.min(jnp.where(graph.mask, squares, jnp.inf))

            return jax.lax.map(of_one, (systems, states))

        counts, squares = (np.asarray(x) for x in look(bucket.of_examples(), bucket.examples.state))
        n_pairs += int(counts.sum())
        n_atoms += int(np.sum(bucket.of_examples().species > 0))
        shortest = min(shortest, float(np.sqrt(squares.min())))
    return n_pairs / n_atoms, shortest


def check_fits(config: ModelConfig, data: PairSets) -> None:
    """Raises ValueError for pairs at another Δt than the model's, of other elements or masses."""
    if abs(data.time_step_fs - config.time_step_fs) > 1e-6:
        raise ValueError(f"the data have Δt = {data.time_step_fs:g} fs, the model {config.time_step_fs:g} fs")
    model.check_system(config, data.system)
