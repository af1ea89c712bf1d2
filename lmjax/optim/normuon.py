"""NorMuon (Li et al., arXiv 2510.05491): Muon whose neurons take steps of equal size.

    o = NS5(u)                         with the u of optimizer:muon (lmjax/optim/muon.py)
    v <- b2 v + (1 - b2) mean of o^2 over the inputs of each neuron
    n = o / (sqrt(v) + 1e-10)
    direction = n |o| / (|n| + 1e-10) * sqrt(max(1, outputs / inputs))

so that a step keeps the size of Muon's. A neuron is one output of a matrix, and the norms are
Frobenius norms of each matrix. Equal to the authors' normuon.py (zichongli5/NorMuon@d45c9a4) with
Newton-Schulz in float64; they keep o in bfloat16 after it, ours returns to the gradient's dtype.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from lmjax.errors import check_number
from lmjax.optim.muon import Muon, scale_of, with_momentum
from lmjax.optim.newton_schulz import FASTEST, orthogonal
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, Space
from lmjax.roles import Leaf, Roles, map_roles

EPS = 1e-10  # the authors' guard of both divisions


@dataclasses.dataclass(frozen=True, kw_only=True)
class NorMuon(Muon):
    """Orthogonalised momentum with a second moment for each neuron, AdamW for the rest."""

    label: ClassVar[str] = "normuon"
    search_space: ClassVar[Space] = {**Muon.search_space, "b2": Choice((0.9, 0.95, 0.98))}
    reference: ClassVar[Reference | None] = Reference(
        "NorMuon: making Muon more efficient and scalable",
        "2510.05491",
        "zichongli5/NorMuon",
        "d45c9a4280d758e2cf0b2b8333765d040e953937",
        "normuon.py",
    )

    b2: float = 0.95  # decay of the second moment

    def validate(self) -> None:
        super().validate()
        check_number("b2", self.b2, least=0, below=1)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return scale_by_normuon(
            roles,
            self.momentum,
            self.nesterov,
            self.b2,
            self.newton_schulz_steps,
            jnp.dtype(self.newton_schulz_dtype),
        )


class ScaleByNorMuonState(NamedTuple):
    """momentum: a tree like the parameters; second: a number for each neuron, [*s, outputs]."""

    momentum: Any
    second: Any


def scale_by_normuon(
    roles: Roles, momentum: float, nesterov: bool, b2: float, steps: int, dtype: jnp.dtype
) -> optax.GradientTransformation:
    """The direction above; every leaf of `roles` must be a matrix."""

    def init(params: Any) -> ScaleByNorMuonState:
        def neurons(leaf: Leaf, p: Array) -> Array:
            *stacked, _, outputs = leaf.matrix_shape
            return jnp.zeros((*stacked, outputs), p.dtype)

        zeros = jax.tree.map(jnp.zeros_like, params)
        return ScaleByNorMuonState(zeros, map_roles(neurons, roles, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        m, u = with_momentum(updates, state.momentum, momentum, nesterov)

        def turned(leaf: Leaf, u: Array) -> Array:
            return orthogonal(leaf, u, [FASTEST] * steps, dtype)

        def mix(o: Array, v: Array) -> Array:
            return (b2 * v + (1 - b2) * jnp.mean(o * o, axis=-2)).astype(v.dtype)

        def direction(leaf: Leaf, o: Array, v: Array) -> Array:
            return scale_of(leaf) * leaf.from_matrices(equalise(o, v))

        o = map_roles(turned, roles, u)
        v = jax.tree.map(mix, o, state.second)
        return map_roles(direction, roles, o, v), ScaleByNorMuonState(m, v)

    return optax.GradientTransformation(init, update)


def equalise(o: Float[Array, "*s i o"], v: Float[Array, "*s o"]) -> Float[Array, "*s i o"]:
    """Each neuron divided by the root of its second moment, at the size that the matrix had."""

    def size(x: Array) -> Array:
        return jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)

    n = o / (jnp.sqrt(v)[..., None, :] + EPS)
    return n * (size(o) / (size(n) + EPS))
