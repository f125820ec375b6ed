"""What makes reference trajectories, whichever program computes forces: a prepared system, or ASE with a calculator."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from ffmd_jax.core.state import Array, State, System
from ffmd_jax.dynamics.engine import Block
from ffmd_jax.dynamics.ensemble import NVE, Ensemble

FORCES = "forces_eV_per_A"  # among the observables of a block, where they were asked for


class Run(Protocol):
    """Yields ``n_steps`` of MD from ``start`` as blocks of frames, one frame every ``every`` steps.

    Observables are ``potential_energy_eV`` and ``total_energy_eV``; the first frame is the one after ``every`` steps.
    A run depends on its arguments alone.  It raises `rollout.Diverged` where numbers are no longer finite.
    """

    def __call__(
        self, start: State, *, n_steps: int, every: int, key: Array, ensemble: Ensemble = NVE()
    ) -> Iterator[Block]: ...


class ReferenceEngine(NamedTuple):
    """A system, and MD on it with a reference energy.

    Attributes:
        name: for progress bars and files.
        system: species, masses, periodic directions.
        state: where equilibration starts; its velocities are not used.
        dt: fs, time step of the integrator.
        run: makes MD.
    """

    name: str
    system: System
    state: State
    dt: float
    run: Run
