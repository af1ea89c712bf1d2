"""SOAP (Vyas et al., arXiv 2409.11321): Adam in the slowly turning eigenbasis of Shampoo's factors.

For each matrix, with L and R the decaying averages of g g' and g' g, and QL, QR their eigenvectors:
    first call   L = (1 - d) g g',  R likewise,  QL, QR by eigh, largest eigenvalue first; no step
    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) (QL' g QR)^2
    direction = QL ((QL' m QR) / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + e)) QR'
    L <- d L + (1 - d) g g',   R likewise
    every f-th step, in each basis: Q <- sorted by diag(Q' L Q), v with it; Q <- qr(L Q)
t counts from 0 at the first call, and e = eps / sqrt(1 - b2^t). Equal to the authors' soap.py
(nikhilvyas/SOAP@a1e5535). What they have otherwise:
- m is kept in the basis and turned with it at every step; ours stays unturned, which is the same
- weight decay comes after the step and not at the first call: p (1 - rate decay) is theirs of the
  moved p, ours of the one before, so that their rate r and decay w are our r (1 - r w) and
  w / (1 - r w)
- every leaf is moved so; ours are hidden matrices, one for each layer and each of q, k and v, and
  a convolution is one matrix where the authors have four factors
Where a matrix is not square, the first gradient leaves the longer side's basis open in its null
space, so that two builds of LAPACK choose different ones and part there. On one machine the bits
are the same. Under FSDP factors and bases are whole on every device.
"""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer

from lmjax.errors import check_integer, check_number
from lmjax.optim.decompose import eigen_of, one_by_one, orthogonal_of
from lmjax.optim.recipe import AUXILIARY_SPACE, DECAYS, MatrixOptimizer
from lmjax.optim.reference import Reference
from lmjax.optim.sides import Sides, each_side, grow, no_sides, product, transposed
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Leaf, Roles, map_roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class SOAP(MatrixOptimizer):
    """Adam in Shampoo's eigenbasis for hidden matrices, AdamW for the rest."""

    label: ClassVar[str] = "soap"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-5, 1e-1),
        **AUXILIARY_SPACE,
        "b1": Choice((0.9, 0.95)),
        "b2": Choice((0.95, 0.99)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "SOAP: improving and stabilizing Shampoo using Adam",
        "2409.11321",
        "nikhilvyas/SOAP",
        "a1e553530fde97d0e6b307d7c82ac6d38b072340",
        "soap.py",
    )

    learning_rate: float = 3e-3  # the peak for hidden matrices
    weight_decay: float = 0.01  # decoupled; for the roles that decay (lmjax/roles.py)
    b1: float = 0.95  # decay of the first moment
    b2: float = 0.95  # decay of the second moment
    factor_decay: float = 0.95  # decay of L and R
    eps: float = 1e-8  # added to the root of the second moment
    refresh_every: int = 10  # steps between two turns of the basis
    longest_side: int = 10_000  # a longer side is not turned

    def validate(self) -> None:
        super().validate()
        for name in ("b1", "b2", "factor_decay"):
            check_number(name, getattr(self, name), least=0, below=1)
        check_number("eps", self.eps, above=0)
        check_integer("refresh_every", self.refresh_every, least=1)
        check_integer("longest_side", self.longest_side, least=0)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return scale_by_soap(
            roles,
            self.b1,
            self.b2,
            self.factor_decay,
            self.eps,
            self.refresh_every,
            self.longest_side,
        )


class ScaleBySoapState(NamedTuple):
    """calls: int32 []; first and second: trees like the parameters; factors, bases: of Sides."""

    calls: Integer[Array, ""]
    first: Any  # moment, unturned
    second: Any  # moment, in the basis
    factors: Any  # L and R of each parameter
    bases: Any  # QL and QR of each parameter


