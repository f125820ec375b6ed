"""The result of a comparison in plain sentences."""

import math
from typing import Any

from ffmd_jax.analysis import bonds, checks, properties, spectra, text
from ffmd_jax.analysis.checks import Check, Outcome
from ffmd_jax.analysis.properties import Analysis
from ffmd_jax.core import units

_RELAXATIONS = 5
_SHOWN = 5  # changes of bonds
_SHOWN_HALVINGS = 5
_TITLES = {"differs": "Differs", "cannot tell": "Cannot tell", "agrees": "Agrees", checks.NOT_COMPARED: "Not compared"}
_BESIDE = {"target": "the target", "reference": "the reference"}


def outcome(found: list[Check]) -> Outcome:
    """``differs`` if any decisive check does, else ``cannot tell`` if any cannot or there is none, else ``agrees``."""
    outcomes = {check.outcome for check in checks.decisive(found)} or {"cannot tell"}
    return "differs" if "differs" in outcomes else "cannot tell" if "cannot tell" in outcomes else "agrees"


def headline(found: list[Check]) -> str:
    """What agrees, what differs and what cannot be told, without numbers."""
    found = checks.decisive(found)
    n_torsions = sum(check.quantity == "torsions" for check in found)
    if not found:
        return "There is nothing to compare with."
    of = {word: [check for check in found if check.outcome == word] for word in ("differs", "cannot tell", "agrees")}
    if len(of["agrees"]) == len(found):
        return f"The run agrees in all that was compared: {_names(found, 'with', n_torsions)}."
    parts = []
    if of["differs"]:
        parts.append(f"The run differs {_names(of['differs'], 'from', n_torsions)}.")
    if of["cannot tell"]:
        parts.append(f"It remains open whether the run agrees {_names(of['cannot tell'], 'with', n_torsions)}.")
    if of["agrees"]:
        parts.append(f"It agrees {_names(of['agrees'], 'with', n_torsions)}.")
    return " ".join(parts)


def lists(found: list[Check]) -> dict[str, list[str]]:
    """The numbers of all checks, in the words of a list, under Differs, Cannot tell, Agrees and Not compared."""
    of = {title: [_item(check) for check in found if check.outcome == word] for word, title in _TITLES.items()}
    return {title: items for title, items in of.items() if items}


def notes(found: list[Check], analysis: Analysis, reference: Analysis | None = None) -> list[str]:
    """What else to know about the runs, in sentences."""
    sentences = [_lengths(found, analysis, reference), _errors(analysis, reference)]
    if reference is None:
        numbers = properties.summarize(analysis)
        kelvins = text.number(numbers["temperature_K"], numbers["temperature_error_K"])
        length = f"The run has {numbers['length_ps']:.3g} ps at {kelvins} K."
        sentences = [f"{length} No reference was given to compare with.", *sentences]
    else:
        sentences = [_baths(analysis, reference), *sentences]
    sentences += [_volume(analysis, reference), _momentum(analysis.momentum_drift), _bonds(analysis), _alarms(analysis)]
    return [sentence for sentence in sentences if sentence]


def details(found: list[Check], analysis: Analysis, reference: Analysis | None = None) -> str:
    """The numbers behind the headline and the notes, in sentences."""
    numbers = [text.sentence(_detail(check)) for check in _worst(found) if check.comparable]
    return " ".join([*numbers, *notes(found, analysis, reference)])


def _names(found: list[Check], preposition: str, n_torsions: int) -> str:
    """What the checks compare with, after a preposition, and their quantities, with the atoms where not all."""
    groups: dict[str, dict[str, list[str]]] = {}
    for check in found:
        groups.setdefault(check.against, {}).setdefault(check.quantity, []).append(check.of)
    parts = []
    for against, names in groups.items():
        listed = [_name(quantity, of, n_torsions) for quantity, of in names.items()]
        parts.append(f"{preposition} {_BESIDE[against]} in {text.join(listed)}")
    return text.join(parts)


def _name(quantity: str, of: list[str], n_torsions: int) -> str:
    """A quantity with the atoms, where these are not all; of torsions, how many."""
    if quantity == "torsions":
        return quantity if len(of) == n_torsions else f"{len(of)} of {n_torsions} torsions"
    return quantity if of == ["all atoms"] else f"{quantity} ({', '.join(of)})"


def _item(check: Check) -> str:
    """A check as an item of a list: its statement without article, and what could not be told."""
    return _detail(check).removeprefix("the ")


def _worst(found: list[Check]) -> list[Check]:
    """Of each quantity and what it is compared with, the check with the largest difference over the detectable one."""
    worst: dict[tuple[str, str], Check] = {}
    for check in found:
        key = check.quantity, check.against
        if key not in worst or _size(check) > _size(worst[key]):
            worst[key] = check
    return list(worst.values())


def _size(check: Check) -> float:
    return abs(check.difference) / check.detectable if math.isfinite(check.difference) else -1.0


def _detail(check: Check) -> str:
    """The statement of a check; of means, with the smallest detectable difference where it cannot tell."""
    if check.outcome != "cannot tell" or not check.unit or not math.isfinite(check.detectable):
        return check.statement
    return f"{check.statement}; a difference below {text.short(check.detectable)} {check.unit} would go unnoticed"


