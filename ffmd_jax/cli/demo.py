"""``ffmd demo``: a shipped model beside reference MD, analysed and reported."""

import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from tyro.conf import arg

from ffmd_jax.cli import common
from ffmd_jax.core import files, progress, units

# As the roll-outs of experiments/: the paper's CSVR, and friction that shares the energy, fs; reversible steps where no
# strong vibration has a period near Δt or 2 Δt.
_TAU_FS = {"paracetamol": 70.0, "quartz": 75.0, "water": 50.0}
_FRICTION_TAU_FS = {"paracetamol": 4000.0, "quartz": 3000.0, "water": 1000.0}
_REVERSIBLE = {"paracetamol": True, "quartz": False, "water": True}
_LENGTHS_PS = {"paracetamol": 30.0, "quartz": 30.0, "water": 10.0}  # minutes each


def demo(
    out: Path = Path("ffmd_demo"),
    system: Literal["quartz", "paracetamol", "water"] = "quartz",
    temperature: Annotated[float, arg(metavar="K")] = 300.0,
    length_ps: float | None = None,
    tau_fs: float | None = None,
    friction_tau_fs: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Runs a shipped model beside reference MD.

    Both start from the same state, in NVT, and are compared.

    Writes report.html (open it in a browser), force_free.h5, reference.h5 and summary.json to --out.  Takes some
    minutes on two CPU cores.  Both runs have CSVR, which holds the temperature, and weak Langevin friction and noise on
    each atom, which spread the kinetic energy over elements and vibrations.  The steps of paracetamol and water are
    those of ffmd rollout --reversible.

    Args:
        out: Folder to write.
        system: Shipped model and prepared system.
        temperature: Temperature, K; the shipped models were trained at 300 K.
        length_ps: Length of both trajectories, ps (default: 30; water, whose reference is slower, 10).
        tau_fs: Relaxation time of CSVR, fs (default: the paper's; quartz 75, paracetamol 70, water 50).
        friction_tau_fs: Relaxation time 1/γ of the friction, fs (default: quartz 3000, paracetamol 4000, water 1000);
            inf: none.
        seed: Seed of velocities and thermostats.
        overwrite: Write into an existing folder.
    """
    files.check_output(out, overwrite)
    common.use_double_precision()
    import jax

    from ffmd_jax.formats import trajectory
    from ffmd_jax.reference import free_runs

    friction = _FRICTION_TAU_FS[system] if friction_tau_fs is None else friction_tau_fs
    facts = {
        "system": system,
        "ensemble": "nvt",
        "temperature_K": temperature,
        "thermostat": "csvr",
        "tau_fs": _TAU_FS[system] if tau_fs is None else tau_fs,
        "friction_tau_fs": None if friction == float("inf") else friction,
        "reversible": _REVERSIBLE[system],
        "seed": seed,
    }
    case = _case(out, facts, _LENGTHS_PS[system] if length_ps is None else length_ps)
    out.mkdir(exist_ok=True)
    for stale in ("report.html", "summary.json"):  # of an earlier demo: they would not be of these trajectories
        files.remove(out / stale)
    keys = jax.random.split(jax.random.key(seed), 3)
    start = _equilibrate(case.prepared, temperature, keys[0])
    speeds = {"ns_per_day": _force_free(case, start, keys[1]), "reference_ns_per_day": _reference(case, start, keys[2])}
    frames = trajectory.read(case.reference).frames
    _compare(case, speeds, *free_runs.run(case.prepared, case.config, case.propagate, frames))


class _Case(NamedTuple):
    """What is run: the prepared system, the model, the thermostat in ``facts``, and where it is written."""

    out: Path
    facts: dict[str, Any]
    prepared: Any
    config: Any
    propagate: Any
    n_frames: int

    @property
    def force_free(self) -> Path:
        return self.out / "force_free.h5"

    @property
    def reference(self) -> Path:
        return self.out / "reference.h5"

    @property
    def length_ps(self) -> float:
        return self.n_frames * self.config.time_step_fs / units.PS

    def bath(self, interval_fs: float):
        """The thermostat of both runs."""
        from ffmd_jax.dynamics import thermostat

        temperature, tau, friction = (self.facts[name] for name in ("temperature_K", "tau_fs", "friction_tau_fs"))
        return thermostat.make("csvr", temperature, tau, interval_fs, friction_tau_fs=friction)


def _case(out: Path, facts: dict[str, Any], length_ps: float) -> _Case:
    import jax.numpy as jnp

    from ffmd_jax.core.state import cast
    from ffmd_jax.models import model_files, radial_tables, trajcast
    from ffmd_jax.reference import systems

    config, params = model_files.load_model(facts["system"])
    n_frames = round(length_ps * units.PS / config.time_step_fs)
    if n_frames < 8:
        raise ValueError(f"--length-ps must be at least {8 * config.time_step_fs / units.PS:g} ps")
    params = cast(radial_tables.tabulate(config, params), jnp.float32)
    propagate = trajcast.make_propagate(config, params, reversible=facts["reversible"])
    case = _Case(out, facts, systems.get(facts["system"]), config, propagate, n_frames)
    case.bath(config.time_step_fs)  # refuses what is not positive, before anything is written
    return case


def _compare(case: _Case, speeds: dict[str, float], growth, n_exploded: int) -> None:
    """Analyses both runs; writes report, figures and summary, and prints the key numbers."""
    import jax

    from ffmd_jax.analysis import comparison, report
    from ffmd_jax.core import files
    from ffmd_jax.formats import trajectory
    from ffmd_jax.reference import free_runs

    with progress.progress(2, "analysis", "runs") as bar:
        own = comparison.analyze(trajectory.read(case.force_free))
        bar.update()
        other = comparison.analyze(trajectory.read(case.reference))
        bar.update()
    facts = case.facts
    summary = {
        "system": facts["system"],
        "n_atoms": len(case.prepared.positions),
        "time_step_fs": case.config.time_step_fs,
        "length_ps": case.length_ps,
        "target_temperature_K": facts["temperature_K"],
        "tau_fs": facts["tau_fs"],
        "friction_tau_fs": facts["friction_tau_fs"],
        "reversible": facts["reversible"],
        **comparison.compare(own, other),
        **speeds,
        "device": jax.devices()[0].device_kind,
        "free_runs": free_runs.N_STARTS,
        "free_runs_exploded": n_exploded,
        "error_growth": growth and {name: np.round(values, 6).tolist() for name, values in growth._asdict().items()},
    }
    summary = comparison.jsonable(summary)
    title, time_step = f"Force-free MD of {facts['system']} beside the reference", case.config.time_step_fs
    path = case.out / "report.html"
    report.write(path, title, own, other, summary=summary, growth=growth, time_step_fs=time_step)
    report.save_figures(case.out, own, other, growth, time_step)
    files.write_atomically(case.out / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    _print_table(summary)
    print(f"\n{report.verdict(own, other)}\n\nreport: {path}")


def _equilibrate(prepared, temperature: float, key):
    from ffmd_jax.reference import production

    length_ps, state = 3.0, None
    for block in progress.follow(
        production.equilibrate(prepared, temperature, key, length_ps), length_ps, "equilibration (reference)"
    ):
        state = block.carry.state
    return state


def _force_free(case: _Case, start, key) -> float:
    """Runs the model, writes its frames with reference energies, and returns ns/day without compilation."""
    import jax.numpy as jnp

    from ffmd_jax.core.state import cast
    from ffmd_jax.dynamics import rollout
    from ffmd_jax.formats import trajectory
    from ffmd_jax.reference import production

    prepared, interval = case.prepared, case.config.time_step_fs
    blocks = rollout.run(
        prepared.system,
        cast(start, jnp.float32),
        case.propagate,
        cutoff=case.config.architecture.cutoff,
        select=True,
        time_step_fs=interval,
        n_steps=case.n_frames,
        key=key,
        thermostat=case.bath(interval),
    )
    metadata = {**case.facts, "source": "force-free", "model": case.facts["system"], "time_step_fs": interval}
    timer = _Timer()
    with trajectory.Writer(case.force_free, prepared.system, metadata, overwrite=True) as writer:
        for block in progress.follow(timer(blocks), case.length_ps, "force-free"):
            positions = block.frames.positions.astype(np.float64)
            energies = production.potential_energies(prepared, prepared.system, positions)
            writer.append(block.frames, block.times, {"potential_energy_eV": np.asarray(energies)})
    return timer.ns_per_day()


def _reference(case: _Case, start, key) -> float:
    """Runs the reference from the same start with the same thermostat; returns ns/day without compilation."""
    from ffmd_jax.formats import trajectory
    from ffmd_jax.reference import production

    prepared = case.prepared
    every = round(case.config.time_step_fs / prepared.dt)
    blocks = production.run(
        prepared, start, n_steps=case.n_frames * every, every=every, key=key, bath=case.bath(prepared.dt)
    )
    timer = _Timer()
    metadata = {**case.facts, "reversible": None, "source": "reference", "integrator_dt_fs": prepared.dt}
    with trajectory.Writer(case.reference, prepared.system, metadata, overwrite=True) as writer:
        for block in progress.follow(timer(blocks), case.length_ps, "reference MD"):
            writer.append(block.frames, block.times, block.observables)
    return timer.ns_per_day()


class _Timer:
    """Wall time of the blocks of a roll-out after the first, which compiles."""

    def __init__(self):
        self.seconds, self.femtoseconds = 0.0, 0.0

    def __call__(self, blocks):
        iterator, first = iter(blocks), None
        while True:
            began = time.perf_counter()
            block = next(iterator, None)
            elapsed = time.perf_counter() - began
            if block is None:
                return
            if first is not None:
                self.seconds += elapsed
                self.femtoseconds += block.times[-1] - first
            first = block.times[-1]
            yield block

    def ns_per_day(self) -> float:
        """NaN if there was one block only."""
        return units.ns_per_day(self.femtoseconds, self.seconds) if self.seconds else float("nan")


def _print_table(summary: dict[str, Any]) -> None:
    """The key numbers, force-free beside reference."""
    species = summary["temperature_by_species_K"]
    rows = [("temperature / K", summary["temperature_K"], summary["reference_temperature_K"])]
    rows += [
        (f"temperature of {name} / K", species[name], summary["reference_temperature_by_species_K"][name])
        for name in species
    ]
    rows += [
        ("momentum drift", summary["momentum_drift"], summary["reference_momentum_drift"]),
        ("speed / ns/day", summary["ns_per_day"], summary["reference_ns_per_day"]),
    ]
    print(f"\n{'':34}{'force-free':>12}{'reference':>12}")
    for name, ours, theirs in rows:
        print(f"{name:34}" + "".join(f"{'–':>12}" if x is None else f"{x:>12.4g}" for x in (ours, theirs)))
    if summary["free_runs_exploded"]:
        print(f"{'exploded, of the free runs (NVE)':34}{summary['free_runs_exploded']:>12} of {summary['free_runs']}")
    print(
        f"{'VDOS overlap':34}{summary['vdos_overlap']:>12.4g}{summary['reference_vdos_halves_overlap']:>12.4g} (halves)"
    )
    print(f"{'g(r) RMSE':34}{summary['rdf_rmse']:>12.4g}{summary['reference_rdf_halves_rmse']:>12.4g} (halves)")
    print(f"{'potential energy shift / meV/atom':34}{summary['potential_energy_shift_meV_per_atom']:>12.4g}")
    if growth := summary["error_growth"]:
        what = f"kinetic-energy ratio, {growth['steps'][-1]} NVE steps"
        print(f"{what:34}{growth['kinetic_energy_ratio'][-1]:>12.4g}")
