"""Can these frames come from one NVE run?  Positions, velocities and energies must belong together.

A propagator can only learn what the state at t determines.  `check` refuses, and names the number that shows it, other
velocity units and times, half-step velocities, velocities that a thermostat changed, and forces of another motion.
Where potential energies are stored, the total energy decides.  Otherwise the trajectory itself is asked, and what that
can see was measured on BKS quartz (72 atoms, 300 K, 12 ps) and Lennard-Jones argon (32 atoms, 60 K, 20 ps):

- Velocity jumps.  The residual of Padé's fourth-order derivative (Lele 1992, doi:10.1016/0021-9991(92)90324-R),
  ρ = (v₋ + 4v + v₊)/6 − (r₊ − r₋)/2δ, vanishes for smooth motion.  Vibrations that frames δ apart hardly resolve leave
  residuals in their own part of the spectrum, random kicks everywhere: the *lowest* band of the power spectrum of ρ is
  the noise floor.  Relative to ⟨v²⟩ it is δ/18τ for Langevin dynamics of relaxation time τ, and δ/36τ for CSVR after
  projection of ρ on v, times the degrees of freedom.  With frames 2 … 15 fs (quartz) and 4 … 100 fs (argon) apart the
  ratio floor / ⟨ρ²⟩ was 1e-7 … 0.03 in NVE and 0.07 … 0.7 for Langevin dynamics with τ = 0.1 and 1 ps; of 10 ps,
  argon's was found and quartz's only at 5 fs.  For the projection it was 1e-7 … 0.9 in NVE and 5 … 50 for CSVR with
  τ = 0.1 and 1 ps, but 0.4 … 1.2 in quartz at 10 fs, where CSVR is not found.  At δ = 20 fs quartz has
  ⟨ρ²⟩ = 0.15 ⟨v²⟩ (Si–O vibrates with 28 fs), and nothing can be said.
- Kinetic-energy fluctuations in units of the canonical 2/f ⟨K⟩²: 1 in any canonical ensemble, 1 − f k/2C in NVE
  (Lebowitz, Percus & Verlet 1967, doi:10.1103/PhysRev.153.250), 0.43 … 0.53 measured, 0.65 for a liquid with C = 13 k
  a molecule of f = 9.  This works at any δ, but needs some hundred relaxation times.

Not caught without energies: Berendsen's thermostat; Nosé–Hoover, and CSVR at frames that hardly resolve the fastest
vibration, in runs shorter than that; any thermostat much slower than the run.  One run of each kind was measured, and
the thresholds were chosen on the same runs.
"""

from typing import Any

import numpy as np
from ase.data import chemical_symbols

from ffmd_jax.core import mechanics, units
from ffmd_jax.core.state import State, System
from ffmd_jax.formats import common, consistency
from ffmd_jax.formats.trajectory import Trajectory, frame_interval

_SEGMENT = 64  # frames of one spectrum
_BLOCKS = 8  # of a run, for errors of means
_FORCES = {
    "Hartree/Bohr": units.HARTREE_IN_EV / units.BOHR,
    "Rydberg/Bohr": units.HARTREE_IN_EV / 2 / units.BOHR,
    "Hartree/Å": units.HARTREE_IN_EV,
    "kcal/mol/Å": units.KCAL_PER_MOL_IN_EV,
    "kJ/mol/Å": units.KCAL_PER_MOL_IN_EV / 4.184,
    "kJ/mol/nm": units.KCAL_PER_MOL_IN_EV / 41.84,
    "gradients, of the opposite sign": -1.0,
}  # eV/Å


def check(trajectory: Trajectory) -> None:
    """Raises ValueError, naming the number that shows it, unless the frames can come from one NVE run."""
    system = trajectory.system
    positions, velocities, cell = (np.asarray(values) for values in trajectory.frames)
    interval = frame_interval(trajectory.times)
    _check_ensemble(trajectory.metadata)
    common.check_cells(cell)
    mechanics.refuse_constraints(system)
    mechanics.check_freedom(system)
    _check_masses(system)
    _check_displacements(positions, velocities, interval)
    consistency.check_nve(trajectory)
    known = _check_energies(trajectory)
    if trajectory.forces is not None:
        _check_forces(trajectory.system, State(positions, velocities, cell), np.asarray(trajectory.forces), interval)
    weights = np.sqrt(np.asarray(system.masses))[:, None]
    if len(positions) < _SEGMENT:
        return
    residual = _residual(positions, velocities, interval) * weights
    if not known:
        freedom = mechanics.degrees_of_freedom(system)
        _check_jumps(velocities * weights, residual, interval, freedom)
        _check_fluctuations(system, State(positions, velocities, cell), freedom)
    _check_half_steps(velocities * weights, residual, interval)


def check_pairs(
    system: System, before: State, displacements: np.ndarray, velocities: np.ndarray, time_step_fs: float
) -> None:
    """Raises ValueError unless displacements, Å, are what the velocities, Å/fs, at both ends give; all ``[…, 3]``."""
    mechanics.refuse_constraints(system)
    _check_masses(system)
    if not np.any(before.velocities) or not np.any(velocities):
        raise ValueError("all velocities are zero: a propagator cannot be trained without them")
    expected = 0.5 * time_step_fs * (np.asarray(before.velocities) + velocities)
    consistency.check_slope(displacements, expected, 0.3, 3.0)
    consistency.check_moves(system, displacements, expected, lambda i: f"in pair {i}")


