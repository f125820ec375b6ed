"""Force-free molecular dynamics in JAX.

A propagator maps a phase-space point to the one an interval Δt later.  The reference integrator is one, the network
is one; roll-outs, thermostats and analysis are written against propagators and trajectories and never know which.
"""

from importlib import metadata

__version__ = "0.1.0"

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
