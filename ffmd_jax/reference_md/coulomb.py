"""Coulomb energies of point charges: damped and shifted pair sums, and the reciprocal part of Ewald's sum.

The error function is the dear part of either.  erf(αr)/r is an entire function of r², so between 0 and the cutoff a
short polynomial in r² has it to rounding, and erfc(αr)/r = 1/r − that polynomial.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev
from scipy.special import erf, erfc

from ffmd_jax.core import units
from ffmd_jax.core.state import Array, Energy, Graph, State, System


def erf_over_r(alpha: float, cutoff: float, tolerance: float = 1e-13) -> Callable[[Array], Array]:
    """Returns r² (Å²) → erf(αr)/r (1/Å), right to ``tolerance`` (1/Å) for r from 0 to ``cutoff`` (Å); α in 1/Å.

    Raises:
        ValueError: αR above 5, where the polynomial would need more terms than an erfc costs.
    """
    if not 0 < alpha * cutoff <= 5:
        raise ValueError(f"alpha times cutoff must be in (0, 5], not {alpha * cutoff:g}")

    def exact(t):
        r = cutoff * np.sqrt((t + 1) / 2)
        return np.where(r > 1e-8, erf(alpha * r) / np.maximum(r, 1e-8), 2 * alpha / np.sqrt(np.pi))

    check = np.cos(np.linspace(0, np.pi, 1000))
    for degree in range(4, 60):
        fitted = chebyshev.chebinterpolate(exact, degree)
        if np.abs(chebyshev.chebval(check, fitted) - exact(check)).max() < tolerance:
            break
    coefficients = chebyshev.cheb2poly(fitted)
    slopes = np.polynomial.polynomial.polyder(coefficients) * (2 / cutoff**2)

    @jax.custom_jvp
    def evaluate(squared: Array) -> Array:
        return _horner(coefficients, squared * (2 / cutoff**2) - 1)

    # A polynomial of its own: forces need no more than this one.
    evaluate.defjvp(lambda given, along: (evaluate(*given), _horner(slopes, given[0] * (2 / cutoff**2) - 1) * along[0]))
    return evaluate


def _horner(coefficients: np.ndarray, t: Array) -> Array:
    value = jnp.full_like(t, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * t + float(coefficient)
    return value


def screened(alpha: float, cutoff: float) -> Callable[[Array], Array]:
    """Returns r² (Å²) → k erfc(αr)/r, eV/e²: two unit charges in the real-space part of Ewald's sum.

    For r up to ``cutoff``, Å; α in 1/Å.
    """
    smooth = erf_over_r(alpha, cutoff)

    def pair(squared: Array) -> Array:
        return units.COULOMB * (jnp.sqrt(1 / squared) - smooth(squared))

    return pair


def damped_shifted(alpha: float, cutoff: float) -> Callable[[Array], Array]:
    """Returns r² (Å²) → damped-shifted-force energy of two unit charges, eV/e².

    k [erfc(αr)/r − erfc(αR)/R + (erfc(αR)/R² + 2α exp(−α²R²)/(√π R)) (r − R)], R the cutoff, Å; α in 1/Å
    (Fennell & Gezelter 2006, doi:10.1063/1.2206581).
    """
    bare = screened(alpha, cutoff)
    shift, slope = _at_cutoff(alpha, cutoff)

    def pair(squared: Array) -> Array:
        r = squared * jnp.sqrt(1 / squared)
        return bare(squared) + units.COULOMB * (slope * (r - cutoff) - shift)

    return pair


def damped_shifted_self(charges, alpha: float, cutoff: float) -> float:
    """Self-energy of charges (e, ``[n_atoms]``) with `damped_shifted` pairs, eV; as LAMMPS' coul/dsf."""
    shift, slope = _at_cutoff(alpha, cutoff)
    half = (shift + slope * cutoff) / 2 + alpha / np.sqrt(np.pi)
    return float(-units.COULOMB * half * np.sum(np.asarray(charges) ** 2))


def _at_cutoff(alpha: float, cutoff: float) -> tuple[float, float]:
    """Value and minus the slope of erfc(αr)/r at the cutoff."""
    shift = float(erfc(alpha * cutoff)) / cutoff
    slope = shift / cutoff + 2 * alpha / np.sqrt(np.pi) * np.exp(-((alpha * cutoff) ** 2)) / cutoff
    return shift, float(slope)


