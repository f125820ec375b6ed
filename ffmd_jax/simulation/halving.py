"""Where the steps of a family are too long, shorter ones take over for a while: fallbacks that need no teacher."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core.state import Array, State, cast
from ffmd_jax.dynamics import rollout
from ffmd_jax.dynamics.ensemble import NVE, Ensemble
from ffmd_jax.models import model as models
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md.engine import ReferenceEngine
from ffmd_jax.reference_md.fallback import Fallback
from ffmd_jax.simulation.starts import Begin


def fallbacks(
    family: Model, time_step_fs: float, begin: Begin, dtype: Any, tables: bool, reversible: bool
) -> tuple[Fallback, ...]:
    """The members with Δt/2, Δt/4, … as far as the family has them.

    Raises:
        ValueError: a model without shorter steps.
    """
    lowest = family.config.time_steps_fs[0] if family.kind == "family" else time_step_fs
    halves = [2**k for k in range(1, 64) if time_step_fs / 2**k >= lowest * (1 - 1e-6)]
    if not halves:
        raise ValueError(f"on_alarm = halve needs a model of several time steps, with {time_step_fs / 2:g} fs, too")
    found = []
    for n in halves:
        member = family.at(max(time_step_fs / n, lowest))
        found.append(Fallback(_engine(member, begin, dtype, tables, reversible), np.zeros(1), n))
    return tuple(found)


def _engine(member: Model, begin: Begin, dtype: Any, tables: bool, reversible: bool) -> ReferenceEngine:
    """A propagator as an engine: rollouts of it."""
    config = member.config
    made = functools.cache(lambda: models.propagator(member, dtype, tables=tables, reversible=reversible))

    def run(start: State, *, n_steps: int, every: int, key: Array, ensemble: Ensemble = NVE()):
        return rollout.run(
            begin.system, cast(jax.tree.map(jnp.asarray, start), dtype), made(),
            cutoff=config.architecture.cutoff, time_step_fs=config.time_step_fs, n_steps=n_steps, every=every, key=key,
            ensemble=ensemble, select=True, wrap=True,
        )  # fmt: skip

    return ReferenceEngine(member.name, begin.system, begin.state, config.time_step_fs, run)
