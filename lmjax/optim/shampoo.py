"""Shampoo (Gupta et al., arXiv 1802.09568) as distributed (Shi et al., arXiv 2309.06497).

For each matrix, with L and R the averages of g g' and g' g (sums, with b2 = 1):
    m <- b1 m + (1 - b1) g,   u = m / (1 - b1^t)
    L <- b2 L + (1 - b2) g g',   R likewise
    every f-th step:   PL = (L / (1 - b2^t) + eps)^(-power),   PR likewise, power being 1/4
    direction = PL u PR
Roots are of eigenvalues; where rounding leaves the least below eps, all are raised until it is eps.
With `grafting` the direction is given the Frobenius norm of another method's for the same matrix,
and until the first f-th step is that method's:
    adam   u / (sqrt(v / (1 - b2^t)) + grafting_eps),   v <- b2 v + (1 - b2) g^2
    sgd    u
With b1 = b2 = 0 and no grafting PL u PR is U V' of g = U S V': Muon's with an exact
orthogonalisation in the place of Newton-Schulz.

Equal to the authors' distributed_shampoo (facebookresearch/optimizers@f606606). What they have
otherwise:
- a side longer than `longest_side` is cut into blocks; ours has no factor for it
- every leaf is moved so; ours are hidden matrices, one for each layer and each of q, k and v, and
  a convolution is one matrix where the authors have four factors
Defaults are those of their example in the place of Adam, but for refresh_every: roots are found
anew every 10 steps here, every 100 there.
Under FSDP factors and roots are whole on every device.
"""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer

from lmjax.errors import check_choice, check_integer, check_number
from lmjax.optim.decompose import eigen_of, one_by_one
from lmjax.optim.recipe import AUXILIARY_SPACE, DECAYS, MatrixOptimizer
from lmjax.optim.reference import Reference
from lmjax.optim.sides import Sides, grow, no_sides, product, transposed
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Leaf, Roles, map_roles

Grafting = Literal["adam", "sgd", "none"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shampoo(MatrixOptimizer):
    """Both sides of hidden matrices whitened, AdamW for the rest."""

    label: ClassVar[str] = "shampoo"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-5, 1e-1),
        **AUXILIARY_SPACE,
        "b1": Choice((0.9, 0.95)),
        "b2": Choice((0.95, 0.99, 0.999)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "A distributed data-parallel PyTorch implementation of the distributed Shampoo optimizer",
        "2309.06497",
        "facebookresearch/optimizers",
        "f60660661194de26d3ee78bae6d15820ff8e583d",
        "distributed_shampoo/distributed_shampoo.py",
    )

    learning_rate: float = 1e-3  # the peak for hidden matrices
    b1: float = 0.9  # decay of the first moment
    b2: float = 0.999  # decay of L, R and v; 1 adds them up
    power: float = 0.25  # of the inverse of each factor
    eps: float = 1e-12  # added to the eigenvalues of both factors
    grafting: Grafting = "adam"  # whose size a direction has
    grafting_eps: float = 1e-8  # added to the root of Adam's second moment
    refresh_every: int = 10  # steps between two roots
    longest_side: int = 8192  # a longer side is not whitened

    def validate(self) -> None:
        super().validate()
        check_number("b1", self.b1, least=0, below=1)
        check_number("b2", self.b2, least=0, most=1)
        check_number("power", self.power, above=0, most=1)
        check_number("eps", self.eps, above=0)
        check_choice("grafting", self.grafting, get_args(Grafting))
        check_number("grafting_eps", self.grafting_eps, above=0)
        check_integer("refresh_every", self.refresh_every, least=1)
        check_integer("longest_side", self.longest_side, least=0)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return scale_by_shampoo(roles, self)


class ScaleByShampooState(NamedTuple):
    """step: int32 []; first and second: trees like the parameters; factors, roots: of Sides."""

    step: Integer[Array, ""]
    first: Any  # moment
    second: Any  # moment, if grafted on Adam, else None
    factors: Any  # L and R of each parameter
    roots: Any  # PL and PR of each parameter


