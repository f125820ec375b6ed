"""Files of models: the exported model (config.json and weights.npz, no pickle) and training states (orbax)."""

import io
import os
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax import config as configs
from ffmd_jax.config import ModelConfig

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
    write_atomically(folder / WEIGHTS, buffer.getvalue())
    write_atomically(folder / CONFIG, configs.to_json(config).encode())


def load_model(name: str | Path) -> tuple[ModelConfig, Any]:
    """Configuration and weights (numpy, as stored) of a model folder or of a shipped model.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a damaged file, or weights that do not fit the configuration.
    """
    from ffmd_jax import model

    folder = locate(name)
    config = configs.from_json((folder / CONFIG).read_text(), ModelConfig)
    try:
        with np.load(folder / WEIGHTS, allow_pickle=False) as file:
            stored = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    expected = {key: leaf.shape for key, leaf in flatten(model.shapes(config)).items()}
    found = {key: values.shape for key, values in stored.items()}
    if expected != found:
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        raise ValueError(f"the weights in {folder} do not fit their configuration: {', '.join(wrong[:3])}")
    return config, _unflatten(stored)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file under another name and renames it, so that a reader never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


class TrainingStates:
    """Training states in a folder: the newest and the best of the validation are kept.

    A context manager; writing is asynchronous, and leaving it waits for the last write.  A state appears when it is
    complete, and only then is an older one deleted: whenever the process is killed, a whole state is there.  With
    several processes, all of them call it; they share the folder.
    """

    def __init__(self, folder: Path):
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        def error(metrics: Any) -> float:
            return metrics["validation"]

        # best_fn with max_to_keep would delete the newest state if it is not among the best; without best_fn, orbax
        # does not write the errors, and a resumed training would not know which old state is the best.
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(1),
                policies.BestN(get_metric_fn=error, reverse=True, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=error, best_mode="min", preservation_policy=keep, cleanup_tmp_directories=True
        )
        self._ocp = ocp
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "TrainingStates":
        return self

    def __exit__(self, *_) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, step: int, state: Any, best: float, validation: float = float("inf")) -> None:
        """Saves the state after ``step``, with the lowest validation error so far and its own, if it was validated."""
        copy = _copy(state)  # the next block of steps takes the memory of the original
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(copy), best=self._ocp.args.JsonSave({"validation": best})
        )
        self._manager.save(step, args=args, metrics={"validation": validation})

    def restore(self, like: Any) -> tuple[Any, float] | None:
        """The newest state, shaped and placed as ``like``, and the lowest validation error so far; or None.

        Raises:
            ValueError: the state has other parts, as that of another version may, or is damaged.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        args = self._ocp.args.Composite(state=self._ocp.args.StandardRestore(like), best=self._ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=args)
        except ValueError as error:  # orbax prints both trees
            raise ValueError(
                f"the training state after {step} steps does not fit: of another version, or damaged; "
                "--init starts from its weights"
            ) from error
        return restored["state"], float(restored["best"]["validation"])


@jax.jit
def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


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
