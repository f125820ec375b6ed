"""One large system over many chips: memory of a chip, messages of a step, and an estimate of its time.

    python benchmarks/domains.py --chips cpu:1 cpu:2 cpu:4 cpu:8 --repeat 12 12 8
    pip install -e ".[tpu]"
    python benchmarks/domains.py --chips v5e:2x4:1 v5e:2x4 v5e:8x8 v5e:16x16 --repeat-per-chip 9 9 6

Compiles a step of the shipped model of quartz in NVT, its atoms in domains, one on each chip; nothing is
run.  Chips are virtual CPU devices, with the compiled kernel, or a slice that libtpu knows (``:n``: the first n of it),
by blocks.  ``--repeat`` is a fixed system (strong scaling), ``--repeat-per-chip`` one that grows with the chips, near a
cube (weak scaling).

One JSON line each.  ``MiB_of_a_chip`` is what the program holds.  ``received_MiB`` is what a chip gets from others in a
step, with the padding of its layouts, ``messages`` how many collectives that takes; steps in which a table is made or
a round trip is measured are not counted.  ``GB_accessed`` is the compiler's count, ``GB_once`` that of the operands and
results of all instructions.  ``estimate_ms``, of TPUs, is no measurement: the bytes of the compiler's count at the peak
of the memory, what is received over one link of the interconnect, a latency for each collective.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import math
import os
import re
import time
from typing import Any

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import traffic  # before the first device: sets what libtpu needs
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding

from ffmd_jax.core import domains, neighbors
from ffmd_jax.core.state import Domain, Graph, State, cast, full_precision
from ffmd_jax.dynamics import alarms, ensemble, records, stepping
from ffmd_jax.dynamics.engine import Engine
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.models import model_files, radial_tables, trajcast
from ffmd_jax.reference_md import systems

COLLECTIVES = ("all-reduce", "all-gather", "collective-permute", "reduce-scatter", "all-to-all")
LINK_GB_S, HOP_US, START_US = (
    50.0,
    1.0,
    5.0,
)  # of a v5e: one of its four links; assumed: a hop, and a collective's start
ARRAY = r"(\w+)\[([\d,]*)\](?:{([\d,]*)(?::T\((\d+),(\d+)\))?)?"  # type, shape, order of axes, tile
SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "f64": 8}


def chips_of(name: str) -> list:
    """Devices: "cpu:4", "v5e:8x8", or "v5e:2x4:1" for the first of a slice."""
    kind, size, *first = name.split(":")
    if kind == "cpu":
        return jax.devices("cpu")[: int(size)]
    known = topologies.get_topology_desc(platform="tpu", topology_name=f"{kind}:{size}").devices
    return list(known)[: int(first[0])] if first else list(known)


def factors(n_chips: int) -> tuple[int, int, int]:
    """Three factors of a power of two, as equal as can be."""
    power = int(math.log2(n_chips))
    return tuple(2 ** ((power + 2 - i) // 3) for i in range(3))  # type: ignore[return-value]


def search_of(cutoff: float, prepared, n_domains: int, tpu: bool) -> neighbors.Search:
    """The neighbour search of a large crystal, whose sizes are those of one of 10,368 atoms."""
    part = systems.quartz((12, 12, 8))
    search = neighbors.plan(part.system, part.state, cutoff, neighbors.SKIN, 1.15, select=True)
    positions, cell = np.asarray(prepared.state.positions)[None], np.asarray(prepared.state.cell)[None]
    first, second, third = np.floor(neighbors.heights(cell[0]) / search.radius).astype(int).tolist()
    selected = neighbors.in_tiles(search.selected, "tpu" if tpu else "cpu")
    search = dataclasses.replace(search, bins=(first, second, third), selected=selected)
    return neighbors._plan_domains(search, prepared.system, positions, cell, n_domains) if n_domains > 1 else search


def compiled(chips: list, repeat: tuple[int, int, int]):
    """The program of a step, the atoms and the search."""
    tpu, prepared, model = chips[0].platform == "tpu", systems.quartz(repeat), model_files.load("quartz")
    config, system, state = model.config, cast(prepared.system, jnp.float32), cast(prepared.state, jnp.float32)
    search = search_of(config.architecture.cutoff, prepared, len(chips), tpu)
    params = radial_tables.tabulate(config, cast(model.params, jnp.float32))
    # Blocks that hold all atoms: in a loop the compiler would count one turn.
    blocks = functools.partial(convolutions.by_blocks, block=len(system.species))
    propagate = trajcast.make_propagate(config, params, blocks if tpu else convolutions.edge_convolution)
    bath = ensemble.NVT(300.0, tau_fs=300.0, friction_tau_fs=3000.0)
    engine = Engine(
        system, state, propagate, cutoff=config.architecture.cutoff, time_step_fs=config.time_step_fs, ensemble=bath,
        searches=(dataclasses.replace(search, domains=1), None),
    )  # fmt: skip
    run = engine._run

    @full_precision
    def step(run: records.Run, table: neighbors.Neighbors, moving: Any):
        kelvin, state = jnp.float32(300.0), State(moving.positions, moving.velocities, table.cell)
        after = stepping._advance(search, records.PLAIN, run, table, table.cell, jnp.int32(1), kelvin, moving)
        # What monitors look at in each step and that is not on every device.
        return after, alarms._closest(state, neighbors.select(search, state, table)[0])

    mesh = Mesh(np.array(chips), (domains.AXIS,), axis_types=(AxisType.Auto,))
    table = jax.eval_shape(lambda state: neighbors.build(dataclasses.replace(search, domains=1), system, state), state)
    if len(chips) > 1:
        table = table._replace(graph=graph_of(table.graph, search, len(system.species)))
    flag = jax.ShapeDtypeStruct((), bool)
    moving = stepping._Moving(jax.random.key(0), *state[:2], (), flag, flag, (), ())
    given = tuple(placed(mesh, tree) for tree in (run, table, moving))
    function = step if len(chips) == 1 else lambda *given: domains.over(mesh, step, given, domains.SAME)
    return jax.jit(function).lower(*given).compile(), len(system.species), search


def graph_of(whole: Graph, search: neighbors.Search, n_atoms: int) -> Graph:
    """Shapes of the graph with its domains."""
    n_rows = search.domains * int(domains.sizes(n_atoms, search.domains)[0])
    rows = [jax.ShapeDtypeStruct((n_rows, *x.shape[1:]), x.dtype) for x in whole[:3]]
    seen = min(2 * search.reach + 1, search.domains)
    return Graph(*rows, Domain(*(jax.ShapeDtypeStruct((n,), np.int32) for n in (n_rows, n_atoms, seen))))


def placed(mesh: Mesh, tree: Any) -> Any:
    """Shapes and places of the arrays of a tree."""

    def place(part: Any) -> Any:
        if isinstance(part, Graph) and part.domain is not None:
            return jax.tree.map(lambda spec, leaf: struct(leaf, spec), domains.GRAPH, part)
        return jax.tree.map(lambda leaf: struct(leaf, domains.SAME), part)

    def struct(leaf: Any, spec: Any) -> jax.ShapeDtypeStruct:
        dtype = leaf.dtype if hasattr(leaf, "dtype") else jax.dtypes.result_type(leaf)
        return jax.ShapeDtypeStruct(np.shape(leaf), dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(place, tree, is_leaf=lambda part: isinstance(part, Graph))


def messages(program: str, n_chips: int) -> tuple[dict[str, int], float]:
    """Collectives of the program, and the bytes that a chip receives."""
    count, received = {}, 0.0
    for result, kind in re.findall(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", program):
        share = {"all-gather": (n_chips - 1) / n_chips, "all-reduce": 2.0}.get(kind, 1.0)
        count[kind] = count.get(kind, 0) + 1
        received += share * max(map(size, re.findall(ARRAY, result)))
    return count, received


def touched(program: str) -> int:
    """Bytes of operands and results of all instructions outside loops and branches, each counted once."""
    sizes, total = {}, 0
    entry = program[program.index("\nENTRY") :]
    for name, result, kind, operands in re.findall(r"%(\S+) = (.*?) ([a-z][\w-]*)\((.*?)\)[,\n]", entry):
        sizes[name] = sum(map(size, re.findall(ARRAY, result)))
        if kind not in ("parameter", "tuple", "get-tuple-element", "bitcast"):
            total += sizes[name] + sum(sizes.get(each, 0) for each in re.findall(r"%([\w.\-]+)", operands))
    return total


def size(array: tuple[str, ...]) -> int:
    """Bytes of an array of the compiled program, with its padding to tiles."""
    kind, shape, order, *tile = array
    sides = [int(n) for n in shape.split(",") if n]
    if tile[0] and len(sides) > 1:
        for n, axis in zip(tile[::-1], map(int, order.split(",")[:2]), strict=True):
            sides[axis] = -(-sides[axis] // int(n)) * int(n)
    return SIZES.get(kind, 4) * math.prod(sides)


def line(name: str, repeat: tuple[int, int, int], per_chip: bool) -> dict[str, Any]:
    """What the compiler says of a step."""
    chips = chips_of(name)
    if per_chip:
        repeat = tuple(a * b for a, b in zip(repeat, factors(len(chips)), strict=True))  # type: ignore[assignment]
    began = time.perf_counter()
    made, n_atoms, search = compiled(chips, repeat)
    memory, cost, tpu = made.memory_analysis(), made.cost_analysis(), chips[0].platform == "tpu"
    held = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    count, received = messages(made.as_text(), len(chips))
    gigabytes = cost["bytes accessed"] / 1e9
    hops = sum(math.isqrt(len(chips)) for _ in range(2)) / 2  # half the way around a square torus, twice
    parts = [
        gigabytes / traffic.DEVICES["v5e"][0],
        received / LINK_GB_S / 1e6,
        sum(count.values()) * (START_US + hops * HOP_US) / 1e3,
    ]
    return {
        "chips": name, "n_chips": len(chips), "atoms": n_atoms, "atoms_per_chip": n_atoms / len(chips),
        "domains_seen": min(2 * search.reach + 1, len(chips)),
        "MiB_of_a_chip": round((held - memory.alias_size_in_bytes) / 2**20, 1),
        "temporary_MiB": round(memory.temp_size_in_bytes / 2**20, 1), "GB_accessed": round(gigabytes, 3),
        "GB_once": round(touched(made.as_text()) / 1e9, 3),
        "received_MiB": round(received / 2**20, 3), "messages": count,
        **({"estimate_ms": [round(x, 3) for x in parts]} if tpu else {}),
        "compile_s": round(time.perf_counter() - began, 1), "jax": jax.__version__, "date": f"{datetime.date.today()}",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", nargs="+", default=["cpu:1", "cpu:2", "cpu:4", "cpu:8"])
    parser.add_argument("--repeat", nargs=3, type=int, help="cells of quartz, of 9 atoms (default: 12 12 8)")
    parser.add_argument("--repeat-per-chip", nargs=3, type=int, help="cells that a chip has, 2^n chips")
    given = parser.parse_args()
    for name in given.chips:
        repeat = given.repeat_per_chip or given.repeat or (12, 12, 8)
        print(json.dumps(line(name, tuple(repeat), given.repeat_per_chip is not None)), flush=True)


if __name__ == "__main__":
    main()
