"""Networks that step atoms by Δt: configuration, layers, and the files of models."""

from ffmd_jax.core.deferred import defer

# e3nn-jax needs them for sampling on the sphere and for exact coefficients; they take most of its import, and most
# commands never use them.
defer("sympy", "scipy.signal")
