"""The result of a comparison in plain sentences."""

import math
from typing import Any

from ffmd_jax.analysis import checks, properties, text
from ffmd_jax.analysis.checks import Check, Outcome
from ffmd_jax.analysis.properties import Analysis
from ffmd_jax.core import units

_RELAXATIONS = 5


def outcome(found: list[Check]) -> Outcome:
    """``differs`` if any check does, else ``cannot tell`` if any check cannot or if there is none, else ``agrees``."""
    outcomes = {check.outcome for check in found} or {"cannot tell"}
    return "differs" if "differs" in outcomes else "cannot tell" if "cannot tell" in outcomes else "agrees"


def headline(found: list[Check]) -> str:
    """What agrees, what differs and what cannot be told, without numbers."""
    if not found:
        return "There is nothing to compare with."
    of = {word: [check for check in found if check.outcome == word] for word in ("differs", "cannot tell", "agrees")}
    if len(of["agrees"]) == len(found):
        words = {"target": "the target temperature", "reference": "the reference"}
        beside = text.join(sorted({words[check.against] for check in found}))
        return f"The run agrees with {beside} in all that was compared: {_names(found)}."
    parts = []
    if of["differs"]:
        parts.append(f"The run differs in {_names(of['differs'])}.")
    if of["cannot tell"]:
        parts.append(f"This comparison cannot tell whether the run agrees in {_names(of['cannot tell'])}.")
    if of["agrees"]:
        parts.append(f"The run agrees in {_names(of['agrees'])}.")
    return " ".join(parts)


def details(found: list[Check], analysis: Analysis, reference: Analysis | None = None) -> str:
    """The numbers behind the headline, in sentences."""
    sentences = []
    if reference is None:
        numbers = properties.summarize(analysis)
        kelvins = text.number(numbers["temperature_K"], numbers["temperature_error_K"])
        sentences += [
            f"The run has {numbers['length_ps']:.3g} ps at {kelvins} K.",
            "No reference was given to compare with.",
        ]
    else:
        sentences.append(_ensembles(analysis, reference))
    sentences += [text.sentence(_detail(check)) for check in _worst(found)]
    sentences += [
        _errors(analysis, reference),
        _lengths(found, analysis, reference),
        _momentum(analysis.momentum_drift),
        _alarms(analysis),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _names(found: list[Check]) -> str:
    """The quantities of checks; temperatures with the atoms and what they are compared with."""
    groups: dict[tuple[str, str], list[str]] = {}
    for check in found:
        groups.setdefault((check.quantity, check.against), []).append(check.of)
    return text.join(
        [
            f"temperature of {text.join(of)} ({against})" if quantity == "temperature" else quantity
            for (quantity, against), of in groups.items()
        ]
    )


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
    """The statement of a check, with the smallest detectable difference where it cannot tell."""
    if check.outcome != "cannot tell" or not math.isfinite(check.detectable):
        return check.statement
    unit = f" {check.unit}" if check.unit else ""
    return f"{check.statement}; a difference below {text.short(check.detectable)}{unit} would go unnoticed"


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


def _lengths(found: list[Check], analysis: Analysis, reference: Analysis | None) -> str:
    """How long the runs would have to be to decide what could not be told."""
    run_ps, reference_ps = checks.required_ps(found)
    needs = [
        f"the {name} about {text.round_up(needed)} ps (now {checks.length_ps(run):.3g} ps)"
        for name, run, needed in (("run", analysis, run_ps), ("reference", reference, reference_ps))
        if run is not None and needed is not None
    ]
    return f"To tell, the length would have to be: {text.join(needs)}." if needs else ""


def _ensembles(analysis: Analysis, reference: Analysis) -> str:
    """Which quantities of different ensembles are not compared."""
    if checks.same_ensemble(analysis, reference):
        return ""
    own, other = (
        checks.ensemble(run) + (f" at {kelvin:g} K" if (kelvin := checks.target_temperature(run)) else "")
        for run in (analysis, reference)
    )
    return f"The run is {own}, the reference {other}: temperatures and potential energies are not compared."


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
    return alarms + (f" The reference took over for {taken_over} frames." if taken_over else "")
