"""One network, two uses: as a propagator with a long Δt, or as a potential with a short time step.

    python experiments/force_free_or_potential/compare.py quartz                # runs, then numbers
    python experiments/force_free_or_potential/compare.py water speed           # ns/day only
    python experiments/force_free_or_potential/compare.py paracetamol runs numbers --scale 0.1   # short

Both learnt from the same force field, which runs, too.  For each method: what one core makes a day, the statistical
error of an observable, the wall-clock for a given error, and how far the mean is from that of the force field beyond
what chance explains.  Runs are kept in runs/, numbers in results.json.  Interrupted, the same command goes on with the
first run that has not ended.
"""

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from ase.geometry import get_distances  # noqa: E402

import ffmd_jax as ffmd  # noqa: E402
from ffmd_jax.analysis import distributions, spectra, torsions  # noqa: E402
from ffmd_jax.core import files, mechanics, progress  # noqa: E402
from ffmd_jax.core.state import State, System, cast, make_system, take  # noqa: E402
from ffmd_jax.dynamics import rollout  # noqa: E402
from ffmd_jax.dynamics.engine import Block  # noqa: E402
from ffmd_jax.formats import trajectory  # noqa: E402
from ffmd_jax.reference_md import production, sampling, systems  # noqa: E402

HERE = Path(__file__).resolve().parent
BLOCKS = 8  # of a run, for standard errors
LAGS_PS = (0.2, 0.4)  # of the slope of the mean square displacement: what the shortest block of all runs holds
HEAVY_HYDROGEN = 3.024  # u, what hydrogen mass repartitioning makes of it


