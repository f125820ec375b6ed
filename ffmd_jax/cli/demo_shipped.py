"""``ffmd demo``: a shipped model beside the spectrum and g(r) of its teacher, which is too slow to run in a demo."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from ffmd_jax.cli import common
from ffmd_jax.core import units

CURVES = "reference.json"  # in the folder of the model
_WARM_PS = 6.0  # a relaxed structure has half of its energy only
_N_FORCES = 3


def run(out: Path, system: str, teacher: str, ensemble: Any, seed: int, length_ps: float) -> None:
    """The model from its relaxed structure, a report, and a table beside the curves that were shipped."""
    import ffmd_jax as ffmd
    from ffmd_jax.models import model_files
    from ffmd_jax.reference_md import ase_engine

    model, folder = ffmd.load(system), model_files.locate(system)
    step_fs, atoms = model.config.time_step_fs, ase_engine.read_atoms(folder / "start.xyz")
    theirs = json.loads((folder / CURVES).read_text())
    n_steps = round(length_ps * units.PS / step_fs)
    if length_ps < 2 * theirs["segment_ps"]:
        raise ValueError(f"--length-ps must be at least {2 * theirs['segment_ps']:g} ps")
    out.mkdir(exist_ok=True)
    how: dict[str, Any] = {"ensemble": ensemble, "seed": seed, "on_alarm": "warn"}
    start = ffmd.simulate(model, atoms, steps=round(_WARM_PS * units.PS / step_fs), progress=False, **how)
    begun = time.perf_counter()
    found = ffmd.simulate(model, start, steps=n_steps, out=out / "force_free.h5", overwrite=True, **how)
    speed = units.ns_per_day(n_steps * step_fs, time.perf_counter() - begun)
    report = ffmd.analyze(found, title=f"Force-free MD of {system}")
    common.say(f"\n{report.text(common.width())}\n\nreport: {report.save(out)}")
    _print_table(found.trajectory, theirs, speed, *_speed_of(teacher, atoms, theirs["step_fs"]))


def _speed_of(teacher: str, atoms: Any, step_fs: float) -> tuple[float | None, str]:
    """ns/day of the teacher, or why it is not known."""
    from ffmd_jax.reference_md import teachers

    try:
        moving = atoms.copy()
        moving.calc = teachers.make(teacher)
        moving.get_forces()  # what is made at the first call
        begun = time.perf_counter()
        for i in range(_N_FORCES):
            moving.rattle(0.01, seed=i)
            moving.get_forces()
    except ValueError as error:
        return None, f"note: the teacher's speed is not measured: {error}"
    return units.ns_per_day(_N_FORCES * step_fs, time.perf_counter() - begun), ""


def _print_table(run: Any, theirs: dict[str, Any], speed: float, their_speed: float | None, note: str) -> None:
    """Temperatures, agreement with the teacher's curves beside that of their halves, and speeds."""
    from ase.data import atomic_numbers

    from ffmd_jax.analysis import distributions, spectra, temperatures
    from ffmd_jax.analysis.distributions import RadialDistribution
    from ffmd_jax.analysis.spectra import VDOS

    vdos = VDOS(np.array(theirs["wavenumber_per_cm"]), np.array(theirs["vdos"]))
    overlap = spectra.vdos_overlap(spectra.vdos(run, None, theirs["segment_ps"]), vdos)
    differences = []
    for name, g in theirs["rdf"].items():
        first, second = (atomic_numbers[symbol] for symbol in name.split("-"))
        shipped = RadialDistribution(np.array(theirs["r_A"]), np.array(g))
        differences.append(distributions.rdf_rmse(distributions.radial_distribution(run, (first, second)), shipped))
    kelvins, halves = temperatures.temperatures(run), theirs["halves"]
    by_element = theirs["temperature_by_element_K"]
    rows: list[tuple[str, float, float | None]] = [
        (f"temperature of {symbol} / K", kelvin, by_element[symbol][0])
        for symbol, kelvin in kelvins.mean_by_species.items()
    ]
    rows += [("VDOS overlap with it, its halves'", overlap, halves["vdos_overlap"])]
    rows += [("g(r) RMSE from it, of its halves", float(np.mean(differences)), halves["rdf_rmse"])]
    rows += [("speed / ns/day", speed, their_speed)]
    print(f"\n{'':36}{'force-free':>12}{theirs['teacher']:>14}")
    for name, ours, other in rows:
        print(f"{name:36}{ours:>12.4g}" + (f"{'–':>14}" if other is None else f"{other:>14.4g}"))
    print(f"{theirs['teacher']}: {theirs['what']}, shipped with the model." + (f"\n{note}" if note else ""))
