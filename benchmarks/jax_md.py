"""Force-free MD beside jax-md's force-field MD, in one run: speed, and what comes out.

    taskset -c 0 python benchmarks/jax_md.py                                # speeds of all systems
    taskset -c 0 python benchmarks/jax_md.py --systems silicon-512 --length-ps 50
    python benchmarks/jax_md.py --figure lines.jsonl --out speeds.png       # ns/day against atoms

Both sides are NVT at 300 K in single precision, and each compiles its whole loop.  jax-md's has its potential, its
neighbour list with update in each step, and its Nosé–Hoover thermostat, at 1 fs, the step of its examples, and at 2 fs;
the force-free side is `ffmd_jax.simulate` with its monitors, CSVR and weak friction.  Blocks of both are run in turn,
``ns_per_day`` are medians.

With ``--length-ps`` both make trajectories of that length with the same weak friction (jax-md's: Langevin), which are
compared: temperature, VDOS and g(r) beside the halves of either, and the mean energy by the same Stillinger–Weber
potential.  jax-md's BKS is cut at 8 Å and differs in its long range from the one that the quartz model has learnt, so
that quartz is compared in speed only.
"""

import argparse
import datetime
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ase.build
import ase.spacegroup
import jax
import jax.numpy as jnp
import numpy as np

import ffmd_jax as ffmd
from ffmd_jax.core import units
from ffmd_jax.core.state import State, System, take
from ffmd_jax.formats import ase_files
from ffmd_jax.formats.common import Trajectory
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import production, systems

# Else this file would be what `import jax_md` finds.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]

SYSTEMS = ("silicon-216", "silicon-512", "silicon-4096", "quartz-576")
KELVIN, SKIN, ROUNDS, STEPS_FS = 300.0, 0.5, 3, (1.0, 2.0)
FRICTION_TAU_FS = 3000.0  # of weak friction, without which vibrations of a crystal hardly share their energy
_EVERY = 4  # steps between two frames where speed is measured


class JaxMd(NamedTuple):
    """jax-md's side: ``run(state, n_frames)`` to the state after it and the frames; ``begin`` makes the first state."""

    begin: Callable[[Any], Any]
    run: Callable[[Any, int], tuple[Any, Any]]


def structure(name: str) -> tuple[System, State]:
    """An orthorhombic crystal, at rest."""
    n_atoms = int(name.split("-")[1])
    if name.startswith("silicon"):
        repeat = round((n_atoms / 8) ** (1 / 3))
        return ase_files.from_atoms(ase.build.bulk("Si", "diamond", a=5.431, cubic=True).repeat(repeat))
    unit = ase.spacegroup.crystal(
        ["Si", "O"], [(0.4697, 0, 1 / 3), (0.4135, 0.2669, 0.2142)], spacegroup=152,
        cellpar=[4.9134, 4.9134, 5.4052, 90, 90, 120],
    )  # fmt: skip
    block = ase.build.make_supercell(unit, [[1, 0, 0], [1, 2, 0], [0, 0, 1]])  # a, a√3, c
    return ase_files.from_atoms(block.repeat((4, 2, 4)))


@functools.cache  # jax-md compares the lists of two simulations, which only one and the same list survives
def potential(name: str) -> tuple[Callable, Any, Any]:
    """jax-md's energy, neighbour list and shift function of a system, in Å and eV."""
    from jax_md import energy, space

    system, state = structure(name)
    box: Any = jnp.asarray(np.diag(state.cell), jnp.float32)
    displacement, shift = space.periodic(box)
    if name.startswith("silicon"):
        neighbor_fn, energy_fn = energy.stillinger_weber_neighbor_list(displacement, box, dr_threshold=SKIN)
    else:
        kinds = jnp.asarray(np.asarray(system.species) == 8, jnp.int32)
        neighbor_fn, energy_fn = energy.bks_silica_neighbor_list(displacement, box, kinds, dr_threshold=SKIN)
    places = jnp.asarray(state.positions, jnp.float32) % box
    return energy_fn, neighbor_fn.allocate(places, extra_capacity=4), shift