def scale_by_shampoo(roles: Roles, has: Shampoo) -> optax.GradientTransformation:
    """The direction above, of these settings; every leaf of `roles` must be a matrix."""
    gain = 1.0 if has.b2 == 1 else 1 - has.b2

    def init(params: Any) -> ScaleByShampooState:
        def sides() -> Any:
            return map_roles(
                lambda leaf, p: no_sides(leaf, p.dtype, has.longest_side), roles, params
            )

        def identity(x: Array) -> Array:
            return jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape)

        def zeros() -> Any:
            return jax.tree.map(jnp.zeros_like, params)

        second = zeros() if has.grafting == "adam" else None
        roots = jax.tree.map(identity, sides())
        return ScaleByShampooState(jnp.zeros([], jnp.int32), zeros(), second, sides(), roots)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        t = state.step + 1
        bias1 = 1 - has.b1 ** t.astype(float)
        bias2 = 1.0 if has.b2 == 1 else 1 - has.b2 ** t.astype(float)
        refreshes = t % has.refresh_every == 0

        def grown(leaf: Leaf, g: Array, factor: Sides) -> Sides:
            return grow(factor, leaf.to_matrices(g), has.b2, gain)

        def rooted(factors: Any, roots: Any) -> Any:
            return jax.tree.map(lambda x: inverse_root(x / bias2, has.power, has.eps), factors)

        def first(g: Array, m: Array) -> Array:
            return (has.b1 * m + (1 - has.b1) * g).astype(m.dtype)

        def second(g: Array, v: Array) -> Array:
            return (has.b2 * v + gain * g * g).astype(v.dtype)

        factors = map_roles(grown, roles, updates, state.factors)
        roots = jax.lax.cond(refreshes, rooted, lambda f, roots: roots, factors, state.roots)
        m = jax.tree.map(first, updates, state.first)
        u = jax.tree.map(lambda m: m / bias1, m)
        moved = map_roles(whitened, roles, u, roots)
        v = None if state.second is None else jax.tree.map(second, updates, state.second)
        if has.grafting != "none":

            def adam(u: Array, v: Array) -> Array:
                return u / (jnp.sqrt(v / bias2) + has.grafting_eps)

            sizes = u if v is None else jax.tree.map(adam, u, v)
            known = t >= has.refresh_every  # before, the other method's own step is taken
            moved = map_roles(lambda *x: jnp.where(known, grafted(*x), x[2]), roles, moved, sizes)
        moved = jax.tree.map(lambda x, g: x.astype(g.dtype), moved, updates)
        return moved, ScaleByShampooState(t, m, v, factors, roots)

    return optax.GradientTransformation(init, update)


def inverse_root(x: Float[Array, "*s n n"], power: float, eps: float) -> Float[Array, "*s n n"]:
    """(x + eps)^(-power) of symmetric matrices, whose eigenvalues are made eps at least."""
    ridge = eps * jnp.eye(x.shape[-1], dtype=x.dtype)
    values, vectors = one_by_one(eigen_of, x + jnp.broadcast_to(ridge, x.shape))
    least = values[..., :1]
    values = jnp.where(least < eps, (values - least) + eps, values)
    return product(vectors * (values**-power)[..., None, :], transposed(vectors))


def whitened(leaf: Leaf, u: Array, roots: Sides) -> Array:
    """PL u PR."""
    x = leaf.to_matrices(u)
    x = x if roots.inputs is None else product(roots.inputs, x)
    x = x if roots.outputs is None else product(x, roots.outputs)
    return leaf.from_matrices(x)


def grafted(leaf: Leaf, x: Array, size: Array) -> Array:
    """x with the norm that `size` has, in each matrix."""

    def norm(x: Array) -> Array:
        return jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)

    x, size = leaf.to_matrices(x), leaf.to_matrices(size)
    return leaf.from_matrices(x * (norm(size) / (norm(x) + 1e-16)))
