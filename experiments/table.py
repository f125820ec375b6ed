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
        "training": "5 days, one V100", "longest stable roll-out, ns": "7", "VDOS overlap": "≈ 0.95",
        "temperature at τ = 100 Δt, K": "15 off",
    },
    "quartz": {
        "Δt, fs": "30", "MAE Δr, 1e-5 Å": "141.24 (2.52 %)", "MAE v, 1e-5 Å/fs": "11.37 (3.96 %)",
        "training": "10 days, one V100", "longest stable roll-out, ns": "15", "VDOS overlap": "> 0.95",
        "temperature at τ = 100 Δt, K": "40 off",
    },
    "water": {
        "Δt, fs": "5", "MAE Δr, 1e-5 Å": "6.99 (0.17 %)", "MAE v, 1e-5 Å/fs": "3.46 (0.37 %)",
        "training": "11 days, one V100", "longest stable roll-out, ns": "2.5", "VDOS overlap": "≈ 0.99",
        "D of O, 1e-9 m²/s (reference)": "2.18 ± 0.19 (1.84 ± 0.03)",
    },
}  # fmt: skip


def ours(results: dict) -> dict[str, str]:
    """The rows of one system."""
    rows, one = {}, results.get("one_step")
    results = {"long": results.get("spectrum"), **results}
    if one:
        displacement, velocity = one["displacement_mae_A"], one["velocity_mae_A_per_fs"]
        rows["MAE Δr, 1e-5 Å"] = f"{1e5 * displacement:.2f} ({one['displacement_mae_relative_percent']:.2f} %)"
        rows["MAE v, 1e-5 Å/fs"] = f"{1e5 * velocity:.2f} ({one['velocity_mae_relative_percent']:.2f} %)"
    if training := results.get("training"):
        rows["training"] = f"{training['hours'] * training['cores']:.1f} core-hours"
    if run := results.get("long"):
        rows["longest stable roll-out, ns"] = f"{run['length_ps'] / 1000:.2f}" + (alarm(run) or " (not its end)")
        rows["its temperature, K"] = with_error(run, "temperature_K")
        rows["by element, K"] = by_element(run)
    if run := results.get("spectrum"):
        rows["VDOS overlap"] = (
            f"{run['vdos_overlap']:.3f} (halves of the reference: {run['reference_vdos_halves_overlap']:.3f})"
        )
        rows["g(r) RMSE"] = f"{run['rdf_rmse']:.3f} (halves of the reference: {run['reference_rdf_halves_rmse']:.3f})"
        rows["potential energy, shift, meV/atom"] = with_error(run, "potential_energy_shift_meV_per_atom")
    if run := results.get("langevin"):
        rows["temperature with Langevin's thermostat, K"] = with_error(run, "temperature_K") + alarm(run)
        rows["… by element, K"] = by_element(run)
        rows["… VDOS overlap"] = f"{run['vdos_overlap']:.3f}"
    for name, row in (("weak", "temperature at τ = 100 Δt, K"), ("supercell", "temperature of 2 × 2 × 2 cells, K")):
        if run := results.get(name):
            rows[row] = with_error(run, "temperature_K") + alarm(run)
    if (run := results.get("supercell")) and not run["stopped_by_alarm"]:
        rows["VDOS overlap of 2 × 2 × 2 cells"] = f"{run['vdos_overlap']:.3f}"
    if run := results.get("free"):
        rows["temperature in NVE, K"] = with_error(run, "temperature_K") + alarm(run)
    if (run := results.get("long")) and "H" in run["diffusion_cm2_per_s"] and "C" not in run["diffusion_cm2_per_s"]:
        found, reference = (diffusion(run, of) for of in ("", "reference_"))
        rows["D of O, 1e-9 m²/s (reference)"] = f"{found}{alarm(run)} ({reference})"
    return rows


def with_error(run: dict, key: str) -> str:
    """A number and its error."""
    for unit in ("_K", "_meV_per_atom"):
        if key.endswith(unit):
            return f"{run[key]:.1f} ± {run[key.removesuffix(unit) + '_error' + unit]:.1f}"
    raise ValueError(f"no unit in {key}")


def alarm(run: dict) -> str:
    """When a monitor stopped the run, if one did."""
    return f" (alarm after {run['length_ps']:.0f} ps)" if run["stopped_by_alarm"] else ""


def diffusion(run: dict, of: str) -> str:
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
