"""What defines a model and its training: frozen dataclasses, saved as JSON beside the weights."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of the network; the defaults are those of the paper (2.2 M parameters), `small` those of `ffmd train`.

    Attributes:
        cutoff: Interatomic cutoff, Å.
        lmax: Largest angular momentum of the atoms' features.
        channels: Channels of each irrep of the features.
        layers: Message-passing layers.
        harmonics_lmax: Largest angular momentum of the spherical harmonics of edges and velocities; -1: lmax.
        radial_basis: Bessel functions of the interatomic distance.
        radial_hidden: Widths of the hidden layers of the radial network.
        radial_intervals: Make the radial functions cubic splines on this many equal parts of the range of distances,
            through the values of the radial network: training costs a fraction, most of all on CPUs, and functions
            are smooth between the distances that the data hold.  0: the network itself, as in the paper.
        cutoff_power: Power p of the polynomial cutoff envelope.
        speed_basis: Gaussians of the speed.
        speed_hidden: Widths of the hidden layers of the speed network.
        velocity_input: Also feed the velocity vector itself, not only its direction and speed embedding.
        natural_parity: Carry only features of parity (−1)^l (0e, 1o, 2e …): half the cost.
        bounded_gates: Multiply vectors and tensors by sigmoids, not by the paper's silu: then features that are too
            large leave a gate no larger than in proportion, and are not squared by every layer.
    """

    cutoff: float = 4.5
    lmax: int = 2
    channels: int = 64
    layers: int = 4
    harmonics_lmax: int = -1
    radial_basis: int = 8
    radial_hidden: tuple[int, ...] = (64, 64, 64)
    radial_intervals: int = 128
    cutoff_power: int = 6
    speed_basis: int = 8
    speed_hidden: tuple[int, ...] = (64, 64, 64)
    velocity_input: bool = False
    natural_parity: bool = False
    bounded_gates: bool = False

    def __post_init__(self):
        if self.cutoff <= 0:
            raise ValueError(f"the cutoff must be positive, not {self.cutoff} Å")
        if self.lmax < 1 or min(self.channels, self.layers, self.radial_basis, self.speed_basis) < 1:
            raise ValueError("lmax, channels, layers and the basis sizes must be at least 1")
        if self.radial_intervals != 0 and self.radial_intervals < 4:
            raise ValueError(f"radial_intervals must be 0 or at least 4, not {self.radial_intervals}")
        if -1 < self.harmonics_lmax < self.lmax:
            raise ValueError(f"harmonics_lmax ({self.harmonics_lmax}) is below lmax ({self.lmax})")
        if self.channels < 4:
            raise ValueError(f"channels must be at least 4 (the read-out has a quarter), not {self.channels}")

    @classmethod
    def small(cls, **changes: Any) -> "Architecture":
        """What training starts from, and the shipped models have: a ninth of the paper's weights, with changes."""
        sizes = {"channels": 32, "radial_hidden": (32, 32), "speed_hidden": (32,)}
        return cls(**{**sizes, "natural_parity": True, "bounded_gates": True, **changes})

    @property
    def lmax_harmonics(self) -> int:
        """The largest angular momentum of the spherical harmonics."""
        return self.lmax if self.harmonics_lmax < 0 else self.harmonics_lmax


SMALL = Architecture.small()


