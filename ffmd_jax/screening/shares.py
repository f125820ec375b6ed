"""A screening in several processes on a shared file system: each runs its share of the list, the first makes the table.

Nothing is exchanged but files: processes that run different molecules must not wait for each other within a program.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ffmd_jax.core import files, processes

_POLL_S = 0.2


def own(entries: Sequence[Any]) -> list[Any]:
    """The share of this process."""
    return list(entries[processes.index() :: processes.count()])


def clear(out: Path) -> None:
    """Removes what the processes have told: all may end."""
    for path in out.glob(_name("*")):
        files.remove(path)


def tell(out: Path, refused: dict[str, str]) -> None:
    """Says that this process is ready, and why molecules of its share did not run."""
    files.write_atomically(out / _name(processes.index()), json.dumps(refused).encode())


def collect(out: Path) -> dict[str, str]:
    """Why molecules of all shares did not run, when all processes are ready."""
    told = [out / _name(i) for i in range(processes.count())]
    _until(lambda: all(path.exists() for path in told))
    return {name: reason for path in told for name, reason in json.loads(path.read_text()).items()}


def wait(out: Path) -> None:
    """Returns when the first process has made the table."""
    _until(lambda: not (out / _name(processes.index())).exists())


def _name(i: Any) -> str:
    return f"share_{i}.json"


def _until(over: Callable[[], bool]) -> None:
    while not over():
        time.sleep(_POLL_S)
