"""Force-free MD as an ASE `MolecularDynamics`, and trained potentials as ASE calculators.

The dynamics run, attach, write trajectory and logfile as usual, and need no calculator.
"""

import functools
from pathlib import Path
from typing import IO, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.md.md import MolecularDynamics
from ase.parallel import world
from ase.utils import IOContext

from ffmd_jax.core import mechanics, neighbors, units
from ffmd_jax.core.state import State, System, cast
from ffmd_jax.dynamics import alarms, monitors
from ffmd_jax.dynamics.engine import AHEAD, Engine
from ffmd_jax.dynamics.ensemble import NVE, Ensemble
from ffmd_jax.formats import ase_files
from ffmd_jax.models import model as models
from ffmd_jax.models import model_files
from ffmd_jax.models import potential as potential_models
from ffmd_jax.models.model import Model
from ffmd_jax.reference_md import potentials


class ForceFreeDynamics(MolecularDynamics):
    """Steps ``atoms`` by the Δt of a model.

    Energies and forces are neither needed nor there: a calculator, if the atoms have one, is not called, except by what
    the user attaches.  Positions and momenta that were changed between two steps are taken as they are.  Momenta start
    as those of ``atoms``; `ase.md.velocitydistribution` draws them.

        from ffmd_jax import NVT

        dynamics = ForceFreeDynamics(atoms, "quartz", NVT(300), trajectory="run.traj", logfile="-")
        dynamics.run(1000)

    Args:
        atoms: of the model's elements; without constraints.
        model: from `ffmd_jax.load`, or a folder, or the name of a shipped model.
        ensemble: NVE(), NVT(…) of constant temperature, or NPT(…), which changes the cell of ``atoms``.
        reversible: time-symmetrised steps; as of ``ffmd rollout``.
        potential: for energy conservation and NPT: as of `ffmd_jax.simulate`; None: the model's own, if it has one.
        energy_conservation: with a potential, velocities are scaled so that a step leaves the total energy as it is.
        seed: of the thermostat.
        on_alarm: "stop" raises where a monitor alarms, before atoms are moved; "ignore" goes on, and `alarms` tells.
        trajectory: as in ASE.
        logfile: as in ASE; it has time, kinetic energy and temperature, which counts the degrees of freedom that are
            left without the total momenta.
        loginterval: as in ASE.

    Raises:
        ValueError: atoms that the model is not for, or with constraints.
        monitors.Stopped: in a step: an alarm.
    """

    def __init__(
        self,
        atoms: Atoms,
        model: Model | str | Path,
        ensemble: Ensemble = NVE(),
        *,
        reversible: bool = False,
        potential: Model | str | Path | None = None,
        energy_conservation: bool = True,
        seed: int = 0,
        on_alarm: Literal["stop", "ignore"] = "stop",
        trajectory: Any = None,
        logfile: IO | str | None = None,
        loginterval: int = 1,
        **kwargs: Any,
    ):
        if getattr(ensemble, "end_K", None) is not None:
            raise ValueError("ASE runs have no length: the ensemble must have a constant temperature")
        used = model if isinstance(model, Model) else model_files.load(model)
        used = models.at(used, None)
        self._config = used.config
        self._system, state = ase_files.from_atoms(atoms)
        models.check_system(used.config, self._system, used.calibration)
        once = models.propagator(used)
        limits = monitors.limits(used.config, used.calibration, self._system, ensemble)
        found = potentials.find(potential, used, self._system, state, ensemble, jnp.float32)
        self._engine = Engine(
            self._system, cast(state, jnp.float32), models.propagator(used, reversible=True) if reversible else once,
            cutoff=used.config.architecture.cutoff, time_step_fs=used.config.time_step_fs, ensemble=ensemble,
            monitor=alarms.monitor(once, limits, halt=on_alarm == "stop"), block_steps=1, select=True, wrap=True,
            potential=found, conserve_energy=found is not None and energy_conservation,
            ahead=AHEAD * used.config.displacement_rms,
        )  # fmt: skip
        interval = used.config.time_step_fs
        self._key, self._carry, self._last = jax.random.key(seed), None, state
        super().__init__(atoms, interval / units.ASE_TIME, trajectory=trajectory, loginterval=loginterval, **kwargs)
        if logfile:
            self.attach(self.closelater(_KineticLogger(self, logfile)), loginterval)

    def step(self) -> None:
        """Moves the atoms by Δt."""
        if self._carry is None or self._changed():
            state = cast(self._of_atoms(), jnp.float32)
            self._carry = (
                self._engine.start(state, self._key)
                if self._carry is None
                else self._engine.begin_anew(self._carry, state, self._carry.key, int(self._carry.step))
            )
        block = self._engine.advance(self._carry, 1)
        if not len(block.times):
            found = monitors.describe(_host(block.carry.memory.record), self._config, self._system)
            raise monitors.Stopped(f"{found[-1].text} (in the step after {self.nsteps} steps)")
        self._carry = block.carry
        frame = jax.tree.map(lambda values: np.asarray(values[0], np.float64), block.frames)
        if not np.array_equal(frame.cell, self._last.cell):
            self.atoms.set_cell(frame.cell)
        self.atoms.set_positions(frame.positions)
        self.atoms.set_velocities(frame.velocities / units.ASE_VELOCITY)
        self._last = self._of_atoms()

    @property
    def alarms(self) -> list[monitors.Alarm]:
        """The first alarm of each kind so far."""
        if self._carry is None:
            return []
        return monitors.describe(_host(self._carry.memory.record), self._config, self._system)

    def temperature(self) -> float:
        """Kinetic temperature, K, of the motion within the whole."""
        return float(mechanics.temperature(self._system, self._of_atoms()))

    def _of_atoms(self) -> State:
        return ase_files.from_atoms(self.atoms)[1]

    def _changed(self) -> bool:
        return not all(np.array_equal(old, new) for old, new in zip(self._last, self._of_atoms(), strict=True))

    def _refresh_properties(self) -> None:
        """Nothing: there are no forces to keep up to date."""

    def todict(self) -> dict[str, Any]:
        return {**super().todict(), "time_step_fs": self._config.time_step_fs}


