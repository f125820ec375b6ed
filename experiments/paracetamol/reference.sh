#!/usr/bin/env bash
# The paper's data: five NVE runs of 100 ps, paracetamol in vacuum (OPLS-AA, 300 K, dt 0.5 fs), frames every 7 fs.
# About a minute on one CPU core.  Stopped?  Run it again.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p data
ffmd reference paracetamol --runs 5 --length-ps 100 --frame-fs 7 --out data/nve.h5 --resume "$@"
[ -f data/pairs_7fs.h5 ] || ffmd dataset data/nve_?.h5 --time-step 7 --train-pairs 10000 --out data/pairs_7fs.h5
