"""Progress bars with the time left, and lines above them."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from tqdm import tqdm

from ffmd_jax.core import units


@contextlib.contextmanager
def progress(
    total: float, description: str, unit: str = "ps", hidden: bool = False, begin: float = 0.0
) -> Iterator[tqdm]:
    """A progress bar with ETA on stderr, of what comes after ``begin``; seldom redrawn where stderr is no terminal.

    Times have a decimal; other units are counted.
    """
    quiet, digits = not sys.stderr.isatty(), 1 if unit == "ps" else 0
    layout = f"{{l_bar}}{{bar}}| {{n:.{digits}f}}/{{total:.{digits}f}} {unit}" + " [{elapsed}<{remaining}{postfix}]"
    with tqdm(
        total=total,
        initial=begin,  # type: ignore[arg-type]  # typed as int, works with float
        desc=description,
        bar_format=layout,
        mininterval=30 if quiet else 0.2,
        disable=hidden,
    ) as bar:
        yield bar


def counted(items: Sequence, description: str, unit: str) -> Iterator:
    """Passes items on, with a progress bar."""
    with progress(len(items), description, unit) as bar:
        for item in items:
            yield item
            bar.update(1)


def follow(
    blocks: Iterable, length_ps: float, description: str, begin_ps: float = 0.0, hidden: bool = False
) -> Iterator:
    """Passes the blocks of a rollout on, with a progress bar in ps and the speed in ns/day since ``begin_ps``."""
    with progress(length_ps, description, begin=begin_ps, hidden=hidden) as bar:
        for block in blocks:
            bar.update(block.times[-1] / units.PS - bar.n)
            rate = bar.format_dict["elapsed"]
            if rate > 0:
                bar.set_postfix_str(f"{(bar.n - begin_ps) * 86.4 / rate:.3g} ns/day", refresh=False)
            yield block


def warn(text: str) -> None:
    """Prints a line to stderr, above a progress bar."""
    tqdm.write(f"ffmd: {text}", file=sys.stderr)


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Returns whether SIGTERM has come since; it does not interrupt anything."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)