@dataclasses.dataclass(frozen=True)
class Method:
    """How a trajectory is made.

    Attributes:
        kind: "force field", "potential" or "propagator".
        dt: fs; of a propagator its Δt.
        length_ps: of the run.
        friction_tau_fs: beside CSVR, what the propagator's experiment uses; 0: CSVR alone.
        heavy: hydrogen mass repartitioning.
        conserve: the propagator keeps the energy of its potential.
    """

    kind: str
    dt: float
    length_ps: float
    friction_tau_fs: float = 0.0
    heavy: bool = False
    conserve: bool = False


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One system: its methods by name, the thermostat, what is compared, and the relative error that is asked for."""

    methods: dict[str, Method]
    tau_fs: float
    frame_fs: float
    targets: dict[str, float]
    potential: str = ""  # a folder; none: the model's own


COMPARISONS = {
    "quartz": Comparison(
        {
            "force field, 1 fs": Method("force field", 1, 300),
            "potential, 1 fs": Method("potential", 1, 150),
            "potential, 2 fs": Method("potential", 2, 150),
            "propagator, 30 fs, friction": Method("propagator", 30, 600, 3000.0),
            "propagator, 30 fs, energy kept": Method("propagator", 30, 600, 0.0, conserve=True),
            "propagator, 30 fs, energy kept, friction": Method("propagator", 30, 600, 3000.0, conserve=True),
        },
        tau_fs=75.0,
        frame_fs=30.0,
        targets={"vdos": 0.05, "rdf": 0.02},
    ),
    "water": Comparison(
        {
            "force field, 0.5 fs": Method("force field", 0.5, 300),
            "potential, 0.5 fs": Method("potential", 0.5, 40),
            "potential, 2 fs, heavy hydrogen": Method("potential", 2, 100, heavy=True),
            "propagator, 5 fs, friction": Method("propagator", 5, 160, 1000.0),
            "propagator, 5 fs, energy kept, friction": Method("propagator", 5, 160, 1000.0, conserve=True),
        },
        tau_fs=50.0,
        frame_fs=20.0,
        targets={"diffusion": 0.05, "rdf": 0.02},
    ),
    "paracetamol": Comparison(
        {
            "force field, 0.5 fs": Method("force field", 0.5, 8000, 3000.0),
            "potential, 0.5 fs": Method("potential", 0.5, 2000, 3000.0),
            "potential, 2 fs, heavy hydrogen": Method("potential", 2, 4000, 3000.0, heavy=True),
            "propagator, 7 fs, friction": Method("propagator", 7, 8000, 3000.0),
        },
        tau_fs=70.0,
        frame_fs=140.0,
        targets={"torsions": 0.05},
        potential=str(HERE.parent / "energy_and_pressure" / "paracetamol_potential"),
    ),
}


class Case:
    """A system with its propagator and potential, and how each method runs it."""

    def __init__(self, name: str, scale: float):
        self.name, self.of, self.scale = name, COMPARISONS[name], scale
        self.model = ffmd.load(name)
        self.potential = ffmd.load(self.of.potential) if self.of.potential else self.model.potential
        self.reference = systems.get(name)

    def start(self, seed: int = 11, length_ps: float = 5.0) -> State:
        """An equilibrated state at 300 K, of the force field."""
        engine = production.engine(self.reference)
        bath = ffmd.NVT(300.0, tau_fs=100.0, thermostat="langevin")
        n_frames = round(length_ps * 1000 / sampling.frame_interval(engine))
        whole = rollout.gather(sampling.heat(engine, bath, n_frames, jax.random.key(seed)))
        return mechanics.zero_momenta(self.reference.system, jax.tree.map(jnp.asarray, take(whole.frames, -1)))

    def blocks(self, method: Method, start: State, length_ps: float) -> Iterator[Block]:
        """Blocks of a run of the force field or the potential."""
        ensemble = ffmd.NVT(300.0, tau_fs=self.of.tau_fs, friction_tau_fs=method.friction_tau_fs or None)
        system = repartitioned(self.reference.system, start) if method.heavy else self.reference.system
        if method.kind == "force field":
            made = self.reference._replace(system=system, dt=method.dt)
        else:
            made = production.of_model(self.potential, system, start, method.dt, jnp.float32)
            start = cast(start, jnp.float32)
        every = round(self.of.frame_fs / method.dt)
        n_steps = every * max(BLOCKS * 2, round(length_ps * 1000 / self.of.frame_fs))
        key = jax.random.key(5)
        return production.run(made, start, n_steps=n_steps, every=every, key=key, ensemble=ensemble)

    def propagate(self, method: Method, start: State, length_ps: float, **options):
        """A force-free run of `ffmd.simulate`."""
        every = round(self.of.frame_fs / method.dt)
        return ffmd.simulate(
            self.model, (self.reference.system, start), every=every,
            steps=every * max(BLOCKS * 2, round(length_ps * 1000 / self.of.frame_fs)),
            ensemble=ffmd.NVT(300.0, tau_fs=self.of.tau_fs, friction_tau_fs=method.friction_tau_fs or None),
            potential=self.potential if method.conserve else "none", on_alarm="warn", **options,
        )  # fmt: skip

    def run(self, label: str, folder: Path) -> None:
        """Makes the trajectory of one method, if it is not there."""
        method, path = self.of.methods[label], folder / f"{self.name}_{slug(label)}.h5"
        if path.exists():
            return
        start, length_ps, partial = self.start(), method.length_ps * self.scale, path.with_suffix(".part.h5")
        if method.kind == "propagator":
            self.propagate(method, start, length_ps, out=partial, resume=True)
        else:
            with (
                progress.progress(length_ps, f"{self.name}, {label}", "ps") as bar,
                trajectory.Writer(partial, self.reference.system, {"source": label}, overwrite=True) as writer,
            ):
                for block in self.blocks(method, start, length_ps):
                    writer.append(block.frames, block.times, {})
                    bar.update(len(block.times) * self.of.frame_fs / 1000)
        partial.rename(path)

    def ns_per_day(self, label: str, start: State) -> float:
        """From block to block, after the first, which compiles, for ten seconds and two blocks at least."""
        method, marks = self.of.methods[label], []

        def mark(done_ps: float, _: float = 0.0) -> None:
            marks.append((time.perf_counter(), done_ps))

        def enough() -> bool:
            return len(marks) > 2 and marks[-1][0] - marks[0][0] > 10

        if method.kind == "propagator":
            self.propagate(method, start, method.length_ps, progress=mark, stop=enough)
        else:
            for block in self.blocks(method, start, method.length_ps):
                mark(float(block.times[-1]) / 1000)
                if enough():
                    break
        (began, first_ps), (ended, last_ps) = marks[0], marks[-1]
        return 86.4 * (last_ps - first_ps) / (ended - began)


def repartitioned(system: System, state: State) -> System:
    """Hydrogen takes mass from the nearest other atom, which holds back nothing but its own motion."""
    masses, hydrogen = np.array(system.masses), np.asarray(system.species) == 1
    apart = get_distances(np.asarray(state.positions), cell=np.asarray(state.cell), pbc=np.asarray(system.pbc))[1]
    apart[:, hydrogen] = np.inf
    for atom in np.flatnonzero(hydrogen):
        masses[np.argmin(apart[atom])] -= HEAVY_HYDROGEN - masses[atom]
    masses[hydrogen] = HEAVY_HYDROGEN
    return make_system(system.species, masses, system.pbc)


def slug(label: str) -> str:
    return label.replace(", ", "_").replace(" ", "-")


def observe(kind: str, part: trajectory.Trajectory) -> np.ndarray:
    """An observable of a part of a run, ``[n]``."""
    if kind == "vdos":
        return spectra.vdos(part).density
    if kind == "diffusion":
        oxygen = part.frames.positions[:, np.asarray(part.system.species) == 8]
        oxygen = oxygen - oxygen.mean(axis=1, keepdims=True)
        every = (part.times[1] - part.times[0]) * 1e-3
        low, high = (round(lag_ps / every) for lag_ps in LAGS_PS)
        squares = [np.mean(np.sum((oxygen[n:] - oxygen[:-n]) ** 2, axis=-1)) for n in (low, high)]
        return np.array([(squares[1] - squares[0]) / (6e3 * (high - low) * every) * 0.1])  # Å²/fs to cm²/s
    if kind == "rdf":
        pairs = itertools.combinations_with_replacement(np.unique(part.system.species).tolist(), 2)
        return np.concatenate([distributions.radial_distribution(part, pair).g for pair in pairs])
    edges, positions = np.linspace(-np.pi, np.pi, 37), part.frames.positions
    heavy = [same for same in torsions.dihedrals(part.system, positions[0]) if 1 not in part.system.species[[*same[0]]]]
    return np.concatenate(
        [np.histogram([torsions.angles(positions, one) for one in same], edges, density=True)[0] for same in heavy]
    )


def blocks_of(kind: str, path: Path) -> np.ndarray:
    """The observable of each block of a run, ``[BLOCKS, n]``; the first tenth is left out."""
    whole = trajectory.read(path)
    n_frames = len(whole.times)
    size = (n_frames - n_frames // 10) // BLOCKS
    return np.stack(
        [
            observe(kind, trajectory.part(whole, slice(n_frames - (i + 1) * size, n_frames - i * size)))
            for i in reversed(range(BLOCKS))
        ]
    )


def compared(case: Case, folder: Path, speeds: dict[str, float]) -> dict:
    """Error, wall-clock for the error that is asked for, and bias, of every observable and method.

    Errors and biases are lengths of vectors relative to the observable's: |s|/|m| with s the standard error of the mean
    m over the blocks, and √(|m − m₀|² − |s|² − |s₀|²)/|m₀| beside the force field's m₀, zero where chance explains it.
    """
    rows = {}
    for kind, target in case.of.targets.items():
        known = {
            label: blocks_of(kind, folder / f"{case.name}_{slug(label)}.h5")
            for label in case.of.methods
            if (folder / f"{case.name}_{slug(label)}.h5").exists()
        }
        first = next(iter(known.values()))
        exact, noise = first.mean(axis=0), np.linalg.norm(first.std(axis=0, ddof=1)) / np.sqrt(BLOCKS)
        rows[kind] = {"target": target, "methods": {}}
        for label, parts in known.items():
            mean, error = parts.mean(axis=0), np.linalg.norm(parts.std(axis=0, ddof=1)) / np.sqrt(BLOCKS)
            off, scale = np.linalg.norm(mean - exact), np.linalg.norm(exact)
            length_ps = _length_ps(folder / f"{case.name}_{slug(label)}.h5")
            needed_ps = 0.9 * length_ps * (error / np.linalg.norm(mean) / target) ** 2
            found = {
                "error": error / np.linalg.norm(mean), "length_ps": length_ps, "needed_ps": needed_ps,
                "core_minutes": needed_ps / 1000 / speeds[label] * 1440,
            }  # fmt: skip
            if label != next(iter(known)):
                found |= {
                    "difference": off / scale, "chance": float(np.hypot(error, noise)) / scale,
                    "bias": float(np.sqrt(max(0.0, off**2 - error**2 - noise**2))) / scale,
                }  # fmt: skip
            if len(mean) == 1:
                found["mean"] = float(mean[0])
            rows[kind]["methods"][label] = {key: float(f"{value:.3g}") for key, value in found.items()}
    return rows


def temperatures(case: Case, folder: Path) -> dict:
    """Mean temperature of each element, K; heavy hydrogen's masses are not those of the file, and are left out."""
    elements = tuple(np.unique(case.reference.system.species).tolist())
    found = {}
    for label, method in case.of.methods.items():
        path = folder / f"{case.name}_{slug(label)}.h5"
        if path.exists() and not method.heavy:
            whole = trajectory.read(path)
            kept = trajectory.part(whole, slice(len(whole.times) // 10, None)).frames
            values = jax.vmap(
                lambda state, system=whole.system: mechanics.temperature_by_species(system, state, elements)
            )(kept)
            found[label] = np.asarray(values).mean(axis=0).round(1).tolist()
    return {"elements": elements, "K": found}


def _length_ps(path: Path) -> float:
    times = trajectory.read(path).times
    return float(times[-1] - times[0] + times[1] - times[0]) / 1000


def speed(case: Case) -> dict[str, float]:
    """ns/day of every method, in turn, medians of three."""
    start, found = case.start(length_ps=1.0), {label: [] for label in case.of.methods}
    for _ in range(3):
        for label in case.of.methods:
            found[label].append(case.ns_per_day(label, start))
    return {label: float(f"{np.median(values):.3g}") for label, values in found.items()}


def markdown(own: dict) -> str:
    """The numbers of a system as tables, one for each observable."""
    lines = []
    for kind, row in own["observables"].items():
        lines += [
            f"| {kind} | ns/day | core-minutes for {100 * row['target']:g} % | difference (chance) | beyond chance |",
            "|---|---|---|---|---|",
        ]
        for label, found in row["methods"].items():
            off = [f"{100 * found[key]:.2g} %" if key in found else "" for key in ("difference", "chance", "bias")]
            apart = f"{off[0]} ({off[1]})" if off[0] else "–"
            needed = f"{found['core_minutes']:.2g}"
            lines.append(f"| {label} | {own['ns_per_day'][label]:g} | {needed} | {apart} | {off[2] or '–'} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=[*COMPARISONS])
    parser.add_argument("stages", nargs="*", help="of runs, speed, numbers; none: all")
    parser.add_argument("--scale", type=float, default=1.0, help="lengths of all runs are multiplied with this")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of runs/ and results.json")
    given = parser.parse_args()
    if unknown := set(given.stages) - {"runs", "speed", "numbers"}:
        parser.error(f"unknown stage {', '.join(sorted(unknown))}; choose from runs, speed, numbers")
    case, stages = Case(given.system, given.scale), given.stages or ["runs", "speed", "numbers"]
    folder, path = given.out / "runs", given.out / "results.json"
    folder.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    own = results.setdefault(given.system, {})
    if "runs" in stages:
        for label in case.of.methods:
            case.run(label, folder)
    if "speed" in stages:
        own["ns_per_day"] = speed(case)
    if "numbers" in stages:
        own["observables"] = compared(case, folder, own["ns_per_day"])
        own["temperatures"] = temperatures(case, folder)
    files.write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())
    print(json.dumps(own, indent=1))
    if "observables" in own:
        print(markdown(own))


if __name__ == "__main__":
    main()
