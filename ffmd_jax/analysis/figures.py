"""Figures of analyses, as plain `matplotlib.figure.Figure` objects: no pyplot, no global state.

All figures have one width, rows of one height, and one style.  The reference is grey, the force-free run blue; they
differ in lightness, too.
"""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ffmd_jax.analysis import checks, temperatures
from ffmd_jax.analysis.error_growth import ErrorGrowth
from ffmd_jax.analysis.properties import Analysis
from ffmd_jax.analysis.spectra import VDOS
from ffmd_jax.core import units
from ffmd_jax.core.state import is_isolated

_REFERENCE, _REFERENCE_FILL, _FORCE_FREE, _THEORY = "0.35", "0.8", "#0072B2", "black"
_WIDTH, _HEIGHT, _DPI = 9.0, 2.8, 130  # inches per row of panels
_LARGE, _SMALL = 11, 9  # points
_PANELS_IN_ROW = 3
_N_POINTS = 2000  # drawn of a time series


def temperature(analysis: Analysis, reference: Analysis | None = None) -> Figure:
    """Temperature against time, its distribution beside the canonical one, and the mean of each element."""
    figure = _figure()
    series, histogram, means = figure.subplots(1, 3, width_ratios=[1.5, 1, 0.8])
    runs = runs_of(analysis, reference)
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
        density = temperatures.canonical_distribution(target, analysis.temperatures.degrees_of_freedom, grid)
        histogram.plot(grid, density, "--", color=_THEORY, lw=1.2, label=f"canonical, {target:.0f} K")
        means.axhline(target, color=_THEORY, lw=0.8, ls="--")
        histogram.set_ylim(0, 1.35 * max(histogram.get_ylim()[1], density.max()))  # room for the legend
        histogram.legend(fontsize=_SMALL, frameon=False)
    means.set_xticks(range(len(analysis.temperatures.by_species)), list(analysis.temperatures.by_species))
    means.margins(x=0.3)
    series.set_ylim(bins[0] - 0.05 * np.ptp(bins), bins[-1] + 0.2 * np.ptp(bins))  # room for the legend
    series.legend(fontsize=_SMALL, frameon=False, ncols=2, loc="upper center")
    _finish(series, "time / ps", "temperature / K", "Time series")
    _finish(histogram, "temperature / K", "density / K⁻¹", "Distribution")
    _finish(means, "element", "temperature / K", "Mean by element")
    return figure


def rdf(analysis: Analysis, reference: Analysis | None = None) -> Figure:
    """Radial distribution of every pair; where not fully periodic, the distribution of pair distances.

    The axis of an isolated system ends a little beyond its largest distance.
    """
    figure, panels = _panels(list(analysis.rdf))
    curves = [curve for run, _, _ in runs_of(analysis, reference) for curve in run.rdf.values()]
    end = max(curve.r_A[curve.g > 0].max(initial=1.0) for curve in curves) + 0.5
    label = "g(r)" if np.all(analysis.system.pbc) else "density / Å⁻¹"
    for i, (name, axes) in enumerate(panels.items()):
        for run, run_name, color in runs_of(analysis, reference):
            if name in run.rdf:
                found = run.rdf[name]
                _curve(axes, found.r_A, found.g, run_name, color)
                if found.error is not None:
                    axes.fill_between(found.r_A, found.g - found.error, found.g + found.error, color=color, alpha=0.25)
        if is_isolated(analysis.system):
            axes.set_xlim(0, min(end, curves[0].r_A[-1]))
        _finish(axes, "r / Å", label, name.replace("-", "–"), legend=i == 0)
    return figure


def vdos(analysis: Analysis, reference: Analysis | None = None) -> Figure:
    """Vibrational density of states, in all and of every element, up to where 99 % of it lies."""
    figure, panels = _panels(["all atoms", *analysis.vdos_by_species])
    runs = runs_of(analysis, reference)
    end = max(_spectrum_end(run.vdos) for run, _, _ in runs)
    for i, (name, axes) in enumerate(panels.items()):
        for run, run_name, color in runs:
            spectrum = run.vdos if i == 0 else run.vdos_by_species.get(name)
            if spectrum is not None:
                _curve(axes, spectrum.wavenumber_per_cm, 1000 * spectrum.density, run_name, color)
        axes.set_xlim(0, end)
        _finish(axes, "wave number / cm⁻¹", "VDOS / 10⁻³ cm", name, legend=i == 0)
    return figure


