"""Monitors of models: limits for the alarms of a rollout, calibrated on held-out data, and what an alarm says.

The limit of what a model itself causes (round trip, drift) is 10 times what the same model showed on states that it was
not trained on.  What it should never leave is the range of these states: speeds and temperatures up to 1.5 times the
largest, pairs down to 0.9 times the closest.
"""

import logging
from typing import Any, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from scipy.special import chdtri

from ffmd_jax.core import mechanics
from ffmd_jax.core.state import System
from ffmd_jax.dynamics import alarms
from ffmd_jax.dynamics import ensemble as ensembles
from ffmd_jax.dynamics.alarms import Limits
from ffmd_jax.dynamics.ensemble import NPT, NVE, Ensemble
from ffmd_jax.models.config import Calibration, ModelConfig

FACTOR = 10.0
_MARGIN = 1.5  # a Maxwell–Boltzmann tail that ends at one sample in 1e5 reaches it at one in 1e10
_WINDOW = 10  # relaxation times of the thermostat; so many independent samples of the total, which only it changes
# Independent samples of an element's kinetic energy in such a window, at least: in reference MD of paracetamol (2.8 ns,
# CSVR, τ = 70 fs) the averages of H spread as of 8.7, of C 8.8, of O 10, of N 23.
_SAMPLES = 8
_CHANCE_STEP = 1e-9  # of a false alarm in a step: none in a hundred million
_CHANCE = 3e-7  # of a false alarm in a window; 5 standard deviations of a normal distribution, which chi² is not yet
_NVE_WINDOW = 200  # steps
_UNKNOWN_DRIFT = 0.02
_NEVER = 0.5  # a model that forgets the velocities reaches 0.7
_ENERGY = 0.1  # of the kinetic energy: what a run without a thermostat may gain or lose
_GAIN = 1.0  # of the kinetic energy, that a propagator may gain or lose in 200 steps
_VOLUME = 1.02  # beyond the smallest and largest volume of the training data

logger = logging.getLogger("ffmd_jax")


class Stopped(ValueError):
    """A rollout that a monitor ended."""

    exit_code = 3


class EndedByAlarm(RuntimeWarning):
    """A rollout is shorter than was asked for, because a monitor ended it."""


class Alarm(NamedTuple):
    """The first alarm of a kind, and how many steps had one: JSON-able."""

    kind: str
    time_fs: float
    value: float
    limit: float
    place: int
    count: int
    text: str


def limits(
    config: ModelConfig,
    found: Calibration | None,
    system: System,
    ensemble: Ensemble = NVE(),  # a frozen record
    factor: float = FACTOR,
    tables: bool = True,
) -> Limits:
    """Limits for runs of a system with a model in an ensemble.

    Kinetic energies are averaged over a window of 10 relaxation times of the thermostat, 100 steps or more, without
    thermostat over 200 steps; their limit is at least what one in 3e6 windows of the canonical ensemble exceeds.  A
    model that was not calibrated has fewer monitors; a round trip that misses by half a step always alarms.

    Args:
        found: calibration of the model; None: none.
        ensemble: its relaxation time sets the window; in its highest temperature a molecule's kinetic energy spreads
            further than in data of constant energy, which counts unless it is beyond these data.
        factor: alarms at this multiple of the calibration.
        tables: radial functions are splines, constant below their first knot: a closer pair is an alarm, even if the
            closest pair of the training data is not known.
    """
    elements, ensemble = config.elements, ensembles.complete(ensemble, config.time_step_fs)
    temperature_K = ensembles.hottest(ensemble)
    steps = None if isinstance(ensemble, NVE) else ensemble.tau_fs / config.time_step_fs
    window = _NVE_WINDOW if steps is None else int(np.ceil(max(100.0, _WINDOW * steps)))
    species = np.asarray(system.species)
    counts = np.array([np.sum(species == z) for z in elements])
    drift = np.array(found.kinetic_drift) if found else np.full(len(elements), _UNKNOWN_DRIFT)
    freedoms = 3 * _SAMPLES * np.maximum(counts, 1), 3 * _WINDOW * counts.sum()
    chance, chance_total = (chdtri(freedom, _CHANCE) / freedom - 1 for freedom in freedoms)
    hottest = _MARGIN * found.temperature_K if found else np.inf
    if found and temperature_K is not None and temperature_K <= found.temperature_K:
        freedom = float(mechanics.degrees_of_freedom(system))
        hottest = max(hottest, temperature_K * float(chdtri(freedom, _CHANCE_STEP)) / freedom)
    fastest = np.full(len(elements), config.speed_max)
    if found:
        fastest = np.maximum(found.speeds, config.speed_limits or 0.0)
    return Limits(
        speeds=_MARGIN * fastest[np.searchsorted(elements, species)],
        distance=config.splines_from if config.shortest_distance or tables else 0.0,
        hottest=hottest,
        kinetic=np.maximum(chance, factor * drift),
        kinetic_total=float(np.maximum(chance_total, factor * (counts @ drift) / counts.sum())),
        momentum_change=factor * found.momentum_change if found else np.inf,
        round_trip=min(_NEVER, factor * found.round_trip) if found else _NEVER,
        round_trip_atom=factor * found.round_trip_atom if found else np.inf,
        window=window,
        elements=elements,
        displacement_rms=config.displacement_rms,
        velocity_rms=config.velocity_rms,
        energy=_ENERGY,
        gain=_GAIN,
        volumes=_volumes(found, system, ensemble),
    )


