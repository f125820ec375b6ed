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
# # Your own molecule, from an ASE calculator to the report
#
# Ethanol with GFN2-xTB if tblite is installed (`pip install -e ".[xtb]"`), otherwise a cluster of 13 copper atoms
# with EMT. Any other ASE calculator works the same way. The settings here are for a demonstration that takes six
# minutes on two busy cores and ends with a velocity error of about 2 %. For production use five runs of 20–100 ps and
# one to two hours of training.

# %%
import importlib.util
import json
import os
from pathlib import Path

import ase
import ase.build
import ase.cluster
import matplotlib.pyplot as plt

import ffmd_jax as ffmd

SMALL = "FFMD_SMALL" in os.environ
FOLDER = Path("ffmd_example_02")
FOLDER.mkdir(exist_ok=True)


# %%
def copper_cluster() -> ase.Atoms:
    cluster = ase.cluster.Icosahedron("Cu", noshells=2)
    return ase.Atoms(cluster.symbols, cluster.positions)


if importlib.util.find_spec("tblite"):
    from tblite.ase import TBLite

    atoms, time_step_fs = ase.build.molecule("CH3CH2OH"), 5.0

    def calculator():
        return TBLite(method="GFN2-xTB", accuracy=0.1, verbosity=0)

else:
    from ase.calculators.emt import EMT as calculator

    atoms, time_step_fs = copper_cluster(), 20.0
atoms

# %% [markdown]
# ## Reference runs
#
# Five NVE runs from one equilibration. The calculator is passed as a function, so that each run has its own.

# %%
files = ffmd.reference(
    "ase", FOLDER / "ref.h5", start=atoms, calculator=calculator, runs=5, length_ps=0.2 if SMALL else 4.0,
    frame_fs=time_step_fs, equilibrate_ps=0.1 if SMALL else 2.0, spacing_ps=0.1 if SMALL else 1.0, overwrite=True,
    progress=False,
)  # fmt: skip

# %% [markdown]
# ## Dataset and training
#
# The last run is the test set, the one before it the validation set. With one more argument, `time_step_fs`, `train`
# takes any multiple of the frame interval.

# %%
data = ffmd.make_dataset(files, time_step_fs, out=FOLDER / "data.h5", overwrite=True, progress=False)
sizes = (
    ffmd.Architecture(cutoff=4.5, lmax=1, channels=4, layers=2, radial_hidden=(8,), speed_hidden=(8,))
    if SMALL
    else ffmd.Architecture.small(cutoff=4.5)
)
model = ffmd.train(
    data, FOLDER / "model", architecture=sizes, training=ffmd.Training(epochs=1 if SMALL else 20), overwrite=True,
    progress=False,
)  # fmt: skip
model

# %%
errors = ffmd.evaluate(model, data)
print(f"error of one step: displacement {errors.displacement_percent:.2f} %, velocity {errors.velocity_percent:.2f} %")

# %%
lines = [json.loads(line) for line in (FOLDER / "model" / "metrics.jsonl").read_text().splitlines()]
loss = [(line["step"], line["loss"]) for line in lines if line.get("loss")]
fig, ax = plt.subplots(figsize=(7, 3))
ax.semilogy(*zip(*loss, strict=True))
ax.set(xlabel="optimizer step", ylabel="loss", title="Training")
plt.show()

# %% [markdown]
# ## Rollout and report
#
# A model that has been trained for so short a time may raise alarms. `on_alarm="warn"` lets the run continue here.
# For production keep the default, "stop".

# %%
run = ffmd.simulate(
    model, files[0], steps=40 if SMALL else 4_000, ensemble=ffmd.NVT(300, friction_tau_fs=500), out=FOLDER / "run.h5",
    on_alarm="warn", overwrite=True, progress=False,
)  # fmt: skip
run

# %%
report = ffmd.analyze(run)
print(report.text())
report
