"""TrajCast's state dict: names, shapes and order of its weights, and what its other entries must hold.

Weights of tensor products are flat: the blocks of all irreps one after the other, ordered by (l, parity)
with odd first, which is `layers.ordered`; inside a block the layout is ours.  The other entries (sizes,
masks, 3j symbols) follow from the configuration.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import e3nn_jax as e3nn
import numpy as np

from ffmd_jax.models import convolution, layers, model_files, trajcast
from ffmd_jax.models.config import ModelConfig

StateDict = dict[str, np.ndarray]

_SPEED_PRODUCT = "_encoding.VelocityNormEncoding.element_tp"
_LINEARS = {"LinearInit": "initial", "LinearCompression": "compress", "LinearReadOut": "readout"}
_LAYER_PARTS = {"linear_contraction": "contract", "linear_updates": "update", "tp_resnet": "residual"}
_MLPS = {"edge_mlp": "radial", "vel_mlp": "speed"}
_THREE_J = re.compile(r"\._w3j_(\d+)_(\d+)_(\d+)$")


def to_params(config: ModelConfig, state_dict: StateDict) -> trajcast.Params:
    """Our parameters, as numpy arrays in the precision of the state dict.

    Raises:
        ValueError: a name that is missing or left over, a wrong shape, an entry against the configuration.
    """
    names, shapes = _names(config), trajcast.shapes(config)
    expected = buffers(config)
    _check_names(state_dict, names, expected)
    for name in dict.fromkeys([*expected, *state_dict]):  # sizes first: they explain wrong shapes best
        if name in state_dict and name not in names:
            _check_buffer(name, np.asarray(state_dict[name]), expected)
    params: dict[str, Any] = {}
    for name, path in names.items():
        node = params
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = _unflatten(name, np.asarray(state_dict[name]), _at(shapes, path))
    return params


def from_params(config: ModelConfig, params: trajcast.Params) -> StateDict:
    """The state dict of our parameters, the inverse of `to_params`, with all other entries.

    The scales stay in double precision, the other entries have the precision of the weights.

    Raises:
        ValueError: weights that do not fit the configuration.
    """
    names = _names(config)
    found = model_files.flatten(params)
    if found.keys() != model_files.flatten(trajcast.shapes(config)).keys():
        raise ValueError("the weights do not fit the configuration; tables of radial networks cannot be exported")
    weights = {name: _flatten(_at(params, path)) for name, path in names.items()}
    dtype = next(iter(weights.values())).dtype
    entries = buffers(config)
    exact = {"rms_targets": entries["rms_targets"]}
    others = {name: x.astype(dtype) if x.dtype == np.float64 else x for name, x in entries.items()}
    exported = others | exact | weights
    to_params(config, exported)
    return exported


def buffers(config: ModelConfig) -> StateDict:
    """Every entry of the state dict that is no weight, by its name."""
    sizes, shapes = config.architecture, trajcast.shapes(config)
    rms = np.array([config.displacement_rms, config.velocity_rms])
    entries = {
        "rms_targets": rms,
        "mean_targets": np.zeros(2),
        "lmax": np.array(sizes.lmax),
        "edge_cutoff": np.array(sizes.cutoff),
        "num_hidden_channels": np.array(sizes.channels),
        "avg_num_neighbors": np.array(config.average_neighbors),
        "num_mp_layers": np.array(sizes.layers),
        f"{_SPEED_PRODUCT}.output_mask": np.ones(sizes.speed_basis),
        "_conservation.prefactor_disps": rms[0],
        "_conservation.prefactor_vel": rms[1],
        "_conservation.net_lin_mom": np.array(config.net_linear_momentum or ()),
        "_conservation.net_ang_mom": np.array(config.net_angular_momentum or ()),
    }
    for theirs, ours in _LINEARS.items():
        entries |= _linear_buffers(f"_int_out.{theirs}.linear", shapes[ours])
    inputs = _irreps(shapes["initial"])
    for i in range(sizes.layers):
        block = f"_int_out.mp_layer_{i}"
        entries[f"{block}.avg_num_neighbors"] = np.array(config.average_neighbors)
        entries |= _layer_buffers(block, config, shapes[f"layer{i}"], inputs)
        inputs = _irreps(shapes[f"layer{i}"]["update"])
    return {name: np.asarray(values) for name, values in entries.items()}


def _layer_buffers(block: str, config: ModelConfig, shapes: Any, inputs: Sequence[e3nn.Irrep]) -> StateDict:
    """Entries of one layer that are no weights, except its average number of neighbours."""
    sizes = config.architecture
    width = sizes.channels
    contracted, outputs = _irreps(shapes["contract"]), _irreps(shapes["update"])
    present = [np.full(width * irrep.dim, irrep in inputs, np.float64) for irrep in outputs]
    entries = {
        f"{block}.tp_resnet.output_mask": np.concatenate(present),
        f"{block}.gate.gate.mul.weight": np.zeros(0),
        f"{block}.gate.gate.mul.output_mask": np.ones(width * sum(irrep.dim for irrep in outputs if irrep.l > 0)),
        **_linear_buffers(f"{block}.linear_contraction", shapes["contract"]),
        **_linear_buffers(f"{block}.linear_updates", shapes["update"]),
    }
    for product, irreps in (("dtp_edge", inputs), ("dtp_vel", contracted)):
        paths = convolution.coupling_paths(irreps, sizes.lmax, sizes.lmax)
        entries[f"{block}.{product}.tp.weight"] = np.zeros(0)
        entries[f"{block}.{product}.tp.output_mask"] = np.ones(width * sum(path.out.dim for path in paths))
        for path in paths:
            if min(path.first.l, path.l, path.out.l) > 0:  # the reference writes the others out by hand
                name = f"_w3j_{path.first.l}_{path.l}_{path.out.l}"
                three_j = convolution.coupling(path.first.l, path.l, path.out.l) / np.sqrt(path.out.dim)
                entries[f"{block}.{product}.tp._compiled_main_left_right.{name}"] = three_j
    return entries


def _linear_buffers(name: str, shapes: dict[str, Any]) -> StateDict:
    width = sum(shapes[str(irrep)].shape[-1] * irrep.dim for irrep in _irreps(shapes))
    return {f"{name}.bias": np.zeros(0), f"{name}.output_mask": np.ones(width)}


def _names(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Where each weight of the reference stands in our parameters."""
    sizes = config.architecture
    names: dict[str, tuple[str, ...]] = {
        "_encoding.EdgeLengthEncoding.radial_basis.bessel_roots": ("bessel_roots",),
        f"{_SPEED_PRODUCT}.weight": ("speed_embedding",),
    }
    names |= {f"_int_out.{theirs}.linear.weight": (ours,) for theirs, ours in _LINEARS.items()}
    hidden = {"edge_mlp": sizes.radial_hidden, "vel_mlp": sizes.speed_hidden}
    for i in range(sizes.layers):
        block = f"_int_out.mp_layer_{i}"
        names |= {f"{block}.{theirs}.weight": (f"layer{i}", ours) for theirs, ours in _LAYER_PARTS.items()}
        for theirs, ours in _MLPS.items():
            for k in range(len(hidden[theirs]) + 1):
                names[f"{block}.{theirs}.layer{k}.weight"] = (f"layer{i}", ours, f"layer{k}")
    return names


