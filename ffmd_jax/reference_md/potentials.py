"""The potential of a run: that of its model, another one, or a force field."""

from pathlib import Path
from typing import Any

import numpy as np

from ffmd_jax.core.state import State, System
from ffmd_jax.dynamics import potentials, restart
from ffmd_jax.dynamics.ensemble import NPT, Ensemble
from ffmd_jax.dynamics.potentials import Potential
from ffmd_jax.models import model as models
from ffmd_jax.models import model_files
from ffmd_jax.models.model import Model

_REFERENCE = "reference:"


def find(
    choice: Model | str | Path | None, model: Model, system: System, state: State, ensemble: Ensemble, dtype: Any
) -> Potential | None:
    """The potential of a run.

    Args:
        choice: a potential, its folder, "reference:NAME" of a prepared system, "none", or None: the model's own, if it
            has one.
        state: of the start, ``[n_atoms, 3]``.

    Raises:
        ValueError: no potential, or one of other elements; constant pressure without one, or of a system without a
            volume.
    """
    found = _energy(choice, model, system, state, dtype)
    if not isinstance(ensemble, NPT):
        return found
    if not all(system.pbc):
        what = "an isolated molecule" if not any(system.pbc) else "a slab or wire"
        raise ValueError(
            f"{what} has no volume: npt is for crystals and liquids, periodic along three vectors; use nvt"
        )
    if found is None:
        raise ValueError(
            "constant pressure needs a potential: train one with ffmd train --kind potential and give `potential`, or "
            "put its folder into the model's as potential/"
        )
    molecules = potentials.find_molecules(system, state)
    if molecules is not None and ensemble.coupling == "anisotropic":
        raise ValueError("a liquid of molecules has no axes of its own: use the isotropic coupling")
    return found._replace(molecules=molecules)


def _energy(choice: Any, model: Model, system: System, state: State, dtype: Any) -> Potential | None:
    if choice == "none" or (choice is None and model.potential is None):
        return None
    if isinstance(choice, str) and choice.startswith(_REFERENCE):
        from ffmd_jax.reference_md import systems

        name = choice.removeprefix(_REFERENCE)
        single = State(*(np.asarray(values, np.float64) for values in state))
        prepared = systems.get(name, structure=(system, single))
        return Potential(choice, prepared.energy, prepared.cutoff)
    if choice is None:
        choice = model.potential
    used = choice if isinstance(choice, Model) else model_files.load_potential(choice)
    if used.kind != "potential":
        raise ValueError(f"{used.name or 'the model'} is a {used.kind}, not a potential")
    models.check_potential(used.config, system)
    digest = restart.fingerprint(used.config, used.params)
    return Potential(used.name, models.energy(used, dtype), used.config.architecture.cutoff, digest=digest)
