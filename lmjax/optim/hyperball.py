"""Hyperball (Wen et al., arXiv 2606.16899): weights and steps of fixed Frobenius norm.

    p <- p - rate |p| u / max(|u|, 1e-10),   then   p <- p |p before| / |p|

for each matrix of the main rule (hidden layers and the head, not embeddings), with u the direction
of any optimizer: the rate is the tangent of the angle by which a matrix turns. Of each layer, q, k
and v apart. Nothing decays; a matrix of zeros stays zero. With AdamW it is AdamH, equal to the
authors' (marin-community/marin@7cb2d65, lib/levanter/src/levanter/optim/adamh.py). With Muon it is
MuonH but for the head, which theirs turns by AdamH at the main rate, and ours leaves to the
auxiliary as without hyperball.

An average (ema_decay) of what turns has a smaller norm, which nothing restores.
"""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from lmjax.roles import Leaf, Role, Roles, map_roles

TURNED: tuple[Role, ...] = ("matrix", "head")
LEAST = 1e-10  # the authors' guard of a division by a norm


def relative(roles: Roles, turned: Any) -> optax.GradientTransformation:
    """Directions as long as their parameters, for the leaves that `turned` marks."""

    def update(updates: Any, params: Any) -> Any:
        def scale(leaf: Leaf, turns: bool, u: Array, p: Array) -> Array:
            if not turns:
                return u
            length = norm(leaf.to_matrices(p)) / jnp.maximum(norm(leaf.to_matrices(u)), LEAST)
            return leaf.as_matrices(lambda u: (u * length).astype(u.dtype), u)

        return map_roles(scale, roles, turned, updates, params)

    return optax.stateless(update)


def on_sphere(roles: Roles, turned: Any) -> optax.GradientTransformation:
    """Steps that end at the norm they began with, for the leaves that `turned` marks."""

    def update(updates: Any, params: Any) -> Any:
        def end(leaf: Leaf, turns: bool, u: Array, p: Array) -> Array:
            if not turns:
                return u
            old, new = leaf.to_matrices(p), leaf.to_matrices(p) + leaf.to_matrices(u)
            ended = new * (norm(old) / jnp.maximum(norm(new), LEAST))
            return leaf.from_matrices((ended - old).astype(u.dtype))

        return map_roles(end, roles, turned, updates, params)

    return optax.stateless(update)


def norm(x: Float[Array, "*s i o"]) -> Float[Array, "*s 1 1"]:
    """Frobenius norms, in float32 or wider."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)
