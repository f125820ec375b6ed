"""The files of a model: config.json, weights.npz (no pickle) and, where it was calibrated, calibration.json."""

import io
import json
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ffmd_jax.core import commands, files, json_records
from ffmd_jax.models.config import Calibration, FamilyCalibration, FamilyConfig, ModelConfig, PotentialConfig
from ffmd_jax.models.model import Model

CONFIG, WEIGHTS, CALIBRATION = "config.json", "weights.npz", "calibration.json"
CARD = "README.md"  # of shipped models: what it was trained on, what it does, its limits
POTENTIAL = "potential"  # the folder of the potential that belongs to a propagator
FORMAT = "ffmd_jax model 2"


class Kind(NamedTuple):
    """What a network needs to be stored and found again.

    Attributes:
        config: dataclass of its configuration.
        shapes: ``config -> shapes and types of its weights``.
        calibration: dataclass of what its monitors go by.
    """

    config: type
    shapes: Any
    calibration: type = Calibration


def _shapes_of_trajcast(config: ModelConfig) -> Any:
    from ffmd_jax.models import trajcast

    return trajcast.shapes(config)


def _shapes_of_potential(config: PotentialConfig) -> Any:
    from ffmd_jax.models import potential

    return potential.shapes(config)


def _shapes_of_family(config: FamilyConfig) -> Any:
    from ffmd_jax.models import family

    return family.shapes(config)


KINDS = {  # another network: its module, and a line here
    "propagator": Kind(ModelConfig, _shapes_of_trajcast),
    "potential": Kind(PotentialConfig, _shapes_of_potential),
    "family": Kind(FamilyConfig, _shapes_of_family, FamilyCalibration),
}


def pretrained() -> list[str]:
    """Names of the models that come with the package."""
    folder = resources.files("ffmd_jax") / "pretrained"
    return sorted(entry.name for entry in folder.iterdir() if (entry / CONFIG).is_file()) if folder.is_dir() else []


def card(name: str | Path) -> str | None:
    """What the card in a model's folder says, in Markdown; None: it has none."""
    path = locate(name) / CARD
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else None


def titles() -> dict[str, str]:
    """The title of the card of each shipped model: what it is a model of, by which teacher, and Δt."""
    return {name: (card(name) or name).splitlines()[0].removeprefix("# ") for name in pretrained()}


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
        raise FileNotFoundError(f"the training in {name} has not reached its first validation; continue with `resume`")
    meant = commands.did_you_mean(str(name), pretrained()) or f"; shipped models: {', '.join(pretrained())}"
    raise FileNotFoundError(f"{name} is no model folder (no {CONFIG} in it){meant}")


def save(folder: Path, model: Model) -> None:
    """Writes a model (weights in the precision that they have); each file appears only when complete."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(values) for name, values in flatten(model.params).items()}
    np.savez(buffer, **arrays)
    # In this order a reader finds weights and calibration that belong together, or no calibration.
    if model.calibration is None:
        (folder / CALIBRATION).unlink(missing_ok=True)
    files.write_atomically(folder / WEIGHTS, buffer.getvalue())
    files.write_atomically(folder / CONFIG, config_json(model.config, model.kind).encode())
    if model.calibration is not None:
        files.write_atomically(folder / CALIBRATION, json_records.to_json(model.calibration).encode())


def config_json(config: Any, kind: str = "propagator") -> str:
    """The text of config.json."""
    return json.dumps({"format": FORMAT, "kind": kind, **json.loads(json_records.to_json(config))}, indent=2) + "\n"


def load(name: str | Path) -> Model:
    """A model folder or a shipped model; weights are numpy arrays as stored.

    Models of version 0.1 load, too: their weights are the same.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a damaged file, another kind of file, or weights that do not fit the configuration.
    """
    folder = locate(name)
    kind, config, calibration = read_config((folder / CONFIG).read_text())
    if (folder / CALIBRATION).is_file():
        calibration = json_records.from_json((folder / CALIBRATION).read_text(), KINDS[kind].calibration)
    _check_calibration(folder / CALIBRATION, config, calibration)
    try:
        stored = files.read_arrays(folder / WEIGHTS)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    expected = {key: leaf.shape for key, leaf in flatten(KINDS[kind].shapes(config)).items()}
    found = {key: values.shape for key, values in stored.items()}
    if expected != found:
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        raise ValueError(f"the weights in {folder} do not fit their configuration: {', '.join(wrong[:3])}")
    own = folder / POTENTIAL
    potential = load(own) if kind != "potential" and (own / CONFIG).is_file() else None
    if potential is not None and potential.kind != "potential":
        raise ValueError(f"{own} is no potential but a {potential.kind}")
    return Model(config, _unflatten(stored), calibration, str(name), kind, potential)


def _check_calibration(path: Path, config: Any, found: Calibration | FamilyCalibration | None) -> None:
    """Raises ValueError unless there is a value of each element, and of a family a calibration at each Δt."""
    members = found.members if isinstance(found, FamilyCalibration) else () if found is None else (found,)
    if isinstance(found, FamilyCalibration) and len(members) != len(config.time_steps_fs):
        raise ValueError(f"{path} must hold a calibration at each of the {len(config.time_steps_fs)} time steps")
    if any({len(each.kinetic_drift), len(each.speeds)} != {len(config.elements)} for each in members):
        raise ValueError(f"{path} must hold kinetic_drift and speeds of each element")


def load_potential(name: str | Path) -> Model:
    """A potential, or that of a propagator.

    Raises:
        FileNotFoundError: no such model.
        ValueError: as `load`, or a propagator without a potential of its own.
    """
    found = load(name)
    if found.kind == "potential":
        return found
    if found.potential is None:
        raise ValueError(f"{name} is a propagator without a potential of its own (folder {POTENTIAL}/ in it)")
    return found.potential


def read_config(text: str) -> tuple[str, Any, Calibration | None]:
    """Kind, configuration and, from version 0.1, calibration in the text of a config.json.

    Raises:
        ValueError: no JSON, an unknown format, kind or field, or an option that this version no longer has.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the configuration is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"the configuration must be a JSON object, not {values!r}")
    calibration = None
    if "format" not in values:
        values, calibration = _from_version_1(values)
    elif values["format"] != FORMAT:
        raise ValueError(f"the model has the format '{values['format']}', this version reads '{FORMAT}': update it")
    kind = values.pop("kind", "propagator")
    if values.pop("format", FORMAT) and kind not in KINDS:
        raise ValueError(f"the model is of the kind '{kind}', this version knows {', '.join(KINDS)}")
    return kind, json_records.from_dict(values, KINDS[kind].config), calibration


def _from_version_1(values: dict[str, Any]) -> tuple[dict[str, Any], Calibration | None]:
    """The fields of a configuration of version 0.1 as they are now, and the calibration that was among them."""
    values = dict(values)
    if "conserve_angular_momentum" in values:
        values["isolated"] = values.pop("conserve_angular_momentum")
    if isinstance(values.get("architecture"), dict):
        values["architecture"] = dict(values["architecture"])
        if values["architecture"].pop("velocity_skip", False):
            raise ValueError("the model was trained with --config.velocity-skip, which only version 0.1 has")
    found = values.pop("calibration", None)
    return values, None if found is None else json_records.from_dict(found, Calibration)


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
