#!/usr/bin/env bash
# All that only an accelerator can show, as JSON lines in the folder given (default: gpu_results); meant for 12 minutes of
# one GPU, most important first, so that what a limit cuts off matters least.  Nobody has run it on one yet.
#     pip install -e ".[cuda13]" && benchmarks/gpu.sh
# Offline: pip download -d wheels ".[cuda13]" before, pip install --no-index --find-links wheels -e ".[cuda13]" there.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu_results}
mkdir -p "$out"
python -c "import jax; d = jax.devices()[0]; assert d.platform != 'cpu', 'jax sees no accelerator'; print(d.device_kind)" || exit 1
some() {  # seconds, file, command …: what was printed before the time is over is kept
    timeout -k 5 "$1" "${@:3}" | tee -a "$out/$2.jsonl"
}
some 120 check python benchmarks/device_check.py
some 150 rollout python benchmarks/rollout_speed.py --systems paracetamol-20 quartz-162 quartz-1296 quartz-4374 water-192 \
    --formulations fast --seconds 1
some 90 jax_md python benchmarks/jax_md.py --seconds 2
some 120 training python benchmarks/train_speed.py --systems paracetamol quartz-162 --networks paper small \
    --formulations fast --seconds 1
some 60 rollout python benchmarks/rollout_speed.py --systems quartz-10368 water-1536 --formulations fast --seconds 1
some 90 rollout python benchmarks/rollout_speed.py --systems paracetamol-20 quartz-162 --formulations e3nn potential reference \
    --seconds 1
some 90 rollout python benchmarks/rollout_speed.py --systems quartz-162 quartz-4374 --networks quartz --formulations fast \
    --seconds 1
python benchmarks/scaling_figure.py "$out/rollout.jsonl" --out "$out/scaling.png"
