"""Force-free molecular dynamics in JAX.

A propagator maps a phase-space point to the one an interval Δt later.  The reference integrator is one, the network
is one; rollouts, thermostats and analysis are written against propagators and trajectories and never know which.

    import ffmd_jax as ffmd

    model = ffmd.load("quartz")
    run = ffmd.simulate(model, "start.extxyz", steps=1_000, ensemble=ffmd.NVT(300), out="run.h5", every=10)
    report = ffmd.analyze(run, reference="nvt.h5")
"""

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffmd_jax.api import analyze, evaluate, load, make_dataset, read, reference, simulate, train
    from ffmd_jax.dynamics.ensemble import NPT, NVE, NVT
    from ffmd_jax.models.config import Architecture
    from ffmd_jax.screening.screen import screen
    from ffmd_jax.training.settings import Training

__version__ = "0.2.0"

__all__ = [
    "NPT",
    "NVE",
    "NVT",
    "Architecture",
    "Training",
    "analyze",
    "evaluate",
    "load",
    "make_dataset",
    "read",
    "reference",
    "screen",
    "simulate",
    "train",
]

MISCOMPUTING_JAX = {
    "0.10.2": "computes wrong numbers on CPU (jax-ml/jax#39103)",
    "0.11.0": "hangs on CPU and computes wrong numbers on GPU",
    "0.11.1": "makes CPU loops quadratically slow",
}


def check_jax(version: str) -> None:
    """Raises ImportError if this jax is one that the project's requirements exclude."""
    if version in MISCOMPUTING_JAX:
        raise ImportError(
            f"jax {version} {MISCOMPUTING_JAX[version]}; install another: "
            f"pip install 'jax>=0.10.1,!=0.10.2,!=0.11.0,!=0.11.1'"
        )


check_jax(metadata.version("jax"))

# Imported when they are first used: `import ffmd_jax` takes no time.
_HOMES = {
    "NPT": "ffmd_jax.dynamics.ensemble",
    "NVE": "ffmd_jax.dynamics.ensemble",
    "NVT": "ffmd_jax.dynamics.ensemble",
    "Architecture": "ffmd_jax.models.config",
    "Training": "ffmd_jax.training.settings",
    "screen": "ffmd_jax.screening.screen",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(_HOMES.get(name, "ffmd_jax.api")), name)
    raise AttributeError(f"module 'ffmd_jax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
