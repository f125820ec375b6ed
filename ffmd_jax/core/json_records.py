"""Frozen dataclasses as JSON: an unknown, missing or mistyped field is an error."""

import dataclasses
import json
import types
import typing
from typing import Any, Literal


def to_json(config: Any) -> str:
    """A config as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str, kind: type) -> Any:
    """The config of dataclass ``kind`` in a JSON text.

    Raises:
        ValueError: no JSON, a field that is missing, unknown or of another type.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the configuration is no JSON: {error}") from None
    return from_dict(values, kind)


def from_dict(values: Any, kind: type) -> Any:
    """The config of dataclass ``kind`` from what JSON holds; raises as `from_json`."""
    if not isinstance(values, dict):
        raise ValueError(f"{kind.__name__} must be a JSON object, not {values!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    types_of = typing.get_type_hints(kind)
    if unknown := sorted(values.keys() - fields.keys()):
        raise ValueError(f"{kind.__name__} has no field {', '.join(unknown)}")
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    if missing := sorted(required - values.keys()):
        raise ValueError(f"{kind.__name__} lacks the field {', '.join(missing)}")
    return kind(**{name: _convert(name, value, types_of[name]) for name, value in values.items()})


def _convert(name: str, value: Any, kind: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_dict(value, typing.cast(type, kind))
    if isinstance(kind, types.UnionType):  # x | None
        return None if value is None else _convert(name, value, typing.get_args(kind)[0])
    if isinstance(kind, types.GenericAlias):  # tuple[x, ...]
        if not isinstance(value, list):
            raise ValueError(f"{name} must be a list, not {value!r}")
        return tuple(_convert(name, item, typing.get_args(kind)[0]) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise ValueError(f"{name} must be one of {typing.get_args(kind)}, not {value!r}")
        return value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name} must be a {kind.__name__}, not {value!r}")
    return value
