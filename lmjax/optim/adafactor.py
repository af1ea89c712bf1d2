"""Adafactor (Shazeer and Stern, arXiv 1804.04235): Adam's second moment from rows and columns.

    d = 1 - t^(-decay_exponent)
    rows <- d rows + (1 - d) mean of g^2 over the outputs,   columns likewise over the inputs
    v = rows columns / mean of rows           (a vector, or a small matrix, keeps its v itself)
    u = g / sqrt(v),   direction = u / max(1, rms(u) / clip_threshold) * max(least_scale, rms(p))

without momentum. The rate is relative to the size of each matrix (the last factor, which
`scale_by_parameter` False leaves out), and the paper's is at most 1 / sqrt(t), which is left to
the schedule. optax.scale_by_factored_rms takes the two longest axes of an array for its rows and
columns, which of stacked layers or heads are others; ours are those of the matrix view, and each
matrix has its own norms. Equal to torch.optim.Adafactor (pytorch/pytorch@v2.13.0) while its rate
is below 1 / sqrt(t), and, of plain matrices, to optax's in float64.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer

from lmjax.errors import check_integer, check_number
from lmjax.optim.recipe import DECAYS, Optimizer
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Leaf, Roles, map_roles

EPS = 1e-30  # the authors' addition to the squared gradient


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """A second moment that costs a row and a column for each matrix."""

    label: ClassVar[str] = "adafactor"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-4, 1.0),
        "decay_exponent": Choice((0.5, 0.8)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "Adafactor: adaptive learning rates with sublinear memory cost",
        "1804.04235",
        "pytorch/pytorch",
        "v2.13.0",
        "torch/optim/_adafactor.py",
    )

    learning_rate: float = 0.01  # the peak, relative to the root mean square of a matrix
    decay_exponent: float = 0.8  # how fast the decay of the second moment rises towards 1
    clip_threshold: float = 1.0  # largest root mean square of a direction
    least_scale: float = 1e-3  # what a smaller root mean square of a matrix counts as
    scale_by_parameter: bool = True  # False: the rate is absolute
    factored_from: int = 128  # a matrix with a shorter side keeps its whole second moment

    def validate(self) -> None:
        super().validate()
        check_number("decay_exponent", self.decay_exponent, above=0)
        check_number("clip_threshold", self.clip_threshold, above=0)
        check_number("least_scale", self.least_scale, above=0)
        check_integer("factored_from", self.factored_from, least=1)

    @property
    def keeps_signs(self) -> bool:
        return True

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return optax.chain(
            scale_by_factored_rms(roles, self.decay_exponent, self.factored_from),
            clip_each(roles, self.clip_threshold),
            scale_by_size(roles, self.least_scale) if self.scale_by_parameter else optax.identity(),
        )


class Factors(NamedTuple):
    """Means of the squared gradient over the other side of each matrix."""

    rows: Float[Array, "*s i"]
    columns: Float[Array, "*s o"]


class ScaleByFactoredRmsState(NamedTuple):
    """step: int32 [], updates made so far; second: for each parameter Factors, or one like it."""

    step: Integer[Array, ""]
    second: Any


def scale_by_factored_rms(
    roles: Roles, exponent: float, factored_from: int
) -> optax.GradientTransformation:
    """g / sqrt(v) of the equations above."""

    def first(leaf: Leaf, p: Array) -> Factors | Array:
        if not is_factored(leaf, factored_from):
            return jnp.zeros_like(p)
        *stacked, inputs, outputs = leaf.matrix_shape
        dtype = at_least_float32(p)
        return Factors(jnp.zeros((*stacked, inputs), dtype), jnp.zeros((*stacked, outputs), dtype))

    def init(params: Any) -> ScaleByFactoredRmsState:
        return ScaleByFactoredRmsState(jnp.zeros([], jnp.int32), map_roles(first, roles, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        step = state.step + 1
        decay = 1 - jnp.asarray(step, float) ** -exponent

        def average(held: Array, new: Array) -> Array:
            return (decay * held + (1 - decay) * new).astype(held.dtype)

        def mix(leaf: Leaf, g: Array, held: Factors | Array) -> Factors | Array:
            squares = jnp.square(g.astype(at_least_float32(g))) + EPS
            if isinstance(held, Factors):
                squares = leaf.to_matrices(squares)
                new = Factors(jnp.mean(squares, -1), jnp.mean(squares, -2))
            else:
                new = squares
            return jax.tree.map(average, held, new)

        def divide(leaf: Leaf, g: Array, held: Factors | Array) -> Array:
            if not isinstance(held, Factors):
                return (g * jax.lax.rsqrt(held)).astype(g.dtype)
            rows = held.rows / jnp.mean(held.rows, -1, keepdims=True)
            scale = jax.lax.rsqrt(rows)[..., :, None] * jax.lax.rsqrt(held.columns)[..., None, :]
            return leaf.as_matrices(lambda g: (g * scale).astype(g.dtype), g)

        second = map_roles(mix, roles, updates, state.second)
        return map_roles(divide, roles, updates, second), ScaleByFactoredRmsState(step, second)

    return optax.GradientTransformation(init, update)


def clip_each(roles: Roles, threshold: float) -> optax.GradientTransformation:
    """No matrix or vector of a larger root mean square."""

    def clip(leaf: Leaf, u: Array) -> Array:
        return leaf.from_matrices(
            leaf.to_matrices(u) / jnp.maximum(1.0, size_of_each(leaf, u) / threshold)
        )

    return optax.stateless(lambda updates, params: map_roles(clip, roles, updates))


def scale_by_size(roles: Roles, least: float) -> optax.GradientTransformation:
    """Each matrix or vector times its parameter's root mean square."""

    def scale(leaf: Leaf, u: Array, p: Array) -> Array:
        return leaf.from_matrices(leaf.to_matrices(u) * jnp.maximum(least, size_of_each(leaf, p)))

    return optax.stateless(lambda updates, params: map_roles(scale, roles, updates, params))


def size_of_each(leaf: Leaf, x: Array) -> Array:
    """Root mean square of each matrix or vector, with its axes kept."""
    return jnp.sqrt(jnp.mean(jnp.square(leaf.to_matrices(x)), leaf.own_axes, keepdims=True))


def is_factored(leaf: Leaf, factored_from: int) -> bool:
    """Whether rows and columns stand for the second moment."""
    return len(leaf.groups) == 2 and min(leaf.matrix_shape[-2:]) >= factored_from


def at_least_float32(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)
