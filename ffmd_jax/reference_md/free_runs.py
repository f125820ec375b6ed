"""Free (NVE) runs of a model beside the reference's from the same starts: how errors grow, and which explode."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.analysis.error_growth import ErrorGrowth, error_growth
from ffmd_jax.core import neighbors, progress
from ffmd_jax.core.state import Propagate, State, System, cast, take
from ffmd_jax.dynamics import records, stepping
from ffmd_jax.models.config import ModelConfig
from ffmd_jax.reference_md import integrator
from ffmd_jax.reference_md.systems import Reference

N_STARTS, N_STEPS = 8, 128


def run(
    prepared: Reference, config: ModelConfig, propagate: Propagate, frames: State
) -> tuple[ErrorGrowth | None, int]:
    """How errors grow over 128 free steps from 8 of the frames, and how many of these runs exploded.

    Those that exploded are not in the growth; None if all did.
    """
    every = round(config.time_step_fs / prepared.dt)
    verlet = integrator.drift_kick_drift(prepared.energy, prepared.dt)
    places = np.linspace(0, len(frames.positions) - 1, N_STARTS, dtype=int)
    starts = take(frames, places)
    found = []
    with progress.progress(2 * N_STARTS, "free steps (NVE)", "runs") as bar:
        own = neighbors.plan(prepared.system, starts, config.architecture.cutoff, neighbors.SKIN, 1.3, True)
        its = neighbors.plan(prepared.system, starts, prepared.cutoff, prepared.skin, 1.3)
        for move, search, n_steps, dtype in ((propagate, own, 1, jnp.float32), (verlet, its, every, jnp.float64)):
            free = free_run(prepared.system, move, search, n_steps, dtype)
            runs = []
            for i in range(N_STARTS):
                runs.append(free(take(cast(starts, dtype), i)))
                bar.update()
            found.append(runs)
    whole = [pair for pair in zip(*found, strict=True) if None not in pair]
    if not whole:
        return None, N_STARTS
    own, reference = (jax.tree.map(lambda *x: np.stack(x).astype(float), *runs) for runs in zip(*whole, strict=True))
    return error_growth(own, reference, prepared.system), N_STARTS - len(whole)


def free_run(
    system: System, propagate: Any, search: neighbors.Search, n_steps: int, dtype: Any
) -> Callable[[State], State | None]:
    """Returns ``start -> frames``: the start and 128 frames after it in NVE, n_steps apart; compiled once.

    None for a run that explodes: atoms crowd together beyond the neighbour table, or numbers are not finite.
    """
    system = cast(system, dtype)
    step = stepping.make_step(records.Run(system, propagate), search, n_steps)
    advance = jax.jit(
        lambda state: stepping.scan(step, stepping.start(search, system, state, jax.random.key(0)), N_STEPS)
    )

    def free(start: State) -> State | None:
        carry, (frames, _) = advance(start)
        if bool(carry.table.overflow) or not np.isfinite(np.asarray(frames.velocities)).all():
            return None
        return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, frames)

    return free
