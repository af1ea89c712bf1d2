"""Decompositions, which a CPU must not be given in stacks (lmjax/optim/decompose.py)."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from lmjax.optim.decompose import divided_by_triangle, eigen_of, one_by_one, orthogonal_of

DECOMPOSITIONS = {"triangular_solve", "eigh", "geqrf", "householder_product", "qr"}


def ranks(jaxpr: Any) -> Iterator[int]:
    """Of the operands of all decompositions."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in DECOMPOSITIONS:
            yield eqn.invars[0].aval.ndim
        for inside in jaxprs_in_params(eqn.params):
            yield from ranks(inside)


@pytest.mark.parametrize("function", [eigen_of, orthogonal_of])
@pytest.mark.parametrize("stack", [(), (3,), (2, 3)])
def test_decompositions_are_of_one_matrix_each_also_in_lanes(function, stack):
    x = jnp.zeros((*stack, 4, 4))
    for within in (lambda f: f, jax.vmap):
        given = x if within is not jax.vmap else x[None]
        traced = jax.make_jaxpr(within(lambda x: one_by_one(function, x)))(given)
        found = list(ranks(traced.jaxpr))
        assert found
        assert set(found) == {2}


def test_solutions_are_of_one_matrix_each_in_stacks_and_are_right() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5, 4)).astype(np.float32)
    q = (np.triu(rng.normal(size=(3, 4, 4))) + 3 * np.eye(4)).astype(np.float32)
    stacked = jax.vmap(divided_by_triangle)
    assert set(ranks(jax.make_jaxpr(stacked)(x, q).jaxpr)) == {2}
    assert np.allclose(stacked(x, q), x @ np.linalg.inv(q), atol=1e-4)
    assert not np.allclose(stacked(x, q), x @ np.linalg.inv(q.swapaxes(1, 2)), atol=1e-2)


def test_a_stack_decomposed_at_once_would_show() -> None:
    """The negative control of the test above."""
    assert 3 in set(
        ranks(jax.make_jaxpr(lambda x: jnp.linalg.qr(x)[0])(jnp.zeros((2, 4, 4))).jaxpr)
    )


def test_one_by_one_is_what_numpy_makes_of_each() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 5)).astype(np.float32)
    found = np.asarray(one_by_one(orthogonal_of, jnp.asarray(x)))
    assert np.allclose(found, np.linalg.qr(x)[0], atol=1e-5)