def potential_energy(analysis: Analysis, reference: Analysis | None = None) -> Figure | None:
    """Potential energy per atom about the reference's mean: time series and distribution; None if unknown."""
    energies = []
    for run, name, color in runs_of(analysis, reference):
        known = np.isfinite(run.potential_energy_eV)
        if known.any():
            picoseconds = (run.times_fs[known] - run.times_fs[0]) / units.PS
            energies.append((picoseconds, 1000 * run.potential_energy_eV[known] / len(run.system.species), name, color))
    if not energies:
        return None
    origin = energies[0][1].mean()
    every = np.concatenate([values for _, values, _, _ in energies]) - origin
    n_bins = int(np.clip(min(len(values) for _, values, _, _ in energies) ** 0.5, 8, 50))
    bins = np.linspace(every.min() - 1e-9, every.max() + 1e-9, n_bins + 1)
    figure = _figure()
    series, histogram = figure.subplots(1, 2, width_ratios=[1.5, 1])
    for picoseconds, values, name, color in energies:
        stride = math.ceil(len(values) / _N_POINTS)
        series.plot(picoseconds[::stride], (values - origin)[::stride], color=color, lw=0.6, alpha=0.8, label=name)
        _histogram(histogram, values - origin, bins, name, color)
        for line in (series.axhline, histogram.axvline):
            line(values.mean() - origin, color=color, lw=1.2, ls=":")
    series.set_ylim(bins[0] - 0.05 * np.ptp(bins), bins[-1] + 0.2 * np.ptp(bins))  # room for the legend
    series.legend(fontsize=_SMALL, frameon=False, ncols=2, loc="upper center")
    label = "ΔU / (meV/atom)"
    _finish(series, "time / ps", label, "Time series")
    _finish(histogram, label, "density / (atom/meV)", "Distribution")
    return figure


def msd(analysis: Analysis, reference: Analysis | None = None) -> Figure:
    """Mean square displacement of every element against the lag, with bands of one standard error."""
    figure, panels = _panels(list(analysis.msd))
    for i, (name, axes) in enumerate(panels.items()):
        for run, run_name, color in runs_of(analysis, reference):
            if name in run.msd:
                found = run.msd[name]
                lags = found.lag_fs / units.PS
                low, high = found.msd_A2 - found.error_A2, found.msd_A2 + found.error_A2
                axes.fill_between(lags, low, high, color=color, alpha=0.25, lw=0)
                axes.plot(lags, found.msd_A2, color=color, lw=1.2, label=run_name)
        axes.set_ylim(bottom=0)
        _finish(axes, "lag / ps", "MSD / Å²", name, legend=i == 0)
    return figure


def torsions(analysis: Analysis, reference: Analysis | None = None) -> Figure:
    """Free energy of every torsion against its angle, with bars of one standard error."""
    figure, panels = _panels(list(analysis.torsions))
    for i, (name, axes) in enumerate(panels.items()):
        for run, run_name, color in runs_of(analysis, reference):
            if name in run.torsions:
                angle, energy, error = run.torsions[name]
                axes.errorbar(np.degrees(angle), energy, error, fmt=".-", color=color, ms=3, lw=1, label=run_name)
        axes.set_xlim(-180, 180)
        _finish(axes, "angle / °", "free energy / meV", name.replace("-", "–"), legend=i == 0)
    return figure


def torsion_surfaces(analysis: Analysis, reference: Analysis | None = None) -> Figure:
    """Free energy of pairs of torsions, the reference beside the run, on one colour scale."""
    runs, names = runs_of(analysis, reference), list(analysis.torsion_surfaces)
    cases = [(name, run, run_name) for name in names for run, run_name, _ in runs]
    n_columns = len(runs) if len(names) > 1 else len(cases)
    figure = _figure(math.ceil(len(cases) / n_columns))
    grid = figure.subplots(math.ceil(len(cases) / n_columns), n_columns, squeeze=False)
    image = None
    for axes, (name, run, run_name) in zip(grid.ravel(), cases, strict=True):
        angle, energy = run.torsion_surfaces[name]
        edge = np.degrees(angle)
        image = axes.pcolormesh(edge, edge, energy.T, vmin=0, vmax=200, cmap="viridis")
        first, second = name.replace("-", "–").split(", ")
        _finish(axes, f"{first} / °", f"{second} / °", run_name)
    if image is not None:
        bar = figure.colorbar(image, ax=grid)
        bar.set_label("free energy / meV", fontsize=_LARGE)
        bar.ax.tick_params(labelsize=_SMALL)
    return figure


def error_growth(growth: ErrorGrowth, time_step_fs: float | None = None) -> Figure:
    """Position and velocity error and kinetic-energy ratio against steps, or time where Δt is given."""
    figure = _figure()
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


