"""Liquid water (SPC/Fw with Ewald's sum, 64 molecules), Δt = 5 fs: to the numbers of the paper's table.

    python experiments/water/run.py                    # everything
    python experiments/water/run.py reference train    # only these stages
    python experiments/water/run.py --smoke DIR        # small, in two minutes, of no meaning

A stage that was stopped goes on when it is started again.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import pipeline  # noqa: E402

EXPERIMENT = pipeline.Experiment(
    system="water",
    time_step=5.0,
    length_ps=20.0,
    frame=5.0,
    n_train=5_000,
    network="--config.cutoff 6",
    trainings=(
        "--epochs 3 --batch-size 1 --learning-rate 0.1",
        "--epochs 1 --batch-size 1 --learning-rate 0.005 --weight-decay 0",
        "--epochs 2 --batch-size 1 --learning-rate 0.01 --weight-decay 0",
    ),
    tau=50.0,
    friction_tau=1000.0,
    fast_friction=(600.0, 1000.0),
    n_spectrum=10_000,
)

STAGES = ["reference", "train", "evaluate", "rollout", "transfer", "fast_friction", "demo"]

if __name__ == "__main__":
    pipeline.main(EXPERIMENT, HERE, __doc__, STAGES)
