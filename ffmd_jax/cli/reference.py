"""``ffmd reference``: reference trajectories from a prepared system or from any ASE calculator."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional, arg

from ffmd_jax.cli import common
from ffmd_jax.core import files as files_module
from ffmd_jax.core import units

if TYPE_CHECKING:
    from ffmd_jax.reference.engine import Teacher


@dataclasses.dataclass(frozen=True)
class Settings:
    """What determines the trajectories.

    Attributes:
        ensemble: nve, or nvt with a CSVR thermostat.
        temperature: Temperature of the start states and of nvt, K.
        length_ps: Length of each production run, ps.
        frame_fs: Interval of the stored frames, fs; a multiple of the time step.
        runs: Independent production runs; more than one writes ref_0.h5, ref_1.h5, … for --out ref.h5.
        spacing_ps: Smallest time between two start states in the run that they are taken from, ps.
        equilibrate_ps: Equilibration before the first start state, ps.
        equilibrate_with: Heat bath of equilibration and start states, τ = 100 fs.
        tau_fs: Relaxation time of the thermostat in nvt, fs.
        friction_tau_fs: Relaxation time 1/γ of Langevin friction and noise besides, in nvt, fs, as of ffmd rollout.
        dt: Time step of the integrator, fs (default: the system's; quartz, silicon 1, water, paracetamol 0.5, argon 4;
            ase 0.5 with hydrogen, else 1).
        repeat: Unit cells along each lattice vector (default: quartz 3 3 2, silicon 2 2 2, argon 3 3 3).
        molecules: Molecules of water (default: 64).
        calculator: ase: module:Class, or module:function that returns a calculator.
        calculator_args: ase: its arguments, key=value,key=value.
        start: ase: structure to start from, any file that ASE reads; its cell and periodic directions are kept.
        seed: Seed of velocities and thermostats.
    """

    ensemble: Literal["nve", "nvt"] = "nve"
    temperature: Annotated[float, arg(metavar="K")] = 300.0
    length_ps: float = 20.0
    frame_fs: float = 10.0
    runs: int = 1
    spacing_ps: float = 1.0
    equilibrate_ps: float = 5.0
    equilibrate_with: Literal["langevin", "csvr"] = "langevin"
    tau_fs: float = 100.0
    friction_tau_fs: float | None = None
    dt: float | None = None
    repeat: tuple[int, int, int] | None = None
    molecules: int | None = None
    calculator: str | None = None
    calculator_args: str = ""
    start: Path | None = None
    seed: int = 0


def reference(
    system: Positional[str],
    /,
    out: Path,
    settings: Annotated[Settings, arg(name="")] = Settings(),
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Runs reference MD, to train on and to compare with.

    One run in a heat bath equilibrates and gives the start states, each with a total energy near the mean and zero
    total momenta.  Production runs follow in double precision, stored in single precision with time, potential and
    total energy.  At the end of each: mean temperature, energy drift and fluctuation; a time step that does not
    conserve energy is refused.

    Ctrl-C (or worse) loses the run in progress only: the same command with --resume keeps the finished files and goes
    on to the same trajectories.  Until all runs are there, the start states are kept in ref_starts.npz beside ref.h5.

    SYSTEM ase takes any ASE calculator; it must be installed in this Python:

        pip install 'ffmd-jax[xtb]'
        ffmd reference ase --calculator tblite.ase:TBLite --calculator-args method=GFN2-xTB,accuracy=0.1
            --start ethanol.xyz --runs 5 --out ref.h5
        --calculator mace.calculators:mace_mp --calculator-args model=small,default_dtype=float64
        --calculator sevenn.calculator:SevenNetCalculator --calculator-args model=7net-0
        --calculator chgnet.model.dynamics:CHGNetCalculator

    Args:
        system: quartz (BKS), water (SPC/Fw, Ewald), water-dsf, paracetamol (OPLS-AA), silicon (Stillinger-Weber), argon
            (Lennard-Jones), or ase.
        out: H5MD file to write.
        settings: What determines the trajectories.
        resume: Keep finished files of this set and go on with the first missing one.
        overwrite: Replace existing files.
    """
    files, starts_file = _files(out, settings.runs), out.with_name(f"{out.stem}_starts.npz")
    if resume and overwrite:
        raise ValueError("--resume keeps finished files and --overwrite replaces them: say one")
    if not resume:
        _check_absent(files, starts_file, overwrite)
    _check_settings(settings)
    common.use_double_precision()
    from ffmd_jax.reference import runs as production
    from ffmd_jax.reference.engine import Bath

    teacher = _teacher(system, settings)
    every = _every(system, settings, teacher.dt)
    facts = _facts(system, settings, teacher)
    for file in (*files, starts_file):
        if resume:
            production.check_same(file, facts)
        else:
            files_module.remove(file)
    bath = Bath("csvr", settings.temperature, settings.tau_fs, settings.friction_tau_fs)
    plan = production.Plan(
        teacher=teacher,
        n_frames=round(settings.length_ps * units.PS / settings.frame_fs),
        every=every,
        bath=bath if settings.ensemble == "nvt" else None,
        temperature_K=settings.temperature,
        equilibrate_fs=settings.equilibrate_ps * units.PS,
        equilibrate_with=settings.equilibrate_with,
        spacing_fs=settings.spacing_ps * units.PS,
        seed=settings.seed,
        facts=facts,
    )
    production.produce_missing(plan, files, starts_file)


