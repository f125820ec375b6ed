"""Vibrational spectra of trajectories; times are fs, wave numbers cm⁻¹."""

import math
from typing import NamedTuple

import numpy as np

from ffmd_jax.core import mechanics, units
from ffmd_jax.formats.trajectory import Trajectory, frame_interval


class VDOS(NamedTuple):
    """Wave numbers, cm⁻¹ ``[n]``, and vibrational density of states, degrees of freedom per cm⁻¹ ``[n]``."""

    wavenumber_per_cm: np.ndarray
    density: np.ndarray


def vdos(trajectory: Trajectory, species: int | None = None, segment_ps: float = 4.0) -> VDOS:
    """Mass-weighted power spectrum of the velocities of one element (atomic number), or of all atoms.

    Welch's average (doi:10.1109/TAU.1967.1161901) over Hann windows of ``segment_ps``, or of the whole run
    where it is shorter, with half overlap.  The trapezoid integral is Σ m⟨v²⟩/(k_B T), averaged with the
    windows, where T is the mean temperature of the run: the number of degrees of freedom, for one element times its
    temperature over T.  The spectra of the elements add up to that of all atoms.  Vibrations faster than half the
    frame rate are folded back to lower wave numbers: compare runs with the same frame interval.

    Raises:
        ValueError: fewer than four frames in a segment, or frames that are not evenly spaced.
    """
    from scipy import signal  # takes a second

    interval, masses = frame_interval(trajectory.times), np.asarray(trajectory.system.masses)
    velocities = trajectory.frames.velocities
    members = np.asarray(trajectory.system.species) == species if species is not None else masses > 0
    # An even segment ends on the Nyquist frequency, which makes the trapezoid rule Parseval's sum.
    segment = 2 * (min(len(velocities), round(segment_ps * units.PS / interval)) // 2)
    if segment < 4:
        raise ValueError(f"a VDOS needs at least 4 frames in a segment, not {segment} (interval {interval:g} fs)")
    power, options = np.zeros(segment // 2 + 1), {"nperseg": segment, "detrend": False, "axis": 0}
    for atom in np.flatnonzero(members):
        # The mean velocity stays: the spectrum at zero is diffusion.
        density = signal.welch(velocities[:, atom], 1 / interval, **options)[1]
        power += masses[atom] * density.sum(axis=-1)
    power[[0, -1]] *= 2  # the two bins that the one-sided spectrum does not double
    # k_B T, u Å²/fs², with the motion of the whole, which is in the spectrum at zero, too.
    kinetic = np.mean(mechanics.kinetic_energy(trajectory.system, np.asarray(velocities)))
    thermal = 2 * units.EV * kinetic / max(float(mechanics.degrees_of_freedom(trajectory.system)), 1.0)
    per_cm = units.PS * units.TERAHERTZ_IN_PER_CM  # the frequency 1/fs as a wave number
    wavenumbers = np.fft.rfftfreq(segment, interval) * per_cm
    return VDOS(wavenumbers, power / (thermal * per_cm) if thermal > 0 else power)


def highest(interval_fs: float) -> float:
    """The highest wave number that frames so far apart resolve, cm⁻¹; what is above is folded back below it."""
    return units.PS * units.TERAHERTZ_IN_PER_CM / (2 * interval_fs)


def broadening(friction_tau_fs: float) -> float:
    """Full width at half maximum, cm⁻¹, that friction γ = 1/τ gives to a spectral line: γ/2πc."""
    return units.PS * units.TERAHERTZ_IN_PER_CM / (2 * math.pi * friction_tau_fs)


def vdos_overlap(a: VDOS, b: VDOS) -> float:
    """Overlap ∫ min(a, b) dν of two spectra that are each normalised to ∫ dν = 1: 1 identical, 0 disjoint.

    Spectra on different grids are interpolated to the finer grid, up to the larger end.  The overlap is NaN if a
    spectrum is empty, or if more than 1 % of one lies beyond the end of the other, whose frames are too far apart.
    """
    step = min(a.wavenumber_per_cm[1], b.wavenumber_per_cm[1])
    end = max(a.wavenumber_per_cm[-1], b.wavenumber_per_cm[-1])
    grid = step * np.arange(round(end / step) + 1)
    curves = [np.interp(grid, *spectrum, right=0.0) for spectrum in (a, b)]
    areas = [np.trapezoid(curve, grid) for curve in curves]
    common = grid <= min(a.wavenumber_per_cm[-1], b.wavenumber_per_cm[-1]) + 0.5 * step
    within = [np.trapezoid(curve[common], grid[common]) for curve in curves]
    if min(areas) <= 0 or any(part < 0.99 * area for part, area in zip(within, areas, strict=True)):
        return math.nan
    return float(np.trapezoid(np.minimum(curves[0] / areas[0], curves[1] / areas[1]), grid))
