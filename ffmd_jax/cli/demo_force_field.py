"""``ffmd demo``: a shipped model beside its force field, from the same state."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ffmd_jax.cli import common
from ffmd_jax.core import commands, files, progress, units


def run(out: Path, system: str, ensemble: Any, reversible: bool, seed: int, length_ps: float) -> None:
    """A model and its force field from the same state, their speeds, and free runs."""
    common.use_double_precision()
    import jax

    from ffmd_jax.formats import trajectory
    from ffmd_jax.models import model as models
    from ffmd_jax.reference_md import free_runs

    case = _case(out, system, ensemble, reversible, seed, length_ps)
    out.mkdir(exist_ok=True)
    for stale in ("report.html", "summary.json"):  # of an earlier demo: they would not be of these trajectories
        files.remove(out / stale)
    key_start, key_reference = jax.random.split(jax.random.key(seed))
    start = _equilibrate(case.prepared, ensemble.temperature_K, key_start)
    speeds = {"ns_per_day": _force_free(case, start), "reference_ns_per_day": _reference(case, start, key_reference)}
    frames = trajectory.read(case.reference).frames
    propagate = models.propagator(case.model, reversible=case.reversible)
    _compare(case, speeds, *free_runs.run(case.prepared, case.config, propagate, frames))


class _Case(NamedTuple):
    """What is run: the prepared system, the model, the ensemble, and where it is written."""

    out: Path
    name: str
    prepared: Any
    model: Any
    ensemble: Any
    reversible: bool
    seed: int
    n_frames: int

    @property
    def config(self):
        return self.model.config

    @property
    def force_free(self) -> Path:
        return self.out / "force_free.h5"

    @property
    def reference(self) -> Path:
        return self.out / "reference.h5"

    @property
    def length_ps(self) -> float:
        return self.n_frames * self.config.time_step_fs / units.PS

    def facts(self) -> dict[str, Any]:
        """What files and summary say of both runs."""
        from ffmd_jax.dynamics import ensemble as ensembles

        command = commands.line(
            "ffmd demo", system=self.name, temperature=self.ensemble.temperature_K, tau_fs=self.ensemble.tau_fs,
            friction_tau_fs=self.ensemble.friction_tau_fs or float("inf"),
            friction_above_per_cm=self.ensemble.friction_above_per_cm, seed=self.seed,
        )  # fmt: skip
        return {"system": self.name, **ensembles.metadata(self.ensemble), "reversible": self.reversible,
                "seed": self.seed, "command": command}  # fmt: skip


def _case(out: Path, name: str, ensemble: Any, reversible: bool, seed: int, length_ps: float) -> _Case:
    from ffmd_jax.models import model_files
    from ffmd_jax.reference_md import systems

    model = model_files.load(name)
    n_frames = round(length_ps * units.PS / model.config.time_step_fs)
    if n_frames < 8:
        raise ValueError(f"--length-ps must be at least {8 * model.config.time_step_fs / units.PS:g} ps")
    return _Case(out, name, systems.get(name), model, ensemble, reversible, seed, n_frames)


def _compare(case: _Case, speeds: dict[str, float], growth, n_exploded: int) -> None:
    """Analyses both runs; writes report, figures and summary, and prints the key numbers."""
    import jax

    from ffmd_jax.analysis import report
    from ffmd_jax.formats import trajectory
    from ffmd_jax.reference_md import free_runs

    facts = case.facts()
    settings = {
        "system": case.name,
        "time_step_fs": case.config.time_step_fs,
        "target_temperature_K": facts["temperature_K"],
        "tau_fs": facts["tau_fs"],
        "friction_tau_fs": facts["friction_tau_fs"],
        "friction_above_per_cm": facts["friction_above_per_cm"],
        "reversible": facts["reversible"],
        **speeds,
        "device": jax.devices()[0].device_kind,
        "free_runs": free_runs.N_STARTS,
        "free_runs_exploded": n_exploded,
        "error_growth": None,
    }
    made = report.make(
        *(trajectory.read(path) for path in (case.force_free, case.reference)),
        title=f"Force-free MD of {case.name} beside the reference",
        settings=settings,
        growth=growth,
    )
    page = made.save(case.out)
    _print_table(made.summary)
    common.say(f"\n{made.text(common.width())}\n\nreport: {page}")


def _equilibrate(prepared, temperature: float, key):
    from ffmd_jax.reference_md import production

    length_ps, state = 3.0, None
    for block in progress.follow(
        production.equilibrate(prepared, temperature, key, length_ps), length_ps, "equilibration (reference)"
    ):
        state = block.carry.state
    return state


def _force_free(case: _Case, start) -> float:
    """Runs the model, writes its frames with reference energies, and returns ns/day without compilation."""
    from ffmd_jax.core import mechanics
    from ffmd_jax.formats import trajectory
    from ffmd_jax.reference_md import production
    from ffmd_jax.simulation.simulate import simulate

    done: list[tuple[float, float]] = []
    with common.bar(case.length_ps, "force-free") as bar:

        def report(done_ps: float, total_ps: float) -> None:
            done.append((time.perf_counter(), done_ps))
            bar.update(done_ps - bar.n)

        run = simulate(
            case.model, (case.prepared.system, start), steps=case.n_frames, ensemble=case.ensemble, seed=case.seed,
            reversible=case.reversible, velocities="stored", on_alarm="warn", progress=report,
        )  # fmt: skip
    if run.ended:
        raise ValueError(f"the model fails on this system: {run.alarms[-1].text}")
    found = run.trajectory
    energies = np.asarray(production.potential_energies(case.prepared, found.frames))
    kinetic = np.asarray(mechanics.kinetic_energy(found.system, np.asarray(found.frames.velocities)))
    observables = {**found.observables, "potential_energy_eV": energies, "total_energy_eV": energies + kinetic}
    metadata = {**case.facts(), "source": "force-free", "model": case.name, "time_step_fs": case.config.time_step_fs}
    metadata["alarms"] = found.metadata["alarms"]
    trajectory.write(case.force_free, found._replace(observables=observables, metadata=metadata), overwrite=True)
    (first, begin), (last, end) = done[0], done[-1]  # the first block compiles
    return units.ns_per_day((end - begin) * units.PS, last - first) if last > first else float("nan")


def _reference(case: _Case, start, key) -> float:
    """Runs the reference from the same start with the same thermostat; returns ns/day without compilation."""
    from ffmd_jax.formats import trajectory
    from ffmd_jax.reference_md import production

    prepared = case.prepared
    every = round(case.config.time_step_fs / prepared.dt)
    blocks = production.run(
        prepared, start, n_steps=case.n_frames * every, every=every, key=key, ensemble=case.ensemble
    )
    timer = _Timer()
    metadata = {**case.facts(), "reversible": None, "source": "reference", "integrator_dt_fs": prepared.dt}
    with trajectory.Writer(case.reference, prepared.system, metadata, overwrite=True) as writer:
        for block in progress.follow(timer(blocks), case.length_ps, "reference MD"):
            writer.append(block.frames, block.times, block.observables)
    return timer.ns_per_day()


class _Timer:
    """Wall time of the blocks of a rollout after the first, which compiles."""

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
