"""Irreps against e3nn-jax."""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ffmd_jax.models import irreps, layers

TRIPLES = [(a, b, c) for a in range(4) for b in range(5) for c in range(abs(a - b), a + b + 1)]


def test_couplings_are_those_of_e3nn_with_their_signs():
    for triple in TRIPLES:
        expected = np.asarray(e3nn.clebsch_gordan(*triple), np.float64)
        np.testing.assert_allclose(irreps.clebsch_gordan(*triple), expected / np.linalg.norm(expected), atol=1e-14)


@pytest.mark.parametrize("lmax", [0, 1, 2, 5])
def test_spherical_harmonics_and_their_gradients_are_those_of_e3nn(lmax):
    vectors = np.random.default_rng(0).normal(size=(20, 3))
    chunks = e3nn.Irreps([(1, (l, (-1) ** l)) for l in range(lmax + 1)])

    def theirs(v):
        return e3nn.spherical_harmonics(chunks, e3nn.IrrepsArray("1o", v), True, normalization="component").array

    def ours(v):
        return layers.spherical_harmonics(v, lmax)

    np.testing.assert_allclose(ours(vectors), theirs(vectors), atol=1e-13)
    weights = np.random.default_rng(1).normal(size=(20, (lmax + 1) ** 2))
    found, expected = (jax.grad(lambda v, f=f: jnp.sum(weights * f(v)))(jnp.asarray(vectors)) for f in (ours, theirs))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert jax.jit(ours)(np.float32(vectors)).dtype == np.float32


def test_irreps_are_written_and_read():
    assert [str(irreps.parse(text)) for text in ("0e", "1o", "12e")] == ["0e", "1o", "12e"]
    assert irreps.parse("2o") == irreps.Irrep(2, -1) and irreps.parse("2o").dim == 5
