"""Where in the spectrum a roll-out is too hot or too cold: its kinetic energy over the reference's, by frequency.

    python experiments/paracetamol/run.py    # also quartz, water
    python experiments/modes.py experiments/paracetamol/runs/friction.h5 experiments/paracetamol/data/nvt.h5 --band 50

Both need every frame.  Vibrations faster than half the frame rate are folded back, in both runs alike.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from ffmd_jax.analysis import spectra, temperatures
from ffmd_jax.formats import trajectory


def spectrum(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Wave numbers, cm⁻¹, and kinetic energy per wave number, in units of that of one degree of freedom at 1 K."""
    run = trajectory.read(path)
    found = spectra.vdos(run)
    return found.wavenumber_per_cm, found.density * temperatures.temperatures(run).mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="trajectory of `ffmd rollout`")
    parser.add_argument("reference", type=Path, help="trajectory of `ffmd reference`, with the same frame interval")
    parser.add_argument("--band", type=float, default=100.0, metavar="PER_CM", help="width of a band, cm⁻¹")
    options = parser.parse_args()
    (wavenumbers, own), (others, reference) = spectrum(options.run), spectrum(options.reference)
    if own.shape != reference.shape or not np.allclose(wavenumbers, others):
        sys.exit(f"the frame intervals of {options.run} and {options.reference} are not the same")
    print("| cm⁻¹ | share of the reference's kinetic energy | force-free / reference |\n|---|---|---|")
    for low in np.arange(0.0, wavenumbers[-1], options.band):
        band = (wavenumbers >= low) & (wavenumbers < low + options.band)
        share, ratio = reference[band].sum() / reference.sum(), own[band].sum() / reference[band].sum()
        print(f"| {low:.0f}–{low + options.band:.0f} | {share:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
