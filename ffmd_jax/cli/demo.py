"""``ffmd demo``: a shipped model beside reference MD, analysed and reported."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from tyro.conf import arg

from ffmd_jax.cli import common, demo_force_field, demo_shipped
from ffmd_jax.core import files, units


class _Prepared(NamedTuple):
    """What a demo is run with, as in experiments/: the paper's CSVR and friction that shares the energy.

    Attributes:
        tau_fs: of CSVR.
        friction_tau_fs: 1/γ.
        reversible: steps; where no strong vibration has a period near Δt or 2 Δt.
        length_ps: minutes.
        teacher: of `teachers.TEACHERS`; None: the force field of the prepared system.
        structure: prepared system where a run with the teacher begins; none: start.xyz in the folder of the model.
        watch_bonds: print bonds that form and break.
        kelvin: K.
        teacher_step_fs: fs; None: that of `ffmd reference`.
        curves: the teacher is too slow to run beside it; the model comes with its spectrum and g(r).
        friction_above_per_cm: the friction acts on motions above it, cm⁻¹; None: on all.
    """

    tau_fs: float
    friction_tau_fs: float
    reversible: bool
    length_ps: float
    teacher: str | None = None
    structure: str = ""
    watch_bonds: bool = False
    kelvin: float = 300.0
    teacher_step_fs: float | None = None
    curves: bool = False
    friction_above_per_cm: float | None = None


_SYSTEMS = {
    "quartz": _Prepared(75.0, 3000.0, False, 30.0),
    "paracetamol": _Prepared(70.0, 4000.0, True, 30.0),
    "water": _Prepared(50.0, 1000.0, False, 10.0),
    "silicon": _Prepared(75.0, 3000.0, False, 30.0),
    "paracetamol-ccx": _Prepared(60.0, 1000.0, False, 2.0, "ani-1ccx", "paracetamol"),
    "malonaldehyde": _Prepared(100.0, 500.0, False, 20.0, "gfn2-xtb", watch_bonds=True),
    "alanine-dipeptide": _Prepared(100.0, 200.0, False, 50.0, "amber-obc", friction_above_per_cm=1500.0),
    "copper-iodide": _Prepared(500.0, math.inf, False, 20.0, "chgnet", kelvin=600.0, teacher_step_fs=10.0),
    "quartz-sevennet": _Prepared(75.0, 1000.0, False, 30.0, "sevennet-0", curves=True),
}
_MOLECULE = _Prepared(100.0, 200.0, False, 10.0, "gfn2-xtb")
_WARM_PS = 1.0


def demo(
    out: Path = Path("ffmd_demo"),
    system: Literal[
        "quartz",
        "paracetamol",
        "water",
        "silicon",
        "paracetamol-ccx",
        "malonaldehyde",
        "alanine-dipeptide",
        "copper-iodide",
        "quartz-sevennet",
    ] = "quartz",
    smiles: str | None = None,
    temperature: Annotated[float | None, arg(metavar="K")] = None,
    length_ps: float | None = None,
    tau_fs: float | None = None,
    friction_tau_fs: float | None = None,
    friction_above_per_cm: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Runs a shipped model beside reference MD.

    Both start from the same state, in NVT, and are compared.

    Writes report.html (open it in a browser), force_free.h5, reference.h5 and summary.json to --out.  Takes some
    minutes on two CPU cores.  Both runs have CSVR, which holds the temperature, and weak Langevin friction and noise on
    each atom, which spread the kinetic energy over elements and vibrations.  The steps of paracetamol are those of ffmd
    rollout --reversible.  Models with a potential keep the energy in each step, as ffmd rollout does.

    The reference of paracetamol-ccx is ANI-1ccx, if torchani is installed, that of malonaldehyde, whose proton changes
    sides while you watch, GFN2-xTB, if tblite is, that of alanine-dipeptide AMBER by OpenMM, that of copper-iodide,
    whose copper diffuses, CHGNet; else the run is reported alone, and the model's card says what it was compared with.
    quartz-sevennet is compared with curves of SevenNet-0 that come with it, as SevenNet-0 takes half an hour a
    picosecond; its speed is measured if sevenn is installed.

    With --smiles, any molecule of the shipped organic model, which need not have seen it, beside GFN2-xTB if tblite is
    installed: ffmd demo --smiles "CC(=O)Nc1ccc(O)cc1".

    Args:
        out: Folder to write.
        system: Shipped model and prepared system.
        smiles: A molecule instead of a prepared system (needs RDKit; for the reference, tblite).
        temperature: Temperature, K (None: 300, copper-iodide 600); the shipped models were trained there.
        length_ps: Length of both trajectories, ps (None: 30; with slower references water and molecules 10,
            malonaldehyde and copper-iodide 20, paracetamol-ccx 2; alanine-dipeptide 50).
        tau_fs: Relaxation time of CSVR, fs (None: that of the model's card; quartz, quartz-sevennet and silicon 75,
            paracetamol 70, paracetamol-ccx 60, water 50, malonaldehyde, alanine-dipeptide and molecules 100,
            copper-iodide 500).
        friction_tau_fs: Relaxation time 1/γ of the friction, fs (None: quartz and silicon 3000, paracetamol 4000,
            water, paracetamol-ccx and quartz-sevennet 1000, malonaldehyde 500, alanine-dipeptide and molecules 200;
            copper-iodide and inf: none).
        friction_above_per_cm: Wavenumber, cm⁻¹, below which the friction fades (None: alanine-dipeptide 1500; others:
            it acts on all motions).
        seed: Seed of velocities and thermostats.
        overwrite: Write into an existing folder.
    """
    files.check_output(out, overwrite)
    usual = _SYSTEMS[system] if smiles is None else _MOLECULE
    friction = usual.friction_tau_fs if friction_tau_fs is None else friction_tau_fs
    from ffmd_jax.dynamics.ensemble import NVT

    tau = usual.tau_fs if tau_fs is None else tau_fs
    kelvin = usual.kelvin if temperature is None else temperature
    above = usual.friction_above_per_cm if friction_above_per_cm is None else friction_above_per_cm
    acts = {} if friction == math.inf else {"friction_tau_fs": friction, "friction_above_per_cm": above}
    ensemble = NVT(kelvin, tau, **acts)
    length_ps = usual.length_ps if length_ps is None else length_ps
    if usual.teacher is None:
        demo_force_field.run(out, system, ensemble, usual.reversible, seed, length_ps)
    elif usual.curves:
        demo_shipped.run(out, system, usual.teacher, ensemble, seed, length_ps)
    else:
        _beside_teacher(out, system, smiles, ensemble, usual, seed, length_ps)


