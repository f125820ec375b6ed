"""Concrete advice where a run does not agree with its target temperature or its reference."""

from pathlib import Path
from typing import Any

import numpy as np

from ffmd_jax.analysis import checks, text
from ffmd_jax.analysis.checks import Check
from ffmd_jax.analysis.properties import Analysis
from ffmd_jax.core import commands, units
from ffmd_jax.formats.trajectory import frame_interval


def advice(found: list[Check], analysis: Analysis, reference: Analysis | None = None) -> list[str]:
    """Sentences on what to do; empty if all checks agree and no monitor raised an alarm."""
    differing = {check.quantity for check in found if check.outcome == "differs"}
    items = [_alarms(analysis), _bath(analysis, reference)]
    if "temperature" in differing:
        items += [_temperature(found, analysis), _elements(found, analysis)]
    if "vibrations" in differing:
        first = "if they still differ in the same heat bath, " if items[1] else ""
        items.append(f"Vibrations: {first}train longer, or with more data; `ffmd evaluate` shows the error of a step.")
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
    if reference is None:
        items.append(_reference(analysis))
    return [item for item in items if item]


def _alarms(analysis: Analysis) -> str:
    alarms = analysis.metadata.get("alarms")
    if not alarms:
        return ""
    return (
        "Alarms: do not use the run beyond its first alarm. Start from an equilibrated structure at a temperature that "
        "the training data cover; add reference data like the frames before the alarm and train longer; or let a "
        "reference take over for some steps (`on_alarm` fallback)."
    )


def _temperature(found: list[Check], analysis: Analysis) -> str:
    """Advice where the temperature of all atoms is off the target."""
    off = [c for c in found if (c.of, c.against, c.outcome) == ("all atoms", "target", "differs")]
    if not any(check.quantity == "temperature" for check in off):
        return ""
    tau = analysis.metadata.get("tau_fs")
    now = f" (now {tau:g} fs)" if tau else ""
    return (
        "Temperature: the thermostat does not hold the target against the heating or cooling by the model. Use a "
        f"shorter relaxation time, `tau_fs`{now}, discard the equilibration, and train longer: the cause is the error "
        "of a step."
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
        usual = f"usually {100 * step:g} to {500 * step:g} fs" if step else ""
        if friction:
            now = f"now {friction:g} fs" + (f", {usual}" if usual else "")
            ways.append(f"shorten the relaxation time of the friction, `friction_tau_fs` ({now})")
        else:
            ways.append("add friction with a relaxation time `friction_tau_fs`" + (f", {usual}" if usual else ""))
        if off.get("H", 0.0) > 0 and not analysis.metadata.get("friction_above_per_cm"):
            ways[-1] += "; with `friction_above_per_cm` of 1000 to 1500 it hardly acts on slow motions"
    if not analysis.metadata.get("reversible"):
        ways.append("use time-symmetrised steps (`reversible`)")
    ways.append("train longer")
    return f"Elements: {text.join(states)}. {text.sentence(', or '.join(ways))}"


def _frames(found: list[Check], analysis: Analysis, reference: Analysis | None) -> str:
    """Advice where frames are too far apart for spectra."""
    vibrations = [check for check in found if check.quantity == "vibrations"]
    if reference is None or not vibrations or np.isfinite(vibrations[0].difference):
        return ""
    own, other = (frame_interval(run.times_fs) for run in (analysis, reference))
    option = "`every` of the rollout" if own > other else "`frame_fs` of the reference"
    return (
        f"Spectra: frames are {own:g} fs apart, those of the reference {other:g} fs; vibrations with a period below "
        f"twice the interval are folded back. Use a smaller {option}, at most {min(own, other):g} fs."
    )


def _length(found: list[Check], analysis: Analysis, reference: Analysis | None) -> str:
    """How long the runs would have to be to tell what could not be told, and the commands."""
    run_ps, reference_ps = checks.required_ps(found)
    ways = []
    own = str(analysis.metadata.get("command") or "")
    if own.startswith("ffmd demo"):  # makes both
        longer = max((length for length in (run_ps, reference_ps) if length is not None), default=None)
        if longer is None:
            return ""
        command = commands.changed(own, length_ps=text.round_up(longer), out="ffmd_demo_longer")
        return f"Length: make both runs longer, of about {text.round_up(longer)} ps: `{command}`"
    if run_ps is not None:
        step = analysis.metadata.get("time_step_fs")
        steps = text.round_up(run_ps * units.PS / step, multiple=_every(analysis)) if step else None
        way = f"continue the run to about {text.round_up(run_ps)} ps" + (f", {steps} steps in all" if steps else "")
        ways.append(way + (f": `{commands.changed(own, steps=steps)} --resume`" if own and steps else ""))
    if reference is not None and reference_ps is not None:
        way = f"make a reference of about {text.round_up(reference_ps)} ps"
        command = _reference_command(reference, "longer", length_ps=text.round_up(reference_ps))
        ways.append(way + (f": `{command}`" if command else ""))
    return f"Length: {', and '.join(ways)}. Errors fall with the square root of the length." if ways else ""


def _every(analysis: Analysis) -> int:
    """Steps of the model between two frames."""
    return max(1, round(frame_interval(analysis.times_fs) / analysis.metadata["time_step_fs"]))


def _reference_command(reference: Analysis, suffix: str, **options: Any) -> str:
    """The command that makes such a reference with other options, beside the file; empty if it is not known."""
    command = reference.metadata.get("command")
    if not command or not command.startswith("ffmd reference"):
        return ""
    file = Path(reference.metadata.get("file") or "reference.h5")
    out = file.with_name(f"{file.stem}_{suffix}.h5")
    length = {"length_ps": text.round_up(checks.length_ps(reference))}
    return commands.changed(command, **(length | options), out=out)


def _bath(analysis: Analysis, reference: Analysis | None) -> str:
    """Advice on a reference in another ensemble or heat bath, the first thing to mend."""
    if reference is None or checks.same_bath(analysis, reference):
        return ""
    facts = analysis.metadata
    bath = {"ensemble": checks.ensemble(analysis).lower(), "tau_fs": None, "friction_tau_fs": None,
            "friction_above_per_cm": None}  # fmt: skip
    command = ""
    if bath["ensemble"] == "nve" or (facts.get("thermostat") == "csvr" and checks.target_temperature(analysis)):
        if bath["ensemble"] != "nve":
            names = ("tau_fs", "friction_tau_fs", "friction_above_per_cm", "pressure_bar", "coupling")
            bath |= {name: facts[name] for name in names if name in facts}
            bath |= {"temperature": checks.target_temperature(analysis)}
        command = _reference_command(reference, "same_bath", **bath)
    advised = "in the same ensemble, with the same thermostat and friction"
    return f"Reference: compare with a reference {advised}" + (f": `{command}`" if command else ".")


def _reference(analysis: Analysis) -> str:
    """Advice on a missing reference."""
    file = analysis.metadata.get("file")
    command = f": `{commands.line('ffmd analyze', file)} --reference REFERENCE.h5 --out report`" if file else "."
    return f"Reference: compare with a run of the reference method{command}"
