"""Inputs as people bring them, good and damaged, and what every command must make of each.

    python tests/bad_inputs.py FOLDER          # all; a JSON line each
    python tests/bad_inputs.py FOLDER swapped  # those with this word in their name

A case is a command and what is right: that it is refused (one line, exit code 1, 2 or 3), or a value that numpy finds
by itself.  Whatever happens, no input may change, nothing half-written may stay, and nothing may be "unexpected".  The
inputs are derived from one short run of 16 Lennard-Jones atoms, integrated here with numpy, by damages that have names.
"""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase
import ase.io
import h5py
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

AMU = 103.642697  # eV fs²/(Å² u)
KB = 8.617333262e-5  # eV/K
ASE_VELOCITY = 0.09822694788  # Å/fs in ASE's unit of velocity
INTERVAL = 10.0  # fs between frames


@dataclasses.dataclass(frozen=True)
class Run:
    """A trajectory as plain arrays: Å, Å/fs, fs, eV, u; ``[n_frames, n_atoms, 3]``."""

    positions: np.ndarray
    velocities: np.ndarray
    times: np.ndarray
    energies: np.ndarray | None
    cell: np.ndarray
    masses: np.ndarray
    symbols: tuple[str, ...]
    ids: np.ndarray | None = None  # [n_frames, n_atoms]
    fixed: tuple[int, ...] = ()
    periodic: bool = True
    timed: bool = True

    def take(self, chosen) -> "Run":
        energies, ids = (None if x is None else x[chosen] for x in (self.energies, self.ids))
        return dataclasses.replace(
            self, positions=self.positions[chosen], velocities=self.velocities[chosen], times=self.times[chosen],
            energies=energies, ids=ids,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """A command in a folder of its own.

    Attributes:
        make: writes the inputs into the folder and returns the command.
        right: None: it must be refused; else called with the folder and what was printed, True for a right result.
        either: a right result and a refusal are both good: of damages that may spare what matters.
    """

    name: str
    make: Callable[[Path], list[Any]]
    right: Callable[[Path, str], bool] | None = None
    either: bool = False


def lennard_jones(n_frames: int = 120, fixed: tuple[int, ...] = (), seed: int = 0) -> Run:
    """NVE by velocity Verlet of 16 argon atoms at about 100 K in a cell of 10.8 Å; truncated and shifted."""
    rng, length, n_atoms, mass = np.random.default_rng(seed), 10.8, 16, 39.948
    grid = 5.4 * np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3)
    positions = np.concatenate([grid, grid + np.array([2.7, 2.7, 0])]) + 0.05 * rng.normal(size=(n_atoms, 3))
    moving = np.setdiff1d(np.arange(n_atoms), fixed)
    velocities = np.zeros((n_atoms, 3))
    velocities[moving] = np.sqrt(KB * 100 / mass / AMU) * rng.normal(size=(len(moving), 3))
    if not fixed:
        velocities -= velocities.mean(axis=0)

    def forces(r):
        d = r[:, None] - r[None]
        d -= length * np.round(d / length)
        squared = np.sum(d**2, -1) + np.eye(n_atoms) * 1e6
        s6 = np.where(squared < 5.3**2, 3.405**6 / squared**3, 0.0)
        edge = (3.405 / 5.3) ** 6
        energy = 0.5 * np.sum(np.where(s6 > 0, 4 * 0.0104 * (s6**2 - s6 - edge**2 + edge), 0.0))
        return np.sum((24 * 0.0104 * (2 * s6**2 - s6) / squared)[..., None] * d, 1), energy

    step, every, frames = 2.0, round(INTERVAL / 2.0), []
    force, energy = forces(positions)
    for i in range(every * n_frames):
        if i % every == 0:
            frames.append((positions.copy(), velocities.copy(), energy))
        velocities[moving] += 0.5 * step * force[moving] / mass / AMU
        positions[moving] += step * velocities[moving]
        force, energy = forces(positions)
        velocities[moving] += 0.5 * step * force[moving] / mass / AMU
    found = [np.array(x) for x in zip(*frames, strict=True)]
    return Run(
        found[0], found[1], INTERVAL * np.arange(n_frames), found[2], length * np.eye(3), np.full(n_atoms, mass),
        ("Ar",) * n_atoms, fixed=fixed,
    )  # fmt: skip


def with_(run: Run, **changes) -> Run:
    return dataclasses.replace(run, **changes)


def changed(values: np.ndarray, where, to) -> np.ndarray:
    values = values.copy()
    values[where] = to
    return values


# --- Files ---------------------------------------------------------------------------------------------------------


def as_atoms(run: Run) -> list[ase.Atoms]:
    """The frames; times in fs in the info, velocities as momenta."""
    found = []
    for i in range(len(run.times)):
        atoms = ase.Atoms(run.symbols, run.positions[i], cell=run.cell, pbc=run.periodic, masses=run.masses)
        atoms.set_velocities(run.velocities[i] / ASE_VELOCITY)
        if run.timed:
            atoms.info["time"] = float(run.times[i])
        if run.ids is not None:
            atoms.set_array("id", run.ids[i])
        if run.energies is not None:
            atoms.calc = SinglePointCalculator(atoms, energy=run.energies[i])
        if run.fixed:
            atoms.set_constraint(FixAtoms(list(run.fixed)))
        found.append(atoms)
    return found


def write_traj(path: Path, run: Run) -> None:
    ase.io.write(path, as_atoms(run), format="traj")


def write_extxyz(path: Path, run: Run) -> None:
    """Velocities as a column in Å/fs."""
    lines = []
    cell = " ".join(f"{x:.10g}" for x in run.cell.ravel())
    for i in range(len(run.times)):
        comment = f'Lattice="{cell}" ' if run.periodic else ""
        comment += "Properties=species:S:1:pos:R:3:velocities:R:3:masses:R:1" + (
            ":id:I:1" if run.ids is not None else ""
        )
        comment += f' pbc="{" ".join(["FT"[run.periodic]] * 3)}"'
        comment += f" time={run.times[i]:.10g}" if run.timed else ""
        comment += f" energy={run.energies[i]:.12g}" if run.energies is not None else ""
        lines += [str(len(run.symbols)), comment]
        for j, symbol in enumerate(run.symbols):
            numbers = [*run.positions[i, j], *run.velocities[i, j], run.masses[j]]
            end = f" {run.ids[i, j]}" if run.ids is not None else ""
            lines.append(symbol + "".join(f" {x:.12g}" for x in numbers) + end)
    path.write_text("\n".join(lines) + "\n")


def write_lammps(path: Path, run: Run) -> None:
    """Units metal, time step 2 fs."""
    lines = []
    for i in range(len(run.times)):
        lines += ["ITEM: TIMESTEP", str(round(run.times[i] / 2)), "ITEM: NUMBER OF ATOMS", str(len(run.symbols))]
        lines += ["ITEM: BOX BOUNDS pp pp pp", *(f"0 {run.cell[k, k]:.10g}" for k in range(3))]
        lines.append("ITEM: ATOMS id element mass xu yu zu vx vy vz")
        ids = np.arange(len(run.symbols)) + 1 if run.ids is None else run.ids[i]
        for j, symbol in enumerate(run.symbols):
            numbers = [run.masses[j], *run.positions[i, j], *(1000 * run.velocities[i, j])]
            lines.append(f"{ids[j]} {symbol}" + "".join(f" {x:.12g}" for x in numbers))
    path.write_text("\n".join(lines) + "\n")


