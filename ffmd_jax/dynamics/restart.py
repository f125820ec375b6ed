"""Restart files of rollouts: all that the next step depends on, bit for bit."""

import dataclasses
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ffmd_jax.core import files
from ffmd_jax.core.neighbors import Search
from ffmd_jax.core.state import State, System
from ffmd_jax.dynamics.records import Carry
from ffmd_jax.models.config import ModelConfig, PotentialConfig

_FORMAT = "ffmd_jax restart 4"


class Saved(NamedTuple):
    """A restart file.

    Attributes:
        facts: what determines the trajectory, JSON-able; see `check_same`.
        notes: what else the run has to remember, JSON-able.
        n_frames: in the trajectory file, of each replica; what it holds beyond is torn.
        searches: of the neighbour tables, whose sizes fix the order of sums, and of a potential's own, if it has one.
        leaves: of the carry.
    """

    facts: dict[str, Any]
    notes: dict[str, Any]
    n_frames: tuple[int, ...]
    searches: tuple[Search, Search | None]
    leaves: list[np.ndarray]


def path_of(trajectory: Path) -> Path:
    """Where the restart file of a trajectory is."""
    return trajectory.with_name(trajectory.name + ".restart")


def save(
    path: Path,
    carry: Carry,
    searches: tuple[Search, Search | None],
    facts: dict,
    notes: dict,
    n_frames: tuple[int, ...],
) -> None:
    """Writes a restart file; it is the old one or the new one, wherever the process ends."""
    leaves = jax.tree.leaves(carry._replace(key=jax.random.key_data(carry.key)))
    head = {
        "format": _FORMAT,
        "facts": facts,
        "notes": notes,
        "n_frames": n_frames,
        "searches": [None if each is None else dataclasses.asdict(each) for each in searches],
    }
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    np.savez(buffer, head=json.dumps(head), **arrays)
    files.write_atomically(path, buffer.getvalue())


def load(path: Path) -> Saved:
    """A restart file.

    Raises:
        ValueError: it is none, or damaged, or of another version.
    """
    try:
        stored = files.read_arrays(path)
        head = json.loads(str(stored["head"]))
        leaves = [stored[f"leaf_{i}"] for i in range(len(stored) - 1)]
        if head["format"] == _FORMAT:
            first, own = (None if each is None else _search(each) for each in head["searches"])
            assert first is not None
            return Saved(head["facts"], head["notes"], tuple(head["n_frames"]), (first, own), leaves)
    except (OSError, ValueError, KeyError, TypeError, EOFError, AssertionError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no restart file, or damaged ({type(error).__name__})") from None
    raise ValueError(f"{path} is of another version of ffmd_jax; `overwrite` begins the run anew")


def restore(saved: Saved, like: Carry) -> Carry:
    """The saved carry, in the shape of one that the same run would start with.

    Raises:
        ValueError: another shape.
    """
    expected, structure = jax.tree.flatten(like._replace(key=jax.random.key_data(like.key)))
    shapes = [(leaf.shape, leaf.dtype) for leaf in expected]
    if shapes != [(leaf.shape, leaf.dtype) for leaf in saved.leaves]:
        raise ValueError("the restart file does not fit this run")
    carry = structure.unflatten([jax.numpy.asarray(leaf) for leaf in saved.leaves])
    return carry._replace(key=jax.random.wrap_key_data(carry.key))


def fingerprint(*trees: ModelConfig | PotentialConfig | System | State | Any) -> str:
    """A digest of configurations and arrays; the calibration of a model is not part of it."""
    digest = hashlib.sha256()
    for tree in trees:
        if isinstance(tree, ModelConfig | PotentialConfig):
            digest.update(repr(tree).encode())
            if isinstance(tree, ModelConfig) and tree.carried is not None:
                digest.update(repr(tree.carried).encode())
            continue
        if isinstance(tree, System):
            digest.update(repr(tree.pbc).encode())
        for leaf in jax.tree.leaves(tree):
            digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def check_same(name: str, before: dict[str, Any] | None, now: dict[str, Any]) -> None:
    """Raises ValueError, with the first setting that differs, unless the file ``name`` was made with these facts."""
    if before is None:
        raise ValueError(f"cannot resume: {name} was not made by ffmd rollout")
    for fact, value in now.items():
        if before.get(fact) == value:
            continue
        if fact in ("model", "start", "potential_weights"):
            raise ValueError(f"cannot resume: {name} was made with another {fact.removesuffix('_weights')}")
        option = f"`{fact}`"
        raise ValueError(f"cannot resume with {option} = {value}: {name} was made with {before.get(fact)}")


def _search(fields: dict[str, Any]) -> Search:
    return Search(**{name: _tuples(value) for name, value in fields.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
