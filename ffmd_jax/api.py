"""The functions of ``import ffmd_jax as ffmd``; the command line calls the same."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from ffmd_jax.analysis import report as reports
from ffmd_jax.analysis.report import Report
from ffmd_jax.core import files as outputs
from ffmd_jax.core import progress as bars
from ffmd_jax.core.state import take
from ffmd_jax.data import dataset as datasets
from ffmd_jax.data import dataset_file, labelled
from ffmd_jax.data.dataset_file import Dataset
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics.ensemble import NPT, NVE, NVT, Ensemble
from ffmd_jax.formats import Hints, common, trajectory
from ffmd_jax.formats.common import NoTimes
from ffmd_jax.formats.trajectory import Trajectory
from ffmd_jax.models import model as models
from ffmd_jax.models import model_files
from ffmd_jax.models.config import Architecture
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import production, sets, systems
from ffmd_jax.reference_md.settings import Settings
from ffmd_jax.simulation.result import Run
from ffmd_jax.simulation.simulate import simulate
from ffmd_jax.training import runs, tasks
from ffmd_jax.training.losses import Errors
from ffmd_jax.training.potential_losses import PotentialErrors
from ffmd_jax.training.settings import Training

__all__ = ["analyze", "evaluate", "load", "make_dataset", "read", "reference", "simulate", "train"]

_FRAMES_AT_ONCE = 500
_NO_HINTS = Hints()


def load(model: str | Path) -> Model:
    """A model: a folder, or the name of a shipped one ("paracetamol", "quartz", "water").

    Raises:
        FileNotFoundError: no such model.
        ValueError: a damaged file, or weights that do not fit the configuration.
    """
    return model_files.load(model)


def read(path: str | Path, *, every: int = 1, **hints: Any) -> Trajectory:
    """The trajectory in a file; every ``every``-th frame from the first.

    Args:
        path: H5MD, LAMMPS dumps, what ASE or MDAnalysis read; ``run.h5:2`` is replica 2 of a file with several.
        hints: what the file leaves unstated, by the names of `formats.Hints`, for example ``frame_interval_fs=10``.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """
    return trajectory.read(path, every=every, hints=Hints(**hints))


def analyze(
    run: Run | Trajectory | str | Path,
    reference: Run | Trajectory | str | Path | None = None,
    *,
    force_field: str | None = None,
    title: str | None = None,
    hints: Hints = _NO_HINTS,
    progress: bool = True,
) -> Report:
    """What a run shows, alone or beside a reference; a notebook shows the report, ``report.save(folder)`` writes it.

    Args:
        run: from `simulate`, a trajectory, or a file.
        reference: of the same system in the same ensemble.
        force_field: prepared system whose force field gives the potential energies of the frames.
        title: heading of the report (default: formula and file, or model).
        hints: what the files leave unstated.
        progress: show a bar where energies are computed.

    Raises:
        ValueError: fewer than 8 frames, or a file that cannot be read.
    """
    found, other = _trajectory(run, hints), None if reference is None else _beside(reference, hints)
    if force_field is not None:
        found = _with_energies(found, force_field, progress)
    file = found.metadata.get("file")
    name = Path(file).name if file else found.metadata.get("model") or "force-free molecular dynamics"
    return reports.make(found, other, title=title or f"{common.formula(found.system)}: {name}")


def _trajectory(given: Run | Trajectory | str | Path, hints: Hints) -> Trajectory:
    """The trajectory, with its file among the metadata: advice names it."""
    file = given.path if isinstance(given, Run) else None if isinstance(given, Trajectory) else given
    if isinstance(given, Run):
        found = given.trajectory
    elif isinstance(given, Trajectory):
        found = trajectory.checked(given)
    else:
        found = trajectory.read(given, hints=hints, check=True)
    positions, velocities = (np.asarray(values) for values in found.frames[:2])
    if not velocities.any() and np.any(positions != positions[0]):  # it would be at 0 K
        raise ValueError(
            f"{'the trajectory' if file is None else file}: all velocities are zero although the atoms move; "
            f"`velocities` central-difference estimates those of a file without them"
        )
    return found if file is None else found._replace(metadata={**found.metadata, "file": str(file)})


def _beside(given: Run | Trajectory | str | Path, hints: Hints) -> Trajectory:
    """A reference, whose own times go before an interval that is meant for the run."""
    try:
        return _trajectory(given, dataclasses.replace(hints, frame_interval_fs=None))
    except NoTimes:
        return _trajectory(given, hints)


def _with_energies(found: Trajectory, force_field: str, progress: bool) -> Trajectory:
    """The trajectory with the potential energies of its frames by a prepared system's force field."""
    with jax.enable_x64(True):
        frames = found.frames
        prepared = systems.get(force_field, structure=(found.system, take(frames, 0)))
        joined = prepared.state.positions - frames.positions[0]  # molecules that the first frame has cut
        whole, energies = frames._replace(positions=frames.positions + joined), []
        with bars.progress(len(found.times), "reference energies", "frames", hidden=not progress) as bar:
            for first in range(0, len(found.times), _FRAMES_AT_ONCE):
                part = take(whole, slice(first, first + _FRAMES_AT_ONCE))
                energies.append(np.asarray(production.potential_energies(prepared, part)))
                bar.update(len(part.positions))
        return found._replace(observables={**found.observables, "potential_energy_eV": np.concatenate(energies)})


