"""Volume, density and cell of runs at constant pressure, with errors."""

from typing import Any, NamedTuple

import numpy as np

from ffmd_jax.analysis.statistics import block_error
from ffmd_jax.core import mechanics, units
from ffmd_jax.formats.trajectory import Trajectory

_GRAMS_PER_CM3 = 1.66053906660  # of one u/Å³


class Volumes(NamedTuple):
    """Means and standard errors; of a constant cell, errors are zero and the compressibility is NaN.

    Attributes:
        density_g_per_cm3: mean and error.
        volume_A3: of the cell, mean and error.
        lengths_A: of the three lattice vectors, means and errors.
        compressibility_per_GPa: isothermal, from the fluctuations of the volume: ⟨ΔV²⟩/(⟨V⟩ k_B T).
        changes: the cell is not the same in all frames.
    """

    density_g_per_cm3: tuple[float, float]
    volume_A3: tuple[float, float]
    lengths_A: tuple[tuple[float, float], ...]
    compressibility_per_GPa: float
    changes: bool


def volumes(trajectory: Trajectory, temperature_K: float) -> Volumes | None:
    """Of a trajectory that is periodic in three directions; else None."""
    if not all(trajectory.system.pbc):
        return None
    cells = np.asarray(trajectory.frames.cell, np.float64)
    found, lengths = np.asarray(mechanics.volume(cells)), np.linalg.norm(cells, axis=-1)
    changes = bool(np.ptp(found) > 1e-6 * found.mean() or np.ptp(lengths, axis=0).max() > 1e-6 * lengths.mean())

    def mean(values: np.ndarray) -> tuple[float, float]:
        return block_error(values) if changes else (float(values[0]), 0.0)

    thermal = units.BOLTZMANN * temperature_K * units.EV_PER_A3_IN_GPA
    return Volumes(
        mean(_GRAMS_PER_CM3 * float(np.sum(trajectory.system.masses)) / found),
        mean(found),
        tuple(mean(lengths[:, i]) for i in range(3)),
        float(found.var() / found.mean() / thermal) if changes else float("nan"),
        changes,
    )


def summarize(found: Volumes | None) -> dict[str, Any]:
    """By their names in JSON; nothing for what has no volume, and the density alone for a constant cell."""
    if found is None:
        return {}
    density, error = found.density_g_per_cm3
    if not found.changes:
        return {"density_g_per_cm3": density}
    names = ("a", "b", "c")
    return {
        "density_g_per_cm3": density,
        "density_error_g_per_cm3": error,
        "volume_A3": found.volume_A3[0],
        "volume_error_A3": found.volume_A3[1],
        "cell_length_A": {name: value for name, (value, _) in zip(names, found.lengths_A, strict=True)},
        "cell_length_error_A": {name: value for name, (_, value) in zip(names, found.lengths_A, strict=True)},
        "compressibility_per_GPa": found.compressibility_per_GPa,
    }
