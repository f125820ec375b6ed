"""What makes reference trajectories, whichever engine computes forces: a prepared system, or ASE with a calculator."""

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

import numpy as np

from ffmd_jax.core.state import Array, State, System
from ffmd_jax.dynamics.rollout import Block


class Bath(NamedTuple):
    """A heat bath.

    Attributes:
        kind: Langevin dynamics, or velocity rescaling (CSVR).
        temperature_K: target, K.
        tau_fs: relaxation time of the velocities (Langevin) or of the kinetic energy (CSVR), fs.
        friction_tau_fs: of Langevin's friction and noise besides CSVR, fs; None: without.
    """

    kind: Literal["langevin", "csvr"]
    temperature_K: float
    tau_fs: float
    friction_tau_fs: float | None = None


class Run(Protocol):
    """Yields ``n_steps`` of MD from ``start`` as blocks of frames, one frame every ``every`` steps; NVE without bath.

    Observables are ``potential_energy_eV`` and ``total_energy_eV``; the first frame is the one after ``every`` steps.
    A run depends on its arguments alone.  It raises `rollout.Diverged` where numbers are no longer finite.
    """

    def __call__(
        self, start: State, *, n_steps: int, every: int, key: Array, bath: Bath | None = None
    ) -> Iterator[Block]: ...


class Teacher(NamedTuple):
    """A system, and MD on it with a reference energy.

    Attributes:
        name: for progress bars and files.
        system: species, masses, cell.
        positions: Å, ``[n_atoms, 3]``, where equilibration starts.
        dt: fs, time step of the integrator.
        run: makes MD.
    """

    name: str
    system: System
    positions: np.ndarray
    dt: float
    run: Run