def ewald_reciprocal(charges, cell, alpha: float, wave_cutoff: float) -> Energy:
    """Returns the reciprocal part of Ewald's sum with its self-energy, eV, for conducting surroundings.

        (2π k/V) Σ_{0<|G|<G_max} exp(−G²/4α²)/G² |Σ_i q_i exp(iG·r_i)|² − (k α/√π) Σ q²

    (Ewald 1921, doi:10.1002/andp.19213690304).  With fractional coordinates s and G = 2π n·C⁻ᵀ the structure factor
    factorises, exp(iG·r) = Π_d exp(2πi n_d s_d): it takes a few waves along each axis and one matrix product over the
    atoms.  The neutral total charge is assumed.

    Args:
        charges: e, ``[n_atoms]``.
        cell: Å, ``[3, 3]``, any shape; the number of wave vectors is planned for it, the cell of a call may differ by
            some percent.
        alpha: 1/Å, the screening parameter.
        wave_cutoff: G_max, 1/Å.
    """
    charges = np.asarray(charges, np.float64)
    counts = _wave_counts(np.asarray(cell, np.float64), wave_cutoff)
    columns = counts[0, 0, :, :2]
    # Vectors of x > 0 stand for their mirror images; those of x = 0 have them in the list, those of z = 0 come twice.
    multiplicity = np.where(counts[..., 0] == 0, 1.0, 2.0) * np.where(counts[..., 2] == 0, 0.5, 1.0)

    def energy(system: System, state: State, graph: Graph) -> Array:
        dtype = state.positions.dtype
        inverse, volume = invert(jnp.asarray(state.cell, dtype))
        squared = jnp.sum((2 * np.pi * jnp.asarray(counts, dtype) @ inverse.T) ** 2, axis=-1)
        wanted = (squared > 0) & (squared < wave_cutoff**2)
        safe = jnp.where(wanted, squared, 1.0)
        factor = 2 * np.pi * units.COULOMB / volume * jnp.exp(-safe / (4 * alpha**2)) / safe
        factor = jnp.where(wanted, factor, 0.0) * jnp.asarray(multiplicity, dtype)
        fractional = state.positions @ inverse
        cosines, sines = _structure_factor(fractional, jnp.asarray(charges, dtype), columns, counts.shape[1])
        self_energy = units.COULOMB * alpha / np.sqrt(np.pi) * float(np.sum(charges**2))
        return jnp.sum(factor * (cosines**2 + sines**2)) - self_energy

    return energy


def _wave_counts(cell: np.ndarray, wave_cutoff: float) -> np.ndarray:
    """Integers (x, y, ±z) with x, z ≥ 0 that cover the sphere |G| < wave_cutoff: ``[2, n_z + 1, n_columns, 3]``."""
    n_x, n_y, n_z = np.floor(wave_cutoff * np.linalg.norm(cell, axis=1) / (2 * np.pi)).astype(int)  # |G| ≥ 2πn/|a|
    x, y = (axis.reshape(-1) for axis in np.meshgrid(np.arange(n_x + 1), np.arange(-n_y, n_y + 1), indexing="ij"))
    z = np.array([[1], [-1]]) * np.arange(n_z + 1)
    counts = np.stack(np.broadcast_arrays(x, y, z[..., None]), axis=-1)
    waves = 2 * np.pi * counts @ np.linalg.inv(cell).T
    return counts[:, :, (np.linalg.norm(waves, axis=-1) < wave_cutoff).any(axis=(0, 1))]


def _structure_factor(fractional: Array, charges: Array, columns: np.ndarray, n_z: int) -> tuple[Array, Array]:
    """Real and imaginary part of Σ_i q_i exp(2πi n·s_i), each ``[2, n_z, n_columns]``, n = (columns, ±(0 … n_z − 1)).

    Complex numbers as pairs of real arrays with the atoms last: XLA vectorises these on CPUs.
    """

    x, y = columns.T
    numbers = jnp.arange(max(x.max(), y.max(), n_z - 1) + 1, dtype=fractional.dtype)
    angles = 2 * np.pi * numbers[:, None] * fractional.T[:, None]  # [3, n, n_atoms]
    (cos_x, cos_y, cos_z), (sin_x, sin_y, sin_z) = jnp.cos(angles), jnp.sin(angles)
    sign = jnp.asarray(np.sign(y), fractional.dtype)[:, None]
    cos_x, sin_x, cos_y, sin_y = cos_x[x], sin_x[x], cos_y[abs(y)], sign * sin_y[abs(y)]
    plane = jnp.stack([cos_x * cos_y - sin_x * sin_y, sin_x * cos_y + cos_x * sin_y])
    line = charges * jnp.stack([cos_z[:n_z], sin_z[:n_z]])
    (cc, cs), (sc, ss) = jnp.einsum("pzi,qci->pqzc", line, plane, precision="highest")  # cos or sin of z, of the plane
    return jnp.stack([cc - ss, cc + ss]), jnp.stack([cs + sc, cs - sc])


def invert(cell: Array) -> tuple[Array, Array]:
    """Inverse and volume of a 3×3 cell; by cross products, which compile to constants where the cell is one."""
    columns = jnp.stack([jnp.cross(cell[1], cell[2]), jnp.cross(cell[2], cell[0]), jnp.cross(cell[0], cell[1])], axis=1)
    determinant = jnp.dot(cell[0], columns[:, 0])
    return columns / determinant, jnp.abs(determinant)
