"""Command lines as text: files say which command made them, and reports print what to run.

Messages name arguments as Python has them, `` `friction_tau_fs` ``; commands print options, ``--friction-tau-fs``.
"""

import difflib
import re
import shlex
from collections.abc import Iterable
from typing import Any


def line(command: str, *arguments: Any, **options: Any) -> str:
    """The command with its arguments and options, quoted for a shell; options that are None are left out."""
    words = [shlex.quote(str(argument)) for argument in arguments]
    for name, value in options.items():
        words += _option(name.replace("_", "-"), value)
    return " ".join([command, *words])


def changed(command: str, **options: Any) -> str:
    """The command with other values of some options; those that are None are taken out."""
    kept: list[str] = []
    dropped = {f"--{no}{name.replace('_', '-')}" for name in options for no in ("", "no-")}
    skipping = False
    for word in shlex.split(command):
        skipping = word in dropped or (skipping and not word.startswith("--"))
        kept += [] if skipping else [shlex.quote(word)]
    return line(" ".join(kept), **options)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?``, the end of a message about an unknown word; empty if no known one is close."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.7)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def name_options(message: str) -> str:
    """The message with its `` `arguments` `` as options of a command; what is no single name stays as it is."""
    return re.sub(r"`([a-z][a-z0-9_]*)`", lambda found: f"--{found[1].replace('_', '-')}", message)


def _option(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    values = value if isinstance(value, tuple | list) else [value]
    return [f"--{name}", *(shlex.quote(f"{one:.10g}" if isinstance(one, float) else str(one)) for one in values)]
