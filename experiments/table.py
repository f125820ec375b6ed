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
        "training": "5 days, one V100", "longest stable roll-out, ns": "7", "CSVR: VDOS overlap": "≈ 0.95",
        "CSVR, τ = 100 Δt: temperature, K": "15 off",
    },
    "quartz": {
        "Δt, fs": "30", "MAE Δr, 1e-5 Å": "141.24 (2.52 %)", "MAE v, 1e-5 Å/fs": "11.37 (3.96 %)",
        "training": "10 days, one V100", "longest stable roll-out, ns": "15", "CSVR: VDOS overlap": "> 0.95",
        "CSVR, τ = 100 Δt: temperature, K": "40 off",
    },
    "water": {
        "Δt, fs": "5", "MAE Δr, 1e-5 Å": "6.99 (0.17 %)", "MAE v, 1e-5 Å/fs": "3.46 (0.37 %)",
        "training": "11 days, one V100", "longest stable roll-out, ns": "2.5", "CSVR: VDOS overlap": "≈ 0.99",
        "CSVR: D of O, 1e-9 m²/s (reference)": "2.18 ± 0.19 (1.84 ± 0.03)",
    },
}  # fmt: skip

_SURFACE_HALVES = "reference_torsion_surface_halves_rms_meV"


def ours(results: dict) -> dict[str, str]:
    """The rows of one system."""
    rows, one = {}, results.get("one_step")
    if one:
        displacement, velocity = one["displacement_mae_A"], one["velocity_mae_A_per_fs"]
        rows["MAE Δr, 1e-5 Å"] = f"{1e5 * displacement:.2f} ({one['displacement_mae_relative_percent']:.2f} %)"
        rows["MAE v, 1e-5 Å/fs"] = f"{1e5 * velocity:.2f} ({one['velocity_mae_relative_percent']:.2f} %)"
    if training := results.get("training"):
        rows["training"] = f"{training['hours'] * training['cores']:.1f} core-hours"
    for name, title in (("spectrum", "CSVR"), ("friction", "with friction")):
        if run := results.get(name):
            rows[f"{title}: temperature, K"] = with_error(run, "temperature_K") + alarm(run)
            rows[f"{title}: by element, K"] = by_element(run)
            rows[f"{title}: VDOS overlap"] = beside_halves(run, "vdos_overlap", "vdos_halves_overlap", ".3f")
            rows[f"{title}: g(r) RMSE"] = beside_halves(run, "rdf_rmse", "rdf_halves_rmse", ".3f")
            rows[f"{title}: potential energy, shift, meV/atom"] = with_error(run, "potential_energy_shift_meV_per_atom")
            if surfaces := run.get("torsion_surface_rms_meV"):
                rows[f"{title}: torsional surface, RMS difference, meV"] = beside_halves(
                    {"rms": max(surfaces.values()), "reference_rms": max(run[_SURFACE_HALVES].values())},
                    "rms", "rms", ".1f",
                )  # fmt: skip
            if is_water(run):
                rows[f"{title}: D of O, 1e-9 m²/s (reference)"] = f"{diffusion(run)} ({diffusion(run, 'reference_')})"
    if run := results.get("long", results.get("friction")):
        rows["longest stable roll-out, ns"] = f"{run['length_ps'] / 1000:.2f}" + (alarm(run) or " (not its end)")
        rows["its temperature, K"] = with_error(run, "temperature_K")
        rows["its temperature by element, K"] = by_element(run)
    if run := results.get("supercell"):
        rows["2 × 2 × 2 cells: temperature, K"] = with_error(run, "temperature_K") + alarm(run)
        rows["2 × 2 × 2 cells: by element, K"] = by_element(run)
        rows["2 × 2 × 2 cells: VDOS overlap"] = f"{run['vdos_overlap']:.3f}"
        rows["2 × 2 × 2 cells: g(r) RMSE"] = f"{run['rdf_rmse']:.3f}"
    for name, row in (("weak", "CSVR, τ = 100 Δt: temperature, K"), ("free", "NVE: temperature, K")):
        if run := results.get(name):
            rows[row] = with_error(run, "temperature_K") + alarm(run)
    if run := results.get("demo"):
        speeds, cores = (run[name] for name in ("ns_per_day", "reference_ns_per_day")), run["cores"]
        rows["speed, ns/day (reference, same process)"] = "{:.0f} ({:.0f}), {} cores".format(*speeds, cores)
        rows["exploded, of free runs of 128 steps"] = f"{run['free_runs_exploded']} of {run['free_runs']}"
    return rows


def beside_halves(run: dict, key: str, halves: str, form: str) -> str:
    """A difference from the reference, and that of the reference's halves."""
    return f"{run[key]:{form}} (halves of the reference: {run[f'reference_{halves}']:{form}})"


def is_water(run: dict) -> bool:
    return set(run["temperature_by_species_K"]) == {"H", "O"}


def with_error(run: dict, key: str) -> str:
    """A number and its error."""
    for unit in ("_K", "_meV_per_atom"):
        if key.endswith(unit):
            return f"{run[key]:.1f} ± {run[key.removesuffix(unit) + '_error' + unit]:.1f}"
    raise ValueError(f"no unit in {key}")


def alarm(run: dict) -> str:
    """When a monitor stopped the run, if one did."""
    return f" (alarm after {run['length_ps']:.0f} ps)" if run["stopped_by_alarm"] else ""


def diffusion(run: dict, of: str = "") -> str:
    """The diffusion coefficient of O, 1e-9 m²/s; ``of`` "reference_" for that of the reference."""
    value, error = (1e5 * run[f"{of}{name}_cm2_per_s"]["O"] for name in ("diffusion", "diffusion_error"))
    return f"{value:.2f} ± {error:.2f}"


def by_element(run: dict) -> str:
    """Temperatures of the elements, K."""
    values, errors = run["temperature_by_species_K"], run["temperature_error_by_species_K"]
    return ", ".join(f"{name} {value:.1f} ± {errors[name]:.1f}" for name, value in values.items())


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
