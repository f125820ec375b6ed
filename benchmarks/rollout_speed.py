"""How long does one step take?  Prints one JSON line for every system, network and formulation.

    python benchmarks/rollout_speed.py --systems quartz-162 quartz-1296 --formulations fast e3nn

Formulations: ``fast`` (what `ffmd rollout` runs: tables and, on CPUs, the compiled kernel), ``blocks`` (tables, by XLA
in blocks of atoms: what GPUs run), ``mlp`` (blocks, radial networks computed in every step), ``e3nn`` (the plain
e3nn-jax formulation), ``potential`` (an interatomic potential of the same layers without velocities, by the same
kernel: energy and gradient, by position Verlet at the time step of the reference) and ``reference`` (the classical
force field itself).

Networks: ``paper`` (2.2 M random weights, l ≤ 2, 64 channels, 4 layers; atoms hardly move, so its neighbour tables are
never rebuilt: ``rebuild_ms`` is the time of one) and the names of shipped models.

``peak_MiB`` is what XLA allocates for the compiled block of steps, arguments and results included.  ``floor_ms`` is the
time of a step's operations, ``GFLOP``, at the speed of one large matrix product in this run.
"""

import argparse
import dataclasses
import datetime
import json
import time

import flax.linen as nn
import floor
import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import mechanics, neighbors, units
from ffmd_jax.core.state import Graph, State, cast
from ffmd_jax.dynamics import records, stepping
from ffmd_jax.models import config, layers, model_files, radial_tables, trajcast
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.reference_md import integrator, systems

PREPARED = {
    "paracetamol-20": ("paracetamol", {}),
    "quartz-162": ("quartz", {"repeat": (3, 3, 2)}),
    "quartz-1296": ("quartz", {"repeat": (6, 6, 4)}),
    "quartz-4374": ("quartz", {"repeat": (9, 9, 6)}),
    "quartz-10368": ("quartz", {"repeat": (12, 12, 8)}),
    "quartz-101250": ("quartz", {"repeat": (25, 25, 18)}),
    "water-192": ("water-dsf", {"molecules": 64}),
    "water-1536": ("water-dsf", {"molecules": 512}),
}
PAPER = {"paracetamol": (4.0, 7.0), "quartz": (4.5, 30.0), "water-dsf": (6.0, 5.0)}  # cutoff Å, Δt fs


CONVOLUTIONS = {
    "fast": convolutions.edge_convolution,
    "blocks": convolutions.by_blocks,
    "mlp": convolutions.by_blocks,
    "e3nn": convolutions.by_e3nn,
}


class Potential(nn.Module):
    """Energy, eV, of the layers of `trajcast.TrajCast` without what depends on velocities."""

    config: config.ModelConfig

    @nn.compact
    def __call__(self, system, state, graph):
        sizes = self.config.architecture
        one_hot = (jnp.asarray(system.species)[:, None] == jnp.asarray(self.config.elements)).astype(
            state.positions.dtype
        )
        vectors = neighbors.vectors(state, graph)
        distances = layers.norm(vectors)
        roots = jnp.asarray(np.pi * np.arange(1, sizes.radial_basis + 1), state.positions.dtype)
        waves = layers.bessel_basis(distances, roots, sizes.cutoff, sizes.cutoff_power)
        lengths = layers.Lengths(distances, jnp.where(graph.mask[..., None], waves, 0.0), at_knots=False)
        edges = convolutions.Edges(graph, layers.spherical_harmonics(vectors, sizes.lmax))
        scalar = layers.EVEN_SCALAR
        features = layers.Linear({scalar: sizes.channels})({scalar: one_hot[:, None]})
        for i in range(sizes.layers):
            paths = convolutions.coupling_paths(layers.ordered(features), sizes.lmax, sizes.lmax)
            widths = (*sizes.radial_hidden, len(paths) * sizes.channels)
            network = layers.RadialNetwork(
                widths, sizes.channels, (self.config.splines_from, sizes.cutoff), name=f"radial{i}"
            )
            message = convolutions.edge_convolution(features, edges, network(lengths), paths)
            outputs = dict.fromkeys(message, sizes.channels)
            n_gated = sum(irrep.l > 0 for irrep in outputs)
            update = layers.Linear({**outputs, scalar: sizes.channels * (1 + n_gated)})(message)
            update = layers.gate(update, sizes.channels)
            residual = layers.SpeciesProduct(outputs)(features, one_hot)
            features = {irrep: x + residual.get(irrep, 0) for irrep, x in update.items()}
        return 1e-3 * jnp.sum(layers.Linear({scalar: 1})(features)[scalar])


def network_of(name: str, prepared) -> tuple[config.ModelConfig, dict] | None:
    """Configuration and weights: random ones at paper size, or a shipped model, if it is for these elements."""
    elements = tuple(sorted(set(np.asarray(prepared.system.species).tolist())))
    if name != "paper":
        used = model_files.load(name)
        return (used.config, cast(used.params, jnp.float32)) if used.config.elements == elements else None
    cutoff, time_step = PAPER[prepared.name]
    masses = [float(prepared.system.masses[prepared.system.species == z][0]) for z in elements]
    molecule = not bool(np.any(prepared.system.pbc))
    found = config.ModelConfig(
        elements, tuple(masses), time_step, 0.03, 0.004, 0.03, 30.0, molecule,
        architecture=config.Architecture(cutoff=cutoff, radial_intervals=0),
    )  # fmt: skip
    return found, trajcast.init(jax.random.key(0), found)


