#!/usr/bin/env bash
# Ten NVE runs of BKS α-quartz (162 atoms, 300 K, 30 ps each): eight to train on, one to validate, one to test; and one
# at 450 K to train on, so that the model has seen more than the 300 K shell. About 15 minutes on two CPU cores.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p data
for seed in 0 1 2 3 4 5 6 7 8 9; do
    [ -f "data/nve_$seed.h5" ] && continue
    ffmd reference quartz --ensemble nve --temperature 300 --length-ps 30 --frame-fs 10 --seed "$seed" \
        --out "data/partial.h5" --overwrite
    mv data/partial.h5 "data/nve_$seed.h5"
done
[ -f data/nve_hot.h5 ] || ffmd reference quartz --ensemble nve --temperature 450 --length-ps 30 --frame-fs 10 --seed 100 \
    --out data/nve_hot.h5
