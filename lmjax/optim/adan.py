"""Adan (Xie et al., arXiv 2208.06677): Nesterov's look ahead by differences of gradients.

With d = g - (the gradient before), 0 at the first step, and b1, b2, b3 as the authors' code has
them, which are 1 minus the paper's:
    m <- b1 m + (1 - b1) g,   n <- b2 n + (1 - b2) d,   v <- b3 v + (1 - b3) (g + b2 d)^2
    direction = (m / (1 - b1^t) + b2 n / (1 - b2^t)) / (sqrt(v / (1 - b3^t)) + eps)

Equal to the authors' adan.py (sail-sg/Adan@2c65bea) with no_prox, its way to decay that is ours.
Written here since optax 0.2.8 has 1 - b2 where the authors have b2, so .08 for .92: at the
authors' defaults the two are .056 apart after 20 steps at a rate of .01.
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
from lmjax.roles import Roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adan(Optimizer):
    """Three moments: of the gradient, of its change, and of the square of both."""

    label: ClassVar[str] = "adan"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-5, 1e-1),
        "b1": Choice((0.95, 0.98)),
        "b3": Choice((0.99, 0.999)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models",
        "2208.06677",
        "sail-sg/Adan",
        "2c65beaf400775753b155da4082c3819fea689b9",
        "adan.py",
    )

    b1: float = 0.98  # decay of the gradient's moment
    b2: float = 0.92  # decay of the moment of its change, and the weight of that
    b3: float = 0.99  # decay of the second moment
    eps: float = 1e-8  # added to the root of the second moment

    def validate(self) -> None:
        super().validate()
        for name in ("b1", "b2", "b3"):
            check_number(name, getattr(self, name), least=0, below=1)
        check_number("eps", self.eps, above=0)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return scale_by_adan(self.b1, self.b2, self.b3, self.eps)


class ScaleByAdanState(NamedTuple):
    """step: int32 [], updates made so far; else trees like the parameters."""

    step: Integer[Array, ""]
    first: Any  # moment of the gradient
    change: Any  # moment of its change
    second: Any  # moment of the square
    before: Any  # the gradient before


def scale_by_adan(b1: float, b2: float, b3: float, eps: float) -> optax.GradientTransformation:
    """The direction above."""

    def init(params: Any) -> ScaleByAdanState:
        zeros = (jax.tree.map(jnp.zeros_like, params) for _ in range(4))
        return ScaleByAdanState(jnp.zeros([], jnp.int32), *zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        step = state.step + 1

        def difference(g: Array, before: Array) -> Array:
            return jnp.where(state.step > 0, g - before, 0)

        change = jax.tree.map(difference, updates, state.before)
        ahead = jax.tree.map(lambda g, d: g + b2 * d, updates, change)
        m = optax.tree.update_moment(updates, state.first, b1, 1)
        n = optax.tree.update_moment(change, state.change, b2, 1)
        v = optax.tree.update_moment_per_elem_norm(ahead, state.second, b3, 2)
        direction = jax.tree.map(
            lambda m, n, v: (m + b2 * n) / (jnp.sqrt(v) + eps),
            optax.tree.bias_correction(m, b1, step),
            optax.tree.bias_correction(n, b2, step),
            optax.tree.bias_correction(v, b3, step),
        )
        return direction, ScaleByAdanState(step, m, n, v, updates)

    return optax.GradientTransformation(init, update)
