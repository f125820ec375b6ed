"""Molecules from SMILES or SD files, with starting structures; by RDKit (extra ``screen``)."""

import signal
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ffmd_jax.core import mechanics
from ffmd_jax.core.state import System, make_system
from ffmd_jax.models import model as models
from ffmd_jax.models.config import ModelConfig

_INSTALL = "screening needs RDKit: pip install 'ffmd-jax[screen]'"


class Entry(NamedTuple):
    """A line of a list of molecules; ``block`` is the record of an SD file, else empty."""

    name: str
    smiles: str
    block: str = ""


class Molecule(NamedTuple):
    """A molecule that is ready to run.

    Attributes:
        smiles: canonical.
        system: masses of the model.
        starts: structures, Å, ``[n_starts, n_atoms, 3]``; those of a partner come last.
        block: mol block with bonds, of the molecule alone.
        n_own: atoms of the molecule; the others are a partner's.
        isomer_chosen: the SMILES left stereocentres or double bonds open; ``smiles`` is the isomer that all starts are.
        given: SMILES of the list.
    """

    name: str
    smiles: str
    system: System
    starts: np.ndarray
    block: str
    n_own: int
    isomer_chosen: bool = False
    given: str = ""


class Partner(NamedTuple):
    """What each molecule is put beside."""

    name: str
    numbers: np.ndarray
    positions: np.ndarray


def _rdkit() -> tuple[Any, Any]:
    try:
        from rdkit import Chem, RDLogger
        from rdkit.Chem import AllChem
    except ImportError as error:
        raise ImportError(_INSTALL) from error
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    return Chem, AllChem


def read(path: Path) -> list[Entry]:
    """The molecules of a file: SMILES and perhaps a name in each line (.smi, .txt), or an SD file (.sdf).

    Lines that begin with # are comments.  No name is given twice.

    Raises:
        ValueError: no molecule in the file, or another kind of file.
        FileNotFoundError: no such file.
    """
    Chem, _ = _rdkit()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix.lower() in (".sdf", ".sd", ".mol"):
        records = Chem.SDMolSupplier()
        records.SetData(path.read_text(errors="replace"), removeHs=False)
        found = [_of_block(Chem, records.GetItemText(i), i) for i in range(len(records))]
    elif path.suffix.lower() in (".smi", ".smiles", ".txt", ""):
        lines = [line.split() for line in path.read_text(errors="replace").splitlines()]
        words = [line for line in lines if line and not line[0].startswith("#")]
        found = [Entry("_".join(line[1:]) or f"molecule{i + 1}", line[0]) for i, line in enumerate(words)]
    else:
        raise ValueError(f"{path}: molecules come from .smi (SMILES and a name in each line) or .sdf")
    if not found:
        raise ValueError(f"{path} holds no molecule")
    return _different_names(found)


def _of_block(Chem: Any, block: str, i: int) -> Entry:
    name = block.splitlines()[0].strip().replace(" ", "_") or f"molecule{i + 1}"
    molecule = Chem.MolFromMolBlock(block, removeHs=False)
    return Entry(name, "" if molecule is None else Chem.MolToSmiles(Chem.RemoveHs(molecule)), block)


def _different_names(entries: list[Entry]) -> list[Entry]:
    """The entries with names that files can have, each another one, also where a file system ignores case."""
    names = ["".join(c if c.isalnum() or c in "-_.,()[]" else "_" for c in entry.name)[:80] for entry in entries]
    taken, found = {name.lower() for name in names}, []
    given: set[str] = set()
    for entry, name in zip(entries, names, strict=True):
        own, number = name, 1
        while own.lower() in given or (number > 1 and own.lower() in taken):
            number += 1
            own = f"{name}_{number}"
        given.add(own.lower())
        found.append(entry._replace(name=own))
    return found


def prepare(
    entry: Entry,
    config: ModelConfig,
    n_starts: int,
    most_atoms: int = 200,
    seed: int = 0,
    partner: Partner | None = None,
) -> Molecule:
    """The molecule with hydrogens and starting structures, each another conformer as far as there are some.

    Conformers are RDKit's (ETKDG), relaxed with MMFF94 where that knows the molecule, else with UFF.  All are one
    stereoisomer: they could not turn into each other.

    Args:
        config: of the model; gives the masses.
        n_starts: structures.
        most_atoms: larger molecules are refused.
        seed: of the conformers.
        partner: put beside the molecule, at a contact, in another orientation for each start.

    Raises:
        ValueError: what the model cannot run, in a few words.
    """
    Chem, AllChem = _rdkit()
    molecule = Chem.MolFromMolBlock(entry.block, removeHs=False) if entry.block else Chem.MolFromSmiles(entry.smiles)
    if molecule is None or not molecule.GetNumAtoms():
        raise ValueError("RDKit does not understand the SD record" if entry.block else f"invalid SMILES {entry.smiles}")
    _check(Chem, molecule)
    given = Chem.MolToSmiles(molecule)
    if not (molecule.GetNumConformers() and molecule.GetConformer().Is3D()):
        molecule = _one_isomer(molecule, seed)
    isomer_chosen = Chem.MolToSmiles(molecule) != given
    whole = Chem.AddHs(molecule, addCoords=True)
    numbers = np.array([atom.GetAtomicNum() for atom in whole.GetAtoms()])
    others = np.array([], int) if partner is None else partner.numbers
    unknown = sorted({*numbers.tolist(), *others.tolist()} - set(config.elements))
    if unknown:
        raise ValueError(
            f"holds {', '.join(models.symbols(unknown))}; the model knows {' '.join(models.symbols(config.elements))}"
        )
    if len(numbers) + len(others) > most_atoms:
        raise ValueError(f"{len(numbers) + len(others)} atoms are more than {most_atoms}")
    places = _conformers(AllChem, whole, n_starts, zlib.crc32(entry.name.encode()) + seed, keep=bool(entry.block))
    starts = np.stack([places[i % len(places)] for i in range(n_starts)])
    if partner is not None:
        rng = np.random.default_rng(zlib.crc32(entry.name.encode()) + seed)
        starts = np.stack([beside(start, partner.positions, rng) for start in starts])
    species = np.concatenate([numbers, others])
    masses = np.asarray(config.masses)[np.searchsorted(config.elements, species)]
    system = mechanics.on_a_line(make_system(species, masses), starts)
    smiles = Chem.MolToSmiles(Chem.RemoveHs(whole))
    block = _block(Chem, whole, places[0])
    return Molecule(entry.name, smiles, system, starts, block, len(numbers), isomer_chosen, entry.smiles)


