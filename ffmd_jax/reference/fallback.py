"""Where a model fails, the reference takes over for a while: from any state of a roll-out, with frames on its grid."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ffmd_jax.core.state import Array, State, System
from ffmd_jax.dynamics.rollout import Block
from ffmd_jax.reference.engine import Bath, Teacher


class Fallback(NamedTuple):
    """A teacher for the atoms of a roll-out.

    Attributes:
        teacher: makes MD.
        offset: Å, ``[n_atoms, 3]``, lattice vectors between the teacher's positions and those of the roll-out.
        steps: of the teacher in one Δt.
    """

    teacher: Teacher
    offset: np.ndarray
    steps: int


def make(name: str, arguments: dict[str, Any], system: System, state: State, time_step_fs: float) -> Fallback:
    """The reference called ``name``, a prepared system or ``module:Class`` of an ASE calculator.

    Raises:
        ValueError: no such reference, one that is not for these atoms, or whose time step does not divide Δt.
    """
    from ffmd_jax.reference import ase_engine, production, systems  # seconds, and few roll-outs have a fallback

    positions = np.asarray(state.positions, np.float64)
    if ":" in name:
        teacher = ase_engine.teacher(name, _atoms(system, positions), ase_engine.make_calculator(name, arguments))
    else:
        teacher = production.teacher(systems.get(name, structure=(system, positions)))
    steps = round(time_step_fs / teacher.dt)
    if steps < 1 or abs(steps * teacher.dt - time_step_fs) > 1e-9 * time_step_fs:
        raise ValueError(f"Δt = {time_step_fs:g} fs is not a multiple of the time step of {name}, {teacher.dt:g} fs")
    return Fallback(teacher, np.asarray(teacher.positions) - positions, steps)


def run(fallback: Fallback, state: State, n_frames: int, every: int, key: Array, bath: Bath | None) -> Iterator[Block]:
    """Yields blocks of ``n_frames`` frames, ``every`` Δt apart, from a state; positions continue those of the state."""
    start = State(
        np.asarray(state.positions, np.float64) + fallback.offset, np.asarray(state.velocities, np.float64)
    )  # fmt: skip
    stride = every * fallback.steps
    for block in fallback.teacher.run(start, n_steps=n_frames * stride, every=stride, key=key, bath=bath):
        positions = np.asarray(block.frames.positions) - fallback.offset
        yield block._replace(frames=State(positions, np.asarray(block.frames.velocities)))


def _atoms(system: System, positions: np.ndarray) -> Any:
    import ase

    pbc = np.asarray(system.pbc)
    cell = np.asarray(system.cell) * pbc[:, None]
    return ase.Atoms(system.species, positions, masses=system.masses, cell=cell, pbc=pbc)