def _volumes(found: Calibration | None, system: System, ensemble: Ensemble) -> tuple[float, float]:
    """Volumes of an atom, Å³, that a run at constant pressure may have."""
    if not isinstance(ensemble, NPT) or found is None or found.volumes_A3 is None:
        return 0.0, np.inf
    return found.volumes_A3[0] / _VOLUME, found.volumes_A3[1] * _VOLUME


def check_volume(found: Calibration | None, system: System, cells: Any, ensemble: Ensemble) -> None:
    """Raises ValueError for a start at constant pressure whose volume the model was not trained at.

    At constant volume it is logged: nothing else watches the volume there.

    Args:
        cells: Å, ``[…, 3, 3]``.
    """
    if not all(system.pbc) or found is None or found.volumes_A3 is None:
        return
    each = np.atleast_1d(mechanics.volume(np.asarray(cells, np.float64))) / mechanics.count_atoms(system)
    low, high = found.volumes_A3
    off = each[(each < low / _VOLUME) | (each > high * _VOLUME)]
    if not len(off):
        return
    known = f"{low:.4g}" if high / low < 1.001 else f"{low:.4g} to {high:.4g}"
    text = f"the volume of the start is {off[0]:.4g} Å³ an atom; the model was trained at {known} Å³"
    if isinstance(ensemble, NPT):
        raise ValueError(f"{text}: start nearer to it, or train at this volume, too")
    logger.warning(text)


def describe(record: alarms.Record, config: ModelConfig, system: System) -> list[Alarm]:
    """The first alarm of each kind that was raised, in the order in which they came."""
    found = []
    for i, kind in enumerate(alarms.KINDS):
        if int(record.step[i]) >= 0:
            value, limit, place = float(record.value[i]), float(record.limit[i]), int(record.place[i])
            text = _text(kind, value, limit, place, config, system)
            time_fs = int(record.step[i]) * config.time_step_fs
            found.append(Alarm(kind, time_fs, value, limit, place, int(record.count[i]), text))
    return sorted(found, key=lambda alarm: alarm.time_fs)


def _text(kind: str, value: float, limit: float, place: int, config: ModelConfig, system: System) -> str:
    """What, where and beyond which limit."""
    atom = f"atom {place} ({chemical_symbols[int(system.species[place])]})"
    if kind == "not finite":
        what = f"moves at {value:.2g} Å/fs" if np.isfinite(value) else "is no longer finite"
        return f"the trajectory diverged: {atom} {what}"
    if kind == "temperature":
        element = chemical_symbols[config.elements[place]]
        return (
            f"{element} is at {value:.3g} of the temperature set, or of all atoms, over a window, limit 1 ± {limit:.2g}"
        )
    if kind == "kinetic drift":
        factors = np.exp(np.clip([value, limit], -99, 99))
        return "the kinetic energy has changed by a factor of {:.3g} since the first window, limit {:.3g}".format(
            *factors
        )
    # Of a model whose training data are not known here, tables begin where no two nuclei come.
    unknown = (
        "" if config.shortest_distance else ", where the tables begin (without `tables`, the networks are computed)"
    )
    return {
        "too fast": f"{atom} moves at {value:.3g} Å/fs, limit {limit:.3g}",
        "too close": f"{atom} comes as close as {value:.3g} Å to another, limit {limit:.3g} Å{unknown}",
        "too hot": f"the temperature is {value:.4g} K, limit {limit:.4g} K: beyond the training data",
        "momentum": f"the total momentum has changed by {value:.2g} of Σ m|v|, limit {limit:.2g}",
        "round trip": f"a step backwards misses the start by {value:.3g} of a step, limit {limit:.3g}, worst {atom}",
        "round trip of an atom": f"a step backwards misses the start of {atom} by {value:.3g} of a step, "
        f"limit {limit:.3g}",
        "total energy": f"the total energy has changed by {value:.3g} of the kinetic energy, limit {limit:.3g}",
        "propagator energy": f"the propagator changes the energy, averaged over a window, by {value:.3g} of the "
        f"kinetic energy in 200 steps, limit {limit:.3g}",
        "volume": f"the volume is {value:.4g} Å³ an atom, limit {limit:.4g}: beyond the training data",
    }[kind]
