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
# # What can go wrong, and what the monitors say
#
# 1. An untrained model. 2. A run that is hotter than the training data. 3. A run in which no monitor raises an alarm,
# and in which one element is still too hot: look at the temperature of each element.

# %%
import dataclasses
import logging
import os
import warnings

import jax
import matplotlib.pyplot as plt

import ffmd_jax as ffmd
from ffmd_jax.analysis.temperatures import temperatures
from ffmd_jax.dynamics.monitors import EndedByAlarm
from ffmd_jax.models import trajcast
from ffmd_jax.reference_md import systems

SMALL = "FFMD_SMALL" in os.environ
STEPS = 60 if SMALL else 2_000
logging.getLogger("ffmd_jax").setLevel(logging.ERROR)  # alarms are printed below
warnings.simplefilter("ignore", EndedByAlarm)

# %% [markdown]
# All runs start from the ideal crystal, with velocities drawn at 600 K: half of the kinetic energy goes into
# vibrations.

# %%
prepared = systems.get("quartz")
start = (prepared.system, prepared.state)
model = ffmd.load("quartz")


def run(model, kelvin, drawn_at, **options):
    ensemble = ffmd.NVT(kelvin, tau_fs=75, friction_tau_fs=options.pop("friction_tau_fs", None))
    return ffmd.simulate(
        model, start, steps=STEPS, ensemble=ensemble, draw_temperature_K=drawn_at, progress=False, **options
    )


def tell(title, result):
    print(f"{title}: {result.n_steps} steps")
    for alarm in result.alarms:
        print(f"  {alarm.time_fs:g} fs: {alarm.text} ({alarm.count} steps)")


# %% [markdown]
# ## An untrained model
#
# Random weights. A step forwards and one backwards do not lead back to the start: the round trip raises an alarm.

# %%
untrained = dataclasses.replace(model, params=trajcast.init(jax.random.key(0), model.config), name="untrained")
stopped = run(untrained, 300, 600)
tell("untrained", stopped)
assert stopped.ended

# %% [markdown]
# ## Too hot
#
# The model was trained at 300 K. At 1,500 K the first step raises an alarm. With `on_alarm="warn"` the run continues,
# and its numbers are not to be trusted.

# %%
hot = run(model, 1500, 3000)
tell("1,500 K, stop", hot)
assert hot.ended
tell("1,500 K, warn", run(model, 1500, 3000, on_alarm="warn"))

# %% [markdown]
# ## No alarm, and still wrong
#
# CSVR rescales all velocities by one factor and holds the total temperature. The plain steps of this model feed
# energy to O and take it from Si: over 150 ps O is at 304.4 ± 1.0 and Si at 291.1 ± 1.4 K. Friction of 3 ps shares
# the energy (O 299.5 ± 0.6, Si 298.2 ± 1.0 K; `experiments/quartz/README.md`).

# %%
results = {
    "CSVR alone": run(model, 300, 600),
    "CSVR and friction of 3 ps": run(model, 300, 600, friction_tau_fs=3000),
}
fig, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
for ax, (title, result) in zip(axes, results.items(), strict=True):
    tell(title, result)
    found = temperatures(result.trajectory)
    for element, kelvin in found.mean_by_species.items():
        print(f"  {element}: {kelvin:.1f} ± {found.error_by_species[element]:.1f} K")
        ax.plot(result.times / 1000, found.by_species[element], lw=0.6, label=element)
    ax.axhline(300, color="0.5", lw=0.8)
    ax.set(title=title, xlabel="time / ps")
axes[0].set_ylabel("temperature / K")
axes[0].legend()
plt.show()
