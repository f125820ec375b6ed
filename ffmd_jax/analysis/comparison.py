"""Structure, dynamics and conservation along a trajectory, and what one trajectory differs in from another.

Knows trajectories only, never what made them.  Lengths are Å, times fs, temperatures K, wave numbers cm⁻¹.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from ase.data import chemical_symbols
from scipy import stats

from ffmd_jax.analysis import torsions
from ffmd_jax.analysis.diffusion import MeanSquareDisplacement, diffusion_coefficient, mean_square_displacement
from ffmd_jax.analysis.distributions import VDOS, RadialDistribution, radial_distribution, rdf_rmse, vdos, vdos_overlap
from ffmd_jax.core import mechanics, units
from ffmd_jax.core.state import State, System
from ffmd_jax.formats.trajectory import Trajectory, frame_interval


class Temperatures(NamedTuple):
    """Kinetic temperatures, K: series ``[n_frames]``, means, block errors; total and by element symbol."""

    total: np.ndarray
    mean: float
    error: float
    by_species: dict[str, np.ndarray]
    mean_by_species: dict[str, float]
    error_by_species: dict[str, float]
    degrees_of_freedom: float


class Analysis(NamedTuple):
    """All that is known about one trajectory; pairs are keyed ``"O-H"``, elements ``"O"``.

    ``vdos_halves_overlap``, ``rdf_halves_rmse`` and ``torsion_surface_halves_overlap`` compare the first half with the
    second: the noise floor of the same numbers between two runs (a cautious one, as halves are noisier than the whole).
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
    torsion_surfaces: dict[str, tuple[np.ndarray, np.ndarray]]
    torsion_surface_halves_overlap: dict[str, float]
    metadata: dict[str, Any]


