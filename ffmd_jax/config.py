"""What defines a model and its training: frozen dataclasses, saved as JSON beside the weights."""

import dataclasses
import json
import types
import typing
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of the network; the defaults are those of the paper (2.2 M parameters).

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
        velocity_skip: Predict only what differs from free flight: Δr from v Δt, and the new velocity from v.
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
    velocity_skip: bool = False
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

    @property
    def lmax_harmonics(self) -> int:
        """The largest angular momentum of the spherical harmonics."""
        return self.lmax if self.harmonics_lmax < 0 else self.harmonics_lmax


# What `ffmd train` starts from; the shipped models have it with cutoffs of 4 to 6 Å: a ninth of the paper's weights.
SMALL = Architecture(channels=32, radial_hidden=(32, 32), speed_hidden=(32,), natural_parity=True, bounded_gates=True)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What a model showed on states that it was not trained on; the monitors of roll-outs alarm beyond multiples of it.

    Attributes:
        round_trip: Largest time-reversal error of one step, RMS over the atoms of a state; see `monitors`.
        round_trip_atom: The same of the worst single atom.
        kinetic_drift: Of each element: relative change of the mean kinetic energy in short free runs from these states.
        momentum_change: Largest change of the total momentum in one step, relative to Σ m|v|.
        speeds: Å/fs, largest of each element in these states.
        temperature_K: Highest temperature of these states, K.
    """

    round_trip: float
    round_trip_atom: float
    kinetic_drift: tuple[float, ...]
    momentum_change: float
    speeds: tuple[float, ...]
    temperature_K: float


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
        conserve_angular_momentum: For isolated molecules.
        shortest_distance: Å, of the closest pair of atoms in the training data; 0: unknown.
        architecture: Sizes of the network.
        net_linear_momentum: Total momentum to impose at every step, u Å/fs; None: the state keeps its own.
        net_angular_momentum: Total angular momentum about the centre of mass to impose, u Å²/fs; or None.
        calibration: What the monitors of roll-outs go by; None: not calibrated, and fewer of them work.
    """

    elements: tuple[int, ...]
    masses: tuple[float, ...]
    time_step_fs: float
    displacement_rms: float
    velocity_rms: float
    speed_max: float
    average_neighbors: float
    conserve_angular_momentum: bool = False
    speed_limits: tuple[float, ...] = ()
    shortest_distance: float = 0.0
    architecture: Architecture = Architecture()
    net_linear_momentum: tuple[float, ...] | None = None
    net_angular_momentum: tuple[float, ...] | None = None
    calibration: Calibration | None = None

    def __post_init__(self):
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
        if self.net_angular_momentum is not None and not self.conserve_angular_momentum:
            raise ValueError("net_angular_momentum needs conserve_angular_momentum")
        found = self.calibration
        if found is not None and {len(found.kinetic_drift), len(found.speeds)} != {len(self.elements)}:
            raise ValueError("the calibration must hold kinetic_drift and speeds of each element")

    @property
    def splines_from(self) -> float:
        """Å; splines of the distance begin here and stay constant below.

        A tenth below the closest pair of the training data; if that is unknown, where no two nuclei come (H–H: 0.74 Å).
        """
        return 0.9 * self.shortest_distance or 0.5


