"""Irreps of O(3), their couplings and spherical harmonics, in the conventions of e3nn.

Vectors are (x, y, z).  Written here because importing e3nn-jax costs a command more than anything else but jax.
"""

import functools
from math import factorial, sqrt
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ffmd_jax.core.state import Array


class Irrep(NamedTuple):
    """An irrep by angular momentum l and parity p, written as ``0e`` or ``1o``."""

    l: int
    p: int

    @property
    def dim(self) -> int:
        """2l + 1."""
        return 2 * self.l + 1

    def __str__(self) -> str:
        return f"{self.l}{'e' if self.p == 1 else 'o'}"


def parse(text: str) -> Irrep:
    """The irrep that is written as ``text``."""
    return Irrep(int(text[:-1]), {"e": 1, "o": -1}[text[-1]])


@functools.cache
def clebsch_gordan(l_1: int, l_2: int, l_3: int) -> np.ndarray:
    """Coupling of real irreps, ``[2l_1 + 1, 2l_2 + 1, 2l_3 + 1]``, of norm 1 and with e3nn's sign."""
    coefficients = np.zeros((2 * l_1 + 1, 2 * l_2 + 1, 2 * l_3 + 1))
    for m_1 in range(-l_1, l_1 + 1):
        for m_2 in range(max(-l_2, -l_3 - m_1), min(l_2, l_3 - m_1) + 1):
            coefficients[l_1 + m_1, l_2 + m_2, l_3 + m_1 + m_2] = _of_angular_momenta(l_1, m_1, l_2, m_2, l_3)
    first, second, third = (_complex_from_real(l) for l in (l_1, l_2, l_3))
    real = np.einsum("ai,bj,ck,abc->ijk", first, second, third.conj(), coefficients).real
    real /= np.linalg.norm(real)
    real.setflags(write=False)
    return real


def spherical_harmonics(directions: Array, lmax: int) -> Array:
    """Y_l of unit vectors ``[..., 3]``, of mean square 1 in each component, l = 0 … lmax, ``[..., (lmax + 1)²]``.

    Homogeneous polynomials of degree l, also of vectors that are no unit vectors: zero for zero and l > 0.
    """
    components = [directions[..., i] for i in range(3)]
    values, degree = [jnp.ones_like(components[0])], [jnp.ones_like(components[0])]
    for l in range(lmax):
        symbols = _next_degree(l)
        products = [[float(symbols[a, i, m]) * degree[a] * components[i] for a, i in np.argwhere(symbols[..., m])]
                    for m in range(2 * l + 3)]  # fmt: skip
        degree = [sum(terms[1:], terms[0]) for terms in products]
        values += degree
    return jnp.stack(values, axis=-1)


@functools.cache
def _next_degree(l: int) -> np.ndarray:
    """Y_{l+1} as a bilinear form of Y_l and the direction, ``[2l + 1, 3, 2l + 3]``."""
    # Of Y_l along y only the component m = 0 is left, sqrt(2l + 1).
    symbols = clebsch_gordan(l, 1, l + 1)
    symbols = symbols * sqrt(2 * l + 3) / (symbols[l, 1, l + 1] * sqrt(2 * l + 1))
    return np.where(np.abs(symbols) > 1e-12, symbols, 0.0)


def _complex_from_real(l: int) -> np.ndarray:
    """Change of basis from real to complex components of angular momentum l; the factor (−i)^l keeps couplings real."""
    matrix = np.zeros((2 * l + 1, 2 * l + 1), complex)
    matrix[l, l] = 1
    for m in range(1, l + 1):
        matrix[l - m, [l + m, l - m]] = sqrt(0.5), -1j * sqrt(0.5)
        matrix[l + m, [l + m, l - m]] = (-1) ** m * sqrt(0.5), 1j * (-1) ** m * sqrt(0.5)
    return (-1j) ** l * matrix


def _of_angular_momenta(l_1: int, m_1: int, l_2: int, m_2: int, l_3: int) -> float:
    """⟨l_1 m_1 l_2 m_2 | l_3 m_1+m_2⟩ by Racah's formula."""
    m_3 = m_1 + m_2
    squared = (2 * l_3 + 1) * factorial(l_3 + l_1 - l_2) * factorial(l_3 - l_1 + l_2) * factorial(l_1 + l_2 - l_3)
    squared *= factorial(l_3 + m_3) * factorial(l_3 - m_3) * factorial(l_1 - m_1) * factorial(l_1 + m_1)
    squared *= factorial(l_2 - m_2) * factorial(l_2 + m_2)
    total = 0.0
    for k in range(max(0, l_2 - l_3 - m_1, l_1 - l_3 + m_2), min(l_1 + l_2 - l_3, l_1 - m_1, l_2 + m_2) + 1):
        below = factorial(k) * factorial(l_1 + l_2 - l_3 - k) * factorial(l_1 - m_1 - k) * factorial(l_2 + m_2 - k)
        total += (-1) ** k / (below * factorial(l_3 - l_2 + m_1 + k) * factorial(l_3 - l_1 - m_2 + k))
    return total * sqrt(squared / factorial(l_1 + l_2 + l_3 + 1))
