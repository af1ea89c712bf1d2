"""LAMB (You et al., arXiv 1904.00962): AdamW whose step is as large as the layer it moves.

m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay p
direction = |p| / |u| u, and u itself where either norm is 0

Norms are of each matrix of the view: of each layer, and of q, k and v apart, where optax's
scale_by_trust_ratio takes a leaf for one layer. Biases and norms go without decay and ratio, as in
a coauthor's code (google-research/albert@b772393, lamb_optimizer.py), which leaves out the paper's
bias correction. Equal to timm's Lamb (huggingface/pytorch-image-models@v0.9.16) without its clip.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import optax
from jaxtyping import Array

from lmjax.optim.adamw import AdamW
from lmjax.optim.recipe import DECAYS, Factor, Links, Scalar
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Leaf, Roles, map_roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class LAMB(AdamW):
    """optax.scale_by_adam and decay, then a ratio for each matrix; the rate is relative."""

    label: ClassVar[str] = "lamb"
    unfit: ClassVar[tuple[str, ...]] = ("hyperball",)
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-4, 1.0),
        "b2": Choice((0.95, 0.99, 0.999)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "Large batch optimization for deep learning: training BERT in 76 minutes",
        "1904.00962",
        "huggingface/pytorch-image-models",
        "v0.9.16",
        "timm/optim/lamb.py",
    )

    eps: float = 1e-6  # added to the root of the second moment

    def descent(self, roles: Roles, learning_rate: Scalar, factor: Factor) -> Links:
        direction, decay, rate = super().descent(roles, learning_rate, factor)
        return [direction, decay, ("ratio", scale_by_trust_ratio(roles)), rate]


def scale_by_trust_ratio(roles: Roles) -> optax.GradientTransformation:
    """Each matrix as large as its parameter; vectors as they are."""

    def scale(leaf: Leaf, u: Array, p: Array) -> Array:
        if not leaf.decays:
            return u
        of_p, of_u = norm_of_each(leaf, p), norm_of_each(leaf, u)
        known = (of_p > 0) & (of_u > 0)
        ratio = jnp.where(known, of_p / jnp.where(known, of_u, 1), 1)
        return ratio * u

    return optax.stateless(lambda updates, params: map_roles(scale, roles, updates, params))


def norm_of_each(leaf: Leaf, x: Array) -> Array:
    """Frobenius norm of each matrix, or norm of each vector, with the leaf's axes kept."""
    own = tuple(number for group in leaf.groups for number in group)
    return jnp.sqrt(jnp.sum(jnp.square(x), own, keepdims=True))
