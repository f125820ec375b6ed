"""One self-contained HTML page, and PNG files, from analyses."""

import base64
import html
import io
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ffmd_jax.analysis import comparison, figures, properties
from ffmd_jax.analysis.error_growth import ErrorGrowth
from ffmd_jax.analysis.properties import Analysis


def save_figures(
    directory,
    analysis: Analysis,
    reference: Analysis | None = None,
    growth: ErrorGrowth | None = None,
    time_step_fs: float | None = None,
) -> list[Path]:
    """Paths of the PNG files, one for each of `figures.make`, written into ``directory``."""
    directory, paths = Path(directory), []
    directory.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.make(analysis, reference, growth, time_step_fs).items():
        paths.append(directory / f"{name}.png")
        figure.savefig(paths[-1])
    return paths


def verdict(analysis: Analysis, reference: Analysis | None = None) -> str:
    """Plain sentences on whether the run agrees with the reference, each with its number and the noise.

    A difference of means counts beyond 3 standard errors; a spectrum or g(r), beyond the difference between
    the halves of the reference.
    """
    if reference is None:
        numbers = properties.summarize(analysis)
        return (
            f"{numbers['length_ps']:.3g} ps at {_value(numbers['temperature_K'])} ± "
            f"{_value(numbers['temperature_error_K'])} K. {_momentum_sentence(numbers['momentum_drift'])} "
            f"No reference was given to compare with.{_alarm_sentence(analysis)}"
        )
    numbers = comparison.compare(analysis, reference)
    overlap, floor = numbers["vdos_overlap"], numbers["reference_vdos_halves_overlap"] or 0.0
    rmse, rmse_floor = numbers["rdf_rmse"] or 0.0, numbers["reference_rdf_halves_rmse"] or 0.0
    worst = max(_temperature_differences(analysis, reference), key=lambda entry: entry[3])
    checks = [
        (
            rmse <= rmse_floor,
            "structure",
            f"the pair distributions differ by {rmse:.2g} RMS (halves of the reference: {rmse_floor:.2g})",
        ),
        (
            worst[3] < 3,
            "temperatures",
            f"the largest temperature difference is {worst[1]:+.2g} ± {worst[2]:.2g} K ({worst[0]})",
        ),
    ]
    if overlap is not None:  # None: frames too far apart have folded a spectrum
        sentence = f"the vibrational spectra overlap by {overlap:.1%} (two halves of the reference: {floor:.1%})"
        checks.insert(0, (overlap >= floor, "vibrations", sentence))
    shift, error = (numbers[f"potential_energy_{name}_meV_per_atom"] for name in ("shift", "shift_error"))
    if shift is not None and error is not None:
        sentence = f"the mean potential energy is shifted by {shift:+.2g} ± {error:.2g} meV per atom"
        checks.append((abs(shift) < 3 * error, "potential energy", sentence))
    apart = [what for good, what, _ in checks if not good]
    opening = (
        f"The run differs from the reference beyond the noise in: {', '.join(apart)}."
        if apart
        else "The run agrees with the reference within the noise in all that was measured."
    )
    details = "; ".join(sentence for _, _, sentence in checks)
    opening += _thermostat_sentence(numbers, analysis.metadata, reference.metadata)
    ending = _momentum_sentence(numbers["momentum_drift"]) + _alarm_sentence(analysis)
    if overlap is None:
        ending += " The vibrational spectra cannot be compared: save frames at the intervals of the reference."
    return f"{opening} {details[0].upper()}{details[1:]}. {ending}"


def _alarm_sentence(analysis: Analysis) -> str:
    """What the monitors of the roll-out said."""
    found = properties.summarize(analysis)["alarms"]
    if found is None:
        return ""
    taken_over = analysis.metadata.get("fallback_frames", 0)
    text = "The monitors raised no alarm." if not found else f"Alarms of the monitors: {'; '.join(found)}."
    return f" {text}" + (f" The reference took over for {taken_over} frames." if taken_over else "")


def _thermostat_sentence(numbers: dict[str, Any], own: dict[str, Any], other: dict[str, Any]) -> str:
    """What a thermostat should have kept, and whether the two runs are comparable."""
    ensembles = [str(metadata.get("ensemble") or "").upper() for metadata in (own, other)]
    sentence = ""
    if ensembles[0] == "NVT" and own.get("temperature_K"):
        sentence += (
            f" The thermostat was set to {own['temperature_K']:g} K, the mean temperature is "
            f"{numbers['temperature_K']:.4g} ± {numbers['temperature_error_K']:.2g} K."
        )
    if all(ensembles) and ensembles[0] != ensembles[1]:
        sentence += (
            f" The run is {ensembles[0]}, the reference {ensembles[1]}: temperatures and energies need not agree; "
            "compare with a reference of the same ensemble."
        )
    return sentence