def _beside_teacher(
    out: Path, system: str, smiles: str | None, ensemble: Any, usual: _Prepared, seed: int, length_ps: float
) -> None:
    """A molecule by a model, and by the teacher if it is installed, in a report."""
    import ffmd_jax as ffmd
    from ffmd_jax.formats import ase_files
    from ffmd_jax.models import model_files
    from ffmd_jax.reference_md import ase_engine, systems, teachers

    model = ffmd.load(system if smiles is None else "organic")
    title = f"Force-free MD of {system}"
    if smiles is None and usual.structure:
        atoms, relaxed = systems.get(usual.structure)[1:3]
    elif smiles is None:
        atoms, relaxed = ase_files.from_atoms(ase_engine.read_atoms(model_files.locate(system) / "start.xyz"))
    else:
        atoms, relaxed, title = _molecule(smiles, model, seed)
    step_fs = model.config.time_step_fs
    n_steps = max(8, round(length_ps * units.PS / step_fs))
    warm = round(_WARM_PS * units.PS / step_fs)  # a relaxed structure has half of its energy only
    out.mkdir(exist_ok=True)
    how: dict[str, Any] = {"ensemble": ensemble, "seed": seed, "on_alarm": "warn"}
    start = ffmd.simulate(model, (atoms, relaxed), steps=warm, progress=False, **how)
    run = ffmd.simulate(model, start, steps=n_steps, out=out / "force_free.h5", overwrite=True,
                        watch_bonds=usual.watch_bonds, **how)  # fmt: skip
    reference, missing = None, ""
    assert usual.teacher is not None
    try:
        teachers.check(usual.teacher)
    except ValueError as error:
        missing = f"note: no reference beside it: {error}"
        if smiles is None:
            missing += f"\n\n{model_files.card(system)}"
    else:
        (reference,) = ffmd.reference(
            "ase", out / "reference.h5", start=ase_files.to_atoms(atoms, relaxed), calculator=usual.teacher,
            ensemble=ensemble, length_ps=n_steps * step_fs / units.PS, frame_fs=step_fs, equilibrate_ps=_WARM_PS,
            dt=usual.teacher_step_fs, seed=seed, overwrite=True,
        )  # fmt: skip
    report = ffmd.analyze(run, reference, title=title)
    common.say(f"\n{report.text(common.width())}\n\nreport: {report.save(out)}")
    if missing:
        print(missing)


def _molecule(smiles: str, model: Any, seed: int) -> tuple[Any, Any, str]:
    """System, relaxed state and title of a molecule from SMILES."""
    from ffmd_jax.core.state import State
    from ffmd_jax.screening import molecules

    molecule = molecules.prepare(molecules.Entry("molecule", smiles), model.config, 1, seed=seed)
    relaxed = State(molecule.starts[0], np.zeros_like(molecule.starts[0]), np.eye(3))
    return molecule.system, relaxed, f"{molecule.smiles}, which the model need not have seen"
