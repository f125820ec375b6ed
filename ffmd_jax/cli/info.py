"""``ffmd info``: what a file or model is."""

from pathlib import Path

from tyro.conf import Positional

from ffmd_jax.cli import common


def info(subject: Positional[str], /, json: bool = False) -> None:
    """Says what a model, a dataset or a trajectory is.

    Elements, Δt, sizes, times, ensemble.

    Args:
        subject: Model folder, name of a shipped model, dataset, or trajectory file.
        json: Print one JSON object.
    """
    facts = _facts(subject)
    if json:
        common.print_json(facts)
    else:
        for name, value in facts.items():
            print(f"{name:28} {value}")


def _facts(subject: str) -> dict:
    from ffmd_jax.data import dataset_file
    from ffmd_jax.models import model_files

    if Path(subject).is_dir() or subject in model_files.pretrained():
        return _model_facts(subject)
    return _dataset_facts(subject) if dataset_file.recognises(subject) else _trajectory_facts(subject)


def _model_facts(subject: str) -> dict:
    import dataclasses

    from ffmd_jax.models import model, model_files, radial_tables

    used = model_files.load(subject)
    facts = dataclasses.asdict(used.config)
    architecture = facts.pop("architecture")
    return {
        "kind": "model",
        "network": used.kind,
        **facts,
        "elements": " ".join(model.symbols(used.config.elements)),
        "calibration": None if used.calibration is None else dataclasses.asdict(used.calibration),
        "weights": sum(int(values.size) for values in model_files.flatten(used.params).values()),
        **architecture,
        "relative_error_of_tables": radial_tables.step_error(used.config, used.params),
    }


def _dataset_facts(subject: str) -> dict:
    from ffmd_jax.data import dataset_file
    from ffmd_jax.models import model

    facts = dataset_file.facts(subject)
    metadata = facts.pop("metadata")
    for group in facts.get("groups", [facts]):
        symbols = model.symbols(group["elements"])
        group["speed_limits"] = dict(zip(symbols, group["speed_limits"], strict=True))
        group["elements"] = " ".join(symbols)
    return {"kind": "dataset", **facts, **metadata}


def _trajectory_facts(subject: str) -> dict:
    from ffmd_jax.formats import trajectory
    from ffmd_jax.models import model

    found = trajectory.summary(subject)
    n_frames, periodic = len(found.times), list(found.system.pbc)
    return {
        "kind": "trajectory",
        "n_frames": n_frames,
        "n_atoms": len(found.system.species),
        "elements": " ".join(model.symbols(sorted(set(found.system.species.tolist())))),
        "frame_interval_fs": trajectory.frame_interval(found.times) if n_frames > 1 else None,
        "length_ps": float(found.times[-1] - found.times[0]) / 1000,
        "cell_A": found.cell.tolist() if any(periodic) else None,
        "periodic": periodic,
        "observables": found.observables,
        "forces": found.forces,
        **found.metadata,
    }
