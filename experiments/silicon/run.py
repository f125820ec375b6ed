"""Silicon (Stillinger–Weber, cells of 216 atoms), Δt = 25 fs: from reference MD to the numbers of its card.

    python experiments/silicon/run.py                    # everything
    python experiments/silicon/run.py reference train    # only these stages
    python experiments/silicon/run.py --smoke DIR        # small, in two minutes, of no meaning

A stage that was stopped goes on when it is started again.  `benchmarks/jax_md.py` runs the model beside jax-md, whose
Stillinger–Weber forces are those of the reference here.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import pipeline  # noqa: E402

# Besides the cube of 3 × 3 × 3: long cells, for the wave vectors of larger crystals.
CELLS = [(2, 2, 7), (2, 3, 4), (2, 2, 5), (1, 5, 5), (1, 3, 9)]

EXPERIMENT = pipeline.Experiment(
    system="silicon",
    time_step=25.0,
    length_ps=60.0,
    frame=5.0,
    n_train=5_000,
    n_runs=3,
    other_runs=tuple(f"--repeat {a} {b} {c} --equilibrate-ps 3" for a, b, c in CELLS),
    large_reference="--repeat 6 6 6 --length-ps 30 --equilibrate-ps 5",
    network="--config.cutoff 5 --config.channels 16 --config.layers 3",
    trainings=(
        "--epochs 5 --batch-size 1 --learning-rate 0.08",
        "--epochs 2 --batch-size 1 --learning-rate 0.02 --weight-decay 0",
    ),
    tau=75.0,
    friction_tau=3000.0,
    n_spectrum=5_000,
)

STAGES = ["reference", "train", "evaluate", "rollout", "transfer", "demo"]

if __name__ == "__main__":
    pipeline.main(EXPERIMENT, HERE, __doc__, STAGES)
