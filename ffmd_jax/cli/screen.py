"""``ffmd screen``."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ffmd_jax.cli import common
from ffmd_jax.core import launch
from ffmd_jax.core.launch import Processes


def screen(
    molecules: Positional[Path],
    /,
    out: Path,
    model: str = "organic",
    temperature: Annotated[float, tyro.conf.arg(metavar="K")] = 300.0,
    length_ps: float = 20.0,
    starts: int = 4,
    equilibrate_ps: float = 1.0,
    friction_tau_fs: float = 200.0,
    frame_fs: float = 20.0,
    pair: Path | None = None,
    beside: tuple[str, ...] = (),
    beside_molecules: int = 3,
    trajectories: bool = False,
    most_atoms: int = 200,
    workers: int | None = None,
    processes: Annotated[Processes, tyro.conf.arg(name="")] = Processes(),
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Runs many molecules, and tells their conformers.

    From SMILES or an SD file to a table: conformers with populations and free energies, torsion profiles, flexibility,
    radius of gyration, polar surface, temperatures and alarms of every molecule, as molecules.csv and as index.html
    (open it in a browser), with the conformers of each as an SD file in molecules/.

    Each molecule is run from several conformers side by side, with Langevin friction.  A molecule that the model cannot
    run (a charge, an element that it does not know, no conformer) is named with the reason, and the others go on.
    Finished molecules are kept when the command is stopped; --resume runs the rest.

    Started on several machines by Slurm or on a TPU slice, each process runs its share of the molecules into one folder
    of a shared file system; elsewhere, start one on each with --coordinator, --num-processes and --process-id.

    Populations of short runs say more of the starts than of equilibrium: their errors are over the starts.

    Args:
        molecules: File with a SMILES string and a name in each line (.smi, .txt), or SD file (.sdf).
        out: Folder to write.
        model: Propagator of isolated molecules: folder, or name of a shipped model.
        temperature: Temperature, K.
        length_ps: Of each molecule, over all its starts, ps.
        starts: Conformers to start from, each for its share of the length.
        equilibrate_ps: Of each start, before frames count, ps.
        friction_tau_fs: Relaxation time 1/γ of the friction, fs; weaker friction lets some molecules heat with organic.
        frame_fs: Time between two frames that are analysed, fs.
        pair: Structure of a partner (a host, a cluster) to put beside each molecule; contacts are told, too.
        beside: Methods that run some of the molecules, too, from the same starts with the same analysis, to see what
            they cost and where they differ: gfn2-xtb, mmff94, ani-1ccx, or module:Class of an ASE calculator.
        beside_molecules: How many of the molecules, the first of the list.
        trajectories: Keep the frames of every molecule as H5MD.
        most_atoms: Molecules with more atoms, partner included, are left out.
        workers: Processes (None: one for each core; on an accelerator one).
        processes: Several processes, started by hand.
        seed: Of conformers, velocities and noise.
        resume: Go on where an earlier call stopped.
        overwrite: Replace an existing folder.
    """
    if resume and overwrite:
        raise ValueError("`resume` continues a folder and `overwrite` replaces it: say one")
    launch.start(processes)
    from ffmd_jax.core.processes import only_first_prints
    from ffmd_jax.screening import screen as screening
    from ffmd_jax.screening.runs import Conditions

    conditions = Conditions(temperature, length_ps, equilibrate_ps, friction_tau_fs, frame_fs, seed)
    with only_first_prints():
        try:
            found = screening.screen(
                molecules, out, model, conditions, n_starts=starts, pair=pair, beside=beside,
                beside_molecules=beside_molecules, trajectories=trajectories, most_atoms=most_atoms, workers=workers,
                resume=resume, overwrite=overwrite, say=lambda text: common.say(f"note: {text}"),
            )  # fmt: skip
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{out} keeps the molecules that are finished; `resume` runs the rest.") from None
        if not found.table:
            raise ValueError(
                f"none of the {len(found.refused)} molecules could be run: {out / 'molecules.csv'} says why"
            )
        n_ended = sum("starts_ended" not in line or line["starts_ended"] > 0 for line in found.table)
        print(
            f"{out / 'index.html'}: {len(found.table)} molecules, {n_ended} with a start that an alarm ended, "
            f"{len(found.refused)} not run"
        )
