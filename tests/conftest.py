"""Shared fixtures: double precision, a small crystal and a small molecule, a small network."""

import dataclasses
import functools
import gc
import os
import subprocess
import sys
import tempfile

# Compilation is most of the time of the tests: programs are optimised less, and each by one thread, because the workers
# fill the cores. `XLA_FLAGS= pytest` tests what users run.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # where operations come from is written nowhere
# The workers share the cores: threads of BLAS and calculators would wait for each other.  Read when numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ffmd_jax import __main__ as entry
from ffmd_jax.core import caches, mechanics, neighbors, state, units
from ffmd_jax.data import dataset
from ffmd_jax.dynamics import rollout
from ffmd_jax.formats import trajectory
from ffmd_jax.models import config, cpu_kernel, trajcast
from ffmd_jax.reference_md import production, systems

HEXAGONAL = np.array([[4.9134, 0, 0], [-2.4567, 4.2551, 0], [0, 0, 5.4052]])


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(pytestconfig, tmp_path_factory):
    """Compilation is most of the time of the tests: the same program is compiled once, for all workers and runs.

    Programs are kept in pytest's cache, of each jax and processor apart; ``pytest --cache-clear`` removes them.
    """
    if pytestconfig.pluginmanager.has_plugin("cacheprovider"):
        folder = pytestconfig.cache.mkdir(f"compilations-{jax.__version__}-{caches.folder().name}")
    else:
        folder = tmp_path_factory.mktemp("compilations")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_logging_level", "CRITICAL")  # of programs from the cache, see `caches.hide_false_alarms`


def pytest_collection_modifyitems(items):
    """Files with long tests come first, so that the workers end together.

    The garbage collector, which looks through all traced programs, otherwise takes a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000_000, 50, 1000)
    long = {item.path for item in items if item.get_closest_marker("slow") and item.get_closest_marker("process")}
    items.sort(key=lambda item: item.path not in long)


def pytest_runtest_setup(item):
    """Skips what needs the compiled kernel without it; it is compiled when the first such test runs, not before."""
    if item.get_closest_marker("kernel") and not cpu_kernel.available():
        pytest.skip("no C++ compiler")


@pytest.fixture(scope="module", autouse=True)
def programs_of_a_module():
    """Compiled programs of files that have ended would fill the memory."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(autouse=True)
def double_precision():
    """Physics is checked in float64; what is float32 in use says so."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def argon_run():
    """4 ps of argon at 60 K, frames every 20 fs."""
    with jax.enable_x64(True):
        argon = systems.argon((2, 2, 2))
        start = mechanics.maxwell_boltzmann(jax.random.key(0), argon.system, argon.state, 120.0)
        block = rollout.gather(production.run(argon, start, n_steps=1000, every=5, key=jax.random.key(1)))
    return trajectory.Trajectory(argon.system, block.frames, block.times, block.observables, {})


@pytest.fixture
def restore_precision():
    """Commands choose float64 for their process; tests share theirs."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


def ffmd(*arguments):
    """Runs a command in this process."""
    entry.main([str(argument) for argument in arguments])


