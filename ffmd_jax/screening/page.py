"""The table of a screening: as CSV, and as a page with structures that sorts."""

import csv
import html
import io
from typing import Any

from ffmd_jax.screening.conformers import ENOUGH_CHANGES

_COLUMNS = {
    "name": "name",
    "smiles": "SMILES",
    "atoms": "atoms",
    "length_ps": "length / ps",
    "temperature_K": "T / K",
    "conformers": "conformers",
    "conformer_changes": "changes of conformer",
    "largest_population": "largest population",
    "second_free_energy_kJ_mol": "second conformer / kJ/mol",
    "flexibility_A": "RMSF / Å",
    "radius_of_gyration_A": "R<sub>g</sub> / Å",
    "polar_surface_A2": "polar surface / Å²",
    "contact_share": "in contact",
    "contact_lifetime_ps": "contact lifetime / ps",
    "starts_ended": "starts ended",
    "alarms": "alarms",
    "not_run": "not run",
}
BESIDE = {
    "name": "name",
    "smiles": "SMILES",
    "method": "method",
    "atoms": "atoms",
    "ns_per_day": "ns/day",
    "length_ps": "length / ps",
    "temperature_K": "T / K",
    "conformers": "conformers",
    "flexibility_A": "RMSF / Å",
    "radius_of_gyration_A": "R<sub>g</sub> / Å",
    "polar_surface_A2": "polar surface / Å²",
    "torsion_overlap": "torsions: overlap",
    "torsion_overlap_halves": "of its halves",
    "alarms": "alarms",
    "failed": "failed",
    "wall_s": "time / s",
}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.8rem 0.3rem 0; border-bottom: 1px solid #8885; }
thead th { cursor: pointer; position: sticky; top: 0; background: Canvas; }
thead th[data-order]::after { content: " ▲"; } thead th[data-order="down"]::after { content: " ▼"; }
.structure svg { width: 150px; height: 110px; background: white; border-radius: 6px; }
.number { text-align: right; } .alarm { color: #d55e00; } details { max-width: 40rem; }
.profiles svg { margin: 0 0.6rem 0.4rem 0; }
"""
_SCRIPT = """
document.querySelectorAll("thead th").forEach((head, i) => head.addEventListener("click", () => {
  const body = document.querySelector("tbody"), down = head.dataset.order === "up";
  document.querySelectorAll("thead th").forEach(other => delete other.dataset.order);
  head.dataset.order = down ? "down" : "up";
  const key = row => row.children[i].dataset.value ?? row.children[i].textContent;
  const rows = [...body.children].sort((a, b) => {
    const [x, y] = [key(a), key(b)], [p, q] = [parseFloat(x), parseFloat(y)];
    return isNaN(p) || isNaN(q) ? x.localeCompare(y) : p - q;
  });
  (down ? rows.reverse() : rows).forEach(row => body.append(row));
}));
"""


def row(found: dict[str, Any]) -> dict[str, Any]:
    """A line of the table; what is not known is left out."""
    head = {"name": found["name"], "smiles": found["smiles"]}
    if "failed" in found:
        return {**head, "alarms": found["failed"]}
    ranked, contacts = found["conformers"], found.get("contacts")
    values = {
        **head,
        "atoms": found["n_atoms"],
        **{name: found[name] for name in ("length_ps", "temperature_K", "flexibility_A", "radius_of_gyration_A")},
        "polar_surface_A2": found["polar_surface_A2"],
        "conformers": len(ranked),
        "conformer_changes": found.get("conformer_changes"),
        "largest_population": round(ranked[0]["population"], 4),
        "second_free_energy_kJ_mol": round(ranked[1]["free_energy_kJ_mol"], 2) if len(ranked) > 1 else None,
        "starts_ended": found["starts_ended"],
        "alarms": "; ".join(found["alarms"]),
    }
    if contacts:
        values |= {"contact_share": round(contacts["share"], 4), "contact_lifetime_ps": contacts["lifetime_ps"]}
    return {name: value for name, value in values.items() if value is not None}


def csv_text(table: list[dict[str, Any]], columns: dict[str, str] = _COLUMNS) -> str:
    """The table as CSV, with a line of names."""
    text, used = io.StringIO(), [name for name in columns if any(name in line for line in table)]
    writer = csv.DictWriter(text, used or list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "; ".join(v) if isinstance(v, list) else v for name, v in line.items()} for line in table)
    return text.getvalue()


def _beside(table: list[dict[str, Any]]) -> str:
    """The section of other methods."""
    if not table:
        return ""
    used = [name for name in BESIDE if name not in ("smiles", "wall_s") and any(line.get(name) for line in table)]
    heads = "".join(f"<th>{BESIDE[name]}</th>" for name in used)
    words = [{**line, "alarms": "; ".join(line.get("alarms", []))} for line in table]
    rows = "\n".join("<tr>" + "".join(_cell(name, line.get(name)) for name in used) + "</tr>" for line in words)
    return (
        "<h2>Beside other methods</h2><p>The same starts, friction, lengths and frames, one core, in turn, without "
        "compilation. The overlap of torsions is that with the model, the mean over torsions; that of halves of the "
        "starts of each method is what chance leaves of runs of this length.</p>\n"
        f"<table><tr>{heads}</tr>\n{rows}</table>\n"
    )


def html_page(
    found: list[dict[str, Any]],
    table: list[dict[str, Any]],
    refused: dict[str, str],
    settings: dict[str, Any],
    beside: list[dict[str, Any]],
) -> str:
    """The table, and the one of other methods if there is one, as a page without external resources."""
    used = [name for name in _COLUMNS if name != "smiles" and any(name in line for line in table)]
    heads = "".join(f"<th>{_COLUMNS[name]}</th>" for name in used)
    rows = "\n".join(_row(one, line, used) for one, line in zip(found, table, strict=True))
    listed = "".join(f"<li><b>{html.escape(n)}</b>: {html.escape(why)}</li>" for n, why in refused.items())
    left_out = f"<h2>Not run</h2><ul>{listed}</ul>" if refused else ""
    facts = (
        f"{len(table)} molecules at {settings['temperature_K']:g} K, {settings['length_ps']:g} ps each over "
        f"{settings['n_starts']} starts, model {html.escape(str(settings['model']))}, Δt "
        f"{settings['time_step_fs']:g} fs, friction with 1/γ = {settings['friction_tau_fs']:g} fs."
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Screening</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>\n'
        f"<h1>Screening</h1><p>{facts} A click on a heading sorts. Populations are shares of the frames: of short runs "
        f"they say more of the starts than of equilibrium. Errors are over the starts; where conformers changed less "
        f"than {ENOUGH_CHANGES} times they are not known.</p>\n"
        f"<table><thead><tr><th>structure</th>{heads}<th>conformers and torsions</th></tr></thead>\n"
        f"<tbody>{rows}</tbody></table>{left_out}\n{_beside(beside)}<script>{_SCRIPT}</script></body></html>\n"
    )


def _row(found: dict[str, Any], line: dict[str, Any], used: list[str]) -> str:
    cells = "".join(_cell(name, line.get(name)) for name in used)
    picture = f'<td class="structure" title="{html.escape(found["smiles"])}">{_drawing(found["smiles"])}</td>'
    return f"<tr>{picture}{cells}<td>{_details(found)}</td></tr>"


def _cell(name: str, value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number" data-value="{value}">{value:.3g}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value}</td>'
    text = "" if value is None else html.escape(str(value))
    return f'<td class="alarm">{text}</td>' if name == "alarms" and text else f"<td>{text}</td>"


def _drawing(smiles: str) -> str:
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D

    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return html.escape(smiles)
    drawer = rdMolDraw2D.MolDraw2DSVG(150, 110)
    drawer.DrawMolecule(molecule)
    drawer.FinishDrawing()
    return drawer.GetDrawingText().split("?>", 1)[-1]


def _details(found: dict[str, Any]) -> str:
    if "failed" in found:
        return ""
    lines = "".join(
        f"<tr><td>{html.escape(one['label'])}</td><td>{_percent(one)}</td><td>{one['free_energy_kJ_mol']:.1f}</td></tr>"
        for one in found["conformers"][:10]
    )
    profiles = "".join(_profile(torsion) for torsion in found["torsions"])
    return (
        f"<details><summary>{len(found['conformers'])} conformers, {len(found['torsions'])} torsions</summary>"
        f"<table><tr><th>torsions / °</th><th>population</th><th>kJ/mol</th></tr>{lines}</table>"
        f'<div class="profiles">{profiles}</div></details>'
    )


def _percent(conformer: dict[str, Any]) -> str:
    error = conformer["population_error"]
    return f"{100 * conformer['population']:.1f} %" + ("" if error is None else f" ± {100 * error:.1f} %")


def _profile(torsion: dict[str, Any], width: int = 120, height: int = 50) -> str:
    """A small curve of the free energy from −180° to 180°, up to 20 kJ/mol."""
    points, lines = [], []
    for angle, energy in zip(torsion["angle"], torsion["free_energy_kJ_mol"], strict=True):
        if energy is None or energy > 20:
            lines, points = [*lines, points], []
        else:
            points.append(f"{(angle + 180) / 360 * width:.1f},{height - 4 - energy / 20 * (height - 8):.1f}")
    curves = "".join(f'<polyline points="{" ".join(p)}"/>' for p in [*lines, points] if len(p) > 1)
    return (
        f'<svg width="{width}" height="{height + 14}"><g fill="none" stroke="currentColor">{curves}</g>'
        f'<text x="0" y="{height + 11}" font-size="10" fill="currentColor">{html.escape(torsion["name"])}</text></svg>'
    )
