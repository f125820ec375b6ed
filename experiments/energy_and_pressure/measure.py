"""Energy and pressure: what a potential, energy conservation and the barostat do for force-free MD, in numbers.

    python experiments/energy_and_pressure/measure.py quartz                 # everything, some hours
    python experiments/energy_and_pressure/measure.py water slope npt cost   # these only
    --model M --potential P --length-ps 10                                   # of other models, shorter

Numbers go to results.json beside this file.  How the potentials are made: README.md here.
"""

import argparse
import json
import time
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import ffmd_jax as ffmd  # noqa: E402
from ffmd_jax.core import mechanics, neighbors, units  # noqa: E402
from ffmd_jax.core.state import State, take  # noqa: E402
from ffmd_jax.dynamics import barostat, potentials, rollout  # noqa: E402
from ffmd_jax.dynamics.ensemble import Ensemble  # noqa: E402
from ffmd_jax.models import model as models  # noqa: E402
from ffmd_jax.reference_md import production, sampling, systems  # noqa: E402

HERE = Path(__file__).resolve().parent
TAU_FS = {"quartz": 75.0, "water": 100.0, "paracetamol": 70.0}
FRICTION_FS = {"quartz": 3000.0, "water": 1000.0, "paracetamol": 3000.0}
VOLUMES = {"quartz": (0.98, 1.0, 1.02, 1.04), "water": (0.97, 1.0, 1.03)}
STARTS = 3
REVERSIBLE = {"paracetamol"}  # in NVE, time-symmetrised steps: its plain ones move energy from H and O to C


def starts(name: str, volume: float = 1.0, number: int = STARTS, seed: int = 11, length_ps: float = 2.0):
    """Prepared system at a volume, and start states at 300 K from one run in a heat bath."""
    prepared = systems.get(name)
    if volume != 1.0:
        length = volume ** (1 / 3)
        scaled = prepared.state._replace(positions=length * prepared.state.positions, cell=length * prepared.state.cell)
        prepared = systems.get(name, structure=(prepared.system, scaled))
    engine = production.engine(prepared)
    bath = ffmd.NVT(300.0, tau_fs=100.0, thermostat="langevin")
    n_frames = round((length_ps + number) * 1000 / sampling.frame_interval(engine))
    whole = rollout.gather(sampling.heat(engine, bath, n_frames, jax.random.key(seed)))
    chosen = np.linspace(n_frames * length_ps / (length_ps + number), n_frames - 1, number).astype(int)
    found = [take(whole.frames, int(i)) for i in chosen]
    return prepared, [mechanics.zero_momenta(prepared.system, jax.tree.map(jnp.asarray, state)) for state in found]


def temperatures(system, frames: State) -> dict[str, float]:
    """Mean temperatures of all atoms and of each element, K."""
    elements = tuple(int(z) for z in np.unique(system.species))
    total = jax.jit(jax.vmap(lambda state: mechanics.temperature(system, state)))(frames)
    own = jax.jit(jax.vmap(lambda state: mechanics.temperature_by_species(system, state, elements)))(frames)
    names = models.symbols(elements)
    return {"all": float(np.mean(total)), **dict(zip(names, np.mean(own, axis=0).tolist(), strict=True))}


def slope(name: str, model, potential, length_ps: float) -> dict:
    """−pressure of the potential energy, (E(V + 1 %) − E(V − 1 %))/0.02 V, GPa, beside the teacher's."""
    rows = {}
    for volume in VOLUMES[name]:
        prepared, found = starts(name, volume, number=8)
        frames = jax.tree.map(lambda *x: jnp.stack(x), *found)
        molecules = potentials.find_molecules(prepared.system, found[0])
        values = [
            _slopes(energy, cutoff, prepared.system, frames, molecules)
            for energy, cutoff in (
                (prepared.energy, prepared.cutoff),
                (models.energy(potential, jnp.float64), potential.config.architecture.cutoff),
            )
        ]
        off = values[1] - values[0]
        rows[f"{volume:g}"] = {
            "teacher_GPa": float(values[0].mean()),
            "error_GPa": float(off.mean()),
            "standard_error_GPa": float(off.std() / np.sqrt(len(off))),
        }
    return rows


