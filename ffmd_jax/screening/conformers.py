"""What the frames of a molecule say: conformers and torsions; angles in degrees, energies in kJ/mol."""

import io
from typing import Any, NamedTuple

import numpy as np

from ffmd_jax.analysis import torsions
from ffmd_jax.core import units
from ffmd_jax.core.state import System

_BINS, _SMOOTH = 72, 2.0  # of a turn; width of the smoothing, bins
_DEEP = 0.3  # a minimum parts two basins if it is below this share of the lower of their maxima
_LEAST = 0.01  # population of a basin: less is counted to its neighbour
_MOST_CONFORMERS = 50  # that are listed
ENOUGH_CHANGES = 10  # of conformer, for errors over the starts to mean something
_KJ_PER_EV = 1e4 * units.EV  # per mole: 1 u Å²/fs² is 10,000 kJ/mol


class Torsion(NamedTuple):
    """Rotation about a bond.

    Attributes:
        name: of its four atoms.
        atoms: their indices.
        symmetric: several atoms are equivalent: the angle is counted for each.
        centres: degrees, of its basins.
        populations: of these.
        angle, free_energy_kJ_mol: profile; None where it was not.
    """

    name: str
    atoms: tuple[int, ...]
    symmetric: bool
    centres: list[float]
    populations: list[float]
    angle: list[float]
    free_energy_kJ_mol: list[float | None]


class Conformer(NamedTuple):
    """A combination of basins.

    Attributes:
        label: centre of the basin of each torsion, degrees.
        population: its share, and the standard error over the starts; None where it is not known: of a single start,
            and where conformers changed less than ten times.
        free_energy_kJ_mol: relative to the most frequent one, and its standard error.
        frame: start and frame that is closest to the centres.
    """

    label: str
    population: float
    population_error: float | None
    free_energy_kJ_mol: float
    free_energy_error_kJ_mol: float | None
    frame: tuple[int, int]


class Basins(NamedTuple):
    """Parts of a turn: the ends of each, rad ascending, and their centres; a single one has no end."""

    ends: np.ndarray
    centres: np.ndarray

    def of(self, angles: np.ndarray) -> np.ndarray:
        """The number of the basin of each angle, rad."""
        return np.searchsorted(self.ends, angles) % max(1, len(self.ends))


def basins(angles: np.ndarray) -> Basins:
    """The basins of a torsion: parts of a turn between deep minima of its smoothed density."""
    counts = np.histogram(angles, np.linspace(-np.pi, np.pi, _BINS + 1))[0].astype(float)
    offsets = np.minimum(np.arange(_BINS), _BINS - np.arange(_BINS))
    kernel = np.exp(-0.5 * (offsets / _SMOOTH) ** 2)
    density = np.fft.irfft(np.fft.rfft(counts) * np.fft.rfft(kernel / kernel.sum()), _BINS)
    before, after = np.roll(density, 1), np.roll(density, -1)
    maxima = np.flatnonzero((density > before) & (density >= after) & (density > 1e-3 * density.max()))
    while len(maxima) > 1:
        parts = [_between(int(a), int(b)) for a, b in zip(maxima, np.roll(maxima, -1), strict=True)]
        lowest = np.array([part[np.argmin(density[part])] for part in parts])
        lower = np.minimum(density[maxima], density[np.roll(maxima, -1)])
        shallow = density[lowest] / np.maximum(lower, 1e-12)
        labels = np.searchsorted(np.sort(lowest), np.arange(_BINS), side="left") % len(lowest)
        shares = np.bincount(labels, counts, len(lowest)) / max(1.0, counts.sum())
        at = labels[maxima]
        if shallow.max() > _DEEP:
            i = int(np.argmax(shallow))
            maxima = np.delete(
                maxima, i if density[maxima[i]] <= density[np.roll(maxima, -1)[i]] else (i + 1) % len(maxima)
            )
        elif shares[at].min() < _LEAST:
            maxima = np.delete(maxima, int(np.argmin(shares[at])))
        else:
            ends = np.sort(-np.pi + 2 * np.pi * (lowest + 0.5) / _BINS)
            which = np.searchsorted(ends, angles) % len(ends)
            means = [np.angle(np.mean(np.exp(1j * angles[which == i]))) for i in range(len(ends))]
            return Basins(ends, np.array(means))
    return Basins(np.array([]), np.array([np.angle(np.mean(np.exp(1j * angles)))]))


def _between(a: int, b: int) -> np.ndarray:
    """Bins from one maximum to the next, around the turn."""
    return np.arange(a, b if b > a else b + _BINS) % _BINS


class Conformations(NamedTuple):
    """What a molecule did.

    Attributes:
        torsions: about bonds outside rings; those that end in hydrogen (methyl groups, hydroxyl groups), too, which do
            not tell conformers apart.
        conformers: the most frequent first.
        changes: how often one became another; None if no torsion tells conformers apart.
    """

    torsions: list[Torsion]
    conformers: list[Conformer]
    changes: int | None