def training(lines: list[dict[str, Any]]) -> Figure:
    """Training loss, and validation errors where known, against epochs; from the lines of metrics.jsonl."""
    figure = _figure()
    loss, errors = figure.subplots(1, 2)
    stride = math.ceil(len(lines) / _N_POINTS)
    known = [line for line in lines[::stride] if line["loss"] is not None]
    loss.plot([line["epoch"] for line in known], [line["loss"] for line in known], color=_FORCE_FREE, lw=0.8)
    validated = [line for line in lines if "velocity_mae_relative_percent" in line]
    for name, color in (("displacement", _REFERENCE), ("velocity", _FORCE_FREE)):
        values = [line[f"{name}_mae_relative_percent"] for line in validated]
        errors.plot([line["epoch"] for line in validated], values, ".-", color=color, lw=1.2, label=name)
    for axes in (loss, errors):
        axes.set_yscale("log")
    _finish(loss, "epoch", "loss", "Training")
    _finish(errors, "epoch", "mean absolute error / %", "Validation", legend=True)
    return figure


def make(
    analysis: Analysis,
    reference: Analysis | None = None,
    growth: ErrorGrowth | None = None,
    time_step_fs: float | None = None,
) -> dict[str, Figure]:
    """All figures that the data allow, by file stem."""
    drawn = {"vdos": vdos(analysis, reference), "temperature": temperature(analysis, reference)}
    if analysis.rdf:
        drawn["rdf"] = rdf(analysis, reference)
    energy = potential_energy(analysis, reference)
    if energy is not None:
        drawn["potential_energy"] = energy
    drawn["msd"] = msd(analysis, reference)
    if analysis.torsions:
        drawn["torsions"] = torsions(analysis, reference)
    if analysis.torsion_surfaces and (
        reference is None or reference.torsion_surfaces.keys() == analysis.torsion_surfaces.keys()
    ):
        drawn["torsion_surfaces"] = torsion_surfaces(analysis, reference)
    if growth is not None:
        drawn["error_growth"] = error_growth(growth, time_step_fs)
    return drawn


def runs_of(analysis: Analysis, reference: Analysis | None) -> list[tuple[Analysis, str, str]]:
    """Analysis, name and colour of each run, the reference first, so that it is drawn behind."""
    if reference is None:
        return [(analysis, "run", _FORCE_FREE)]
    return [(reference, "reference", _REFERENCE), (analysis, "force-free", _FORCE_FREE)]


def _canonical_temperature(analysis: Analysis, reference: Analysis | None) -> float | None:
    """Temperature of the canonical distribution to compare with, K: set or measured; None if it is not constant."""
    target = checks.target_temperature(analysis)
    if target is not None or checks.ensemble(analysis) == "NVE" or analysis.metadata.get("temperature_end_K"):
        return target
    return (reference or analysis).temperatures.mean


def _spectrum_end(spectrum: VDOS) -> float:
    """Wave number below which 99 % of a spectrum lies, cm⁻¹, and a margin."""
    power = np.cumsum(spectrum.density)
    end = spectrum.wavenumber_per_cm[np.searchsorted(power, 0.99 * power[-1])]
    return float(min(1.25 * end + 10, spectrum.wavenumber_per_cm[-1]))


def _figure(n_rows: int = 1) -> Figure:
    """An empty figure of the width and height of rows that all have."""
    return Figure(figsize=(_WIDTH, _HEIGHT * n_rows), layout="constrained", dpi=_DPI)


def _panels(names: list[str]) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel for each name, at most three in a row."""
    n_columns = min(len(names), _PANELS_IN_ROW)
    n_rows = math.ceil(len(names) / n_columns)
    figure = _figure(n_rows)
    grid = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    return figure, dict(zip(names, grid, strict=False))


def _curve(axes: Axes, x: np.ndarray, y: np.ndarray, name: str, color: str) -> None:
    """A curve; that of the reference is filled, so that the other can be seen on top of it."""
    if color == _REFERENCE:
        axes.fill_between(x, y, color=_REFERENCE_FILL, lw=0)
    axes.plot(x, y, color=color, lw=1.2, label=name)


def _histogram(axes: Axes, values: np.ndarray, bins: np.ndarray, name: str, color: str) -> None:
    """A normalised histogram, filled for the reference."""
    density, edges = np.histogram(values, bins, density=True)
    filled = color == _REFERENCE
    axes.stairs(density, edges, fill=filled, color=_REFERENCE_FILL if filled else color, lw=1.6, label=name)


def _finish(axes: Axes, x_label: str, y_label: str, title: str, legend: bool = False) -> None:
    """Labels, title and legend in two sizes of type, and no frame above and to the right."""
    axes.set_xlabel(x_label, fontsize=_LARGE)
    axes.set_ylabel(y_label, fontsize=_LARGE)
    axes.set_title(title, fontsize=_LARGE, loc="left")
    axes.tick_params(labelsize=_SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(fontsize=_SMALL, frameon=False)
