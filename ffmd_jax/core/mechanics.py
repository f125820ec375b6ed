"""Classical mechanics of a set of atoms: energies, temperatures, momenta, and the Maxwell–Boltzmann distribution.

Velocities are Å/fs and masses u; energies come out in eV.  Functions take one system; use `jax.vmap` for batches.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import matrices, units
from ffmd_jax.core.state import Array, Constraints, State, System, is_isolated

_LINE = -0.866  # cos 150°
_FLAT = 1e-6  # of products of the moments of inertia, each in units of Σ m x²: atoms on a line


def kinetic_energies(system: System, velocities: Array) -> Array:
    """Kinetic energy ½ m v² of every atom, eV, ``[..., n_atoms]``; on the host for numpy arrays."""
    return 0.5 * system.masses * (velocities**2).sum(axis=-1) / units.EV


def kinetic_energy(system: System, velocities: Array) -> Array:
    """Kinetic energy ½ Σ m v², eV, ``[...]``; on the host for numpy arrays."""
    return kinetic_energies(system, velocities).sum(axis=-1)


def degrees_of_freedom(system: System) -> Any:
    """Number of independent velocities once the motion of the whole is taken out: what every temperature counts.

    3N − 3 for periodic systems; for isolated ones 3N − 6, on a line 3N − 5, a single atom 0.  Constant distances take
    theirs; fixed atoms take three each, and then nothing moves as a whole.
    """
    n_atoms, constraints = count_atoms(system), system.constraints
    whole = 3 + (_n_rotations(system) if is_isolated(system) else 0)
    if constraints is None:
        return 3 * n_atoms - whole
    free = 3 * n_atoms - whole if constraints.fixed is None else 3 * (n_atoms - constraints.fixed.sum())
    return free - constraints.bonds.sum()


def count_atoms(system: System) -> Any:
    """Number of atoms; of a padded system computed from its species."""
    return jnp.sum(system.species > 0, axis=-1) if system.padded else len(system.species)


def inverse_masses(system: System) -> Array:
    """1/m, 1/u, ``[n_atoms]``; 0 of padding."""
    if not system.padded:
        return 1 / system.masses
    return jnp.where(system.masses > 0, 1 / jnp.where(system.masses > 0, system.masses, 1), 0)


def temperature(system: System, state: State) -> Array:
    """Instantaneous temperature 2K / (k_B f), K, scalar, of the motion in `internal`; f from `degrees_of_freedom`.

    NaN without a degree of freedom: a single atom has no temperature.
    """
    return _kelvin(kinetic_energy(system, internal(system, state).velocities), degrees_of_freedom(system))


def check_freedom(system: System) -> None:
    """Raises ValueError without any degree of freedom beside the motion of the whole."""
    if degrees_of_freedom(system) < 1:
        alone = "a single atom" if len(system.species) == 1 else "a system without a free degree of freedom"
        raise ValueError(f"{alone} has no temperature: nothing moves but the whole")


def internal(system: System, state: State) -> State:
    """The state without the motion of the whole, which is not thermal; as it is where atoms are fixed."""
    held = system.constraints is not None and system.constraints.fixed is not None
    return state if held else zero_momenta(system, state)


def degrees_of_freedom_by_atom(system: System, positions: Array) -> Array:
    """Share of every atom in the degrees of freedom, ``[n_atoms]``; the sum is `degrees_of_freedom`.

    At equilibrium ⟨½ m_i v_i²⟩ = ½ k_B T f_i.  Removing the total momentum takes 3 m_i/M from atom i; removing the
    angular momentum takes m_i tr(I⁻¹ (x² 1 − x xᵀ)), with x relative to the centre of mass and I the inertia tensor.
    """
    masses, constraints = system.masses, system.constraints
    taken: Any = 0.0 if constraints is None else constraints.bonds
    if constraints is not None and constraints.fixed is not None:
        return jnp.where(constraints.fixed, 0.0, 3.0 - taken)
    translation = 3 * (1 - masses / jnp.sum(masses)) - taken
    if not is_isolated(system):
        return translation
    relative = positions - center_of_mass(system, positions)
    spread = (
        jnp.sum(relative**2, -1)[:, None, None] * jnp.eye(3, dtype=relative.dtype)
        - relative[:, :, None] * relative[:, None, :]
    )
    inverse = _inverse_inertia(system, jnp.einsum("i,iab->ab", masses, spread))
    return translation - masses * jnp.einsum("ab,iab->i", inverse, spread)


def temperature_by_species(system: System, state: State, elements: tuple[int, ...]) -> Array:
    """Kinetic temperature of each element, K, ``[n_elements]``, in the order of the atomic numbers ``elements``.

    Equal for all elements at equilibrium: a thermostat that scales all velocities cannot hide a violation.
    """
    kinetic = kinetic_energies(system, internal(system, state).velocities)
    freedom = degrees_of_freedom_by_atom(system, state.positions)
    members = system.species[None, :] == jnp.asarray(elements)[:, None]
    return _kelvin(members @ kinetic, members @ freedom)


def _kelvin(kinetic: Array, freedom: Any) -> Array:
    """2K / (k_B f), NaN where there is less than one degree of freedom in a hundred."""
    freedom = jnp.where(jnp.asarray(freedom, kinetic.dtype) < 0.01, jnp.nan, freedom)
    return (2 * kinetic / (units.BOLTZMANN * freedom)).astype(kinetic.dtype)


def describe_constraints(constraints: Constraints) -> str:
    """What is constrained, in words."""
    said = []
    if constraints.fixed is not None:
        said.append(f"{int(np.sum(constraints.fixed))} of {len(constraints.fixed)} atoms are fixed")
    if np.any(constraints.bonds):
        said.append(f"{round(float(np.sum(constraints.bonds)))} distances are constrained (rigid bonds or molecules)")
    return " and ".join(said)


def refuse_constraints(system: System) -> None:
    """Raises ValueError, in words, for a system with constraints: no propagator would keep them."""
    if system.constraints is not None:
        raise ValueError(
            f"{describe_constraints(system.constraints)}: a propagator moves all atoms freely, it would not keep this, "
            f"and its thermostat would count all degrees of freedom; use a structure or run without constraints"
        )


def strained(state: State, strain: Array) -> State:
    """The state with positions and cell multiplied by 1 + ``strain``, ``[3, 3]``; velocities stay."""
    deformation = jnp.eye(3, dtype=state.positions.dtype) + strain
    return state._replace(positions=state.positions @ deformation, cell=state.cell @ deformation)


def volume(cell: Array) -> Array:
    """Volume of cells ``[..., 3, 3]``, Å³, ``[...]``; on the host for numpy arrays."""
    return abs(np.linalg.det(cell)) if isinstance(cell, np.ndarray) else jnp.abs(matrices.determinant(cell))


def center_of_mass(system: System, positions: Array) -> Array:
    """Centre of mass, Å, ``[3]``, of unwrapped positions (or of displacements, or of velocities)."""
    return system.masses @ positions / jnp.sum(system.masses)


def linear_momentum(system: System, velocities: Array) -> Array:
    """Total momentum Σ m v, u Å/fs, ``[3]``."""
    return system.masses @ velocities


def angular_momentum(system: System, state: State) -> Array:
    """Total angular momentum Σ m (r − R) × v about the centre of mass R, u Å²/fs, ``[3]``."""
    relative = state.positions - center_of_mass(system, state.positions)
    return jnp.sum(system.masses[:, None] * jnp.cross(relative, state.velocities), axis=0)


def inertia(system: System, positions: Array) -> Array:
    """Inertia tensor about the centre of mass, u Å², ``[3, 3]``."""
    relative = positions - center_of_mass(system, positions)
    squares = jnp.sum(system.masses * jnp.sum(relative**2, axis=-1))
    return squares * jnp.eye(3, dtype=relative.dtype) - (system.masses[:, None] * relative).T @ relative


def rotate_velocities(system: System, state: State, angular_momentum_change: Array) -> State:
    """The state with a rigid rotation ω = I⁻¹ ΔL added, so that its angular momentum changes by ΔL, u Å²/fs ``[3]``.

    The rotation about the axis of a linear molecule is left alone: it is one of its bending vibrations.
    """
    omega = _inverse_inertia(system, inertia(system, state.positions)) @ angular_momentum_change
    relative = state.positions - center_of_mass(system, state.positions)
    return state._replace(velocities=state.velocities + jnp.cross(omega, relative))


def _n_rotations(system: System) -> Any:
    """Rotations of an isolated system."""
    n_atoms, of_many = count_atoms(system), 2 if system.linear else 3
    if system.padded:
        return jnp.where(n_atoms == 1, 0, jnp.where(n_atoms == 2, 2, of_many))
    return 0 if n_atoms == 1 else (2 if n_atoms == 2 else of_many)


def _inverse_inertia(system: System, tensor: Array) -> Array:
    """I⁻¹, 1/(u Å²), ``[3, 3]``; without their axis of atoms on a line and of linear molecules, and 0 of one atom."""
    size = jnp.trace(tensor) / 2  # Σ m x²
    size = jnp.where(size > 0, size, jnp.inf)
    relative = tensor / size
    on_line = system.linear | (matrices.determinant(relative) < _FLAT)
    axis = matrices.longest_axis(jnp.eye(3, dtype=tensor.dtype) - relative)
    about_axis = jnp.sum(axis * relative)
    regular = relative + jnp.where(on_line, (1 - about_axis) * axis, 0)
    return (matrices.inverse(regular) - jnp.where(on_line, axis, 0)) / size


def on_a_line(system: System, positions: np.ndarray) -> System:
    """The system, marked as linear if it is isolated and its atoms lie on a line; ``[..., n_atoms, 3]``, Å.

    They do if, in the order along their longest axis, no mean angle between three successive atoms is below 150°:
    thermal bending makes 168° of the 180° in acetylene at 300 K; quasi-linear HNCO has 124°.
    """
    n_atoms = len(system.species)
    if n_atoms < 3 or not is_isolated(system):
        return dataclasses.replace(system, linear=False)
    frames = np.asarray(positions, np.float64).reshape(-1, n_atoms, 3)
    frames = frames[np.linspace(0, len(frames) - 1, min(20, len(frames))).astype(int)]
    relative = frames - frames.mean(axis=1, keepdims=True)
    axis = np.linalg.svd(relative[0])[2][0]
    ordered = relative[:, np.argsort(relative[0] @ axis)]
    back, ahead = ordered[:, :-2] - ordered[:, 1:-1], ordered[:, 2:] - ordered[:, 1:-1]
    sizes = np.linalg.norm(back, axis=-1) * np.linalg.norm(ahead, axis=-1)
    cosines = np.mean(np.sum(back * ahead, axis=-1) / np.maximum(sizes, 1e-12), axis=0)
    return dataclasses.replace(system, linear=bool(np.all(cosines < _LINE)))


def zero_momenta(system: System, state: State) -> State:
    """The state with zero total momentum and, for an isolated system, zero total angular momentum."""
    state = state._replace(velocities=state.velocities - center_of_mass(system, state.velocities))
    return rotate_velocities(system, state, -angular_momentum(system, state)) if is_isolated(system) else state


def maxwell_boltzmann(key: Array, system: System, state: State, temperature_K: float | Array) -> State:
    """The state with velocities drawn from the canonical distribution at ``temperature_K`` and zero total momenta.

    Each component is Gaussian with variance k_B T/m before the momenta are removed; the kinetic energy is not scaled,
    so that it fluctuates as it should.
    """
    positions = jnp.asarray(state.positions)
    scale = jnp.sqrt(units.BOLTZMANN * units.EV * temperature_K * inverse_masses(system))[:, None]
    velocities = scale * jax.random.normal(key, positions.shape, positions.dtype)
    return zero_momenta(system, State(positions, velocities, jnp.asarray(state.cell, positions.dtype)))
