"""What is compared of runs of a peptide: helix, size, hydrogen bonds, and a figure of them against time.

Positions are Å, ``[n_runs, n_frames, n_atoms, 3]``; runs do not depend on each other, so their spread gives the errors.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ffmd_jax.analysis import torsions

HELIX_PHI, HELIX_PSI = (-100.0, -30.0), (-80.0, -5.0)  # degrees
BOND = 2.5  # Å, from a hydrogen to the acceptor


def angles(positions: np.ndarray, fours: np.ndarray) -> np.ndarray:
    """φ or ψ, rad ``[n_runs, n_frames, n_residues]``, of four indices each."""
    return np.stack([np.stack([torsions.angles(run, four) for four in fours], axis=-1) for run in positions])


def helical(phi: np.ndarray, psi: np.ndarray) -> np.ndarray:
    """Part of the residues whose φ and ψ are those of an α helix, ``[n_runs, n_frames]``."""
    within = [(low < np.degrees(a)) & (np.degrees(a) < high)
              for a, (low, high) in ((phi, HELIX_PHI), (psi, HELIX_PSI))]  # fmt: skip
    return np.mean(within[0] & within[1], axis=-1)


def backbone(numbers: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the carbonyl oxygens and of the amide hydrogens along the chain, of the peptide's atoms alone."""
    oxygens = np.flatnonzero(numbers == 8)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    hydrogens = [
        next(int(i) for i in np.argsort(distances[n]) if numbers[i] == 1) for n in np.flatnonzero(numbers == 7)
    ]
    return oxygens, np.array(hydrogens)


def turns(positions: np.ndarray, oxygens: np.ndarray, hydrogens: np.ndarray) -> np.ndarray:
    """Number of hydrogen bonds from an N–H to the oxygen four residues before, ``[n_runs, n_frames]``.

    Oxygen 0 is that of ACE, the residue before the first; hydrogen 0 is that of the first residue.
    """
    before, after = positions[..., oxygens[:-3], :], positions[..., hydrogens[3:], :]
    return np.sum(np.linalg.norm(after - before, axis=-1) < BOND, axis=-1)


def bonds_with_water(positions: np.ndarray, cells: np.ndarray, numbers: np.ndarray, n_peptide: int) -> np.ndarray:
    """Number of hydrogens of water near oxygens of the peptide, to the nearest image, ``[n_runs, n_frames]``.

    Args:
        cells: edges of the cubes, Å, ``[n_runs]``.
        numbers: atomic numbers; the peptide's atoms are the first ``n_peptide``.
    """
    inside = np.arange(len(numbers)) < n_peptide
    oxygens, hydrogens = positions[..., inside & (numbers == 8), :], positions[..., ~inside & (numbers == 1), :]
    found = np.zeros(positions.shape[:2])
    for i in range(oxygens.shape[2]):
        apart = hydrogens - oxygens[:, :, i : i + 1]
        apart -= np.round(apart / cells[:, None, None, None]) * cells[:, None, None, None]
        found += np.sum(np.sum(apart**2, axis=-1) < BOND**2, axis=-1)
    return found


def mean(values: np.ndarray) -> list[float]:
    """Mean of ``[n_runs, n_frames]`` and its standard error, from the spread of the runs."""
    each = values.mean(axis=1)
    error = each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.nan
    return [round(float(each.mean()), 4), round(float(error), 4)]


def figure(sides: dict[str, dict[str, np.ndarray]], frame_ps: float) -> Figure:
    """Curves against time, means over runs with their standard errors: a panel a quantity, a colour a side."""
    names = list(next(iter(sides.values())))
    made = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
    for panel, name in zip(made.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for number, (side, own) in enumerate(sides.items()):
            values = own[name]
            times, middle = frame_ps * np.arange(1, values.shape[1] + 1), values.mean(axis=0)
            error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0 * middle
            panel.plot(times, middle, color=f"C{number}", label=side)
            panel.fill_between(times, middle - error, middle + error, color=f"C{number}", alpha=0.25, lw=0)
        panel.set(xlabel="time / ps", ylabel=name)
        panel.set_ylim(bottom=0)
    made.axes[0].legend(frameon=False)
    return made


def summary(quantities: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means over the second half of the runs."""
    return {name: mean(values[:, values.shape[1] // 2 :]) for name, values in quantities.items()}
