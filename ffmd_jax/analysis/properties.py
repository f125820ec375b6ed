"""Structure, dynamics and conservation along one trajectory.

Works on trajectories, whatever produced them.  Lengths are Å, times fs, temperatures K, wave numbers cm⁻¹.
"""

from typing import Any, NamedTuple

import numpy as np

from ffmd_jax.analysis import distributions, drifts, frames, spectra, temperatures, torsions
from ffmd_jax.analysis import volumes as volume_analysis
from ffmd_jax.analysis.diffusion import (
    MeanSquareDisplacement,
    diffusion_coefficient,
    is_resolved,
    mean_square_displacement,
)
from ffmd_jax.analysis.distributions import RadialDistribution
from ffmd_jax.analysis.spectra import VDOS
from ffmd_jax.analysis.statistics import block_error
from ffmd_jax.analysis.temperatures import Temperatures
from ffmd_jax.core import units
from ffmd_jax.core.state import System, is_isolated
from ffmd_jax.formats import trajectory as trajectories
from ffmd_jax.formats.trajectory import Trajectory, frame_interval

SEGMENT_PS = 4.0  # windows of the spectra of long runs
_SEGMENT_FRAMES = 8


class Analysis(NamedTuple):
    """Properties of one trajectory; pairs of elements are keyed ``"O-H"``, elements ``"O"``.

    ``vdos_halves_overlap``, ``rdf_halves_rmse``, ``torsion_halves_overlap`` and ``torsion_surface_halves_overlap``
    compare the first half with the second, which measures the statistical noise of these quantities.
    """

    system: System
    times_fs: np.ndarray
    rdf: dict[str, RadialDistribution]
    rdf_halves_rmse: float
    vdos: VDOS
    vdos_by_species: dict[str, VDOS]
    vdos_halves_overlap: float
    temperatures: Temperatures
    momentum_drift: float
    energy_drift_meV_per_atom_per_ps: float
    potential_energy_eV: np.ndarray
    msd: dict[str, MeanSquareDisplacement]
    torsions: dict[str, torsions.Profile]
    torsion_halves_overlap: dict[str, float]
    torsion_surfaces: dict[str, tuple[np.ndarray, np.ndarray]]
    torsion_surface_halves_overlap: dict[str, float]
    snapshots: frames.Snapshots
    metadata: dict[str, Any]
    volumes: volume_analysis.Volumes | None = None