def _errors(analysis: Analysis, reference: Analysis | None) -> str:
    """Where the errors of temperatures are not what the run itself says."""
    scale, friction = checks.error_scale(reference), analysis.metadata.get("friction_tau_fs")
    if scale > 1.5:
        return (
            f"The reference itself misses its target by {scale:.1f} standard errors (root mean square), so the errors "
            "of all temperatures are enlarged by this factor."
        )
    relaxations = checks.length_ps(analysis) * units.PS / friction if friction else math.inf
    if relaxations < _RELAXATIONS:
        return f"The run is {relaxations:.1f} relaxation times of the friction long: its errors may be underestimated."
    return ""


def _bonds(analysis: Analysis) -> str:
    """Bonds that formed and broke, where they were watched; the first five."""
    found = bonds.from_metadata(analysis.metadata)
    if found is None:
        return ""
    lines = bonds.describe(found, analysis.system)
    if not lines:
        return "No bond formed or broke."
    more = f" … and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return f"Bonds changed: {'; '.join(lines[:_SHOWN])}{more}."


def _volume(analysis: Analysis, reference: Analysis | None) -> str:
    """Volume and density of runs whose cells change."""
    runs = {"run": analysis, "reference": reference}
    volumes = {name: run.volumes for name, run in runs.items() if run is not None and run.volumes is not None}
    if not any(found.changes for found in volumes.values()):
        return ""
    said = [
        f"of the {name} {_with_error(found.volume_A3)} Å³ ({_with_error(found.density_g_per_cm3)} g/cm³)"
        for name, found in volumes.items()
    ]
    return f"The mean volume is {text.join(said)}."


def _with_error(mean: tuple[float, float]) -> str:
    value, error = mean
    return text.number(value, error or None)


def _lengths(found: list[Check], analysis: Analysis, reference: Analysis | None) -> str:
    """How long the runs would have to be to decide what could not be told."""
    run_ps, reference_ps = checks.required_ps(found)
    needs = [
        f"the {name} would need about {text.round_up(needed)} ps (it has {checks.length_ps(run):.3g} ps)"
        for name, run, needed in (("run", analysis, run_ps), ("reference", reference, reference_ps))
        if run is not None and needed is not None
    ]
    return f"To tell, {text.join(needs)}." if needs else ""


def _baths(analysis: Analysis, reference: Analysis) -> str:
    """Ensembles and heat baths, where they differ, and what follows from that."""
    if checks.same_bath(analysis, reference):
        return ""
    stated = f"The run is {checks.bath(analysis)}, the reference {checks.bath(reference)}"
    if not checks.same_ensemble(analysis, reference):
        stated += ": temperatures and potential energies are not compared"
    widths, slows = [], False
    for name, run in (("run", analysis), ("reference", reference)):
        for tau, above in _frictions(run):
            width = f"of the {name} by {text.short(spectra.broadening(tau))} cm⁻¹"
            widths.append(width + (f" (half of that at {above:g} cm⁻¹, less below)" if above else ""))
            slows |= not above
    slowed = ", and slows diffusion" if slows else ""
    friction = f" Friction broadens the spectral lines {text.join(widths)}{slowed}." if widths else ""
    return f"{stated}.{friction}"


def _frictions(analysis: Analysis) -> list[tuple[float, float | None]]:
    """Relaxation times, fs, of a Langevin thermostat and of friction, each with the wavenumber, cm⁻¹, it acts above."""
    facts = analysis.metadata
    thermostat = (facts.get("tau_fs"), None) if facts.get("thermostat") == "langevin" else (None, None)
    both = (thermostat, (facts.get("friction_tau_fs"), facts.get("friction_above_per_cm")))
    return [(tau, above) for tau, above in both if tau]


def _momentum(drift: float) -> str:
    if not math.isfinite(drift):
        return "The momentum is not finite."
    return f"The total momentum changes by at most {drift:.1e} of Σ m|v|."


def _alarms(analysis: Analysis) -> str:
    """The alarms of the monitors of the rollout, and how much of it the reference took over."""
    found: Any = properties.alarm_texts(analysis.metadata)
    if found is None:
        return ""
    taken_over = analysis.metadata.get("fallback_frames", 0)
    alarms = f"Alarms of the monitors: {'; '.join(found)}." if found else "The monitors raised no alarm."
    halvings: list[dict[str, float]] = analysis.metadata.get("halvings", [])
    if halvings:
        shortest = min(halving["time_step_fs"] for halving in halvings)
        where = ", ".join(f"{halving['time_fs'] / units.PS:.4g}" for halving in halvings[:_SHOWN_HALVINGS])
        more = ", …" if len(halvings) > _SHOWN_HALVINGS else ""
        how = f"Δt was halved {len(halvings)} times, to {shortest:g} fs at least, for {taken_over} frames"
        return f"{alarms} {how}: at {where}{more} ps."
    return alarms + (f" The reference took over for {taken_over} frames." if taken_over else "")
