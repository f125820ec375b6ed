#!/usr/bin/env bash
# A model of 113,000 weights at Δt = 10 fs, in two stages; about 45 minutes on one CPU core.
# Stage 1 learns fast, without weight decay, from the 300 K runs, and is stopped in its second half hour: its weights
# grow without bound and explode on rare configurations.  Stage 2 anneals it with weight decay and the 450 K run.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p runs
if [ ! -d runs/stage1 ]; then
    [ -f data/pairs_300K.h5 ] || ffmd dataset data/nve_?.h5 --time-step 10 --stride-fs 20 --out data/pairs_300K.h5
    ffmd train data/pairs_300K.h5 --out runs/stage1 --epochs 9 --batch-size 1 --learning-rate 0.05 --weight-decay 0 \
        --config.cutoff 3.6 --config.lmax 1 --config.harmonics-lmax 2 --config.channels 32 --config.layers 4 \
        --config.radial-hidden 32 32 --config.speed-hidden 32 --config.velocity-input --config.natural-parity
fi
[ -f data/pairs_10fs.h5 ] ||
    ffmd dataset data/nve_hot.h5 data/nve_?.h5 --time-step 10 --stride-fs 20 --out data/pairs_10fs.h5
ffmd train data/pairs_10fs.h5 --out runs/10fs --init runs/stage1 --epochs 1 --batch-size 1 --learning-rate 0.02 \
    --weight-decay 0.001 "$@"
