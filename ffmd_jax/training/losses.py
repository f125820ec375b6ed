"""What a training minimises, and what validation and test measure."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jax.sharding import Mesh

from ffmd_jax.core import display, neighbors
from ffmd_jax.core.state import Array, Propagate, State, System
from ffmd_jax.data.pairs import Pairs, PairSets
from ffmd_jax.models import convolution as convolutions
from ffmd_jax.models import trajcast
from ffmd_jax.models.config import ModelConfig
from ffmd_jax.training import batches, parallel
from ffmd_jax.training.batches import Bucket

# (params, system, pair or frame) -> loss, absolute errors; of one, which may be padded
Loss = Callable[[trajcast.Params, System, Any], tuple[Array, Array]]


class Errors(NamedTuple):
    """Mean absolute errors per component, and mean absolute values to relate them to; Å and Å/fs.

    The errors of each element's velocities are relative to the mean absolute component of these, %: where masses
    differ, the fast, light atoms alone decide the errors of all.  Of several systems, all are means over these, and
    ``by_system`` has the errors of each.
    """

    displacement_mae: float
    velocity_mae: float
    displacement_mean: float
    velocity_mean: float
    velocity_percent_by_element: dict[str, float]
    by_system: dict[str, Any] = {}  # noqa: RUF012  # a NamedTuple's defaults are not shared with anyone who writes

    def __repr__(self) -> str:
        return display.line("Errors", self._rows())

    def _repr_html_(self) -> str:
        return display.table("Mean absolute errors of one step", self._rows())

    @property
    def displacement_percent(self) -> float:
        """MAE of the displacements relative to their mean absolute value, %."""
        return 100 * self.displacement_mae / self.displacement_mean

    @property
    def velocity_percent(self) -> float:
        """MAE of the velocities relative to their mean absolute value, %."""
        return 100 * self.velocity_mae / self.velocity_mean

    @property
    def mean_percent(self) -> float:
        """What makes a model the best: mean of the relative errors of displacements and velocities, %."""
        return 0.5 * (self.displacement_percent + self.velocity_percent)

    @property
    def finite(self) -> bool:
        """False after a training that left the finite numbers."""
        return bool(np.isfinite(self.displacement_mae + self.velocity_mae))

    @property
    def brief(self) -> str:
        """For a progress bar."""
        return f"v {self.velocity_percent:.2f} %"

    def as_dict(self) -> dict[str, float]:
        """Errors by their names in JSON."""
        by_element = self.velocity_percent_by_element.items()
        return {
            "displacement_mae_A": self.displacement_mae,
            "displacement_mae_relative_percent": self.displacement_percent,
            "velocity_mae_A_per_fs": self.velocity_mae,
            "velocity_mae_relative_percent": self.velocity_percent,
            **{f"velocity_mae_relative_percent_{element}": value for element, value in by_element},
            **systems_as_dict(self.by_system),
        }

    def describe(self) -> str:
        """One line for people."""
        (_, displacements), (_, velocities), *elements = self._rows()
        by_element = f"; {elements[0][1]}" if elements else ""
        return f"mean absolute errors: Δr {displacements}, v {velocities}{by_element}"

    def describe_systems(self) -> list[str]:
        """A line for each of several systems, or time steps."""
        return [
            f"  {name}: Δr {each.displacement_percent:.2f} %, {each.brief}" for name, each in self.by_system.items()
        ]

    def _rows(self) -> list[tuple[str, str]]:
        """In words, with units."""
        rows = [
            ("displacements", f"{_plain(self.displacement_mae)} Å ({self.displacement_percent:.2f} %)"),
            ("velocities", f"{_plain(self.velocity_mae)} Å/fs ({self.velocity_percent:.2f} %)"),
        ]
        of = [f"{element} {value:.2f} %" for element, value in self.velocity_percent_by_element.items()]
        return [*rows, ("velocities by element", ", ".join(of))] if of else rows


def systems_as_dict(by_system: dict[str, Any]) -> dict[str, Any]:
    """The errors of several systems by their names in JSON; nothing for one."""
    return {"systems": {name: errors.as_dict() for name, errors in by_system.items()}} if by_system else {}


def make_loss(
    config: ModelConfig,
    search: neighbors.Search,
    convolution: trajcast.Convolution = convolutions.edge_convolution,
    inverse_mass: float | None = None,
    reversible: bool = False,
) -> Loss:
    """Returns ``(params, system, pair) -> (loss, absolute errors)`` for one pair.

    The loss is ½ MSE(Δr) + ½ MSE(v), each in units of its RMS; the means are over the atoms of the pair, so that
    systems of any size count the same.  ``reversible``: of the time-symmetrised step (`propagators.reversible`).  The
    errors are the mean absolute ones of each atom's components, ``[2, n_atoms]``, Å and Å/fs.

    Args:
        search: with room for the neighbours of all pairs that will come (`batches.pair_search`).
        inverse_mass: mean of 1/m over the atoms of the training pairs, 1/u, which multiplies squares together with the
            atoms' masses: with it and without, to predict zeros is a loss of 1 at equilibrium.  None: no weights.
    """

    def loss(params: trajcast.Params, system: System, pair: Pairs) -> tuple[Array, Array]:
        propagate = trajcast.make_propagate(config, params, convolution, reversible=reversible)
        predicted = step_of(propagate, search, system, pair.state)
        return errors_of(predicted, pair, (config.displacement_rms, config.velocity_rms), inverse_mass, system)

    return loss


def step_of(propagate: Propagate, search: neighbors.Search, system: System, state: State) -> State:
    """A step, with neighbours of the search."""
    return propagate(system, state, neighbors.build(search, system, state).graph)


def errors_of(
    predicted: State, pair: Pairs, scales: tuple[Any, Any], inverse_mass: float | None, system: System
) -> tuple[Array, Array]:
    """The loss of a step and the mean absolute errors of each atom; see `make_loss`."""
    real = jnp.asarray(system.species > 0, system.masses.dtype)
    weights = real if inverse_mass is None else system.masses * np.float32(inverse_mass)
    error_r = predicted.positions - pair.state.positions - pair.displacements
    error_v = predicted.velocities - pair.velocities
    scaled = (error_r / scales[0]) ** 2 + (error_v / scales[1]) ** 2
    value = 0.5 * jnp.sum(weights[:, None] * scaled) / (3 * jnp.sum(real))
    return value, jnp.mean(jnp.abs(jnp.stack([error_r, error_v])), axis=-1)


def make_evaluate(loss: Loss, n_systems: int, devices: Mesh, at_once: int) -> Callable[[trajcast.Params, Any], Array]:
    """Returns ``(params, whole bucket) -> mean`` of what the loss measures, of each system ``[n_systems, …]``.

    Args:
        at_once: examples together.
    """

    def share(params, given):
        systems, examples, which, weights = given
        one = lambda x: x[2] * loss(params, x[0], x[1])[1]  # noqa: E731
        errors = jax.lax.map(one, (systems, examples, weights), batch_size=at_once)
        return jax.ops.segment_sum(errors, which, n_systems)

    return jax.jit(parallel.map_shares(share, devices))


def make_validate(
    loss_of: Callable[[Bucket], Loss],
    summarize: Callable[[dict[int, np.ndarray]], Any],
    buckets: Sequence[Bucket],
    devices: Mesh,
    at_once: int = 8,
    member: Callable[[trajcast.Params, Any], Any] = lambda params, label: params,
) -> Callable[[trajcast.Params], Any]:
    """Returns ``params -> errors`` on pairs or frames, which stay on the devices.

    Args:
        summarize: makes the errors of the mean of what the loss measures, of each group.
        at_once: examples together.
        member: ``(params, label)`` -> what the loss takes.
    """
    placed = [[(label, batches.whole(part, devices)) for label, part in batches.by_label(bucket)] for bucket in buckets]
    absolute = [make_evaluate(loss_of(bucket), len(bucket.groups), devices, at_once) for bucket in buckets]
    chosen = jax.jit(member)

    def validate(params: trajcast.Params) -> Any:
        found = {}
        for bucket, parts, measure in zip(buckets, placed, absolute, strict=True):
            means = np.sum([measure(chosen(params, label), examples) for label, examples in parts], axis=0)
            for group, species, mean in zip(bucket.groups, bucket.systems.species, means, strict=True):
                n_padding = int(np.sum(species == 0))
                found[int(group)] = mean[..., : mean.shape[-1] - n_padding]
        return summarize(found)

    return validate


def summarize(config: ModelConfig, sets: PairSets, pairs: Pairs, found: np.ndarray) -> Errors:
    """`Errors` of one system from the mean of what `make_loss` measures."""
    means = np.stack([np.mean(np.abs(x), axis=(0, 2)) for x in (pairs.displacements, pairs.velocities)])
    species, by_element = np.asarray(sets.system.species), {}
    for element in config.elements:
        own = species == element
        if own.any():
            by_element[chemical_symbols[element]] = float(100 * found[1, own].mean() / means[1, own].mean())
    (error_r, error_v), (mean_r, mean_v) = found.mean(axis=1).tolist(), means.mean(axis=1).tolist()
    return Errors(error_r, error_v, mean_r, mean_v, by_element)


def together(of_groups: dict[str, Any]) -> Any:
    """The errors of several systems, which count the same, as one; of one system, its own."""
    first, *others = of_groups.values()
    if not others:
        return first
    values: dict[str, Any] = {}
    for field, value in first._asdict().items():
        parts = [getattr(errors, field) for errors in of_groups.values()]
        if isinstance(value, dict):
            keys = sorted({key for part in parts for key in part})
            values[field] = {key: float(np.mean([part[key] for part in parts if key in part])) for key in keys}
        else:
            values[field] = float(np.mean(parts))
    return first._replace(**(values | {"by_system": of_groups}))


def _plain(value: float) -> str:
    """Three significant digits without exponent."""
    return np.format_float_positional(value, 3, unique=False, fractional=False)
