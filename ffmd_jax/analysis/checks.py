"""What a comparison can tell: a check per quantity, with the smallest difference that it could have detected.

A quantity *differs* if its difference exceeds the detectable one.  It *agrees* if it does not, and if the detectable
difference is small enough to matter; otherwise the check *cannot tell*.

=================  ==========================================  ======================================================
quantity           detectable difference                       small enough
=================  ==========================================  ======================================================
temperatures       3 standard errors                           2 % of the temperature
potential energy   3 standard errors                           2 % of 3/2 k_B T per atom, the harmonic mean
vibrations         √2 × that between two equal runs            1 − overlap of 0.1
torsions           2 × that between two equal runs             1 − overlap of 0.1
structure          2 × that between two equal runs             5 % of the RMS of g(r)
density            3 standard errors                           1 % of the density
=================  ==========================================  ======================================================

The difference d between two equal runs follows from those between the halves of each run, d² = (h² + h'²)/4: the
difference of two halves has four times the variance of the mean of the run.  Spectra average over many modes and
scatter less about this expectation than g(r) and torsions, which depend on a few slow motions.

Standard errors come from the runs themselves, which do not know of motions slower than the run.  A reference in a
thermostat has a known temperature: if its temperatures miss it by more than their errors, all errors of temperatures
are enlarged by the root mean square of these deviations (the Birge ratio, doi:10.1103/PhysRev.40.207).

Errors fall with the square root of the length: a run must be longer by (detectable/wanted)².

A target is a sharper reference than a run.  Where the check of a temperature against the target can tell, one against
the reference that cannot does not count (`decisive`).
"""

import math
from typing import Literal, NamedTuple

import numpy as np

from ffmd_jax.analysis import comparison, properties, spectra, text
from ffmd_jax.analysis.properties import Analysis
from ffmd_jax.core import units
from ffmd_jax.formats.trajectory import frame_interval

STANDARD_ERRORS = 3.0
THERMAL_SHARE = 0.02  # of the temperature, and of the thermal part of the potential energy
OVERLAP = 0.9
STRUCTURE_SHARE = 0.05
DENSITY_SHARE = 0.01

Outcome = Literal["agrees", "differs", "cannot tell"]
NOT_COMPARED = "not compared"


class Check(NamedTuple):
    """One quantity of the run beside the target temperature or the reference.

    Attributes:
        quantity: temperature, vibrations, structure, torsions, density or potential energy.
        of: part of the system, such as an element.
        against: ``target`` or ``reference``.
        difference: run minus target or reference; for spectra and populations 1 − overlap; in ``unit``.
        detectable: smallest difference that counts, in ``unit``.
        wanted: largest detectable difference with which agreement means something, in ``unit``.
        unit: empty if dimensionless.
        statement: the result in words.
        run_ps: length of the run that would reach ``wanted``, ps; None if the run is long enough.
        reference_ps: the same of the reference.
        reason: why there is nothing to compare, in words; empty if there is.
        comparable: False where run and reference are not expected to agree, such as in different ensembles.
    """

    quantity: str
    of: str
    against: str
    difference: float
    detectable: float
    wanted: float
    unit: str
    statement: str
    run_ps: float | None = None
    reference_ps: float | None = None
    reason: str = ""
    comparable: bool = True

    @property
    def outcome(self) -> Outcome | Literal["not compared"]:
        """``agrees``, ``differs``, ``cannot tell``, also for numbers that are not finite, or ``not compared``."""
        if not self.comparable:
            return NOT_COMPARED
        if abs(self.difference) > self.detectable:
            return "differs"
        return "agrees" if abs(self.difference) <= self.detectable <= self.wanted else "cannot tell"