@dataclasses.dataclass(frozen=True)
class PotentialConfig:
    """All that must be known to use the weights of a potential.

    Attributes:
        elements: Atomic numbers, ascending.
        atomic_energies_eV: Constant of each element, eV.
        energy_scale_eV: Unit of the network's energies, eV: the RMS force component of the training data times 1 Å.
        average_neighbors: Mean number of neighbours within the cutoff.
        isolated: Trained on isolated molecules: periodic cells are refused.
        shortest_distance: Å, of the closest pair of atoms in the training data.
        architecture: Sizes of the network; speeds and velocities have no part in it.
    """

    elements: tuple[int, ...]
    atomic_energies_eV: tuple[float, ...]
    energy_scale_eV: float
    average_neighbors: float
    isolated: bool = False
    shortest_distance: float = 0.0
    architecture: Architecture = Architecture()

    @property
    def splines_from(self) -> float:
        """Å; splines of the distance begin here and stay constant below."""
        return 0.9 * self.shortest_distance or 0.5


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What a model showed on states that it was not trained on; the monitors of rollouts alarm beyond multiples of it.

    Attributes:
        round_trip: Largest time-reversal error of one step, RMS over the atoms of a state; see `monitors`.
        round_trip_atom: The same of the worst single atom.
        kinetic_drift: Of each element: relative change of the mean kinetic energy in short free runs from these states.
        momentum_change: Largest change of the total momentum in one step, relative to Σ m|v|.
        speeds: Å/fs, largest of each element in these states.
        temperature_K: Highest temperature of these states, K.
        formulas: Of the systems in these states, of periodic ones in lowest terms; empty: not known.
        volumes_A3: Smallest and largest volume of an atom in the training data, Å³; None: not periodic, or not known.
    """

    round_trip: float
    round_trip_atom: float
    kinetic_drift: tuple[float, ...]
    momentum_change: float
    speeds: tuple[float, ...]
    temperature_K: float
    formulas: tuple[str, ...] = ()
    volumes_A3: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Carried:
    """What a step carries over of each atom's velocity before the network adds to it: a linear fit to the data.

    Attributes:
        displacements_fs: Of each element: displacement in a step over the velocity before it, fs.
        velocities: Of each element: velocity after a step over that before it.
        displacement_unit: RMS component of the displacements that this leaves, Å: unit of the network's.
        velocity_unit: RMS component of the velocities that this leaves, Å/fs.
    """

    displacements_fs: tuple[float, ...]
    velocities: tuple[float, ...]
    displacement_unit: float
    velocity_unit: float


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """All that must be known to use the weights of a model.

    Attributes:
        elements: Atomic numbers, ascending.
        masses: u, of each element, as in the training data.
        time_step_fs: Δt, fs, of one step of the model.
        displacement_rms: RMS component of the displacements in the training data, Å.
        velocity_rms: RMS component of the velocities in the training data, Å/fs.
        speed_max: Upper end of the speed embedding, Å/fs.
        speed_limits: Å/fs, of each element: the speed embedding stays constant above, where the training data are too
            few to determine it and it would explode.  Empty: none, as in the paper.
        average_neighbors: Mean number of neighbours within the cutoff.
        isolated: Trained on isolated molecules: boxes around them are dropped, periodic cells refused.
        shortest_distance: Å, of the closest pair of atoms in the training data; 0: unknown.
        architecture: Sizes of the network.
        net_linear_momentum: Total momentum to impose at every step, u Å/fs; None: the state keeps its own.
        net_angular_momentum: Total angular momentum about the centre of mass to impose, u Å²/fs; or None.
        carried: What a step carries over from the velocities; None: nothing, and the network's units are those RMS.
    """

    elements: tuple[int, ...]
    masses: tuple[float, ...]
    time_step_fs: float
    displacement_rms: float
    velocity_rms: float
    speed_max: float
    average_neighbors: float
    isolated: bool = False
    speed_limits: tuple[float, ...] = ()
    shortest_distance: float = 0.0
    architecture: Architecture = Architecture()
    net_linear_momentum: tuple[float, ...] | None = None
    net_angular_momentum: tuple[float, ...] | None = None
    carried: Carried | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self):
        if self.carried is not None and {len(self.carried.displacements_fs), len(self.carried.velocities)} != {
            len(self.elements)
        }:
            raise ValueError(f"carried must have values of each element: {self.carried}")
        if list(self.elements) != sorted(set(self.elements)) or len(self.masses) != len(self.elements):
            raise ValueError(f"elements must ascend, with a mass each: {self.elements}, {self.masses}")
        if not 0 <= self.shortest_distance < self.architecture.cutoff:
            raise ValueError(f"shortest_distance must be below the cutoff, not {self.shortest_distance} Å")
        if len(self.speed_limits) not in (0, len(self.elements)) or not all(v > 0 for v in self.speed_limits):
            raise ValueError(f"speed_limits must be positive, one for each element: {self.speed_limits}")
        for name in ("time_step_fs", "displacement_rms", "velocity_rms", "speed_max", "average_neighbors"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("net_linear_momentum", "net_angular_momentum"):
            if getattr(self, name) is not None and len(getattr(self, name)) != 3:
                raise ValueError(f"{name} must have three components, not {getattr(self, name)}")
        if self.net_angular_momentum is not None and not self.isolated:
            raise ValueError("net_angular_momentum is for models of isolated molecules")

    @property
    def splines_from(self) -> float:
        """Å; splines of the distance begin here and stay constant below.

        A tenth below the closest pair of the training data; if that is unknown, where no two nuclei come (H–H: 0.74 Å).
        """
        return 0.9 * self.shortest_distance or 0.5


@dataclasses.dataclass(frozen=True)
class FamilyConfig:
    """All that must be known to use the weights of a family: a propagator for each Δt of a range.

    Attributes:
        time_steps_fs: Δt that were trained, fs, ascending; a member may have any between the first and the last.
        displacement_rms: RMS component of the displacements in the training data at each of these, Å.
        carried: What a step carries over from the velocities at each of these.
        terms: Functions of Δt whose sums the weights of a member are.
        member: Configuration of the member with the largest Δt.
    """

    time_steps_fs: tuple[float, ...]
    displacement_rms: tuple[float, ...]
    carried: tuple[Carried, ...]
    terms: int
    member: ModelConfig

    def __post_init__(self):
        steps = self.time_steps_fs
        if len(steps) < 2 or list(steps) != sorted(set(steps)) or not steps[0] > 0:
            raise ValueError(f"a family needs two time steps or more, ascending, not {steps}")
        if {len(self.displacement_rms), len(self.carried)} != {len(steps)} or not min(self.displacement_rms) > 0:
            raise ValueError(f"displacement_rms must be positive, one for each time step: {self.displacement_rms}")
        if not 1 <= self.terms <= len(steps):
            raise ValueError(f"terms must be from 1 to the {len(steps)} time steps, not {self.terms}")

    @property
    def architecture(self) -> Architecture:
        return self.member.architecture

    @property
    def elements(self) -> tuple[int, ...]:
        return self.member.elements

    @property
    def isolated(self) -> bool:
        return self.member.isolated


@dataclasses.dataclass(frozen=True)
class FamilyCalibration:
    """What the members of a family showed; see `Calibration`.

    Attributes:
        members: Calibration at each of the trained Δt.
    """

    members: tuple[Calibration, ...]
