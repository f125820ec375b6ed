"""Steps longer than those of the shipped models: paracetamol at 10 fs, quartz at 50 fs, water at 10 fs.

    python experiments/longer_steps/run.py                      # everything, some ten hours of one core
    python experiments/longer_steps/run.py paracetamol          # only this system
    python experiments/longer_steps/run.py water --smoke DIR    # small, of no meaning

The experiment of the shipped model with a longer Δt and a training that starts from its weights.  A folder for each
system has data/, runs/ and results.json.  What was stopped goes on when it is started again.
"""

import argparse
import dataclasses
import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import pipeline  # noqa: E402

# Δt, fs, and trainings of each system.
CASES = {
    "paracetamol": (10.0, ("--epochs 12 --batch-size 4 --learning-rate 0.03 --weight-decay 0",) * 2),
    "quartz": (50.0, ("--epochs 6 --batch-size 1 --learning-rate 0.06 --weight-decay 0",)),
    "water": (10.0, ("--epochs 3 --batch-size 1 --learning-rate 0.06 --weight-decay 0",)),
}
STAGES = ["reference", "train", "evaluate", "rollout"]


def experiment_of(name: str) -> pipeline.Experiment:
    """That of the shipped model, at the longer Δt: 10,000 steps with every frame kept, 100,000 in all."""
    time_step, trainings = CASES[name]
    return dataclasses.replace(
        importlib.import_module(f"{name}.run").EXPERIMENT, time_step=time_step, frame=10.0, trainings=trainings,
        network=f"--init {name} --time-step {time_step:g}", n_spectrum=10_000,
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--smoke", type=Path, metavar="DIR", help="run the smallest sizes, in DIR")
    given = parser.parse_args()
    if unknown := set(given.systems) - set(CASES):
        parser.error(f"unknown system {', '.join(sorted(unknown))}; choose from {', '.join(CASES)}")
    for system in given.systems or CASES:
        stages = pipeline.Stages(experiment_of(system), (given.smoke or HERE) / system, given.smoke is not None)
        for stage in STAGES:
            getattr(stages, stage)()
