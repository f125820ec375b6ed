"""α-quartz (BKS, cells of 162 atoms), Δt = 30 fs: from reference MD to the numbers of the paper's table.

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

# Besides the system's 3 × 3 × 2.  Each holds other wave vectors, without which vibrations of larger cells would heat;
# cells that symmetry makes of these are left out.
CELLS = [(18, 1, 1), (9, 2, 1), (9, 1, 2), (6, 3, 1), (6, 1, 3), (3, 2, 3), (3, 1, 6), (2, 1, 9), (1, 1, 18)]

EXPERIMENT = pipeline.Experiment(
    system="quartz",
    time_step=30.0,
    length_ps=100.0,
    frame=10.0,
    n_train=5_000,
    n_runs=3,
    other_runs=tuple(f"--repeat {a} {b} {c} --equilibrate-ps 3" for a, b, c in CELLS),
    large_reference="--repeat 6 6 4 --length-ps 15 --equilibrate-ps 4",
    network="--config.cutoff 5",
    trainings=(
        "--epochs 6 --batch-size 1 --learning-rate 0.08",
        "--epochs 2 --batch-size 1 --learning-rate 0.02 --weight-decay 0",
    ),
    tau=75.0,
    friction_tau=3000.0,
    reversible=("spectrum",),
    n_spectrum=5_000,
)

STAGES = ["reference", "train", "evaluate", "rollout", "transfer", "demo"]

if __name__ == "__main__":
    pipeline.main(EXPERIMENT, HERE, __doc__, STAGES)
