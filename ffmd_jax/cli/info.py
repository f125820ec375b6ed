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
    from ffmd_jax.models import model_files

    if Path(subject).is_dir() or subject in model_files.pretrained():
        return _model_facts(subject)
    import h5py

    if Path(subject).is_file() and h5py.is_hdf5(subject):
        with h5py.File(subject) as file:
            if "train" in file:
                return _dataset_facts(subject)
    return _trajectory_facts(subject)


def _model_facts(subject: str) -> dict:
    import dataclasses

    from ase.data import chemical_symbols

    from ffmd_jax.models import model_files, radial_tables

    config, params = model_files.load_model(subject)
    facts = dataclasses.asdict(config)
    n_weights = sum(int(values.size) for values in model_files.flatten(params).values())
    elements = " ".join(chemical_symbols[z] for z in config.elements)
    architecture = facts.pop("architecture")
    return {
        "kind": "model",
        **facts,
        "elements": elements,
        "weights": n_weights,
        **architecture,
        "relative_error_of_tables": radial_tables.step_error(config, params),
    }


def _dataset_facts(subject: str) -> dict:
    from ase.data import chemical_symbols

    from ffmd_jax.data import dataset

    facts = dataset.facts(subject)
    elements, metadata = [chemical_symbols[z] for z in facts["elements"]], facts.pop("metadata")
    limits = dict(zip(elements, facts["speed_limits"], strict=True))
    return {
        "kind": "dataset",
        **facts,
        "elements": " ".join(elements),
        "speed_limits": limits,
        **metadata,
    }


def _trajectory_facts(subject: str) -> dict:
    from ase.data import chemical_symbols

    from ffmd_jax.formats import trajectory

    found = trajectory.read(subject)
    n_frames = len(found.times)
    return {
        "kind": "trajectory",
        "n_frames": n_frames,
        "n_atoms": len(found.system.species),
        "elements": " ".join(chemical_symbols[z] for z in sorted(set(found.system.species.tolist()))),
        "frame_interval_fs": trajectory.frame_interval(found.times) if n_frames > 1 else None,
        "length_ps": float(found.times[-1] - found.times[0]) / 1000,
        "cell_A": found.system.cell.tolist() if found.system.pbc.any() else None,
        "periodic": found.system.pbc.tolist(),
        "observables": sorted(found.observables),
        **found.metadata,
    }
