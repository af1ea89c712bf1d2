"""What methods that estimate their own rate have in common: sums over the model, and the rest at 0.

Each sum is over a leaf where it lies, in float32 at least, so that nothing is gathered under FSDP.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer

from lmjax.optim.recipe import Factor, Scalar
from lmjax.roles import Roles, map_roles

Rate = Callable[[Array], Array]  # number of the update, from 0 -> its rate


def rate_of(rule: Any, learning_rate: Scalar, factor: Factor) -> Rate:
    """The rate of each update, times Adam's bias correction if `rule` wants it."""

    def rate(step: Array) -> Array:
        now = jax.lax.optimization_barrier(learning_rate * factor(step))
        if not rule.bias_correction:
            return now
        return now * (1 - rule.b2 ** (step + 1)) ** 0.5 / (1 - rule.b1 ** (step + 1))

    return rate


def decays_of(rule: Any, roles: Roles) -> Any:
    """The decay of each parameter, by its role."""
    return map_roles(lambda leaf: leaf.decays * rule.weight_decay, roles)


class EstimateState(NamedTuple):
    """step: int32 [], updates made so far; estimate, numerator: []; else trees like the parameters.

    In the equations of a method: d, n, m, v, s.
    """

    step: Integer[Array, ""]
    estimate: Float[Array, ""]
    numerator: Float[Array, ""]
    first: Any  # moment
    second: Any  # moment
    total: Any


def at_first(params: Any, first_estimate: float) -> EstimateState:
    """The state before the first update."""
    dtype = _wide(optax.tree.dtype(params, "lowest"))
    d, n = jnp.asarray(first_estimate, dtype), jnp.zeros([], dtype)
    m, v, s = (jax.tree.map(jnp.zeros_like, params) for _ in range(3))
    return EstimateState(jnp.zeros([], jnp.int32), d, n, m, v, s)


def mixed(old: Any, decay: float, weight: Any, new: Any) -> Any:
    """decay old + weight new, in the dtype of the old."""
    return jax.tree.map(lambda x, y: (decay * x + weight * y).astype(x.dtype), old, new)


def inner(a: Any, b: Any) -> Array:
    """<a, b> over all leaves."""
    return _sum(jax.tree.map(jnp.multiply, a, b))


def size(tree: Any) -> Array:
    """The sum of absolute values."""
    return _sum(jax.tree.map(jnp.abs, tree))


def grown(estimate: Array, numerator: Array, denominator: Array) -> Array:
    """The larger of the estimate and the ratio, if that is one."""
    known = denominator > 0
    ratio = numerator / jnp.where(known, denominator, 1)
    return jnp.where(known, jnp.maximum(estimate, ratio), estimate).astype(estimate.dtype)


def resting(moved: Array, steps: Any, params: Any) -> Any:
    """The steps, in the dtypes of the parameters; none while nothing has moved."""
    return jax.tree.map(lambda x, p: jnp.where(moved > 0, x, 0).astype(p.dtype), steps, params)


def _sum(tree: Any) -> Array:
    sums = jax.tree.map(lambda x: jnp.sum(x, dtype=_wide(x.dtype)), tree)
    return jnp.asarray(optax.tree.sum(sums))


def _wide(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)
