"""Files of models: the exported model (config.json and weights.npz, no pickle) and training states (orbax)."""

import io
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ffmd_jax.core import files, json_records
from ffmd_jax.models.config import ModelConfig

CONFIG, WEIGHTS = "config.json", "weights.npz"


def pretrained() -> list[str]:
    """Names of the models that come with the package."""
    folder = resources.files("ffmd_jax") / "pretrained"
    return sorted(entry.name for entry in folder.iterdir() if (entry / CONFIG).is_file()) if folder.is_dir() else []


def locate(name: str | Path) -> Path:
    """The folder of a model: a path, or the name of a shipped model.

    Raises:
        FileNotFoundError: neither.
    """
    if (Path(name) / CONFIG).is_file():
        return Path(name)
    if str(name) in pretrained():
        return Path(str(resources.files("ffmd_jax") / "pretrained" / str(name)))
    if (Path(name) / "training.json").is_file():
        raise FileNotFoundError(f"the training in {name} has not reached its first validation; go on with --resume")
    raise FileNotFoundError(f"{name} is no model folder (no {CONFIG} in it); shipped models: {', '.join(pretrained())}")


def save_model(folder: Path, config: ModelConfig, params: Any) -> None:
    """Writes config.json and weights.npz (precision as in ``params``); each file appears only when complete."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(values) for name, values in flatten(params).items()}
    np.savez(buffer, **arrays)
    files.write_atomically(folder / WEIGHTS, buffer.getvalue())
    files.write_atomically(folder / CONFIG, json_records.to_json(config).encode())


def load_model(name: str | Path) -> tuple[ModelConfig, Any]:
    """Configuration and weights (numpy, as stored) of a model folder or of a shipped model.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a damaged file, or weights that do not fit the configuration.
    """
    from ffmd_jax.models import trajcast

    folder = locate(name)
    config = json_records.from_json((folder / CONFIG).read_text(), ModelConfig)
    try:
        with np.load(folder / WEIGHTS, allow_pickle=False) as file:
            stored = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    expected = {key: leaf.shape for key, leaf in flatten(trajcast.shapes(config)).items()}
    found = {key: values.shape for key, values in stored.items()}
    if expected != found:
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        raise ValueError(f"the weights in {folder} do not fit their configuration: {', '.join(wrong[:3])}")
    return config, _unflatten(stored)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, keys joined by '/'."""
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, name + "/") if isinstance(value, dict) else {name: value})
    return flat


def _unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree
