"""Progress bars with the time left, and lines above them."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from tqdm import tqdm

from ffmd_jax.core import units

_COMPILING = " (compiling)"


class _Compiling(tqdm):
    """A bar whose clock starts with the first update: what comes before is compilation, and says so."""

    _started = False

    def update(self, n: float | None = 1) -> bool | None:
        if n and not self._started and not self.disable:
            self._started = True
            self.set_description_str(self.desc.replace(_COMPILING, ""), refresh=False)
            self.initial = self.n = self.n + n
            self.start_t = self.last_print_t = time.time()
            self.last_print_n = self.n
            self.refresh()
            return True
        return super().update(n)


@contextlib.contextmanager
def progress(
    total: float, description: str, unit: str = "ps", hidden: bool = False, begin: float = 0.0, compiles: bool = False
) -> Iterator[tqdm]:
    """A progress bar with ETA on stderr, of what comes after ``begin``; seldom redrawn where stderr is no terminal.

    ``compiles``: before the first update a program is compiled, which says nothing about the time left.  Times have a
    decimal; other units are counted.
    """
    quiet, digits = not sys.stderr.isatty(), 1 if unit == "ps" else 0
    layout = f"{{l_bar}}{{bar}}| {{n:.{digits}f}}/{{total:.{digits}f}} {unit}" + " [{elapsed}<{remaining}{postfix}]"
    kind = _Compiling if compiles else tqdm
    with kind(
        total=total,
        initial=begin,  # type: ignore[arg-type]  # typed as int, works with float
        desc=description + _COMPILING if compiles else description,
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
    """Passes the blocks of a rollout on, with a progress bar in ps and the speed in ns/day without compilation."""
    started = time.monotonic()
    with progress(length_ps, description, begin=begin_ps, hidden=hidden, compiles=True) as bar:
        for block in blocks:
            bar.update(block.times[-1] / units.PS - bar.n)
            if hidden:
                yield block
                continue
            # Of a run of a single block, only the time with compilation is known.
            first, elapsed, note = bar.initial, bar.format_dict["elapsed"], ""
            if bar.n == first:
                first, elapsed, note = begin_ps, time.monotonic() - started, " with compilation"
            if elapsed > 0:
                bar.set_postfix_str(f"{(bar.n - first) * 86.4 / elapsed:.3g} ns/day{note}", refresh=False)
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
