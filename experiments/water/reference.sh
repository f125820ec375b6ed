#!/usr/bin/env bash
# The paper's data: five NVE runs of 50 ps, 64 water molecules (SPC/Fw, Ewald, 300 K, dt 0.5 fs), frames every 5 fs.
# Stopped?  Run it again.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p data
ffmd reference water --runs 5 --length-ps 50 --frame-fs 5 --out data/nve.h5 --resume "$@"
[ -f data/pairs_5fs.h5 ] || ffmd dataset data/nve_?.h5 --time-step 5 --train-pairs 5000 --out data/pairs_5fs.h5
