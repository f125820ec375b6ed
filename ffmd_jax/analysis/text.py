"""Numbers and lists in the words of a report."""

import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

_TOGETHER = "\N{NO-BREAK SPACE}"


def number(value: Any, error: float | None = None) -> str:
    """A number with four digits, or down to the second digit of its error; a dash if it is unknown."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if error is None or not math.isfinite(error):
        return f"{value:.4g}"
    return f"{value:.{_digits(value, error)}g} ± {short(error)}"


def _digits(value: float, error: float) -> int:
    """Significant digits that show a value down to the second digit of its error."""
    if value == 0 or error <= 0:
        return 4
    return int(np.clip(2 + math.floor(math.log10(abs(value))) - math.floor(math.log10(error)), 2, 9))


def short(value: float, sign: str = "") -> str:
    """Two significant digits without exponent, for numbers of everyday size; ``sign`` "+" shows the sign of both."""
    if not math.isfinite(value):
        return "–"
    rounded = float(f"{value:.2g}")
    return f"{rounded:{sign}.2g}" if 0 < abs(rounded) < 1e-4 else f"{rounded:{sign}.10g}"


def round_up(value: float, multiple: int | None = None) -> str:
    """The value rounded up to two significant digits, and then, if asked for, to a multiple."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    rounded = math.ceil(value / unit - 1e-9) * unit
    if multiple is not None:
        rounded = math.ceil(rounded / multiple - 1e-9) * multiple
    return f"{rounded:.10g}"


def join(names: Sequence[str]) -> str:
    """``a``, ``a and b``, or ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def wrap(text: str, width: int, bullet: str = "") -> list[str]:
    """The text in lines of a width; commands in it, `` `ffmd … …` ``, stand on lines of their own, to be copied."""
    indent, lines = " " * len(bullet), []
    text = re.sub(r" (?=± )|(?<=±) |(?<=\d) (?=[^\W\d]+\b)", _TOGETHER, text)
    for i, part in enumerate(re.split(r"`(ffmd [^`]* [^`]*)`[.:;,]? ?", text)):
        first = indent if lines else bullet
        if i % 2:
            lines.append(f"{indent}    {part}")
        else:
            lines += textwrap.wrap(
                part, width, initial_indent=first, subsequent_indent=indent, break_long_words=False,
                break_on_hyphens=False,
            )  # fmt: skip
    return [line.replace(_TOGETHER, " ") for line in lines]