def checks(analysis: Analysis, reference: Analysis | None = None) -> list[Check]:
    """All checks: against the target temperature of the run, and against the reference.

    Temperatures and energies of runs in different ensembles are not compared; they are in the list with the reason.
    """
    scale = error_scale(reference)
    found = _temperatures(analysis, None, scale)
    if reference is None:
        return found
    numbers = comparison.compare(analysis, reference)
    found += [_vibrations(analysis, reference, numbers), *_torsions(analysis, reference, numbers)]
    if analysis.rdf:
        found.append(_structure(analysis, reference, numbers))
    if same_ensemble(analysis, reference):
        found += _temperatures(analysis, reference, scale)
    else:
        found.append(_not_compared("temperature", f"the run is {bath(analysis)}, the reference {bath(reference)}"))
    return [*found, *_densities(analysis, reference), *_potential_energies(analysis, reference)]


def decisive(found: list[Check]) -> list[Check]:
    """The checks that decide the outcome: what was compared, and of temperatures the sharper check.

    Left out are temperatures that the reference cannot tell about where the target can.
    """
    told = {(c.quantity, c.of) for c in found if c.against == "target" and c.outcome != "cannot tell"}
    return [
        c
        for c in found
        if c.comparable and not (c.against == "reference" and c.outcome == "cannot tell" and (c.quantity, c.of) in told)
    ]


def target_temperature(analysis: Analysis) -> float | None:
    """Temperature of the thermostat, K; None without one, and where it changes along the run."""
    metadata = analysis.metadata
    constant = metadata.get("temperature_end_K") in (None, metadata.get("temperature_K"))
    return metadata.get("temperature_K") if ensemble(analysis) in ("NVT", "NPT") and constant else None


def ensemble(analysis: Analysis) -> str:
    """NVE, NVT or NPT; empty if the file does not say."""
    return str(analysis.metadata.get("ensemble") or "").upper()


def same_ensemble(analysis: Analysis, reference: Analysis) -> bool:
    """True unless the files state different ensembles or target temperatures."""
    names, targets = ({f(run) for run in (analysis, reference)} for f in (ensemble, target_temperature))
    return "" in names or (len(names) == 1 and len(targets) == 1)


def bath(analysis: Analysis) -> str:
    """Ensemble, target and thermostat of a run in words; empty if the file does not state its ensemble."""
    facts, name, target = analysis.metadata, ensemble(analysis), target_temperature(analysis)
    words = name + (f" at {target:g} K" if target is not None else "")
    if facts.get("thermostat"):
        named = {"csvr": "CSVR", "langevin": "Langevin"}.get(facts["thermostat"], facts["thermostat"])
        words += f" with {named}" + (f" (τ = {facts['tau_fs']:g} fs)" if facts.get("tau_fs") else "")
        if facts.get("friction_tau_fs"):
            words += f" and friction (1/γ = {facts['friction_tau_fs']:g} fs)"
            if facts.get("friction_above_per_cm"):
                words += f" above {facts['friction_above_per_cm']:g} cm⁻¹"
    return words


_BATH = ("thermostat", "tau_fs", "friction_tau_fs", "friction_above_per_cm")


def same_bath(analysis: Analysis, reference: Analysis) -> bool:
    """True unless the files state different ensembles, thermostats, relaxation times or friction."""
    if not same_ensemble(analysis, reference):
        return False
    stated = [run.metadata for run in (analysis, reference)]
    if any(facts.get("thermostat") is None for facts in stated):
        return True
    own, other = ([facts.get(name) for name in _BATH] for facts in stated)
    return own == other


def length_ps(analysis: Analysis) -> float:
    """Length of the run, ps."""
    return float(analysis.times_fs[-1] - analysis.times_fs[0]) / units.PS


def required_ps(found: list[Check]) -> tuple[float | None, float | None]:
    """Lengths of run and reference, ps, that would decide what could not be told; None if longer is of no use."""
    unclear = [check for check in decisive(found) if check.outcome == "cannot tell"]
    lengths = [check.run_ps for check in unclear], [check.reference_ps for check in unclear]
    run, reference = (max((length for length in each if length is not None), default=None) for each in lengths)
    return run, reference


