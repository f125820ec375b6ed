"""The paper's table with our numbers beside it, as Markdown, from the results.json of each experiment.

    python experiments/table.py

experiments/README.md holds what it prints.
"""

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Thiemann et al., Nature Machine Intelligence 8, 764 (2026).
PAPER = {
    "paracetamol": {
        "Δt, fs": "7", "MAE Δr, 1e-5 Å": "15.89 (0.38 %)", "MAE v, 1e-5 Å/fs": "4.92 (0.68 %)",
        "training": "5 days, one V100", "long run, ns (ours with friction)": "7", "CSVR: VDOS overlap": "≈ 0.95",
        "CSVR, τ = 100 Δt: temperature, K": "15 off",
    },
    "quartz": {
        "Δt, fs": "30", "MAE Δr, 1e-5 Å": "141.24 (2.52 %)", "MAE v, 1e-5 Å/fs": "11.37 (3.96 %)",
        "training": "10 days, one V100", "long run, ns (ours with friction)": "15", "CSVR: VDOS overlap": "> 0.95",
        "CSVR, τ = 100 Δt: temperature, K": "40 off",
    },
    "water": {
        "Δt, fs": "5", "MAE Δr, 1e-5 Å": "6.99 (0.17 %)", "MAE v, 1e-5 Å/fs": "3.46 (0.37 %)",
        "training": "11 days, one V100", "long run, ns (ours with friction)": "2.5", "CSVR: VDOS overlap": "≈ 0.99",
        "CSVR: D of O, 1e-9 m²/s (reference, CSVR)": "2.18 ± 0.19 (1.84 ± 0.03)",
    },
}  # fmt: skip


def ours(results: dict) -> dict[str, str]:
    """The rows of one system."""
    rows, one = {}, results.get("one_step")
    for name, of in (("one_step", ""), ("one_reversible_step", ", reversible step")):
        if found := results.get(name):
            displacement, velocity = found["displacement_mae_A"], found["velocity_mae_A_per_fs"]
            percent_r, percent_v = found["displacement_mae_relative_percent"], found["velocity_mae_relative_percent"]
            rows[f"MAE Δr, 1e-5 Å{of}"] = f"{1e5 * displacement:.2f} ({percent_r:.2f} %)"
            rows[f"MAE v, 1e-5 Å/fs{of}"] = f"{1e5 * velocity:.2f} ({percent_v:.2f} %)"
    if one:
        begin = "velocity_mae_relative_percent_"
        values = {name.removeprefix(begin): value for name, value in one.items() if name.startswith(begin)}
        rows["MAE v by element"] = ", ".join(f"{element} {value:.2f} %" for element, value in values.items())
    if training := results.get("training"):
        rows["training"] = f"{training['hours'] * training['cores']:.1f} core-hours"
    for name, title in (("spectrum", "CSVR"), ("friction", "CSVR and friction")):
        if run := results.get(name):
            rows |= {f"{title}: {row}": value for row, value in of_run(run).items()}
    if run := results.get("long", results.get("friction")):
        rows["long run, ns (ours with friction)"] = f"{run['length_ps'] / 1000:.2f}" + (alarm(run) or ", no alarm")
        rows["… temperature, K"] = with_error(run, "temperature_K") + reversible(run)
        rows["… by element, K"] = by_element(run)
        if is_water(run) and not run["stopped_by_alarm"]:
            rows["… D of O, 1e-9 m²/s"] = diffusion(run)
    if run := results.get("supercell"):
        rows["2 × 2 × 2 cells with friction: temperature, K"] = with_error(run, "temperature_K") + notes(run)
        rows["2 × 2 × 2 cells with friction: by element, K"] = by_element(run)
        if not run["stopped_by_alarm"]:
            halves = run["reference_vdos_halves_overlap"]
            rows["2 × 2 × 2 cells with friction: VDOS overlap"] = beside_halves(run["vdos_overlap"], halves)
            halves = run["reference_rdf_halves_rmse"]
            rows["2 × 2 × 2 cells with friction: g(r) RMSE"] = beside_halves(run["rdf_rmse"], halves)
            if is_water(run):
                rows["2 × 2 × 2 cells with friction: D of O, 1e-9 m²/s"] = diffusion(run)
    for name, row in (("weak", "CSVR, τ = 100 Δt: temperature, K"), ("free", "NVE: temperature, K")):
        if run := results.get(name):
            length = alarm(run) or f" ({run['length_ps']:.0f} ps)"
            rows[row] = with_error(run, "temperature_K") + length + reversible(run)
    if run := results.get("demo"):
        speeds = [number(run[name], ".0f") for name in ("ns_per_day", "reference_ns_per_day")]
        rows["speed, ns/day (reference, same process)"] = f"{speeds[0]} ({speeds[1]}), cores: {run['cores']}"
        rows["exploded, of free runs of 128 steps"] = f"{run['free_runs_exploded']} of {run['free_runs']}"
    return rows


