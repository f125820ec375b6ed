"""Spectrum, g(r), temperatures and pressure of short runs with many frames; and how two of them differ."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ffmd_jax.analysis import distributions, spectra, temperatures
from ffmd_jax.analysis.distributions import RadialDistribution
from ffmd_jax.analysis.spectra import VDOS
from ffmd_jax.core import mechanics, units
from ffmd_jax.formats import trajectory
from ffmd_jax.formats.trajectory import Trajectory

PAIRS = {"Si-O": (14, 8), "O-O": (8, 8), "Si-Si": (14, 14)}


class Curves(NamedTuple):
    """Spectrum of all atoms, and g(r) by pair of elements."""

    vdos: VDOS
    rdf: dict[str, RadialDistribution]


def of(runs: Sequence[Trajectory], time_step_fs: float, segment_ps: float) -> Curves:
    """The mean over runs; g(r) of all frames, the spectrum of frames Δt apart.

    Spectra fold at half the rate of the frames, so only those of frames equally far apart can be compared.  Where
    frames are closer than Δt, the spectrum is the mean over the frames to begin with.
    """
    spectra_of = []
    for run in runs:
        every = round(time_step_fs / (run.times[1] - run.times[0]))
        parts = [trajectory.part(run, slice(first, None, every)) for first in range(every)]
        shortest = min(len(one.times) for one in parts)
        spectra_of += [spectra.vdos(trajectory.part(one, slice(shortest)), None, segment_ps) for one in parts]
    vdos = VDOS(spectra_of[0].wavenumber_per_cm, np.mean([one.density for one in spectra_of], axis=0))
    rdf = {}
    for name, pair in PAIRS.items():
        each = [distributions.radial_distribution(run, pair, max_frames=100) for run in runs]
        rdf[name] = RadialDistribution(each[0].r_A, np.mean([one.g for one in each], axis=0))
    return Curves(vdos, rdf)


def differences(one: Curves, other: Curves) -> dict[str, float]:
    """Overlap of the spectra, and the RMS difference of g(r), mean over the pairs."""
    rmse = [distributions.rdf_rmse(one.rdf[name], other.rdf[name]) for name in PAIRS]
    return {
        "vdos_overlap": round(spectra.vdos_overlap(one.vdos, other.vdos), 4),
        "rdf_rmse": round(float(np.mean(rmse)), 4),
    }


def halves(runs: Sequence[Trajectory]) -> tuple[list[Trajectory], list[Trajectory]]:
    """Two halves: of the runs, or in time where there is one."""
    if len(runs) > 1:
        return list(runs[: len(runs) // 2]), list(runs[len(runs) // 2 :])
    middle = len(runs[0].times) // 2
    return [trajectory.part(runs[0], slice(middle))], [trajectory.part(runs[0], slice(middle, None))]


def pieces(run: Trajectory, length_fs: float, number: int) -> list[Trajectory]:
    """That many pieces of a run, evenly chosen, each of about that length."""
    n_frames = round(length_fs / (run.times[1] - run.times[0]))
    firsts = np.linspace(0, len(run.times) - n_frames, number).astype(int)
    return [trajectory.part(run, slice(first, first + n_frames)) for first in firsts]


def temperatures_of(runs: Sequence[Trajectory]) -> dict[str, list[float]]:
    """Mean temperature of each element, K, and its error, of blocks of each run."""
    each = [temperatures.temperatures(run) for run in runs]
    error = {symbol: np.hypot.reduce([of.error_by_species[symbol] for of in each]) / len(each)
             for symbol in each[0].mean_by_species}  # fmt: skip
    means = {symbol: np.mean([of.mean_by_species[symbol] for of in each]) for symbol in error}
    return {symbol: [round(float(means[symbol]), 1), round(float(error[symbol]), 1)] for symbol in error}


def pressure(runs: Sequence[Trajectory]) -> float:
    """Mean pressure, GPa: of the stress that is stored, and of the motion of the atoms, 2K/3V, which is not in it."""
    found = []
    for run in runs:
        stress = np.mean([run.observables[f"stress_{of}_GPa"] for of in ("xx", "yy", "zz")])
        kinetic = mechanics.kinetic_energy(run.system, np.asarray(run.frames.velocities))
        moving = 2 * kinetic / (3 * mechanics.volume(np.asarray(run.frames.cell)))
        found.append(float(np.mean(moving)) * units.EV_PER_A3_IN_GPA - float(stress))
    return round(float(np.mean(found)), 2)
