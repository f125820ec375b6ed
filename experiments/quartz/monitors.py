"""What the monitors say about the shipped quartz model: healthy runs of 120 ps, and runs that must not be trusted.

    python experiments/quartz/run.py reference
    python experiments/quartz/monitors.py

Ten minutes on one core.  Prints a table; the runs are kept in runs/monitors/.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from ffmd_jax.analysis import drifts, temperatures
from ffmd_jax.formats import trajectory
from ffmd_jax.models import model_files, trajcast

HERE = Path(__file__).parent
START, RUNS = HERE / "data" / "nve_4.h5", HERE / "runs" / "monitors"
PERTURBED = [(("readout", "1o"), 10), (("initial", "0e"), 10), (("readout", "1o"), 1.03), (("initial", "0e"), 1.03)]
NVT, NVE = ("--temperature", "300", "--tau-fs", "3000"), ("--ensemble", "nve")


def damaged_models() -> None:
    """An untrained model, and the shipped one with its largest weight of a layer changed by a factor."""
    quartz = model_files.load("quartz")
    untrained = trajcast.init(jax.random.key(0), quartz.config)
    model_files.save(RUNS / "untrained", dataclasses.replace(quartz, params=untrained))
    for (layer, irrep), factor in PERTURBED:
        weights = np.array(quartz.params[layer][irrep])
        weights[np.unravel_index(np.argmax(abs(weights)), weights.shape)] *= factor
        changed = quartz.params | {layer: quartz.params[layer] | {irrep: weights}}
        model_files.save(RUNS / f"{layer}_{factor}", dataclasses.replace(quartz, params=changed))


def rollout(name: str, model_name: str, steps: int, *options: str) -> None:
    """One run and its row of the table."""
    out = RUNS / f"{name.replace(' ', '_').replace(',', '')}.h5"
    command = [sys.executable, "-m", "ffmd_jax", "rollout", model_name, "--start", str(START), "--out", str(out)]
    command += ["--steps", str(steps), "--overwrite", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    print(f"| {name} | {done.returncode} | {said[-1].split('ffmd: ')[-1].replace(str(out), out.name)} |", flush=True)
    if out.exists() and done.returncode == 0:
        describe(out)


def describe(out: Path) -> None:
    """Temperatures with block errors, and the kinetic energy of the last tenth over that of the first."""
    run = trajectory.read(out)
    found = temperatures.temperatures(run)
    tenth = len(found.total) // 10
    ratio = found.total[-tenth:].mean() / found.total[:tenth].mean()
    species = ", ".join(
        f"{symbol} {found.mean_by_species[symbol]:.1f} ± {found.error_by_species[symbol]:.1f} K"
        for symbol in found.by_species
    )
    trips = run.observables["round_trip_error"]
    print(f"|  |  | T {found.mean:.1f} ± {found.error:.1f} K, {species}; last tenth/first tenth {ratio:.3f}; "
          f"momentum drift {drifts.momentum_drift(run):.1e}; round trip {np.mean(trips):.4f}, at most "
          f"{np.max(trips):.4f}; {[alarm['text'] for alarm in run.metadata['alarms']]} |", flush=True)  # fmt: skip


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    RUNS.mkdir(parents=True, exist_ok=True)
    damaged_models()
    print("| run | exit code | what it says |\n|---|---|---|")
    for ensemble, options in (("NVT", NVT), ("NVE", NVE)):
        rollout(f"untrained, {ensemble}", str(RUNS / "untrained"), 1000, *options)
        for (layer, _), factor in PERTURBED:
            rollout(f"{layer} weight × {factor}, {ensemble}", str(RUNS / f"{layer}_{factor}"), 1000, *options)
    hot = ("--draw-velocities", "--temperature", "900")
    rollout("start at 900 K, NVE", "quartz", 1000, *hot, *NVE)
    rollout("start at 900 K, NVT", "quartz", 1000, *hot, "--tau-fs", "3000")
    rollout("healthy, NVT 300 K, tau 100 Δt", "quartz", 4000, "--every", "10", *NVT)
    rollout("healthy, NVE", "quartz", 4000, "--every", "10", "--on-alarm", "warn", *NVE)


if __name__ == "__main__":
    main()
