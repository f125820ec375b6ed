# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---


# %% [markdown]
# # A propagator of your own
#
# A propagator is a function `(system, state, graph) -> state`. The network is one, an integrator is one, and this
# notebook writes two more for atoms on springs: the exact solution, and one with an error such as a network has.

# %%
import os

import jax
import matplotlib.pyplot as plt
import numpy as np

from ffmd_jax.core import mechanics, units
from ffmd_jax.core.propagators import reversible
from ffmd_jax.core.state import State, make_system
from ffmd_jax.dynamics import rollout
from ffmd_jax.dynamics.ensemble import NVT
from ffmd_jax.reference_md import integrator

SMALL = "FFMD_SMALL" in os.environ
STEPS = 200 if SMALL else 5_000
DT, OMEGA = 20.0, 0.02  # fs, rad/fs: a period of 314 fs

# %% [markdown]
# ## The system
#
# 27 argon atoms in a periodic cell, each on a spring to its site.

# %%
grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
sites = 4.0 * grid.astype(float)
system = make_system([18] * len(sites), [39.948] * len(sites), True)
at_rest = State(sites, np.zeros_like(sites), 12.0 * np.eye(3))
start = mechanics.maxwell_boltzmann(jax.random.key(0), system, at_rest, 120.0)


def potential(system, state, graph):
    """Energy of the springs, eV, scalar: an `Energy`."""
    return 0.5 * (system.masses[:, None] * OMEGA**2 * (state.positions - sites) ** 2).sum() / units.EV


# %% [markdown]
# ## Propagators
#
# Exact: each atom turns in phase space by the angle ω Δt. With an error: the angle is 1 % too large, and the
# velocities shrink by 0.3 % in each step, as with a network that loses energy. `reversible` makes time-symmetrised
# steps of it.


# %%
def exact(system, state, graph, angle=DT * OMEGA, damping=1.0):
    away, turn, shift = state.positions - sites, np.cos(angle), np.sin(angle)
    return state._replace(
        positions=sites + away * turn + state.velocities * shift / OMEGA,
        velocities=damping * (state.velocities * turn - away * OMEGA * shift),
    )


def with_error(system, state, graph):
    return exact(system, state, graph, 1.01 * DT * OMEGA, damping=0.997)


propagators = {
    "exact": exact,
    "Verlet, 20 substeps of 1 fs": integrator.drift_kick_drift(potential, 1.0, 20),
    "with an error": with_error,
    "with an error, time-symmetrised": reversible(with_error),
}


def run(propagate, **options):
    return rollout.gather(
        rollout.run(
            system, start, propagate, cutoff=4.5, time_step_fs=DT, n_steps=STEPS, key=jax.random.key(1),
            observe=lambda system, state, graph: {"potential_eV": potential(system, state, graph)}, **options,
        )
    )  # fmt: skip


# %% [markdown]
# ## Energy
#
# The plain steps lose energy. Time symmetrisation removes most of the loss and leaves the wrong frequency: errors that
# are reversible in time remain.

# %%
fig, ax = plt.subplots(figsize=(7, 3))
for name, propagate in propagators.items():
    found = run(propagate)
    total = found.observables["potential_eV"] + np.asarray(mechanics.kinetic_energy(system, found.frames.velocities))
    ax.plot(found.times / 1000, total / total[0], label=name)
    print(f"{name}: total energy × {total[-1] / total[0]:.3f} after {STEPS} steps")
ax.set(xlabel="time / ps", ylabel="total energy / initial")
ax.legend(fontsize="small")
plt.show()

# %% [markdown]
# ## A thermostat
#
# Ensembles act after any propagator. With Langevin dynamics the temperature is right on average even with the exact
# propagator, whose springs do not exchange energy.

# %%
found = run(exact, ensemble=NVT(120.0, tau_fs=500.0, thermostat="langevin"))
kelvins = np.asarray(jax.vmap(lambda frame: mechanics.temperature(system, frame))(found.frames))
print(f"{kelvins.mean():.0f} K on average")
fig, ax = plt.subplots(figsize=(7, 3))
ax.plot(found.times / 1000, kelvins, lw=0.6)
ax.axhline(120, color="0.5", lw=0.8)
ax.set(xlabel="time / ps", ylabel="temperature / K")
plt.show()
