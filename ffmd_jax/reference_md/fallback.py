"""Where a model fails, the reference takes over for a while: from any state of a rollout, with frames on its grid."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ffmd_jax.core.state import Array, State, System
from ffmd_jax.dynamics.engine import Block
from ffmd_jax.dynamics.ensemble import Ensemble
from ffmd_jax.reference_md import teachers
from ffmd_jax.reference_md.engine import ReferenceEngine


class Fallback(NamedTuple):
    """A reference engine for the atoms of a rollout.

    Attributes:
        engine: makes MD.
        offset: Å, ``[n_atoms, 3]``, lattice vectors between the engine's positions and those of the rollout.
        steps: of the engine in one Δt.
    """

    engine: ReferenceEngine
    offset: np.ndarray
    steps: int


def make(name: str, arguments: dict[str, Any], system: System, state: State, time_step_fs: float) -> Fallback:
    """The reference called ``name``: a prepared system, gfn2-xtb or another known teacher, or ``module:Class``.

    Raises:
        ValueError: no such reference, one that is not for these atoms, or whose time step does not divide Δt.
    """
    from ffmd_jax.formats import ase_files
    from ffmd_jax.reference_md import ase_engine, production, systems  # seconds, and few rollouts have a fallback

    state = jax.tree.map(lambda values: np.asarray(values, np.float64), state)
    if is_calculator(name):
        atoms = ase_files.to_atoms(system, state)
        engine = ase_engine.engine(name, atoms, ase_engine.make_calculator(name, arguments))
    else:
        engine = production.engine(systems.get(name, structure=(system, state)))
    steps = round(time_step_fs / engine.dt)
    if steps < 1 or abs(steps * engine.dt - time_step_fs) > 1e-9 * time_step_fs:
        raise ValueError(f"Δt = {time_step_fs:g} fs is not a multiple of the time step of {name}, {engine.dt:g} fs")
    return Fallback(engine, np.asarray(engine.state.positions) - state.positions, steps)


def is_calculator(name: str) -> bool:
    """True for the name of an ASE calculator, False for that of a prepared system."""
    return ":" in name or name in teachers.TEACHERS


def run(
    fallback: Fallback, state: State, n_frames: int, stride: int, key: Array, ensemble: Ensemble
) -> Iterator[Block]:
    """Yields blocks of ``n_frames`` frames, ``stride`` steps of the reference apart, from a state, which they continue.

    Positions are those of the rollout.
    """
    start = jax.tree.map(lambda values: np.asarray(values, np.float64), state)
    start = start._replace(positions=start.positions + fallback.offset)
    for block in fallback.engine.run(start, n_steps=n_frames * stride, every=stride, key=key, ensemble=ensemble):
        positions = np.asarray(block.frames.positions) - fallback.offset
        yield block._replace(frames=block.frames._replace(positions=positions))
