"""``ffmd info``: what a file or model is."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ffmd_jax.cli import common
from ffmd_jax.core import commands
from ffmd_jax.formats import Hints


def info(
    subject: Positional[str | None] = None,
    /,
    hints: Annotated[Hints, tyro.conf.arg(name="")] = Hints(),
    json: bool = False,
) -> None:
    """Says what a model, a dataset or a trajectory is.

    Elements, Δt, sizes, times, ensemble; of shipped models also the card: training data, errors, settings, limits.
    Without a name it lists the shipped models.

    Args:
        subject: Model folder, name of a shipped model, dataset, or trajectory file (None: the shipped models).
        hints: What a trajectory file leaves unstated.
        json: Print one JSON object.
    """
    if subject is None:
        _list_models(json)
        return
    facts = _facts(subject, hints)
    if json:
        common.print_json(facts)
    else:
        from ffmd_jax.cli import info_words

        card = facts.pop("card", None)
        print("\n\n".join([info_words.describe(facts), *([card] if card else [])]))


def _list_models(json: bool) -> None:
    from ffmd_jax.models import model_files

    titles = model_files.titles()
    if json:
        common.print_json({"kind": "shipped models", "titles": titles})
        return
    width = max(map(len, titles))
    print("\n".join(f"{name:{width}}  {title}" for name, title in titles.items()))
    print("\n`ffmd info NAME` says more of one, `ffmd demo --system NAME` runs it beside its teacher.")
    print("`organic` runs the molecule that you name: `ffmd demo --smiles SMILES`.")


def _facts(subject: str, hints: Hints) -> dict:
    from ffmd_jax.data import dataset_file
    from ffmd_jax.models import model_files

    if Path(subject).is_dir() or subject in model_files.pretrained():
        return _model_facts(subject)
    if not Path(subject).exists() and (meant := commands.did_you_mean(subject, model_files.pretrained())):
        raise FileNotFoundError(f"{subject} is no file and no shipped model{meant}")
    return _dataset_facts(subject) if dataset_file.recognises(subject) else _trajectory_facts(subject, hints)


def _model_facts(subject: str) -> dict:
    import dataclasses

    from ffmd_jax.models import model, model_files, radial_tables

    used = model_files.load(subject)
    facts, propagates = dataclasses.asdict(used.config), used.kind == "propagator"
    calibration = None if used.calibration is None else dataclasses.asdict(used.calibration)
    if used.kind == "family":
        names = [f"{step:g} fs" for step in used.config.time_steps_fs]
        member, units = facts.pop("member"), facts.pop("displacement_rms")
        own = {"displacement_rms": dict(zip(names, units, strict=True))}
        facts |= {key: value for key, value in member.items() if key != "time_step_fs"} | own
        if calibration is not None:
            calibration = dict(zip(names, calibration["members"], strict=True))
    architecture = facts.pop("architecture")
    if used.kind == "potential":
        architecture = {
            name: value for name, value in architecture.items() if not name.startswith(("speed", "velocity"))
        }
    return {
        "kind": "model",
        "network": used.kind,
        **facts,
        "elements": " ".join(model.symbols(used.config.elements)),
        "calibration": calibration,
        "weights": sum(int(values.size) for values in model_files.flatten(used.params).values()),
        **architecture,
        "own_potential": True if used.potential is not None else None,
        "relative_error_of_tables": radial_tables.step_error(used.config, used.params) if propagates else None,
        "card": model_files.card(subject),
    }


def _dataset_facts(subject: str) -> dict:
    from ffmd_jax.data import dataset_file
    from ffmd_jax.models import model

    facts = dataset_file.facts(subject)
    metadata = facts.pop("metadata")
    symbols = model.symbols(facts["elements"])
    facts["speed_limits"] = dict(zip(symbols, facts.get("speed_limits", []), strict=False))
    facts["elements"] = " ".join(symbols)
    return {"kind": "dataset", **facts, **metadata}


def _trajectory_facts(subject: str, hints: Hints) -> dict:
    import numpy as np

    from ffmd_jax.core import mechanics
    from ffmd_jax.formats import trajectory
    from ffmd_jax.models import model

    found = trajectory.summary(subject, hints)
    n_frames, periodic, timed = len(found.times), list(found.system.pbc), bool(np.isfinite(found.times).all())
    constraints = found.system.constraints
    return {
        "kind": "trajectory",
        "n_frames": n_frames,
        "n_atoms": len(found.system.species),
        "elements": " ".join(model.symbols(sorted(set(found.system.species.tolist())))),
        "frame_interval_fs": trajectory.frame_interval(found.times) if n_frames > 1 and timed else None,
        "length_ps": float(found.times[-1] - found.times[0]) / 1000 if timed else None,
        "cell_A": found.cell.tolist() if any(periodic) else None,
        "periodic": periodic,
        "degrees_of_freedom": round(float(mechanics.degrees_of_freedom(found.system))),
        "constraints": mechanics.describe_constraints(constraints) if constraints is not None else None,
        "observables": found.observables,
        "forces": found.forces,
        **found.metadata,
    }