def write_h5md(path: Path, run: Run) -> None:
    """As another program: nm and ps, times as 32-bit floats."""
    with h5py.File(path, "w") as file:
        file.create_group("h5md").attrs["version"] = np.array([1, 1])
        particles = file.create_group("particles/all")
        box = particles.create_group("box")
        box.attrs["dimension"], box.attrs["boundary"] = 3, [("none", "periodic")[run.periodic]] * 3
        box["edges"] = run.cell / 10
        box["edges"].attrs["unit"] = "nm"
        for name, values, unit in (
            ("position", run.positions / 10, "nm"), ("velocity", 100 * run.velocities, "nm ps-1"),
        ):  # fmt: skip
            group = particles.create_group(name)
            group["value"], group["step"] = values, np.arange(len(run.times))
            group["time"] = np.float32(run.times / 1000)
            group["value"].attrs["unit"], group["time"].attrs["unit"] = unit, "ps"
        if run.ids is not None:
            group = particles.create_group("id")
            group["value"], group["step"], group["time"] = run.ids, np.arange(len(run.times)), run.times / 1000
        particles["species"] = np.array([ase.data.atomic_numbers[symbol] for symbol in run.symbols])
        particles["mass"] = run.masses
        particles["mass"].attrs["unit"] = "u"
        if run.energies is not None:
            group = file.create_group("observables/potential_energy")
            group["value"], group["step"], group["time"] = run.energies, np.arange(len(run.times)), run.times / 1000
            group["value"].attrs["unit"] = "eV"


def write_ours(path: Path, run: Run) -> None:
    """By the package's own writer."""
    from ffmd_jax.core.state import State, make_system
    from ffmd_jax.formats import trajectory

    numbers = [ase.data.atomic_numbers[symbol] for symbol in run.symbols]
    system = make_system(numbers, run.masses, run.periodic)
    cells = np.broadcast_to(run.cell, (len(run.times), 3, 3))
    seen = {} if run.energies is None else {"potential_energy_eV": run.energies}
    frames = State(run.positions, run.velocities, cells)
    trajectory.write(path, trajectory.Trajectory(system, frames, run.times, seen, {}))


FORMATS: dict[str, tuple[str, Callable[[Path, Run], None], list[Any]]] = {
    "traj": ("run.traj", write_traj, []),
    "extxyz": ("run.extxyz", write_extxyz, []),
    "lammps": ("run.lammpstrj", write_lammps, ["--lammps-units", "metal", "--lammps-timestep-fs", 2]),
    "h5md": ("run.h5", write_h5md, []),
    "ours": ("run.h5", write_ours, []),
}


# --- Damages of the frames -------------------------------------------------------------------------------------------


def swapped(run: Run, first: int = 60) -> Run:
    """Two atoms of one element change places."""
    order = np.arange(len(run.symbols))
    order[[3, 9]] = [9, 3]
    positions, velocities = run.positions.copy(), run.velocities.copy()
    positions[first:], velocities[first:] = positions[first:, order], velocities[first:, order]
    return with_(run, positions=positions, velocities=velocities)


def shuffled_with_ids(run: Run) -> Run:
    """Atoms in another order in every frame, as MD programs write them, with their ids."""
    rng, frames = np.random.default_rng(1), np.arange(len(run.times))[:, None]
    orders = np.argsort(rng.random(run.positions.shape[:2]), axis=1)
    return with_(
        run, positions=run.positions[frames, orders], velocities=run.velocities[frames, orders], ids=orders + 1
    )


def wrapped(run: Run) -> Run:
    return with_(run, positions=run.positions % np.diag(run.cell))


def kicked(run: Run) -> Run:
    """One frame's positions of one atom, half an ångström away."""
    return with_(run, positions=changed(run.positions, (70, 5, 0), run.positions[70, 5, 0] + 0.5))


