"""Force-free molecular dynamics in JAX.

A propagator maps a phase-space point to the one an interval Δt later.  The reference integrator is one, the network
is one; roll-outs, thermostats and analysis are written against propagators and trajectories and never know which.
"""

__version__ = "0.1.0"
