"""Kron: preconditioned SGD with Kronecker factors (Li, arXiv 2402.04553).

For each matrix, with triangular QL and QR that begin as multiples of the identity:
    m <- b1 m + (1 - b1) g,   u = m / (1 - b1^t)
    now and then:   A = QL (u + e v) QR',   B = QL'^-1 v QR^-1,   v normal, e = 3e-4 mean |u|
                    QL <- QL - factor_rate triu(A A' - B B') QL / |A A' + B B'|
                    QR <- QR - factor_rate triu(A' A - B' B) QR / |A' A + B' B|
    direction = QL' QL u QR' QR,   divided by rms / 1.1 where that is above 1
Factors are updated once 1 / p(t) steps have gone by since the last time, with
    p(t) = max_probability exp(-probability_decay (t - flat_steps)), at most max_probability and at
           least min_probability
and in about one of a hundred times they are made equally large first. |.| is an estimate of the
spectral norm from below. A side that is too long, or 1, has a diagonal factor.

Equal to psgd_jax/kron.py (evanatyourservice/psgd_jax@be95524) of matrices one by one. v comes from
a key of the state, folded with t; it is their fixed one, so that v is the same for every seed of a
run. What they have otherwise:
- every leaf is moved so; ours are hidden matrices, one for each layer and each of q, k and v, and
  a convolution is one matrix where the authors have four factors
- stacked layers share the mean |u| and the root mean square; ours have their own
- factors are updated in TF32 where the device has it; ours in the dtype of the factors
Under FSDP factors are whole on every device.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Integer, PRNGKeyArray, UInt32

from lmjax.errors import FieldError, check_integer, check_number
from lmjax.optim.decompose import divided_by_triangle
from lmjax.optim.recipe import AUXILIARY_SPACE, DECAYS, MatrixOptimizer
from lmjax.optim.reference import Reference
from lmjax.optim.sides import product, transposed
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Leaf, Roles, map_roles

KEY = 5318008  # the authors' seed of v
DAMPING = float(np.sqrt(np.finfo(np.float32).eps))  # e above, of mean |u|
BALANCED = 0.01  # how often factors are made equally large, of the times they are updated
LARGEST_RMS = 1.1  # of a direction


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kron(MatrixOptimizer):
    """Both sides of hidden matrices whitened by learned factors, AdamW for the rest."""

    label: ClassVar[str] = "kron"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-5, 1e-1),
        **AUXILIARY_SPACE,
        "b1": Choice((0.9, 0.95)),
        "factor_rate": Choice((0.05, 0.1, 0.2)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "Stochastic Hessian fittings with Lie groups",
        "2402.04553",
        "evanatyourservice/psgd_jax",
        "be9552446381ce1ad9fcf9632c5c1045a9fa44c3",
        "psgd_jax/kron.py",
    )

    learning_rate: float = 1e-3  # the peak for hidden matrices
    b1: float = 0.9  # decay of the first moment
    factor_rate: float = 0.1  # of the factors' own steps
    factor_scale: float = 1.0  # of both factors of a matrix together, to begin with
    factors_from_momentum: bool = True  # False: from gradients
    max_probability: float = 1.0  # of an update of the factors, to begin with
    min_probability: float = 0.03  # and in the end
    probability_decay: float = 1e-3  # how fast it falls, a step
    flat_steps: int = 500  # before it falls
    longest_side: int = 8192  # a longer side has a diagonal factor

    def validate(self) -> None:
        super().validate()
        check_number("b1", self.b1, least=0, below=1)
        check_number("factor_rate", self.factor_rate, above=0, most=1)
        check_number("factor_scale", self.factor_scale, above=0)
        check_number("max_probability", self.max_probability, above=0, most=1)
        check_number("min_probability", self.min_probability, above=0, most=1)
        if self.min_probability > self.max_probability:
            told = f"must be at most max_probability, {self.max_probability}"
            raise FieldError("min_probability", self.min_probability, told)
        check_number("probability_decay", self.probability_decay, least=0)
        check_integer("flat_steps", self.flat_steps, least=0)
        check_integer("longest_side", self.longest_side, least=0)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return scale_by_kron(roles, self)

    def probability(self, step: Integer[Array, ""]) -> Float[Array, ""]:
        """p(t) of the equations above."""
        falling = jnp.exp(-self.probability_decay * (step - self.flat_steps))
        least = jnp.maximum(self.max_probability * falling, self.min_probability)
        return jnp.minimum(least, self.max_probability)


class Factors(NamedTuple):
    """QL and QR: upper triangular [*s, n, n], or the diagonal [*s, n]."""

    inputs: Array
    outputs: Array


class ScaleByKronState(NamedTuple):
    """step, since: int32 [], steps so far, and since the factors' last update."""

    step: Integer[Array, ""]
    since: Integer[Array, ""]
    key: UInt32[Array, "2"]  # of v, as plain words
    first: Any  # moment, a tree like the parameters
    factors: Any  # Factors of each parameter


