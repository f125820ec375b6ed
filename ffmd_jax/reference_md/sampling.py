"""Start states of independent production runs: one run in a heat bath, and states of it far enough apart."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from ffmd_jax.core import mechanics, units
from ffmd_jax.core.state import Array, State, System, take
from ffmd_jax.dynamics.engine import Block
from ffmd_jax.dynamics.ensemble import NVT
from ffmd_jax.reference_md.engine import ReferenceEngine

_FRAME_FS = 10.0
_SEARCHED = 1.0  # of the spacing: in 0.5 ps the energy of a molecule may not come near its mean


class Starts(NamedTuple):
    """Start states of production runs, total momenta zero.

    Attributes:
        states: Å and Å/fs, float64 ``[n_starts, n_atoms, 3]``.
        times_fs: when they occurred in the run that they were taken from, ``[n_starts]``.
        total_energies_eV: ``[n_starts]``.
        mean_energy_eV: estimate of the canonical mean of the total energy, from all frames after the equilibration.
    """

    states: State
    times_fs: np.ndarray
    total_energies_eV: np.ndarray
    mean_energy_eV: float


class _Candidate(NamedTuple):
    potential: float
    kinetic: float
    time: float
    state: State

    @property
    def energy(self) -> float:
        return self.potential + self.kinetic


def frame_interval(engine: ReferenceEngine) -> float:
    """Time between the frames of `heat`, fs: a multiple of the time step near 10 fs."""
    return max(1, round(_FRAME_FS / engine.dt)) * engine.dt


def heat(engine: ReferenceEngine, bath: NVT, n_frames: int, key: Array) -> Iterator[Block]:
    """Yields blocks of an NVT run from the engine's structure, frames a `frame_interval` apart.

    Velocities are drawn from the Maxwell–Boltzmann distribution.
    """
    key_velocities, key_run = jax.random.split(key)
    start = mechanics.maxwell_boltzmann(key_velocities, engine.system, engine.state, bath.temperature_K)
    every = round(frame_interval(engine) / engine.dt)
    return engine.run(start, n_steps=n_frames * every, every=every, key=key_run, ensemble=bath)


def sampling_time(n_starts: int, spacing_fs: float) -> float:
    """Time, fs, that `choose` needs after the equilibration."""
    return n_starts * (1 + _SEARCHED) * spacing_fs


def choose(
    system: System,
    blocks: Iterable[Block],
    *,
    temperature_K: float,
    n_starts: int,
    equilibrate_fs: float,
    spacing_fs: float,
) -> Starts:
    """States of a run in a heat bath, at least ``spacing_fs`` apart, each with a total energy near the mean.

    After the equilibration the run is cut into pieces of 2 spacings.  The second half of a piece gives the frame whose
    total energy is nearest to the canonical mean, as estimated from all frames from the equilibration to the end of the
    piece, so that a state does not depend on how many follow it.  Total momenta (angular ones of isolated systems) are
    set to zero, and the energies are those without them.  Near the mean, an NVE run has the temperature of the bath to
    O(1/N), and not that of one random energy, which varies by T/sqrt(f) in f degrees of freedom.

    The mean total energy of a picosecond varies nearly as much in a small molecule: 20 K in 24 degrees of freedom.
    But the mean kinetic energy is known, f k_B T/2, and slow changes of kinetic and potential energy go together, so
    the estimate is f k_B T + ⟨U − K⟩, where they cancel.  It is unbiased, and off by 5 K for such a molecule.

    Args:
        blocks: of a run that is long enough, see `sampling_time`.
        temperature_K: of its heat bath, K.
        n_starts: number of states.
        equilibrate_fs: what is left out, fs.
        spacing_fs: smallest interval between two states, and between equilibration and first state, fs.

    Raises:
        ValueError: the run is too short, or its frames are too rare.
    """
    chosen: list[_Candidate] = []
    window: list[_Candidate] = []
    differences: list[float] = []  # U − K, eV
    thermal = float(mechanics.degrees_of_freedom(system)) * units.BOLTZMANN * temperature_K
    for candidate in _frames(system, blocks):
        since = candidate.time - equilibrate_fs
        if since <= 1e-6 or len(chosen) == n_starts:
            continue
        differences.append(candidate.potential - candidate.kinetic)
        end = sampling_time(len(chosen) + 1, spacing_fs)
        if since > end - _SEARCHED * spacing_fs - 1e-6:
            window.append(candidate)
        if since > end - 1e-6:
            mean = thermal + float(np.mean(differences))
            chosen.append(min(window, key=lambda found: abs(found.energy - mean)))
            window = []
    if len(chosen) < n_starts:
        raise ValueError(f"the run in the heat bath gives {len(chosen)} start states, {n_starts} are needed")
    states = jax.tree.map(lambda *x: np.stack(x).astype(np.float64), *(found.state for found in chosen))
    times, totals = (np.array(values) for values in zip(*((found.time, found.energy) for found in chosen), strict=True))
    return Starts(states, times, totals, thermal + float(np.mean(differences)))


def _frames(system: System, blocks: Iterable[Block]) -> Iterator[_Candidate]:
    """Every frame with zero total momenta."""
    at_rest = jax.jit(mechanics.zero_momenta)
    for block in blocks:
        for i, time in enumerate(block.times):
            state = at_rest(system, take(block.frames, i))
            kinetic = mechanics.kinetic_energy(system, np.asarray(state.velocities))
            yield _Candidate(float(block.observables["potential_energy_eV"][i]), float(kinetic), float(time), state)