def of_run(run: dict) -> dict[str, str]:
    """The rows of a roll-out of which every frame is kept; after an alarm, the temperatures only."""
    rows = {"temperature, K": with_error(run, "temperature_K") + notes(run), "by element, K": by_element(run)}
    if run["stopped_by_alarm"]:
        return rows
    halves = "reference_vdos_halves_overlap", "reference_rdf_halves_rmse"
    rows["VDOS overlap"] = beside_halves(run["vdos_overlap"], run[halves[0]])
    rows["g(r) RMSE"] = beside_halves(run["rdf_rmse"], run[halves[1]])
    rows["potential energy, shift, meV/atom"] = with_error(run, "potential_energy_shift_meV_per_atom")
    for name, overlap in run.get("torsion_surface_overlap", {}).items():
        halves = run["reference_torsion_surface_halves_overlap"][name]
        rows[f"overlap of torsions {name}"] = beside_halves(overlap, halves)
    if is_water(run):
        rows["D of O, 1e-9 m²/s (reference, CSVR)"] = f"{diffusion(run)} ({diffusion(run, 'reference_')})"
    return rows


def beside_halves(value: float | None, halves: float | None) -> str:
    """A difference from the reference, and that of the reference's halves."""
    return f"{number(value, '.3f')} (halves of the reference: {number(halves, '.3f')})"


def number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def is_water(run: dict) -> bool:
    return set(run.get("temperature_by_species_K", ())) == {"H", "O"}


def with_error(run: dict, key: str) -> str:
    """A number and its error; a dash where a run ended before it could be analysed."""
    for unit in ("_K", "_meV_per_atom"):
        if key.endswith(unit):
            error = run.get(key.removesuffix(unit) + "_error" + unit)
            return f"{number(run.get(key), '.1f')} ± {number(error, '.1f')}" if key in run else "–"
    raise ValueError(f"no unit in {key}")


def notes(run: dict) -> str:
    return alarm(run) + reversible(run)


def reversible(run: dict) -> str:
    """That the steps of a run were made reversible, if they were."""
    return ", reversible steps" if run.get("reversible") else ""


def alarm(run: dict) -> str:
    """When a monitor stopped the run, if one did."""
    return f" (alarm after {run['length_ps']:.0f} ps)" if run["stopped_by_alarm"] else ""


def diffusion(run: dict, of: str = "") -> str:
    """The diffusion coefficient of O, 1e-9 m²/s; ``of`` "reference_" for that of the reference."""
    value, error = (1e5 * run[f"{of}{name}_cm2_per_s"]["O"] for name in ("diffusion", "diffusion_error"))
    return f"{value:.2f} ± {error:.2f}"


def by_element(run: dict) -> str:
    """Temperatures of the elements, K."""
    values, errors = (run.get(f"temperature_{of}by_species_K", {}) for of in ("", "error_"))
    return ", ".join(f"{name} {number(value, '.1f')} ± {number(errors[name], '.1f')}" for name, value in values.items())


def main() -> None:
    columns, found = [], {}
    for system, paper in PAPER.items():
        path = HERE / system / "results.json"
        if path.exists():
            columns.append((system, paper))
            found[system] = {"Δt, fs": paper["Δt, fs"], **ours(json.loads(path.read_text()))}
    rows = list(dict.fromkeys(row for system, paper in columns for row in (*found[system], *paper)))
    print("| | " + " | ".join(f"**{system}** | paper" for system, _ in columns) + " |")
    print("|" + "---|" * (2 * len(columns) + 1))
    for row in rows:
        cells = [f"{found[system].get(row, '')} | {paper.get(row, '')}" for system, paper in columns]
        print(f"| {row} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
