"""Calibrates the monitors of a quartz model on NVE runs that it was not trained on, and stores that in its config.json.

    ffmd reference quartz --runs 3 --length-ps 6 --frame-fs 10 --seed 20 --out experiments/quartz/data/held.h5
    python experiments/quartz/calibrate.py ffmd_jax/pretrained/quartz experiments/quartz/data/held_?.h5

Models trained by `ffmd train` are calibrated at its end; the shipped one is older.  One minute on one core.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np

from ffmd_jax import checkpoint, dataset, monitors, trajectory


def main(folder: Path, files: list[Path]) -> None:
    config, params = checkpoint.load_model(folder)
    runs = [trajectory.read(file) for file in files]
    parts = [dataset.pairs(run, config.time_step_fs, 2 * config.time_step_fs) for run in runs]
    pairs = jax.tree.map(lambda *values: np.concatenate(values), *parts)
    config = monitors.calibrate(config, params, pairs, runs[0].system)
    checkpoint.save_model(folder, config, params)
    print(dataclasses.asdict(config)["calibration"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