class Potential(Calculator):
    """A trained potential as an ASE calculator: energy, forces and, of crystals and liquids, stress.

        atoms.calc = Potential("mypotential")

    Neighbour tables are made for every structure; programs are compiled once for each number of atoms.

    Args:
        model: potential from `ffmd_jax.load`, or a folder, or a model that has a potential.
        kwargs: of ASE's `Calculator`.

    Raises:
        ValueError: no potential; in a calculation: elements or boundary conditions that it was not made for.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, model: Model | str | Path, **kwargs: Any):
        super().__init__(**kwargs)
        used = model if isinstance(model, Model) else model_files.load_potential(model)
        if used.kind != "potential" and used.potential is not None:
            used = used.potential
        if used.kind != "potential":
            raise ValueError(f"{used.name or 'the model'} is a {used.kind} without a potential of its own")
        self._model, self._search = used, None
        with jax.enable_x64(True):
            self._energy = models.energy(used, jnp.float64)

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        """Fills ``results``; as ASE calls it."""
        super().calculate(atoms, properties, system_changes)
        with jax.enable_x64(True):
            system, state = ase_files.from_atoms(self.atoms)
            models.check_potential(self._model.config, system)
            cutoff = self._model.config.architecture.cutoff
            if self._search is None or "numbers" in system_changes or "pbc" in system_changes:
                self._search = neighbors.plan(system, state, cutoff, headroom=1.2)
            while True:
                value, forces, stress, overflow = _evaluate(self._search, self._energy, system, state)
                if not overflow:
                    break
                self._search = neighbors.grow(self._search, system, state.cell)
        self.results = {"energy": float(value), "free_energy": float(value), "forces": np.asarray(forces)}
        if all(system.pbc):
            self.results["stress"] = np.asarray(stress)


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(search: neighbors.Search, energy: Any, system: System, state: State):
    table = neighbors.build(search, system, state)
    return *potential_models.energy_forces_stress(energy, system, state, table.graph), table.overflow


class _KineticLogger(IOContext):
    """Writes time, kinetic energy and temperature."""

    def __init__(self, dynamics: ForceFreeDynamics, logfile: IO | str):
        self._dynamics = dynamics
        self._file = self.openfile(file=logfile, mode="a", comm=world)
        self._file.write(f"{'Time[ps]':<10}{'Ekin[eV]':>14}{'T[K]':>10}\n")

    def __call__(self) -> None:
        time_ps = self._dynamics.get_time() * units.ASE_TIME / units.PS
        kinetic = self._dynamics.atoms.get_kinetic_energy()
        self._file.write(f"{time_ps:<10.4f}{kinetic:>14.4f}{self._dynamics.temperature():>10.1f}\n")
        self._file.flush()


def _host(record: alarms.Record) -> alarms.Record:
    return jax.tree.map(np.asarray, record)
