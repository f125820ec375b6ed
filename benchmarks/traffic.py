"""What a step and a training step move and compute on a TPU, by the compiler's count.  No TPU is needed.

    pip install -e ".[tpu]"
    TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost JAX_PLATFORMS=cpu python benchmarks/traffic.py
    … python benchmarks/traffic.py --systems quartz-162 --what step training --formulations blocks

Compiles the network at the paper's size (random weights of these shapes) for one chip of a topology with libtpu, and
prints one JSON line for each: GFLOP, GB accessed (padding of the chip's layouts included), MiB of temporary memory, and
the number of fusions, loops and custom calls, which on a GPU would be kernel launches.  ``floor_ms`` is the time of the
bytes, and of the operations in single precision, at the peak of a device: a bound, not a measurement.

A CUDA program cannot be compiled here: jax needs the plugin, and the plugin a driver.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import os
import re
import time

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import jax.numpy as jnp
import numpy as np
import rollout_speed
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from ffmd_jax.core import neighbors
from ffmd_jax.core.state import State, cast
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.models import radial_tables, tpu_convolution, trajcast
from ffmd_jax.reference_md import systems

# TB/s of memory, and TFLOP/s in single precision; of a TPU six bfloat16 passes ("highest").
DEVICES = {"H200": (4.8, 67.0), "A100": (2.0, 19.5), "v5e": (0.819, 197.0 / 6)}


def count(compiled) -> dict:
    """What the compiler says of a program."""
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    text = compiled.as_text()
    kinds = {name: len(re.findall(rf"\s{name}\(", text)) for name in ("fusion", "while", "custom-call", "gather")}
    gflop, gbytes = cost["flops"] / 1e9, cost["bytes accessed"] / 1e9
    floors = {name: round(max(gbytes / tbs, gflop / tflops), 3) for name, (tbs, tflops) in DEVICES.items()}
    return {
        "GFLOP": round(gflop, 2), "GB": round(gbytes, 3), "temporary_MiB": round(memory.temp_size_in_bytes / 2**20, 1),
        **{f"{name.replace('-', '_')}s": n for name, n in kinds.items()}, "floor_ms": floors,
    }  # fmt: skip


def shapes(tree, sharding):
    """The tree without its values, on the device that is compiled for."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf), sharding=sharding), tree
    )


def program(name: str, what: str, formulation: str, sharding):
    """The function to compile and the shapes of its arguments."""
    kind, size = rollout_speed.PREPARED[name]
    prepared = systems.get(kind, **size)
    found, params = rollout_speed.network_of("paper", prepared)
    state = cast(prepared.state, jnp.float32)
    system = cast(prepared.system, jnp.float32)
    search = neighbors.plan(system, state, found.architecture.cutoff, neighbors.SKIN, 1.15, True)
    search = dataclasses.replace(search, selected=neighbors.in_tiles(search.selected, "tpu"))
    graph, _ = jax.eval_shape(lambda: neighbors.select(search, state, neighbors.build(search, system, state)))
    graph = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), graph)
    convolution = rollout_speed.CONVOLUTIONS.get(formulation)
    if formulation == "kernel":
        convolution = tpu_convolution.by_tpu_kernel
    elif (
        formulation == "blocks"
    ):  # one block, as on a device with memory enough; in a loop the compiler counts one turn
        convolution = functools.partial(convolutions.by_blocks, block=len(system.species))
    # The kernel takes the radial networks as they are: their 64 functions are fewer than the intervals of a table.
    weights = radial_tables.tabulate(found, params) if what == "step" and formulation == "blocks" else params

    def step(weights, state, graph):
        return trajcast.make_propagate(found, weights, convolution)(system, state, graph)

    def training_step(weights, state, graph):
        def loss(weights):
            after = step(weights, state, graph)
            return jnp.sum(after.positions**2) + jnp.sum(after.velocities**2)

        return jax.value_and_grad(loss)(weights)

    arguments = shapes((weights, State(*state), graph), sharding)
    return (step if what == "step" else training_step), arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--systems", nargs="+", choices=rollout_speed.PREPARED,
        default=["paracetamol-20", "quartz-162", "quartz-1296", "quartz-4374"],
    )  # fmt: skip
    parser.add_argument("--what", nargs="+", choices=["step", "training"], default=["step", "training"])
    parser.add_argument("--formulations", nargs="+", choices=["blocks", "kernel", "e3nn"], default=["blocks", "kernel"])
    parser.add_argument("--topology", default="v5e:2x2", help="that libtpu knows (default: %(default)s)")
    given = parser.parse_args()
    topology = topologies.get_topology_desc(platform="tpu", topology_name=given.topology)
    sharding = SingleDeviceSharding(topology.devices[0])
    for name in given.systems:
        for what in given.what:
            for formulation in given.formulations:
                if what == "training" and name not in ("paracetamol-20", "quartz-162"):
                    continue
                function, arguments = program(name, what, formulation, sharding)
                began = time.perf_counter()
                compiled = jax.jit(function).lower(*arguments).compile()
                line = {
                    "system": name, "what": what, "formulation": formulation, "topology": given.topology,
                    **count(compiled), "compile_s": round(time.perf_counter() - began, 1),
                    "jax": jax.__version__, "date": f"{datetime.date.today()}",
                }  # fmt: skip
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