def found_in(
    system: System, starts: list[np.ndarray], temperature_K: float, weights: np.ndarray
) -> Conformations:  # fmt: skip
    """Torsions and conformers of a molecule.

    Args:
        starts: frames, Å, of every start ``[n_frames, n_atoms, 3]``.
        weights: of all frames, one start after the other, as `shapes.rotational_weights` has them.
    """
    n_frames = [len(frames) for frames in starts]
    positions = np.concatenate(starts)
    listed, labels, chosen = [], [], []
    species = np.asarray(system.species)
    for equivalent in torsions.dihedrals(system, positions[0]):
        series = np.stack([torsions.angles(positions, dihedral) for dihedral in equivalent], axis=-1)
        parts, first = basins(series.ravel()), equivalent[0]
        profile = torsions.profile(series, temperature_K, weights=weights)
        name = "-".join(f"{torsions.chemical_symbols[species[atom]]}{atom}" for atom in first)
        which = np.sort(parts.of(series), axis=-1)
        each = np.repeat(weights, which.shape[1])
        share = np.bincount(which.ravel(), each, len(parts.centres)) / each.sum()
        listed.append(
            Torsion(
                name, first, len(equivalent) > 1, np.degrees(parts.centres).round().tolist(), share.round(4).tolist(),
                np.degrees(profile.angle).round(1).tolist(), _rounded(profile.free_energy_meV * _KJ_PER_EV / 1000),
            )
        )  # fmt: skip
        if 1 not in species[[first[0], first[3]]]:
            labels.append(which)
            off = np.min(np.abs(_turn(series[..., None] - parts.centres)), axis=-1).mean(axis=-1)
            chosen.append((parts, off))
    return Conformations(listed, *_conformers(labels, chosen, n_frames, weights, temperature_K))


def _turn(angles: np.ndarray) -> np.ndarray:
    return (angles + np.pi) % (2 * np.pi) - np.pi


def _conformers(
    labels: list[np.ndarray], chosen: list[Any], n_frames: list[int], weights: np.ndarray, kelvin: float
) -> tuple[list[Conformer], int | None]:
    total = sum(n_frames)
    joined = np.concatenate(labels, axis=-1) if labels else np.zeros((total, 1), int)
    kinds, which = np.unique(joined, axis=0, return_inverse=True)
    which = which.ravel()
    off = np.sum([far for _, far in chosen], axis=0) if chosen else np.zeros(total)
    runs = np.repeat(np.arange(len(n_frames)), n_frames)
    places = np.concatenate([np.arange(n) for n in n_frames])
    kT = units.BOLTZMANN * kelvin * _KJ_PER_EV
    shares = np.bincount(which, weights, len(kinds)) / weights.sum()
    of_runs = np.stack(
        [np.bincount(which[runs == i], weights[runs == i], len(kinds)) / weights[runs == i].sum()
         for i in range(len(n_frames))]
    )  # fmt: skip
    changes = int(np.sum((which[1:] != which[:-1]) & (runs[1:] == runs[:-1]))) if chosen else None
    known = len(n_frames) > 1 and (changes is None or changes >= ENOUGH_CHANGES)
    errors = of_runs.std(axis=0, ddof=1) / np.sqrt(len(n_frames)) if known else None
    found = []
    for i in np.argsort(-shares)[:_MOST_CONFORMERS]:
        rows = np.flatnonzero(which == i)
        best = rows[np.argmin(off[rows])]
        found.append(
            Conformer(
                _label(kinds[i], chosen, [values.shape[-1] for values in labels]), float(shares[i]),
                None if errors is None else float(errors[i]),
                float(kT * np.log(shares.max() / shares[i])),
                None if errors is None else float(kT * errors[i] / shares[i]),
                (int(runs[best]), int(places[best])),
            )
        )  # fmt: skip
    return found, changes


def _label(kind: np.ndarray, chosen: list[Any], widths: list[int]) -> str:
    """The centres of the basins; of equivalent atoms that of the first."""
    firsts = np.concatenate([[0], np.cumsum(widths)]).astype(int)
    words = [f"{np.degrees(parts.centres[kind[at]]):.0f}" for (parts, _), at in zip(chosen, firsts, strict=False)]
    return " ".join(words) or "one"


def _rounded(values: np.ndarray, digits: int = 2) -> list[float | None]:
    return [round(float(x), digits) if np.isfinite(x) else None for x in values]


def write_structures(block: str, smiles: str, starts: list[np.ndarray], found: list[Conformer], name: str) -> str:
    """The conformers of a molecule as the text of an SD file: frames of the run, with populations and free energies."""
    from rdkit import Chem
    from rdkit.Geometry import Point3D

    text = io.StringIO()
    writer = Chem.SDWriter(text)
    molecule = Chem.MolFromMolBlock(block, removeHs=False)
    conformer = molecule.GetConformer()
    for number, one in enumerate(found, 1):
        run, frame = one.frame
        for i in range(molecule.GetNumAtoms()):
            conformer.SetAtomPosition(i, Point3D(*map(float, starts[run][frame][i])))
        molecule.SetProp("_Name", f"{name} conformer {number}")
        values = {
            "SMILES": smiles, "torsions_degrees": one.label, "population": f"{one.population:.4f}",
            "free_energy_kJ_mol": f"{one.free_energy_kJ_mol:.2f}",
        }  # fmt: skip
        if one.population_error is not None:
            values["population_error"] = f"{one.population_error:.4f}"
            values["free_energy_error_kJ_mol"] = f"{one.free_energy_error_kJ_mol:.2f}"
        for key, value in values.items():
            molecule.SetProp(key, value)
        writer.write(molecule)
    writer.close()
    return text.getvalue()
