"""LARS (You et al., arXiv 1708.03888): momentum with a rate for each layer.

ratio = coefficient |p| / (|g| + weight_decay |p|), and 1 where |p| or |g| is 0
m <- momentum m + ratio (g + weight_decay p)
direction = m

Norms are of each matrix of the view and of each vector: of each layer, and of q, k and v apart. The
paper has the rate inside m, which is the same until the rate changes. Equal to timm's Lars
(huggingface/pytorch-image-models@v0.9.16) with always_adapt. optax's lars divides by
|g + weight_decay p| where the paper has |g| + weight_decay |p|, and takes a leaf for one layer.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import optax
from jaxtyping import Array

from lmjax.errors import check_number
from lmjax.optim.lamb import norm_of_each
from lmjax.optim.momentum import Momentum
from lmjax.optim.recipe import Factor, Links, Scalar
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Leaf, Roles, map_roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class LARS(Momentum):
    """A ratio for each matrix and vector, then optax.trace; the rate is relative."""

    label: ClassVar[str] = "lars"
    unfit: ClassVar[tuple[str, ...]] = ("hyperball",)
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-2, 1e2),
        "momentum": Choice((0.8, 0.9, 0.95)),
        "weight_decay": Choice((0.0, 5e-4, 5e-3)),  # it stands beside the gradient, not the step
    }
    reference: ClassVar[Reference | None] = Reference(
        "Large batch training of convolutional networks",
        "1708.03888",
        "huggingface/pytorch-image-models",
        "v0.9.16",
        "timm/optim/lars.py",
    )

    learning_rate: float = 1.0  # the peak; times `coefficient`, the relative size of a step
    weight_decay: float = 5e-4  # within the ratio; for the roles that decay (lmjax/roles.py)
    coefficient: float = 1e-3  # of the ratio of norms

    def validate(self) -> None:
        super().validate()
        check_number("coefficient", self.coefficient, above=0)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        scaled = scale_by_layer(roles, self.weight_decay, self.coefficient)
        return optax.chain(scaled, super().direction(roles))

    def descent(self, roles: Roles, learning_rate: Scalar, factor: Factor) -> Links:
        direction, _, rate = super().descent(roles, learning_rate, factor)
        return [direction, rate]


def scale_by_layer(
    roles: Roles, weight_decay: float, coefficient: float
) -> optax.GradientTransformation:
    """ratio (g + weight_decay p) of the equations above."""

    def scale(leaf: Leaf, g: Array, p: Array) -> Array:
        decay = leaf.decays * weight_decay
        of_p, of_g = norm_of_each(leaf, p), norm_of_each(leaf, g)
        known = (of_p > 0) & (of_g > 0)
        ratio = jnp.where(known, coefficient * of_p / jnp.where(known, of_g + decay * of_p, 1), 1)
        return ratio * (g + decay * p if decay else g)

    return optax.stateless(lambda updates, params: map_roles(scale, roles, updates, params))