def _one_isomer(molecule: Any, seed: int) -> Any:
    """The molecule with every stereocentre and double bond decided; one that can be embedded, where there is one."""
    from rdkit.Chem import EnumerateStereoisomers as stereo

    for embed in (True, False):
        options = stereo.StereoEnumerationOptions(tryEmbedding=embed, maxIsomers=1, rand=seed)
        for isomer in stereo.EnumerateStereoisomers(molecule, options=options):
            return isomer
    return molecule


def _block(Chem: Any, molecule: Any, positions: np.ndarray) -> str:
    """Bonds and one structure as text."""
    place = Chem.Conformer(molecule.GetNumAtoms())
    for i, at in enumerate(positions):
        place.SetAtomPosition(i, [float(x) for x in at])
    molecule.RemoveAllConformers()
    molecule.AddConformer(place)
    return Chem.MolToMolBlock(molecule)


def _check(Chem: Any, molecule: Any) -> None:
    """Raises ValueError for what a model of neutral closed-shell molecules cannot run."""
    if len(Chem.GetMolFrags(molecule)) > 1:
        raise ValueError("several molecules in one (a salt?); give each a line")
    charge = Chem.GetFormalCharge(molecule)
    if charge:
        raise ValueError(f"has a charge of {charge:+d}; the model knows neutral molecules")
    if any(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()):
        raise ValueError("is a radical; the model knows closed shells")
    if any(atom.GetIsotope() for atom in molecule.GetAtoms()):
        raise ValueError("names isotopes; the model knows natural masses")


def _conformers(AllChem: Any, molecule: Any, n: int, seed: int, keep: bool) -> list[np.ndarray]:
    """At most n structures, Å; the first is that of the SD record if it has three dimensions."""
    found = []
    if keep and molecule.GetNumConformers() and molecule.GetConformer().Is3D():
        found = [molecule.GetConformer().GetPositions()]
    wanted = n - len(found)
    if wanted > 0:
        parameters = AllChem.ETKDGv3()
        parameters.randomSeed = seed % 2**31
        copy = type(molecule)(molecule)
        places = list(AllChem.EmbedMultipleConfs(copy, wanted, parameters))
        if not places:
            parameters.useRandomCoords = True
            places = list(AllChem.EmbedMultipleConfs(copy, wanted, parameters))
        if copy.GetNumAtoms() > 3 and AllChem.MMFFHasAllMoleculeParams(copy):
            AllChem.MMFFOptimizeMoleculeConfs(copy, maxIters=1000)
        elif copy.GetNumAtoms() > 3 and AllChem.UFFHasAllMoleculeParams(copy):
            AllChem.UFFOptimizeMoleculeConfs(copy, maxIters=1000)
        # RDKit puts back the handler of Ctrl-C such that waiting for a process is no longer interrupted.
        signal.siginterrupt(signal.SIGINT, True)
        found += [copy.GetConformer(place).GetPositions() for place in places]
    if not found:
        raise ValueError("no conformer found")
    return [np.asarray(place, np.float64) for place in found]


def read_partner(path: Path) -> Partner:
    """A structure to put beside each molecule, of any file that ASE reads.

    Raises:
        ValueError: it cannot be read, or is periodic.
    """
    from ffmd_jax.reference_md import ase_engine

    atoms = ase_engine.read_atoms(path)
    if any(atoms.pbc):
        raise ValueError(f"{path} is periodic; a partner is a molecule or a cluster")
    return Partner(path.stem, atoms.numbers.copy(), atoms.positions.copy())


def beside(own: np.ndarray, other: np.ndarray, rng: np.random.Generator, contact_A: float = 2.2) -> np.ndarray:
    """Both, Å: ``other`` turned at random and brought from a random side until two atoms are ``contact_A`` apart."""
    from scipy.spatial.transform import Rotation

    turned = Rotation.from_quat(rng.normal(size=4)).apply(other - other.mean(axis=0)) + own.mean(axis=0)
    way = rng.normal(size=3)
    way /= np.linalg.norm(way)
    while np.linalg.norm(own[:, None] - turned, axis=-1).min() < contact_A:
        turned += 0.05 * way
    return np.concatenate([own, turned])
