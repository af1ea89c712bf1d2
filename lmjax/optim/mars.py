"""MARS-AdamW (Yuan et al., arXiv 2411.10438): AdamW on a gradient of less variance.

    c = g + gamma b1 / (1 - b1) (g - h),   c <- c / max(1, |c|) for each matrix
    m <- b1 m + (1 - b1) c,   v <- b2 v + (1 - b2) c^2
    direction = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

h is the gradient of the batch before, at the parameters before (the authors' approximate form), or
with `exact` that of this batch at the parameters before, which costs a second gradient. At the
first step h is 0, as in the authors' code (AGI-Arena/MARS@4831e28, MARS/optimizers/mars.py), to
which both forms are equal. As there, every matrix is moved so, embeddings and head too; vectors
take AdamW, which is the auxiliary. |c| is of each matrix of the view: of q, k and v apart, where
the authors have one.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Integer

from lmjax.errors import FieldError, check_number
from lmjax.optim.recipe import AUXILIARY_SPACE, DECAYS, MatrixOptimizer
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Role, Roles, map_roles

MARS_REFERENCE = Reference(
    "MARS: unleashing the power of variance reduction for training large models",
    "2411.10438",
    "AGI-Arena/MARS",
    "4831e28eba863a4e69d7e9474ff8e73bc1b410fe",
    "MARS/optimizers/mars.py",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VarianceReduced(MatrixOptimizer):
    """Any direction from corrected gradients, for all but vectors."""

    left: ClassVar[tuple[Role, ...]] = ("vector",)

    b1: float = 0.95  # decay of the first moment
    gamma: float = 0.025  # strength of the correction
    exact: bool = False  # h by a second gradient, on this batch

    def validate(self) -> None:
        super().validate()
        check_number("b1", self.b1, least=0, below=1)
        check_number("gamma", self.gamma, least=0)
        if self.auxiliary.weight_decay:
            told = "must be 0: here it moves vectors alone, which do not decay"
            raise FieldError("auxiliary.weight_decay", self.auxiliary.weight_decay, told)

    @property
    def strength(self) -> float:
        """What g - h is multiplied with."""
        return self.gamma * self.b1 / (1 - self.b1)

    def base(self) -> optax.GradientTransformation:
        """From corrected gradients to directions."""
        raise NotImplementedError

    def estimate(self, roles: Roles) -> optax.GradientTransformation:
        if not self.exact:
            return optax.identity()
        moved = map_roles(lambda leaf: self.rule_for(leaf) is self, roles)
        return correct_exactly(moved, self.strength)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        corrected = optax.identity() if self.exact else correct(self.strength)
        return optax.chain(corrected, clip_each(roles), self.base())


@dataclasses.dataclass(frozen=True, kw_only=True)
class MARS(VarianceReduced):
    """AdamW on corrected gradients for matrices, embeddings and head; AdamW for vectors."""

    label: ClassVar[str] = "mars"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-5, 1e-1),
        **AUXILIARY_SPACE,
        "gamma": Choice((0.01, 0.025, 0.05)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = MARS_REFERENCE

    learning_rate: float = 3e-3  # the peak for matrices
    b2: float = 0.99  # decay of the second moment
    eps: float = 1e-8  # added to the root of the second moment

    def validate(self) -> None:
        super().validate()
        check_number("b2", self.b2, least=0, below=1)
        check_number("eps", self.eps, above=0)

    def base(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.b1, self.b2, self.eps)


class CorrectState(NamedTuple):
    """before: the gradient of the batch before, a tree like the parameters."""

    before: Any


def correct(strength: float) -> optax.GradientTransformation:
    """g + strength (g - h) with h of the batch before."""

    def init(params: Any) -> CorrectState:
        return CorrectState(jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        corrected = jax.tree.map(lambda g, h: g + strength * (g - h), updates, state.before)
        return corrected, CorrectState(updates)

    return optax.GradientTransformation(init, update)


class CorrectExactlyState(NamedTuple):
    """step: int32 [], updates made so far; before: the parameters before the last of them."""

    step: Integer[Array, ""]
    before: Any


def correct_exactly(moved: Any, strength: float) -> optax.GradientTransformationExtraArgs:
    """g + strength (g - h) with h of this batch, for the leaves that `moved` marks."""

    def init(params: Any) -> CorrectExactlyState:
        return CorrectExactlyState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.copy, params))

    def update(
        updates: Any, state: Any, params: Any = None, *, oracle: Any = None, **extra: Any
    ) -> tuple[Any, Any]:
        _, there = oracle.value_and_grad(state.before)
        known = state.step > 0

        def corrected(moves: bool, g: Array, h: Array) -> Array:
            return g + strength * (g - jnp.where(known, h, 0)) if moves else g

        corrected_tree = jax.tree.map(corrected, moved, updates, there)
        return corrected_tree, CorrectExactlyState(state.step + 1, params)

    return optax.GradientTransformationExtraArgs(init, update)


def clip_each(roles: Roles) -> optax.GradientTransformation:
    """No matrix of a larger norm than 1."""

    def clip(c: Array) -> Array:
        return c / jnp.maximum(1.0, jnp.linalg.norm(c, axis=(-2, -1), keepdims=True))

    def update(updates: Any, params: Any) -> Any:
        return map_roles(lambda leaf, c: leaf.as_matrices(clip, c), roles, updates)

    return optax.stateless(update)