def block_error(values: np.ndarray) -> tuple[float, float]:
    """Mean of a correlated stationary series ``[n]`` and the standard error of that mean, by blocking.

    Blocks of B = 1, 2, 4, … values (doi:10.1063/1.457480).  The plateau is the smallest B with B³ > 2 n s⁴,
    where s is the ratio of the errors at B and at 1 (doi:10.1103/PhysRevE.83.066706); a series too short to
    reach it gets the largest error of all B.  NaN for fewer than two values.
    """
    blocks = np.asarray(values, dtype=np.float64)
    n, mean, errors = len(blocks), float(np.mean(blocks)) if len(blocks) else math.nan, []
    while len(blocks) >= 2:
        errors.append(float(np.std(blocks, ddof=1) / math.sqrt(len(blocks))))
        inefficiency = (errors[-1] / errors[0]) ** 2 if errors[0] > 0 else 0.0
        if 8.0 ** (len(errors) - 1) > 2 * n * inefficiency**2:
            return mean, errors[-1]
        blocks = 0.5 * (blocks[: len(blocks) // 2 * 2 : 2] + blocks[1::2])
    return mean, max(errors, default=math.nan)


def temperatures(trajectory: Trajectory) -> Temperatures:
    """Kinetic temperatures of all atoms and of each element; degrees of freedom from `mechanics`."""
    system, frames = trajectory.system, trajectory.frames
    kinetic = 0.5 * np.einsum("i,fia,fia->fi", system.masses, frames.velocities, frames.velocities) / units.EV
    freedom = _degrees_of_freedom_by_atom(system, np.asarray(frames.positions))
    total_freedom = float(mechanics.degrees_of_freedom(system))
    total = 2 * kinetic.sum(axis=1) / (units.BOLTZMANN * total_freedom)
    by_species = {}
    for number in _elements(system):
        members = np.asarray(system.species) == number
        # A lone atom has no degree of freedom of its own.
        share = np.maximum(freedom[:, members].sum(axis=1), 1e-6)
        by_species[chemical_symbols[number]] = 2 * kinetic[:, members].sum(axis=1) / (units.BOLTZMANN * share)
    blocked = {symbol: block_error(series) for symbol, series in by_species.items()}
    means = {symbol: mean for symbol, (mean, _) in blocked.items()}
    errors = {symbol: error for symbol, (_, error) in blocked.items()}
    return Temperatures(total, *block_error(total), by_species, means, errors, total_freedom)


def _degrees_of_freedom_by_atom(system: System, positions: np.ndarray) -> np.ndarray:
    """Degrees of freedom ``[n_frames, n_atoms]``; ``[1, n_atoms]`` where they do not depend on positions."""
    if np.any(system.pbc):
        positions = positions[:1]
    by_atom = jax.jit(jax.vmap(mechanics.degrees_of_freedom_by_atom, in_axes=(None, 0)))
    chunks = [positions[start : start + 512] for start in range(0, len(positions), 512)]
    return np.concatenate([np.asarray(by_atom(system, chunk), dtype=np.float64) for chunk in chunks])


def canonical_temperature_distribution(temperature_K: float, degrees_of_freedom: float, grid: np.ndarray) -> np.ndarray:
    """Probability density, 1/K, of the instantaneous temperature on ``grid``, K, in the canonical ensemble.

    Of f degrees of freedom it follows a Gamma distribution with shape f/2 and mean ``temperature_K``.
    """
    shape = degrees_of_freedom / 2
    return stats.gamma.pdf(grid, shape, scale=temperature_K / shape)


def momentum_drift(trajectory: Trajectory) -> float:
    """Largest change of the total momentum, max |P(t) − P(0)|, over the mean of Σ m|v|; dimensionless."""
    masses, velocities = np.asarray(trajectory.system.masses), trajectory.frames.velocities
    momenta = np.einsum("i,fia->fa", masses, velocities)
    scale = np.mean(np.linalg.norm(velocities, axis=-1) @ masses)
    return float(np.linalg.norm(momenta - momenta[0], axis=1).max() / scale) if scale > 0 else 0.0


def energy_drift(trajectory: Trajectory) -> float:
    """Least-squares slope of the observable ``total_energy_eV``, meV/atom/ps; NaN if it was not recorded."""
    energies = trajectory.observables.get("total_energy_eV", np.full_like(trajectory.times, np.nan))
    known = np.isfinite(energies)
    if known.sum() < 2:
        return math.nan
    slope = np.polyfit(trajectory.times[known] / units.PS, energies[known], 1)[0]
    return float(1000 * slope / len(trajectory.system.species))


def analyze(trajectory: Trajectory) -> Analysis:
    """Everything in `Analysis` for one trajectory of at least 8 evenly spaced frames."""
    n_frames, system = len(trajectory.times), trajectory.system
    if n_frames < 8:
        raise ValueError(f"an analysis needs at least 8 frames, not {n_frames}")
    halves = _part(trajectory, slice(0, n_frames // 2)), _part(trajectory, slice(n_frames // 2, None))
    found = {_pair_name(pair): _rdf_of_blocks(trajectory, pair) for pair in _pairs(system)}
    rdf, rmse = {name: curve for name, (curve, _) in found.items()}, [rmse for _, rmse in found.values()]
    # Windows that fit a half give the halves the resolution of the whole, else their overlap is no floor.
    segment_ps = min(4.0, n_frames // 2 * frame_interval(trajectory.times) / units.PS)
    spectra = {chemical_symbols[number]: vdos(trajectory, number, segment_ps) for number in _elements(system)}
    wavenumbers = next(iter(spectra.values())).wavenumber_per_cm
    unknown, kelvins = np.full(n_frames, np.nan), temperatures(trajectory)
    surfaces, first, second = (torsions.surfaces(part, kelvins.mean) for part in (trajectory, *halves))
    return Analysis(
        system=system,
        times_fs=trajectory.times,
        rdf=rdf,
        rdf_halves_rmse=float(np.mean(rmse)) if rmse else math.nan,
        vdos=VDOS(wavenumbers, np.sum([spectrum.density for spectrum in spectra.values()], axis=0)),
        vdos_by_species=spectra,
        vdos_halves_overlap=vdos_overlap(*(vdos(half, None, segment_ps) for half in halves)),
        temperatures=kelvins,
        momentum_drift=momentum_drift(trajectory),
        energy_drift_meV_per_atom_per_ps=energy_drift(trajectory),
        potential_energy_eV=np.asarray(trajectory.observables.get("potential_energy_eV", unknown)),
        msd={chemical_symbols[z]: mean_square_displacement(trajectory, z) for z in _elements(system)},
        torsions=torsions.profiles(trajectory, kelvins.mean),
        torsion_surfaces=surfaces,
        torsion_surface_halves_overlap=_surface_overlaps(first, second, (kelvins.mean, kelvins.mean)),
        metadata=trajectory.metadata,
    )


def _rdf_of_blocks(trajectory: Trajectory, pair: tuple[int, int]) -> tuple[RadialDistribution, float]:
    """g(r) with its standard error over four parts of the run, and the RMS difference of the halves.

    g(r) is linear in the frames: the parts give that of the whole by their mean, and its noise.
    """
    n_frames = len(trajectory.times)
    ends = np.linspace(0, n_frames, 5).round().astype(int)
    parts = [_part(trajectory, slice(a, b)) for a, b in itertools.pairwise(ends)]
    curves = [radial_distribution(part, pair, max_frames=125) for part in parts]
    g = np.array([curve.g for curve in curves])
    halves = (curves[0]._replace(g=g[:2].mean(axis=0)), curves[0]._replace(g=g[2:].mean(axis=0)))
    whole = curves[0]._replace(g=g.mean(axis=0), error=np.std(g, axis=0, ddof=1) / 2)
    return whole, rdf_rmse(*halves)


def summarize(analysis: Analysis) -> dict[str, Any]:
    """The numbers of one trajectory as a JSON-able dict; None for what is unknown."""
    temperature = analysis.temperatures
    energy, energy_error = _potential_energy(analysis)
    diffusion = {symbol: diffusion_coefficient(found) for symbol, found in analysis.msd.items()}
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
            "diffusion_cm2_per_s": {symbol: value for symbol, (value, _) in diffusion.items()},
            "diffusion_error_cm2_per_s": {symbol: error for symbol, (_, error) in diffusion.items()},
            "alarms": _alarm_texts(analysis.metadata),
            "vdos_halves_overlap": analysis.vdos_halves_overlap,
            "rdf_halves_rmse": analysis.rdf_halves_rmse,
            "torsion_surface_halves_overlap": analysis.torsion_surface_halves_overlap,
        }
    )


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
    rmse = {name: rdf_rmse(curve, reference.rdf[name]) for name, curve in analysis.rdf.items()}
    overlaps = {
        symbol: vdos_overlap(curve, reference.vdos_by_species[symbol])
        for symbol, curve in analysis.vdos_by_species.items()
    }
    (energy, error), (reference_energy, reference_error) = map(_potential_energy, (analysis, reference))
    return jsonable(
        {
            "vdos_overlap": vdos_overlap(analysis.vdos, reference.vdos),
            "vdos_overlap_by_species": overlaps,
            "rdf_rmse": np.mean(list(rmse.values())) if rmse else math.nan,
            "rdf_rmse_by_pair": rmse,
            "torsion_surface_overlap": _surface_overlaps(
                analysis.torsion_surfaces,
                reference.torsion_surfaces,
                (analysis.temperatures.mean, reference.temperatures.mean),
            ),
            "potential_energy_shift_meV_per_atom": energy - reference_energy,
            "potential_energy_shift_error_meV_per_atom": math.hypot(error, reference_error),
            **summarize(analysis),
            **{f"reference_{key}": value for key, value in summarize(reference).items()},
        }
    )


def _surface_overlaps(surfaces: Any, others: Any, temperatures_K: tuple[float, float]) -> dict[str, float]:
    """`torsions.overlap` of the surfaces that both have, by the names of the torsions."""
    return {
        name: torsions.overlap(surface[1], others[name][1], temperatures_K)
        for name, surface in surfaces.items()
        if name in others
    }


def _alarm_texts(metadata: dict[str, Any]) -> list[str] | None:
    """What the monitors of a roll-out said; None for a run without monitors."""
    found = metadata.get("alarms")
    return None if found is None else [f"{a['text']} (first at {a['time_fs']:g} fs, {a['count']} times)" for a in found]


def _elements(system: System) -> list[int]:
    return np.unique(system.species).tolist()


def _pairs(system: System) -> list[tuple[int, int]]:
    """Pairs of elements of which the system holds two different atoms."""
    pairs = itertools.combinations_with_replacement(_elements(system), 2)
    return [(a, b) for a, b in pairs if a != b or np.sum(np.asarray(system.species) == a) > 1]


def _pair_name(pair: tuple[int, int]) -> str:
    return "-".join(chemical_symbols[number] for number in pair)


def _part(trajectory: Trajectory, frames: slice) -> Trajectory:
    return trajectory._replace(
        frames=State(*(values[frames] for values in trajectory.frames)),
        times=trajectory.times[frames],
        observables={name: values[frames] for name, values in trajectory.observables.items()},
    )


def _potential_energy(analysis: Analysis) -> tuple[float, float]:
    """Mean potential energy and its block error, meV/atom, over the frames for which it is known."""
    known = analysis.potential_energy_eV[np.isfinite(analysis.potential_energy_eV)]
    mean, error = block_error(1000 * known / len(analysis.system.species))
    return mean, error


def jsonable(value: Any) -> Any:
    """The value with plain Python numbers, and None for those that are not finite."""
    if isinstance(value, dict):
        return {key: jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [jsonable(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