def make_dataset(
    files: str | Path | Sequence[str | Path | Trajectory],
    time_step_fs: float,
    *,
    stride_fs: float | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
    hints: Hints = _NO_HINTS,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Dataset:
    """A dataset of NVE trajectories of one system or many, split by run; as ``ffmd dataset``, whose help says more.

    Args:
        files: paths, folders, a pattern such as ``"run*.extxyz"``, or trajectories in memory.
        time_step_fs: Δt of the pairs, fs; a multiple of the frame interval.
        stride_fs: between the starts of two pairs, fs (default: Δt).
        n_train: pairs to train on, evenly chosen (default: all).
        n_test: pairs to validate on, and to test on (default: all).
        hints: what the files leave unstated.
        out: HDF5 file to write.
        overwrite: replace an existing file.
        progress: show a bar.

    Raises:
        ValueError: one line that names the file and the inconsistent quantity.
    """
    given = list(files) if not isinstance(files, str | Path) else _matching(files)
    if out is not None:
        outputs.check_output(Path(out), overwrite, *given, hints.topology)
    if given and all(isinstance(one, Trajectory) for one in given):
        found = datasets.make(given, time_step_fs, stride_fs)  # type: ignore[arg-type]
    else:
        paths = [Path(one) for one in given]  # type: ignore[arg-type]
        with bars.progress(len(paths), "reading", "files", hidden=not progress or len(paths) < 2) as bar:
            found = datasets.from_files(paths, time_step_fs, stride_fs, hints, bar.update)
    found = datasets.thinned(found, n_train, n_test)
    if out is not None:
        datasets.write(out, found, overwrite=overwrite)
    return found


def _matching(pattern: str | Path) -> list[Path]:
    """The files of a pattern, sorted; a path without wildcards is itself."""
    path = Path(pattern)
    if not any(sign in str(pattern) for sign in "*?["):
        return [path]
    found = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor)) if path.anchor else str(path)))
    if not found:
        raise FileNotFoundError(f"no file matches {pattern}")
    return found


