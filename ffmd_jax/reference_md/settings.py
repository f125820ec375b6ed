"""What determines a set of reference runs: a frozen dataclass, stored with every file."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Settings:
    """What determines the trajectories.

    Attributes:
        ensemble: nve, nvt with a CSVR thermostat, or npt with a Monte Carlo barostat, too (not ase).
        pressure_bar: Pressure of npt, bar.
        coupling: What a move of the volume changes in npt: isotropic: all lattice vectors alike; anisotropic: one at a
            time, for crystals.
        temperature: Temperature of the start states, of nvt and npt, K.
        length_ps: Length of each production run, ps.
        frame_fs: Interval of the stored frames, fs; a multiple of the time step.
        runs: Independent production runs; more than one writes ref_0.h5, ref_1.h5, … for --out ref.h5.
        spacing_ps: Smallest time between two start states in the run that they are taken from, ps.
        equilibrate_ps: Equilibration before the first start state, ps.
        equilibrate_with: Heat bath of equilibration and start states, τ = 100 fs.
        tau_fs: Relaxation time of the thermostat in nvt, fs.
        friction_tau_fs: Relaxation time 1/γ of Langevin friction and noise besides, in nvt, fs, as of ffmd rollout.
        friction_above_per_cm: Let it act on motions above about this wavenumber, cm⁻¹, as of ffmd rollout.
        dt: Time step of the integrator, fs (None: the system's; quartz, silicon 1, water, paracetamol 0.5, argon 4;
            ase 0.5 with hydrogen, else 1).
        repeat: Unit cells along each lattice vector (None: quartz 3 3 2, silicon 3 3 3, argon 3 3 3).
        molecules: Molecules of water (None: 64).
        calculator: ase: gfn2-xtb, mmff94, ani-1ccx, sevennet-0, chgnet, amber-obc (if installed), module:Class, or
            module:function that returns a calculator.
        calculator_args: ase: its arguments, key=value,key=value.
        start: ase: structure to start from, any file that ASE reads; its cell and periodic directions are kept.
        forces: Store forces, and the stress of crystals and liquids, for potentials to be trained on.
        volumes: One set of runs at each of these volumes, relative to that of the structure (ref_v0.97.h5 …): for
            potentials and propagators that are to be used at constant pressure.
        seed: Seed of velocities and thermostats.
    """

    ensemble: Literal["nve", "nvt", "npt"] = "nve"
    pressure_bar: float = 1.0
    coupling: Literal["isotropic", "anisotropic"] = "isotropic"
    temperature: Annotated[float, tyro.conf.arg(metavar="K")] = 300.0
    length_ps: float = 20.0
    frame_fs: float = 10.0
    runs: int = 1
    spacing_ps: float = 1.0
    equilibrate_ps: float = 5.0
    equilibrate_with: Literal["langevin", "csvr"] = "langevin"
    tau_fs: float = 100.0
    friction_tau_fs: float | None = None
    friction_above_per_cm: float | None = None
    dt: float | None = None
    repeat: tuple[int, int, int] | None = None
    molecules: int | None = None
    calculator: str | None = None
    calculator_args: str = ""
    start: Path | None = None
    forces: bool = False
    volumes: tuple[float, ...] | None = None
    seed: int = 0
