"""How fast is reference MD on one core, beside other engines?  NVE from one start; one JSON line a system and engine.

    python benchmarks/reference_speed.py --systems paracetamol quartz

All engines run on the same single core, in the same run; compilation and set-up are not in the time.  `note` says the
precision and where the force fields differ, ``force_difference_eV_per_A`` how much: the largest difference of a force
component on the start structure from that of ffmd_jax.  Other engines are used where they are installed
(``pip install -e ".[baselines]"``).
"""

import argparse
import datetime
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

# Before jax and the other engines are imported.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
os.environ["OMP_NUM_THREADS"] = os.environ["OPENMM_CPU_THREADS"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import jax
import numpy as np
from reference_engines import Engine, jax_md, lammps, openmm

from ffmd_jax.core import units
from ffmd_jax.core.state import State
from ffmd_jax.reference_md import production, systems

TEMPERATURE = {"argon": 60.0}  # K; others 300


def own(reference: systems.Reference, start: State) -> Engine:
    """The whole loop of `production.run`: neighbour updates and a frame with energies every 20 steps."""
    _, forces = production.energy_and_forces(reference, start)

    def run(n_steps: int) -> float:
        n_blocks = -(-n_steps // 200) + 1
        ends = [
            time.perf_counter()
            for _ in production.run(reference, start, n_steps=200 * n_blocks, every=20, key=jax.random.key(0))
        ]
        return (ends[-1] - ends[0]) / (200 * (n_blocks - 1))  # the first block compiles

    return Engine(np.asarray(forces), run, "float64")


ENGINES = {"ffmd_jax": own, "jax-md": jax_md, "lammps": lammps, "openmm": openmm}


def prepare(name: str) -> tuple[systems.Reference, State]:
    """The system and a start at its temperature, after 1 ps of Langevin dynamics."""
    reference = systems.get(name)
    blocks = production.equilibrate(reference, TEMPERATURE.get(name, 300.0), jax.random.key(1), length_ps=1.0)
    return reference, list(blocks)[-1].carry.state


def measure(reference: systems.Reference, engine: Engine, ours: np.ndarray, length_ps: float) -> dict[str, Any]:
    """Numbers of one engine; `ours` are the forces of this package."""
    seconds = engine.run(max(1, round(length_ps * units.PS / reference.dt)))
    return {
        "n_atoms": len(reference.system.species),
        "dt_fs": reference.dt,
        "ms_per_step": round(1e3 * seconds, 5),
        "seconds_per_100_ps": round(seconds * 100 * units.PS / reference.dt, 2),
        "ns_per_day": round(units.ns_per_day(reference.dt, seconds), 2),
        "measured_ps": length_ps,
        "largest_force_eV_per_A": float(np.abs(ours).max().round(4)),
        "force_difference_eV_per_A": float(f"{np.abs(engine.forces - ours).max():.2g}"),
        "note": f"{engine.note}; 100 ps extrapolated from {length_ps:g} ps",
    }


def processor() -> str:
    """Name of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "cpu"
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=systems.SYSTEMS, default=list(systems.SYSTEMS), metavar="NAME",
                        help="prepared systems, of %(choices)s (default: all)")  # fmt: skip
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="NAME",
                        help="engines, of %(choices)s (default: all that are installed)")  # fmt: skip
    parser.add_argument("--length-ps", type=float, default=4.0, help="length of each timed run, ps (default: 4)")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    machine = {"threads": 1, "device": processor(), "date": str(datetime.date.today())}
    for name in options.systems:
        reference, start = prepare(name)
        ours = own(reference, start).forces
        for engine_name in options.engines:
            try:
                engine = ENGINES[engine_name](reference, start)
            except (ImportError, OSError) as missing:
                print(f"{engine_name} cannot be loaded: {missing}", file=sys.stderr)
                continue
            if engine is None:
                print(f"{name} does not run in {engine_name}", file=sys.stderr)
                continue
            numbers = measure(reference, engine, ours, options.length_ps)
            print(json.dumps({"system": name, "engine": engine_name, **numbers, **machine}), flush=True)


if __name__ == "__main__":
    main()
