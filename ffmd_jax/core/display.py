"""How records show themselves: pairs of a name and a value in words, as a line or as a table of a notebook."""

import html
from collections.abc import Sequence

Rows = Sequence[tuple[str, str]]


def line(title: str, rows: Rows) -> str:
    """``<Title: name value, name value>``, for a repr."""
    return f"<{title}: {', '.join(' '.join(row) for row in rows)}>"


def table(caption: str, rows: Rows) -> str:
    """An HTML table with a caption."""
    cells = "".join(f"<tr><th>{html.escape(what)}</th><td>{html.escape(value)}</td></tr>" for what, value in rows)
    return f"<table><caption>{html.escape(caption)}</caption>{cells}</table>"


def count(number: int, what: str) -> str:
    """``1 frame`` or ``1,000 frames``."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")