def scale_by_soap(
    roles: Roles,
    b1: float,
    b2: float,
    factor_decay: float,
    eps: float,
    refresh_every: int,
    longest_side: int,
) -> optax.GradientTransformation:
    """The direction above; every leaf of `roles` must be a matrix."""

    def init(params: Any) -> ScaleBySoapState:
        def zeros() -> tuple[Any, Any]:
            sides = map_roles(lambda leaf, p: no_sides(leaf, p.dtype, longest_side), roles, params)
            return jax.tree.map(jnp.zeros_like, params), sides

        (first, factors), (second, bases) = zeros(), zeros()
        return ScaleBySoapState(jnp.zeros([], jnp.int32), first, second, factors, bases)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        t = state.calls  # Adam's steps with this one; none in the first call
        moves = t > 0
        bias1, bias2 = (1 - b ** jnp.maximum(t, 1).astype(float) for b in (b1, b2))

        def first(g: Array, m: Array) -> Array:
            return jnp.where(moves, b1 * m + (1 - b1) * g, m).astype(m.dtype)

        def second(leaf: Leaf, g: Array, v: Array, basis: Sides) -> Array:
            squares = leaf.from_matrices(jnp.square(turn(leaf.to_matrices(g), basis)))
            return jnp.where(moves, b2 * v + (1 - b2) * squares, v).astype(v.dtype)

        def direction(leaf: Leaf, m: Array, v: Array, basis: Sides) -> Array:
            step = turn(leaf.to_matrices(m), basis) / (jnp.sqrt(leaf.to_matrices(v)) + eps)
            step = leaf.from_matrices(turn_back(step, basis)) * jnp.sqrt(bias2) / bias1
            return jnp.where(moves, step, 0).astype(m.dtype)

        def grown(leaf: Leaf, g: Array, factor: Sides) -> Sides:
            return grow(factor, leaf.to_matrices(g), factor_decay, 1 - factor_decay)

        m = jax.tree.map(first, updates, state.first)
        v = map_roles(second, roles, updates, state.second, state.bases)
        moved = map_roles(direction, roles, m, v, state.bases)
        factors = map_roles(grown, roles, updates, state.factors)
        bases, v = jax.lax.switch(
            jnp.where(moves, jnp.where(t % refresh_every == 0, 2, 1), 0),
            (functools.partial(begin, roles), keep, functools.partial(refresh, roles)),
            *(factors, state.bases, v),
        )
        return moved, ScaleBySoapState(t + 1, m, v, factors, bases)

    return optax.GradientTransformation(init, update)


def turn(x: Float[Array, "*s i o"], basis: Sides) -> Float[Array, "*s i o"]:
    """QL' x QR."""
    x = x if basis.inputs is None else product(transposed(basis.inputs), x)
    return x if basis.outputs is None else product(x, basis.outputs)


def turn_back(x: Float[Array, "*s i o"], basis: Sides) -> Float[Array, "*s i o"]:
    """QL x QR'."""
    x = x if basis.inputs is None else product(basis.inputs, x)
    return x if basis.outputs is None else product(x, transposed(basis.outputs))


def begin(roles: Roles, factors: Any, bases: Any, v: Any) -> tuple[Any, Any]:
    """The eigenvectors of the first factors, of the largest eigenvalue first."""

    def eigenvectors(factor: Array) -> Array:
        return one_by_one(eigen_of, factor)[1][..., ::-1]

    return map_roles(lambda leaf, factor: each_side(eigenvectors, factor), roles, factors), v


def keep(factors: Any, bases: Any, v: Any) -> tuple[Any, Any]:
    """As they are."""
    return bases, v


def refresh(roles: Roles, factors: Any, bases: Any, v: Any) -> tuple[Any, Any]:
    """One power iteration from the bases as sorted by their estimates of the eigenvalues."""

    def order(factor: Array, basis: Array) -> Array:
        estimates = jnp.sum(basis * product(factor, basis), axis=-2)
        return jnp.argsort(estimates, axis=-1, descending=True)

    def turned(factor: Array, basis: Array, order: Array) -> Array:
        chosen = jnp.take_along_axis(basis, order[..., None, :], -1)
        return one_by_one(orthogonal_of, product(factor, chosen))

    def permuted(leaf: Leaf, v: Array, order: Sides) -> Array:
        v = leaf.to_matrices(v)
        if order.inputs is not None:
            v = jnp.take_along_axis(v, order.inputs[..., :, None], -2)
        if order.outputs is not None:
            v = jnp.take_along_axis(v, order.outputs[..., None, :], -1)
        return leaf.from_matrices(v)

    orders = map_roles(lambda leaf, f, q: each_side(order, f, q), roles, factors, bases)
    turned_bases = map_roles(
        lambda leaf, f, q, o: each_side(turned, f, q, o), roles, factors, bases, orders
    )
    return turned_bases, map_roles(permuted, roles, v, orders)
