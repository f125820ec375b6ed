"""When does force-free MD pay?  Model and teacher in turn on one core, and how many ns one must want.

    taskset -c 0 python benchmarks/break_even.py
    taskset -c 0 python benchmarks/break_even.py --systems quartz silicon --seconds 10

For each shipped model: ns/day of its teacher at the time step that its users take, of the model, plain and reversible;
the core-hours of teacher (at this speed, for the lengths that the experiment made) and training (as the experiment has
noted them); and the length from which on training pays: both costs over what a nanosecond saves.  One JSON line each,
and a Markdown table.  A teacher that is not installed is left out.
"""

import argparse
import datetime
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import jax
import numpy as np

import ffmd_jax as ffmd
from ffmd_jax.core import units
from ffmd_jax.core.state import State, System
from ffmd_jax.formats import ase_files
from ffmd_jax.models import model_files
from ffmd_jax.reference_md import ase_engine, production, systems, teachers

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
ROUNDS, KELVIN, FRICTION_TAU_FS = 3, 300.0, 1000.0


class Case(NamedTuple):
    """A shipped model and its teacher.

    Attributes:
        model: name.
        atoms: what is run, in words.
        teacher: of `teachers.TEACHERS`, or None: the force field of the prepared system.
        structure: prepared system, or None: start.xyz beside the model.
        data_ps: of the teacher, that the training has seen and was judged by, all runs together.
        training_hours: core-hours, from the model's card, if results.json does not hold them.
        kelvin: of the run.
        step_fs: of a teacher that is not a force field.
    """

    model: str
    atoms: str
    teacher: str | None
    structure: str | None
    data_ps: float
    training_hours: float | None = None
    kelvin: float = KELVIN
    step_fs: float = 0.5


CASES = {
    "quartz": Case("quartz", "quartz, 162 atoms", None, "quartz", 3 * 100 + 9 * 8),
    "silicon": Case("silicon", "silicon, 216 atoms", None, "silicon", 3 * 60 + 5 * 8),
    "water": Case("water", "water, 192 atoms", None, "water", 5 * 100),
    "paracetamol": Case("paracetamol", "paracetamol", None, "paracetamol", 16 * 100),
    "malonaldehyde": Case("malonaldehyde", "malonaldehyde", "gfn2-xtb", None, 500 * 0.3),
    "organic": Case("organic", "paracetamol", "gfn2-xtb", "paracetamol", 507 * 1.3, 2.0),
    "paracetamol-ccx": Case("paracetamol-ccx", "paracetamol", "ani-1ccx", "paracetamol", 64 * 2.25),
    "copper-iodide": Case(
        "copper-iodide", "CuI, 64 atoms", "chgnet", None, 2 * 5 * 12 + 19, kelvin=600.0, step_fs=10.0
    ),
    # Data: 3.12 ps of 72 atoms and 1.4 of 162, with the equilibration, as picoseconds of 162.
    "quartz-sevennet": Case(
        "quartz-sevennet", "quartz, 162 atoms", "sevennet-0", None, 3.3 * 72 / 162 + 1.4, step_fs=2.0
    ),
}


def start_of(case: Case) -> tuple[System, State]:
    """Relaxed."""
    if case.structure is None:
        return ase_files.from_atoms(ase_engine.read_atoms(model_files.locate(case.model) / "start.xyz"))
    prepared = systems.get(case.structure)
    return prepared.system, prepared.state


def force_free(case: Case, seconds: float) -> dict[str, Any]:
    """Functions that measure ns/day, plain and reversible, after what compiles."""
    model = ffmd.load(case.model)
    step_fs, bath = model.config.time_step_fs, ffmd.NVT(case.kelvin, 100.0, friction_tau_fs=FRICTION_TAU_FS)
    warm: dict[str, Any] = {"ensemble": bath, "on_alarm": "warn", "progress": False}
    start = ffmd.simulate(model, start_of(case), steps=1000, **warm)

    def measured(reversible: bool):
        def run(n_steps: int) -> float:
            began = time.perf_counter()
            ffmd.simulate(
                model, start, steps=n_steps, every=10, ensemble=bath, reversible=reversible, on_alarm="warn",
                progress=False,
            )  # fmt: skip
            return time.perf_counter() - began

        run(200)
        n_steps = max(200, round(200 * seconds / run(200) / 10) * 10)
        return lambda: units.ns_per_day(n_steps * step_fs, run(n_steps))

    return {"plain": measured(False), "reversible": measured(True)}


