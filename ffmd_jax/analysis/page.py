"""The report as one HTML page without external resources."""

import base64
import html
import io
import math
import re
from collections.abc import Iterable
from typing import Any

from matplotlib.figure import Figure

from ffmd_jax.analysis import figures, properties, spectra, text
from ffmd_jax.analysis.checks import Check
from ffmd_jax.analysis.properties import Analysis
from ffmd_jax.core.state import is_isolated
from ffmd_jax.formats import common
from ffmd_jax.formats.trajectory import frame_interval

CAPTIONS = {
    "vdos": "Vibrational density of states.",
    "temperature": "Kinetic temperature. Left: time series. Middle: distribution, and that of the canonical ensemble "
    "(dashed). Right: mean of each element with its standard error; dotted: all atoms, dashed: target.",
    "rdf": "Radial distribution functions; for isolated molecules, distributions of the pair distances. Bands are "
    "standard errors over four parts of the run.",
    "potential_energy": "Potential energy by the reference method, relative to the mean of the reference, if any; "
    "dotted lines are means.",
    "msd": "Mean square displacement of each element about the centre of mass. Bands are standard errors over four "
    "parts of the run. A diffusion coefficient is resolved where diffusion makes at least half of it at the largest "
    "lag; isolated molecules have none.",
    "torsions": "Free energy along the torsions. Bars are standard errors over five blocks of the run.",
    "torsion_surfaces": "Free energy of pairs of torsions, relative to the minimum. White: not visited.",
    "error_growth": "Growth of the error over free steps (NVE) from common starts. Bars are standard errors over the "
    "starts.",
}

# Facts in words, with their units; other keys are shown as they are.
_FACTS = {
    "system": ("System", ""),
    "source": ("Made by", ""),
    "model": ("Model", ""),
    "time_step_fs": ("Time step Δt of the model", "fs"),
    "integrator_dt_fs": ("Time step of the integrator", "fs"),
    "reversible": ("Time-symmetrised steps", ""),
    "ensemble": ("Ensemble", ""),
    "temperature_K": ("Temperature set", "K"),
    "temperature_end_K": ("Temperature set at the end", "K"),
    "thermostat": ("Thermostat", ""),
    "tau_fs": ("Relaxation time of the thermostat", "fs"),
    "friction_tau_fs": ("Relaxation time of the friction, 1/γ", "fs"),
    "friction_above_per_cm": ("The friction acts above", "cm⁻¹"),
    "pressure_bar": ("Pressure set", "bar"),
    "barostat_every": ("Steps between two trial moves of the volume", ""),
    "coupling": ("Coupling of the cell", ""),
    "seed": ("Random seed", ""),
    "fallback_frames": ("Frames by the fallback", ""),
    "ns_per_day": ("Speed", "ns/day"),
    "device": ("Device", ""),
    "free_runs": ("Free runs (NVE)", ""),
    "free_runs_exploded": ("Free runs that diverged", ""),
}
_SHOWN_ELSEWHERE = {"n_atoms", "length_ps", "target_temperature_K"}
_WORDS = {"nve": "NVE", "nvt": "NVT", "npt": "NPT", "csvr": "CSVR", "csvr-by-species": "CSVR by element"}

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 1.2rem 0.25rem 0; border-bottom: 1px solid #8885; }
th { white-space: nowrap; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; background: white; border-radius: 6px; }
figcaption { font-size: 0.9rem; opacity: 0.8; }
.verdict { border-left: 6px solid; padding: 0.2rem 0 0.2rem 1rem; }
.agrees { border-color: #009e73; } .differs { border-color: #d55e00; } .cannot { border-color: #e69f00; }
@media (prefers-color-scheme: dark) { img.figure { filter: invert(0.9) hue-rotate(180deg); } }
"""


def page(title: str, verdict: tuple[str, str], outcome: str, advice: list[str], movie: str, content: str) -> str:
    """The whole page; ``verdict`` is headline and details, ``movie`` and ``content`` are HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark"><title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style></head><body>\n<h1>{html.escape(title)}</h1>\n"
        f'<div class="verdict {outcome.split()[0]}">{_verdict(verdict)}</div>\n'
        f"{_advice(advice)}{movie}\n{content}\n</body></html>\n"
    )


