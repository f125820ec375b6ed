"""NVE runs of many organic molecules and small clusters with GFN2-xTB: from SMILES to datasets.

    python experiments/organic/reference.py                 # everything, on all cores
    python experiments/organic/reference.py --workers 1
    python experiments/organic/reference.py --smoke DIR     # four molecules, of no meaning

Every molecule is a file in data/runs; what is there is not computed again, and a molecule that fails is named and left
out.  Datasets: data/train.h5 (train.smi and clusters of it; every molecule with runs to validate and to test with),
data/held_out.h5 (held_out.smi, runs to test with).  Needs `pip install 'ffmd-jax[screen,xtb]'`.
"""

import argparse
import concurrent.futures
import os
import sys
import zlib
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # molecules side by side, not the parts of one

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem

from ffmd_jax.core import progress
from ffmd_jax.core.state import State
from ffmd_jax.data import dataset, dataset_file
from ffmd_jax.data.dataset_file import Dataset, Group, Run
from ffmd_jax.formats import ase_files

HERE = Path(__file__).resolve().parent
FRAME_FS, STEP_FS, WARM_STEP_FS, WARM_FS, FRICTION_FS = 1.0, 0.5, 1.0, 150.0, 40.0
# Temperature, K, length, fs, and purpose of the runs of a molecule; each from another start.
LEARNT = [(300, 150, "train"), (500, 150, "train"), (300, 150, "train"), (500, 150, "train"), (800, 60, "train")]
LEARNT += [(350, 60, "validation"), (350, 60, "test")]
HELD_OUT = [(300, 90, "test"), (400, 90, "test"), (300, 90, "test")]
N_DIMERS, N_TRIMERS, MOST_ATOMS = 150, 30, 30
CONTACT_A = (1.7, 2.6)


class Job(NamedTuple):
    """What to run: the molecules of a cluster, or one, with the name of its file."""

    name: str
    smiles: tuple[str, ...]
    runs: list[tuple[float, float, str]]


class Xtb(Calculator):
    """GFN2-xTB by tblite's own interface, which starts from the density before and is cheaper than its calculator."""

    implemented_properties: ClassVar = ["energy", "forces"]

    def __init__(self) -> None:
        super().__init__()
        self._made: Any = None
        self._before: Any = None

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        from tblite.interface import Calculator as Gfn

        positions = self.atoms.positions / units.Bohr
        if self._made is None:
            self._made = Gfn("GFN2-xTB", self.atoms.numbers, positions)
            self._made.set("verbosity", 0)
        self._made.update(positions)
        self._before = self._made.singlepoint(self._before, copy=False) if self._before else self._made.singlepoint()
        gradient = np.asarray(self._before.get("gradient"))
        self.results = {
            "energy": float(self._before.get("energy")) * units.Hartree,
            "forces": -gradient * units.Hartree / units.Bohr,
        }


