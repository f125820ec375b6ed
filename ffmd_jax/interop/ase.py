"""Force-free MD as an ASE `MolecularDynamics`: run, attach, trajectory and logfile as usual, and no calculator."""

from typing import IO, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.md.md import MolecularDynamics
from ase.parallel import world
from ase.utils import IOContext

from ffmd_jax.core import mechanics, units
from ffmd_jax.core.state import State, cast, make_system
from ffmd_jax.dynamics import alarms, monitors, rollout
from ffmd_jax.dynamics import thermostat as thermostats
from ffmd_jax.models import model_files, radial_tables, trajcast


class ForceFreeDynamics(MolecularDynamics):
    """Steps ``atoms`` by the Δt of a model.

    Energies and forces are neither needed nor there: a calculator, if the atoms have one, is not called, except by what
    the user attaches.  Positions and momenta that were changed between two steps are taken as they are.  Momenta start
    as those of ``atoms``; `ase.md.velocitydistribution` draws them.

        from ffmd_jax.interop.ase import ForceFreeDynamics

        dynamics = ForceFreeDynamics(atoms, "quartz", temperature_K=300, trajectory="run.traj", logfile="-")
        dynamics.run(1000)

    Args:
        atoms: of the model's elements; without constraints.
        model: folder, or name of a shipped model.
        temperature_K: of the thermostat; None: NVE.
        thermostat: as of ``ffmd rollout``.
        tau_fs: its relaxation time, fs (default: 10 Δt).
        friction_tau_fs: relaxation time 1/γ of Langevin friction and noise besides, fs; as of ``ffmd rollout``.
        reversible: corrects each step to be reversible in time; as of ``ffmd rollout``.
        seed: of the thermostat.
        on_alarm: "stop" raises where a monitor alarms, before atoms are moved; "ignore" goes on, and `alarms` tells.
        trajectory, logfile, loginterval: as in ASE; the log has time, kinetic energy and temperature, which counts the
            degrees of freedom that are left without the total momenta.

    Raises:
        ValueError: atoms that the model is not for, or with constraints.
        monitors.Stopped: in a step: an alarm.
    """

    def __init__(
        self,
        atoms: Atoms,
        model: str,
        *,
        temperature_K: float | None = None,
        thermostat: thermostats.Kind = "csvr",
        tau_fs: float | None = None,
        friction_tau_fs: float | None = None,
        reversible: bool = False,
        seed: int = 0,
        on_alarm: Literal["stop", "ignore"] = "stop",
        trajectory: Any = None,
        logfile: IO | str | None = None,
        loginterval: int = 1,
        **kwargs: Any,
    ):
        if atoms.constraints:
            raise ValueError("force-free dynamics moves all atoms: remove the constraints")
        self._config, params = model_files.load_model(model)
        self._system = make_system(atoms.numbers, atoms.get_masses(), atoms.cell.array, atoms.pbc)
        trajcast.check_system(self._config, self._system)
        weights = cast(radial_tables.tabulate(self._config, params), jnp.float32)
        once = trajcast.make_propagate(self._config, weights)
        propagate = trajcast.make_propagate(self._config, weights, reversible=True) if reversible else once
        interval = self._config.time_step_fs
        tau = None if temperature_K is None else (10 * interval if tau_fs is None else tau_fs)
        if temperature_K is None and friction_tau_fs is not None:
            raise ValueError("friction_tau_fs needs a temperature_K: NVE has no friction")
        bath = None
        if temperature_K is not None and tau is not None:
            more: Any = {"elements": self._config.elements, "friction_tau_fs": friction_tau_fs}
            bath = thermostats.make(thermostat, temperature_K, tau, interval, **more)
        limits = monitors.limits(self._config, self._system, tau, temperature_K=temperature_K)
        self._engine = rollout.Engine(
            self._system, jnp.asarray(atoms.positions, jnp.float32), propagate, block_steps=1, select=True, wrap=True,
            cutoff=self._config.architecture.cutoff, time_step_fs=interval,
            thermostat=bath,
            schedule=None if temperature_K is None else (lambda step: jnp.asarray(float(temperature_K))),
            watch=alarms.watch(once, limits, halt=on_alarm == "stop"),
        )  # fmt: skip
        self._key, self._carry, self._last = jax.random.key(seed), None, State(atoms.positions, atoms.positions)
        super().__init__(atoms, interval / units.ASE_TIME, trajectory=trajectory, loginterval=loginterval, **kwargs)
        if logfile:
            self.attach(self.closelater(_KineticLogger(self, logfile)), loginterval)

    def step(self) -> None:
        """Moves the atoms by Δt."""
        if self._carry is None or self._changed():
            state = State(*(jnp.asarray(values, jnp.float32) for values in self._of_atoms()))
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
        positions, velocities = (np.asarray(values[0], np.float64) for values in block.frames)
        self.atoms.set_positions(positions)
        self.atoms.set_velocities(velocities / units.ASE_VELOCITY)
        self._last = self._of_atoms()

    @property
    def alarms(self) -> list[monitors.Alarm]:
        """The first alarm of each kind so far."""
        if self._carry is None:
            return []
        return monitors.describe(_host(self._carry.memory.record), self._config, self._system)

    def temperature(self) -> float:
        """Kinetic temperature, K, with the degrees of freedom of zero total momenta."""
        return float(mechanics.temperature(self._system, self._of_atoms().velocities))

    def _of_atoms(self) -> State:
        return State(self.atoms.get_positions(), self.atoms.get_velocities() * units.ASE_VELOCITY)

    def _changed(self) -> bool:
        return not all(np.array_equal(old, new) for old, new in zip(self._last, self._of_atoms(), strict=True))

    def _refresh_properties(self) -> None:
        """Nothing: there are no forces to keep up to date."""

    def todict(self) -> dict[str, Any]:
        return {**super().todict(), "time_step_fs": self._config.time_step_fs}


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