def fails(capsys, *arguments, code=1):
    """The one line that a failing command prints to stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        ffmd(*arguments)
    assert stop.value.code == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ffmd: ")]
    assert len(lines) == 1
    return lines[0]


def start_ffmd(*arguments, devices=1):
    """Starts a command in a process of its own, with so many virtual devices, for two minutes at most.

    Returns the process, which leads a group of its own, and the file of its stderr.
    """
    flags = (
        f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices} "
        "--xla_cpu_collective_call_terminate_timeout_seconds=30"
    )
    shared = {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = ["timeout", "-k", "5", "120", sys.executable, "-m", "ffmd_jax", *map(str, arguments)]
    environment = {**os.environ, **shared, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    # XLA writes pages about cached programs to stderr: a pipe that nobody reads would fill and stop it.
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True), errors


def springs(n_train=26, n_validation=5, seed=0):
    """A dataset of 12 argon atoms on springs, Δt = 20 fs: pairs without MD, which a tiny network can learn.

    Every run holds pieces of two frames, which are a pair.
    """
    rng = np.random.default_rng(seed)
    sites = 3.7 * np.stack(np.meshgrid([0, 1], [0, 1], [0, 1, 2], indexing="ij"), axis=-1).reshape(-1, 3)
    system, cell = state.make_system([18] * 12, [39.948] * 12, True), np.diag([7.4, 7.4, 11.1])
    turn, omega = 20.0 * 0.01, 0.01  # rad, rad/fs

    def pairs(n_pairs):
        away, speed = rng.normal(scale=0.2, size=(2, n_pairs, 12, 3)) * np.array([1, omega])[:, None, None, None]
        moved = away * (np.cos(turn) - 1) + speed * np.sin(turn) / omega
        later = speed * np.cos(turn) - away * np.sin(turn) * omega
        before = state.State(sites + away, speed, np.broadcast_to(cell, (n_pairs, 3, 3)))
        after = state.State(sites + away + moved, later, before.cell)
        both = jax.tree.map(lambda *ends: np.stack(ends, axis=1).reshape(-1, *ends[0].shape[1:]), before, after)
        return both

    counts = {"train": n_train, "validation": n_validation, "test": n_validation}
    runs = tuple(dataset.Run(pairs(n_pairs), 20.0, split, segment=2) for split, n_pairs in counts.items())
    return dataset.Dataset((dataset.Group(system, runs),), 20.0)


def small_config(periodic=True, **sizes):
    """A network small enough for tests, with every kind of irrep in it."""
    sizes = {"cutoff": 4.0, "lmax": 1, "harmonics_lmax": 2, "channels": 4, "layers": 2, **sizes}
    return config.ModelConfig(
        elements=(8, 14),
        masses=(15.999, 28.085),
        time_step_fs=10.0,
        displacement_rms=0.03,
        velocity_rms=0.004,
        speed_max=0.03,
        average_neighbors=20.0,
        isolated=not periodic,
        architecture=config.Architecture(radial_hidden=(8,), speed_hidden=(8,), **{"radial_intervals": 0, **sizes}),
    )


def perturbed(periodic=True, seed=0):
    """A non-degenerate structure with velocities: nine atoms, a hexagonal crystal smaller than the cutoff, or none."""
    rng = np.random.default_rng(seed)
    species = np.array([14, 14, 14, 8, 8, 8, 8, 8, 8])
    masses = np.where(species == 14, 28.085, 15.999)
    grid = np.array([(i % 3, i // 3, (i * 7) % 3) for i in range(9)]) / 3.0
    positions = (grid + rng.normal(scale=0.05, size=(9, 3))) @ HEXAGONAL
    system = state.make_system(species, masses, periodic)
    cell = jnp.asarray(HEXAGONAL if periodic else np.eye(3))
    return system, state.State(jnp.asarray(positions), jnp.asarray(rng.normal(scale=0.004, size=(9, 3))), cell)


@functools.lru_cache
def compiled(model_config, what):
    """``apply`` of the network or ``propagate``, compiled once per configuration: (params, system, state, graph)."""
    if what == "network":
        network = trajcast.TrajCast(model_config)
        return jax.jit(lambda params, *args: network.apply({"params": params}, *args))
    return jax.jit(lambda params, *args: trajcast.make_propagate(model_config, params)(*args))


def graph_of(model_config, system, state, capacity=96):
    """Neighbours, padded to one capacity so that tests share compiled programs."""
    search = neighbors.plan(system, state, model_config.architecture.cutoff)
    assert search.capacity <= capacity
    search = dataclasses.replace(search, capacity=capacity)
    return neighbors.build(search, system, state).graph


@functools.lru_cache
def random_params(model_config, seed=0):
    """Weights that leave no output at a symmetric value."""
    return trajcast.init(jax.random.key(seed), model_config, jnp.float64)


def make_trajectory(system, positions, velocities=None, interval=1.0, cell=None, **observables):
    """Frames ``[n_frames, n_atoms, 3]`` at equal intervals, fs; at rest, in an open cell, unless said otherwise."""
    velocities = np.zeros_like(positions) if velocities is None else velocities
    times = interval * np.arange(len(positions))
    cells = state.make_cell(np.broadcast_to(np.eye(3) if cell is None else cell, (len(times), 3, 3)), system.pbc)
    return trajectory.Trajectory(system, state.State(positions, velocities, cells), times, observables, {})


def oscillators(wavenumbers_per_cm, n_frames, interval=1.0, temperature_K=300.0):
    """Independent oscillators, one per atom and direction, of energy k_B T each; the first atom is oxygen."""
    n_atoms = len(wavenumbers_per_cm)
    system = state.make_system([8] + [1] * (n_atoms - 1), [16.0] + [1.0] * (n_atoms - 1), True)
    omega = 2 * np.pi * np.asarray(wavenumbers_per_cm) / (1000 * units.TERAHERTZ_IN_PER_CM)
    phases = np.random.default_rng(3).uniform(0, 2 * np.pi, (n_atoms, 3))
    angle = omega[:, None] * (interval * np.arange(n_frames))[:, None, None] + phases
    speed = np.sqrt(2 * units.BOLTZMANN * units.EV * temperature_K / system.masses)[:, None]
    return make_trajectory(system, speed * np.sin(angle), speed * np.cos(angle), interval, 10.0 * np.eye(3))
