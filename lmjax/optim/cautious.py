"""Cautious steps (Liang et al., arXiv 2411.16085): where the direction agrees with the gradient.

    mask = [direction * g > 0]   ->   direction * mask / max(mean(mask), 1e-3)

The mean is of each matrix or vector of its own: of each layer and of q, k and v apart, where the
authors have one tensor. With AdamW equal to the authors' c_adamw.py (kyleliang919/C-Optim@2c0517c),
whose eps is added before the bias of the second moment is corrected.
"""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

from lmjax.roles import Leaf, Roles, map_roles

LEAST = 1e-3  # the authors' bound of the mean that is divided by


def cautious(base: optax.GradientTransformation, roles: Roles) -> Any:
    """The directions of `base`, where they have the sign of the gradient that it was given."""
    base = optax.with_extra_args_support(base)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        directions, state = base.update(updates, state, params, **extra)
        return map_roles(agreeing, roles, directions, updates), state

    return optax.GradientTransformationExtraArgs(base.init, update)


def agreeing(leaf: Leaf, direction: Array, g: Array) -> Array:
    """What is left of the direction, as large in the mean as before if all had one size."""
    agrees = jnp.sign(direction) == jnp.sign(g)  # a product of two small numbers may be 0
    mask = leaf.to_matrices((agrees & (g != 0)).astype(direction.dtype))
    share = jnp.mean(mask, axis=leaf.own_axes, keepdims=True)
    return leaf.from_matrices(leaf.to_matrices(direction) * (mask / jnp.maximum(share, LEAST)))
