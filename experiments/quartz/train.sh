#!/usr/bin/env bash
# Pairs at Δt = 10 fs and a model of 113,000 weights; about 30 minutes on one CPU core. --resume goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p runs
[ -f data/pairs_10fs.h5 ] ||
    ffmd dataset data/nve_hot.h5 data/nve_?.h5 --time-step 10 --stride-fs 20 --out data/pairs_10fs.h5
ffmd train data/pairs_10fs.h5 --out runs/10fs --epochs 4 --batch-size 1 --learning-rate 0.02 --weight-decay 0.03 \
    --config.cutoff 3.6 --config.lmax 1 --config.harmonics-lmax 2 --config.channels 32 --config.layers 4 \
    --config.radial-hidden 32 32 --config.speed-hidden 32 --config.velocity-input --config.natural-parity "$@"
