"""How fast is training?  Prints one JSON line for every system, network, formulation and number of devices.

    python benchmarks/train_speed.py --systems paracetamol quartz-162 --networks small --formulations fast e3nn
    python benchmarks/train_speed.py --systems paracetamol --networks small --devices 1 2 4 8

A step is loss, gradient and Adam in single precision, in blocks of steps as `ffmd train` runs them.  Networks:
``paper`` (l ≤ 2, 64 channels, 4 layers) and ``small`` (l ≤ 1, 32 channels, 4 layers).  Formulations of the product over
neighbours: ``fast`` (what `ffmd train` runs: splines and, on CPUs, the compiled kernel) and ``e3nn`` (the paper's
radial networks and the plain e3nn-jax formulation).

The batch, 10 molecules of paracetamol or 2 cells of quartz, is that of one device.  On a CPU, devices are virtual: they
share its cores, and the lines tell what dividing a batch costs, not what devices gain.  ``peak_MiB`` is what XLA
allocates for a block of steps, its arguments and results included, on each device.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time

SYSTEMS = {  # prepared system, its size, batch, cutoff Å, Δt fs
    "paracetamol": ("paracetamol", {}, 10, 4.0, 7.0),
    "quartz-162": ("quartz", {"repeat": (3, 3, 2)}, 2, 4.5, 30.0),
}
NETWORKS = {"paper": {}, "small": {"lmax": 1, "channels": 32}}
FORMULATIONS = {"fast": "edge_convolution", "e3nn": "by_e3nn"}
BLOCK_STEPS = 25


def pairs_of(name: str, n_pairs: int):
    """A dataset of random displacements and velocities at 300 K; what it would teach does not matter for the speed."""
    import jax
    import numpy as np

    from ffmd_jax.core import mechanics
    from ffmd_jax.core.state import State
    from ffmd_jax.data import pairs
    from ffmd_jax.reference_md import systems

    prepared_name, size, _, _, time_step = SYSTEMS[name]
    prepared = systems.get(prepared_name, **size)
    rng = np.random.default_rng(0)
    sites = prepared.state.positions
    positions = sites + rng.normal(scale=0.05, size=(n_pairs, *sites.shape))
    keys = jax.random.split(jax.random.key(0), 2 * n_pairs)

    def velocities(key):
        return mechanics.maxwell_boltzmann(key, prepared.system, prepared.state, 300.0).velocities

    before, after = np.asarray(jax.lax.map(velocities, keys), np.float32).reshape(2, n_pairs, -1, 3)
    cells = np.broadcast_to(np.float32(prepared.state.cell), (n_pairs, 3, 3))
    part = pairs.Pairs(State(np.float32(positions), before, cells), 0.5 * time_step * (before + after), after)
    return pairs.PairSets(prepared.system, time_step, part, part, part)


def measure(name: str, network: str, formulation: str, seconds: float) -> dict:
    """One line, on the devices of this process; the best of three blocks."""
    import jax
    import numpy as np

    from ffmd_jax.data import pairs
    from ffmd_jax.models import config, convolution, trajcast
    from ffmd_jax.training import batches, loop, losses, optimizer, parallel, scales, settings

    devices = parallel.mesh()
    batch, cutoff = SYSTEMS[name][2] * devices.size, SYSTEMS[name][3]
    data = pairs_of(name, batch * BLOCK_STEPS)
    model_config = scales.configure(
        [data], config.Architecture(cutoff=cutoff, radial_intervals=128 * (formulation == "fast"), **NETWORKS[network])
    )
    training = settings.Training(batch_size=batch, optimizer="adam", learning_rate=1e-4)
    together = formulation == "e3nn" or trajcast.batches_together(model_config)
    (bucket,) = batches.buckets([data.system], [data.train], pairs.padded)
    search, product = batches.pair_search(bucket, cutoff), getattr(convolution, FORMULATIONS[formulation])
    loss = losses.make_loss(model_config, search, product, scales.mean_inverse_mass([data]))
    step = loop.make_train_step([loss], training, optimizer.make(training, 10_000), devices, together)
    state = loop.initial(model_config, training, 10_000)
    block = next(batches.blocks([bucket], training, 0, BLOCK_STEPS, devices))
    began = time.perf_counter()
    run = loop.make_block(step, devices).lower(state, block.batches, block.order, np.int32(1)).compile()
    compile_s = time.perf_counter() - began
    n_weights = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def timed(state, n_steps):
        began = time.perf_counter()
        state, values = jax.block_until_ready(run(state, block.batches, block.order, np.int32(n_steps)))
        if not np.isfinite(values[:n_steps]).all():
            raise FloatingPointError("the timed steps gave no finite numbers")
        return state, (time.perf_counter() - began) / n_steps

    state, first = timed(state, 1)
    n_steps = max(1, min(block.n_steps, int(seconds / first)))
    times = []
    for _ in range(3):
        state, seconds_per_step = timed(state, n_steps)
        times.append(seconds_per_step)
    memory = run.memory_analysis()
    held = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    return {
        "system": name,
        "network": network,
        "weights": n_weights,
        "formulation": formulation,
        "devices": devices.size,
        "batch": batch,
        "configurations_per_s": batch / min(times),
        "ms_per_step": 1e3 * min(times),
        "compile_s": compile_s,
        "peak_MiB": (held - memory.alias_size_in_bytes) / 2**20,
        "device": jax.devices()[0].device_kind,
        "date": str(datetime.date.today()),
    }


def in_a_process(options: argparse.Namespace, name: str, network: str, formulation: str, n_devices: int) -> None:
    """Measures with so many virtual devices in a process of its own, so that nothing is shared; prints its line."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={n_devices}"
    command = [sys.executable, __file__, "--here", "--systems", name, "--networks", network, "--formulations"]
    command += [formulation, "--seconds", str(options.seconds)]
    what = f"{name}, {network}, {formulation}, {n_devices} device(s)"
    try:
        subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, timeout=options.timeout_s, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        print(f"{what}: {error}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--formulations", nargs="+", choices=FORMULATIONS, default=list(FORMULATIONS))
    parser.add_argument("--devices", nargs="+", type=int, default=[1], help="numbers of virtual CPU devices")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a timed block, s, at most")
    parser.add_argument("--timeout-s", type=float, default=900.0, help="for each line")
    parser.add_argument("--here", action="store_true", help="measure in this process, on all devices that it has")
    options = parser.parse_args()
    for name in options.systems:
        for network in options.networks:
            for formulation in options.formulations:
                if options.here:
                    line = measure(name, network, formulation, options.seconds)
                    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in line.items()}
                    print(json.dumps(rounded), flush=True)
                    continue
                for n_devices in options.devices:
                    in_a_process(options, name, network, formulation, n_devices)


if __name__ == "__main__":
    main()
