"""Paracetamol in vacuum (OPLS-AA), Δt = 7 fs: from reference MD to the numbers of the paper's table.

    python experiments/paracetamol/run.py                    # everything
    python experiments/paracetamol/run.py reference train    # only these stages
    python experiments/paracetamol/run.py --smoke DIR        # small, in two minutes, of no meaning

A stage that was stopped goes on when it is started again.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import pipeline  # noqa: E402

EXPERIMENT = pipeline.Experiment(
    system="paracetamol",
    time_step=7.0,
    length_ps=100.0,
    frame=7.0,
    n_train=10_000,
    network="--config.cutoff 4",
    trainings=(
        "--epochs 40 --batch-size 2 --learning-rate 0.04 --no-mass-weighting",
        "--epochs 20 --batch-size 2 --learning-rate 0.04",
        "--epochs 4 --batch-size 2 --learning-rate 0.01 --weight-decay 0",
    ),
    tau=70.0,
    friction_tau=4000.0,
    reversible=("spectrum", "friction", "weak", "free"),
    n_spectrum=400_000,
)

STAGES = ["reference", "train", "evaluate", "rollout", "demo"]

if __name__ == "__main__":
    pipeline.main(EXPERIMENT, HERE, __doc__, STAGES)