def _check_absent(files: list[Path], starts_file: Path, overwrite: bool) -> None:
    for file in files:
        files_module.check_output(file, overwrite)
    if starts_file.exists() and not overwrite:
        raise FileExistsError(
            f"{starts_file} belongs to an unfinished set of runs; --resume goes on, --overwrite starts anew"
        )


def _files(out: Path, runs: int) -> list[Path]:
    return [out] if runs == 1 else [out.with_name(f"{out.stem}_{i}{out.suffix}") for i in range(runs)]


def _check_settings(settings: Settings) -> None:
    """Raises ValueError for settings that make no sense for any system."""
    if settings.runs < 1:
        raise ValueError(f"--runs must be at least 1, not {settings.runs}")
    if not settings.spacing_ps >= 0.1:
        raise ValueError("--spacing-ps must be at least 0.1: start states closer than that are not independent")
    for name in ("temperature", "equilibrate_ps", "tau_fs"):
        if not getattr(settings, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, not {getattr(settings, name)}")
    if settings.friction_tau_fs is not None and not (settings.friction_tau_fs > 0 and settings.ensemble == "nvt"):
        raise ValueError("--friction-tau-fs must be positive, and is of --ensemble nvt")
    if settings.dt is not None and not settings.dt > 0:
        raise ValueError(f"--dt must be positive, not {settings.dt}")


def _teacher(system: str, settings: Settings) -> "Teacher":
    """What runs the MD."""
    if system == "ase":
        return _ase_teacher(settings)
    from ffmd_jax.reference import production, systems

    if settings.calculator or settings.calculator_args or settings.start:
        raise ValueError(f"--calculator, --calculator-args and --start belong to the system ase, not to {system}")
    if system not in systems.SYSTEMS:
        raise ValueError(f"unknown system '{system}'; choose one of {', '.join(systems.SYSTEMS)}, or ase")
    prepared = systems.get(system, settings.repeat, settings.molecules)
    return production.teacher(prepared if settings.dt is None else prepared._replace(dt=settings.dt))


def _ase_teacher(settings: Settings) -> "Teacher":
    from ffmd_jax.reference import ase_engine

    if settings.calculator is None or settings.start is None:
        raise ValueError("the system ase needs --calculator module:Class and --start structure")
    if settings.repeat or settings.molecules:
        raise ValueError("the system ase takes its size from --start: no --repeat or --molecules")
    if settings.friction_tau_fs is not None:
        raise ValueError("the system ase has no friction besides CSVR: no --friction-tau-fs")
    atoms = ase_engine.read_atoms(settings.start)
    arguments = ase_engine.parse_arguments(settings.calculator_args)
    make = ase_engine.make_calculator(settings.calculator, arguments)
    return ase_engine.teacher(settings.calculator, atoms, make, settings.dt)


def _every(system: str, settings: Settings, dt: float) -> int:
    """Steps between two frames."""
    every = round(settings.frame_fs / dt)
    if every < 1 or abs(every * dt - settings.frame_fs) > 1e-9 * settings.frame_fs:
        raise ValueError(f"--frame-fs {settings.frame_fs:g} is not a multiple of the time step of {system}, {dt:g} fs")
    if round(settings.length_ps * units.PS / settings.frame_fs) < 1:
        raise ValueError("--length-ps must hold at least one frame")
    return every


def _facts(system: str, settings: Settings, teacher: "Teacher") -> dict[str, Any]:
    """All that determines the trajectories, JSON-able; the structure as a digest."""
    digest = hashlib.sha256()
    for values in (*teacher.system, teacher.positions):
        digest.update(np.ascontiguousarray(values).tobytes())
    facts = {"system": system, **dataclasses.asdict(settings), "dt": teacher.dt}
    del facts["start"]
    return json.loads(json.dumps(facts | {"start_structure": digest.hexdigest()[:16]}))
