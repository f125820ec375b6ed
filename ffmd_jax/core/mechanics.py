"""Classical mechanics of a set of atoms: energies, temperatures, momenta, and the Maxwell–Boltzmann distribution.

Velocities are Å/fs and masses u; energies come out in eV.  Functions take one system; use `jax.vmap` for batches.
"""

import jax
import jax.numpy as jnp

from ffmd_jax.core import units
from ffmd_jax.core.state import Array, State, System, is_isolated


def kinetic_energies(system: System, velocities: Array) -> Array:
    """Kinetic energy ½ m v² of every atom, eV, ``[..., n_atoms]``; on the host for numpy arrays."""
    return 0.5 * system.masses * (velocities**2).sum(axis=-1) / units.EV


def kinetic_energy(system: System, velocities: Array) -> Array:
    """Kinetic energy ½ Σ m v², eV, ``[...]``; on the host for numpy arrays."""
    return kinetic_energies(system, velocities).sum(axis=-1)


def degrees_of_freedom(system: System) -> int:
    """3N − 3 for periodic systems; 3N − 6 for isolated molecules, 3N − 5 for two atoms.

    Assumes that the conserved total momenta are zero.  A linear molecule of more than two atoms is not told
    apart: it leaves the line as soon as it bends.
    """
    n_atoms = len(system.species)
    rotations = 0 if n_atoms == 1 else (2 if n_atoms == 2 else 3)
    return 3 * n_atoms - 3 - (rotations if is_isolated(system) else 0)


def temperature(system: System, velocities: Array) -> Array:
    """Instantaneous temperature 2K / (k_B f), K, scalar; f from `degrees_of_freedom`."""
    return 2 * kinetic_energy(system, velocities) / (units.BOLTZMANN * degrees_of_freedom(system))


def degrees_of_freedom_by_atom(system: System, positions: Array) -> Array:
    """Share of every atom in the degrees of freedom, ``[n_atoms]``; the sum is `degrees_of_freedom`.

    At equilibrium ⟨½ m_i v_i²⟩ = ½ k_B T f_i.  Removing the total momentum takes 3 m_i/M from atom i; removing the
    angular momentum takes m_i tr(I⁻¹ (x² 1 − x xᵀ)), with x relative to the centre of mass and I the inertia tensor.
    """
    masses = system.masses
    translation = 3 * (1 - masses / jnp.sum(masses))
    if not is_isolated(system):
        return translation
    relative = positions - center_of_mass(system, positions)
    spread = (
        jnp.sum(relative**2, -1)[:, None, None] * jnp.eye(3, dtype=relative.dtype)
        - relative[:, :, None] * relative[:, None, :]
    )
    inverse = jnp.linalg.pinv(jnp.einsum("i,iab->ab", masses, spread), hermitian=True, rtol=1e-6)
    rotation = masses * jnp.einsum("ab,iab->i", inverse, spread)
    return translation - rotation


def temperature_by_species(system: System, state: State, elements: tuple[int, ...]) -> Array:
    """Kinetic temperature of each element, K, ``[n_elements]``, in the order of the atomic numbers ``elements``.

    Equal for all elements at equilibrium: a thermostat that scales all velocities cannot hide a violation.
    """
    kinetic = kinetic_energies(system, state.velocities)
    freedom = degrees_of_freedom_by_atom(system, state.positions)
    members = system.species[None, :] == jnp.asarray(elements)[:, None]
    return 2 * (members @ kinetic) / (units.BOLTZMANN * (members @ freedom))


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

    The pseudo-inverse leaves the rotation about the axis of a linear molecule alone.
    """
    tensor = inertia(system, state.positions)
    omega = jnp.linalg.pinv(tensor, hermitian=True, rtol=1e-6) @ angular_momentum_change
    relative = state.positions - center_of_mass(system, state.positions)
    return state._replace(velocities=state.velocities + jnp.cross(omega, relative))


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
    scale = jnp.sqrt(units.BOLTZMANN * units.EV * temperature_K / system.masses)[:, None]
    velocities = scale * jax.random.normal(key, positions.shape, positions.dtype)
    return zero_momenta(system, State(positions, velocities, jnp.asarray(state.cell, positions.dtype)))
