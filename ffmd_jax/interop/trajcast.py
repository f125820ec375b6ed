"""Import and export of TrajCast networks (class EfficientTrajCastModel, e3nn backend).

Source: doi:10.1038/s42256-026-01227-7.  Roll-outs of an imported network differ from the reference's on
purpose in one thing: the centre of mass moves by P Δt/M, see `conservation.linear`.  For P = 0 both agree.
"""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from ffmd_jax.core import files
from ffmd_jax.interop import trajcast_config, trajcast_weights
from ffmd_jax.interop.trajcast_weights import StateDict
from ffmd_jax.models import trajcast
from ffmd_jax.models.config import ModelConfig


def import_model(
    config: dict[str, Any],
    state_dict: StateDict,
    elements: Sequence[int | str],
    time_step_fs: float,
    masses: Sequence[float] | None = None,
) -> tuple[ModelConfig, trajcast.Params]:
    """Configuration and weights of a TrajCast network; the weights keep their precision.

    Args:
        config: the reference's configuration of the model, with or without the outer key ``model``.
        state_dict: arrays under their torch names.
        elements: atomic numbers or symbols in the order of the network's species, which ascends.
        time_step_fs: Δt of the model, fs; neither configuration nor weights tell it.
        masses: u, of each element (default: standard atomic masses).

    Raises:
        ValueError: one line that names what is missing, left over, contradictory or not supported.
    """
    options = trajcast_config.inner(config)
    rms = np.asarray(state_dict.get("rms_targets", ()), np.float64)
    if rms.shape != (2,):
        raise ValueError("the weights lack rms_targets, the scales of displacements and velocities")
    for key in ("net_lin_mom", "net_ang_mom"):
        stored = state_dict.get(f"_conservation.{key}")
        if options.get(key) is None and stored is not None:
            options[key] = np.asarray(stored, np.float64).tolist()
    numbers = _numbers(elements)
    model_config = trajcast_config.to_model_config(options, numbers, time_step_fs, masses, rms)
    return model_config, trajcast_weights.to_params(model_config, state_dict)


def export_model(config: ModelConfig, params: trajcast.Params) -> tuple[dict[str, Any], StateDict]:
    """The reference's configuration and state dict of a model, the inverse of `import_model`.

    What is known of the training data, ``shortest_distance``, has no place in them.

    Raises:
        ValueError: the model has an option that the reference does not know, or weights that do not fit it.
    """
    options = trajcast_config.from_model_config(config)
    rms = np.array([config.displacement_rms, config.velocity_rms])
    again = trajcast_config.to_model_config(options, config.elements, config.time_step_fs, config.masses, rms)
    if lost := trajcast_config.differences(config, again):
        raise ValueError(f"the TrajCast code has no {', '.join(lost)}: it would run another network")
    return options, trajcast_weights.from_params(config, params)


def read_config(path: Path) -> dict[str, Any]:
    """The content of a YAML or JSON file.

    Raises:
        ValueError: no such content.
        ImportError: YAML without PyYAML.
    """
    try:
        text = path.read_text()
        if path.suffix.lower() == ".json":
            return json.loads(text)
        import yaml
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON text: {error}") from None
    except ImportError:
        raise ImportError("YAML needs PyYAML: pip install 'ffmd-jax[trajcast]'") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None


def read_weights(path: Path) -> StateDict:
    """The arrays of a state dict by their torch names, from ``.npz``, or ``.pt`` or ``.pth`` with torch.

    The names in the ``.npz`` may begin with ``state_dict/``; other arrays beside such are ignored.

    Raises:
        ValueError: a file that does not hold a state dict.
        ImportError: a torch file without torch.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is not a file")
    if path.suffix.lower() in (".pt", ".pth"):
        arrays = _read_torch(path)
    elif path.suffix.lower() == ".npz":
        arrays = _read_npz(path)
    else:
        raise ValueError(f"{path}: weights are read from .npz, .pt or .pth")
    if arrays and all(name.startswith("module.") for name in arrays):  # torch's data-parallel wrapper
        arrays = {name.removeprefix("module."): values for name, values in arrays.items()}
    return arrays


def _read_npz(path: Path) -> StateDict:
    try:
        arrays = files.read_arrays(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no readable .npz file of plain arrays: {error}") from None
    prefixed = [name for name in arrays if name.startswith("state_dict/")]
    return {name.removeprefix("state_dict/"): arrays[name] for name in prefixed or arrays}


def _read_torch(path: Path) -> StateDict:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            f"{path} needs torch: pip install 'ffmd-jax[trajcast]', or save the state dict as .npz elsewhere"
        ) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything for a file that it does not like
        raise ValueError(
            f"{path} cannot be read as a state dict ({type(error).__name__}); make it by "
            "torch.save(model.state_dict(), FILE), not from the model itself"
        ) from None
    candidates = [content, *content.values()] if isinstance(content, dict) else []
    for candidate in candidates:  # training checkpoints hold the state dict under a key
        if isinstance(candidate, dict) and candidate and all(torch.is_tensor(x) for x in candidate.values()):
            half = [str(name) for name, x in candidate.items() if x.dtype == torch.bfloat16]
            if half:  # numpy does not know it
                raise ValueError(f"{path}: {half[0]} is bfloat16; float32 and float64 can be imported")
            return {str(name): tensor.detach().numpy() for name, tensor in candidate.items()}
    raise ValueError(f"{path} holds no state dict (a mapping of names to tensors)")


def _numbers(elements: Sequence[int | str]) -> tuple[int, ...]:
    """Atomic numbers, ascending, from numbers or symbols."""
    known = {**atomic_numbers, **{str(z): z for z in range(1, len(chemical_symbols))}}
    if unknown := [str(element) for element in elements if known.get(str(element), 0) < 1]:
        raise ValueError(f"no chemical element: {', '.join(unknown)}")
    numbers = tuple(known[str(element)] for element in elements)
    if list(numbers) != sorted(set(numbers)):
        order = " ".join(chemical_symbols[z] for z in sorted(set(numbers)))
        raise ValueError(f"the elements must ascend by atomic number, as the network's species do: {order}")
    return numbers
