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
    n_train=40_000,
    n_runs=12,
    # NVE runs of 300 K have few atoms as fast as those of a heat bath.
    other_runs=("--temperature 500",) * 4,
    other_length_ps=100.0,
    network="--config.cutoff 4 --config.lmax 3 --config.channels 24 --config.layers 3",
    trainings=(
        "--epochs 8 --batch-size 4 --learning-rate 0.03 --weight-decay 0",
        "--epochs 8 --batch-size 4 --learning-rate 0.025 --weight-decay 0",
        "--epochs 12 --batch-size 4 --learning-rate 0.03 --weight-decay 0",
        "--epochs 16 --batch-size 4 --learning-rate 0.03 --weight-decay 0",
        "--epochs 8 --batch-size 4 --learning-rate 0.03 --weight-decay 0",
    ),
    tau=70.0,
    friction_tau=4000.0,
    reversible=("spectrum", "friction", "weak", "free"),
    n_spectrum=400_000,
)

STAGES = ["reference", "train", "evaluate", "rollout", "demo"]

if __name__ == "__main__":
    pipeline.main(EXPERIMENT, HERE, __doc__, STAGES)
