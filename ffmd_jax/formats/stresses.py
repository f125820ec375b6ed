"""The stress of frames, as six observables that every format carries: GPa, positive under tension, as in ASE.

Without the motion of the atoms, whose part is −N k_B T/V.
"""

from typing import Any

import numpy as np

from ffmd_jax.core import units

NAMES = tuple(f"stress_{component}_GPa" for component in ("xx", "yy", "zz", "yz", "xz", "xy"))


def observables_of(stress: Any) -> dict[str, Any]:
    """The observables of stresses ``[..., 6]`` in eV/Å³."""
    return {name: units.EV_PER_A3_IN_GPA * stress[..., i] for i, name in enumerate(NAMES)}


def from_observables(observables: dict[str, Any]) -> np.ndarray | None:
    """Stresses ``[n_frames, 6]`` in eV/Å³; None where not all frames have them."""
    if not all(name in observables for name in NAMES):
        return None
    found = np.stack([observables[name] for name in NAMES], axis=-1) / units.EV_PER_A3_IN_GPA
    return found if np.isfinite(found).all() else None