N = slice(None)
EVEN = INTERVAL * np.arange(400)
GOOD: dict[str, Callable[[Run], Run]] = {
    "as it is": lambda run: run,
    "without energies": lambda run: with_(run, energies=None),
    "wrapped": wrapped,
    "ids in another order": shuffled_with_ids,
    "begins late": lambda run: with_(run, times=run.times + 12_340.0),
    "moving as a whole": lambda run: with_(
        run,
        positions=run.positions + 0.002 * run.times[:, None, None],
        velocities=run.velocities + 0.002,
        energies=None,
    ),
}
BAD: dict[str, Callable[[Run], Run]] = {
    "velocities 1000 times too large": lambda run: with_(run, velocities=1000 * run.velocities, energies=None),
    "velocities 1000 times too small": lambda run: with_(run, velocities=run.velocities / 1000, energies=None),
    "velocities in ASE's unit": lambda run: with_(run, velocities=run.velocities / ASE_VELOCITY, energies=None),
    "velocities turned round": lambda run: with_(run, velocities=-run.velocities),
    "velocities zero": lambda run: with_(run, velocities=0 * run.velocities),
    "velocities of another run": lambda run: with_(run, velocities=lennard_jones(len(run.times), seed=5).velocities),
    "axes of velocities exchanged": lambda run: with_(run, velocities=run.velocities[..., [1, 0, 2]]),
    "velocities a frame late": lambda run: with_(run, velocities=np.roll(run.velocities, 1, axis=0)).take(
        slice(1, None)
    ),
    "half-step velocities": lambda run: with_(
        run, velocities=0.5 * (run.velocities + np.roll(run.velocities, 1, axis=0)), energies=None
    ).take(slice(1, None)),
    "times 1000 times too large": lambda run: with_(run, times=1000 * run.times, energies=None),
    "times 1000 times too small": lambda run: with_(run, times=run.times / 1000, energies=None),
    "times ten times too large": lambda run: with_(run, times=10 * run.times, energies=None),
    "times not a number": lambda run: with_(run, times=changed(run.times, 30, np.nan)),
    "times go back": lambda run: with_(run, times=changed(run.times, slice(60, None), run.times[:60])),
    "times stand still": lambda run: with_(run, times=np.zeros_like(run.times)),
    "two atoms swapped": swapped,
    "two atoms swapped in one frame": lambda run: with_(
        run,
        positions=changed(run.positions, 60, swapped(run).positions[60]),
        velocities=changed(run.velocities, 60, swapped(run).velocities[60]),
    ),
    "a frame twice": lambda run: with_(
        run.take(np.sort([*range(len(run.times)), 50])), times=EVEN[: len(run.times) + 1]
    ),
    "a frame twice, without energies": lambda run: with_(
        run.take(np.sort([*range(len(run.times)), 50])), times=EVEN[: len(run.times) + 1], energies=None
    ),
    "a frame lost": lambda run: with_(
        run.take(np.delete(np.arange(len(run.times)), 50)), times=EVEN[: len(run.times) - 1]
    ),
    "a frame lost, times kept": lambda run: run.take(np.delete(np.arange(len(run.times)), 50)),
    "overlapping restart": lambda run: with_(
        run.take(np.r_[0:60, 55 : len(run.times)]), times=EVEN[: len(run.times) + 5]
    ),
    "two runs joined": lambda run: with_(
        run,
        positions=np.concatenate([run.positions[:60], lennard_jones(60, seed=7).positions]),
        velocities=np.concatenate([run.velocities[:60], lennard_jones(60, seed=7).velocities]),
        times=EVEN[:120],
        energies=None,
    ),
    "frames shuffled": lambda run: with_(
        run.take(np.random.default_rng(2).permutation(len(run.times))), times=run.times
    ),
    "frames reversed": lambda run: with_(run.take(slice(None, None, -1)), times=run.times),
    "a position not a number": lambda run: with_(run, positions=changed(run.positions, (10, 2, 1), np.nan)),
    "a velocity infinite": lambda run: with_(run, velocities=changed(run.velocities, (10, 2, 1), np.inf)),
    "a position huge": lambda run: with_(run, positions=changed(run.positions, (10, 2, 1), 1e30)),
    "an atom displaced in one frame": kicked,
    "an atom at rest in one frame": lambda run: with_(
        run, velocities=changed(run.velocities, (70, 5), 0.0), energies=None
    ),
    "an atom's velocity tripled in one frame": lambda run: with_(
        run, velocities=changed(run.velocities, (70, 5), 3 * run.velocities[70, 5]), energies=None
    ),
    "all velocities of one frame zero": lambda run: with_(
        run, velocities=changed(run.velocities, 70, 0.0), energies=None
    ),
    "an atom never moves": lambda run: with_(
        run,
        positions=changed(run.positions, (N, 4), run.positions[0, 4]),
        velocities=changed(run.velocities, (N, 4), 0.0),
        energies=None,
    ),
    "atoms fixed": lambda run: lennard_jones(len(run.times), fixed=tuple(range(8))),
    "two masses of one element": lambda run: with_(run, masses=changed(run.masses, slice(0, 8), 36.0), energies=None),
    "mass zero": lambda run: with_(run, masses=changed(run.masses, 0, 0.0)),
    "mass negative": lambda run: with_(run, masses=changed(run.masses, 0, -39.9)),
    "two atoms of one id": lambda run: with_(run, ids=changed(shuffled_with_ids(run).ids, (50, 0), 7)),
    "energies in kJ/mol": lambda run: with_(run, energies=run.energies * 96.485),
    "energies in Hartree": lambda run: with_(run, energies=run.energies / 27.2114),
    "energies of other frames": lambda run: with_(run, energies=np.roll(run.energies, 40)),
    "total energies": lambda run: with_(
        run, energies=run.energies + 0.5 * AMU * np.sum(run.masses[:, None] * run.velocities**2, axis=(1, 2))
    ),
    "one frame": lambda run: run.take(slice(0, 1)),
    "three frames": lambda run: run.take(slice(0, 3)),
    "one atom": lambda run: with_(
        run,
        positions=run.positions[:, :1],
        velocities=run.velocities[:, :1],
        masses=run.masses[:1],
        symbols=("Ar",),
        energies=None,
    ),
    "flat cell": lambda run: with_(run, cell=np.diag([10.8, 10.8, 0.0])),
}
# What a format cannot hold, or holds in another way.
IMPOSSIBLE = {
    ("traj", "ids in another order"), ("traj", "two atoms of one id"), ("lammps", "wrapped"), ("ours", "wrapped"),
    ("ours", "ids in another order"), ("ours", "two atoms of one id"), ("ours", "atoms fixed"), ("ours", "mass zero"),
    ("ours", "mass negative"), ("ours", "a position not a number"), ("ours", "a velocity infinite"),
    ("ours", "times not a number"), ("ours", "times go back"), ("ours", "times stand still"), ("ours", "flat cell"),
    ("ours", "a frame lost, times kept"), ("ours", "begins late"), ("lammps", "times not a number"),
    ("lammps", "times 1000 times too small"), ("traj", "flat cell"), ("lammps", "flat cell"),
    ("lammps", "energies in kJ/mol"), ("lammps", "energies in Hartree"), ("lammps", "energies of other frames"),
    ("lammps", "total energies"),
}  # fmt: skip


# --- What is right ---------------------------------------------------------------------------------------------------


def dataset_holds(run: Run, share: float = 0.0) -> Callable[[Path, str], bool]:
    """True if the frames of the data set are frames of the run, its velocities with them, and its cell and masses.

    ``share``: what a component may be off by, in units of its RMS, where a file has no checksums: a changed bit that
    is worth less than that, in one number, cannot be told from physics.
    """
    error_v = 1e-7 + share * float(np.sqrt(np.mean(run.velocities**2)))
    error_r = 1e-4 + share * float(np.sqrt(np.mean(np.diff(run.positions, axis=0) ** 2)))

    def right(folder: Path, printed: str) -> bool:
        with h5py.File(folder / "o.h5") as file:
            group: Any = file["groups/0"]
            parts = [group["runs"][name] for name in group["runs"]]
            good = np.allclose(group["masses"][()], run.masses) and sum(len(p["positions"]) for p in parts) > 50
            for part in parts:
                v = part["velocities"][()]
                i = int(np.argmin(np.sum((run.velocities - v[0]) ** 2, axis=(1, 2))))
                moved = part["positions"][()] - part["positions"][0]
                good &= np.allclose(v, run.velocities[i : i + len(v)], atol=error_v)
                good &= np.allclose(moved, run.positions[i : i + len(v)] - run.positions[i], atol=2 * error_r)
                good &= np.allclose(part["cells"][()], run.cell, atol=1e-5)
                good &= abs(part.attrs["interval_fs"] - INTERVAL) < 1e-9
        return bool(good)

    return right


def kelvin(run: Run) -> float:
    """The temperature of the internal motion."""
    moving = np.setdiff1d(np.arange(len(run.symbols)), run.fixed)
    v, freedom = run.velocities[:, moving], 3 * len(moving)
    if not run.fixed:
        v = v - (run.masses[:, None] * v).sum(1, keepdims=True) / run.masses.sum()
        freedom -= 3 if run.periodic else 6
    return float(np.mean(AMU * np.sum(run.masses[moving, None] * v**2, axis=(1, 2))) / freedom / KB)


def summary_has(**expected) -> Callable[[Path, str], bool]:
    """True if the JSON printed last has these values, within 0.1 %."""

    def right(folder: Path, printed: str) -> bool:
        found = json.loads(printed.strip().splitlines()[-1])
        return all(
            np.isclose(found[key], value, rtol=1e-3) if isinstance(value, float) else found[key] == value
            for key, value in expected.items()
        )

    return right


def dataset(path: Path, *options) -> list[Any]:
    return ["dataset", path, "--time-step", 20, "--out", path.parent / "o.h5", *options]


# --- Cases -----------------------------------------------------------------------------------------------------------