def notebook(title: str, verdict: tuple[str, str], advice: list[str], content: str) -> str:
    """The same for a cell of a notebook, without movie and style."""
    return f"<div><h2>{html.escape(title)}</h2>\n{_verdict(verdict)}\n{_advice(advice)}{content}</div>"


def _verdict(verdict: tuple[str, str]) -> str:
    return f"<p><strong>{html.escape(verdict[0])}</strong></p><p>{html.escape(verdict[1])}</p>"


def _advice(items: list[str]) -> str:
    """What to do, with commands and their options as code."""
    listed = (re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(item)) for item in items)
    return f"<h2>What to do</h2>\n<ul>{''.join(f'<li>{item}</li>' for item in listed)}</ul>\n" if items else ""


def content(
    analysis: Analysis,
    reference: Analysis | None,
    found: list[Check],
    settings: dict[str, Any],
    drawn: dict[str, bytes],
) -> str:
    """Tables and figures, which are PNG, as HTML."""
    captions = {**CAPTIONS, "vdos": f"{CAPTIONS['vdos']} {_folded(analysis, reference)}"}
    sections = [("Key numbers", _numbers(analysis, reference))]
    if found:
        sections.append(("Comparison", _comparison(found)))
    sections.append(("This run", _facts(analysis, reference, settings)))
    sections.append(("Figures", "\n".join(_figure(png, captions[name]) for name, png in drawn.items())))
    return "\n".join(f"<h2>{name}</h2>\n{body}" for name, body in sections)


def movie(gif: bytes | None, reason: str) -> str:
    """The movie as HTML, or the reason why there is none."""
    if gif is None:
        return f"<p>{html.escape(reason)}</p>"
    caption = "The last picoseconds of the run; molecules are centred, periodic systems wrapped into their cell."
    return (
        f'<h2>Movie</h2>\n<figure><img src="data:image/gif;base64,{base64.b64encode(gif).decode()}" '
        f'alt="moving atoms"><figcaption>{caption}</figcaption></figure>'
    )


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _folded(analysis: Analysis, reference: Analysis | None) -> str:
    """What the frames of the runs do not resolve."""
    ends: dict[float, list[str]] = {}
    for run, name, _ in reversed(figures.runs_of(analysis, reference)):
        ends.setdefault(frame_interval(run.times_fs), []).append(name)
    parts = [
        f"Frames every {interval:g} fs{f' ({names[0]})' if len(ends) > 1 else ''}: what vibrates above "
        f"{spectra.highest(interval):,.0f} cm⁻¹ is folded back below it."
        for interval, names in ends.items()
    ]
    return " ".join(parts)