def error_scale(reference: Analysis | None) -> float:
    """Factor on the errors of temperatures, at least 1, from what the reference misses its own target by."""
    target = None if reference is None else target_temperature(reference)
    if reference is None or target is None:
        return 1.0
    squares = [((mean - target) / error) ** 2 for mean, error in _means(reference).values() if error > 0]
    return max(1.0, float(np.sqrt(np.mean(squares)))) if squares else 1.0


def _temperatures(analysis: Analysis, reference: Analysis | None, scale: float) -> list[Check]:
    """All atoms and each element, against the reference, or else against the target if there is one."""
    target = target_temperature(analysis)
    if reference is None and target is None:
        return []
    own = _means(analysis, scale)
    if reference is None:
        others, wanted = {name: (float(target or 0), 0.0) for name in own}, THERMAL_SHARE * float(target or 0)
    else:
        others, wanted = _means(reference, scale), THERMAL_SHARE * reference.temperatures.mean
    return [
        _of_means("temperature", name, own[name], others[name], wanted, "K", analysis, reference)
        for name in own
        if name in others
    ]


def _means(analysis: Analysis, scale: float = 1.0) -> dict[str, tuple[float, float]]:
    """Mean temperatures with their errors times a scale, K, of all atoms and of each element."""
    found = analysis.temperatures
    elements = {name: (mean, scale * found.error_by_species[name]) for name, mean in found.mean_by_species.items()}
    return {"all atoms": (found.mean, scale * found.error), **elements}


def _potential_energies(analysis: Analysis, reference: Analysis) -> list[Check]:
    """The check of the potential energy; none if neither run knows it."""
    own, other = properties.potential_energy(analysis), properties.potential_energy(reference)
    known = [math.isfinite(mean) for mean, _ in (own, other)]
    if not any(known):
        return []
    if not same_ensemble(analysis, reference):
        reason = f"the run is {bath(analysis)}, the reference {bath(reference)}"
        return [_not_compared("potential energy", reason)]
    if not all(known):
        return [_not_compared("potential energy", f"the {'reference' if known[0] else 'run'} has none")]
    wanted = THERMAL_SHARE * 1.5 * 1000 * units.BOLTZMANN * reference.temperatures.mean
    return [_of_means("potential energy", "all atoms", own, other, wanted, "meV/atom", analysis, reference)]


def _densities(analysis: Analysis, reference: Analysis) -> list[Check]:
    """The check of the density, where one of the runs is at constant pressure."""
    own, other = analysis.volumes, reference.volumes
    if own is None or other is None or not (own.changes or other.changes):
        return []
    if own.changes != other.changes:
        return [_not_compared("density", "one of the two runs has a constant volume")]
    wanted = DENSITY_SHARE * other.density_g_per_cm3[0]
    return [
        _of_means(
            "density", "all atoms", own.density_g_per_cm3, other.density_g_per_cm3, wanted, "g/cm³", analysis, reference
        )
    ]


def _not_compared(quantity: str, reason: str) -> Check:
    """The check of what is not expected to agree."""
    statement = f"the {quantity} is not compared, because {reason}"
    nan = math.nan
    return Check(quantity, "all atoms", "reference", nan, nan, nan, "", statement, reason=reason, comparable=False)


def _of_means(
    quantity: str,
    of: str,
    own: tuple[float, float],
    other: tuple[float, float],
    wanted: float,
    unit: str,
    analysis: Analysis,
    reference: Analysis | None,
) -> Check:
    """The check of two means with their standard errors."""
    difference, error = own[0] - other[0], math.hypot(own[1], other[1])
    beside = "target" if reference is None else "reference"
    # The errors of two runs may each take half of the variance.
    allowed = wanted / STANDARD_ERRORS if reference is None else wanted / STANDARD_ERRORS / math.sqrt(2)
    name = quantity if of == "all atoms" else f"{quantity} of {of}"
    away = f"{text.short(difference, '+')} ± {text.short(error)} {unit} from the {beside}"
    place = text.number(*other) if other[1] else format(other[0], "g")
    statement = f"the {name} is {text.number(*own)} {unit}, {away} ({place} {unit})"
    return Check(
        quantity,
        of,
        beside,
        difference,
        max(STANDARD_ERRORS * error, 1e-9),
        wanted,
        unit,
        statement,
        _required(length_ps(analysis), own[1], allowed),
        None if reference is None else _required(length_ps(reference), other[1], allowed),
    )


