"""Seconds that commands take with everything cached, as one JSON line: wall time and CPU time, the least of the tries.

    python benchmarks/startup.py --tries 3

``rollout`` makes ten steps of quartz (162 atoms) from a drawn state: nearly all of it is imports and tracing.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from ffmd_jax.core import mechanics
from ffmd_jax.formats import trajectory
from ffmd_jax.reference_md import systems

COMMANDS = {
    "help": ["--help"],
    "info": ["info", "quartz"],
    "rollout": ["rollout", "quartz", "--start", "start.h5", "--steps", "10", "--out", "run.h5", "--overwrite"],
}


def write_start(path: Path) -> None:
    """Quartz at 300 K on its lattice sites."""
    reference = systems.quartz()
    drawn = mechanics.maxwell_boltzmann(jax.random.key(0), reference.system, reference.state, 300)
    frames = jax.tree.map(lambda values: np.asarray(values)[None], drawn)
    trajectory.write(path, trajectory.Trajectory(reference.system, frames, np.zeros(1), {}, {}))


def seconds(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Wall and CPU time of a command."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "ffmd_jax", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=3)
    tries = parser.parse_args().tries
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_start(folder / "start.h5")
        for what, arguments in COMMANDS.items():
            seconds(arguments, folder)  # fills the caches
            walls, cpus = zip(*(seconds(arguments, folder) for _ in range(tries)), strict=True)
            found |= {f"{what}_wall_s": round(min(walls), 2), f"{what}_cpu_s": round(min(cpus), 2)}
    print(json.dumps({**found, "load_average": round(os.getloadavg()[0], 1)}))


if __name__ == "__main__":
    main()
