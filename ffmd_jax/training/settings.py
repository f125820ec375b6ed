"""How to train: frozen dataclasses, saved as JSON beside the weights."""

import dataclasses
from typing import Literal

_RATE, _RATE_FROM_MODEL = 0.04, 0.01


@dataclasses.dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
        epochs: Passes over the training pairs.
        batch_size: Pairs per optimizer step, on all devices together; small batches win on CPU.
        optimizer: muon (matrices by Muon, the rest by Adam) or adam (with AMSGrad, as in the paper).
        learning_rate: Peak learning rate, after warm-up (None: 0.04, or with --init 0.01, which changes less).
            Twice as much may give smaller errors; Adam wants a tenth.
        schedule: cosine: decay to zero over all epochs.  plateau: the rate falls by --plateau-factor whenever
            --plateau-patience epochs have passed without a better validation error.
        plateau_factor: What the learning rate is multiplied by at a plateau; as in the paper.
        plateau_patience: Epochs without a better validation error that make a plateau; as in the paper.
        weight_decay: Decoupled decay of the matrices under Muon, per unit of learning rate at its peak; it fades with
            the rate.  Without it weights grow without bound, and the network explodes
            on rare configurations that a small validation error does not show.
        warmup_steps: Steps of linear warm-up.
        clip_norm: Largest global norm of the gradient.
        ema_decay: Decay of the moving average of the weights, which is what is validated and exported.
        mass_weighting: Weigh squared errors by the atoms' masses, as kinetic energy does, so that heavy atoms count as
            much as light, fast ones.  Without it, as in the paper, the loss is that of hydrogen, where there is any.
        time_reversal: Train half of the steps on the reversed pair, (r', −v') → (r, −v).
        energy_weight: Of potentials: of squared errors of the energy, per atom and times the atoms of a frame.
        force_weight: Of potentials: of squared errors of the forces, where the data have them.
        stress_weight: Of potentials: of squared errors of the virial, as the energy's, where the data have stresses.
        semigroup_weight: With several time steps: of squared differences between a step and two of half its Δt by the
            averaged weights.
        seed: Of weights and data order.
    """

    epochs: int = 100
    batch_size: int = 2
    optimizer: Literal["muon", "adam"] = "muon"
    learning_rate: float | None = None
    schedule: Literal["cosine", "plateau"] = "cosine"
    plateau_factor: float = 0.8
    plateau_patience: int = 20
    weight_decay: float = 0.003
    warmup_steps: int = 200
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    mass_weighting: bool = True
    time_reversal: bool = True
    energy_weight: float = 1.0
    force_weight: float = 1.0
    stress_weight: float = 1.0
    semigroup_weight: float = 0.0
    seed: int = 0

    def __post_init__(self):
        if min(self.epochs, self.batch_size) < 1 or not self.peak_rate > 0:
            raise ValueError("epochs, batch_size and learning_rate must be positive")
        if self.optimizer not in ("muon", "adam"):
            raise ValueError(f"the optimizer must be muon or adam, not {self.optimizer}")
        if self.schedule not in ("cosine", "plateau"):
            raise ValueError(f"the schedule must be cosine or plateau, not {self.schedule}")
        if not 0 < self.plateau_factor < 1 or self.plateau_patience < 1:
            raise ValueError("plateau_factor must lie between 0 and 1, plateau_patience be at least 1")
        if not min(self.energy_weight, self.force_weight, self.stress_weight) >= 0:
            raise ValueError("energy_weight, force_weight and stress_weight must not be negative")
        if not min(self.weight_decay, self.semigroup_weight) >= 0:
            raise ValueError("weight_decay and semigroup_weight must not be negative")

    @property
    def peak_rate(self) -> float:
        """The peak learning rate of a training from random weights, if no other one was asked for."""
        return _RATE if self.learning_rate is None else self.learning_rate

    def fine_tuning(self) -> "Training":
        """The same for a training that starts from a model: with a lower rate, if none was asked for."""
        return self if self.learning_rate is not None else dataclasses.replace(self, learning_rate=_RATE_FROM_MODEL)
