"""What ``ffmd info`` prints for people: the facts of its JSON in words, with units and sensible digits."""

from typing import Any

import numpy as np

from ffmd_jax.analysis import text

# Names of facts in words, and their units; other names are shown with blanks.
_NAMES = {
    "n_frames": ("frames", ""),
    "n_atoms": ("atoms", ""),
    "frame_interval_fs": ("frame interval", "fs"),
    "length_ps": ("length", "ps"),
    "periodic": ("periodic along", ""),
    "degrees_of_freedom": ("degrees of freedom", ""),
    "source": ("made by", ""),
    "time_step_fs": ("time step Δt of the model", "fs"),
    "time_steps_fs": ("time steps Δt that were trained", "fs"),
    "terms": ("functions of Δt", ""),
    "integrator_dt_fs": ("time step of the integrator", "fs"),
    "stride_fs": ("between the starts of pairs", "fs"),
    "temperature_K": ("temperature", "K"),
    "temperature_end_K": ("temperature at the end", "K"),
    "tau_fs": ("relaxation time of the thermostat", "fs"),
    "friction_tau_fs": ("relaxation time of the friction", "fs"),
    "friction_above_per_cm": ("friction acts above", "cm⁻¹"),
    "reversible": ("time-symmetrised steps", ""),
    "fallback_frames": ("frames by the fallback, or shorter steps", ""),
    "seed": ("random seed", ""),
    "temperature": ("temperature", "K"),
    "dt": ("time step of the integrator", "fs"),
    "masses": ("masses", "u"),
    "displacement_rms": ("RMS displacement in a step", "Å"),
    "velocity_rms": ("RMS velocity", "Å/fs"),
    "speed_max": ("largest speed", "Å/fs"),
    "speed_limits": ("speed limits of the embedding", "Å/fs"),
    "average_neighbors": ("mean number of neighbours", ""),
    "isolated": ("for isolated molecules", ""),
    "shortest_distance": ("closest pair in the data", "Å"),
    "atomic_energies_eV": ("energies of the elements", "eV"),
    "energy_scale_eV": ("unit of the network's energies", "eV"),
    "own_potential": ("has a potential of its own", ""),
    "pressure_bar": ("pressure", "bar"),
    "barostat_every": ("steps between two moves of the volume", ""),
    "coupling": ("coupling of the cell", ""),
    "volumes_A3": ("volumes of an atom in the data", "Å³"),
    "net_linear_momentum": ("total momentum imposed", "u Å/fs"),
    "net_angular_momentum": ("angular momentum imposed", "u Å²/fs"),
    "cutoff": ("cutoff", "Å"),
    "lmax": ("largest l of features", ""),
    "harmonics_lmax": ("largest l of harmonics", ""),
    "relative_error_of_tables": ("relative error of tables", ""),
    "round_trip": ("round-trip error", ""),
    "round_trip_atom": ("round-trip error of an atom", ""),
    "kinetic_drift": ("drift of the kinetic energy", ""),
    "momentum_change": ("change of the momentum", "Σ m|v|"),
    "speeds": ("largest speeds", "Å/fs"),
}
_SHOWN = 24  # values of a list
_SUFFIXES = {"_fs": "fs", "_ps": "ps", "_K": "K", "_A": "Å", "_eV": "eV"}
_HIDDEN = {"model", "start", "start_structure", "potential_weights"}  # of settings: fingerprints
# Lists with a number for each element; others may happen to be as long.
_OF_ELEMENTS = {"masses", "speed_limits", "speeds", "kinetic_drift", "atomic_energies_eV"}
_WORDS = {"nve": "NVE", "nvt": "NVT", "npt": "NPT", "csvr": "CSVR", "langevin": "Langevin"}


def describe(facts: dict[str, Any]) -> str:
    """The facts as lines of a name and a value; what is unknown is left out."""
    elements = str(facts.get("elements", "")).split()
    settings = facts.get("settings") or {}
    further = {key: value for key, value in settings.items() if key not in facts and key not in _HIDDEN}
    shown = {key: value for key, value in facts.items() if key != "carried"}  # of a family: numbers for the network
    rows = _rows({**shown, "alarms": _alarms(facts), "settings": further}, elements)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}".rstrip() for name, value in rows)


def _alarms(facts: dict[str, Any]) -> list[str] | None:
    """Alarms in words; None where nothing was watched."""
    if not facts.get("alarms"):
        return facts.get("alarms")
    from ffmd_jax.analysis import properties  # takes half a second

    return properties.alarm_texts(facts)


def _rows(facts: dict[str, Any], elements: list[str], indent: str = "") -> list[tuple[str, str]]:
    """Rows of names and values; those of records within are indented."""
    rows = []
    for key, value in facts.items():
        name, unit = _NAMES.get(key) or _split(key)
        if value is None or value == "" or (isinstance(value, dict | list | tuple) and not value and key != "alarms"):
            continue
        if key == "cell_A" and isinstance(value, list):
            rows.append((f"{indent}cell", _cell(value)))
        elif key == "command":
            rows.append((f"{indent}{name}", str(value)))
        elif key == "harmonics_lmax" and value == -1:  # that of the features
            continue
        elif isinstance(value, dict):
            rows += [(f"{indent}{name}", ""), *_rows(value, elements, indent + "  ")]
        elif key == "groups":
            rows += [("systems", f"{len(value):,}"), *(_group_row(group) for group in value)]
        else:
            rows.append((f"{indent}{name}", " ".join(part for part in (_value(key, value, elements), unit) if part)))
    return rows


def _group_row(group: dict[str, Any]) -> tuple[str, str]:
    """A system of a dataset."""
    pairs = ", ".join(f"{group[f'{split}_pairs']:,} {split}" for split in ("train", "validation", "test"))
    cells = f", {group['cells']:,} cells" if group["cells"] > 1 else ""
    return f"  {group['name']}", f"{group['formula']}, {group['n_atoms']} atoms{cells}; pairs: {pairs}"


def _split(key: str) -> tuple[str, str]:
    """A name and its unit, which the end of the key tells."""
    for suffix, unit in _SUFFIXES.items():
        if key.endswith(suffix):
            return key.removesuffix(suffix).replace("_", " "), unit
    return key.replace("_", " "), ""


def _value(key: str, value: Any, elements: list[str]) -> str:
    """A value; of sequences with a number for each element, with their symbols."""
    if key == "periodic":
        return " ".join(name for name, periodic in zip("xyz", value, strict=True) if periodic) or "nothing (isolated)"
    if key in ("observables", "sources", "alarms"):
        return _some(list(map(str, value))) or "none"
    if isinstance(value, list | tuple):
        numbers = [text.number(one) for one in value]
        if key == "volumes_A3":
            return " to ".join(dict.fromkeys(numbers))
        if key in _OF_ELEMENTS and len(value) == len(elements):
            numbers = [f"{element} {number}" for element, number in zip(elements, numbers, strict=True)]
            return ", ".join(numbers)
        return _some(numbers, " ")
    if isinstance(value, int) and not isinstance(value, bool) and key != "seed":
        return f"{value:,}"
    return _WORDS.get(str(value), text.number(value))


def _some(values: list[str], between: str = ", ") -> str:
    """The values; of many, the first."""
    more = f"{between}… ({len(values):,} in all)" if len(values) > _SHOWN else ""
    return between.join(values[:_SHOWN]) + more


def _cell(vectors: list[list[float]]) -> str:
    from ffmd_jax.core.state import make_system
    from ffmd_jax.formats import common

    return common.describe_cell(make_system([1], [1.0], True), np.asarray(vectors))
