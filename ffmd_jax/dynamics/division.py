"""How a compiled program of a run is divided over devices: by replicas, or by domains of one system."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from ffmd_jax.core import domains
from ffmd_jax.core.domains import GRAPH, SAME
from ffmd_jax.core.neighbors import Neighbors
from ffmd_jax.dynamics import replicas as side_by_side
from ffmd_jax.dynamics.records import Carry, Energies, Run
from ffmd_jax.dynamics.replicas import CARRY, FIRST, SECOND, Replicas

_TABLE = Neighbors(GRAPH, SAME, SAME, SAME)
_CARRY = Carry(*[SAME] * len(Carry._fields))._replace(table=_TABLE)


class Division(NamedTuple):
    """Over which devices a run is divided; static, hashable.

    Attributes:
        replicas: that the run is one of replicas, and their devices; None: of one system.
        domains: devices of the domains of one system, a mesh of one axis; None: it is not divided.
    """

    replicas: Replicas | None = None
    domains: Mesh | None = None

    @property
    def n_domains(self) -> int:
        """Domains of a system; 1: it is not divided."""
        return 1 if self.domains is None else self.domains.size

    def carry(self, own_table: bool) -> Any:
        """Where the parts of a carry are; ``own_table``: of a potential, besides that of the propagator."""
        if self.domains is None:
            return CARRY
        return _CARRY._replace(energies=Energies(SAME, SAME, SAME, SAME, _TABLE)) if own_table else _CARRY

    @property
    def table(self) -> Any:
        """Where the parts of a neighbour table are."""
        return FIRST if self.domains is None else _TABLE

    @property
    def frames(self) -> Any:
        """Where frames are."""
        return SECOND if self.domains is None else SAME

    def apply(self, function: Callable, run: Run, arguments: tuple, out: Any) -> Any:
        """``function(run, *arguments)`` on every device; ``out``: where the results are."""
        if self.domains is None:
            return side_by_side.divided_over(self.replicas, function, run, arguments, out)
        return domains.over(self.domains, function, (run, *arguments), out)


def over(n_atoms: int, n_replicas: int, devices: int | Sequence[Any] | None) -> Division:
    """Replicas over at most so many devices, or some of these (None: all), or one system over so many (None: one).

    Raises:
        ValueError: there are fewer devices, or fewer atoms than devices.
    """
    if n_replicas:
        return Division(side_by_side.over(n_replicas, devices))
    if devices is None or devices == 1:
        return Division()
    assert isinstance(devices, int)
    mesh = domains.devices_of(devices)
    if devices > n_atoms:
        raise ValueError(f"a system of {n_atoms} atoms cannot be divided over {devices} devices")
    return Division(domains=mesh)