def scale_by_kron(roles: Roles, has: Kron) -> optax.GradientTransformation:
    """The direction above, of these settings; every leaf of `roles` must be a matrix."""

    def init(params: Any) -> ScaleByKronState:
        key = jax.random.key_data(jax.random.key(KEY, impl="threefry2x32"))
        factors = map_roles(lambda leaf, p: first_factors(leaf, p.dtype, has), roles, params)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return ScaleByKronState(
            jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32), key, zeros, factors
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        t = state.step + 1

        def first(g: Array, m: Array) -> Array:
            return (has.b1 * m + (1 - has.b1) * g).astype(m.dtype)

        def moment(leaf: Leaf, m: Array) -> Array:
            m = leaf.to_matrices(m)
            return m.astype(wide(m.dtype)) / (1 - has.b1 ** t.astype(float))

        def gradient(leaf: Leaf, g: Array) -> Array:
            return leaf.to_matrices(g).astype(wide(g.dtype))

        def direction(leaf: Leaf, g: Array, u: Array, q: Factors) -> Array:
            step = each_matrix(leaf, preconditioned, q, u)
            return leaf.from_matrices(step).astype(g.dtype)

        m = jax.tree.map(first, updates, state.first)
        u = map_roles(moment, roles, m)
        seen = u if has.factors_from_momentum else map_roles(gradient, roles, updates)
        key = jax.random.wrap_key_data(state.key, impl="threefry2x32")
        key = jax.random.split(jax.random.fold_in(key, state.step))[1]
        due = state.since + 1 >= 1 / has.probability(t)
        factors = jax.lax.cond(
            due,
            lambda factors, seen: learned(roles, key, factors, seen, has.factor_rate),
            lambda factors, seen: factors,
            *(state.factors, seen),
        )
        since = jnp.where(due, 0, state.since + 1)
        moved = map_roles(direction, roles, updates, u, factors)
        return moved, ScaleByKronState(t, since, state.key, m, factors)

    return optax.GradientTransformation(init, update)


def wide(dtype: Any) -> jnp.dtype:
    """One that LAPACK can take."""
    return jnp.promote_types(dtype, jnp.float32)


def each_matrix(leaf: Leaf, function: Callable[..., Any], *xs: Any) -> Any:
    """A function of one matrix, of all that a leaf has."""
    for _ in leaf.matrix_shape[:-2]:
        function = jax.vmap(function)
    return function(*xs)


def first_factors(leaf: Leaf, dtype: Any, has: Kron) -> Factors:
    """Multiples of the identity."""
    *stacked, inputs, outputs = leaf.matrix_shape

    def side(size: int) -> Array:
        diagonal = size == 1 or size > has.longest_side
        one = jnp.ones(size, wide(dtype)) if diagonal else jnp.eye(size, dtype=wide(dtype))
        return jnp.broadcast_to(has.factor_scale**0.5 * one, (*stacked, *one.shape))

    return Factors(side(inputs), side(outputs))