def measure(propagate, prepared, state, cutoff: float, select: bool, seconds: float) -> dict:
    """ms per step of a block of steps, compilation and memory; the best of three blocks."""
    system = cast(prepared.system, state.positions.dtype)
    search = neighbors.plan(system, state, cutoff, neighbors.SKIN if select else prepared.skin, 1.15, select)
    build = jax.jit(neighbors.build, static_argnums=0)
    step = stepping.make_step(records.Run(system, propagate), search)
    carry = stepping.start(search, system, state, jax.random.key(0))

    def block(carry, n_steps):
        return jax.lax.fori_loop(0, n_steps, lambda _, carry: step(carry), carry)

    began = time.perf_counter()
    compiled = jax.jit(block).lower(carry, 1).compile()
    compile_s = time.perf_counter() - began
    memory = compiled.memory_analysis()
    held = memory.temp_size_in_bytes + memory.output_size_in_bytes + memory.argument_size_in_bytes

    def timed(function, *arguments):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        return time.perf_counter() - began

    n_steps = max(1, min(10_000, int(seconds / timed(compiled, carry, 1))))
    best = min(timed(compiled, carry, n_steps) for _ in range(3)) / n_steps
    timed(build, search, system, state)
    return {
        "ms_per_step": 1e3 * best,
        "rebuild_ms": 1e3 * timed(build, search, system, state),
        "compile_s": compile_s,
        "peak_MiB": held / 2**20,
        "neighbors": search.selected or search.capacity,
    }


def measure_one(system_name: str, network: str, formulation: str, seconds: float) -> dict | None:
    """One line of the table; None where a shipped model is for other elements."""
    name, size = PREPARED[system_name]
    prepared = systems.get(name, **size)
    at_rest = cast(prepared.state, jnp.float32)
    start = cast(mechanics.maxwell_boltzmann(jax.random.key(1), prepared.system, at_rest, 300.0), jnp.float32)
    facts = {
        "system": system_name,
        "n_atoms": len(prepared.system.species),
        "network": network,
        "formulation": formulation,
    }
    if formulation == "reference":
        verlet = integrator.drift_kick_drift(prepared.energy, prepared.dt)
        double = cast(start, jnp.float64)
        found = measure(verlet, prepared, double, prepared.cutoff, False, seconds)
        return {**facts, "network": None, "time_step_fs": prepared.dt, **found}
    given = network_of(network, prepared)
    if given is None:
        return None
    found_config, params = given
    if formulation == "potential":
        potential = Potential(found_config)
        weights = potential_weights(potential, prepared, start)
        roots = jnp.pi * jnp.arange(1, found_config.architecture.radial_basis + 1, dtype=jnp.float32)
        for name in (name for name in weights["params"] if name.startswith("radial")):
            table = radial_tables.resolved(
                found_config.architecture, found_config.splines_from, roots, weights["params"][name], 1e-5
            )
            weights["params"][name] = {"spline": table}

        def energy(system, state, graph):
            return potential.apply(weights, system, state, graph)

        propagate, time_step = integrator.drift_kick_drift(energy, prepared.dt), prepared.dt
    else:
        convolution = CONVOLUTIONS[formulation]
        weights = radial_tables.tabulate(found_config, params) if formulation in ("fast", "blocks") else params
        propagate = trajcast.make_propagate(found_config, weights, convolution)
        time_step = found_config.time_step_fs
    found = measure(propagate, prepared, start, found_config.architecture.cutoff, True, seconds)
    if formulation == "fast":
        found |= least(found_config, weights, prepared, start)
    return {**facts, "time_step_fs": time_step, **found}


def least(found_config: config.ModelConfig, weights, prepared, start: State) -> dict:
    """The floor of a step (see floor.py), from the speed of a matrix product now."""
    system = cast(prepared.system, jnp.float32)
    search = neighbors.plan(system, start, found_config.architecture.cutoff)
    graph = jax.jit(neighbors.build, static_argnums=0)(search, system, start).graph
    operations, moved = floor.count(found_config, weights, len(prepared.system.species), int(jnp.sum(graph.mask)))
    speed = floor.flops_per_second()
    return {
        "GFLOP": operations / 1e9,
        "MB": moved / 1e6,
        "GFLOP_per_s": speed / 1e9,
        "floor_ms": 1e3 * operations / speed,
    }


def potential_weights(potential: Potential, prepared, start: State):
    """Random weights of a potential, cut from one draw."""
    few = slice(0, 2)
    system = cast(prepared.system, jnp.float32)
    system = dataclasses.replace(system, species=system.species[few], masses=system.masses[few])
    state = State(start.positions[few], start.velocities[few], start.cell)
    graph = Graph(jnp.zeros((2, 1), jnp.int32), jnp.zeros((2, 1, 3), jnp.int8), jnp.zeros((2, 1), bool))
    shapes = jax.eval_shape(lambda: potential.init(jax.random.key(0), system, state, graph))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=PREPARED, default=["paracetamol-20", "quartz-162"])
    parser.add_argument("--networks", nargs="+", default=["paper"], help="paper, or names of shipped models")
    parser.add_argument(
        "--formulations", nargs="+", choices=[*CONVOLUTIONS, "potential", "reference"],
        default=["fast", "e3nn", "potential", "reference"],
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a timed block, s")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    for system in options.systems:
        for formulation in options.formulations:
            for network in options.networks if formulation != "reference" else options.networks[:1]:
                line = measure_one(system, network, formulation, options.seconds)
                if line is not None:
                    line["ns_per_day"] = units.ns_per_day(line["time_step_fs"], line["ms_per_step"] / 1e3)
                    line |= {"device": jax.devices()[0].device_kind, "date": str(datetime.date.today())}
                    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in line.items()}
                    print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()
