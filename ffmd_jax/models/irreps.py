"""Irreducible representations of O(3): real 3j symbols and spherical harmonics, in the convention of e3nn.

Components of l = 1 are x, y, z.  They are here, and not imported from e3nn-jax, because its import takes a second of
every command; the tests compare the two.
"""

import functools
from math import factorial, sqrt
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core.state import Array


class Irrep(NamedTuple):
    """A representation, sorted by (l, p) with odd parity first.

    Attributes:
        l: degree.
        p: parity, 1 or −1.
    """

    l: int
    p: int

    @classmethod
    def parse(cls, name: str) -> "Irrep":
        """From a name such as 1o."""
        return cls(int(name[:-1]), {"e": 1, "o": -1}[name[-1]])

    @property
    def dim(self) -> int:
        return 2 * self.l + 1

    def __str__(self) -> str:
        return f"{self.l}{'e' if self.p == 1 else 'o'}"


@functools.cache
def three_j(l_1: int, l_2: int, l_3: int) -> np.ndarray:
    """Real 3j symbols ``[2l_1 + 1, 2l_2 + 1, 2l_3 + 1]``, of norm 1."""
    symbols = np.zeros((2 * l_1 + 1, 2 * l_2 + 1, 2 * l_3 + 1))
    for m_1 in range(-l_1, l_1 + 1):
        for m_2 in range(max(-l_2, -l_3 - m_1), min(l_2, l_3 - m_1) + 1):
            symbols[l_1 + m_1, l_2 + m_2, l_3 + m_1 + m_2] = _clebsch_gordan(l_1, m_1, l_2, m_2, l_3)
    bases = (_complex_of_real(l_1), _complex_of_real(l_2), _complex_of_real(l_3).conj())
    return np.einsum("ai,bj,ck,abc->ijk", *bases, symbols).real / sqrt(2 * l_3 + 1)


def _clebsch_gordan(l_1: int, m_1: int, l_2: int, m_2: int, l: int) -> float:
    """⟨l_1 m_1 l_2 m_2 | l m_1+m_2⟩ by Racah's formula (doi:10.1103/PhysRev.62.438)."""
    m = m_1 + m_2
    squared = (2 * l + 1) * factorial(l + l_1 - l_2) * factorial(l - l_1 + l_2) * factorial(l_1 + l_2 - l)
    for degree, order in ((l, m), (l_1, m_1), (l_2, m_2)):
        squared *= factorial(degree + order) * factorial(degree - order)
    total = 0.0
    for k in range(l_1 + l_2 - l + 1):
        rest = (l_1 + l_2 - l - k, l_1 - m_1 - k, l_2 + m_2 - k, l - l_2 + m_1 + k, l - l_1 - m_2 + k)
        if min(rest) >= 0:
            total += (-1) ** k / np.prod([float(factorial(n)) for n in (k, *rest)])
    return sqrt(squared / factorial(l_1 + l_2 + l + 1)) * total


def _complex_of_real(l: int) -> np.ndarray:
    """Complex spherical harmonics (rows) by real ones, with (−i)^l, which makes the 3j symbols real."""
    basis = np.zeros((2 * l + 1, 2 * l + 1), complex)
    basis[l, l] = 1
    for m in range(1, l + 1):
        basis[l - m, [l + m, l - m]] = np.array([1, -1j]) / sqrt(2)
        basis[l + m, [l + m, l - m]] = (-1) ** m * np.array([1, 1j]) / sqrt(2)
    return (-1j) ** l * basis


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def solid_harmonics(vectors: Array, lmax: int) -> list[Array]:
    """|r|^l Y_l of ``[..., 3]`` for l = 0 … lmax, ``[..., 2l + 1]`` each, of mean square 1 on the unit sphere.

    Each is the product of two of lower l: Y_l ∝ 3j · Y_{l−k} Y_k, with k the largest power of two below l.
    """
    values = [jnp.ones_like(vectors[..., :1]), sqrt(3) * vectors]
    for l in range(2, lmax + 1):
        k = 2 ** ((l - 1).bit_length() - 1)
        symbols = three_j(l - k, k, l)
        scale = sqrt((2 * l + 1) / ((2 * (l - k) + 1) * (2 * k + 1))) / np.linalg.norm(symbols[l - k, k])
        symbols = (scale * symbols).astype(vectors.dtype)
        values.append(jnp.einsum("...i,...j,ijk->...k", values[l - k], values[k], symbols))
    return values[: lmax + 1]


@solid_harmonics.defjvp
def _solid_harmonics_jvp(lmax: int, primals, tangents):
    """∂_k |r|^l Y_l = sqrt(l) (2l + 1) 3j · |r|^(l−1) Y_{l−1}."""
    (vectors,), (rates,) = primals, tangents
    values = solid_harmonics(vectors, lmax)
    changes = [jnp.zeros_like(values[0])]
    for l in range(1, lmax + 1):
        symbols = (sqrt(l) * (2 * l + 1) * three_j(l - 1, l, 1)).astype(vectors.dtype)
        changes.append(jnp.einsum("...i,...k,ijk->...j", values[l - 1], rates, symbols))
    return values, changes
