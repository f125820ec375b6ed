"""Is a training the same on one device, on eight, and in two processes of two?  Prints one JSON line a layout.

    python benchmarks/train_layouts.py DATA --epochs 1    # options after DATA go to `ffmd train`

Runs README's line, `ffmd train DATA --out … --batch-size 64 --config.cutoff 4.5`, in each layout.  The devices are
virtual: they share the CPU, and times say nothing.  ``largest_difference`` is that of the weights from those of one
device, relative to the RMS of each array: rounding, which training amplifies with every step.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from ffmd_jax.models import model_files

LINE = ["--batch-size", "64", "--config.cutoff", "4.5"]
LAYOUTS = {"1 device": (1, 1), "8 devices": (1, 8), "2 processes of 2 devices": (2, 2)}  # processes, devices of each


def train(data: str, out: Path, n_processes: int, n_devices: int, options: list[str]) -> None:
    """One training; raises CalledProcessError if it fails."""
    flags = (
        f"--xla_force_host_platform_device_count={n_devices} --xla_cpu_collective_call_terminate_timeout_seconds=120"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = ["timeout", "-k", "5", "1200", sys.executable, "-m", "ffmd_jax", "train", data, "--out", str(out)]
    command += [*LINE, *options]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    joined = ["--coordinator", coordinator, "--num-processes", str(n_processes), "--process-id"]
    several = [[*joined, str(i)] for i in range(n_processes)] if n_processes > 1 else [[]]
    running = [subprocess.Popen([*command, *place], env=environment, stdout=subprocess.DEVNULL) for place in several]
    for code in [process.wait() for process in running]:  # of all, so that none is left behind
        if code:
            raise subprocess.CalledProcessError(code, command)


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    first = None
    with tempfile.TemporaryDirectory() as folder:
        for name, layout in LAYOUTS.items():
            out = Path(folder) / name.replace(" ", "_")
            train(sys.argv[1], out, *layout, sys.argv[2:])
            weights = jax.tree.leaves(model_files.load(out).params)
            first = weights if first is None else first
            differences = [
                np.max(np.abs(a - b)) / np.sqrt(np.mean(np.square(b))) for a, b in zip(weights, first, strict=True)
            ]
            last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
            facts = {"layout": name, "steps": last["step"], "loss": last["loss"]}
            print(json.dumps({**facts, "largest_difference": float(max(differences))}), flush=True)


if __name__ == "__main__":
    main()
