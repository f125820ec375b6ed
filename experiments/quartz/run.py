"""α-quartz (BKS, 162 atoms), Δt = 30 fs: from reference MD to the numbers of the paper's table.

    python experiments/quartz/run.py                    # everything
    python experiments/quartz/run.py reference train    # only these stages
    python experiments/quartz/run.py --smoke DIR        # small, in two minutes, of no meaning

A stage that was stopped goes on when it is started again.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import pipeline  # noqa: E402

EXPERIMENT = pipeline.Experiment(
    system="quartz",
    time_step=30.0,
    length_ps=100.0,
    frame=10.0,
    n_train=5_000,
    network="--config.cutoff 4",
    trainings=("--epochs 10 --batch-size 1 --learning-rate 0.04",),
    tau=75.0,
    friction_tau=3000.0,
    n_spectrum=5_000,
)

STAGES = ["reference", "train", "evaluate", "rollout", "transfer", "demo"]

if __name__ == "__main__":
    pipeline.main(EXPERIMENT, HERE, __doc__, STAGES)
