"""Dion2 (Ahn et al., arXiv 2512.16928): orthonormalises a part of the momentum at each step.

    m <- m + g
    K = the ceil(fraction * n) rows or columns of m of the largest L1 norm
    direction = PE(m) in K * sqrt(outputs / inputs),   0 elsewhere
    m <- ef_decay * m in K,   m elsewhere          (error feedback: what was not used stays)
K is of the shorter side, n long, and of outputs where both are equal. PE orthonormalises the part
by the five quintics of Polar Express (lmjax/optim/newton_schulz.py).

Equal to the authors' dion/dion2.py (microsoft/dion@0a059a4) on one device, in float64; they round
the part to bfloat16. On several devices they choose in each shard by itself unless told otherwise
(selection_scope), ours chooses in the whole matrix always. Their scale of rates is
adjust_lr="spectral_norm", which is their default.
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from lmjax.errors import check_number
from lmjax.optim.newton_schulz import (
    POLAR_EXPRESS,
    POLAR_SAFETY,
    Dtype,
    check_dtype,
    orthogonalize,
)
from lmjax.optim.recipe import AUXILIARY_SPACE, DECAYS, MatrixOptimizer
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Leaf, Roles, map_roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dion2(MatrixOptimizer):
    """The largest rows or columns of hidden matrices orthonormalised, AdamW for the rest."""

    label: ClassVar[str] = "dion2"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-4, 1.0),
        **AUXILIARY_SPACE,
        "fraction": Choice((0.25, 0.5, 1.0)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "Dion2: a simple method to shrink matrix in Muon",
        "2512.16928",
        "microsoft/dion",
        "0a059a4542e5aa74b40dcd1dce363836c7afcd48",
        "dion/dion2.py",
    )

    learning_rate: float = 0.01  # the peak for hidden matrices
    weight_decay: float = 0.01  # decoupled; for the roles that decay (lmjax/roles.py)
    fraction: float = 0.25  # of the shorter side that moves at each step
    ef_decay: float = 0.95  # what is left in the momentum of what has moved
    eps: float = 1e-8  # added to the norm of the part
    newton_schulz_dtype: Dtype = "bfloat16"  # of the products

    def validate(self) -> None:
        super().validate()
        check_number("fraction", self.fraction, above=0, most=1)
        check_number("ef_decay", self.ef_decay, least=0, most=1)
        check_number("eps", self.eps, above=0)
        check_dtype("newton_schulz_dtype", self.newton_schulz_dtype)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return scale_by_dion2(
            roles, self.fraction, self.ef_decay, self.eps, jnp.dtype(self.newton_schulz_dtype)
        )


class ScaleByDion2State(NamedTuple):
    """momentum: a tree like the parameters."""

    momentum: Any


class Part(NamedTuple):
    """The direction, and what is left of the momentum."""

    direction: Array
    left: Array


def scale_by_dion2(
    roles: Roles, fraction: float, ef_decay: float, eps: float, dtype: jnp.dtype
) -> optax.GradientTransformation:
    """The direction above; every leaf of `roles` must be a matrix."""

    def init(params: Any) -> ScaleByDion2State:
        return ScaleByDion2State(jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def move(leaf: Leaf, g: Array, m: Array) -> Part:
            x = leaf.to_matrices(m + g)
            *_, inputs, outputs = leaf.matrix_shape
            axis = -1 if outputs <= inputs else -2  # along which they are chosen
            chosen = largest(x, axis, max(1, math.ceil(fraction * x.shape[axis])))
            part = jnp.take_along_axis(x, jnp.expand_dims(chosen, -3 - axis), axis)
            moved = orthogonalize(part, POLAR_EXPRESS, dtype, eps, POLAR_SAFETY)
            place = jnp.expand_dims(places(chosen, x.shape[axis]), -3 - axis)
            back = jnp.take_along_axis((outputs / inputs) ** 0.5 * moved, place, axis)
            direction = jnp.where(place < 0, 0, back)
            left = jnp.where(place < 0, x, ef_decay * x)
            return Part(leaf.from_matrices(direction), leaf.from_matrices(left))

        parts = map_roles(move, roles, updates, state.momentum)
        direction, left = (
            map_roles(lambda leaf, part, n=n: part[n], roles, parts) for n in range(2)
        )
        return direction, ScaleByDion2State(left)

    return optax.GradientTransformation(init, update)


def largest(x: Float[Array, "*s i o"], axis: int, count: int) -> Int[Array, "*s count"]:
    """Which rows (axis -2) or columns (-1) of each matrix have the largest L1 norms."""
    return jax.lax.top_k(jnp.sum(jnp.abs(x), axis=-3 - axis), count)[1]


def places(chosen: Int[Array, "*s count"], size: int) -> Int[Array, "*s size"]:
    """Where each of `size` numbers stands among the chosen ones; -1 = nowhere."""
    found = jax.nn.one_hot(chosen, size, dtype=bool)
    return jnp.where(found.any(-2), jnp.argmax(found, -2), -1)