def learned(roles: Roles, key: PRNGKeyArray, factors: Any, seen: Any, rate: float) -> Any:
    """The factors after one update; keys are split as the authors split them."""
    key, balance = jax.random.split(key)
    due = jax.random.uniform(balance) < BALANCED
    leaves, structure = jax.tree.flatten(roles, is_leaf=lambda x: isinstance(x, Leaf))
    counts = [leaf.size // int(np.prod(leaf.matrix_shape[-2:])) for leaf in leaves]
    keys = jnp.split(
        jax.random.split(jax.random.split(key)[1], sum(counts)), np.cumsum(counts)[:-1]
    )

    def learn(leaf: Leaf, q: Factors, u: Array, keys: Array) -> Factors:
        *stacked, inputs, outputs = leaf.matrix_shape
        draw = jax.vmap(lambda key: jax.random.normal(key, (inputs, outputs), u.dtype))
        v = draw(keys).reshape(leaf.matrix_shape)

        def one(q: Factors, u: Array, v: Array) -> Factors:
            return updated(balanced(q, due), u, v, rate)

        return each_matrix(leaf, one, q, u, v)

    return map_roles(learn, roles, factors, seen, structure.unflatten(keys))


def balanced(q: Factors, due: Array) -> Factors:
    """Both equally large in their largest entries, if it is due."""
    sizes = [jnp.max(jnp.abs(x)) for x in q]
    mean = jnp.sqrt(sizes[0] * sizes[1])
    pairs = zip(q, sizes, strict=True)
    return Factors(*(jnp.where(due, x * (mean / size), x) for x, size in pairs))


def updated(q: Factors, u: Float[Array, "i o"], v: Float[Array, "i o"], rate: float) -> Factors:
    """One step of the factors of one matrix."""
    u = u + DAMPING * jnp.mean(jnp.abs(u)) * v
    a = times(u, q)
    b = transposed(divided(transposed(v), q.inputs))
    b = divided(b, q.outputs)

    def step(q: Array, a: Array, b: Array) -> Array:
        if q.ndim == 1:
            a, b = jnp.sum(a * a, axis=1), jnp.sum(b * b, axis=1)
            return q - rate * (a - b) * q / (jnp.max(jnp.abs(a + b)) + tiny(q))
        a, b = product(a, transposed(a)), product(b, transposed(b))
        return q - product(jnp.triu(rate * (a - b)) / (norm_from_below(a + b) + tiny(q)), q)

    return Factors(step(q.inputs, a, b), step(q.outputs, transposed(a), transposed(b)))


def tiny(x: Array) -> float:
    return float(jnp.finfo(x.dtype).tiny)


def times(x: Float[Array, "i o"], q: Factors) -> Float[Array, "i o"]:
    """QL x QR'."""
    x = q.inputs[:, None] * x if q.inputs.ndim == 1 else product(q.inputs, x)
    return x * q.outputs[None, :] if q.outputs.ndim == 1 else product(x, transposed(q.outputs))


def preconditioned(q: Factors, u: Float[Array, "i o"]) -> Float[Array, "i o"]:
    """QL' QL u QR' QR, of a bounded size."""
    back = Factors(*(x if x.ndim == 1 else transposed(x) for x in q))
    x = times(times(u, q), back)
    return x / jnp.maximum(1.0, jnp.sqrt(jnp.mean(x * x)) / LARGEST_RMS)


def divided(x: Float[Array, "a b"], q: Array) -> Float[Array, "a b"]:
    """x Q^-1 of one factor."""
    return x / q[None, :] if q.ndim == 1 else divided_by_triangle(x, q)


def norm_from_below(x: Float[Array, "n n"]) -> Float[Array, ""]:
    """Of a symmetric matrix, the spectral norm from its longest row by two products."""
    largest = jnp.max(jnp.abs(x))
    x = x / jnp.where(largest > 0, largest, 1)
    row = x[jnp.argmax(jnp.sum(x * x, axis=0))]
    row = jnp.einsum("ab,b->a", x, row, precision=jax.lax.Precision.HIGHEST)
    row = row / jnp.where(largest > 0, jnp.linalg.norm(row), 1)
    return largest * jnp.linalg.norm(
        jnp.einsum("ab,b->a", x, row, precision=jax.lax.Precision.HIGHEST)
    )
