"""Hyperball (Wen et al., arXiv 2606.16899): weights and steps of fixed Frobenius norm.

    p <- p - rate |p| u / max(|u|, 1e-10),   then   p <- r p / |p|

with r the norm that a matrix began with and u the direction of any optimizer: the rate is the
tangent of the angle by which it turns. So for each matrix of the main rule (hidden layers and the
head, not embeddings), of each layer and of q, k and v apart. Nothing decays; a matrix of zeros
stays zero. With AdamW it is AdamH, equal to the authors' (marin-community/marin@7cb2d65,
lib/levanter/src/levanter/optim/adamh.py), where r is the norm before the step: in float32 that
drifts, by 1e-8 a step where we saw it. With Muon it is MuonH but for the head, which theirs turns
by AdamH at the main rate, and ours leaves to the auxiliary as without hyperball.

An average (ema_decay) of what turns has a smaller norm, which nothing restores.
"""

from typing import Any, NamedTuple

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


class OnSphereState(NamedTuple):
    """radii: [stacked..., 1, 1] for each parameter that turns, None for the others."""

    radii: Any


def on_sphere(roles: Roles, turned: Any) -> optax.GradientTransformation:
    """Steps that end at the norm of the first parameters, for the leaves that `turned` marks."""

    def init(params: Any) -> OnSphereState:
        def radius(leaf: Leaf, turns: bool, p: Array) -> Array | None:
            return norm(leaf.to_matrices(p)) if turns else None

        return OnSphereState(map_roles(radius, roles, turned, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def end(leaf: Leaf, u: Array, p: Array, radius: Array | None) -> Array:
            if radius is None:
                return u
            step, old = leaf.to_matrices(u), leaf.to_matrices(p)
            new = old + step
            ended = new * (radius / jnp.maximum(norm(new), LEAST)) - old
            return leaf.from_matrices(jnp.where(norm(step) > 0, ended, 0).astype(u.dtype))

        return map_roles(end, roles, updates, params, state.radii), state

    return optax.GradientTransformation(init, update)


def norm(x: Float[Array, "*s i o"]) -> Float[Array, "*s 1 1"]:
    """Frobenius norms, in float32 or wider."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)
