"""Where in the spectrum a roll-out is too hot or too cold: its kinetic energy over the reference's, by frequency.

    python experiments/paracetamol/run.py    # also quartz
    python experiments/modes.py paracetamol --band 100
    python experiments/modes.py quartz --band 25

Vibrations faster than half the frame rate are folded back, in both runs alike.
"""

import argparse
from pathlib import Path

import numpy as np

from ffmd_jax import analysis, distributions, trajectory

HERE = Path(__file__).resolve().parent


def spectrum(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Wave numbers, cm⁻¹, and kinetic energy per wave number, in units of that of one degree of freedom at 1 K."""
    run = trajectory.read(path)
    found = distributions.vdos(run)
    return found.wavenumber_per_cm, found.density * analysis.temperatures(run).mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=["paracetamol", "quartz", "water"])
    parser.add_argument("--band", type=float, default=100.0, metavar="PER_CM", help="width of a band, cm⁻¹")
    options = parser.parse_args()
    wavenumbers, own = spectrum(HERE / options.system / "runs" / "spectrum.h5")
    reference = spectrum(HERE / options.system / "data" / "nvt.h5")[1]
    print("| cm⁻¹ | share of the reference's kinetic energy | force-free / reference |\n|---|---|---|")
    for low in np.arange(0.0, wavenumbers[-1], options.band):
        band = (wavenumbers >= low) & (wavenumbers < low + options.band)
        share, ratio = reference[band].sum() / reference.sum(), own[band].sum() / reference[band].sum()
        print(f"| {low:.0f}–{low + options.band:.0f} | {share:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
