"""What matrix methods keep of both sides of a matrix: square matrices, of inputs and of outputs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax.roles import Leaf


class Sides(NamedTuple):
    """A square matrix for the inputs and one for the outputs; None for a side that is too long."""

    inputs: Float[Array, "*s i i"] | None
    outputs: Float[Array, "*s o o"] | None


def no_sides(leaf: Leaf, dtype: jnp.dtype, longest_side: int) -> Sides:
    """Zeros, in a dtype that LAPACK can take."""
    *stacked, inputs, outputs = leaf.matrix_shape
    dtype = jnp.promote_types(dtype, jnp.float32)
    sides = [
        jnp.zeros((*stacked, side, side), dtype) if side <= longest_side else None
        for side in (inputs, outputs)
    ]
    return Sides(*sides)


def each_side(function: Callable[..., Array], first: Sides, *others: Sides) -> Sides:
    """The function of both sides, as far as `first` has them."""
    pairs = zip(first, *others, strict=True)
    return Sides(*(None if side is None else function(side, *rest) for side, *rest in pairs))


def grow(factor: Sides, g: Float[Array, "*s i o"], decay: float, gain: float) -> Sides:
    """decay factor + gain (g g' and g' g): the factors with one more gradient."""
    products = Sides(product(g, transposed(g)), product(transposed(g), g))

    def mix(old: Array, new: Array) -> Array:
        return (decay * old + gain * new).astype(old.dtype)

    return each_side(mix, factor, products)


def product(a: Float[Array, "*s i j"], b: Float[Array, "*s j k"]) -> Float[Array, "*s i k"]:
    """Exact to its dtype on every device: bases that are not orthogonal are no bases."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def transposed(a: Float[Array, "*s i j"]) -> Float[Array, "*s j i"]:
    return jnp.swapaxes(a, -1, -2)
