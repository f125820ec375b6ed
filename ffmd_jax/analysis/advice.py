"""Concrete advice where a run does not agree with its target temperature or its reference."""

import numpy as np

from ffmd_jax.analysis import checks, text
from ffmd_jax.analysis.checks import Check
from ffmd_jax.analysis.properties import Analysis
from ffmd_jax.core import units
from ffmd_jax.formats.trajectory import frame_interval


def advice(found: list[Check], analysis: Analysis, reference: Analysis | None = None) -> list[str]:
    """Sentences on what to do; empty if all checks agree and no monitor raised an alarm."""
    differing = {check.quantity for check in found if check.outcome == "differs"}
    items = [_alarms(analysis)]
    if "temperature" in differing:
        items += [_temperature(found, analysis), _elements(found, analysis)]
    if "vibrations" in differing:
        items.append(
            "Vibrations: train longer, or with more data (ffmd train, ffmd evaluate shows the error of a step). Strong "
            "friction broadens spectra: compare with a reference in the same thermostat."
        )
    if {"structure", "torsions"} & differing:
        items.append(
            "Structure: check that both runs have the same cell, density and start. If they do, the model leaves the "
            "configurations of its training data: add reference runs that cover them, and train longer."
        )
    if "potential energy" in differing:
        items.append(
            "Potential energy: if the temperatures agree, the run has not equilibrated or samples other configurations "
            "than the reference. Discard the beginning of the run, or start both from the same structure; if the shift "
            "stays, train longer."
        )
    items += [_frames(found, analysis, reference), _length(found, analysis, reference)]
    items.append(_reference(analysis, reference))
    return [item for item in items if item]


def _alarms(analysis: Analysis) -> str:
    alarms = analysis.metadata.get("alarms")
    if not alarms:
        return ""
    return (
        "Alarms: do not use the run beyond its first alarm. Start from an equilibrated structure at a temperature that "
        "the training data cover; add reference data like the frames before the alarm and train longer; or let a "
        "reference take over for some steps with --on-alarm fallback --fallback."
    )


def _temperature(found: list[Check], analysis: Analysis) -> str:
    """Advice where the temperature of all atoms is off the target."""
    off = [c for c in found if (c.of, c.against, c.outcome) == ("all atoms", "target", "differs")]
    if not any(check.quantity == "temperature" for check in off):
        return ""
    tau = analysis.metadata.get("tau_fs")
    now = f" (now {tau:g} fs)" if tau else ""
    return (
        f"Temperature: the thermostat does not hold the target against the heating or cooling by the model. Use a "
        f"shorter --tau-fs{now}, discard the equilibration, and train longer: the cause is the error of a step."
    )


def _elements(found: list[Check], analysis: Analysis) -> str:
    """Advice where elements are too warm or too cold."""
    off = {
        c.of: c.difference
        for c in found
        if c.quantity == "temperature" and c.of != "all atoms" and c.outcome == "differs"
    }
    if not off:
        return ""
    states = [
        f"{element} is {text.short(abs(kelvin))} K too {'warm' if kelvin > 0 else 'cold'}"
        for element, kelvin in off.items()
    ]
    friction, step = analysis.metadata.get("friction_tau_fs"), analysis.metadata.get("time_step_fs")
    ways = []
    if checks.ensemble(analysis) != "NVE":
        usual = f", usually {100 * step:g} to {500 * step:g} fs" if step else ""
        ways.append(
            f"shorten --friction-tau-fs (now {friction:g} fs{usual})" if friction else f"set --friction-tau-fs{usual}"
        )
    if not analysis.metadata.get("reversible"):
        ways.append("use --reversible")
    ways.append("train longer")
    return f"Elements: {text.join(states)}. {text.sentence(', or '.join(ways))}"


def _frames(found: list[Check], analysis: Analysis, reference: Analysis | None) -> str:
    """Advice where frames are too far apart for spectra."""
    vibrations = [check for check in found if check.quantity == "vibrations"]
    if reference is None or not vibrations or np.isfinite(vibrations[0].difference):
        return ""
    own, other = (frame_interval(run.times_fs) for run in (analysis, reference))
    option = "--every (ffmd rollout)" if own > other else "--frame-fs (ffmd reference)"
    return (
        f"Spectra: frames are {own:g} fs apart, those of the reference {other:g} fs; vibrations with a period below "
        f"twice the interval are folded back. Use a smaller {option}, at most {min(own, other):g} fs."
    )


def _length(found: list[Check], analysis: Analysis, reference: Analysis | None) -> str:
    """How long the runs would have to be to tell what could not be told."""
    run_ps, reference_ps = checks.required_ps(found)
    ways = []
    if run_ps is not None:
        step = analysis.metadata.get("time_step_fs")
        steps = f" (ffmd rollout --resume --steps {text.round_up(run_ps * units.PS / step)})" if step else ""
        ways.append(f"continue the run to about {text.round_up(run_ps)} ps{steps}")
    if reference is not None and reference_ps is not None:
        ways.append(f"make a reference of about {text.round_up(reference_ps)} ps (ffmd reference --length-ps)")
    return f"Length: {text.join(ways)}. Errors fall with the square root of the length." if ways else ""


def _reference(analysis: Analysis, reference: Analysis | None) -> str:
    """Advice on a missing reference, or one in another ensemble."""
    if reference is None:
        return "Reference: compare with a run of the reference method, ffmd analyze RUN --reference REFERENCE."
    if checks.same_ensemble(analysis, reference):
        return ""
    return (
        "Reference: compare with a reference in the same ensemble and at the same temperature; ffmd reference has "
        "--ensemble, --temperature, --tau-fs and --friction-tau-fs."
    )