def analyze(trajectory: Trajectory, segment_ps: float = SEGMENT_PS) -> Analysis:
    """Everything in `Analysis` for a trajectory of at least 8 evenly spaced frames.

    Args:
        trajectory: what to analyse.
        segment_ps: windows of the spectra.  They have at least 8 frames, and at most half of those of the run, so that
            the halves of the run have the same resolution.
    """
    n_frames, system, interval = len(trajectory.times), trajectory.system, frame_interval(trajectory.times)
    if n_frames < 8:
        raise ValueError(f"an analysis needs at least 8 frames, not {n_frames}")
    halves = [trajectories.part(trajectory, half) for half in (slice(0, n_frames // 2), slice(n_frames // 2, None))]
    segment_ps = min(max(segment_ps, _SEGMENT_FRAMES * interval / units.PS), n_frames // 2 * interval / units.PS)
    elements, kelvins = frames.elements(system), temperatures.temperatures(trajectory)
    rdf, rdf_halves_rmse = distributions.radial_distributions(trajectory)
    of_elements = {symbol: spectra.vdos(trajectory, number, segment_ps) for symbol, number in elements.items()}
    wavenumbers = next(iter(of_elements.values())).wavenumber_per_cm
    profiles, *of_halves = (torsions.profiles(part, kelvins.mean) for part in (trajectory, *halves))
    surfaces, *surfaces_of_halves = (torsions.surfaces(part, kelvins.mean) for part in (trajectory, *halves))
    equal = (kelvins.mean, kelvins.mean)
    return Analysis(
        system=system,
        times_fs=trajectory.times,
        rdf=rdf,
        rdf_halves_rmse=rdf_halves_rmse,
        vdos=VDOS(wavenumbers, np.sum([spectrum.density for spectrum in of_elements.values()], axis=0)),
        vdos_by_species=of_elements,
        vdos_halves_overlap=spectra.vdos_overlap(*(spectra.vdos(half, None, segment_ps) for half in halves)),
        temperatures=kelvins,
        momentum_drift=drifts.momentum_drift(trajectory),
        energy_drift_meV_per_atom_per_ps=drifts.energy_drift(trajectory),
        potential_energy_eV=np.asarray(trajectory.observables.get("potential_energy_eV", np.full(n_frames, np.nan))),
        msd={symbol: mean_square_displacement(trajectory, number) for symbol, number in elements.items()},
        torsions=profiles,
        torsion_halves_overlap=torsions.overlaps(of_halves[0], of_halves[1], equal),
        torsion_surfaces=surfaces,
        torsion_surface_halves_overlap=torsions.overlaps(surfaces_of_halves[0], surfaces_of_halves[1], equal),
        snapshots=frames.snapshots(trajectory),
        metadata=trajectory.metadata,
        volumes=volume_analysis.volumes(trajectory, kelvins.mean),
    )


def summarize(analysis: Analysis) -> dict[str, Any]:
    """The numbers of one trajectory as a JSON-able dict; None for what is unknown."""
    temperature = analysis.temperatures
    energy, energy_error = potential_energy(analysis)
    unknown = (np.nan, np.nan)
    diffusion = {
        symbol: diffusion_coefficient(found) if diffuses(analysis, symbol) else unknown
        for symbol, found in analysis.msd.items()
    }
    return jsonable(
        {
            "n_atoms": len(analysis.system.species),
            "n_frames": len(analysis.times_fs),
            "length_ps": (analysis.times_fs[-1] - analysis.times_fs[0]) / units.PS,
            "temperature_K": temperature.mean,
            "temperature_error_K": temperature.error,
            "temperature_by_species_K": temperature.mean_by_species,
            "temperature_error_by_species_K": temperature.error_by_species,
            "momentum_drift": analysis.momentum_drift,
            "energy_drift_meV_per_atom_per_ps": analysis.energy_drift_meV_per_atom_per_ps,
            "potential_energy_meV_per_atom": energy,
            "potential_energy_error_meV_per_atom": energy_error,
            **volume_analysis.summarize(analysis.volumes),
            "diffusion_cm2_per_s": {symbol: value for symbol, (value, _) in diffusion.items()},
            "diffusion_error_cm2_per_s": {symbol: error for symbol, (_, error) in diffusion.items()},
            "alarms": alarm_texts(analysis.metadata),
            "vdos_halves_overlap": analysis.vdos_halves_overlap,
            "rdf_halves_rmse": analysis.rdf_halves_rmse,
            "torsion_halves_overlap": analysis.torsion_halves_overlap,
            "torsion_surface_halves_overlap": analysis.torsion_surface_halves_overlap,
        }
    )


def diffuses(analysis: Analysis, symbol: str) -> bool:
    """True if the run resolves a diffusion coefficient of the element.

    Not that of an isolated system, whose atoms only vibrate and turn about the centre of mass.
    """
    return not is_isolated(analysis.system) and is_resolved(analysis.msd[symbol])


def alarm_texts(metadata: dict[str, Any]) -> list[str] | None:
    """Alarms of the monitors of a rollout; None for a run without monitors."""
    found = metadata.get("alarms")
    return None if found is None else [f"{a['text']} (first at {a['time_fs']:g} fs, {a['count']} times)" for a in found]


def potential_energy(analysis: Analysis) -> tuple[float, float]:
    """Mean potential energy and its block error, meV/atom, over the frames for which it is known."""
    known = analysis.potential_energy_eV[np.isfinite(analysis.potential_energy_eV)]
    return block_error(1000 * known / len(analysis.system.species))


def jsonable(value: Any) -> Any:
    """The value with plain Python numbers; numbers that are not finite become None."""
    if isinstance(value, dict):
        return {key: jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [jsonable(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
