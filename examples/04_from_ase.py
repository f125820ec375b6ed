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
# # Force-free dynamics in ASE
#
# `ForceFreeDynamics` is an ASE `MolecularDynamics`: it has observers, log files and trajectories, and needs no
# calculator.

# %%
import os

import ase.spacegroup
import matplotlib.pyplot as plt
import numpy as np
from ase import units
from ase.md.velocitydistribution import Stationary

import ffmd_jax as ffmd
from ffmd_jax.interop.ase import ForceFreeDynamics

SMALL = "FFMD_SMALL" in os.environ
STEPS = 60 if SMALL else 1_000

# %% [markdown]
# α-quartz, 3 × 3 × 2 unit cells. Velocities are drawn at 600 K, because half of the kinetic energy of an ideal
# crystal goes into vibrations.

# %%
unit_cell = ase.spacegroup.crystal(
    ["Si", "O"], basis=[(0.4697, 0, 1 / 3), (0.4135, 0.2669, 0.2142)], spacegroup=152,
    cellpar=[4.9134, 4.9134, 5.4052, 90, 90, 120],
)  # fmt: skip
atoms = unit_cell.repeat((3, 3, 2))


def draw_momenta(kelvin, seed):
    """Maxwell–Boltzmann momenta without a total momentum."""
    normal = np.random.default_rng(seed).normal(size=(len(atoms), 3))
    atoms.set_momenta(normal * np.sqrt(atoms.get_masses()[:, None] * units.kB * kelvin))
    Stationary(atoms)


draw_momenta(600, seed=0)

# %%
dynamics = ForceFreeDynamics(
    atoms, "quartz", ffmd.NVT(300, tau_fs=75, friction_tau_fs=3000), logfile="-", loginterval=STEPS // 10
)
kelvins, spread = [], []
lattice = atoms.get_positions()


def observe():
    kelvins.append(dynamics.temperature())
    spread.append(np.sqrt(((atoms.get_positions() - lattice) ** 2).sum(1).mean()))


dynamics.attach(observe, interval=1)
dynamics.run(STEPS)  # steps of the model's Δt, 30 fs
print("alarms:", dynamics.alarms)

# %%
times = 0.03 * np.arange(len(kelvins))
fig, axes = plt.subplots(1, 2, figsize=(9, 3))
axes[0].plot(times, kelvins, lw=0.7)
axes[0].set(xlabel="time / ps", ylabel="temperature / K")
axes[1].plot(times, spread, lw=0.7)
axes[1].set(xlabel="time / ps", ylabel="RMS displacement / Å")
plt.show()

# %% [markdown]
# Atoms that are changed between two steps are taken as they are. Here all momenta are drawn anew.

# %%
draw_momenta(300, seed=1)
dynamics.run(5)
print(f"{dynamics.temperature():.0f} K after {dynamics.nsteps} steps")
