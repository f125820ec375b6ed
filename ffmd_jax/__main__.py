"""Entry point of ``ffmd``: runs a command, and turns errors into one line."""

import io
import logging
import os
import signal
import sys
import threading

from ffmd_jax.core import caches, commands

_CAUSES = {MemoryError: "not enough memory", OverflowError: "a number is too large"}


def main(arguments: list[str] | None = None) -> None:
    """Runs ``ffmd``; exits 0, 1 (error, one line on stderr), 2 (bad usage), 3 (a monitor's alarm) or 130 (Ctrl-C)."""
    own_process = arguments is None
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if own_process and not debug:
        caches.hide_false_alarms()
    arguments = [argument for argument in arguments if argument != "--debug"]
    # Batch systems end jobs with SIGTERM: what Ctrl-C saves is saved then, too.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # any locale: a sign that it does not have is no error
    try:
        caches.keep_programs()
        from ffmd_jax import cli

        with _Notes():
            cli.run(arguments)
    except KeyboardInterrupt as interrupt:
        if debug:
            raise
        _fail(commands.name_options(f"stopped. {interrupt}".strip()), 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `ffmd … | head` is no error
    except Exception as error:
        if debug:
            raise
        known = isinstance(error, ValueError | OSError | RuntimeError | ImportError)
        text = str(error) if known and str(error) else f"unexpected {type(error).__name__}: {error}"
        for kind, what in _CAUSES.items():
            if isinstance(error, kind):
                known, text = True, f"{what} ({error})"
        _fail(
            commands.name_options(" ".join(text.split())) + ("" if known else " (--debug shows where)"),
            getattr(error, "exit_code", 1),
        )


class _Notes(logging.Handler):
    """Prints what readers of files note, each once, as a line of its own; a context manager."""

    def __init__(self):
        super().__init__()
        self._seen: set[str] = set()
        self._propagates = True

    def emit(self, record: logging.LogRecord) -> None:
        if (text := commands.name_options(record.getMessage())) not in self._seen:
            self._seen.add(text)
            print(f"note: {commands.name_options(text)}", file=sys.stderr)

    def __enter__(self) -> None:
        log = logging.getLogger("ffmd_jax")
        log.addHandler(self)
        self._propagates, log.propagate = log.propagate, False

    def __exit__(self, *_) -> None:
        log = logging.getLogger("ffmd_jax")
        log.removeHandler(self)
        log.propagate = self._propagates


def _fail(message: str, code: int) -> None:
    print(f"ffmd: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
