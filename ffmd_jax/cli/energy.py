"""``ffmd energy``."""

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tyro.conf import Positional

from ffmd_jax.cli import common
from ffmd_jax.formats import Hints


def energy(
    system: Positional[str],
    structure: Positional[Path],
    /,
    hints: Annotated[Hints, tyro.conf.arg(name="")] = Hints(),
    json: bool = False,
) -> None:
    """Prints the reference energy and forces of a structure.

    Args:
        system: Prepared system whose force field to use: quartz, water (Ewald), water-dsf, paracetamol, silicon, argon.
        structure: Any file that ASE reads, or H5MD (last frame); molecules may be wrapped.
        hints: What the file leaves unstated.
        json: Print {"energy_eV": …, "forces_eV_per_A": [[…]]}.
    """
    common.use_double_precision()
    from ffmd_jax.formats import trajectory
    from ffmd_jax.reference_md import production, systems

    atoms, state = trajectory.read_start(structure, need_velocities=False, hints=hints)
    prepared = systems.get(system, structure=(atoms, state))
    value, force = production.energy_and_forces(prepared, prepared.state)
    if json:
        common.print_json({"energy_eV": float(value), "forces_eV_per_A": np.asarray(force).tolist()})
    else:
        print(f"energy {float(value):.6f} eV, largest force {float(np.abs(force).max()):.4g} eV/Å")