def _slopes(energy, cutoff, system, frames, molecules) -> np.ndarray:
    search = neighbors.plan(system, frames, cutoff, 0.3, 1.2)

    @jax.jit
    def of(state):
        ends = []
        for change in (0.01, -0.01):
            moved = barostat.scaled(system, state, jnp.full(3, jnp.cbrt(1 + change)), molecules)
            ends.append(energy(system, moved, neighbors.build(search, system, moved).graph))
        return (ends[0] - ends[1]) / (0.02 * mechanics.volume(state.cell)) * units.EV_PER_A3_IN_GPA

    return np.array([float(of(take(frames, i))) for i in range(len(frames.positions))])


def nve(name: str, model, potential, length_ps: float) -> list[dict]:
    """Constant energy with the potential, beside reference NVE from the same starts."""
    prepared, found = starts(name)
    interval, rows = model.config.time_step_fs, []
    n_steps, every = round(length_ps * 1000 / interval / 10) * 10, max(1, round(30 / interval))
    n_steps -= n_steps % every
    for state in found:
        how = {"reversible": name in REVERSIBLE}
        run = _run(model, (prepared.system, state), n_steps, ffmd.NVE(), every, potential, **how)
        stride = round(interval * every / prepared.dt)
        exact = rollout.gather(
            production.run(prepared, state, n_steps=len(run.times) * stride, every=stride, key=jax.random.key(0))
        )
        total, times = run.observables["total_energy_eV"], run.times / 1000
        half = len(times) // 2
        rows.append(
            {
                "alarms": [alarm.kind for alarm in run.alarms],
                "length_ps": float(times[-1]),
                "temperature_K": temperatures(prepared.system, run.frames),
                "second_half_K": temperatures(prepared.system, take(run.frames, slice(half, None))),
                "reference_K": temperatures(prepared.system, exact.frames),
                "drift_meV_per_atom_ps": float(np.polyfit(times, total, 1)[0] * 1e3 / len(prepared.system.species)),
                "propagator_gain_meV_per_atom_ps": float(
                    run.observables["propagator_gain_eV"][-1] * 1e3 / times[-1] / len(prepared.system.species)
                ),
            }
        )
    return rows


def weak(name: str, model, potential, length_ps: float) -> dict:
    """NVT with a relaxation time of 100 Δt, with and without energy conservation: the temperature that it holds."""
    prepared, found = starts(name, number=1)
    interval = model.config.time_step_fs
    n_steps, every = round(length_ps * 1000 / interval / 10) * 10, max(1, round(30 / interval))
    n_steps -= n_steps % every
    rows = {}
    for label, conserve in (("with", True), ("without", False)):
        ensemble = ffmd.NVT(300.0, tau_fs=100 * interval)
        run = _run(
            model, (prepared.system, found[0]), n_steps, ensemble, every, potential, energy_conservation=conserve
        )
        quarter = len(run.times) // 4
        rows[label] = {
            "alarms": [alarm.kind for alarm in run.alarms],
            "temperature_K": temperatures(prepared.system, take(run.frames, slice(quarter, None))),
        }
    return rows


def npt(name: str, model, potential, length_ps: float) -> dict:
    """Constant pressure, 300 K and 1 bar: force-free beside reference MD, and the propagator with the exact energy."""
    prepared, found = starts(name, number=1)
    interval, coupling = model.config.time_step_fs, "anisotropic" if name == "quartz" else "isotropic"
    n_steps, every = round(length_ps * 1000 / interval / 10) * 10, max(1, round(30 / interval))
    n_steps -= n_steps % every
    bath = {"tau_fs": TAU_FS[name], "friction_tau_fs": FRICTION_FS[name], "coupling": coupling}
    ensemble = ffmd.NPT(300.0, **bath, barostat_every=max(1, round(25 / interval)))
    rows = {}
    for label, choice in (("own potential", potential), ("exact energy", f"reference:{name}")):
        began = time.monotonic()
        run = _run(model, (prepared.system, found[0]), n_steps, ensemble, every, choice)
        rows[label] = {"alarms": [a.kind for a in run.alarms], **_volumes(prepared.system, run.frames)}
        rows[label] |= {"acceptance": float(run.observables["barostat_acceptance"][-1])}
        rows[label] |= {"wall_s": time.monotonic() - began}
    stride = round(interval * every / prepared.dt)
    exact = rollout.gather(
        production.run(
            prepared, found[0], n_steps=n_steps // every * stride, every=stride, key=jax.random.key(1),
            ensemble=ffmd.NPT(300.0, **bath, barostat_every=round(25 / prepared.dt)),
        )
    )  # fmt: skip
    rows["reference"] = _volumes(prepared.system, exact.frames)
    return rows


