"""What the organic model does on molecules that it has not seen.

    python experiments/organic/measure.py errors stability speed --model organic
    python experiments/organic/measure.py stability --friction-tau-fs 1000
    python experiments/organic/measure.py torsions --model organic --teacher-ps 1000
    python experiments/organic/measure.py screening beside

errors: of a step, by size, family and element.  stability: 100 held-out molecules, 100 ps each.  speed: beside GFN2-xTB
on one core, in turn.  torsions: populations beside the teacher's, whose runs are kept in data/torsions and go on.
screening: 100 drugs, 20 ps each, on all cores.  beside: one of them by GFN2-xTB and MMFF94, too.  Results are added
to results.json.
"""

import argparse
import io
import json
import os
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before anything loads it

import jax
import numpy as np
import reference

import ffmd_jax as ffmd
from ffmd_jax.analysis import torsions
from ffmd_jax.core import files, progress
from ffmd_jax.screening import conformers, molecules, runs

HERE = Path(__file__).resolve().parent
FRICTION_FS, LENGTH_PS = 1000.0, 100.0  # weak, and of the torsions and speeds
TORSIONS = ["CCO", "CCCO", "CCC(C)O", "OCCCO", "CC(C)CO", "CCC(C)=O", "CCNC(C)=O", "COCCO", "CCOC=O", "NCCCO"]
SPEEDS = {"20 atoms": "CC(=O)Nc1ccc(O)cc1", "50 atoms": "CC(=O)NC(C)C(=O)NC(C)C(=O)NC(C)C(=O)NC"}


def heavy_atoms(smiles: str) -> int:
    from rdkit import Chem

    return Chem.MolFromSmiles(smiles).GetNumHeavyAtoms()


def mean(values) -> float:
    return round(float(np.mean(list(values))), 3)


def errors(model, data: Path) -> dict:
    """Of a step, relative to the mean absolute component; means over molecules."""
    listed = {name: (smiles, family) for smiles, name, family in reference.read(HERE / "held_out.smi")}
    found = ffmd.evaluate(model, data / "held_out.h5")
    each = {name: of for name, of in found.by_system.items() if name in listed}
    small = {name for name in each if heavy_atoms(listed[name][0]) <= 9}
    unseen = {name for name in each if listed[name][1] in ("oxime", "n-oxide")}

    def both(names) -> dict:
        return {
            "molecules": len(names),
            "displacements_percent": mean(each[n].displacement_percent for n in names),
            "velocities_percent": mean(each[n].velocity_percent for n in names),
        }

    families = sorted({listed[name][1] for name in each})
    elements = sorted({e for of in each.values() for e in of.velocity_percent_by_element})
    return {
        "small": both(small - unseen),
        "large": both(set(each) - small - unseen),
        "unseen_families": both(unseen),
        "families": {f: both({n for n in each if listed[n][1] == f})["velocities_percent"] for f in families},
        "elements": {
            e: mean(of.velocity_percent_by_element[e] for of in each.values() if e in of.velocity_percent_by_element)
            for e in elements
        },
        "molecules": {name: round(of.velocity_percent, 2) for name, of in each.items()},
    }


def stability(model, friction_fs: float) -> dict:
    """Runs of one start each: which end, and how warm the elements of the others are."""
    listed = [(n, s) for s, n, f in reference.read(HERE / "held_out.smi") if f not in ("oxime", "n-oxide")][:100]
    ready = [molecules.prepare(molecules.Entry(name, smiles), model.config, 1) for name, smiles in listed]
    given = runs.Conditions(300.0, LENGTH_PS, 2.0, friction_fs)
    ended, kelvins, began = {}, [], time.perf_counter()
    with progress.progress(len(ready), "stability", "molecules") as bar:
        for batch in runs.batches(ready, model, 1):
            for molecule, frames in runs.run(batch, model, given):
                if frames.ended[0]:
                    ended[molecule.name] = frames.alarms[0][0].text
                elif len(frames.temperatures_K[0]):
                    kelvins.append(frames.temperatures_K[0].mean(axis=0))
                bar.update(1)
    symbols = [conformers.torsions.chemical_symbols[z] for z in model.config.elements]
    by_element = np.array(kelvins)
    return {
        "friction_tau_fs": friction_fs, "molecules": len(ready), "length_ps": LENGTH_PS, "ended": ended,
        "temperature_by_element_K": dict(zip(symbols, np.nanmean(by_element, axis=0).round(1).tolist(), strict=True)),
        "wall_s": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def speed(model, data: Path) -> dict:
    """Force-free steps and the teacher's forces in turn, on one core; the teacher at 0.5 fs."""
    found = {}
    for name, smiles in SPEEDS.items():
        molecule = molecules.prepare(molecules.Entry(name, smiles), model.config, 1)
        given = runs.Conditions(300.0, 8.0, 0.0, FRICTION_FS)
        (batch,) = runs.batches([molecule], model, 1)
        list(runs.run(batch, model, given))  # compiles
        start, ratios = reference.structures(smiles, 1, 1)[0], []
        for _ in range(3):
            began = time.perf_counter()
            ((_, frames),) = runs.run(batch, model, given)
            ours = (time.perf_counter() - began) / (len(frames.positions[0]) * frames.interval_fs)
            began = time.perf_counter()
            reference.run_of(start, 300, 20, "test", name, np.random.default_rng(0))
            theirs = (time.perf_counter() - began) / (20 / reference.STEP_FS + reference.WARM_FS) / reference.STEP_FS
            ratios.append(theirs / ours)
        found[name] = {"atoms": len(molecule.system.species), "times_faster": [round(x, 1) for x in sorted(ratios)],
                       "ms_per_step": round(1e3 * ours * model.config.time_step_fs, 3)}  # fmt: skip
    return found


def teacher_frames(smiles: str, name: str, length_ps: float, folder: Path) -> list[np.ndarray]:
    """Frames of two teacher runs from different conformers, every 20 fs, in pieces that are kept."""
    from ase import units
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    places, found = reference.structures(smiles, 2, 1), []
    for run in range(2):
        path = folder / f"{name}_{run}.npz"
        kept = np.load(path) if path.exists() else None
        frames = [] if kept is None else list(kept["positions"])
        atoms = places[run % len(places)].copy()
        rng = np.random.default_rng(1000 * run + len(frames))
        if kept is None:
            MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=rng)
        else:
            atoms.positions, momenta = frames[-1], kept["momenta"]
            atoms.set_momenta(momenta)
        atoms.calc = reference.Xtb()
        bath = Langevin(atoms, units.fs, temperature_K=300, friction=1 / (FRICTION_FS * units.fs), rng=rng, fixcm=False)
        bath.attach(lambda atoms=atoms, frames=frames: frames.append(atoms.positions.copy()), interval=20)
        wanted = int(length_ps / 2 * 50)
        with progress.progress(wanted, f"teacher, {name}, run {run}", "frames", begin=len(frames)) as bar:
            while len(frames) < wanted:
                bath.run(2000)
                bar.update(len(frames) - bar.n)
                content = io.BytesIO()
                np.savez(content, positions=np.array(frames, np.float32), momenta=atoms.get_momenta())
                files.write_atomically(path, content.getbuffer())
        found.append(np.array(frames[100:]))
    return found


