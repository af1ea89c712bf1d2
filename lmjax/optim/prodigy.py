"""Prodigy (Mishchenko and Defazio, arXiv 2306.06101): Adam that estimates its own rate.

With d the estimate, from `first_estimate` on, and r(t) the rate of the schedule:
    m <- b1 m + (1 - b1) d g,   v <- b2 v + (1 - b2) (d g)^2
    n <- b3 n + d^2 r(t) <g, p0 - p>,   s <- b3 s + d^2 r(t) g
    p <- p - r(t) d (m / (sqrt(v) + d' eps) + weight_decay p)
    d <- d' = max(d, growth n / |s|_1)
p0 are the first parameters; sums go over all of the model. The rate multiplies the estimate, so its
default is 1, and it stands within the sums: their weights follow the schedule. Decay is multiplied
by the estimate too, as in the authors' decoupled form.

Equal to the authors' prodigy_reference.py (konstmish/prodigy@3efb213). optax.contrib.prodigy, which
is wrapped, multiplies the rate by Adam's bias correction, sqrt(1 - b2^t) / (1 - b1^t), as the
authors do when asked by use_bias_correction; by default they do not, and the rate that optax is
given here is divided by it. Nor does optax survive gradients that are all 0: it divides 0 by 0.
Under FSDP every device gathers each leaf for optax's inner products, which flatten it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array

from lmjax.errors import check_number
from lmjax.optim.recipe import DECAYS, Factor, Links, Optimizer, Scalar
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Roles, map_roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prodigy(Optimizer):
    """optax.contrib.prodigy with the authors' defaults."""

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
        rate = corrected_rate(self, learning_rate, factor)
        inner = optax.contrib.prodigy(
            rate,
            (self.b1, self.b2),
            self.b3 or None,
            self.eps,
            self.first_estimate,
            self.growth,
        )
        return [("direction", with_own_rate(inner, rate, self, roles))]


Rate = Callable[[Any], Array]  # update number, from 0 -> what optax takes for the rate


def corrected_rate(rule: Any, learning_rate: Scalar, factor: Factor) -> Rate:
    """The rate, without the bias correction that optax multiplies it with, if `rule` wants none."""

    def rate(count: Any) -> Array:
        now = jax.lax.optimization_barrier(learning_rate * factor(count))
        return now if rule.bias_correction else now / correction(rule, count)

    return rate


def correction(rule: Any, count: Any) -> Array:
    """Adam's bias correction of the rate, as optax has it."""
    return ((1 - rule.b2 ** (count + 1)) ** 0.5) / (1 - rule.b1 ** (count + 1))


def with_own_rate(inner: Any, rate: Rate, rule: Any, roles: Roles) -> optax.GradientTransformation:
    """A method of optax that estimates its rate, with decay by role, and still while all is 0."""
    decays = map_roles(lambda leaf: leaf.decays * rule.weight_decay, roles)

    def init(params: Any) -> Any:
        return inner.init(jax.tree.map(jnp.copy, params))  # it keeps them, and all is donated

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moved, new = inner.update(updates, state, params)
        step = state.estim_lr * rate(state.count) * correction(rule, state.count)

        # What optax divides by; while it is 0, so is all of the state but the estimate.
        begun = jnp.asarray(optax.tree.sum(jax.tree.map(jnp.abs, new.grad_sum))) > 0

        def decayed(decay: float, u: Array, p: Array) -> Array:
            all_of_it = (u - decay * step * p).astype(u.dtype) if decay else u
            return jnp.where(begun, all_of_it, 0)

        estimate = jnp.where(begun, new.estim_lr, state.estim_lr)
        return jax.tree.map(decayed, decays, moved, params), new._replace(estim_lr=estimate)

    return optax.GradientTransformation(init, update)