def _volumes(system, frames: State) -> dict:
    """Mean volume, density and cell lengths without the first quarter, with errors from ten parts, and temperatures."""
    kept = take(frames, slice(len(frames.positions) // 4, None))
    cells = np.asarray(kept.cell, np.float64)
    lengths, volumes = np.linalg.norm(cells, axis=-1), mechanics.volume(cells)
    density = np.sum(system.masses) * 1.66053907 / volumes  # g/cm³

    def mean(values):
        parts = values[: len(values) // 10 * 10].reshape(10, -1).mean(axis=1)
        return [float(values.mean()), float(parts.std(ddof=1) / np.sqrt(10))]

    return {
        "volume_A3_per_atom": mean(volumes / len(system.species)),
        "density_g_cm3": mean(density),
        "lengths_A": [mean(lengths[:, i]) for i in range(3)],
        "compressibility_per_GPa": float(
            volumes.var() / volumes.mean() / (units.BOLTZMANN * 300) / units.EV_PER_A3_IN_GPA
        ),
        "temperature_K": temperatures(system, kept),
    }


def cost(name: str, model, potential, length_ps: float) -> dict:
    """Milliseconds a step, plain, with potential and conservation, and with the barostat; in turn, medians of five."""
    prepared, found = starts(name, number=1)
    kinds: dict[str, tuple[Ensemble, object]] = {
        "plain": (ffmd.NVT(300.0, tau_fs=TAU_FS[name]), "none"),
        "conserved": (ffmd.NVT(300.0, tau_fs=TAU_FS[name]), potential),
    }
    if all(prepared.system.pbc):
        kinds["npt"] = (ffmd.NPT(300.0, tau_fs=TAU_FS[name]), potential)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for trial in range(6):  # the first compiles
        for kind, (ensemble, choice) in kinds.items():
            began = time.perf_counter()
            _run(model, (prepared.system, found[0]), 500, ensemble, 50, choice)
            seconds[kind] += [time.perf_counter() - began] if trial else []
    medians = {kind: float(np.median(values) / 500 * 1e3) for kind, values in seconds.items()}
    return {"ms_per_step": medians, "relative": {k: v / medians["plain"] - 1 for k, v in medians.items()}}


def _run(model, start, n_steps, ensemble, every, potential, **options):
    return ffmd.simulate(
        model, start, steps=n_steps, ensemble=ensemble, every=every, potential=potential, progress=False,
        on_alarm="warn", **options,
    )  # fmt: skip


STAGES = {"slope": slope, "nve": nve, "weak": weak, "npt": npt, "cost": cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=["quartz", "water", "paracetamol"])
    parser.add_argument("stages", nargs="*", help=f"{', '.join(STAGES)}; none: all")
    parser.add_argument("--model", help="propagator (default: the shipped one)")
    parser.add_argument("--potential", help="potential (default: the model's own)")
    parser.add_argument("--length-ps", type=float, default=100.0, help="of each run, ps")
    parser.add_argument("--out", type=Path, default=HERE / "results.json", help="where numbers go")
    given = parser.parse_args()
    model = ffmd.load(given.model or given.system)
    potential = ffmd.load(given.potential) if given.potential else model.potential
    if potential is None:
        parser.error(f"{model.name} has no potential: give --potential")
    for stage in given.stages or STAGES:
        if given.system == "paracetamol" and stage in ("slope", "npt"):
            continue
        found = STAGES[stage](given.system, model, potential, given.length_ps)
        print(stage, json.dumps(found, indent=1), flush=True)
        results = json.loads(given.out.read_text()) if given.out.exists() else {}
        results.setdefault(given.system, {})[stage] = found
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
