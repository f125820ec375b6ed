"""Where compiled programs are kept between runs."""

import hashlib
import os
import platform
from pathlib import Path


def folder() -> Path:
    """``$XDG_CACHE_HOME/ffmd_jax`` (default ``~/.cache/ffmd_jax``), and in it the folder of this kind of processor.

    Machine code of one processor crashes another, and home folders are shared between the machines of a cluster.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "ffmd_jax" / hashlib.sha256(_processor().encode()).hexdigest()[:12]


def keep_programs() -> None:
    """Lets jax keep every program, however small; to be called before jax is imported.

    Settings of the user, such as ``JAX_COMPILATION_CACHE_DIR`` or ``JAX_ENABLE_COMPILATION_CACHE=0``, stay.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder() / "programs"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def hide_false_alarms() -> None:
    """Lets XLA write only the reason of an abort to stderr; for a command, to be called before jax is imported.

    XLA reports two tuning flags of its own as missing instructions at every program that it loads from the cache
    (openxla/xla#44565), pages of errors each time.  Errors that matter reach Python as exceptions.  Levels that the
    user has set stay, but for TF_CPP_MIN_LOG_LEVEL=1: jax itself sets it when it is imported, and commands that such a
    process starts inherit it.
    """
    if "JAX_LOGGING_LEVEL" not in os.environ and os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        os.environ["JAX_LOGGING_LEVEL"] = "CRITICAL"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
