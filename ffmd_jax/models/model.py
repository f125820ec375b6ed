"""The record of a model, which systems it is for, and the propagator that it gives."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import display, mechanics, neighbors
from ffmd_jax.core.state import Energy, Propagate, State, System, cast, is_isolated
from ffmd_jax.formats import note
from ffmd_jax.models import family, potential, radial_tables, trajcast
from ffmd_jax.models.config import Calibration, FamilyCalibration, FamilyConfig, ModelConfig, PotentialConfig


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Model:
    """A trained network.

    Attributes:
        config: all that must be known to use the weights.
        params: weights, as stored.
        calibration: what the monitors of rollouts go by, a `Calibration`, of a family a `FamilyCalibration`; None: not
            calibrated, and fewer of them work.
        name: folder, or name of a shipped model.
        kind: of the network: "propagator", "potential", or "family": a propagator for each Δt of a range.
        potential: that belongs to a propagator; None: there is none.
    """

    config: Any
    params: Any
    calibration: Any = None
    name: str = ""
    kind: str = "propagator"
    potential: "Model | None" = None

    def at(self, time_step_fs: float) -> "Model":
        """The propagator with a Δt, fs, of a family.

        Raises:
            ValueError: a Δt beyond those that were trained, or no family.
        """
        if self.kind != "family":
            raise ValueError(f"{self.name or 'the model'} is a {self.kind}: only a family has a propagator at any Δt")
        config, params = family.at(self.config, self.params, time_step_fs)
        found = self.calibration
        if isinstance(found, FamilyCalibration):
            found = family.calibration_at(self.config, found, time_step_fs)
        return Model(config, params, found, self.name, "propagator", self.potential)

    def __repr__(self) -> str:
        return display.line(f"Model {self.name or 'without a name'}", describe(self))

    def _repr_html_(self) -> str:
        return display.table(f"Model {self.name}", describe(self))


def describe(model: Model) -> list[tuple[str, str]]:
    """What the model is, in words: pairs of a name and a value with its unit."""
    config, sizes = model.config, model.config.architecture
    known = model.calibration.members[0] if isinstance(model.calibration, FamilyCalibration) else model.calibration
    seen = () if known is None else known.formulas
    where = "isolated molecules" if config.isolated else "periodic cells"
    n_weights = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(model.params))
    propagates = model.kind != "potential"
    return [
        *([] if propagates else [("kind", "potential: energy, forces, stress")]),
        ("elements", " ".join(symbols(config.elements))),
        *([("Δt", time_steps(config))] if propagates else []),
        ("cutoff", f"{sizes.cutoff:g} Å"),
        ("weights", f"{n_weights:,}"),
        ("layers", f"{sizes.layers}"),
        ("trained on", f"{_some(seen)} {where}".strip()),
        *([("monitors", "calibrated" if model.calibration is not None else "not calibrated")] if propagates else []),
        *([("potential", "its own")] if model.potential is not None else []),
    ]


def time_steps(config: Any) -> str:
    """Δt of a propagator, or the range of a family, in words."""
    if isinstance(config, FamilyConfig):
        return f"{config.time_steps_fs[0]:g} to {config.time_steps_fs[-1]:g} fs"
    return f"{config.time_step_fs:g} fs"


def formula(system: System) -> str:
    """Chemical formula, in Hill's order; of periodic systems in lowest terms, the same for every cell."""
    from ase.formula import Formula

    whole = Formula("".join(symbols(system.species)))
    return (whole if is_isolated(system) else whole.reduce()[0]).format("hill")


def symbols(elements) -> list[str]:
    """Chemical symbols of atomic numbers."""
    from ase.data import chemical_symbols

    return [chemical_symbols[int(z)] for z in elements]


def propagator(model: Model, dtype: Any = jnp.float32, *, tables: bool = True, reversible: bool = False) -> Propagate:
    """One step of the model, in the precision ``dtype``.

    Args:
        tables: read the radial networks from tables; False: compute them in every step.
        reversible: time-symmetrised steps, see `propagators.reversible`; three times the cost.
    """
    params = cast(model.params, dtype)
    params = radial_tables.tabulate(model.config, params) if tables else params
    return trajcast.make_propagate(model.config, params, reversible=reversible)


def energy(model: Model, dtype: Any = jnp.float32, *, tables: bool = True) -> Energy:
    """The potential energy of a potential, eV, with weights in the precision ``dtype``.

    Args:
        tables: read the radial networks from tables; False: compute them each time.
    """
    params = cast(model.params, dtype)
    params = radial_tables.tabulate(model.config, params) if tables else params
    return potential.make_energy(model.config, params)


