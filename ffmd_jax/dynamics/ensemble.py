"""Ensembles: the only owners of temperature, relaxation times, friction and temperature ramps.

The thermostat, its schedule, the limits of the monitors, the bath of a fallback and what files say are derived from
the record here.  Records are pytrees: their numbers are arguments of compiled programs, so that a run at another
temperature compiles nothing.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import units
from ffmd_jax.core.state import Array, State, System
from ffmd_jax.dynamics import thermostat as thermostats

_HIGHEST_BAR = 1_000_000


@functools.partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class NVE:
    """Constant energy: no thermostat."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["temperature_K", "tau_fs", "friction_tau_fs", "end_K", "friction_above_per_cm"],
    meta_fields=["thermostat"],
)
@dataclasses.dataclass(frozen=True)
class NVT:
    """Constant temperature.

    Attributes:
        temperature_K: K; of replicas, one or one each.
        tau_fs: relaxation time of the thermostat, fs; None: 10 steps.
        thermostat: "csvr" rescales all velocities, "langevin" acts on each atom.
        friction_tau_fs: relaxation time 1/γ, fs, of Langevin friction and noise besides the thermostat; None: none.
        end_K: temperature at the end of the run, K, to which it changes linearly; None: it stays.
        friction_above_per_cm: wavenumber, cm⁻¹, at which half of the friction acts; faster motions feel more of it, and
            slow ones next to none, see `thermostat.fast_langevin`; None: all feel the same.

    Raises:
        ValueError: a negative temperature, a time or wavenumber that is not positive, ``friction_above_per_cm``
            without friction, or friction on top of "langevin" without it.
    """

    temperature_K: Any = 300.0
    tau_fs: Any = None
    thermostat: Literal["csvr", "langevin"] = "csvr"
    friction_tau_fs: Any = None
    end_K: Any = None
    friction_above_per_cm: Any = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self):
        numbers = (self.temperature_K, self.end_K, self.tau_fs, self.friction_tau_fs, self.friction_above_per_cm)
        if not all(isinstance(leaf, int | float | np.number | np.ndarray) for leaf in jax.tree.leaves(numbers)):
            return  # inside a program; checked when the record was made
        if self.thermostat not in ("csvr", "langevin"):
            raise ValueError(f"the thermostat must be csvr or langevin, not {self.thermostat}")
        for name in ("temperature_K", "end_K"):
            given = getattr(self, name)
            if given is not None and not np.all(np.asarray(given) >= 0):
                raise ValueError(f"{name} must not be negative, nor NaN: {given}")
        for name in ("tau_fs", "friction_tau_fs", "friction_above_per_cm"):
            given = getattr(self, name)
            if given is not None and not given > 0:
                raise ValueError(f"{name} must be positive, not {given}")
        if self.friction_above_per_cm is not None and self.friction_tau_fs is None:
            raise ValueError("`friction_above_per_cm` needs friction: give `friction_tau_fs`, too")
        if self.thermostat == "langevin" and self.friction_tau_fs is not None and self.friction_above_per_cm is None:
            raise ValueError("langevin has friction already; its relaxation time is tau_fs")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "temperature_K",
        "tau_fs",
        "friction_tau_fs",
        "end_K",
        "friction_above_per_cm",
        "pressure_bar",
        "barostat_every",
    ],
    meta_fields=["thermostat", "coupling"],
)
@dataclasses.dataclass(frozen=True)
class NPT(NVT):
    """Constant temperature and pressure, by a Monte Carlo barostat that needs energies alone; see `barostat`.

    Attributes:
        pressure_bar: bar.
        barostat_every: steps between two trial moves of the volume.
        coupling: "isotropic" scales all lattice vectors alike, "anisotropic" one of them at a time, for crystals.

    Raises:
        ValueError: as `NVT`; a pressure beyond ±100 GPa, or an interval below one step.
    """

    pressure_bar: Any = 1.0
    barostat_every: Any = 25
    coupling: Literal["isotropic", "anisotropic"] = "isotropic"

    def __post_init__(self):
        super().__post_init__()
        if self.coupling not in ("isotropic", "anisotropic"):
            raise ValueError(f"the coupling must be isotropic or anisotropic, not {self.coupling}")
        if isinstance(self.pressure_bar, int | float) and not abs(self.pressure_bar) <= _HIGHEST_BAR:
            raise ValueError(
                f"the pressure must be at most {_HIGHEST_BAR:,} bar (100 GPa), not {self.pressure_bar} bar"
            )
        if isinstance(self.barostat_every, int | float) and not self.barostat_every >= 1:
            raise ValueError(f"barostat_every must be at least 1 step, not {self.barostat_every}")


Ensemble = NVE | NVT  # NPT is an NVT


