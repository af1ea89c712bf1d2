"""D-Adapt AdamW (Defazio and Mishchenko, arXiv 2301.07733): AdamW that estimates its own rate.

With d the estimate, from `first_estimate` on, r(t) the rate of the schedule and b3 = sqrt(b2):
    n <- b3 n + (1 - b3) d r(t) <g, s / (sqrt(v) + eps)>
    m <- b1 m + (1 - b1) d r(t) g,   v <- b2 v + (1 - b2) g^2,   s <- b3 s + (1 - b3) d r(t) g
    p <- p - m / (sqrt(v) + eps) - d r(t) weight_decay p
    d <- max(d, n / ((1 - b3) |s|_1))
Sums go over all of the model. The rate multiplies the estimate, so its default is 1; it stands
within m and the sums.

Equal to the authors' dadapt_adam.py (facebookresearch/dadaptation@c984980) with decouple. What is
said of optax's bias correction, of gradients that are 0 and of FSDP in lmjax/optim/prodigy.py is as
true of optax.contrib.dadapt_adamw.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from lmjax.errors import check_number
from lmjax.optim.estimate import (
    EstimateState,
    Rate,
    at_first,
    decays_of,
    grown,
    inner,
    mixed,
    rate_of,
    resting,
    size,
)
from lmjax.optim.recipe import DECAYS, Factor, Links, Optimizer, Scalar
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class DAdaptAdamW(Optimizer):
    """The direction above, with the authors' defaults."""

    label: ClassVar[str] = "dadapt-adamw"
    unfit: ClassVar[tuple[str, ...]] = ("cautious", "hyperball")
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-2, 1e2),
        "b2": Choice((0.99, 0.999)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "Learning-rate-free learning by D-Adaptation",
        "2301.07733",
        "facebookresearch/dadaptation",
        "c984980213a989ff7cac1e3d68c19a2257bcd571",
        "dadaptation/dadapt_adam.py",
    )

    learning_rate: float = 1.0  # the peak of the schedule, in units of the estimate
    b1: float = 0.9  # decay of the first moment
    b2: float = 0.999  # decay of the second moment
    eps: float = 1e-8  # added to the root of the second moment
    first_estimate: float = 1e-6  # below any rate that could be right
    bias_correction: bool = False  # Adam's, of the rate

    def validate(self) -> None:
        super().validate()
        check_number("b1", self.b1, least=0, below=1)
        check_number("b2", self.b2, least=0, below=1)
        check_number("eps", self.eps, above=0)
        check_number("first_estimate", self.first_estimate, above=0)

    def descent(self, roles: Roles, learning_rate: Scalar, factor: Factor) -> Links:
        rate = rate_of(self, learning_rate, factor)
        return [("direction", step_by_adaptation(self, rate, decays_of(self, roles)))]


def step_by_adaptation(rule: DAdaptAdamW, rate: Rate, decays: Any) -> optax.GradientTransformation:
    """The equations above, from gradients to steps; `decays` is a number for each parameter."""
    b1, b2, b3 = rule.b1, rule.b2, rule.b2**0.5

    def init(params: Any) -> EstimateState:
        return at_first(params, rule.first_estimate)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        d = state.estimate
        scale = d * rate(state.step)

        def whitened(s: Array, v: Array) -> Array:
            return s / (jnp.sqrt(v) + rule.eps)

        along = inner(updates, jax.tree.map(whitened, state.total, state.second))
        n = (b3 * state.numerator + (1 - b3) * scale * along).astype(d.dtype)
        m = mixed(state.first, b1, (1 - b1) * scale, updates)
        v = mixed(state.second, b2, 1 - b2, jax.tree.map(jnp.square, updates))
        s = mixed(state.total, b3, (1 - b3) * scale, updates)

        def step(decay: float, m: Array, v: Array, p: Array) -> Array:
            return -m / (jnp.sqrt(v) + rule.eps) - scale * decay * p

        length = size(s)
        steps = resting(length, jax.tree.map(step, decays, m, v, params), params)
        larger = grown(d, n, (1 - b3) * length)
        return steps, EstimateState(state.step + 1, larger, n, m, v, s)

    return optax.GradientTransformation(init, update)
