"""Differences between two trajectories of the same elements."""

import math
from typing import Any

import numpy as np

from ffmd_jax.analysis import torsions
from ffmd_jax.analysis.distributions import rdf_rmse
from ffmd_jax.analysis.properties import Analysis, jsonable, potential_energy, summarize
from ffmd_jax.analysis.spectra import vdos_overlap


def compare(analysis: Analysis, reference: Analysis) -> dict[str, Any]:
    """`summarize` of both, the reference with ``reference_`` before the keys, and the differences; JSON-able.

    Raises:
        ValueError: the two do not have the same pairs of elements.
    """
    if set(analysis.rdf) != set(reference.rdf) or set(analysis.vdos_by_species) != set(reference.vdos_by_species):
        raise ValueError(
            f"the trajectories differ in their elements: {sorted(analysis.vdos_by_species)} and "
            f"{sorted(reference.vdos_by_species)}"
        )
    same_boundary = analysis.system.pbc == reference.system.pbc  # else g(r) is not the same quantity
    rmse = {
        name: rdf_rmse(curve, reference.rdf[name]) if same_boundary else math.nan
        for name, curve in analysis.rdf.items()
    }
    overlaps = {
        symbol: vdos_overlap(curve, reference.vdos_by_species[symbol])
        for symbol, curve in analysis.vdos_by_species.items()
    }
    (energy, error), (reference_energy, reference_error) = map(potential_energy, (analysis, reference))
    kelvins = (analysis.temperatures.mean, reference.temperatures.mean)
    return jsonable(
        {
            "vdos_overlap": vdos_overlap(analysis.vdos, reference.vdos),
            "vdos_overlap_by_species": overlaps,
            "rdf_rmse": np.mean(list(rmse.values())) if rmse else math.nan,
            "rdf_rmse_by_pair": rmse,
            "torsion_overlap": torsions.overlaps(analysis.torsions, reference.torsions, kelvins),
            "torsion_surface_overlap": torsions.overlaps(
                analysis.torsion_surfaces, reference.torsion_surfaces, kelvins
            ),
            "potential_energy_shift_meV_per_atom": energy - reference_energy,
            "potential_energy_shift_error_meV_per_atom": math.hypot(error, reference_error),
            **summarize(analysis),
            **{f"reference_{key}": value for key, value in summarize(reference).items()},
        }
    )
