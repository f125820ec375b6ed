"""What a molecule did, in numbers: conformers, shape, surface, temperatures and alarms."""

import dataclasses
import math
from typing import Any

import numpy as np

from ffmd_jax.core import mechanics
from ffmd_jax.models.model import Model
from ffmd_jax.screening import conformers, shapes
from ffmd_jax.screening.molecules import Molecule
from ffmd_jax.screening.runs import Conditions, Frames

_OFF, _ERRORS = 0.1, 4  # part of the temperature that was asked for, and errors; a molecule farther off is marked


def describe(
    molecule: Molecule, frames: Frames, model: Model, given: Conditions
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What a molecule did, JSON-able, and the files that go with it.

    Raises:
        ValueError: no frame after the equilibration.
    """
    system, starts = molecule.system, [x for x in frames.positions if len(x)]
    alarms = _alarms(frames)
    head = {"name": molecule.name, "smiles": molecule.smiles, "block": molecule.block,
            "n_atoms": len(system.species), "alarms": alarms,
            "starts": len(frames.positions), "starts_ended": int(np.sum(frames.ended))}  # fmt: skip
    if not starts:
        raise ValueError(f"no frame: {alarms[0] if alarms else 'it ended at once'}")
    own, n_own = [x[:, : molecule.n_own] for x in starts], molecule.n_own
    alone = dataclasses.replace(system, species=system.species[:n_own], masses=system.masses[:n_own])
    joined = np.concatenate(own)
    # Beside a partner the weights would be those of their distance, which has no canonical distribution in free space.
    pair = n_own < len(system.species)
    weights = np.ones(len(joined)) if pair else shapes.rotational_weights(alone, joined)
    found = conformers.found_in(alone, own, given.temperature_K, weights)
    kelvins = np.concatenate(frames.temperatures_K)
    symbols = conformers.torsions.chemical_symbols
    known = [i for i, z in enumerate(model.config.elements) if np.any(system.species == z)]
    mean, kelvin = _mean_temperature(system, model, kelvins), given.temperature_K
    error = _expected_error(system, given, len(kelvins) * frames.interval_fs)
    if abs(mean - kelvin) > max(_OFF * kelvin, _ERRORS * error):
        alarms.append(f"it was at {mean:.0f} K, not at {kelvin:g}: its populations are of that temperature")
    flexibility = shapes.flexibility(alone, joined, weights)
    gyration = shapes.radius_of_gyration(alone, joined)
    mean_gyration = np.average(gyration, weights=weights)
    spread_of_gyration = np.sqrt(np.average((gyration - mean_gyration) ** 2, weights=weights))
    values = {
        **head,
        "length_ps": round(sum(len(x) for x in starts) * frames.interval_fs / 1000, 3),
        "temperature_K": mean,
        "temperature_error_K": round(error, 1),
        "temperature_by_element_K": {
            symbols[model.config.elements[i]]: round(float(np.nanmean(kelvins[:, i])), 1) for i in known
        },
        "radius_of_gyration_A": round(float(mean_gyration), 4),
        "radius_of_gyration_sd_A": round(float(spread_of_gyration), 4),
        "flexibility_A": None if flexibility is None else round(flexibility, 4),
        "polar_surface_A2": round(shapes.polar_surface(molecule.block, joined, weights), 2),
        "torsions": [torsion._asdict() for torsion in found.torsions],
        "conformers": [one._asdict() for one in found.conformers],
        "conformer_changes": found.changes,
    }
    if pair:
        values["contacts"] = shapes.contacts(system, n_own, starts, frames.interval_fs)._asdict()
    text = conformers.write_structures(molecule.block, molecule.smiles, own, found.conformers, molecule.name)
    return values, {f"{molecule.name}.sdf": text.encode()}


def _alarms(frames: Frames) -> list[str]:
    """Each kind of alarm in the words of the first, with the number of starts that had one."""
    kinds: dict[str, list[Any]] = {}
    for alarm in sorted((alarm for each in frames.alarms for alarm in each), key=lambda alarm: alarm.time_fs):
        kinds.setdefault(alarm.kind, []).append(alarm)
    of = len(frames.alarms)
    return [f"{each[0].time_fs / 1000:.3g} ps: {each[0].text} ({len(each)} of {of} starts)" for each in kinds.values()]


def _expected_error(system: Any, given: Conditions, length_fs: float) -> float:
    """Standard error, K, of the mean temperature of a canonical run in which energies relax with the friction's τ."""
    independent = max(1.0, length_fs / (2 * given.friction_tau_fs))
    return given.temperature_K * math.sqrt(2 / mechanics.degrees_of_freedom(system) / independent)


def _mean_temperature(system: Any, model: Model, kelvins: np.ndarray) -> float:
    counts = np.array([np.sum(system.species == z) for z in model.config.elements])
    known = counts > 0
    return round(float(np.average(np.nanmean(kelvins[:, known], axis=0), weights=counts[known])), 1)