def of_frames(run: Run) -> Iterator[Case]:
    """Every damage of the frames in every format."""
    for (kind, (name, write, hints)), (damage, apply) in itertools.product(FORMATS.items(), (GOOD | BAD).items()):
        if (kind, damage) in IMPOSSIBLE:
            continue
        given = with_(run, energies=None) if kind == "lammps" else run

        def make(folder, name=name, write=write, hints=hints, apply=apply, run=run):
            write(folder / name, apply(run))
            return dataset(folder / name, *hints)

        sorted_by_id = given if damage == "ids in another order" else apply(given) if damage in GOOD else given
        right = dataset_holds(given if damage in ("wrapped", "ids in another order") else sorted_by_id)
        yield Case(f"dataset, {kind}: {damage}", make, right if damage in GOOD else None)


def of_analyses(run: Run) -> Iterator[Case]:
    """Temperatures by numpy, and what `analyze` must refuse, too."""
    fixed = lennard_jones(60, fixed=tuple(range(6)))
    moving = with_(run, positions=run.positions + 0.003 * run.times[:, None, None], velocities=run.velocities + 0.003)
    heavy = with_(run, masses=changed(run.masses, slice(0, 8), 79.9), energies=None)
    for name, given in (
        ("as it is", run),
        ("fixed atoms", fixed),
        ("moving as a whole", moving),
        ("two masses", heavy),
    ):
        right = summary_has(temperature_K=kelvin(given), n_frames=len(given.times))
        for kind in ("traj", "extxyz") if name == "two masses" else ("traj",):
            file, write, _ = FORMATS[kind]

            def make(folder, given=given, file=file, write=write):
                write(folder / file, given)
                return ["analyze", folder / file, "--out", folder / "o", "--json"]

            yield Case(f"analyze, {kind}: {name}", make, right)
    for damage in (
        "times 1000 times too large", "times 1000 times too small", "velocities in ASE's unit", "two atoms swapped",
        "a frame twice", "a frame lost", "overlapping restart", "energies in Hartree", "energies in kJ/mol",
        "total energies", "one atom", "three frames", "a position not a number", "times stand still",
    ):  # fmt: skip
        for kind in ("extxyz", "h5md"):
            file, write, _ = FORMATS[kind]

            def refuse(folder, damage=damage, file=file, write=write):
                write(folder / file, BAD[damage](run))
                return ["analyze", folder / file, "--out", folder / "o", "--json"]

            yield Case(f"analyze, {kind}: {damage}", refuse)


def of_molecules() -> Iterator[Case]:
    """Degrees of freedom of small molecules: temperatures by numpy from normal modes put in by hand."""
    times = 2.0 * np.arange(60)
    for name, symbols, sites, freedom in (
        ("diatomic", ("N", "N"), [[0, 0, 0], [1.1, 0, 0]], 1),
        ("linear triatomic", ("O", "C", "O"), [[-1.16, 0, 0], [0, 0, 0], [1.16, 0, 0]], 4),
        ("bent triatomic", ("H", "O", "H"), [[0.76, 0.59, 0], [0, 0, 0], [-0.76, 0.59, 0]], 3),
    ):
        masses, sites = ase.Atoms(symbols).get_masses(), np.array(sites, float)
        rng = np.random.default_rng(3)
        modes = rng.normal(size=(6, *sites.shape)) / np.sqrt(masses)[:, None]
        modes = np.array([_internal(masses, sites, mode) for mode in modes])
        omega, phase = rng.uniform(0.05, 0.12, 6), rng.uniform(0, 6, 6)
        if name != "bent triatomic":
            modes[..., 1:] = 0  # along the line
        waves = 0.02 * np.sin(omega * times[:, None] + phase), 0.02 * omega * np.cos(omega * times[:, None] + phase)
        positions, velocities = (np.einsum("tk,kax->tax", wave, modes) for wave in waves)
        value = np.mean(AMU * np.sum(masses[:, None] * velocities**2, axis=(1, 2))) / freedom / KB
        molecule = Run(sites + positions, velocities, times, None, np.eye(3), masses, symbols, periodic=False)

        def make(folder, molecule=molecule):
            write_extxyz(folder / "m.extxyz", molecule)
            return ["analyze", folder / "m.extxyz", "--out", folder / "o", "--json"]

        yield Case(f"analyze, molecule: {name}", make, summary_has(temperature_K=float(value)))
    rigid_water, expected = rigid_molecules()

    def analyze(folder):
        write_traj(folder / "w.traj", rigid_water)
        return ["analyze", folder / "w.traj", "--out", folder / "o", "--json"]

    def learn(folder):
        write_traj(folder / "w.traj", rigid_water)
        return ["dataset", folder / "w.traj", "--time-step", 4, "--out", folder / "o.h5"]

    yield Case("analyze, molecule: rigid water", analyze, summary_has(temperature_K=expected))
    yield Case("dataset, molecule: rigid water", learn)


def _internal(masses, sites, mode):
    """A mode without translation and rotation."""
    mode = mode - masses @ mode / masses.sum()
    relative = sites - masses @ sites / masses.sum()
    inertia = np.sum(masses * np.sum(relative**2, 1)) * np.eye(3) - (masses[:, None] * relative).T @ relative
    spin = np.linalg.pinv(inertia, rcond=1e-6) @ np.sum(masses[:, None] * np.cross(relative, mode), 0)
    return mode - np.cross(spin, relative)


def rigid_molecules() -> tuple[Run, float]:
    """Rigid water molecules that fly and spin freely, and their temperature: six degrees of freedom each, three less."""
    from scipy.spatial.transform import Rotation

    rng, n = np.random.default_rng(4), 8
    shape = np.array([[0, 0, 0], [0.8165, 0.5774, 0], [-0.8165, 0.5774, 0]])
    masses = np.array([15.999, 1.008, 1.008])
    shape = shape - masses @ shape / masses.sum()
    centres = 5.0 * np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3)
    drift = 0.003 * rng.normal(size=(n, 3))
    drift -= drift.mean(0)
    axes = np.tile([[0, 1.0, 0]], (n, 1)) * rng.uniform(0.02, 0.04, n)[:, None]  # about a principal axis: torque-free
    first = Rotation.random(n, random_state=5)
    times, positions, velocities = 2.0 * np.arange(60), [], []
    for t in times:
        turn = [first[i] * Rotation.from_rotvec(axes[i] * t) for i in range(n)]
        atoms = np.array([turn[i].apply(shape) for i in range(n)])
        spin = np.array([first[i].apply(axes[i]) for i in range(n)])
        positions.append(atoms + (centres + drift * t)[:, None])
        velocities.append(np.cross(spin[:, None], atoms) + drift[:, None])
    positions, velocities = (np.array(x).reshape(len(times), 3 * n, 3) for x in (positions, velocities))
    every = np.tile(masses, n)
    value = np.mean(AMU * np.sum(every[:, None] * velocities**2, axis=(1, 2))) / (6 * n - 3) / KB
    return Run(positions, velocities, times, None, 10.0 * np.eye(3), every, ("O", "H", "H") * n), float(value)


