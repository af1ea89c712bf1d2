"""Decompositions and solutions of stacks of matrices, one matrix at a time.

On a CPU jaxlib cuts a stack into tasks for the threads that XLA computes with, and a thread waits
for them. Two stacks at once on two threads would wait for ever: they did.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_batching.sequential_vmap
def eigen_of(x: Float[Array, "n n"]) -> tuple[Float[Array, "n"], Float[Array, "n n"]]:
    """(values, vectors) of one symmetric matrix, of the smallest value first."""
    values, vectors = jnp.linalg.eigh(x)
    return values, vectors


@jax.custom_batching.sequential_vmap
def orthogonal_of(x: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Q of one matrix."""
    return jnp.linalg.qr(x)[0]


@jax.custom_batching.sequential_vmap
def divided_by_triangle(x: Float[Array, "a b"], q: Float[Array, "b b"]) -> Float[Array, "a b"]:
    """x q^-1 of one upper triangular q."""
    return jax.lax.linalg.triangular_solve(q, x, left_side=False, lower=False)


def one_by_one(function: Callable[[Array], Any], x: Float[Array, "*s n n"]) -> Any:
    """The function, one of those above, of each matrix of a stack, one after another."""
    for _ in range(x.ndim - 2):
        function = jax.vmap(function)  # which becomes a loop
    return function(x)
