"""Figures and one self-contained HTML page from analyses.

Reference data are grey, force-free data blue: told apart by lightness alone.  Figures are plain
`matplotlib.figure.Figure` objects: no pyplot, no global state.
"""

import base64
import html
import io
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ffmd_jax import analysis as analyses
from ffmd_jax import units
from ffmd_jax.analysis import Analysis, ErrorGrowth

_REFERENCE, _REFERENCE_FILL, _FORCE_FREE, _THEORY = "0.35", "0.8", "#0072B2", "black"
_WIDTH, _HEIGHT, _DPI = 9.0, 2.8, 130  # inches per row of panels
_LARGE, _SMALL = 11, 9  # points
_N_POINTS = 2000  # drawn of a time series


def figure_temperature(analysis: Analysis, reference: Analysis | None = None) -> Figure:
    """Temperature against time, its distribution beside the canonical one, and the mean of each element."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained", dpi=_DPI)
    series, histogram, means = figure.subplots(1, 3, width_ratios=[1.5, 1, 0.8])
    runs = _runs(analysis, reference)
    values = np.concatenate([run.temperatures.total for run, _, _ in runs])
    bins = np.linspace(values.min() - 1e-6, values.max() + 1e-6, 41)
    for place, (run, name, color) in enumerate(runs):
        found, stride = run.temperatures, math.ceil(len(run.times_fs) / _N_POINTS)
        picoseconds = (run.times_fs - run.times_fs[0]) / units.PS
        series.plot(picoseconds[::stride], found.total[::stride], color=color, lw=0.6, alpha=0.8, label=name)
        style = {"histtype": "stepfilled", "color": _REFERENCE_FILL} if color == _REFERENCE else {"histtype": "step"}
        histogram.hist(found.total, bins, density=True, **{"color": color, **style}, lw=1.6)
        x = np.arange(len(found.mean_by_species)) + 0.16 * (place - 0.5 * (len(runs) - 1))
        heights, errors = list(found.mean_by_species.values()), list(found.error_by_species.values())
        means.errorbar(x, heights, errors, fmt="os"[place], color=color, ms=5, capsize=3)
        means.axhline(found.mean, color=color, lw=0.8, ls=":")
    target = _canonical_temperature(analysis, reference)
    if target is not None:
        grid = np.linspace(bins[0], bins[-1], 300)
        density = analyses.canonical_temperature_distribution(target, analysis.temperatures.degrees_of_freedom, grid)
        histogram.plot(grid, density, "--", color=_THEORY, lw=1.2, label=f"canonical, {target:.0f} K")
        histogram.set_ylim(0, 1.35 * max(histogram.get_ylim()[1], density.max()))  # room for the legend
        _legend(histogram)
    means.set_xticks(range(len(analysis.temperatures.by_species)), list(analysis.temperatures.by_species))
    means.margins(x=0.3)
    _finish(series, "time / ps", "temperature / K", "Time series", legend=True)
    _finish(histogram, "temperature / K", "density / K⁻¹", "Distribution")
    _finish(means, "element", "temperature / K", "Mean by element")
    return figure


def figure_rdf(analysis: Analysis, reference: Analysis | None = None) -> Figure:
    """Radial distribution of every pair; distribution of pair distances for systems that are not fully periodic."""
    figure, panels = _panels(list(analysis.rdf))
    label = "g(r)" if np.all(analysis.system.pbc) else "density / Å⁻¹"
    for i, (name, axes) in enumerate(panels.items()):
        for run, run_name, color in _runs(analysis, reference):
            if name in run.rdf:
                _curve(axes, *run.rdf[name], run_name, color)
        _finish(axes, "r / Å", label, name.replace("-", "–"), legend=i == 0)
    return figure


def figure_vdos(analysis: Analysis, reference: Analysis | None = None) -> Figure:
    """Vibrational density of states, in all and of every element, up to where 99.9 % of it lies."""
    figure, panels = _panels(["all atoms", *analysis.vdos_by_species])
    runs = _runs(analysis, reference)
    end = max(_spectrum_end(run.vdos) for run, _, _ in runs)
    for i, (name, axes) in enumerate(panels.items()):
        for run, run_name, color in runs:
            spectrum = run.vdos if i == 0 else run.vdos_by_species.get(name)
            if spectrum is not None:
                _curve(axes, spectrum.wavenumber_per_cm, 1000 * spectrum.density, run_name, color)
        axes.set_xlim(0, end)
        _finish(axes, "wave number / cm⁻¹", "VDOS / 10⁻³ cm", name, legend=i == 0)
    return figure


def figure_potential_energy(analysis: Analysis, reference: Analysis | None = None) -> Figure | None:
    """Distribution of the potential energy per atom about the (reference) mean; None where it is not known."""
    energies = [
        (1000 * run.potential_energy_eV[np.isfinite(run.potential_energy_eV)] / len(run.system.species), name, color)
        for run, name, color in _runs(analysis, reference)
    ]
    energies = [entry for entry in energies if len(entry[0])]
    if not energies:
        return None
    origin = energies[0][0].mean()
    every = np.concatenate([values for values, _, _ in energies]) - origin
    bins = np.linspace(every.min() - 1e-9, every.max() + 1e-9, int(np.clip(len(energies[-1][0]) ** 0.5, 8, 50)) + 1)
    figure = Figure(figsize=(0.6 * _WIDTH, _HEIGHT), layout="constrained", dpi=_DPI)
    axes = figure.subplots()
    for values, name, color in energies:
        filled = color == _REFERENCE
        style = {"histtype": "stepfilled" if filled else "step", "color": _REFERENCE_FILL if filled else color}
        axes.hist(values - origin, bins, density=True, label=name, lw=1.6, **style)
        axes.axvline(values.mean() - origin, color=color, lw=1.2, ls=":")
    what = "(reference)" if reference is not None and energies[0][1] == "reference" else "mean"
    _finish(axes, f"potential energy − {what} / meV per atom", "density / meV⁻¹", "Potential energy", legend=True)
    return figure


def figure_error_growth(growth: ErrorGrowth, time_step_fs: float | None = None) -> Figure:
    """Position error, velocity error and kinetic-energy ratio against steps, or against time where Δt is given."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained", dpi=_DPI)
    x = growth.steps * (1.0 if time_step_fs is None else time_step_fs)
    label = "steps" if time_step_fs is None else "time / fs"
    series = (
        ("Positions", "RMS error / Å", growth.position_error_A, growth.position_standard_error_A),
        ("Velocities", "RMS error / RMS velocity", growth.velocity_error, growth.velocity_standard_error),
        ("Kinetic energy", "force-free / reference", *growth[-2:]),
    )
    for i, (axes, (title, y_label, values, errors)) in enumerate(zip(figure.subplots(1, 3), series, strict=True)):
        axes.errorbar(x, values, np.nan_to_num(errors), fmt="o-", color=_FORCE_FREE, ms=4, lw=1.2, capsize=2)
        axes.set_xscale("log")
        if i < 2:
            axes.set_yscale("log")
        else:
            axes.axhline(1.0, color=_REFERENCE, lw=1.0)
        _finish(axes, label, y_label, title)
    return figure


def make_figures(
    analysis: Analysis,
    reference: Analysis | None = None,
    growth: ErrorGrowth | None = None,
    time_step_fs: float | None = None,
) -> dict[str, Figure]:
    """All figures that the data allow, by file stem."""
    figures = {"vdos": figure_vdos(analysis, reference), "temperature": figure_temperature(analysis, reference)}
    if analysis.rdf:
        figures["rdf"] = figure_rdf(analysis, reference)
    energy = figure_potential_energy(analysis, reference)
    if energy is not None:
        figures["potential_energy"] = energy
    if growth is not None:
        figures["error_growth"] = figure_error_growth(growth, time_step_fs)
    return figures


def save_figures(directory, figures: dict[str, Figure]) -> list[Path]:
    """Paths of the figures of `make_figures`, written as PNG files into ``directory``."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(directory / f"{name}.png")
    return [directory / f"{name}.png" for name in figures]