def _check_ensemble(metadata: dict[str, Any]) -> None:
    ensemble = str(metadata.get("ensemble", "nve")).lower()
    if ensemble != "nve":
        raise ValueError(f"the file says that its ensemble is {ensemble.upper()}; only NVE runs can be learnt from")


def _check_masses(system: System) -> None:
    """Raises ValueError for isotopes beside each other: a model has one mass for an element."""
    for number in np.unique(system.species):
        own = np.unique(np.round(np.asarray(system.masses)[np.asarray(system.species) == number], 3))
        if len(own) > 1:
            raise ValueError(
                f"atoms of {chemical_symbols[number]} have the masses {', '.join(f'{mass:g}' for mass in own[:4])} u: "
                f"a model has one mass for an element; run the reference with one"
            )


def _check_displacements(positions: np.ndarray, velocities: np.ndarray, interval: float) -> None:
    """Displacements over up to eight frames against the trapezoidal rule.

    The slope of the rule's displacement against the true one was 0.69 … 1 for quartz with frames up to 50 fs apart and
    argon up to 200 fs; over a single interval it falls to 0.38, since unresolved vibrations look like noise.
    """
    if not np.any(velocities):
        raise ValueError("all velocities are zero: a propagator cannot be trained without them")
    ahead = min(8, len(positions) - 1)
    steps = 0.5 * interval * (velocities[1:] + velocities[:-1])
    path = np.concatenate([np.zeros_like(steps[:1]), np.cumsum(steps, axis=0)])
    bounds = (0.55, 1.6) if ahead >= 4 else (0.3, 3.0)
    consistency.check_slope(positions[ahead:] - positions[:-ahead], path[ahead:] - path[:-ahead], *bounds)


def _check_energies(trajectory: Trajectory) -> bool:
    """True if the total energy is known and constant; raises ValueError if it is known and not constant."""
    kinetic = mechanics.kinetic_energy(trajectory.system, np.asarray(trajectory.frames.velocities))
    observables = trajectory.observables
    total = observables.get("total_energy_eV")
    if total is None and "potential_energy_eV" in observables:
        total = observables["potential_energy_eV"] + kinetic
    if total is None or not np.isfinite(total).all():
        return False
    away = abs(total - np.median(total))
    worst, usual = int(np.argmax(away)), float(np.median(away))
    if away[worst] > 15 * usual + 0.15 * np.std(kinetic) and np.sum(away > 0.5 * away[worst]) < 0.1 * len(away):
        raise ValueError(
            f"the total energy of frame {worst} is {away[worst]:.3g} eV away from that of the others, which differ by "
            f"{usual:.2g} eV: a damaged frame"
        )
    if np.std(total) > 0.2 * np.std(kinetic):
        raise ValueError(
            f"the total energy fluctuates by {np.std(total):.3g} eV, the kinetic by {np.std(kinetic):.3g} eV: "
            f"not an NVE run (a thermostat or barostat acted), so no propagator can be learnt from it"
        )
    return True


def _check_forces(system: System, frames: State, forces: np.ndarray, interval: float) -> None:
    """Forces against the virial theorem, Σ m v·x |ᵀ₀ = ∫ (2K + Σ F·x) dt, x = r − ⟨r⟩ (Clausius 1870).

    It holds in any system and for frames at any distance.  In 400 … 1000 frames of quartz, water and paracetamol 15 and
    20 fs apart, −Σ F·x was 0.99 … 1.00 of what it should be, ± 0.002 … 0.012; with the forces of the frame before or of
    other atoms −0.2 … 0.3 of it.
    """
    blocks = np.array_split(np.arange(len(forces)), _BLOCKS)
    if len(blocks[-1]) < 4:
        return
    masses, virials, expected = np.asarray(system.masses)[:, None], [], []
    for block in blocks:
        moved, velocities = frames.positions[block], frames.velocities[block]
        moved = moved - moved.mean(axis=0)
        inner = np.sum(masses * velocities * moved, axis=(1, 2)) / units.EV
        doubled = np.sum(masses * velocities**2, axis=(1, 2)) / units.EV
        virials.append(_time_average(-np.sum(forces[block] * moved, axis=(1, 2))))
        expected.append(_time_average(doubled) - (inner[-1] - inner[0]) / (interval * (len(block) - 1)))
    ratio = float(np.sum(virials) / np.sum(expected))
    error = float(np.std(np.array(virials) - ratio * np.array(expected), ddof=1) / np.sqrt(_BLOCKS) / np.mean(expected))

    def off(size: float) -> float:
        return abs(size * ratio - 1) / (0.1 + 5 * abs(size) * error)

    if off(1) <= 1:
        return
    best = min(_FORCES, key=lambda unit: off(_FORCES[unit]))
    fits = off(_FORCES[best]) <= 1 and abs(ratio) > 5 * error
    hint = f"times {_FORCES[best]:.6g} they do: {best}" if fits else "those of other frames or atoms?"
    raise ValueError(
        f"the forces do not belong to the motion: their virial is {ratio:.3g} ± {error:.2g} of twice the kinetic "
        f"energy, not 1 ({hint})"
    )