def torsion_populations(model, data: Path, teacher_ps: float) -> dict:
    """Overlaps of the torsions of ten molecules with the teacher's, and of the teacher's two runs."""
    folder, found = data / "torsions", {}
    folder.mkdir(exist_ok=True)
    for smiles in TORSIONS:
        name = smiles.translate(str.maketrans("()=", "___"))
        theirs = teacher_frames(smiles, name, teacher_ps, folder)
        molecule = molecules.prepare(molecules.Entry(name, smiles), model.config, 4)
        given = runs.Conditions(300.0, teacher_ps, 2.0, FRICTION_FS)
        (batch,) = runs.batches([molecule], model, 1)
        ((_, frames),) = runs.run(batch, model, given)
        ours = np.concatenate(frames.positions)
        rows = {}
        for equivalent in torsions.dihedrals(molecule.system, ours[0]):
            angles = [
                np.concatenate([torsions.angles(x, dihedral) for dihedral in equivalent])
                for x in (ours, np.concatenate(theirs), *theirs)
            ]
            rows["-".join(map(str, equivalent[0]))] = {
                "overlap": round(torsions.overlap_of_angles(*angles[:2]), 4),
                "halves": round(torsions.overlap_of_angles(*angles[2:]), 4),
            }  # fmt: skip
        found[smiles] = rows
    return found


def screening(model, data: Path) -> dict:
    """`ffmd screen` of the list of drugs: how long it took, and whose runs had alarms."""
    began = time.perf_counter()
    found = ffmd.screen(HERE / "drugs.smi", data / "screening", model, overwrite=True)
    wall_s, kelvins = time.perf_counter() - began, [line["temperature_K"] for line in found.table]
    return {
        "molecules": len(found.table), "length_ps": runs.Conditions().length_ps, "cores": os.cpu_count(),
        "minutes": round(wall_s / 60, 1), "refused": found.refused,
        "starts": 4 * len(found.table), "starts_ended": sum(line["starts_ended"] for line in found.table),
        "alarms": {line["name"]: line["alarms"] for line in found.table if line["alarms"]},
        "mean_temperature_K": mean(kelvins),
    }  # fmt: skip


def beside(model, data: Path, n_molecules: int = 1) -> dict:
    """The first drug by other methods from the same starts, after `screening`: speeds, and how far torsions agree."""
    methods = ("gfn2-xtb", "mmff94")
    kept = ["method", "ns_per_day", "torsion_overlap", "torsion_overlap_halves", "temperature_K"]
    kept += ["radius_of_gyration_A", "flexibility_A", "failed"]
    found = ffmd.screen(
        HERE / "drugs.smi", data / "screening", model, resume=True, beside=methods, beside_molecules=n_molecules
    )
    lines = [json.loads(path.read_text()) for path in sorted((found.folder / "beside").glob("*.json"))]
    return {of[0]["name"]: [{name: line[name] for name in kept if name in line} for line in of] for of in lines}


PLAIN = {"errors": errors, "speed": speed, "screening": screening, "beside": beside}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=[*PLAIN, "stability", "torsions"])
    parser.add_argument("--model", default="organic")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="folder of reference.py")
    parser.add_argument("--teacher-ps", type=float, default=1000.0)
    usual = runs.Conditions().friction_tau_fs
    parser.add_argument("--friction-tau-fs", type=float, default=usual, help="of stability (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    given = parser.parse_args()
    model = ffmd.load(given.model)
    known = json.loads(given.results.read_text()) if given.results.exists() else {}
    for what in given.what:
        with jax.enable_x64(False):
            name = what
            if what == "torsions":
                known[what] = torsion_populations(model, given.data, given.teacher_ps)
            elif what == "stability":
                name = what if given.friction_tau_fs == usual else f"{what}_{given.friction_tau_fs:g}_fs"
                known[name] = stability(model, given.friction_tau_fs)
            else:
                known[what] = PLAIN[what](model, given.data)
        given.results.write_text(json.dumps(known, indent=2) + "\n")
        print(json.dumps({name: known[name]}, indent=2))


if __name__ == "__main__":
    main()