def write(
    path,
    title: str,
    analysis: Analysis,
    reference: Analysis | None = None,
    summary: dict[str, Any] | None = None,
    growth: ErrorGrowth | None = None,
    time_step_fs: float | None = None,
) -> None:
    """Writes one HTML file without external resources: verdict, key numbers, figures.

    Args:
        path: the file; it appears complete or not at all.
        title: heading.
        analysis: the run.
        reference: what it is compared with.
        summary: further facts for a second table, e.g. model, steps per second; nested dicts are left out.
        growth: errors from many starts.
        time_step_fs: Δt of the model, to show the error growth against time.
    """
    images = "\n".join(
        f'<figure><img src="data:image/png;base64,{_png(figure)}" alt="{html.escape(_CAPTIONS[name])}">'
        f"<figcaption>{html.escape(_CAPTIONS[name])}</figcaption></figure>"
        for name, figure in figures.make(analysis, reference, growth, time_step_fs).items()
    )
    facts = "".join(
        f"<tr><td>{html.escape(str(key))}</td><td>{html.escape(_value(value))}</td></tr>"
        for key, value in (summary or {}).items()
        if not isinstance(value, dict)
    )
    page = _PAGE.format(
        title=html.escape(title),
        verdict=html.escape(verdict(analysis, reference)),
        numbers=_numbers_table(analysis, reference),
        facts=f"<h2>This run</h2><table>{facts}</table>" if facts else "",
        images=images,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner reads
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


_CAPTIONS = {
    "vdos": "Vibrational density of states.",
    "temperature": "Kinetic temperature: series, distribution, mean of each element with its block error.",
    "rdf": "Structure: pair distributions; bands are standard errors over four parts of the run.",
    "potential_energy": "Potential energy by the reference method along both runs; dotted lines are means.",
    "msd": "Mean square displacement of every element; bands are standard errors over four parts of the run.",
    "torsions": "Free energy of the torsions; bars are standard errors over five blocks of the run.",
    "torsion_surfaces": "Free energy of pairs of torsions, from 0 at the minimum; white: never visited.",
    "error_growth": "Growth of the errors from common starts; bars are standard errors over the starts.",
}

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: 0.25rem 1rem 0.25rem 0; border-bottom: 1px solid #8885; }}
figure {{ margin: 1.5rem 0; }}
img {{ width: 100%; height: auto; background: white; border-radius: 6px; }}
figcaption {{ font-size: 0.9rem; opacity: 0.8; }}
</style></head><body>
<h1>{title}</h1>
<p>{verdict}</p>
<h2>Key numbers</h2>
{numbers}
{facts}
<h2>Figures</h2>
{images}
</body></html>
"""


def _numbers_table(analysis: Analysis, reference: Analysis | None) -> str:
    """Key numbers as an HTML table: name, run, reference, unit."""
    own = properties.summarize(analysis)
    other = {} if reference is None else properties.summarize(reference)
    rows = [
        ("atoms", "n_atoms", None, ""),
        ("length", "length_ps", None, "ps"),
        ("temperature", "temperature_K", "temperature_error_K", "K"),
        (
            "potential energy",
            "potential_energy_meV_per_atom",
            "potential_energy_error_meV_per_atom",
            "meV/atom",
        ),
        ("momentum drift", "momentum_drift", None, "of Σ m|v|"),
        ("total-energy drift", "energy_drift_meV_per_atom_per_ps", None, "meV/atom/ps"),
        ("VDOS overlap of two halves", "vdos_halves_overlap", None, ""),
        ("g(r) difference of two halves", "rdf_halves_rmse", None, "RMS"),
    ]
    cells = [
        (name, *(_value(run.get(key), run.get(error)) for run in (own, other)), unit) for name, key, error, unit in rows
    ]
    for symbol in own["temperature_by_species_K"]:
        values = [
            _value(
                run.get("temperature_by_species_K", {}).get(symbol),
                run.get("temperature_error_by_species_K", {}).get(symbol),
            )
            for run in (own, other)
        ]
        cells.append((f"temperature of {symbol}", *values, "K"))
    for symbol in own["diffusion_cm2_per_s"]:
        values = [
            _value(
                run.get("diffusion_cm2_per_s", {}).get(symbol), run.get("diffusion_error_cm2_per_s", {}).get(symbol)
            )
            for run in (own, other)
        ]  # fmt: skip
        cells.append((f"diffusion coefficient of {symbol}", *values, "cm²/s"))
    if reference is not None:
        both = comparison.compare(analysis, reference)
        cells.append(("VDOS overlap with the reference", _value(both["vdos_overlap"]), _value(1.0), ""))
        for name, value in both["torsion_surface_overlap"].items():
            cells.append((f"overlap of the populations over {name}", _value(value), _value(1.0), ""))
        cells.append(("g(r) difference from the reference", _value(both["rdf_rmse"]), _value(0.0), "RMS"))
    head = "".join(
        f"<th>{name}</th>" for name in ("quantity", figures.runs_of(analysis, reference)[-1][1], "reference", "unit")
    )
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)
    return f"<table><tr>{head}</tr>{body}</table>"


def _temperature_differences(analysis: Analysis, reference: Analysis) -> list[tuple[str, float, float, float]]:
    """Name, difference, its error, K, and their ratio; the temperature of all atoms and of each element."""
    own, other = analysis.temperatures, reference.temperatures
    rows = [("all atoms", own.mean - other.mean, math.hypot(own.error, other.error))]
    for symbol, mean in own.mean_by_species.items():
        error = math.hypot(own.error_by_species[symbol], other.error_by_species[symbol])
        rows.append((symbol, mean - other.mean_by_species[symbol], error))
    return [(name, change, error, abs(change) / max(error, 1e-9)) for name, change, error in rows]


def _momentum_sentence(drift: float | None) -> str:
    if drift is None:
        return "The momentum is not finite."
    return f"The total momentum changes by at most {drift:.1e} of Σ m|v|."


def _value(value: Any, error: float | None = None) -> str:
    """A number with four digits and its error with two; a dash for what is unknown."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if error is None else f"{value:.{_digits(value, error)}g} ± {error:.2g}"


def _digits(value: float, error: float) -> int:
    """Significant digits that show a value down to the second digit of its error."""
    if value == 0 or error <= 0:
        return 4
    return int(np.clip(2 + math.floor(math.log10(abs(value))) - math.floor(math.log10(error)), 2, 9))


def _png(figure: Figure) -> str:
    """The figure as base64 PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
