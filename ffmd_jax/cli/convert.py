"""``ffmd import-trajcast`` and ``export-trajcast``: models of the TrajCast code."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from ffmd_jax.core import files


def import_trajcast(
    config: Path,
    weights: Path,
    elements: tuple[str, ...],
    time_step: float,
    out: Path,
    masses: tuple[float, ...] | None = None,
    overwrite: bool = False,
) -> None:
    """Makes a model of a network of the TrajCast code.

    Every weight is used and every other entry is checked against the configuration; what does not fit is
    named.  The weights keep their precision: `ffmd rollout MODEL --float64` gives the steps of the reference.

    Args:
        config: YAML or JSON configuration of the EfficientTrajCastModel, with or without the key model.
        weights: Its state dict (e3nn backend): .npz with the torch names, or .pt or .pth (needs torch).
        elements: Chemical symbols or atomic numbers, ascending by atomic number.
        time_step: Δt that the network was trained for, fs.
        out: Model folder to write.
        masses: Mass of each element, u (None: standard atomic masses).
        overwrite: Replace an existing model folder.
    """
    files.check_output(out, overwrite, config, weights)
    if out.exists() and not (out / "config.json").is_file():
        raise FileExistsError(f"{out} is no model folder and will not be replaced; choose another --out")
    import jax

    from ffmd_jax.interop import trajcast
    from ffmd_jax.models import model_files
    from ffmd_jax.models.model import Model

    model_config, params = trajcast.import_model(
        trajcast.read_config(config), trajcast.read_weights(weights), elements, time_step, masses
    )
    files.remove(out)
    model_files.save(out, Model(model_config, params, None, str(out)))
    leaves = jax.tree.leaves(params)
    print(
        f"{out}: {sum(leaf.size for leaf in leaves)} weights ({leaves[0].dtype}) for {' '.join(elements)}, "
        f"cutoff {model_config.architecture.cutoff:g} Å, Δt = {model_config.time_step_fs:g} fs"
    )


def export_trajcast(model: Positional[str], /, out: Path, overwrite: bool = False) -> None:
    """Writes a model for the TrajCast code.

    The weights get the names that they have there; the configuration is written as JSON.

    Args:
        model: Model folder, or the name of a shipped model.
        out: File to write, .npz; the configuration gets the same name with .json.
        overwrite: Replace existing files.
    """
    if out.suffix.lower() != ".npz":
        raise ValueError(f"--out must end with .npz, not {out.name}")
    files.check_output(out, overwrite, model)
    files.check_output(out.with_suffix(".json"), overwrite, model)
    from ffmd_jax.interop import trajcast
    from ffmd_jax.models import model as models
    from ffmd_jax.models import model_files

    used = model_files.load(model)
    used = models.at(used, None)
    reference_config, state_dict = trajcast.export_model(used.config, used.params)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(state_dict)
    np.savez(buffer, **arrays)
    text = json.dumps(reference_config, indent=2) + "\n"
    files.write_into(out.parent, {out.with_suffix(".json").name: text.encode(), out.name: buffer.getvalue()})
    print(f"{out}, {out.with_suffix('.json')}: {len(state_dict)} entries")