def _time_average(values: np.ndarray) -> float:
    """By the trapezoidal rule."""
    return float((np.sum(values) - 0.5 * (values[0] + values[-1])) / (len(values) - 1))


def _residual(positions: np.ndarray, velocities: np.ndarray, interval: float) -> np.ndarray:
    """(v₋ + 4v + v₊)/6 − (r₊ − r₋)/2δ of the inner frames, ``[n_frames − 2, n_atoms, 3]``."""
    mean = (velocities[:-2] + 4 * velocities[1:-1] + velocities[2:]) / 6
    return mean - (positions[2:] - positions[:-2]) / (2 * interval)


def _check_half_steps(velocities: np.ndarray, residual: np.ndarray, interval: float) -> None:
    """Velocities of a leap-frog integrator lag behind: ρ = −lag · dv/dt.

    In NVE time reversal makes ⟨ρ · dv/dt⟩ vanish at any interval: lags up to 0.008 fs were measured.
    """
    acceleration = (velocities[2:] - velocities[:-2]) / (2 * interval)
    blocks = np.array_split(np.arange(len(residual)), 8)
    products = np.array([-np.sum(residual[b] * acceleration[b]) for b in blocks])
    squares = np.array([np.sum(acceleration[b] ** 2) for b in blocks])
    if not np.all(squares > 0):
        return
    lag, error = products.sum() / squares.sum(), np.std(products / squares, ddof=1) / np.sqrt(8)
    if abs(lag) > 0.1 + 6 * error + 0.005 * interval:
        raise ValueError(
            f"velocities belong to a time {abs(lag):.3g} fs {'before' if lag > 0 else 'after'} the positions "
            f"(leap-frog half steps?); use velocity Verlet (GROMACS: integrator = md-vv) or `velocities` "
            f"central-difference"
        )


def _check_jumps(velocities: np.ndarray, residual: np.ndarray, interval: float, freedom: float) -> None:
    """Random velocity changes, of each atom or of all together; see the module's text for thresholds."""
    inner = velocities[1:-1]
    mean_square = float(np.mean(np.sum(inner**2, axis=(1, 2))))
    total = float(np.mean(np.sum(residual**2, axis=(1, 2)))) / mean_square
    if total > 0.12:  # vibrations too fast for these frames
        return
    single = _noise_floor(residual.reshape(len(residual), -1)) / mean_square
    projected = np.sum(residual * inner, axis=(1, 2)) / mean_square
    common = _noise_floor(projected[:, None]) * freedom
    for floor, share, what, factor in ((common, 3.0, "all atoms together", 36), (single, 0.05, "single atoms", 18)):
        if floor > 2e-5 and floor > share * total:
            raise ValueError(
                f"velocities of {what} jump at random, as a thermostat with a relaxation time of "
                f"{interval / (factor * floor):.3g} fs makes them (noise floor {floor:.2g}, {floor / total:.2g} of the "
                f"residual): not one NVE run; if it is, store its potential energies"
            )


def _noise_floor(signal: np.ndarray) -> float:
    """The lowest of eight bands of the power spectrum of ``[n_frames, n]``, summed over n; its variance if white."""
    window = np.hanning(_SEGMENT + 2)[1:-1, None]
    window /= np.sqrt(np.sum(window**2))
    size = min(_SEGMENT, len(signal))
    power = np.zeros(_SEGMENT // 2 + 1)
    starts = range(0, len(signal) - size + 1, _SEGMENT // 2)
    for i in starts:
        segment = signal[i : i + size] - signal[i : i + size].mean(axis=0)
        power += np.sum(np.abs(np.fft.rfft(segment * window[:size], n=_SEGMENT, axis=0)) ** 2, axis=1)
    return min(float(band.mean()) for band in np.array_split(power[2:] / len(starts), 8))


def _check_fluctuations(system: System, frames: State, freedom: int) -> None:
    """The variance of the kinetic energy against the canonical one; blocks give its error."""
    kinetic = np.asarray(mechanics.kinetic_energy(system, frames.velocities))
    if len(kinetic) < 320:
        return
    time = np.linspace(-1, 1, len(kinetic))
    deviation = kinetic - kinetic.mean() - time * np.mean(time * kinetic) / np.mean(time**2)
    squares = np.array([np.mean(block**2) for block in np.array_split(deviation, 16)])
    ratio, error = np.array([squares.mean(), squares.std(ddof=1) / 4]) * freedom / (2 * kinetic.mean() ** 2)
    if ratio - 4 * error > 0.75:
        raise ValueError(
            f"the kinetic energy fluctuates {ratio:.2f} ± {error:.2f} times as much as in the canonical ensemble, NVE "
            f"about 0.5: a thermostat acted; if it is an NVE run, store its potential energies"
        )
