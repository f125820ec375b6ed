"""What is asked of an ion conductor: diffusion with its error, activation energies, spectra and structure of runs.

Runs are trajectories of the same length, each ``[n_frames, n_atoms, 3]``; lengths are Å, times ps.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from ase.units import kB

from ffmd_jax.analysis import distributions, spectra
from ffmd_jax.core import units
from ffmd_jax.formats.trajectory import Trajectory, frame_interval

CM2_PER_S = 1e-4  # 1 Å²/ps


def square_displacements(
    runs: Sequence[Trajectory], symbol: str, between_ps: tuple[float, float], number: int = 9
) -> tuple[np.ndarray, np.ndarray]:
    """Lags, ps ``[n]``, and mean square displacements of an element in each run, Å² ``[n_runs, n]``.

    About the centre of mass.  The lags are multiples of the frame interval.
    """
    interval, found = frame_interval(runs[0].times) / units.PS, []
    steps = np.unique(np.rint(np.linspace(*between_ps, number) / interval).astype(int))
    for run in runs:
        masses, positions = np.asarray(run.system.masses), np.asarray(run.frames.positions)
        centre = np.einsum("i,fia->fa", masses, positions)[:, None] / masses.sum()
        own = (positions - centre)[:, np.asarray(run.system.species) == atomic_numbers[symbol]]
        found.append([np.sum((own[n:] - own[: len(own) - n]) ** 2, axis=-1).mean() for n in steps])
    return steps * interval, np.array(found)


def diffusion(runs: Sequence[Trajectory], symbol: str, between_ps: tuple[float, float]) -> dict[str, float]:
    """D, 1e-5 cm²/s, a sixth of the slope of the mean square displacement between two lags, and its error.

    The slope of the mean of runs is the mean of their slopes; the error is that of this mean.
    """
    lags, each = square_displacements(runs, symbol, between_ps)
    slopes = np.polyfit(lags, each.T, 1)[0] / 6 * CM2_PER_S * 1e5
    return {"D": round(float(slopes.mean()), 4), "error": round(float(slopes.std(ddof=1) / len(slopes) ** 0.5), 4)}


def arrhenius(of: dict[float, dict[str, float]]) -> dict[str, float]:
    """Activation energy, eV, and its error, from D and their errors at temperatures, K: ln D = ln D₀ − E/(k_B T)."""
    inverse = 1 / (kB * np.array(list(of)))
    d, error = (np.array([one[name] for one in of.values()]) for name in ("D", "error"))
    (slope, at_zero), covariance = np.polyfit(inverse, np.log(d), 1, w=d / error, cov="unscaled")
    return {
        "activation_energy_eV": round(float(-slope), 4),
        "error_eV": round(float(covariance[0, 0] ** 0.5), 4),
        "D0": round(float(np.exp(at_zero)), 3),
    }


def likeness(runs: Sequence[Trajectory], others: Sequence[Trajectory]) -> dict[str, Any]:
    """Overlap of the vibrational spectra, and RMS difference of g(r) of each pair of elements; mean curves of runs."""
    elements = sorted({int(z) for z in np.asarray(runs[0].system.species)})
    spectrum, other = (
        spectra.VDOS(all_of[0].wavenumber_per_cm, np.mean([one.density for one in all_of], axis=0))
        for all_of in ([spectra.vdos(run) for run in side] for side in (runs, others))
    )
    found = {}
    for pair in itertools.combinations_with_replacement(elements, 2):
        name = "–".join(chemical_symbols[z] for z in pair)
        curves = [
            np.mean([distributions.radial_distribution(run, pair).g for run in side], axis=0) for side in (runs, others)
        ]
        found[name] = round(float(np.sqrt(np.mean((curves[0] - curves[1]) ** 2))), 3)
    return {"vdos_overlap": round(spectra.vdos_overlap(spectrum, other), 3), "rdf_rmse": found}


def figure(beside: dict[str, Any]) -> plt.Figure:
    """ln D over 1/T of teacher and model, with the lines through them."""
    kelvins = [float(name[:-2]) for name in beside if name.endswith(" K")]
    fig, axis = plt.subplots(figsize=(5.4, 3.8), layout="constrained")
    sides = {
        "CHGNet": ("k", "s", [beside[f"{t:g} K"]["teacher"]["Cu"] for t in kelvins]),
        "model": ("C0", "o", [beside[f"{t:g} K"]["model"]["Cu"] for t in kelvins]),
    }
    inverse = 1000 / np.array(kelvins)
    for i, (label, (color, marker, found)) in enumerate(sides.items()):
        d, error = (np.array([one[name] for one in found]) for name in ("D", "error"))
        line = arrhenius(dict(zip(kelvins, found, strict=True)))
        label += f": {line['activation_energy_eV']:.3f} ± {line['error_eV']:.3f} eV"
        axis.errorbar(inverse + 0.008 * (i - 1), d, error, fmt=marker, color=color, capsize=3, label=label)
        axis.plot(
            inverse, line["D0"] * np.exp(-line["activation_energy_eV"] * inverse / 1000 / kB), color=color, lw=0.8
        )
    axis.set_yscale("log")
    axis.set(xlabel="1000 K / T", ylabel="D of Cu, 10⁻⁵ cm²/s")
    axis.legend(frameon=False, fontsize="small")
    return fig