def of_texts(run: Run) -> Iterator[Case]:
    """Text files as editors, file systems and other programs leave them."""
    for kind in ("extxyz", "lammps"):
        file, write, hints = FORMATS[kind]
        given = with_(run, energies=None)
        texts: dict[str, tuple[Callable[[str], str | bytes], bool | None]] = {
            "blank lines at the end": (lambda text: text + "\n\n", True),
            "carriage returns": (lambda text: text.replace("\n", "\r\n").encode(), True),
            "byte-order mark": (lambda text: b"\xef\xbb\xbf" + text.encode(), True),
            "empty": (lambda text: "", None),
            "garbage": (lambda text: "not a trajectory\n" * 40, None),
            "binary": (lambda text: bytes(range(256)) * 20, None),
            "a line of numbers lost": (lambda text: "\n".join(text.splitlines()[:40] + text.splitlines()[41:]), None),
            "a word instead of a number": (lambda text: text.replace(text.splitlines()[15].split()[4], "oops"), None),
            "Fortran exponents": (lambda text: text.replace("e-0", "D-0"), None),
            "commas for points": (lambda text: text.replace(".", ","), None),
            "an unknown element": (lambda text: text.replace("Ar ", "Qq "), None),
            "another element in one frame": (lambda text: text[: len(text) // 2] + text[len(text) // 2 :].replace("Ar ", "Kr ", 1), None),
            "number of atoms wrong": (lambda text: text.replace("\n16\n", "\n17\n").replace("16\nLattice", "17\nLattice"), None),
        }  # fmt: skip
        for name, (damage, good) in texts.items():

            def make(folder, file=file, write=write, hints=hints, damage=damage, given=given):
                write(folder / file, given)
                text = damage((folder / file).read_text())
                (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
                return dataset(folder / file, *hints)

            yield Case(f"dataset, {kind}, text: {name}", make, dataset_holds(given) if good or name == "Fortran exponents" else None,
                       either=name == "Fortran exponents")  # fmt: skip
    for ending, packed in (("gz", "gzip"), ("bz2", "bz2"), ("xz", "lzma")):
        for cut in (False, True):

            def make(folder, ending=ending, packed=packed, cut=cut):
                import importlib

                write_extxyz(folder / "run.extxyz", run)
                content = importlib.import_module(packed).compress((folder / "run.extxyz").read_bytes())
                (folder / "run.extxyz").unlink()
                (folder / f"run.extxyz.{ending}").write_bytes(content[: len(content) // 2] if cut else content)
                return dataset(folder / f"run.extxyz.{ending}")

            yield Case(f"dataset, {ending}: {'cut' if cut else 'whole'}", make, None if cut else dataset_holds(run))
    for name in ("with spaces", "Größe Δt ångström", "run.h5.extxyz", "-1.extxyz"):

        def make(folder, name=name):
            inside = folder / name
            inside.mkdir()
            write_extxyz(inside / "run.extxyz", run)
            (folder / "link.extxyz").symlink_to(inside / "run.extxyz")
            return dataset(folder / "link.extxyz") if name[0] == "-" else [
                "dataset", inside / "run.extxyz", "--time-step", 20, "--out", folder / "o.h5"
            ]  # fmt: skip

        yield Case(f"dataset, name: {name}", make, dataset_holds(run))


def of_xyz(run: Run) -> Iterator[Case]:
    """Positions alone, with the comment lines of CP2K and i-PI."""
    inside = run.take(slice(1, -1))

    def cp2k(folder, positions=run.positions, times=run.times, more=()):
        lines = []
        for i, frame in enumerate(positions):
            lines += ["16", f" i = {i:8d}, time = {times[i]:12.3f}, E = {run.energies[i] / 27.211386:20.10f}"]
            lines += [" Ar " + " ".join(f"{x:.8f}" for x in atom) for atom in frame]
        (folder / "run-pos-1.xyz").write_text("\n".join(lines) + "\n")
        return dataset(folder / "run-pos-1.xyz", "--velocities", "central-difference", *more)

    def ipi(folder, unit="angstrom", what="positions", steps=None, hints=("--frame-interval-fs", 10)):
        scale = {"angstrom": 1.0, "atomic_unit": 1 / 0.529177210903}.get(unit, 1.0)
        lines = []
        for i, frame in enumerate(run.positions):
            edge = f"{10.8 * scale:.5f}"
            step = 5 * i if steps is None else steps[i]
            lines += ["16", f"# CELL(abcABC): {edge} {edge} {edge} 90.00000 90.00000 90.00000 Step: {step} Bead: 0 "
                            f"{what}{{{unit}}} cell{{{unit}}}"]  # fmt: skip
            lines += ["Ar " + " ".join(f"{x * scale:.8f}" for x in atom) for atom in frame]
        (folder / "run.xyz").write_text("\n".join(lines) + "\n")
        return dataset(folder / "run.xyz", "--velocities", "central-difference", *hints)

    def near(cell):
        def right(folder, printed):
            with h5py.File(folder / "o.h5") as file:
                part = file["groups/0/runs/0"]
                v = part["velocities"][()]
                same = np.sqrt(np.mean((v - inside.velocities[: len(v)]) ** 2) / np.mean(v**2)) < 0.02
                return bool(same and (not cell or np.allclose(part["cells"][0], run.cell, atol=1e-3)))

        return right

    def noted(folder, printed):
        return near(False)(folder, printed) and "no cell was found" in printed

    yield Case("dataset, cp2k: positions", cp2k, noted)
    yield Case("dataset, cp2k: wrapped", lambda folder: cp2k(folder, run.positions % 10.8))
    yield Case("dataset, cp2k: a frame lost", lambda folder: cp2k(
        folder, np.delete(run.positions, 50, 0), np.delete(run.times, 50)))  # fmt: skip
    yield Case("dataset, cp2k: a frame twice", lambda folder: cp2k(
        folder, run.positions[np.sort([*range(119), 50])]))  # fmt: skip
    yield Case("dataset, cp2k: another interval", lambda folder: cp2k(folder, more=("--frame-interval-fs", 5)))
    yield Case("dataset, i-PI: ångström", ipi, near(True))
    yield Case("dataset, i-PI: bohr", lambda folder: ipi(folder, "atomic_unit"), near(True))
    yield Case("dataset, i-PI: unknown unit", lambda folder: ipi(folder, "furlong"))
    yield Case("dataset, i-PI: velocities", lambda folder: ipi(folder, what="velocities"))
    yield Case("dataset, i-PI: without interval", lambda folder: ipi(folder, hints=()))
    lost = [5 * i + (5 if i > 50 else 0) for i in range(120)]
    yield Case("dataset, i-PI: a step lost", lambda folder: ipi(folder, steps=lost))


def of_truncations(run: Run) -> Iterator[Case]:
    """Files that end too early: refused, or, of text that ends with a frame, what is there."""
    rng = np.random.default_rng(6)
    for kind, (file, write, hints) in FORMATS.items():
        for share in (0.001, 0.1, 0.5, 0.9, 0.999):

            def make(folder, file=file, write=write, hints=hints, share=share):
                write(folder / file, run)
                content = (folder / file).read_bytes()
                (folder / file).write_bytes(content[: int(share * len(content))])
                return dataset(folder / file, *hints)

            yield Case(f"dataset, {kind}: cut at {share:.1%}", make)
    for kind, n_flips in (("ours", 24), ("h5md", 12), ("traj", 8)):
        file, write, hints = FORMATS[kind]
        for i in range(n_flips):

            def make(folder, file=file, write=write, place=rng.random(), bit=int(rng.integers(8))):
                write(folder / file, with_(run, energies=run.energies))
                _flip(folder / file, place, bit)
                return dataset(folder / file)

            right = dataset_holds(run, 0.0 if kind == "ours" else 0.6)
            yield Case(f"dataset, {kind}: bit {i} flipped", make, right, either=True)


def _flip(path: Path, place: float, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(bytes(content))


def of_options(run: Run) -> Iterator[Case]:
    """Options that make no sense, or contradict the file."""

    def with_options(*options, kind="extxyz", timed=True):
        def make(folder):
            file, write, hints = FORMATS[kind]
            write(folder / file, with_(run, timed=timed))
            return ["dataset", folder / file, *hints, "--out", folder / "o.h5", *options]

        return make

    step = ("--time-step", 20)
    for name, make in {
        "no Δt": with_options(),
        "Δt zero": with_options("--time-step", 0),
        "Δt negative": with_options("--time-step", -20),
        "Δt not a number": with_options("--time-step", "nan"),
        "Δt infinite": with_options("--time-step", "inf"),
        "Δt no multiple": with_options("--time-step", 15),
        "Δt longer than the run": with_options("--time-step", 100_000),
        "stride no multiple": with_options(*step, "--stride-fs", 7),
        "stride negative": with_options(*step, "--stride-fs", -10),
        "no training pairs": with_options(*step, "--train-pairs", 0),
        "negative test pairs": with_options(*step, "--test-pairs", -1),
        "an interval that the file contradicts": with_options(*step, "--frame-interval-fs", 5),
        "no times": with_options(*step, timed=False),
        "interval zero": with_options(*step, "--frame-interval-fs", 0, timed=False),
        "interval negative": with_options(*step, "--frame-interval-fs", -10, timed=False),
        "interval not a number": with_options(*step, "--frame-interval-fs", "nan", timed=False),
        "interval ten times too long": with_options("--time-step", 200, "--frame-interval-fs", 100, timed=False),
        "unknown LAMMPS units": with_options(*step, "--lammps-units", "si"),
        "LAMMPS units real for metal": with_options(*step, "--lammps-units", "real", kind="lammps"),
        "a topology that is not there": with_options(*step, "--topology", "nothing.pdb"),
        "unknown option": with_options(*step, "--no-such-option"),
        "unknown velocities": with_options(*step, "--velocities", "guess"),
    }.items():
        yield Case(f"dataset, options: {name}", make)

    def onto(folder):
        write_extxyz(folder / "run.extxyz", run)
        return ["dataset", folder / "run.extxyz", *step, "--out", folder / "run.extxyz", "--overwrite"]

    def linked(folder):
        write_extxyz(folder / "run.extxyz", run)
        (folder / "link.extxyz").symlink_to(folder / "run.extxyz")
        return ["dataset", folder / "run.extxyz", *step, "--out", folder / "link.extxyz", "--overwrite"]

    def exists(folder):
        write_extxyz(folder / "run.extxyz", run)
        (folder / "o.h5").write_text("mine")
        return ["dataset", folder / "run.extxyz", *step, "--out", folder / "o.h5"]

    def two(folder):
        write_extxyz(folder / "a.extxyz", run)
        write_extxyz(folder / "b.extxyz", with_(run, symbols=("Kr",) * 16))
        return ["dataset", folder / "a.extxyz", folder / "b.extxyz", *step, "--out", folder / "o.h5"]

    yield Case("dataset, files: out is the input", onto)
    yield Case("dataset, files: out is a link to the input", linked)
    yield Case("dataset, files: out exists", exists)
    yield Case("dataset, files: two systems", two, lambda folder, printed: "2 systems" in printed)
    yield Case("dataset, files: missing", lambda folder: dataset(folder / "none.h5"))
    yield Case("dataset, files: a folder", lambda folder: dataset(folder))
    yield Case("dataset, files: out in no folder", lambda folder: (
        write_extxyz(folder / "run.extxyz", run),
        ["dataset", folder / "run.extxyz", *step, "--out", folder / "none" / "o.h5"])[1])  # fmt: skip

    def frames(folder):
        for i in range(60):
            write_lammps(folder / f"frame.{i}.lammpstrj", run.take(slice(i, i + 1)))
        files = sorted(folder.glob("frame.*"))
        return ["dataset", *files, *step, "--out", folder / "o.h5", *FORMATS["lammps"][2]]

    yield Case("dataset, files: a frame each", frames, dataset_holds(run.take(slice(0, 60))))


def of_info(run: Run) -> Iterator[Case]:
    for kind, (file, write, hints) in FORMATS.items():
        for timed in (True, False) if kind in ("traj", "extxyz") else (True,):

            def make(folder, file=file, write=write, hints=hints, timed=timed):
                write(folder / file, with_(run, timed=timed))
                return ["info", folder / file, "--json", *hints]

            right = summary_has(n_frames=120, n_atoms=16, elements="Ar", frame_interval_fs=INTERVAL if timed else None)
            yield Case(f"info, {kind}{'' if timed else ', without times'}", make, right)
    for name, content in (
        ("empty", b""),
        ("garbage", b"\x00garbage" * 99),
        ("json", b"{}"),
        ("hdf5 head", b"\x89HDF\r\n\x1a\n"),
    ):

        def damaged(folder, content=content):
            (folder / "file.h5").write_bytes(content)
            return ["info", folder / "file.h5"]

        yield Case(f"info, {name}", damaged)
    yield Case("info, missing", lambda folder: ["info", folder / "none"])


def of_models(run: Run, model: Path, data: Path) -> Iterator[Case]:
    """Damaged models, and runs of good ones from starts that they are not for."""

    def damaged(damage, command="info"):
        def make(folder):
            shutil.copytree(model, folder / "model")
            damage(folder / "model")
            write_traj(folder / "start.traj", run)
            out = ["--start", folder / "start.traj", "--out", folder / "o.h5", "--steps", 2, "--temperature", 60]
            return {"info": ["info", folder / "model", "--json"], "rollout": ["rollout", folder / "model", *out],
                    "evaluate": ["evaluate", folder / "model", folder / "start.traj", "--json"]}[command]  # fmt: skip

        return make

    def edited(**changes):
        def damage(folder):
            config = json.loads((folder / "config.json").read_text())
            for key, value in changes.items():
                if value is None:
                    config.pop(key, None)
                else:
                    config[key] = value
            (folder / "config.json").write_text(json.dumps(config))

        return damage

    for name, damage in {
        "no config.json": lambda folder: (folder / "config.json").unlink(),
        "no weights": lambda folder: (folder / "weights.npz").unlink(),
        "config.json empty": lambda folder: (folder / "config.json").write_text(""),
        "config.json not JSON": lambda folder: (folder / "config.json").write_text("{elements: [18]"),
        "config.json a list": lambda folder: (folder / "config.json").write_text("[1, 2]"),
        "config.json binary": lambda folder: (folder / "config.json").write_bytes(bytes(range(256))),
        "no elements": edited(elements=None),
        "elements a word": edited(elements="Ar"),
        "elements twice": edited(elements=[18, 18]),
        "elements descending": edited(elements=[18, 8], masses=[39.9, 16.0]),
        "no masses": edited(masses=None),
        "masses not numbers": edited(masses=["heavy"]),
        "Δt negative": edited(time_step_fs=-20.0),
        "Δt a word": edited(time_step_fs="twenty"),
        "scale zero": edited(displacement_rms=0.0),
        "an unknown entry": edited(colour="blue"),
        "another format": edited(format="ffmd_jax model 9"),
        "weights empty": lambda folder: (folder / "weights.npz").write_bytes(b""),
        "weights cut": lambda folder: (folder / "weights.npz").write_bytes(
            (folder / "weights.npz").read_bytes()[:5000]
        ),
        "weights text": lambda folder: (folder / "weights.npz").write_text("weights"),
        "weights of another model": lambda folder: np.savez(folder / "weights.npz", w=np.zeros(3)),
    }.items():
        yield Case(f"info, model: {name}", damaged(damage))
    rng = np.random.default_rng(8)
    good: dict[str, float] = {}

    def same_errors(folder, printed):
        return bool(np.isclose(json.loads(printed.splitlines()[-1])["velocity_mae_A_per_fs"], good["v"], rtol=1e-6))

    def remember(folder, printed):
        good["v"] = json.loads(printed.splitlines()[-1])["velocity_mae_A_per_fs"]
        return good["v"] > 0

    yield Case("evaluate, model: as it is", damaged(lambda folder: None, "evaluate"), remember)
    for i in range(16):
        place, bit = rng.random(), int(rng.integers(8))
        damage = lambda folder, place=place, bit=bit: _flip(folder / "weights.npz", place, bit)  # noqa: E731
        yield Case(
            f"evaluate, model: bit {i} of the weights flipped", damaged(damage, "evaluate"), same_errors, either=True
        )

    def rollout(start, *options):
        def make(folder):
            write_traj(folder / "start.traj", start)
            out = folder / "o.h5"
            return ["rollout", model, "--start", folder / "start.traj", "--out", out, "--steps", 4,
                    "--on-alarm", "warn", *(options or ("--temperature", 60))]  # fmt: skip

        return make

    def runs(folder, printed):
        with h5py.File(folder / "o.h5") as file:
            return bool(np.isfinite(file["particles/all/position/value"][()]).all())

    yield Case("rollout: as it is", rollout(run), runs)

    def alarmed(folder, printed):
        return runs(folder, printed) and "alarm" in printed and "no alarms" not in printed

    for name, start in {
        "two atoms in one place": with_(run, positions=changed(run.positions, (-1, 1), run.positions[-1, 0] + 0.1)),
        "velocities of many kelvins": with_(run, velocities=6 * run.velocities),
    }.items():
        yield Case(f"rollout: {name}", rollout(start), alarmed, either=True)
    for name, make in {
        "other elements": rollout(with_(run, symbols=("Kr",) * 16)),
        "other masses": rollout(with_(run, masses=1.2 * run.masses)),
        "fixed atoms": rollout(with_(run, fixed=(0, 1))),
        "one atom, a thermostat": rollout(BAD["one atom"](run)),
        "a position not a number": rollout(with_(run, positions=changed(run.positions, (-1, 1, 0), np.nan))),
        "a velocity infinite": rollout(with_(run, velocities=changed(run.velocities, (-1, 1, 0), np.inf))),
        "temperature negative": rollout(run, "--temperature", -5),
        "temperature not a number": rollout(run, "--temperature", "nan"),
        "relaxation time zero": rollout(run, "--tau-fs", 0),
        "relaxation time negative": rollout(run, "--tau-fs", -10),
        "friction without thermostat": rollout(run, "--ensemble", "nve", "--friction-tau-fs", 100),
        "no steps": rollout(run, "--steps", 0),
        "negative steps": rollout(run, "--steps", -4),
        "steps no multiple": rollout(run, "--every", 3),
        "every zero": rollout(run, "--every", 0),
        "negative replicas": rollout(run, "--replicas", -1),
        "more devices than there are": rollout(run, "--replicas", 2, "--devices", 99),
        "more devices than there are for one system": rollout(run, "--devices", 99),
        "no devices": rollout(run, "--devices", 0),
        "unknown fallback": rollout(run, "--fallback", "none"),
        "temperatures without replicas": rollout(run, "--replica-temperatures", 60, 70),
    }.items():
        yield Case(f"rollout: {name}", make)
    yield Case("rollout: one atom, nve", rollout(BAD["one atom"](run), "--ensemble", "nve"), runs)
    yield Case("rollout: no such start", lambda folder: [
        "rollout", model, "--start", folder / "none.xyz", "--out", folder / "o.h5", "--steps", 2])  # fmt: skip
    yield Case("rollout: no such model", lambda folder: (
        write_traj(folder / "s.traj", run),
        ["rollout", folder / "none", "--start", folder / "s.traj", "--out", folder / "o.h5", "--steps", 2])[1])  # fmt: skip
    yield Case("rollout: out is the start", lambda folder: (
        write_traj(folder / "s.traj", run),
        ["rollout", model, "--start", folder / "s.traj", "--out", folder / "s.traj", "--steps", 2, "--overwrite"])[1])  # fmt: skip

    def train(*options, damage=lambda path: None, out="new"):
        def make(folder):
            shutil.copy(data, folder / "data.h5")
            damage(folder / "data.h5")
            return ["train", folder / "data.h5", "--out", folder / out, "--epochs", 1, *options]

        return make

    for name, make in {
        "out is the data": train("--overwrite", out="data.h5"),
        "out holds the data": train("--overwrite", out="."),
        "no epochs": train("--epochs", 0),
        "batch size zero": train("--batch-size", 0),
        "rate negative": train("--learning-rate", -1),
        "rate not a number": train("--learning-rate", "nan"),
        "cutoff negative": train("--config.cutoff", -1),
        "no channels": train("--config.channels", 0),
        "another Δt that frames cannot give": train("--time-step", 15),
        "no such start model": train("--init", "nowhere"),
        "sizes that the start model does not have": train("--init", model, "--config.channels", 5),
        "nothing to resume": train("--resume"),
        "data cut": train(damage=lambda path: path.write_bytes(path.read_bytes()[:20_000])),
        "data empty": train(damage=lambda path: path.write_bytes(b"")),
        "data a trajectory": train(damage=lambda path: write_ours(path.parent / "x.h5", run) or os.replace(path.parent / "x.h5", path)),
    }.items():  # fmt: skip
        yield Case(f"train: {name}", make)
    for i in range(24):
        place, bit = rng.random(), int(rng.integers(8))

        def flipped(folder, place=place, bit=bit):
            shutil.copy(data, folder / "data.h5")
            _flip(folder / "data.h5", place, bit)
            return ["evaluate", model, folder / "data.h5", "--json"]

        def as_before(folder, printed):
            return bool(
                np.isclose(json.loads(printed.splitlines()[-1])["velocity_mae_A_per_fs"], good["data"], rtol=1e-6)
            )

        yield Case(f"evaluate, data: bit {i} flipped", flipped, as_before, either=True)
        if i == 0:
            good["data"] = _error_of(model, data)


def _error_of(model: Path, data: Path) -> float:
    from ffmd_jax import api

    return api.evaluate(model, data).as_dict()["velocity_mae_A_per_fs"]


def of_others(run: Run) -> Iterator[Case]:
    """The other commands."""

    def energy(start, system="argon"):
        def make(folder):
            write_traj(folder / "s.traj", start)
            return ["energy", system, folder / "s.traj", "--json"]

        return make

    far = with_(BAD["one atom"](run), cell=30.0 * np.eye(3))
    yield Case("energy: no neighbours", energy(far), summary_has(energy_eV=0.0))
    yield Case("energy: unknown system", energy(run, "cheese"))
    yield Case("energy: other elements", energy(with_(run, symbols=("Kr",) * 16)))
    yield Case("energy: not a number", energy(with_(run, positions=run.positions * np.nan)))
    yield Case("energy: no file", lambda folder: ["energy", "argon", folder / "none.xyz"])
    for name, arguments in {
        "unknown system": ["cheese"], "negative length": ["argon", "--length-ps", -1], "no length": ["argon", "--length-ps", 0],
        "frame interval no multiple": ["argon", "--frame-fs", 0.3, "--length-ps", 0.01],
        "negative temperature": ["argon", "--temperature", -10], "temperature not a number": ["argon", "--temperature", "nan"],
        "a seed too large": ["argon", "--frame-fs", 8, "--length-ps", 0.1, "--seed", 10**20],
        "more atoms than memory": ["argon", "--frame-fs", 8, "--repeat", 1500, 1500, 1500],
        "no runs": ["argon", "--runs", 0], "no calculator": ["ase"], "calculator that is not there": [
            "ase", "--calculator", "nothing:Here", "--start", "none.xyz"],
        "cell too small": ["argon", "--repeat", 0, 1, 1],
    }.items():  # fmt: skip
        yield Case(f"reference: {name}", lambda folder, arguments=arguments: [
            "reference", *arguments, "--out", folder / "o.h5"])  # fmt: skip
    for name, content in (("not YAML", "model: ["), ("empty", ""), ("other keys", '{"model": {"a": 1}}')):

        def convert(folder, content=content):
            (folder / "c.json").write_text(content)
            np.savez(folder / "w.npz", a=np.zeros(2))
            return ["import-trajcast", "--config", folder / "c.json", "--weights", folder / "w.npz", "--elements", "Ar",
                    "--time-step", 5, "--out", folder / "o"]  # fmt: skip

        yield Case(f"import-trajcast: {name}", convert)
    yield Case(
        "export-trajcast: no such model", lambda folder: ["export-trajcast", folder / "m", "--out", folder / "o.npz"]
    )
    yield Case("no command", lambda folder: ["frobnicate"])

    def compared(other):
        def make(folder):
            write_traj(folder / "a.traj", run)
            write_traj(folder / "b.traj", other)
            return ["analyze", folder / "a.traj", "--reference", folder / "b.traj", "--out", folder / "o", "--json"]

        return make

    def no_structure(folder, printed):
        return json.loads(printed.strip().splitlines()[-1])["rdf_rmse"] is None

    yield Case("analyze: reference of other elements", compared(with_(run, symbols=("Kr",) * 16)))
    yield Case("analyze: reference of another boundary", compared(with_(run, periodic=False)), no_structure)
    yield Case("analyze: no such reference", lambda folder: (
        write_traj(folder / "a.traj", run),
        ["analyze", folder / "a.traj", "--reference", folder / "b.traj", "--out", folder / "o"])[1])  # fmt: skip
    yield Case("analyze: unknown force field", lambda folder: (
        write_traj(folder / "a.traj", run),
        ["analyze", folder / "a.traj", "--force-field", "cheese", "--out", folder / "o"])[1])  # fmt: skip


def cases(model: Path, data: Path) -> list[Case]:
    run = lennard_jones()
    return [
        *of_frames(run), *of_analyses(run), *of_molecules(), *of_texts(run), *of_xyz(run), *of_truncations(run),
        *of_options(run), *of_info(run), *of_models(run, model, data), *of_others(run),
    ]  # fmt: skip


# --- Running them ----------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, str]:
    """Digests of all files of a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check(case: Case, folder: Path) -> dict[str, Any]:
    """Runs a case: what happened, and the faults that it shows."""
    from ffmd_jax import __main__ as entry

    command = [str(word) for word in case.make(folder)]
    before, out, err = contents(folder), io.StringIO(), io.StringIO()
    code, faults = 0, []
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            entry.main(command)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            code = -1
            err.write(traceback.format_exc())
    printed, errors = out.getvalue(), err.getvalue()
    lines = [line for line in errors.splitlines() if line.startswith("ffmd: ")]
    after = contents(folder)
    if any(after.get(name) != digest for name, digest in before.items()):
        faults.append("an input was changed")
    if "Traceback" in errors or "unexpected" in errors or code == -1:
        faults.append("a traceback, or something unexpected")
    if code == 0:
        if case.right is None:
            faults.append("accepted in silence")
        else:
            try:
                right = case.right(
                    folder, printed + "\n".join(["", *errors.splitlines()]) if "{" not in printed else printed
                )
            except Exception as error:
                right = False
                faults.append(f"{type(error).__name__}: {error}")
            if not right:
                faults.append("a wrong result")
    else:
        if case.right is not None and not case.either:
            faults.append("refused")
        if code not in (1, 2, 3):
            faults.append(f"exit code {code}")
        if code == 1 and len(lines) != 1:
            faults.append(f"{len(lines)} lines of error")
        if code != 3 and set(after) - set(before):
            faults.append(f"left behind: {', '.join(sorted(set(after) - set(before)))}")
    said = lines[-1] if lines else errors.strip().splitlines()[-1:] or ""
    return {"case": case.name, "code": code, "faults": faults, "said": str(said)[:300]}


def prepared(folder: Path) -> tuple[Path, Path]:
    """A model and a data set for the cases that need them."""
    from ffmd_jax import __main__ as entry

    run = lennard_jones()
    folder.mkdir(parents=True, exist_ok=True)
    write_traj(folder / "run.traj", run)
    sizes = ["--config.cutoff", "5", "--config.lmax", "1", "--config.channels", "4", "--config.layers", "1"]
    sizes += ["--config.radial-hidden", "4", "--config.speed-hidden", "4"]
    for command in (
        ["dataset", folder / "run.traj", "--time-step", 20, "--out", folder / "data.h5"],
        ["train", folder / "data.h5", "--out", folder / "model", "--epochs", 1, "--batch-size", 8, *sizes],
    ):
        with contextlib.redirect_stdout(sys.stderr):
            entry.main([str(word) for word in command])
    return folder / "model", folder / "data.h5"


def main(folder: Path, word: str = "") -> None:
    found = []
    for i, case in enumerate(cases(*prepared(folder / "prepared"))):
        if word in case.name or case.name == "evaluate, model: as it is":
            place = folder / f"{i:03d}"
            place.mkdir()
            print(json.dumps({"case": case.name, "begins": True}), flush=True)
            found.append(check(case, place))
            print(json.dumps(found[-1]), flush=True)
            shutil.rmtree(place)
    print(json.dumps({
        "inputs": len(found), "refused": sum(one["code"] != 0 for one in found),
        "accepted": sum(one["code"] == 0 for one in found), "faults": sum(bool(one["faults"]) for one in found),
    }))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