def complete(ensemble: Ensemble, time_step_fs: float) -> Ensemble:
    """The ensemble with its defaults for steps of ``time_step_fs``, and plain floats; infinite friction is none.

    Raises:
        ValueError: it is no ensemble, or its friction acts above a wavenumber that such steps do not resolve.
    """
    check(ensemble)
    if isinstance(ensemble, NVE):
        return ensemble
    fastest = 0.5 * units.PS / time_step_fs * units.TERAHERTZ_IN_PER_CM
    if ensemble.friction_above_per_cm is not None and not ensemble.friction_above_per_cm < fastest:
        raise ValueError(
            f"`friction_above_per_cm` must be below {fastest:.0f} cm⁻¹, the fastest motion that steps of "
            f"{time_step_fs:g} fs resolve, not {ensemble.friction_above_per_cm:g}"
        )
    kelvin = ensemble.temperature_K
    friction, above = ensemble.friction_tau_fs, ensemble.friction_above_per_cm
    return dataclasses.replace(
        ensemble,
        temperature_K=float(kelvin) if np.ndim(kelvin) == 0 else tuple(float(one) for one in kelvin),
        tau_fs=10.0 * time_step_fs if ensemble.tau_fs is None else float(ensemble.tau_fs),
        friction_tau_fs=None if friction is None or np.isinf(friction) else float(friction),
        friction_above_per_cm=None if friction is None or np.isinf(friction) or above is None else float(above),
        end_K=None if ensemble.end_K is None else float(ensemble.end_K),
    )


def check(ensemble: Any) -> None:
    """Raises ValueError for what is no ensemble, such as its name."""
    if not isinstance(ensemble, NVE | NVT):
        raise ValueError(
            f"the ensemble must be NVE(), NVT(temperature_K, …) or NPT(temperature_K, …), not {ensemble!r}"
        )


def name(ensemble: Ensemble) -> str:
    """As files have it: nve, nvt or npt."""
    return type(ensemble).__name__.lower()


def temperature(ensemble: Ensemble, progress: Array | float = 0.0) -> Any:
    """Target, K, after the part ``progress`` of the run, 0 … 1; ``[n_replicas]`` if each has its own; NVE: NaN."""
    if isinstance(ensemble, NVE):
        return jnp.nan
    begin = ensemble.temperature_K
    begin = jnp.asarray(begin) if isinstance(begin, tuple) else begin
    return begin if ensemble.end_K is None else begin + (ensemble.end_K - begin) * progress


def hottest(ensemble: Ensemble) -> float | None:
    """The highest target of the run and its replicas, K; None: no target."""
    if isinstance(ensemble, NVE):
        return None
    return float(max(np.max(ensemble.temperature_K), ensemble.end_K or 0.0))


def at(ensemble: Ensemble, progress: float) -> Ensemble:
    """The ensemble of constant temperature that a run has after the part ``progress``, 0 … 1."""
    if isinstance(ensemble, NVE):
        return ensemble
    return dataclasses.replace(ensemble, temperature_K=float(temperature(ensemble, progress)), end_K=None)


def start(ensemble: Ensemble, key: Array, system: System, state: State, temperature_K: Array | float) -> Any:
    """What the thermostat carries along from step to step: the partners of the velocities, Å/fs, or ()."""
    if isinstance(ensemble, NVE) or ensemble.friction_above_per_cm is None:
        return ()
    return thermostats.free_velocities(key, system, state, temperature_K)


def apply(
    ensemble: Ensemble,
    key: Array,
    system: System,
    state: State,
    temperature_K: Array | float,
    interval_fs: float,
    memory: Any = (),
) -> tuple[State, Any]:
    """The state after the thermostat acted for ``interval_fs``, and its memory; friction acts after it.

    CSVR holds the temperature and weak friction spreads the kinetic energy: a motion whose energy a propagator feeds at
    a rate r is too hot by a factor 1/(1 − r τ/2), τ that of the friction, if nothing else couples it to the others.
    Each leaves the canonical ensemble as it is, so both together do.
    """
    if isinstance(ensemble, NVE):
        return state, memory
    act = {"csvr": thermostats.csvr, "langevin": thermostats.langevin}[ensemble.thermostat]
    if ensemble.friction_tau_fs is None:
        return act(key, system, state, temperature_K, ensemble.tau_fs, interval_fs), memory
    key_bath, key_friction = jax.random.split(key)
    state = act(key_bath, system, state, temperature_K, ensemble.tau_fs, interval_fs)
    tau, above = ensemble.friction_tau_fs, ensemble.friction_above_per_cm
    if above is None:
        return thermostats.langevin(key_friction, system, state, temperature_K, tau, interval_fs), memory
    return thermostats.fast_langevin(key_friction, system, state, memory, temperature_K, tau, above, interval_fs)


def metadata(ensemble: Ensemble) -> dict[str, Any]:
    """What a trajectory file says about the ensemble, JSON-able; the temperature only where it is one constant."""
    if isinstance(ensemble, NVE):
        return {"ensemble": "nve", "temperature_K": None, "temperature_end_K": None, "thermostat": None,
                "tau_fs": None, "friction_tau_fs": None, "friction_above_per_cm": None}  # fmt: skip
    pressure = {}
    if isinstance(ensemble, NPT):
        pressure = {name: getattr(ensemble, name) for name in ("pressure_bar", "barostat_every", "coupling")}
    constant = ensemble.end_K is None and not isinstance(ensemble.temperature_K, tuple)
    return {
        "ensemble": name(ensemble),
        "temperature_K": ensemble.temperature_K if constant else None,
        "temperature_end_K": ensemble.end_K,
        "thermostat": ensemble.thermostat,
        "tau_fs": ensemble.tau_fs,
        "friction_tau_fs": ensemble.friction_tau_fs,
        "friction_above_per_cm": ensemble.friction_above_per_cm,
        **pressure,
    }
