"""A propagator with more elements: what fine-tuning on a new element starts from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ffmd_jax.models.config import ModelConfig
from ffmd_jax.models.trajcast import Params

_PERIODS = (2, 8, 8, 18, 18, 32, 32)


def extended(
    config: ModelConfig, params: Params, masses: Mapping[int, float], speed_limits: Mapping[int, float]
) -> tuple[ModelConfig, Params, dict[int, int]]:
    """The model with the elements of ``masses`` added, and what weights each of them begins with.

    A new element has the weights of the known one that is most like it: of its group in the periodic table, else the
    nearest in atomic number.  On systems of the old elements, the model is the same function as before.

    Args:
        masses: u, of the new elements, by atomic number.
        speed_limits: Å/fs, of the new elements.

    Returns:
        configuration, weights, and the known element that each new one is a copy of.
    """
    old, new = config.elements, tuple(sorted({*config.elements, *masses}))
    like = {z: _most_like(z, old) for z in masses}
    rows = np.array([old.index(like.get(z, z)) for z in new])
    of_mass = dict(zip(old, config.masses, strict=True)) | dict(masses)
    limits = dict(zip(old, config.speed_limits, strict=False)) | dict(speed_limits)
    scale = np.sqrt(len(new) / len(old))

    def of_species(weights: Any) -> Any:
        """Matrices of each species, divided by the root of their number in the layer."""
        return {irrep: scale * np.asarray(values)[:, rows] for irrep, values in weights.items()}

    found = {name: values for name, values in params.items()}
    found["speed_embedding"] = of_species(params["speed_embedding"])
    for name, layer in params.items():
        if name.startswith("layer"):
            found[name] = {**layer, "residual": of_species(layer["residual"])}
    first = {irrep: np.asarray(values) for irrep, values in params["initial"].items()}
    scalars = first["0e"]
    wider = np.concatenate([scalars[: len(old)][rows], scalars[len(old) :]])
    found["initial"] = {**first, "0e": wider * np.sqrt(len(wider) / len(scalars))}
    more = dataclasses.replace(
        config, elements=new, masses=tuple(of_mass[z] for z in new),
        speed_limits=tuple(limits[z] for z in new) if config.speed_limits else (),
    )  # fmt: skip
    return more, jax.tree.map(lambda x: np.asarray(x, np.float32), found), like


def _most_like(z: int, known: tuple[int, ...]) -> int:
    """The known element of the same group that is nearest, else the nearest in atomic number; hydrogen has no group."""
    same = [other for other in known if other > 2 and z > 2 and _group(other) == _group(z)]
    return min(same or known, key=lambda other: abs(other - z))


def _group(z: int) -> int:
    """Place in the periodic table: of the first two columns counted from the noble gas before, else from the next."""
    for length in _PERIODS:
        if z <= length:
            return z if z <= 2 else z - length
        z -= length
    return 0
