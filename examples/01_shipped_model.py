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
# # A shipped model in ten lines
#
# The model `quartz` steps 162 atoms of α-quartz by 30 fs at 300 K. A reference run with the BKS force field and steps
# of 1 fs is made first, to start from and to compare with. One CPU core needs about one minute, or some seconds with
# `FFMD_SMALL=1`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt

import ffmd_jax as ffmd
from ffmd_jax.analysis.temperatures import temperatures

SMALL = "FFMD_SMALL" in os.environ
FOLDER = Path("ffmd_example_01")
FOLDER.mkdir(exist_ok=True)

# %%
model = ffmd.load("quartz")
model

# %% [markdown]
# CSVR holds the temperature, and weak Langevin friction shares the energy between the elements.

# %%
nvt = ffmd.NVT(300, tau_fs=75, friction_tau_fs=3000)
(reference,) = ffmd.reference(
    "quartz", FOLDER / "reference.h5", ensemble=nvt, length_ps=0.36 if SMALL else 15.0, frame_fs=30,
    equilibrate_ps=0.1 if SMALL else 5.0, spacing_ps=0.1 if SMALL else 1.0, overwrite=True, progress=False,
)  # fmt: skip

# %%
run = ffmd.simulate(
    model, reference, steps=40 if SMALL else 500, ensemble=nvt, out=FOLDER / "run.h5", overwrite=True, progress=False
)
run

# %% [markdown]
# The temperatures of the elements matter more than the total one, which the thermostat sets.

# %%
found = temperatures(run.trajectory)
for element, kelvin in found.mean_by_species.items():
    print(f"{element}: {kelvin:.1f} ± {found.error_by_species[element]:.1f} K")

fig, ax = plt.subplots(figsize=(7, 3))
for element, kelvins in found.by_species.items():
    ax.plot(run.times / 1000, kelvins, label=element, lw=0.8)
ax.axhline(300, color="0.5", lw=0.8)
ax.set(xlabel="time / ps", ylabel="temperature / K", title="Force-free α-quartz")
ax.legend()
plt.show()

# %% [markdown]
# The report compares temperatures, vibrations, structure and drifts. Its verdict says what agrees, what differs, and
# what cannot be told because the runs are too short.

# %%
report = ffmd.analyze(run, reference)
print(report.text())
print("saved:", report.save(FOLDER / "report"))
report