def jax_md(name: str, dt_fs: float, every_fs: float, friction_tau_fs: float | None = None) -> JaxMd:
    """Frames every ``every_fs`` of jax-md's NVT, Nosé–Hoover or Langevin; its units are Å, eV and fs."""
    from jax_md import simulate

    energy_fn, neighbor, shift = potential(name)
    system, state = structure(name)
    thermal = KELVIN * units.BOLTZMANN
    if friction_tau_fs is None:
        init, apply = simulate.nvt_nose_hoover(energy_fn, shift, dt_fs, thermal)
    else:
        init, apply = simulate.nvt_langevin(energy_fn, shift, dt_fs, thermal, gamma=1 / friction_tau_fs)
    mass = jnp.asarray(system.masses / units.EV, jnp.float32)
    places = jnp.asarray(state.positions % np.diag(state.cell), jnp.float32)
    n_steps = round(every_fs / dt_fs)

    def begin(key):  # twice the temperature: half of it goes into the potential energy of the lattice
        return init(key, places, mass=mass, neighbor=neighbor, kT=2 * thermal), neighbor

    @jax.jit
    def frame(both):
        def step(_, both):
            state, neighbor = both
            state = apply(state, neighbor=neighbor)  # pyright: ignore[reportCallIssue]
            return state, neighbor.update(state.position)

        return jax.lax.fori_loop(0, n_steps, step, both)

    def run(both, n_frames):
        seen = []
        for _ in range(n_frames):
            both = frame(both)
            seen.append((both[0].position, both[0].momentum / both[0].mass))
        seen = jax.tree.map(np.asarray, seen)
        if bool(both[1].did_buffer_overflow):
            raise RuntimeError("the neighbour list of jax-md overflowed")
        return both, seen

    return JaxMd(begin, run)


def trajectory(system: System, cell: np.ndarray, seen: list, every_fs: float) -> Trajectory:
    """jax-md's frames, unwrapped."""
    positions, velocities = (np.asarray(values, np.float64) for values in zip(*seen, strict=True))
    box = np.diag(cell)
    moved = np.diff(positions, axis=0)
    moved -= box * np.round(moved / box)
    positions = positions[:1] + np.concatenate([np.zeros_like(positions[:1]), np.cumsum(moved, axis=0)])
    frames = State(positions, velocities, np.broadcast_to(cell, (len(positions), 3, 3)))
    facts = {"ensemble": "NVT", "temperature_K": KELVIN, "thermostat": "Nosé–Hoover", "system": "jax-md"}
    return Trajectory(system, frames, every_fs * np.arange(len(positions)), {}, facts)


def force_free(model: Model, start: Any, length_fs: float, every: int = _EVERY) -> tuple[Any, float]:
    """A run of about that length, and its ns/day."""
    step_fs = model.config.time_step_fs
    bath = ffmd.NVT(KELVIN, tau_fs=75.0, friction_tau_fs=FRICTION_TAU_FS)
    n_frames = max(2, round(length_fs / (step_fs * every)))
    began = time.perf_counter()
    run = ffmd.simulate(model, start, steps=n_frames * every, every=every, ensemble=bath, progress=False)
    return run, units.ns_per_day(n_frames * every * step_fs, time.perf_counter() - began)


def speeds(name: str, model: Model, seconds: float) -> dict[str, Any]:
    """ns/day of both sides, measured in turn."""
    system, state = structure(name)
    frame_fs = _EVERY * model.config.time_step_fs
    others, states, n_frames = {}, {}, {}
    for dt in STEPS_FS:
        others[dt] = jax_md(name, dt, frame_fs)
        states[dt], _ = others[dt].run(others[dt].begin(jax.random.key(1)), 4)
        began = time.perf_counter()
        states[dt], _ = others[dt].run(states[dt], 2)
        n_frames[dt] = max(2, round(2 * seconds / (time.perf_counter() - began)))
    start, _ = force_free(model, (system, state), 100 * frame_fs)
    _, rate = force_free(model, start, 100 * frame_fs)
    length_fs = max(100 * frame_fs, rate * seconds / units.ns_per_day(1.0, 1.0))
    force_free(model, start, length_fs)
    found: dict[str, list[float]] = {"force_free": [], **{_label(dt): [] for dt in STEPS_FS}}
    for _ in range(ROUNDS):
        found["force_free"].append(force_free(model, start, length_fs)[1])
        for dt in STEPS_FS:
            began = time.perf_counter()
            states[dt], _ = others[dt].run(states[dt], n_frames[dt])
            found[_label(dt)].append(units.ns_per_day(n_frames[dt] * frame_fs, time.perf_counter() - began))
    ratios = {side: np.array(found["force_free"]) / np.array(values) for side, values in found.items()}
    return {
        "ns_per_day": {side: round(float(np.median(values)), 2) for side, values in found.items()},
        "times_faster": {side: round(float(np.median(x)), 2) for side, x in ratios.items() if side != "force_free"},
    }