def teacher(case: Case, seconds: float) -> Any:
    """A function that measures ns/day of the teacher's MD."""
    if case.teacher is None:
        assert case.structure is not None
        prepared = systems.get(case.structure)

        def run(n_steps: int) -> float:
            began = time.perf_counter()
            with jax.enable_x64(True):
                blocks = production.run(prepared, prepared.state, n_steps=n_steps, every=20, key=jax.random.key(0))
                for block in blocks:
                    jax.block_until_ready(block.frames)
            return time.perf_counter() - began

        run(200)
        n_steps = max(200, round(200 * seconds / run(200) / 20) * 20)
        return lambda: units.ns_per_day(n_steps * prepared.dt, run(n_steps))
    from ase import units as ase_units
    from ase.md.verlet import VelocityVerlet

    atoms = ase_files.to_atoms(*start_of(case))
    atoms.calc = teachers.make(case.teacher)
    atoms.rattle(0.02, seed=0)
    dynamics = VelocityVerlet(atoms, case.step_fs * ase_units.fs)
    dynamics.run(3)
    began = time.perf_counter()
    dynamics.run(5)
    n_steps = max(5, round(5 * seconds / (time.perf_counter() - began)))

    def measure() -> float:
        began = time.perf_counter()
        dynamics.run(n_steps)
        return units.ns_per_day(n_steps * case.step_fs, time.perf_counter() - began)

    return measure


def measure(case: Case, seconds: float) -> dict[str, Any]:
    """One line."""
    measures = {**force_free(case, seconds), "teacher": teacher(case, seconds)}
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(ROUNDS):
        for name, run in measures.items():
            found[name].append(run())
    rates = {name: float(np.median(values)) for name, values in found.items()}
    facts = facts_of(case)
    hours = facts["teacher_ps"] / 1000 / rates["teacher"] * 24
    training = facts["training_core_hours"]
    saved = {name: 24 / rates["teacher"] - 24 / rates[name] for name in ("plain", "reversible")}
    return {
        "model": case.model, "what": case.atoms, "teacher": case.teacher or "force field",
        "ns_per_day": {name: round(rate, 2) for name, rate in rates.items()},
        "times_faster": {name: round(rates[name] / rates["teacher"], 2) for name in saved},
        "teacher_core_hours": round(hours, 2), "training_core_hours": training,
        "pays_from_ns": {name: float(f"{(hours + training) / x:.2g}") if x > 0 else None for name, x in saved.items()},
        "device": jax.devices()[0].device_kind, "date": f"{datetime.date.today()}",
    }  # fmt: skip


def facts_of(case: Case) -> dict[str, Any]:
    """What the data and the training of a shipped model took, from its experiment where that has noted it."""
    known = json.loads((EXPERIMENTS / case.model.replace("-", "_") / "results.json").read_text())
    if "training" in known:
        hours = known["training"]["hours"] * known["training"]["cores"]
    elif "train" in known:
        hours = known["train"]["core_minutes"] / 60
    else:
        hours = case.training_hours
    assert hours is not None
    return {"teacher_ps": case.data_ps, "training_core_hours": round(hours, 2)}


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown."""
    rows = [
        "| model, teacher | teacher, ns/day | plain, ns/day | reversible, ns/day | times faster | "
        "teacher + training, core-hours | pays from, ns (plain) |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        rates, pays = line["ns_per_day"], line["pays_from_ns"]["plain"]
        rows.append(
            f"| {line['model']} ({line['what']}), {line['teacher']} | {rates['teacher']:g} | {rates['plain']:g} | "
            f"{rates['reversible']:g} | {line['times_faster']['plain']:g} / {line['times_faster']['reversible']:g} | "
            f"{line['teacher_core_hours']:g} + {line['training_core_hours']:g} | {'never' if pays is None else pays} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement (default: %(default)s)")
    given = parser.parse_args()
    lines = []
    for name in given.systems:
        try:
            lines.append(measure(CASES[name], given.seconds))
        except ValueError as error:
            print(f"# {name}: {error}", flush=True)
            continue
        print(json.dumps(lines[-1]), flush=True)
    print(table(lines))


if __name__ == "__main__":
    main()
