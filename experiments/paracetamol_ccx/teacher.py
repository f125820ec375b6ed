"""MD of many copies of a molecule with ANI-1ccx at once: runs to train on, and a reference to compare with.

ANI-1ccx (doi:10.1038/s41467-019-10827-4) was fitted to coupled-cluster energies, CCSD(T)/CBS, of H C N O molecules.
One call of its eight networks for 64 copies costs hardly more than for ten.  Runs go on where they were stopped.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import h5py
import jax
import numpy as np

import ffmd_jax as ffmd
from ffmd_jax.core import mechanics, progress, units
from ffmd_jax.core.state import State, System
from ffmd_jax.data import dataset
from ffmd_jax.data.dataset_file import Dataset, Group, Run
from ffmd_jax.reference_md import systems

COPIES, STEP_FS, FRAME_FS, KELVIN = 64, 0.5, 1.0, 300.0
WARM_PS, WARM_TAU_FS, NVE_PS, NVT_PS, FRICTION_TAU_FS, NVT_FRAME_FS = 0.75, 50.0, 1.5, 5.0, 1000.0, 6.0
N_VALIDATION = N_TEST = 6  # of the copies
ANI_1CCX = "ANI-1ccx, torchani 2.0"

Forces = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def ani(species: np.ndarray) -> Forces:
    """Energies, eV, and forces, eV/Å, of ``[n_copies, n_atoms, 3]``, Å; one thread."""
    import torch
    import torchani

    torch.set_num_threads(1)
    model = torchani.models.ANI1ccx(periodic_table_index=True)

    def forces(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = torch.tensor(positions, dtype=torch.float32, requires_grad=True)
        numbers = torch.tensor(np.asarray(species), dtype=torch.long).expand(len(positions), -1)
        energies = model((numbers, places)).energies
        (slopes,) = torch.autograd.grad(energies.sum(), places)
        return energies.detach().double().numpy() * units.HARTREE_IN_EV, -slopes.double().numpy() * units.HARTREE_IN_EV

    return forces


def opls(species: np.ndarray) -> Forces:
    """The same of OPLS-AA, which tries the scripts out where ANI-1ccx is not installed."""
    prepared, cell = systems.paracetamol(), np.eye(3)

    def energy(positions):
        return prepared.energy(prepared.system, State(positions, 0 * positions, cell), None)  # of all pairs

    def forces(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with jax.enable_x64(True):
            energies, slopes = both(positions)
        return np.asarray(energies), -np.asarray(slopes)

    both = jax.jit(jax.vmap(jax.value_and_grad(energy)))
    return forces


class Teacher(NamedTuple):
    """What makes the runs.

    Attributes:
        name: for the dataset.
        forces: of the species, forces of many copies.
        copies: side by side.
        shorter: lengths are divided by it.
    """

    name: str = ANI_1CCX
    forces: Callable[[np.ndarray], Forces] = ani
    copies: int = COPIES
    shorter: float = 1.0


SMOKE = Teacher("OPLS-AA", opls, 16, 30.0)


class Bath(NamedTuple):
    """Langevin friction and noise: relaxation time, fs, and a generator of random numbers."""

    tau_fs: float
    rng: np.random.Generator


def steps(forces: Forces, masses: np.ndarray, r: np.ndarray, v: np.ndarray, bath: Bath | None) -> Iterator[tuple]:
    """Positions, velocities, forces and energies of all copies after 0, 1, 2, … steps: velocity Verlet, or BAOAB."""
    inverse = units.EV / masses[:, None]
    keep = 1.0 if bath is None else np.exp(-STEP_FS / bath.tau_fs)
    spread = np.sqrt((1 - keep**2) * units.BOLTZMANN * KELVIN * inverse)
    energies, f = forces(r)
    while True:
        yield r, v, f, energies
        v = v + 0.5 * STEP_FS * inverse * f
        r = r + 0.5 * STEP_FS * v
        if bath is not None:
            v = keep * v + spread * bath.rng.normal(size=v.shape)
        r = r + 0.5 * STEP_FS * v
        energies, f = forces(r)
        v = v + 0.5 * STEP_FS * inverse * f


def advance(path: Path, moving: Callable, start: Callable, n_frames: int, every: int, what: str) -> None:
    """Appends frames to a file until it has n_frames; a file that is there goes on from its last frame."""
    with h5py.File(path, "a") as file:
        if "positions" not in file:
            r, v = start()
            for name in ("positions", "velocities", "forces"):
                file.create_dataset(name, (0, *r.shape), "f4", maxshape=(None, *r.shape), chunks=(50, *r.shape))
            file.create_dataset("energies", (0, len(r)), "f8", maxshape=(None, len(r)))
            done = 0
        else:
            done = len(file["energies"])
            r, v = (np.asarray(file[name][done - 1], np.float64) for name in ("positions", "velocities"))
        ahead = moving(r, v, done)
        frame_ps = every * STEP_FS / 1000
        with progress.progress(n_frames * frame_ps, what, "ps of each copy", begin=done * frame_ps) as bar:
            if done:
                for _ in range(every):
                    next(ahead)
            for frame in range(done, n_frames):
                found = next(ahead)
                for name, values in zip(("positions", "velocities", "forces", "energies"), found, strict=True):
                    file[name].resize(frame + 1, axis=0)
                    file[name][frame] = values
                file.flush()
                bar.update(frame_ps)
                for _ in range(every - 1):
                    next(ahead)


def begin(teacher: Teacher, forces: Forces, system: System) -> tuple[np.ndarray, np.ndarray]:
    """Copies in equilibrium: frames of the shipped model of OPLS-AA, which then get used to ANI-1ccx."""
    prepared = systems.paracetamol()
    bath = ffmd.NVT(KELVIN, tau_fs=70.0, friction_tau_fs=1000.0)
    every = round(1430 / teacher.shorter)  # steps of 7 fs: copies 10 ps apart
    start = (prepared.system, prepared.state)
    frames = ffmd.simulate("paracetamol", start, steps=teacher.copies * every, every=every, ensemble=bath).frames
    r, v = (np.asarray(x, np.float64) for x in (frames.positions, frames.velocities))
    warm = steps(forces, np.asarray(system.masses), r, v, Bath(WARM_TAU_FS, np.random.default_rng(0)))
    length_ps = WARM_PS / teacher.shorter
    n_steps = round(length_ps * units.PS / STEP_FS)
    with progress.progress(length_ps, "equilibration", "ps of each copy") as bar:
        for r, v, *_ in itertools.islice(warm, n_steps):  # noqa: B007
            bar.update(STEP_FS / 1000)
    cell = np.broadcast_to(np.eye(3), (len(r), 3, 3))
    with jax.enable_x64(True):
        rest = jax.vmap(lambda state: mechanics.zero_momenta(system, state))(State(r, v, cell))
    r = r - np.asarray(jax.vmap(lambda x: mechanics.center_of_mass(system, x))(r))[:, None]
    return r, np.asarray(rest.velocities)


def nve(folder: Path, teacher: Teacher) -> None:
    """Runs at constant energy, nve_frames.h5, and the dataset of them, with forces and energies, nve.h5."""
    system = systems.paracetamol().system
    forces, masses = teacher.forces(system.species), np.asarray(system.masses)
    raw, n_frames = folder / "nve_frames.h5", round(NVE_PS / teacher.shorter * units.PS / FRAME_FS) + 1
    advance(
        raw, lambda r, v, done: steps(forces, masses, r, v, None), lambda: begin(teacher, forces, system), n_frames,
        round(FRAME_FS / STEP_FS), f"{teacher.copies} runs, NVE",
    )  # fmt: skip
    with h5py.File(raw) as file:
        r, v, f, e = (np.asarray(file[name], np.float64) for name in ("positions", "velocities", "forces", "energies"))
    kinetic = 0.5 * np.sum(masses[:, None] * v**2, axis=(2, 3)) / units.EV
    spread = 1000 * np.std(kinetic + e, axis=0) / len(masses)
    print(f"the total energy fluctuates by {spread.mean():.3f} meV/atom, at most {spread.max():.3f}")
    splits = ["test"] * N_TEST + ["validation"] * N_VALIDATION
    splits += ["train"] * (teacher.copies - len(splits))
    cells = np.broadcast_to(np.eye(3), (n_frames, 3, 3))
    runs = tuple(
        Run(State(r[:, i], v[:, i], cells), FRAME_FS, split, 0, f"copy {i}", e[:, i], f[:, i])
        for i, split in enumerate(splits)
    )
    made = Dataset((Group(system, runs),), 6.0, metadata={"sources": [teacher.name]})
    dataset.write(folder / "nve.h5", made, overwrite=True)


def nvt(folder: Path, teacher: Teacher) -> None:
    """Langevin dynamics with weak friction, from where the runs at constant energy ended: frames, nvt.h5."""
    system = systems.paracetamol().system
    forces, masses = teacher.forces(system.species), np.asarray(system.masses)

    def start():
        with h5py.File(folder / "nve_frames.h5") as file:
            return tuple(np.asarray(file[name][-1], np.float64) for name in ("positions", "velocities"))

    def moving(r, v, done):
        return steps(forces, masses, r, v, Bath(FRICTION_TAU_FS, np.random.default_rng([1, done])))

    every, n_frames = round(NVT_FRAME_FS / STEP_FS), round(NVT_PS / teacher.shorter * units.PS / NVT_FRAME_FS)
    advance(folder / "nvt.h5", moving, start, n_frames, every, f"{teacher.copies} runs, NVT")


def speed(teacher: Teacher) -> tuple[float, float]:
    """Steps of one molecule, and of many at once, ns/day of all together at 0.5 fs; one thread."""
    prepared, found = systems.paracetamol(), []
    forces = teacher.forces(prepared.system.species)
    for copies in (1, teacher.copies):
        r = np.repeat(np.asarray(prepared.state.positions)[None], copies, axis=0)
        r = r + 0.02 * np.random.default_rng(0).normal(size=r.shape)
        ahead = steps(forces, np.asarray(prepared.system.masses), r, 0 * r, None)
        times = []
        for _ in range(12):
            began = time.perf_counter()
            next(ahead)
            times.append(time.perf_counter() - began)
        found.append(copies * units.ns_per_day(STEP_FS, float(np.median(times[2:]))))
    return found[0], found[1]