def _at(tree: Any, path: Iterable[str]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _irreps(block: Iterable[str]) -> list[e3nn.Irrep]:
    """The irreps that are the keys of a block, in the order of the reference."""
    keys: list[Any] = list(block)
    return layers.ordered(e3nn.Irrep(key) for key in keys)


def _unflatten(name: str, values: np.ndarray, like: Any) -> Any:
    """Our array, or one array for each irrep, shaped as ``like``."""
    if values.dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} is {values.dtype}; float32 and float64 can be imported")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinite values")
    blocks: dict[str, Any] = like if isinstance(like, dict) else {}
    shapes = {str(irrep): blocks[str(irrep)].shape for irrep in _irreps(blocks)}
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    expected = (sum(sizes),) if isinstance(like, dict) else like.shape
    if values.shape != expected:
        same = " (of the cueq backend? only e3nn's layout can be imported)"
        hint = same if values.size == np.prod(expected) else ""
        raise ValueError(f"{name} is {values.shape}, but configuration and elements need {expected}{hint}")
    if not shapes:
        return values
    parts = np.split(values, np.cumsum(sizes)[:-1])
    return {key: part.reshape(shapes[key]) for key, part in zip(shapes, parts, strict=True)}


def _flatten(values: Any) -> np.ndarray:
    if not isinstance(values, dict):
        return np.asarray(values)
    return np.concatenate([np.asarray(values[str(irrep)]).ravel() for irrep in _irreps(values)])


def _check_names(state_dict: StateDict, names: Iterable[str], others: Iterable[str]) -> None:
    """Raises ValueError if a weight is missing or an entry is unknown."""
    if any("cueq" in name.lower() for name in state_dict):
        raise ValueError("these weights are of the cueq backend; only those of the e3nn backend can be imported")
    missing = sorted(set(names) - state_dict.keys())
    known = set(names) | set(others)
    left = sorted(name for name in state_dict if name not in known and not _THREE_J.search(name))
    if len(missing) == len(set(names)):
        raise ValueError(
            "these are no weights of an EfficientTrajCastModel (e3nn backend): found "
            f"{_some(sorted(state_dict))}, expected {_some(missing)}"
        )
    reasons = [f"missing: {_some(missing)}"] * bool(missing) + [f"left over: {_some(left)}"] * bool(left)
    if reasons:
        raise ValueError(f"the weights do not fit the configuration; {'; '.join(reasons)}")


def _check_buffer(name: str, values: np.ndarray, expected: StateDict) -> None:
    """Raises ValueError unless an entry that is no weight says what the configuration says."""
    if name in expected:
        right = expected[name]
    else:  # the code generator of another e3nn version names its 3j symbols otherwise
        match = _THREE_J.search(name)
        assert match is not None
        first, second, out = (int(degree) for degree in match.groups())
        right = convolution.coupling(first, second, out)
        right = right / np.sqrt(2 * out + 1)
    if values.shape != right.shape:
        raise ValueError(f"{name} is {values.shape}, but the configuration needs {right.shape}")
    # float32 rounds what the configuration states exactly; only 3j symbols are computed.
    if not np.allclose(values, right, rtol=1e-5, atol=1e-6 if _THREE_J.search(name) else 0.0):
        found, needed = (np.array2string(x, precision=6, threshold=6).replace("\n", "") for x in (values, right))
        raise ValueError(f"{name} is {found} in the weights, but {needed} by the configuration")


def _some(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
