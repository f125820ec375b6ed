"""Sets of reference runs: what determines them, and how they are made."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ffmd_jax.core import commands, mechanics, units
from ffmd_jax.core import files as outputs
from ffmd_jax.core.state import State, System
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics.ensemble import NPT, NVE, NVT, Ensemble
from ffmd_jax.formats import ase_files
from ffmd_jax.reference_md import production, runs, systems
from ffmd_jax.reference_md.engine import ReferenceEngine
from ffmd_jax.reference_md.settings import Settings

_BAROSTAT_FS = 25.0  # between two trial moves of the volume


def produce(
    system: str,
    out: Path,
    settings: Settings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    engine: ReferenceEngine | None = None,
    progress: bool = True,
    say: Any = lambda text: None,
) -> list[Path]:
    """Makes the runs that are not there yet, in double precision; returns their files.

    Args:
        system: a prepared system, or "ase".
        out: H5MD file; of several runs, ``out_0.h5``, ``out_1.h5``, ….
        resume: keep finished files of this set and continue with the first missing one.
        overwrite: replace existing files.
        engine: what makes the MD, instead of one made from ``system`` and ``settings``.
        progress: show bars.
        say: called with lines about what is finished.

    Raises:
        ValueError: settings that make no sense, or other ones than those of the files there; a time step that does not
            conserve energy.
    """
    if settings.volumes is not None and len(settings.volumes) > 1:
        many = [(volume, out.with_name(f"{out.stem}_v{volume:g}{out.suffix}")) for volume in settings.volumes]
        if len({file for _, file in many}) < len(many):
            raise ValueError(f"`volumes` holds a volume twice: {settings.volumes}")
        if not resume:  # all, before the first begins
            for _, file in many:
                _check_absent(_files(file, settings.runs), _starts(file), overwrite, settings.start)
        found = []
        for volume, file in many:
            one = dataclasses.replace(settings, volumes=(volume,))
            found += produce(system, file, one, resume=resume, overwrite=overwrite, progress=progress, say=say)
        return found
    with jax.enable_x64(True):
        files, starts_file = _files(out, settings.runs), _starts(out)
        if resume and overwrite:
            raise ValueError("`resume` keeps finished files and `overwrite` replaces them: say one")
        if not resume:
            _check_absent(files, starts_file, overwrite, settings.start)
        _check_settings(settings)
        command = _command(system, settings) if engine is None else None
        engine = _engine(system, settings) if engine is None else engine
        mechanics.check_freedom(engine.system)
        every = _every(system, settings, engine.dt)
        ensemble = ensembles.complete(_ensemble(settings, engine), engine.dt)  # refused before a file is removed
        facts = _facts(system, settings, engine)
        for file in (*files, starts_file):
            if resume:
                runs.check_same(file, facts)
            else:
                outputs.remove(file)
        plan = runs.Plan(
            engine=engine,
            n_frames=round(settings.length_ps * units.PS / settings.frame_fs),
            every=every,
            ensemble=ensemble,
            temperature_K=settings.temperature,
            equilibrate_fs=settings.equilibrate_ps * units.PS,
            equilibrate_with=settings.equilibrate_with,
            spacing_fs=settings.spacing_ps * units.PS,
            seed=settings.seed,
            facts=facts,
            command=command,
            progress=progress,
            say=say,
        )
        runs.produce_missing(plan, files, starts_file)
        return files


def _ensemble(settings: Settings, engine: ReferenceEngine) -> Ensemble:
    """Of the production runs."""
    bath = (settings.temperature, settings.tau_fs, "csvr", settings.friction_tau_fs)
    above = settings.friction_above_per_cm
    if settings.ensemble == "nve":
        return NVE()
    if settings.ensemble == "nvt":
        return NVT(*bath, friction_above_per_cm=above)
    if not all(engine.system.pbc):
        raise ValueError("`ensemble` npt is for crystals and liquids, periodic in three directions")
    every = max(1, round(_BAROSTAT_FS / engine.dt))
    box = (None, settings.pressure_bar, every, settings.coupling)
    return NPT(*bath, *box, friction_above_per_cm=above)


def _check_absent(files: list[Path], starts_file: Path, overwrite: bool, start: Path | None) -> None:
    for file in files:
        outputs.check_output(file, overwrite, start)
    if starts_file.exists() and not overwrite:
        raise FileExistsError(
            f"{starts_file} belongs to an unfinished set of runs; `resume` continues it, `overwrite` starts anew"
        )


def _files(out: Path, runs: int) -> list[Path]:
    return [out] if runs == 1 else [out.with_name(f"{out.stem}_{i}{out.suffix}") for i in range(runs)]


def _starts(out: Path) -> Path:
    return out.with_name(f"{out.stem}_starts.npz")


def _check_settings(settings: Settings) -> None:
    """Raises ValueError for settings that make no sense for any system."""
    if settings.runs < 1:
        raise ValueError(f"`runs` must be at least 1, not {settings.runs}")
    if not settings.spacing_ps >= 0.1:
        raise ValueError("`spacing_ps` must be at least 0.1: start states closer than that are not independent")
    for name in ("temperature", "equilibrate_ps", "tau_fs"):
        if not getattr(settings, name) > 0:
            raise ValueError(f"`{name}` must be positive, not {getattr(settings, name)}")
    if settings.friction_tau_fs is not None and not (settings.friction_tau_fs > 0 and settings.ensemble != "nve"):
        raise ValueError("`friction_tau_fs` must be positive, and is of `ensemble` nvt or npt")
    if settings.friction_above_per_cm is not None and settings.friction_tau_fs is None:
        raise ValueError("`friction_above_per_cm` needs friction: give `friction_tau_fs`, too")
    if settings.ensemble != "npt" and (settings.pressure_bar, settings.coupling) != (1.0, "isotropic"):
        raise ValueError("`pressure_bar` and `coupling` are of `ensemble` npt")
    if settings.dt is not None and not settings.dt > 0:
        raise ValueError(f"`dt` must be positive, not {settings.dt}")
    if settings.volumes is not None and not (settings.volumes and all(0.5 <= v <= 2 for v in settings.volumes)):
        raise ValueError(f"`volumes` are relative, from 0.5 to 2, such as 0.97 1 1.03, not {settings.volumes}")


def _engine(system: str, settings: Settings) -> ReferenceEngine:
    """What runs the MD."""
    if system == "ase" and settings.ensemble == "npt":
        raise ValueError("reference runs with npt are for prepared systems, not for ase")
    if system == "ase":
        return _ase_engine(settings)
    if settings.calculator or settings.calculator_args or settings.start:
        raise ValueError(f"`calculator`, `calculator_args` and `start` belong to the system ase, not to {system}")
    if system not in systems.SYSTEMS:
        meant = commands.did_you_mean(system, [*systems.SYSTEMS, "ase"])
        raise ValueError(
            f"unknown system '{system}'{meant or '; choose one of ' + ', '.join(systems.SYSTEMS) + ', or ase'}"
        )
    prepared = systems.get(system, settings.repeat, settings.molecules)
    if settings.volumes is not None:
        scaled = _at_volume(prepared.system, prepared.state, settings)
        prepared = systems.get(system, structure=(prepared.system, scaled))
    return production.engine(prepared if settings.dt is None else prepared._replace(dt=settings.dt), settings.forces)


def _ase_engine(settings: Settings) -> ReferenceEngine:
    from ffmd_jax.reference_md import ase_engine

    if settings.calculator is None or settings.start is None:
        raise ValueError("the system ase needs `calculator` module:Class and `start` structure")
    if settings.repeat or settings.molecules:
        raise ValueError("the system ase takes its size from `start`: no `repeat` or `molecules`")
    atoms = ase_engine.read_atoms(settings.start)
    if settings.volumes is not None:
        cell = _at_volume(*ase_files.from_atoms(atoms), settings).cell
        atoms.set_cell(cell, scale_atoms=True)
    arguments = ase_engine.parse_arguments(settings.calculator_args)
    make = ase_engine.make_calculator(settings.calculator, arguments)
    return ase_engine.engine(settings.calculator, atoms, make, settings.dt, settings.forces)


def _at_volume(system: System, state: State, settings: Settings) -> State:
    """The state with its cell, and the atoms in it, scaled to the relative volume of the settings."""
    if not all(system.pbc):
        raise ValueError("`volumes` are of crystals and liquids: the structure is not periodic in three directions")
    assert settings.volumes is not None
    length = settings.volumes[0] ** (1 / 3)
    return state._replace(positions=length * np.asarray(state.positions), cell=length * np.asarray(state.cell))


def _command(system: str, settings: Settings) -> str:
    """The command that makes one such run, without its length and output."""
    given = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name not in ("runs", "length_ps") and getattr(settings, field.name) != field.default
    }
    return commands.line("ffmd reference", system, **given)


def _every(system: str, settings: Settings, dt: float) -> int:
    """Steps between two frames."""
    every = round(settings.frame_fs / dt)
    if every < 1 or abs(every * dt - settings.frame_fs) > 1e-9 * settings.frame_fs:
        raise ValueError(f"`frame_fs` {settings.frame_fs:g} is not a multiple of the time step of {system}, {dt:g} fs")
    if round(settings.length_ps * units.PS / settings.frame_fs) < 1:
        raise ValueError("`length_ps` must hold at least one frame")
    return every


def _facts(system: str, settings: Settings, engine: ReferenceEngine) -> dict[str, Any]:
    """All that determines the trajectories, JSON-able; the structure as a digest."""
    digest = hashlib.sha256()
    for values in (
        *jax.tree.leaves(engine.system),
        np.array(engine.system.pbc),
        engine.state.positions,
        engine.state.cell,
    ):
        digest.update(np.ascontiguousarray(values).tobytes())
    facts = {"system": system, **dataclasses.asdict(settings), "dt": engine.dt}
    del facts["start"]
    return json.loads(json.dumps(facts | {"start_structure": digest.hexdigest()[:16]}))
