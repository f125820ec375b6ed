"""Where in the spectrum a roll-out is too hot or too cold: its kinetic energy over the reference's, by frequency.

python experiments/paracetamol/run.py reference train rollout
python experiments/paracetamol/modes.py
"""

from pathlib import Path

import numpy as np

from ffmd_jax import trajectory, units

HERE = Path(__file__).parent
BAND = 100.0  # cm⁻¹
N_WINDOW = 1024  # frames


def spectrum(run: trajectory.Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies, cm⁻¹, and the power of √m v summed over atoms; Hann windows."""
    weighted = np.asarray(run.frames.velocities) * np.sqrt(np.asarray(run.system.masses))[:, None]
    windows = weighted[: len(weighted) // N_WINDOW * N_WINDOW].reshape(-1, N_WINDOW, *weighted.shape[1:])
    waves = np.fft.rfft(windows * np.hanning(N_WINDOW)[:, None, None], axis=1)
    frequencies = np.fft.rfftfreq(N_WINDOW, trajectory.frame_interval(run.times))
    return 1000 * frequencies * units.TERAHERTZ_IN_PER_CM, np.sum(np.abs(waves) ** 2, axis=(0, 2, 3)) / len(windows)


def main() -> None:
    frequencies, own = spectrum(trajectory.read(HERE / "runs" / "spectrum.h5"))
    reference = spectrum(trajectory.read(HERE / "data" / "nvt.h5"))[1]
    print("| cm⁻¹ | share of the reference's kinetic energy | force-free / reference |\n|---|---|---|")
    for low in np.arange(0.0, frequencies[-1], BAND):
        band = (frequencies >= low) & (frequencies < low + BAND)
        share, ratio = reference[band].sum() / reference.sum(), own[band].sum() / reference[band].sum()
        print(f"| {low:.0f}–{low + BAND:.0f} | {share:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
