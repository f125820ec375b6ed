#!/usr/bin/env bash
# All that only an accelerator can show, as JSON lines in the folder given (default: gpu_results); about 20 minutes.
#     pip install -e ".[cuda13]" && benchmarks/gpu.sh
# Roll-outs: paper-size network on all systems, and what it is compared with.  Training: both networks, one and all devices.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu_results}
mkdir -p "$out"
python -c "import jax; d = jax.devices()[0]; assert d.platform != 'cpu', 'jax sees no accelerator'; print(d.device_kind)"
systems="paracetamol-20 quartz-162 quartz-1296 quartz-4374 quartz-10368 water-192 water-1536"
python benchmarks/rollout_speed.py --systems $systems --formulations fast mlp | tee "$out/rollout.jsonl"
python benchmarks/rollout_speed.py --systems paracetamol-20 quartz-162 quartz-1296 water-192 \
    --formulations e3nn potential reference | tee -a "$out/rollout.jsonl"
python benchmarks/rollout_speed.py --systems quartz-162 quartz-4374 --networks quartz --formulations fast |
    tee -a "$out/rollout.jsonl"
python benchmarks/train_speed.py --systems paracetamol quartz-162 --networks paper small --formulations fast e3nn |
    tee "$out/training.jsonl"
python benchmarks/scaling_figure.py "$out/rollout.jsonl" --out "$out/scaling.png"