def physics(name: str, model: Model, length_ps: float) -> dict[str, Any]:
    """A run of either side, compared, and the wall-clock that either needs for the same statistical error.

    Errors fall with the square root of the length.  What a length leaves is seen in the halves of each run.
    """
    system, state = structure(name)
    step_fs = model.config.time_step_fs
    other = jax_md(name, STEPS_FS[0], step_fs, FRICTION_TAU_FS)
    warm, n_frames = round(5 * units.PS / step_fs), round(length_ps * units.PS / step_fs)
    begun, _ = other.run(other.begin(jax.random.key(2)), warm)
    began = time.perf_counter()
    _, seen = other.run(begun, n_frames)
    theirs_s = time.perf_counter() - began
    theirs = trajectory(system, np.asarray(state.cell), seen, step_fs)
    start, _ = force_free(model, (system, state), 5 * units.PS, every=1)
    began = time.perf_counter()
    ours, _ = force_free(model, start, length_ps * units.PS, every=1)
    ours_s = time.perf_counter() - began
    with jax.enable_x64(True):
        prepared = systems.get(name.split("-")[0], structure=(system, state))
        energies = [
            np.concatenate([
                np.asarray(production.potential_energies(prepared, take(x.frames, slice(i, i + 100))))
                for i in range(0, len(x.times), 100)
            ])
            for x in (ours.trajectory, theirs)
        ]  # fmt: skip
    ours, theirs = (
        x._replace(observables={**x.observables, "potential_energy_eV": e})
        for x, e in zip((ours.trajectory, theirs), energies, strict=True)
    )
    found = ffmd.analyze(ours, theirs).summary
    names = ("vdos_overlap", "rdf_rmse", "potential_energy_shift_meV_per_atom")
    names += ("potential_energy_shift_error_meV_per_atom", "vdos_halves_overlap", "reference_vdos_halves_overlap")
    names += ("rdf_halves_rmse", "reference_rdf_halves_rmse", "temperature_K", "temperature_error_K")
    names += ("reference_temperature_K", "reference_temperature_error_K")
    return {
        "length_ps": length_ps, "wall_s": {"force_free": round(ours_s, 1), _label(STEPS_FS[0]): round(theirs_s, 1)},
        "alarms": found["alarms"],
        # The time that the force-free side needs for halves as close as those of jax-md, over the time of jax-md.
        "wall_for_same_error": {
            "vdos": _wall(found, "vdos_halves_overlap", lambda x: 1 - x, ours_s, theirs_s),
            "rdf": _wall(found, "rdf_halves_rmse", lambda x: x, ours_s, theirs_s),
        },
        **{name: round(float(found[name]), 4) for name in names},
    }  # fmt: skip


def _wall(found: dict[str, Any], name: str, error: Callable, ours_s: float, theirs_s: float) -> float:
    ratio = error(found[name]) / error(found[f"reference_{name}"])
    return round(ratio**2 * ours_s / theirs_s, 3)


def _label(dt_fs: float) -> str:
    return f"jax_md_{dt_fs:g}_fs"


def figure(lines: list[dict[str, Any]], out: Path) -> None:
    """ns/day against atoms, of silicon."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    fig, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    rows = sorted((line for line in lines if line["system"].startswith("silicon")), key=lambda line: line["atoms"])
    for side in rows[0]["ns_per_day"]:
        label = side.replace("_", " ").replace("jax md", "jax-md,").replace("force free", "force-free")
        axes.plot([row["atoms"] for row in rows], [row["ns_per_day"][side] for row in rows], "o-", label=label)
    axes.set(xscale="log", yscale="log", xlabel="atoms", ylabel="ns/day", title="Silicon, Stillinger–Weber")
    axes.set_xticks([row["atoms"] for row in rows], [f"{row['atoms']:,}" for row in rows])
    axes.minorticks_off()
    axes.legend()
    fig.savefig(out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--silicon", default="silicon", help="model of silicon (folder, or a shipped name)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--length-ps", type=float, help="compare trajectories of this length, too; silicon only")
    parser.add_argument("--figure", type=Path, metavar="LINES", help="draw these lines instead, into --out")
    parser.add_argument("--out", type=Path, default=Path("jax_md.png"))
    given = parser.parse_args()
    if given.figure:
        figure([json.loads(line) for line in given.figure.read_text().splitlines()], given.out)
        return
    for name in given.systems:
        model = ffmd.load(given.silicon if name.startswith("silicon") else "quartz")
        line = {
            "system": name, "atoms": int(name.split("-")[1]), "time_step_fs": model.config.time_step_fs,
            **speeds(name, model, given.seconds),
        }  # fmt: skip
        if given.length_ps and name.startswith("silicon"):
            line |= physics(name, model, given.length_ps)
        line |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "date": f"{datetime.date.today()}"}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