@dataclasses.dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
        epochs: Passes over the training pairs.
        batch_size: Pairs per optimizer step, on all devices together; small batches win on CPU.
        optimizer: muon (matrices by Muon, the rest by Adam), adam (with AMSGrad, as in the paper) or adamw.
        learning_rate: Peak learning rate, after warm-up.  Twice as much may give smaller errors; Adam wants a tenth.
        schedule: cosine: decay to zero over all epochs.  plateau: the rate falls by --plateau-factor whenever
            --plateau-patience epochs have passed without a better validation error.
        plateau_factor: What the learning rate is multiplied by at a plateau; as in the paper.
        plateau_patience: Epochs without a better validation error that make a plateau; as in the paper.
        weight_decay: Decoupled decay, of the matrices under Muon, of all weights under AdamW, per unit of learning
            rate at its peak; it fades with the rate.  Without it weights grow without bound, and the network explodes
            on rare configurations that a small validation error does not show.
        warmup_steps: Steps of linear warm-up.
        clip_norm: Largest global norm of the gradient.
        ema_decay: Decay of the moving average of the weights, which is what is validated and exported.
        noise: Gaussian noise on the state that a pair starts from, in units of the RMS displacement (positions) and
            velocity (velocities); the end stays, so that the network learns to come back.
        push_forward: Start pairs of 0 … this many steps of the network's own before, drawn for each, so that the
            network learns to come back from its own errors.  Needs training pairs that follow each other in time.
        mass_weighting: Weigh squared errors by the atoms' masses, as kinetic energy does, so that heavy atoms count as
            much as light, fast ones.  Without it, as in the paper, the loss is that of hydrogen, where there is any.
        kinetic_energy_penalty: Weight, in the loss, of the squared relative error of the total kinetic energy.
        time_reversal: Train half of the steps on the reversed pair, (r', −v') → (r, −v).
        seed: Of weights and data order.
    """

    epochs: int = 100
    batch_size: int = 2
    optimizer: Literal["muon", "adam", "adamw"] = "muon"
    learning_rate: float = 0.04
    schedule: Literal["cosine", "plateau"] = "cosine"
    plateau_factor: float = 0.8
    plateau_patience: int = 20
    weight_decay: float = 0.003
    warmup_steps: int = 200
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    noise: float = 0.0
    push_forward: int = 0
    mass_weighting: bool = True
    kinetic_energy_penalty: float = 0.0
    time_reversal: bool = True
    seed: int = 0

    def __post_init__(self):
        if min(self.epochs, self.batch_size) < 1 or not self.learning_rate > 0:
            raise ValueError("epochs, batch_size and learning_rate must be positive")
        if self.optimizer not in ("muon", "adam", "adamw"):
            raise ValueError(f"the optimizer must be muon, adam or adamw, not {self.optimizer}")
        if self.schedule not in ("cosine", "plateau"):
            raise ValueError(f"the schedule must be cosine or plateau, not {self.schedule}")
        if not 0 < self.plateau_factor < 1 or self.plateau_patience < 1:
            raise ValueError("plateau_factor must lie between 0 and 1, plateau_patience be at least 1")
        if self.push_forward < 0:
            raise ValueError("push_forward must not be negative")
        if not min(self.noise, self.kinetic_energy_penalty, self.weight_decay) >= 0:
            raise ValueError("noise, kinetic_energy_penalty and weight_decay must not be negative")


@dataclasses.dataclass(frozen=True)
class Processes:
    """Several processes, started by hand; nothing is needed on one machine, under Slurm, or on a TPU slice.

    Attributes:
        coordinator: HOST:PORT of process 0, reachable from all processes.
        num_processes: How many processes there are.
        process_id: Which one this is, from 0.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self):
        given = [value is not None for value in dataclasses.astuple(self)]
        if any(given) and not all(given):
            raise ValueError("--coordinator, --num-processes and --process-id belong together: give all three or none")
        if not 0 <= (self.process_id or 0) < (self.num_processes or 1):
            raise ValueError(f"--process-id must be from 0 to {self.num_processes} - 1, not {self.process_id}")
        if self.coordinator is not None and not self.coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"--coordinator must be HOST:PORT, not {self.coordinator}")


def to_json(config: Any) -> str:
    """A config as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str, kind: type) -> Any:
    """The config of dataclass ``kind`` in a JSON text.

    Raises:
        ValueError: no JSON, a field that is missing, unknown or of another type.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the configuration is no JSON: {error}") from None
    return _from_dict(values, kind)


def _from_dict(values: Any, kind: type) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{kind.__name__} must be a JSON object, not {values!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    types_of = typing.get_type_hints(kind)
    if unknown := sorted(values.keys() - fields.keys()):
        raise ValueError(f"{kind.__name__} has no field {', '.join(unknown)}")
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    if missing := sorted(required - values.keys()):
        raise ValueError(f"{kind.__name__} lacks the field {', '.join(missing)}")
    return kind(**{name: _convert(name, value, types_of[name]) for name, value in values.items()})


def _convert(name: str, value: Any, kind: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return _from_dict(value, typing.cast(type, kind))
    if isinstance(kind, types.UnionType):  # x | None
        return None if value is None else _convert(name, value, typing.get_args(kind)[0])
    if isinstance(kind, types.GenericAlias):  # tuple[x, ...]
        if not isinstance(value, list):
            raise ValueError(f"{name} must be a list, not {value!r}")
        return tuple(_convert(name, item, typing.get_args(kind)[0]) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise ValueError(f"{name} must be one of {typing.get_args(kind)}, not {value!r}")
        return value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name} must be a {kind.__name__}, not {value!r}")
    return value