def read(path: Path) -> list[tuple[str, str, str]]:
    """SMILES, name and family of each molecule of a list."""
    lines = (line.split() for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return [(smiles, name, family) for smiles, name, family in lines]


def structures(smiles: str, n: int, seed: int) -> list[Atoms]:
    """At most n conformers of a molecule, by RDKit, relaxed with MMFF94 where that knows the molecule."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    places = list(AllChem.EmbedMultipleConfs(molecule, n, randomSeed=seed))
    if not places:
        raise ValueError("no conformer found")
    if molecule.GetNumAtoms() > 3 and AllChem.MMFFHasAllMoleculeParams(molecule):
        AllChem.MMFFOptimizeMoleculeConfs(molecule, maxIters=500)
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    return [Atoms(numbers, molecule.GetConformer(place).GetPositions()) for place in places]


def packed(parts: list[Atoms], rng: np.random.Generator) -> Atoms:
    """The molecules side by side: each next one, in any orientation, at a contact with those before it."""
    whole = parts[0].copy()
    for part in parts[1:]:
        new = part.copy()
        new.rotate(float(rng.uniform(0, 360)), rng.normal(size=3), center="COM")
        way = rng.normal(size=3)
        way /= np.linalg.norm(way)
        contact = rng.uniform(*CONTACT_A)
        new.positions += whole.get_center_of_mass() - new.get_center_of_mass()
        while np.linalg.norm(whole.positions[:, None] - new.positions, axis=-1).min() < contact:
            new.positions += 0.05 * way
        whole += new
    return whole


def run_of(start: Atoms, kelvin: float, length_fs: float, split: str, name: str, rng: np.random.Generator) -> Run:
    """A run at constant energy, after warming up in Langevin dynamics."""
    atoms = start.copy()
    atoms.calc = Xtb()
    MaxwellBoltzmannDistribution(atoms, temperature_K=1.5 * kelvin, rng=rng)
    bath = {"temperature_K": kelvin, "friction": 1 / (FRICTION_FS * units.fs), "rng": rng, "fixcm": False}
    Langevin(atoms, WARM_STEP_FS * units.fs, **bath).run(round(WARM_FS / WARM_STEP_FS))
    atoms.positions -= atoms.get_center_of_mass()
    Stationary(atoms, preserve_temperature=False)
    if len(atoms) > 1:
        ZeroRotation(atoms, preserve_temperature=False)
    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray, float]] = []

    def keep():
        velocities = atoms.get_velocities() * units.fs
        seen.append((atoms.positions.copy(), velocities, atoms.get_forces(), atoms.get_potential_energy()))

    steps = VelocityVerlet(atoms, STEP_FS * units.fs)
    steps.attach(keep, interval=round(FRAME_FS / STEP_FS))
    steps.run(round(length_fs / STEP_FS))
    r, v, f, e = (np.array(values) for values in zip(*seen, strict=True))
    r, v, f = (np.asarray(x, np.float32).astype(np.float64) for x in (r, v, f))  # half the size in the file
    frames = State(r, v, np.broadcast_to(np.eye(3), (len(r), 3, 3)))
    kinetic = 0.5 * np.sum(atoms.get_masses()[None, :, None] * (v / units.fs) ** 2, axis=(1, 2))
    spread = np.ptp(kinetic + e) / len(atoms)
    if not spread < 2e-3:
        raise ValueError(f"the total energy varies by {1e3 * spread:.1f} meV/atom in a run at {kelvin:g} K")
    return Run(frames, FRAME_FS, split, 0, name, e, f)


def compute(job: Job, folder: Path) -> str:
    """Runs a job into its file; returns what went wrong, or nothing."""
    RDLogger.DisableLog("rdApp.*")
    path = folder / f"{job.name}.h5"
    if path.exists():
        return ""
    seed = zlib.crc32(job.name.encode())
    rng = np.random.default_rng(seed)
    try:
        parts = [structures(smiles, len(job.runs), seed % 2**31) for smiles in job.smiles]
        runs = []
        for i, (kelvin, length, split) in enumerate(job.runs):
            start = packed([places[i % len(places)] for places in parts], rng)
            runs.append(run_of(start, kelvin, length, split, job.name, rng))
        system = ase_files.from_atoms(start)[0]
        found = Dataset((Group(system, tuple(runs)),), FRAME_FS, metadata={"sources": [job.name]})
        dataset_file.write(path, found, {})
    except Exception as error:  # a molecule that fails must not stop the others
        return f"{job.name}: {type(error).__name__}: {error}"
    return ""


def clusters(learnt: list[tuple[str, str, str]], n_dimers: int, n_trimers: int) -> list[Job]:
    """Dimers and trimers of molecules that are learnt; a third have water."""
    rng = np.random.default_rng(1)
    size = {smiles: Chem.AddHs(Chem.MolFromSmiles(smiles)).GetNumAtoms() for smiles, _, _ in learnt}
    jobs: list[Job] = [Job("cluster_water2", ("O", "O"), LEARNT), Job("cluster_water3", ("O",) * 3, LEARNT)]
    jobs += [Job("cluster_water5", ("O",) * 5, LEARNT), Job("cluster_benzene2", ("c1ccccc1",) * 2, LEARNT)]
    for number, n_jobs in ((2, n_dimers), (3, n_trimers)):
        while n_jobs:
            chosen = [learnt[i][:2] for i in rng.integers(len(learnt), size=number)]
            if rng.random() < 1 / 3:
                chosen[-1] = ("O", "water")
            if sum(size[smiles] for smiles, _ in chosen) <= MOST_ATOMS and min(size[s] for s, _ in chosen) > 2:
                name = "cluster_" + "_".join(name for _, name in chosen)
                jobs.append(Job(name, tuple(smiles for smiles, _ in chosen), LEARNT))
                n_jobs -= 1
    return jobs


def join(jobs: list[Job], folder: Path, out: Path) -> None:
    """The dataset of all runs that are there."""
    groups = [
        dataset_file.read(folder / f"{job.name}.h5").groups[0] for job in jobs if (folder / f"{job.name}.h5").exists()
    ]
    found = Dataset(tuple(groups), 3.0, metadata={"sources": [group.runs[0].source for group in groups]})
    dataset.write(out, found, overwrite=True)
    n_frames = sum(len(run.frames.positions) for group in groups for run in group.runs)
    print(f"{out}: {len(groups)} molecules and clusters, {n_frames:,} frames")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    parser.add_argument("--smoke", type=Path, metavar="DIR", help="a small run into this folder")
    given = parser.parse_args()
    root = given.smoke or HERE / "data"
    folder = root / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    learnt, held_out = read(HERE / "train.smi"), read(HERE / "held_out.smi")
    if given.smoke:
        learnt, held_out = learnt[:2], held_out[:1]
    jobs = [Job(name, (smiles,), LEARNT) for smiles, name, _ in learnt]
    others = [Job(name, (smiles,), HELD_OUT) for smiles, name, _ in held_out]
    jobs += [] if given.smoke else clusters(learnt, N_DIMERS, N_TRIMERS)
    failed = []
    with (
        concurrent.futures.ProcessPoolExecutor(given.workers) as pool,
        progress.progress(len(jobs) + len(others), "reference runs", "molecules") as bar,
    ):
        for reason in pool.map(compute, others + jobs, [folder] * (len(jobs) + len(others))):
            failed += [reason] if reason else []
            bar.update(1)
    for reason in failed:
        print(reason, file=sys.stderr)
    join(jobs, folder, root / "train.h5")
    join(others, folder, root / "held_out.h5")


if __name__ == "__main__":
    main()
