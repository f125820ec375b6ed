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
    """Prints energy, forces and stress of a structure.

    Args:
        system: Prepared system whose force field to use: quartz, water (Ewald), water-dsf, paracetamol, silicon, argon;
            or the folder of a potential (`ffmd train --kind potential`), or of a model that has one.
        structure: Any file that ASE reads, or H5MD (last frame); molecules may be wrapped.
        hints: What the file leaves unstated.
        json: Print {"energy_eV": …, "forces_eV_per_A": [[…]], "stress_GPa": [xx, yy, zz, yz, xz, xy]}; the stress is
            positive under tension, without the motion of the atoms.
    """
    common.use_double_precision()
    from ffmd_jax.core import units
    from ffmd_jax.formats import trajectory
    from ffmd_jax.models import model_files
    from ffmd_jax.reference_md import production, systems

    atoms, state = trajectory.read_start(structure, need_velocities=False, hints=hints)
    if system not in systems.SYSTEMS and (Path(system) / model_files.CONFIG).is_file():
        prepared = production.of_model(model_files.load_potential(system), atoms, state)
    else:
        prepared = systems.get(system, structure=(atoms, state))
    value, force = production.energy_and_forces(prepared, prepared.state)
    found = {"energy_eV": float(value), "forces_eV_per_A": np.asarray(force).tolist()}
    pressure = ""
    if all(atoms.pbc):
        stress = units.EV_PER_A3_IN_GPA * np.asarray(production.stress(prepared, prepared.state))
        found["stress_GPa"] = stress.tolist()
        pressure = f", pressure without the motion of the atoms {-stress[:3].mean():.4g} GPa"
    if json:
        common.print_json(found)
    else:
        print(f"energy {float(value):.6f} eV, largest force {float(np.abs(force).max()):.4g} eV/Å{pressure}")