def _figure(png: bytes, caption: str) -> str:
    caption = html.escape(caption)
    return (
        f'<figure><img class="figure" src="data:image/png;base64,{base64.b64encode(png).decode()}" '
        f'alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def row(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"


def _columns(analysis: Analysis, reference: Analysis | None) -> list[str]:
    """Heads of a table with a column for each run."""
    names = [name for _, name, _ in reversed(figures.runs_of(analysis, reference))]
    return ["Quantity", *names, "Unit"]


def _numbers(analysis: Analysis, reference: Analysis | None) -> str:
    """Key numbers of both runs with their standard errors."""
    runs = [analysis] if reference is None else [analysis, reference]
    numbers = [properties.summarize(run) for run in runs]
    rows = [["Frame interval", *(text.number(frame_interval(run.times_fs)) for run in runs), "fs"]]
    for name, key, error, unit in (
        ("Atoms", "n_atoms", None, ""),
        ("Length", "length_ps", None, "ps"),
        ("Temperature", "temperature_K", "temperature_error_K", "K"),
        ("Temperature of {}", "temperature_by_species_K", "temperature_error_by_species_K", "K"),
        ("Potential energy", "potential_energy_meV_per_atom", "potential_energy_error_meV_per_atom", "meV/atom"),
        ("Density", "density_g_per_cm3", "density_error_g_per_cm3", "g/cm³"),
        ("Volume", "volume_A3", "volume_error_A3", "Å³"),
        ("Length of lattice vector {}", "cell_length_A", "cell_length_error_A", "Å"),
        ("Isothermal compressibility", "compressibility_per_GPa", None, "1/GPa"),
        ("Diffusion coefficient of {}", "diffusion_cm2_per_s", "diffusion_error_cm2_per_s", "cm²/s"),
        ("Momentum drift", "momentum_drift", None, "Σ m|v|"),
        ("Drift of the total energy", "energy_drift_meV_per_atom_per_ps", None, "meV/atom/ps"),
        ("Overlap of the spectra of the halves", "vdos_halves_overlap", None, ""),
        ("Difference between g(r) of the halves", "rdf_halves_rmse", None, "RMS"),
    ):
        values = [(found.get(key), found.get(error or "")) for found in numbers]
        if any(isinstance(value, dict) for value, _ in values):
            if key == "diffusion_cm2_per_s" and all(is_isolated(run.system) for run in runs):
                continue  # molecules only turn about their centre of mass
            for part in next(value for value, _ in values if isinstance(value, dict)):
                cells = [text.number((value or {}).get(part), (errors or {}).get(part)) for value, errors in values]
                if key == "diffusion_cm2_per_s":
                    cells = ["not resolved" if cell == text.number(None) else cell for cell in cells]
                rows.append([name.format(part), *cells, unit])
        elif any(value is not None for value, _ in values):
            rows.append([name, *(text.number(value, error) for value, error in values), unit])
    rows[:3] = [rows[1], rows[2], rows[0]]
    return _table(_columns(analysis, reference), rows)


def _comparison(found: list[Check]) -> str:
    """The checks: difference, smallest detectable difference, outcome."""
    head = ["Quantity", "Compared with", "Difference", "Smallest detectable difference", "Result"]
    return _table(head, [_check_cells(check) for check in found])


def _check_cells(check: Check) -> list[str]:
    name = check.quantity.capitalize() + ("" if check.of == "all atoms" else f" of {check.of}")
    unit = f" {check.unit}" if check.unit else ""
    difference, detectable = (
        text.short(value) + unit * math.isfinite(value) for value in (check.difference, check.detectable)
    )
    if check.quantity in ("vibrations", "torsions"):
        name += " (1 − overlap)"
    elif check.quantity == "structure":
        name += " (RMS of g(r))"
    result = check.outcome + (f": {check.reason}" if check.reason else "")
    return [name, check.against, difference, detectable, result]


def _facts(analysis: Analysis, reference: Analysis | None, settings: dict[str, Any]) -> str:
    """How the runs were made: their metadata, and further settings."""
    others = {} if reference is None else reference.metadata
    rows, done = [], set()
    for key in [*_FACTS, *(key for key in settings if key not in _SHOWN_ELSEWHERE)]:
        own = analysis.metadata.get(key, settings.get(key))
        other = others.get(key, settings.get(f"reference_{key}"))
        if key == "system":
            own, other = _system(analysis, own), None if reference is None else _system(reference, other)
        if key in done or isinstance(own, dict | list) or (own is None and other is None):
            continue
        done |= {key, f"reference_{key}"}
        name, unit = _FACTS.get(key, (key.replace("_", " "), ""))
        values = [own] if reference is None else [own, other]
        rows.append([name, *(_WORDS.get(str(value), text.number(value)) for value in values), unit])
    return _table(_columns(analysis, reference), rows)


def _system(analysis: Analysis, name: str | None) -> str:
    """The formula, after the name of a prepared system or "ase"."""
    formula = common.formula(analysis.system)
    return f"{name}: {formula}" if name else formula