def _vibrations(analysis: Analysis, reference: Analysis, numbers: dict) -> Check:
    overlap = numbers["vdos_overlap"]
    if overlap is None:
        intervals = [frame_interval(run.times_fs) for run in (analysis, reference)]
        reason = "frames every {:g} and {:g} fs resolve wave numbers up to {:.0f} and {:.0f} cm⁻¹".format(
            *intervals, *(spectra.highest(interval) for interval in intervals)
        )
        statement = f"the vibrational spectra cannot be compared: {reason}"
        nan = math.nan
        return Check("vibrations", "all atoms", "reference", nan, nan, 1 - OVERLAP, "", statement, reason=reason)
    halves = [1 - (numbers[f"{run}vdos_halves_overlap"] or 0.0) for run in ("", "reference_")]
    baths = "" if same_bath(analysis, reference) else ", of different heat baths,"
    return _of_halves(
        "vibrations", "all atoms", 1 - overlap, halves, 1 - OVERLAP, f"the vibrational spectra{baths} overlap by",
        analysis, reference,
    )  # fmt: skip


def _torsions(analysis: Analysis, reference: Analysis, numbers: dict) -> list[Check]:
    """Checks of the populations of each torsion, and of pairs of them."""
    found = []
    for kind in ("torsion", "torsion_surface"):
        for name, overlap in numbers[f"{kind}_overlap"].items():
            halves = [1 - numbers[f"{run}{kind}_halves_overlap"].get(name, 0.0) for run in ("", "reference_")]
            words = f"the populations over {name} overlap by"
            found.append(_of_halves("torsions", name, 1 - overlap, halves, 1 - OVERLAP, words, analysis, reference))
    return found


def _structure(analysis: Analysis, reference: Analysis, numbers: dict) -> Check:
    if numbers["rdf_rmse"] is None:
        reason = "run and reference are periodic in different directions"
        statement, nan = f"the pair distributions cannot be compared: {reason}", math.nan
        return Check("structure", "all atoms", "reference", nan, nan, nan, "", statement, reason=reason)
    halves = [run.rdf_halves_rmse for run in (analysis, reference)]
    wanted = STRUCTURE_SHARE * float(np.mean([np.sqrt(np.mean(curve.g**2)) for curve in reference.rdf.values()]))
    return _of_halves("structure", "all atoms", numbers["rdf_rmse"], halves, wanted, "", analysis, reference)


def _of_halves(
    quantity: str,
    of: str,
    difference: float,
    halves: list[float],
    wanted: float,
    words: str,
    analysis: Analysis,
    reference: Analysis,
) -> Check:
    """The check of a distance between curves, whose noise is that between the halves of the runs."""
    factor = math.sqrt(2) if quantity == "vibrations" else 2.0  # see the module's docstring
    detectable = factor * math.hypot(*halves) / 2
    if words:
        statement = f"{words} {1 - difference:.1%} (two equal runs of these lengths: at least {1 - detectable:.1%})"
    else:
        numbers = f"{difference:.2g} RMS (two equal runs of these lengths: at most {detectable:.2g})"
        statement = f"the pair distributions differ by {numbers}"
    allowed = math.sqrt(2) / factor * wanted  # of the halves of each run
    run_ps, reference_ps = (
        _required(length_ps(run), half, allowed) for run, half in zip((analysis, reference), halves, strict=True)
    )
    return Check(quantity, of, "reference", difference, detectable, wanted, "", statement, run_ps, reference_ps)


def _required(length: float, noise: float, allowed: float) -> float | None:
    """Length, ps, at which the noise has fallen to what is allowed; None if it has."""
    return length * (noise / allowed) ** 2 if noise > allowed > 0 else None