def isolate(config: ModelConfig, system: System, state: State) -> tuple[System, State]:
    """The same molecule without its box, for a model of isolated molecules; anything else as it is.

    Structure files often put a molecule into a periodic box.  The box is dropped if it does nothing: once
    molecules are joined across the boundary, no atom may see another one through it.  Molecules that are
    farther apart than the cutoff stay where the file has their first atoms.

    Raises:
        ValueError: an atom sees a periodic image within the cutoff.
    """
    if not config.isolated or is_isolated(system):
        return system, state
    search = neighbors.plan(system, state, config.architecture.cutoff)
    build = jax.jit(lambda state: neighbors.build(search, system, state).graph)
    graph = jax.tree.map(np.asarray, build(cast(state, jnp.result_type(float))))
    images, seen = np.zeros((len(system.species), 3), int), set()
    for first in range(len(images)):
        waiting = [] if first in seen else [first]
        seen.update(waiting)
        while waiting:
            i = waiting.pop()
            for j, shift in zip(graph.senders[i][graph.mask[i]], graph.shifts[i][graph.mask[i]], strict=True):
                if int(j) not in seen:
                    images[j] = images[i] + shift
                    seen.add(int(j))
                    waiting.append(int(j))
    if np.any((images[graph.senders] - images[:, None] != graph.shifts)[graph.mask]):
        raise ValueError(
            "the model is for isolated molecules, but atoms see periodic "
            f"images within its cutoff of {config.architecture.cutoff:g} Å"
        )
    whole = state._replace(positions=state.positions + images @ state.cell)
    system = dataclasses.replace(system, pbc=(False, False, False))
    return mechanics.on_a_line(system, np.asarray(whole.positions)), whole


def at(model: Model, time_step_fs: float | None) -> Model:
    """The propagator of a model: of a family the one with this Δt, fs, else itself.

    Raises:
        ValueError: a potential; a family without a Δt, or one that it does not have; another Δt than the model's.
    """
    if model.kind == "family":
        if time_step_fs is None:
            raise ValueError(f"{model.name or 'the model'} has any Δt, {time_steps(model.config)}: choose a time step")
        return model.at(time_step_fs)
    if model.kind != "propagator":
        raise ValueError(f"{model.name or 'the model'} is a {model.kind}, not a propagator: it has no step")
    if time_step_fs not in (None, model.config.time_step_fs):
        own = f"{model.config.time_step_fs:g} fs"
        raise ValueError(f"{model.name or 'the model'} has Δt = {own} and no other: it was trained for one")
    return model


def check_potential(config: PotentialConfig, system: System) -> None:
    """Raises ValueError if the potential was not made for these elements or boundary conditions."""
    _check_elements(config.elements, system, "potential")
    if config.isolated and any(system.pbc):
        raise ValueError("the potential is for isolated molecules, not periodic cells")


def _check_elements(elements: tuple[int, ...], system: System, kind: str) -> None:
    unknown = sorted(set(np.asarray(system.species).tolist()) - set(elements))
    if unknown:
        names, known = ", ".join(symbols(unknown)), ", ".join(symbols(elements))
        raise ValueError(f"the structure holds {names}, which the {kind} does not know; it was trained on {known}")


def _some(formulas: tuple[str, ...]) -> str:
    return ", ".join(formulas) if len(formulas) <= 8 else f"{len(formulas):,} formulas"


def check_system(config: ModelConfig, system: System, calibration: Calibration | None = None) -> None:
    """Raises ValueError if the model was not made for these elements, masses, constraints or boundary conditions.

    Atoms of another formula than those that the model was calibrated with are noted.
    """
    mechanics.refuse_constraints(system)
    _check_elements(config.elements, system, "model")
    expected = np.asarray(config.masses)[np.searchsorted(config.elements, system.species)]
    wrong = np.abs(np.asarray(system.masses) - expected) > 1e-2 * expected
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"atom {i} ({symbols([system.species[i]])[0]}) has mass {system.masses[i]:.4g} u, "
            f"the model was trained with {expected[i]:.4g} u"
        )
    if config.isolated and not is_isolated(system):
        raise ValueError("the model is for isolated molecules, not periodic cells")
    seen = () if calibration is None else calibration.formulas
    if seen and formula(system) not in seen:
        note(
            f"the model was trained on {_some(seen)} and has not seen {formula(system)}: its errors there are "
            f"unknown, and monitors do not see all of them"
        )
