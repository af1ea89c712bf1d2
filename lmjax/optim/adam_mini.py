"""Adam-mini (Zhang et al., arXiv 2406.16793): Adam with one second moment for a block of weights.

    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) mean over the block of g^2
    direction = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

A block is all weights that go into one head of a query or a key; of every other matrix, values
included, those of one output; of an embedding those of one row. A vector keeps plain Adam, as the
authors' biases do; of a norm's scale theirs keep one number. Equal to the authors' adam_mini.py
(zyushun/Adam-mini@402aadf). In a leaf that holds values beside queries or keys, the number of a
head stands once for each of its outputs.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Integer

from lmjax.errors import check_number
from lmjax.optim.recipe import DECAYS, Optimizer
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Leaf, Roles, map_roles

VALUES = {"qkv": 2, "kv": 1}  # place of the values along a stack of projections


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamMini(Optimizer):
    """AdamW with a second moment for each head and each output."""

    label: ClassVar[str] = "adam-mini"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-5, 1e-1),
        "b1": Choice((0.9, 0.95)),
        "b2": Choice((0.95, 0.99, 0.999)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "Adam-mini: use fewer learning rates to gain more",
        "2406.16793",
        "zyushun/Adam-mini",
        "402aadfed23719f3b92c8e78b5d49ad499ff7ada",
        "adam_mini/adam_mini.py",
    )

    b1: float = 0.9  # decay of the first moment
    b2: float = 0.999  # decay of the second moment
    eps: float = 1e-8  # added to the root of the second moment

    def validate(self) -> None:
        super().validate()
        check_number("b1", self.b1, least=0, below=1)
        check_number("b2", self.b2, least=0, below=1)
        check_number("eps", self.eps, above=0)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return scale_by_adam_mini(roles, self.b1, self.b2, self.eps)


class ScaleByAdamMiniState(NamedTuple):
    """step: int32 [], updates made so far; first: like the parameters; second: of blocks."""

    step: Integer[Array, ""]
    first: Any
    second: Any  # with 1 for each axis that lies within a block


def scale_by_adam_mini(
    roles: Roles, b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
    """The direction above."""

    def init(params: Any) -> ScaleByAdamMiniState:
        second = map_roles(lambda leaf, p: block_means(leaf, jnp.zeros_like(p)), roles, params)
        first = jax.tree.map(jnp.zeros_like, params)
        return ScaleByAdamMiniState(jnp.zeros([], jnp.int32), first, second)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def average(leaf: Leaf, g: Array, v: Array) -> Array:
            return (b2 * v + (1 - b2) * block_means(leaf, jnp.square(g))).astype(v.dtype)

        step = state.step + 1
        bias1, bias2 = (1 - b ** step.astype(float) for b in (b1, b2))

        def direction(m: Array, v: Array) -> Array:
            return (m / bias1 / (jnp.sqrt(v / bias2) + eps)).astype(m.dtype)

        first = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, updates, state.first)
        second = map_roles(average, roles, updates, state.second)
        moved = jax.tree.map(direction, first, second)
        return moved, ScaleByAdamMiniState(step, first, second)

    return optax.GradientTransformation(init, update)


def block_means(leaf: Leaf, x: Array) -> Array:
    """The mean of each block of an array of this leaf, whose axes are kept."""
    if leaf.role == "vector":
        return x
    inputs, outputs = leaf.groups
    means = jnp.mean(x, tuple(outputs if leaf.role == "embedding" else inputs), keepdims=True)
    if "head_dim" not in {leaf.axes[number] for number in outputs}:
        return means
    of_heads = jnp.mean(means, leaf.axes.index("head_dim"), keepdims=True)
    stack = [name for name in VALUES if name in leaf.axes]
    if not stack:
        return of_heads  # queries, or keys, alone
    axis, along = leaf.axes.index(stack[0]), [1] * x.ndim
    along[axis] = x.shape[axis]
    is_value = jnp.reshape(jnp.arange(x.shape[axis]) == VALUES[stack[0]], along)
    return jnp.where(is_value, means, of_heads)