def train(
    data: Dataset | str | Path,
    out: str | Path,
    *,
    training: Training = Training(),
    architecture: Architecture | None = None,
    kind: Literal["propagator", "potential"] = "propagator",
    time_step_fs: float | Sequence[float] | None = None,
    init: str | Path | None = None,
    rehearse: Dataset | str | Path | None = None,
    rehearse_share: float = 0.5,
    tensorboard: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Model:
    """Trains a model into the folder ``out`` and returns it; as ``ffmd train``, whose help says more.

    Args:
        data: a dataset, of one system or many, or its file.
        training: epochs, batch size, learning rate ….
        architecture: sizes of the network (default: those of ``init``, or the small ones); first of all try
            other cutoffs.
        kind: "propagator", or "potential" for frames with energies.
        time_step_fs: Δt of the model, fs (default: that of ``init``, or the dataset's).  Several make a family, a model
            for any Δt from the first to the last; ``model.at(20.0)`` is its propagator for one.
        init: model to start from: its weights, scales and sizes (fine-tuning).
        rehearse: what it was trained on: some of it is learned again, so that it is not forgotten.
        rehearse_share: share of that in the pairs of an epoch.
        resume: continue the training in ``out``.
        overwrite: replace an existing model folder.
        progress: show bars.
    """
    out = Path(out)
    runs.check_folder(out, training, architecture, resume, overwrite, data, init, rehearse)
    used = data if isinstance(data, Dataset) else dataset_file.read(data)
    old = rehearse if isinstance(rehearse, Dataset | None) else dataset_file.read(rehearse)
    return runs.run(
        used, out, training, architecture, kind=kind, time_step_fs=time_step_fs, init=init, rehearse=old,
        rehearse_share=rehearse_share, tensorboard=tensorboard, resume=resume, overwrite=overwrite,
        source="" if isinstance(data, Dataset) else str(data), progress=progress,
    )  # fmt: skip


def evaluate(
    model: Model | str | Path,
    data: Dataset | Trajectory | str | Path,
    *,
    reversible: bool = False,
    hints: Hints = _NO_HINTS,
) -> Errors | PotentialErrors:
    """Mean absolute errors of a model, on the test set of a dataset or on a whole trajectory.

    Those of a propagator are of one step at its Δt, those of a family of one at each Δt that it was trained for (or
    give ``model.at(…)``); those of a potential are of energies, forces and stresses.

    Args:
        data: a dataset, or an NVE trajectory, or the file of either.
        reversible: of the time-symmetrised step.
        hints: what the file of a trajectory leaves unstated.

    Raises:
        ValueError: data of other elements or masses, or whose frames are not the model's Δt apart.
    """
    used = model if isinstance(model, Model) else model_files.load(model)
    if isinstance(data, str | Path) and Path(data).is_file() and not dataset_file.recognises(data):
        data = trajectory.read(data, hints=hints, check=True)
    if isinstance(data, Trajectory) and used.kind != "potential":
        used = models.at(used, None)
        formed = (datasets.pairs_of(data, used.config.time_step_fs),)
    elif isinstance(data, Trajectory):
        formed = labelled.form(datasets.all_of(data), used.config.elements, used.config.atomic_energies_eV)
    else:
        held = data if isinstance(data, Dataset) else dataset_file.read(data)
        formed = tasks.of(used.config).form(held, None, used.config)
    return tasks.evaluate(used.config, used.params, formed, reversible=reversible)


def reference(
    system: str,
    out: str | Path,
    *,
    ensemble: Ensemble = NVE(),
    temperature_K: float = 300.0,
    length_ps: float = 20.0,
    frame_fs: float = 10.0,
    runs: int = 1,
    start: Any = None,
    calculator: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,
) -> list[Path]:
    """Makes reference trajectories, to train on and to compare with; as ``ffmd reference``, whose help says more.

    Args:
        system: a prepared system (quartz, water, paracetamol, silicon, argon), or "ase".
        out: H5MD file; of several runs, ``out_0.h5``, ``out_1.h5``, ….
        ensemble: NVE(), or NVT(…) or, of prepared systems, NPT(…) with CSVR; its barostat acts every 25 fs.
        temperature_K: of the start states of NVE runs, K.
        length_ps: of each run, ps.
        frame_fs: interval of the stored frames, fs.
        runs: independent runs.
        start: for "ase": structure to start from, ``ase.Atoms`` or a file.
        calculator: for "ase": a function without arguments that makes an ASE calculator, so that every run has its own;
            or its name, such as "gfn2-xtb" or "module:Class".
        resume: keep finished files of this set and continue.
        overwrite: replace existing files.
        progress: show bars.
        options: further settings of `reference_md.settings.Settings`, for example ``seed=1`` or ``repeat=(2, 2, 2)``.

    Returns:
        the files.
    """
    from ffmd_jax.reference_md import ase_engine

    ensembles.check(ensemble)
    kelvin = ensemble.temperature_K if isinstance(ensemble, NVT) else temperature_K
    bath = {}
    if isinstance(ensemble, NVT):
        if ensemble.thermostat != "csvr" or ensemble.end_K is not None:
            raise ValueError("reference runs have CSVR at one temperature")
        bath = {"ensemble": ensembles.name(ensemble), "friction_tau_fs": ensemble.friction_tau_fs,
                "friction_above_per_cm": ensemble.friction_above_per_cm}  # fmt: skip
        if isinstance(ensemble, NPT):
            bath |= {"pressure_bar": ensemble.pressure_bar, "coupling": ensemble.coupling}
        bath |= {} if ensemble.tau_fs is None else {"tau_fs": ensemble.tau_fs}
    engine, named = None, {}
    if system == "ase" and (callable(calculator) or hasattr(start, "get_positions")):
        make = calculator if callable(calculator) else ase_engine.make_calculator(str(calculator), {})
        atoms = start.copy() if hasattr(start, "get_positions") else ase_engine.read_atoms(Path(start))
        name = getattr(calculator, "__name__", str(calculator))
        engine = ase_engine.engine(name, atoms, make, options.get("dt"), options.get("forces", False))
        named = {"calculator": name}
    elif system == "ase":
        named = {"calculator": calculator, "start": None if start is None else Path(start)}
    settings = Settings(
        temperature=kelvin, length_ps=length_ps, frame_fs=frame_fs, runs=runs, **bath, **named, **options
    )
    return sets.produce(
        system, Path(out), settings, resume=resume, overwrite=overwrite, engine=engine, progress=progress
    )
