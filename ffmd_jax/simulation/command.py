"""The ``ffmd rollout`` that continues a run of `simulate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ffmd_jax.core import commands
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics.ensemble import NVE, Ensemble
from ffmd_jax.formats import Hints

# What `ffmd rollout` does unless told otherwise.
_DEFAULTS: dict[str, Any] = {
    "reversible": False, "every": 1, "fields": ("positions", "velocities"), "seed": 0, "replicas": 0, "monitors": True,
    "alarm_factor": 10.0, "check_every": 100, "on_alarm": "stop", "fallback": None, "fallback_steps": 20,
    "collect": None, "watch_bonds": False, "float64": False, "tables": True,
}  # fmt: skip


def rollout(
    model: str, start: Any, out: str | Path | None, ensemble: Ensemble, options: dict[str, Any], hints: Hints
) -> str | None:
    """The command without ``--steps`` and ``--resume``; None where the command line cannot say the same.

    That is the case for runs in memory, starts that are no files, and combinations of temperatures that it lacks.
    """
    drawn_at, velocities = options["draw_temperature_K"], options["velocities"]
    kelvin = drawn_at if isinstance(ensemble, NVE) else ensemble.temperature_K  # type: ignore[union-attr]
    stated = velocities != "stored"
    impossible = (
        out is None
        or not model
        or options.get("potential") == ""  # a potential in memory
        or not isinstance(start, str | Path)
        or (stated and kelvin is None)
        or (not stated and kelvin not in (None, 300.0))
        or (not isinstance(ensemble, NVE) and drawn_at is not None)
    )
    if impossible:
        return None
    said = {name: value for name, value in ensembles.metadata(ensemble).items() if name != "temperature_K"}
    several = isinstance(kelvin, Sequence)
    given = {
        "ensemble": None if said["ensemble"] == "nvt" else said["ensemble"],
        "replica_temperatures": kelvin if several else None,
        "temperature": kelvin if stated and not several else None,
        "temperature_end": said["temperature_end_K"],
        "thermostat": None if said["thermostat"] == "csvr" else said["thermostat"],
        **{name: said[name] for name in ("tau_fs", "friction_tau_fs", "friction_above_per_cm")},
        **{name: said[name] for name in ("pressure_bar", "barostat_every", "coupling") if name in said},
        "time_step": options.get("time_step"),
        "potential": options.get("potential"),
        "energy_conservation": False if options.get("energy_conservation") is False else None,
        "draw_velocities": True if velocities == "draw" else None,
        **{name: options[name] for name, usual in _DEFAULTS.items() if options[name] != usual},
        "fallback_args": ",".join(f"{key}={value}" for key, value in (options["fallback_args"] or {}).items()) or None,
        **{name: value for name, value in vars(hints).items() if value != getattr(Hints(), name)},
    }
    return commands.line("ffmd rollout", model, start=start, out=out, **given)
