"""Where compiled programs are kept between runs."""

import hashlib
import os
import platform
import sys
import threading
from pathlib import Path


def folder() -> Path:
    """``$XDG_CACHE_HOME/ffmd_jax`` (default ``~/.cache/ffmd_jax``), and in it the folder of this kind of processor.

    Machine code of one processor crashes another, and home folders are shared between the machines of a cluster.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "ffmd_jax" / hashlib.sha256(_processor().encode()).hexdigest()[:12]


def keep_programs() -> None:
    """Lets jax keep what takes it longer than half a second to compile; to be called before jax is imported.

    Settings of the user, such as ``JAX_COMPILATION_CACHE_DIR`` or ``JAX_ENABLE_COMPILATION_CACHE=0``, stay.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder() / "programs"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def hide_false_alarms() -> None:
    """Drops what XLA writes to stderr at every program that it loads from the cache; for the process of a command.

    It takes two tuning flags of its own for missing instructions (openxla/xla#44565), pages of errors each time.
    Python's own ``sys.stderr`` stays what it was, a terminal where it is one.
    """
    there = os.dup(2)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    sys.stderr = open(there, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115

    def forward() -> None:
        with open(reader, "rb") as lines:
            for line in lines:
                if b"cpu_aot_loader.cc" not in line:
                    os.write(there, line)

    threading.Thread(target=forward, daemon=True).start()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
