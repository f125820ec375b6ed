"""What commands share: double precision, progress bars, JSON lines, output paths."""

import json
import shutil
from typing import Any

from ffmd_jax.core import commands


def use_double_precision() -> None:
    """Lets float64 arrays exist; models and data keep the precision that they are given."""
    import jax

    jax.config.update("jax_enable_x64", True)


def bar(total: float, description: str):
    """A progress bar of so many ps."""
    from ffmd_jax.core import progress

    return progress.progress(total, description)


def print_json(values: dict[str, Any]) -> None:
    """Prints one JSON object on one line."""
    print(json.dumps(values, allow_nan=True))


def say(text: str) -> None:
    """Prints a line of the library, which names arguments, with the options of the commands."""
    print(commands.name_options(text))


def width() -> int:
    """Width of the terminal, at most what is easy to read."""
    return min(shutil.get_terminal_size().columns, 100)
