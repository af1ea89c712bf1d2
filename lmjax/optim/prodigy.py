"""Prodigy (Mishchenko and Defazio, arXiv 2306.06101): Adam that estimates its own rate.

With d the estimate, from `first_estimate` on, and r(t) the rate of the schedule:
    m <- b1 m + (1 - b1) d g,   v <- b2 v + (1 - b2) (d g)^2
    n <- b3 n + d^2 r(t) <g, p0 - p>,   s <- b3 s + d^2 r(t) g
    p <- p - r(t) d (m / (sqrt(v) + d' eps) + weight_decay p)
    d <- d' = max(d, growth n / |s|_1)
p0 are the first parameters; sums go over all of the model. The rate multiplies the estimate, so its
default is 1, and it stands within the sums: their weights follow the schedule. Decay is multiplied
by the estimate too, as in the authors' decoupled form.

Equal to the authors' prodigy_reference.py (konstmish/prodigy@3efb213), which divides both sums by
the first estimate, so that they are not too small, and rests while all gradients have been 0.
optax.contrib.prodigy multiplies the rate by Adam's bias correction, sqrt(1 - b2^t) / (1 - b1^t), as
the authors do when asked by use_bias_correction, divides 0 by 0 in the face of such gradients, and
under FSDP gathers each leaf to flatten it.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

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
class Prodigy(Optimizer):
    """The direction above, with the authors' defaults."""

    label: ClassVar[str] = "prodigy"
    unfit: ClassVar[tuple[str, ...]] = ("cautious", "hyperball")
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-2, 1e2),
        "growth": Choice((0.5, 1.0, 2.0)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "Prodigy: an expeditiously adaptive parameter-free learner",
        "2306.06101",
        "konstmish/prodigy",
        "3efb213ee8af5a6bf76f28726398433a847b38e9",
        "prodigyopt/prodigy_reference.py",
    )

    learning_rate: float = 1.0  # the peak of the schedule, in units of the estimate
    b1: float = 0.9  # decay of the first moment
    b2: float = 0.999  # decay of the second moment
    b3: float = 0.0  # decay of the sums behind the estimate; 0 = the root of b2
    eps: float = 1e-8  # added, times the estimate, to the root of the second moment
    first_estimate: float = 1e-6  # below any rate that could be right
    growth: float = 1.0  # what the estimate is multiplied with
    bias_correction: bool = False  # Adam's, of the rate

    def validate(self) -> None:
        super().validate()
        for name in ("b1", "b2", "b3"):
            check_number(name, getattr(self, name), least=0, below=1)
        for name in ("eps", "first_estimate", "growth"):
            check_number(name, getattr(self, name), above=0)

    def descent(self, roles: Roles, learning_rate: Scalar, factor: Factor) -> Links:
        rate = rate_of(self, learning_rate, factor)
        return [("direction", step_by_estimate(self, rate, decays_of(self, roles)))]


class ProdigyState(NamedTuple):
    """What every such method keeps; origin: the first parameters."""

    common: EstimateState
    origin: Any


def step_by_estimate(rule: Prodigy, rate: Rate, decays: Any) -> optax.GradientTransformation:
    """The equations above, from gradients to steps; `decays` is a number for each parameter."""
    b1, b2, b3, d0 = rule.b1, rule.b2, rule.b3 or rule.b2**0.5, rule.first_estimate

    def init(params: Any) -> ProdigyState:
        return ProdigyState(at_first(params, d0), jax.tree.map(jnp.copy, params))  # donated, too

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        old = state.common
        d, r = old.estimate, rate(old.step)
        weight = d / d0 * d * r
        way = jax.tree.map(jnp.subtract, state.origin, params)
        n = (b3 * old.numerator + weight * inner(updates, way)).astype(d.dtype)
        m = mixed(old.first, b1, (1 - b1) * d, updates)
        v = mixed(old.second, b2, (1 - b2) * d * d, jax.tree.map(jnp.square, updates))
        s = mixed(old.total, b3, weight, updates)
        length = size(s)
        larger = grown(d, rule.growth * n, length)

        def step(decay: float, m: Array, v: Array, p: Array) -> Array:
            return d * r * (-m / (jnp.sqrt(v) + larger * rule.eps) - decay * p)

        steps = resting(length, jax.tree.map(step, decays, m, v, params), params)
        new = EstimateState(old.step + 1, larger, n, m, v, s)
        return steps, ProdigyState(new, state.origin)

    return optax.GradientTransformation(init, update)
