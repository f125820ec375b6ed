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
=================  ==========================================  ======================================================

The difference d between two equal runs follows from those between the halves of each run, d² = (h² + h'²)/4: the
difference of two halves has four times the variance of the mean of the run.  Spectra average over many modes and
scatter less about this expectation than g(r) and torsions, which depend on a few slow motions.

Standard errors come from the runs themselves, which do not know of motions slower than the run.  A reference in a
thermostat has a known temperature: if its temperatures miss it by more than their errors, all errors of temperatures
are enlarged by the root mean square of these deviations (the Birge ratio, doi:10.1103/PhysRev.40.207).

Errors fall with the square root of the length: a run must be longer by (detectable/wanted)².
"""

import math
from typing import Literal, NamedTuple

import numpy as np

from ffmd_jax.analysis import comparison, properties, text
from ffmd_jax.analysis.properties import Analysis
from ffmd_jax.core import units
from ffmd_jax.formats.trajectory import frame_interval

STANDARD_ERRORS = 3.0
THERMAL_SHARE = 0.02  # of the temperature, and of the thermal part of the potential energy
OVERLAP = 0.9
STRUCTURE_SHARE = 0.05

Outcome = Literal["agrees", "differs", "cannot tell"]


class Check(NamedTuple):
    """One quantity of the run beside the target temperature or the reference.

    Attributes:
        quantity: temperature, vibrations, structure, torsions or potential energy.
        of: part of the system, such as an element.
        against: ``target`` or ``reference``.
        difference: run minus target or reference; for spectra and populations 1 − overlap; in ``unit``.
        detectable: smallest difference that counts, in ``unit``.
        wanted: largest detectable difference with which agreement means something, in ``unit``.
        unit: empty if dimensionless.
        statement: the result in words.
        run_ps: length of the run that would reach ``wanted``, ps; None if the run is long enough.
        reference_ps: the same of the reference.
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

    @property
    def outcome(self) -> Outcome:
        """``agrees``, ``differs`` or ``cannot tell``; the last for numbers that are not finite."""
        if abs(self.difference) > self.detectable:
            return "differs"
        return "agrees" if abs(self.difference) <= self.detectable <= self.wanted else "cannot tell"


def checks(analysis: Analysis, reference: Analysis | None = None) -> list[Check]:
    """All checks that the runs allow: against the target temperature of the run, and against the reference.

    Temperatures and energies of runs in different ensembles are not compared.  Where a target temperature is known, it
    is the sharper reference: temperatures that the reference run is too short for are left out.
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
        sharper = bool(found) and found[0].against == "target"
        temperatures = _temperatures(analysis, reference, scale)
        found += [check for check in temperatures if not (sharper and check.outcome == "cannot tell")]
        if numbers["potential_energy_shift_meV_per_atom"] is not None:
            found.append(_potential_energy(analysis, reference))
    return found


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


def length_ps(analysis: Analysis) -> float:
    """Length of the run, ps."""
    return float(analysis.times_fs[-1] - analysis.times_fs[0]) / units.PS


def required_ps(found: list[Check]) -> tuple[float | None, float | None]:
    """Lengths of run and reference, ps, that would decide what could not be told; None if longer is of no use."""
    unclear = [check for check in found if check.outcome == "cannot tell"]
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


def _potential_energy(analysis: Analysis, reference: Analysis) -> Check:
    own, other = properties.potential_energy(analysis), properties.potential_energy(reference)
    wanted = THERMAL_SHARE * 1.5 * 1000 * units.BOLTZMANN * reference.temperatures.mean
    return _of_means("potential energy", "all atoms", own, other, wanted, "meV/atom", analysis, reference)


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
        ends = [units.PS * units.TERAHERTZ_IN_PER_CM / (2 * interval) for interval in intervals]
        statement = (
            "the vibrational spectra cannot be compared: frames every {:g} and {:g} fs resolve wave numbers up to "
            "{:.0f} and {:.0f} cm⁻¹"
        ).format(*intervals, *ends)
        return Check("vibrations", "all atoms", "reference", math.nan, math.nan, 1 - OVERLAP, "", statement)
    halves = [1 - (numbers[f"{run}vdos_halves_overlap"] or 0.0) for run in ("", "reference_")]
    return _of_halves(
        "vibrations", "all atoms", 1 - overlap, halves, 1 - OVERLAP, "the vibrational spectra overlap by",
        analysis, reference,
    )  # fmt: skip


def _torsions(analysis: Analysis, reference: Analysis, numbers: dict) -> list[Check]:
    found = []
    for name, overlap in numbers["torsion_surface_overlap"].items():
        halves = [1 - numbers[f"{run}torsion_surface_halves_overlap"].get(name, 0.0) for run in ("", "reference_")]
        words = f"the populations over {name} overlap by"
        found.append(_of_halves("torsions", name, 1 - overlap, halves, 1 - OVERLAP, words, analysis, reference))
    return found


def _structure(analysis: Analysis, reference: Analysis, numbers: dict) -> Check:
    if numbers["rdf_rmse"] is None:
        statement = "the pair distributions cannot be compared: run and reference are periodic in different directions"
        return Check("structure", "all atoms", "reference", math.nan, math.nan, math.nan, "", statement)
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
    lengths = (
        _required(length_ps(run), half, allowed) for run, half in zip((analysis, reference), halves, strict=True)
    )
    return Check(quantity, of, "reference", difference, detectable, wanted, "", statement, *lengths)


def _required(length: float, noise: float, allowed: float) -> float | None:
    """Length, ps, at which the noise has fallen to what is allowed; None if it has."""
    return length * (noise / allowed) ** 2 if noise > allowed > 0 else None
