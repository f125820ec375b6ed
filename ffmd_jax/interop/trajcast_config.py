"""TrajCast's configuration of a network, read option by option so that nothing in it goes unnoticed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import atomic_masses

from ffmd_jax.models.config import Architecture, ModelConfig

_MODEL_TYPES = {"efficienttrajcastmodel", "efficienttrajcast"}
_TYPE_KEYS = ("model_type", "model_class", "class_name", "type", "_target_")
_BACKEND_KEYS = ("o3_backend", "backend")
_GATE = {"activation_scalars": {"o": "tanh", "e": "silu"}, "activation_gates": {"e": "silu"}}


def to_model_config(
    config: dict[str, Any],
    elements: tuple[int, ...],
    time_step_fs: float,
    masses: Sequence[float] | None,
    rms: np.ndarray,
) -> ModelConfig:
    """Our configuration of the same network."""
    options = _Options(config)
    n_elements = options.integer("num_chem_elements")
    if n_elements != len(elements):
        raise ValueError(f"the network knows {n_elements} elements (num_chem_elements), but {len(elements)} are given")
    if masses is not None and len(masses) != len(elements):
        raise ValueError(f"{len(masses)} masses are given for {len(elements)} elements")
    architecture = Architecture(
        cutoff=options.number("edge_cutoff"),
        lmax=options.integer("max_rotation_order"),
        channels=options.integer("num_hidden_channels"),
        layers=options.integer("num_mp_layers"),
        radial_basis=options.integer("num_edge_rbf"),
        radial_hidden=options.widths("edge_mlp_kwargs"),
        radial_intervals=0,
        cutoff_power=options.integer("num_edge_poly_cutoff"),
        speed_basis=options.integer("num_vel_rbf"),
        speed_hidden=options.widths("vel_mlp_kwargs"),
    )
    conserve_angular = options.flag("conserve_ang_mom")
    net_linear, net_angular = options.vector("net_lin_mom"), options.vector("net_ang_mom")
    speed_max, average_neighbors = options.number("vel_max"), options.number("avg_num_neighbors")
    options.check_rest()
    return ModelConfig(
        elements=elements,
        masses=tuple(float(m) for m in (atomic_masses[list(elements)] if masses is None else masses)),
        time_step_fs=float(time_step_fs),
        displacement_rms=float(rms[0]),
        velocity_rms=float(rms[1]),
        speed_max=speed_max,
        average_neighbors=average_neighbors,
        isolated=conserve_angular,
        architecture=architecture,
        net_linear_momentum=net_linear,
        net_angular_momentum=net_angular if conserve_angular else None,
    )


def inner(config: Any) -> dict[str, Any]:
    """What stands under the key ``model``, or all."""
    inner = config["model"] if isinstance(config, dict) and isinstance(config.get("model"), dict) else config
    if not isinstance(inner, dict):
        raise ValueError("the configuration must be a mapping of option to value")
    outer = {key: config[key] for key in ("model_type", "model_class", *_BACKEND_KEYS) if key in config}
    return {**outer, **inner}


class _Options:
    """Reads a configuration of the reference key by key, so that no key is forgotten."""

    def __init__(self, values: dict[str, Any]):
        self._rest = dict(values)
        for key in _TYPE_KEYS:
            kind = str(self._rest.pop(key, "EfficientTrajCastModel"))
            if kind.split(".")[-1].replace("_", "").lower() not in _MODEL_TYPES:
                raise ValueError(f"{key} is {kind}; only EfficientTrajCastModel can be imported")
        for key in _BACKEND_KEYS:
            backend = self._rest.pop(key, "e3nn")
            if str(backend).lower() != "e3nn":
                raise ValueError(f"{key} is {backend}; only weights of the e3nn backend can be imported")

    def number(self, key: str) -> float:
        if key not in self._rest:
            raise ValueError(f"the configuration lacks {key}")
        value = self._rest.pop(key)
        try:
            if isinstance(value, bool):
                raise ValueError
            return float(value)  # YAML reads 1e-3 as text
        except (TypeError, ValueError):
            raise ValueError(f"{key} must be a number, not {value!r}") from None

    def integer(self, key: str) -> int:
        value = self.number(key)
        if not value.is_integer():
            raise ValueError(f"{key} must be a whole number, not {value:g}")
        return int(value)

    def flag(self, key: str) -> bool:
        value = self._rest.pop(key, None)
        if not isinstance(value, bool):
            raise ValueError(f"the configuration needs {key}: true or false" + (f", not {value!r}" if value else ""))
        return value

    def widths(self, key: str) -> tuple[int, ...]:
        """Hidden widths of an MLP with silu."""
        if key not in self._rest:
            raise ValueError(f"the configuration lacks {key}")
        values = self._rest.pop(key)
        widths = values.get("n_neurons") if isinstance(values, dict) else None
        if not isinstance(widths, list | tuple) or not all(type(width) is int and width > 0 for width in widths):
            raise ValueError(f"{key} needs n_neurons, a list of positive whole numbers, not {widths!r}")
        _check_options(key, {k: v for k, v in values.items() if k != "n_neurons"}, {"activation": "silu"})
        return tuple(widths)

    def vector(self, key: str) -> tuple[float, ...] | None:
        """A fixed total momentum; None where it is absent or empty."""
        values = self._rest.pop(key, None)
        if values is None or (isinstance(values, list | tuple) and not values):
            return None
        try:
            vector = tuple(float(value) for value in values)
        except (TypeError, ValueError):
            vector = ()
        if len(vector) != 3:
            raise ValueError(f"{key} must be three numbers or empty, not {values!r}")
        return vector

    def check_rest(self) -> None:
        """Raises ValueError if anything that has not been read may change the network."""
        _check_options("nl_gate_kwargs", self._rest.pop("nl_gate_kwargs", None) or {}, _GATE)
        if self._rest:
            listed = ", ".join(f"{key} = {value!r}" for key, value in self._rest.items())
            raise ValueError(f"unknown option {listed}; if it does not change the network, remove it")


def _check_options(name: str, given: Any, supported: Any) -> None:
    """Raises ValueError unless the given options are among the supported, with the only supported values."""
    if isinstance(given, dict) and isinstance(supported, dict):
        for key, value in given.items():
            if key not in supported:
                raise ValueError(f"unknown option {name}.{key} = {value!r}")
            _check_options(f"{name}.{key}", value, supported[key])
    elif given != supported:
        raise ValueError(f"{name} = {given!r} is not supported, only {supported!r}")


def from_model_config(config: ModelConfig) -> dict[str, Any]:
    """The reference's configuration of the same network."""
    sizes = config.architecture
    return {
        "num_chem_elements": len(config.elements),
        "edge_cutoff": sizes.cutoff,
        "num_edge_rbf": sizes.radial_basis,
        "num_edge_poly_cutoff": sizes.cutoff_power,
        "num_vel_rbf": sizes.speed_basis,
        "vel_max": config.speed_max,
        "max_rotation_order": sizes.lmax,
        "num_hidden_channels": sizes.channels,
        "num_mp_layers": sizes.layers,
        "avg_num_neighbors": config.average_neighbors,
        "edge_mlp_kwargs": {"n_neurons": list(sizes.radial_hidden), "activation": "silu"},
        "vel_mlp_kwargs": {"n_neurons": list(sizes.speed_hidden), "activation": "silu"},
        "nl_gate_kwargs": _GATE,
        "conserve_ang_mom": config.isolated,
        "net_lin_mom": list(config.net_linear_momentum or ()),
        "net_ang_mom": list(config.net_angular_momentum or ()),
    }


def differences(config: ModelConfig, imported: ModelConfig) -> list[str]:
    """The options of a model, ``name = value``, by which its network differs from the imported one."""
    lmax = config.architecture.lmax_harmonics
    known = dataclasses.replace(imported, shortest_distance=config.shortest_distance)
    if lmax == imported.architecture.lmax_harmonics:
        same = dataclasses.replace(known.architecture, harmonics_lmax=config.architecture.harmonics_lmax)
        known = dataclasses.replace(known, architecture=same)
    ours, theirs = ({**vars(each), **vars(each.architecture)} for each in (config, known))
    return [f"{name} = {ours[name]!r}" for name in ours if name != "architecture" and ours[name] != theirs[name]]
