"""What the training of a potential minimises, and what validation and test measure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols

from ffmd_jax.core import display, mechanics, neighbors, units
from ffmd_jax.core.state import Array, State, System, is_isolated
from ffmd_jax.data import labelled
from ffmd_jax.data.labelled import Frames, FrameSets
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.models import model, potential
from ffmd_jax.models.config import Architecture, PotentialConfig
from ffmd_jax.models.trajcast import Convolution, Params
from ffmd_jax.training import batches, losses, scales
from ffmd_jax.training.losses import Loss
from ffmd_jax.training.settings import Training


class PotentialErrors(NamedTuple):
    """Mean absolute errors of a potential; forces are per component, stresses of their six components.

    NaN where the data do not have forces or stresses.  Of several systems, all are means over these, and ``by_system``
    has the errors of each.
    """

    energy_mae_meV_per_atom: float
    force_mae_meV_per_A: float
    force_mean_meV_per_A: float
    stress_mae_GPa: float
    force_percent_by_element: dict[str, float]
    by_system: dict[str, Any] = {}  # noqa: RUF012  # a NamedTuple's defaults are not shared with anyone who writes

    def __repr__(self) -> str:
        return display.line("Errors", self._rows())

    def _repr_html_(self) -> str:
        return display.table("Mean absolute errors of the potential", self._rows())

    @property
    def force_percent(self) -> float:
        """MAE of the forces relative to their mean absolute component, %."""
        return 100 * self.force_mae_meV_per_A / self.force_mean_meV_per_A

    @property
    def mean_percent(self) -> float:
        """What makes a potential the best: the error of the forces, %, or of energies, meV/atom, if there are none."""
        return self.force_percent if np.isfinite(self.force_mae_meV_per_A) else self.energy_mae_meV_per_atom

    @property
    def finite(self) -> bool:
        """False after a training that left the finite numbers."""
        return bool(np.isfinite(self.energy_mae_meV_per_atom))

    @property
    def brief(self) -> str:
        """For a progress bar."""
        if np.isfinite(self.force_mae_meV_per_A):
            return f"forces {self.force_percent:.2f} %"
        return f"energy {self.energy_mae_meV_per_atom:.3g} meV/atom"

    def as_dict(self) -> dict[str, float]:
        """Errors by their names in JSON; what the data do not have is left out."""
        values = {
            "energy_mae_meV_per_atom": self.energy_mae_meV_per_atom,
            "force_mae_meV_per_A": self.force_mae_meV_per_A,
            "force_mae_relative_percent": self.force_percent,
            "stress_mae_GPa": self.stress_mae_GPa,
        }
        values |= {f"force_mae_relative_percent_{e}": value for e, value in self.force_percent_by_element.items()}
        return {name: x for name, x in values.items() if np.isfinite(x)} | losses.systems_as_dict(self.by_system)

    def describe(self) -> str:
        """One line for people."""
        return "mean absolute errors: " + ", ".join(f"{name} {value}" for name, value in self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("energy", f"{self.energy_mae_meV_per_atom:.3g} meV/atom")]
        if np.isfinite(self.force_mae_meV_per_A):
            rows.append(("forces", f"{self.force_mae_meV_per_A:.3g} meV/Å ({self.force_percent:.2f} %)"))
            of = [f"{element} {value:.2f} %" for element, value in self.force_percent_by_element.items()]
            rows.append(("forces by element", ", ".join(of)))
        if np.isfinite(self.stress_mae_GPa):
            rows.append(("stress", f"{self.stress_mae_GPa:.3g} GPa"))
        return rows


def configure(groups: Sequence[FrameSets], architecture: Architecture) -> PotentialConfig:
    """The configuration of a potential for some frames: elements, scale, neighbours from the training frames.

    Raises:
        ValueError: no atom has a neighbour within the cutoff, or all energies are the same.
    """
    few = [scales.few(sets.train, len(groups)) for sets in groups]
    buckets = batches.buckets([sets.system for sets in groups], few, labelled.padded)
    mean, shortest = scales.neighborhood(buckets, architecture.cutoff)
    squares, n = 0.0, 0
    for sets in groups:
        own = sets.train.forces if "forces" in sets.known else sets.train.energies / np.sqrt(len(sets.system.species))
        squares, n = squares + float(np.sum(np.square(own, dtype=np.float64))), n + own.size
    scale = float(np.sqrt(squares / n))
    if not scale > 0:
        raise ValueError("the energies and forces of all training frames are zero")
    return PotentialConfig(
        elements=scales.elements_of(groups)[0],
        atomic_energies_eV=groups[0].atomic_energies_eV,
        energy_scale_eV=scale,
        average_neighbors=mean,
        shortest_distance=shortest,
        isolated=is_isolated(groups[0].system),
        architecture=architecture,
    )


def make_loss(
    config: PotentialConfig,
    search: neighbors.Search,
    known: tuple[str, ...],
    training: Training,
    convolution: Convolution = convolutions.edge_convolution,
) -> Loss:
    """Returns ``(params, system, frame) -> (loss, absolute errors)`` for one labelled frame.

    The loss is the weighted sum of squared errors in units of the scale s (the RMS force times 1 Å): of forces, their
    mean; of the energy of N atoms ΔE²/(N s²), and of the virial likewise, (VΔσ)²/(N s²), mean of six components.  The
    errors are those of energy, eV/atom, stress, eV/Å³ (mean of six), and forces, eV/Å, mean of an atom's components:
    ``[2 + n_atoms]``.
    """
    scale = config.energy_scale_eV
    network = potential.AtomicEnergies(config, convolution)
    forces, stresses = "forces" in known, "stresses" in known

    def loss(params: Params, system: System, frame: Frames) -> tuple[Array, Array]:
        n_atoms = jnp.asarray(mechanics.count_atoms(system), frame.energies.dtype)
        graph = neighbors.build(search, system, frame.state).graph

        def energy(system: System, state: State, graph: Any) -> Array:
            return scale * jnp.sum(jnp.asarray(network.apply({"params": params}, system, state, graph)))

        if forces or stresses:
            value, force, stress = potential.energy_forces_stress(energy, system, frame.state, graph)
        else:
            value, force, stress = energy(system, frame.state, graph), frame.forces, frame.stresses
        errors = value - frame.energies, force - frame.forces, stress - frame.stresses
        total = training.energy_weight * (errors[0] / scale) ** 2 / n_atoms
        if forces:
            total += training.force_weight * jnp.sum((errors[1] / scale) ** 2) / (3 * n_atoms)
        if stresses:
            volume = mechanics.volume(frame.state.cell)
            total += training.stress_weight * jnp.mean((volume * errors[2] / scale) ** 2) / n_atoms
        seen = [jnp.abs(errors[0])[None] / n_atoms, jnp.mean(jnp.abs(errors[2]))[None]]
        return total, jnp.concatenate([*seen, jnp.mean(jnp.abs(errors[1]), axis=-1)])

    return loss


def summarize(config: PotentialConfig, sets: FrameSets, frames: Frames, found: np.ndarray) -> PotentialErrors:
    """`PotentialErrors` of one system from the mean of what `make_loss` measures."""
    species, known, of_atoms = np.asarray(sets.system.species), sets.known, 1e3 * found[2:]
    means, by_element = 1e3 * np.mean(np.abs(frames.forces), axis=(0, 2)), {}
    if "forces" in known:
        for z in config.elements:
            own = species == z
            if own.any():
                by_element[chemical_symbols[z]] = float(100 * of_atoms[own].mean() / means[own].mean())
    nan = float("nan")
    return PotentialErrors(
        energy_mae_meV_per_atom=float(1e3 * found[0]),
        force_mae_meV_per_A=float(of_atoms.mean()) if "forces" in known else nan,
        force_mean_meV_per_A=float(means.mean()) if "forces" in known else nan,
        stress_mae_GPa=float(units.EV_PER_A3_IN_GPA * found[1]) if "stresses" in known else nan,
        force_percent_by_element=by_element,
    )


def check_fits(config: PotentialConfig, sets: FrameSets) -> None:
    """Raises ValueError for frames of other elements than the potential's, or periodic ones for one of molecules."""
    model.check_potential(config, sets.system)
