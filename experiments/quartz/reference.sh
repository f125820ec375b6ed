#!/usr/bin/env bash
# Ten NVE runs of BKS α-quartz (162 atoms, 300 K, 30 ps each): eight to train on, one to validate, one to test.
# About 20 minutes on two CPU cores; runs that are there already are kept.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p data
for seed in 0 1 2 3 4 5 6 7 8 9; do
    [ -f "data/nve_$seed.h5" ] && continue
    ffmd reference quartz --ensemble nve --temperature 300 --length-ps 30 --frame-fs 10 --seed "$seed" \
        --out "data/partial.h5" --overwrite
    mv data/partial.h5 "data/nve_$seed.h5"
done
