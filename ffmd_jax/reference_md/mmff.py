"""MMFF94 for organic molecules, by RDKit, as an ASE calculator; lengths Å, energies eV."""

import importlib
from typing import Any, ClassVar

import ase
import numpy as np
from ase.calculators.calculator import Calculator, all_changes

from ffmd_jax.core import units

_FAR = 1000.0  # Å: no cutoff


def molecule(atoms: ase.Atoms) -> Any:
    """RDKit's molecule of neutral atoms, with the bonds and bond orders that their distances say.

    Raises:
        ValueError: no such bonds.
    """
    Chem = importlib.import_module("rdkit.Chem")
    bonds = importlib.import_module("rdkit.Chem.rdDetermineBonds")
    importlib.import_module("rdkit.RDLogger").DisableLog("rdApp.*")
    lines = [
        f"{symbol} {x:.6f} {y:.6f} {z:.6f}" for symbol, (x, y, z) in zip(atoms.symbols, atoms.positions, strict=True)
    ]
    made = Chem.MolFromXYZBlock(f"{len(atoms)}\n\n" + "\n".join(lines))
    try:
        bonds.DetermineBonds(made, charge=0)
    except ValueError as error:
        raise ValueError(f"no neutral molecule has atoms at these distances ({error})") from error
    return made


class Mmff94(Calculator):
    """Energies and forces; bonds are those of the first atoms that it is asked about (doi:10.1002/jcc.540170602)."""

    implemented_properties: ClassVar = ["energy", "forces"]

    def __init__(self):
        super().__init__()
        self._field: Any = None

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        given: Any = self.atoms
        if any(given.pbc):
            raise ValueError("MMFF94 is for molecules in vacuum here, and the structure is periodic: set pbc to none")
        if self._field is None or "numbers" in system_changes:
            self._field = _field(molecule(given))
        places = given.positions.ravel().tolist()
        energy, gradient = self._field.CalcEnergy(places), np.array(self._field.CalcGrad(places))
        forces = -gradient.reshape(-1, 3) * units.KCAL_PER_MOL_IN_EV
        self.results = {"energy": energy * units.KCAL_PER_MOL_IN_EV, "forces": forces}


def _field(made: Any) -> Any:
    fields = importlib.import_module("rdkit.Chem.rdForceFieldHelpers")
    if not fields.MMFFHasAllMoleculeParams(made):
        raise ValueError("MMFF94 has no parameters for this molecule")
    properties = fields.MMFFGetMoleculeProperties(made)
    field = fields.MMFFGetMoleculeForceField(made, properties, nonBondedThresh=_FAR, ignoreInterfragInteractions=False)
    field.Initialize()
    return field
