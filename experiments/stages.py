"""What experiments made of stages share: folder, command line, errors of a step, temperatures of elements."""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ase.data import chemical_symbols

import ffmd_jax as ffmd
from ffmd_jax.core import files, mechanics, units
from ffmd_jax.core.state import State, System
from ffmd_jax.data import dataset_file
from ffmd_jax.data.dataset_file import Group
from ffmd_jax.models.model import Model
from ffmd_jax.training import training_log


class Folder:
    """An experiment's folder with data/ and runs/.

    Args:
        folder: made, if it is not there.
        smoke: sizes are the smallest.
    """

    def __init__(self, folder: Path, smoke: bool):
        self.folder, self.smoke = folder, smoke
        self.data_folder, self.runs = folder / "data", folder / "runs"
        for path in (self.data_folder, self.runs):
            path.mkdir(parents=True, exist_ok=True)


def main(text: str | None, make: Callable[[Path, bool], Any], names: Sequence[str], here: Path) -> None:
    """Runs the stages that the command line names, and notes what they return in results.json.

    Args:
        text: of the help.
        make: of a folder, and whether sizes are the smallest; the stages are its methods.
        names: of all stages, in order.
        here: the folder, unless the command line says another.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--out", type=Path, default=here, help="holds data/, runs/ and results.json (default: here)")
    parser.add_argument("--smoke", type=Path, metavar="DIR", help="run the smallest sizes, in DIR")
    given = parser.parse_args()
    if unknown := set(given.stages) - set(names):
        parser.error(f"unknown stage {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    folder = given.smoke or given.out
    run, path = make(folder, given.smoke is not None), folder / "results.json"
    for stage in given.stages or names:
        found = getattr(run, stage)()
        if found is not None:
            known = json.loads(path.read_text()) if path.exists() else {}
            files.write_atomically(path, (json.dumps({**known, stage: found}, indent=1) + "\n").encode())
            print(json.dumps({stage: found}, indent=1))


def core_minutes(training: Path) -> float:
    """What the steps of a training took, at their median speed."""
    lines = training_log.read(training / training_log.METRICS)
    speeds = [line["configurations_per_s"] for line in lines if line["configurations_per_s"]]
    batch_size = json.loads((training / "training.json").read_text())["batch_size"]
    return lines[-1]["step"] * batch_size / float(np.median(speeds)) / 60


def errors(model: Model, path: Path) -> dict[str, dict[str, float]]:
    """Errors of one step on the test runs of a dataset of one group, %, of all and of each source of them."""
    data = dataset_file.read(path)
    (group,) = data.groups
    found = {}
    for name in ("all", *dict.fromkeys(run.source for run in group.runs if run.split == "test")):
        runs = tuple(run for run in group.runs if name in ("all", run.source))
        of = ffmd.evaluate(model, dataclasses.replace(data, groups=(Group(group.system, runs),)))
        found[name] = {
            "displacements_percent": round(float(of.displacement_percent), 3),
            "velocities_percent": round(float(of.velocity_percent), 3),
        }
    return found


def temperatures(system: System, runs: Sequence[State], elements: tuple[int, ...]) -> dict[str, list[float]]:
    """Mean temperature of each element, K, and its error; states of runs, ``[n_frames, n_atoms, 3]`` each."""
    kelvin = jax.jit(jax.vmap(lambda r, v: mechanics.temperature_by_species(system, State(r, v, np.eye(3)), elements)))
    means = np.stack([np.asarray(kelvin(one.positions, one.velocities)).mean(axis=0) for one in runs])
    error = means.std(axis=0, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.full(len(elements), np.nan)
    both = zip(elements, means.mean(axis=0), error, strict=True)
    return {chemical_symbols[z]: [round(float(mean), 1), round(float(off), 1)] for z, mean, off in both}


def speeds(each: Mapping[str, tuple[Callable[[], object], float]], turns: int = 3) -> dict[str, np.ndarray]:
    """ns/day of some dynamics, run in turn, so that other work on the machine slows all of them alike.

    Args:
        each: what to run, and how much time, fs, it simulates.
        turns: besides the first one, which compiles and is left out.

    Returns:
        ``[turns]`` of each.
    """
    found: dict[str, list[float]] = {name: [] for name in each}
    for turn in range(turns + 1):
        for name, (run, simulated_fs) in each.items():
            began = time.perf_counter()
            run()
            if turn:
                found[name].append(units.ns_per_day(simulated_fs, time.perf_counter() - began))
    return {name: np.array(values) for name, values in found.items()}
