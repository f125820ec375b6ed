#!/usr/bin/env bash
# The paper's data: five NVE runs of 100 ps of BKS α-quartz (162 atoms, 300 K, dt 1 fs), frames every 10 fs, Δt = 30 fs.
# Stopped?  Run it again.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p data
ffmd reference quartz --runs 5 --length-ps 100 --frame-fs 10 --out data/paper.h5 --resume "$@"
[ -f data/pairs_30fs.h5 ] || ffmd dataset data/paper_?.h5 --time-step 30 --train-pairs 5000 --out data/pairs_30fs.h5
