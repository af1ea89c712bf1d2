"""Sophia-G (Liu et al., arXiv 2305.14342): momentum over a curvature, no step larger than 1.

    m <- b1 m + (1 - b1) g
    h <- b2 h + (1 - b2) s^2, ahead of updates k, 2k, ... (counted from 0)
    direction = sign(m) min(1, |m| / (rho n h + 1e-15))

s is the gradient under targets that are drawn from the model's own prediction for this batch, and
n the number of targets in it, so that n s^2 estimates the diagonal of the Gauss-Newton matrix. It
is a second gradient, in every k-th step alone. Equal to the authors' sophia.py
(Liuhong99/Sophia@a7e1572), where n is the argument bs. What their training script has otherwise:
- s is taken on a batch of its own, at the same parameters; here it is on the step's batch
- s is clipped by its global norm as g is; here clip_norm is for g alone
Before update k, h is 0 and each step is of size 1, as in theirs: a warm-up should cover it.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Integer

from lmjax.errors import check_integer, check_number
from lmjax.optim.recipe import Optimizer
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Roles

EPS = 1e-15  # the authors' addition to the curvature


@dataclasses.dataclass(frozen=True, kw_only=True)
class SophiaG(Optimizer):
    """Momentum over the Gauss-Newton diagonal, estimated under sampled targets."""

    label: ClassVar[str] = "sophia-g"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-5, 1e-2),
        "rho": Choice((0.02, 0.04, 0.08)),
        "b1": Choice((0.92, 0.965)),
        "weight_decay": Choice((0.0, 0.1, 0.2)),
    }
    reference: ClassVar[Reference | None] = Reference(
        "Sophia: a scalable stochastic second-order optimizer for language model pre-training",
        "2305.14342",
        "Liuhong99/Sophia",
        "a7e157229b71d58cf995d32854f1be15c265b350",
        "sophia.py",
    )

    learning_rate: float = 1e-4  # the peak of the schedule: the largest step of any weight
    weight_decay: float = 0.1  # decoupled; for the roles that decay (lmjax/roles.py)
    b1: float = 0.965  # decay of the momentum
    b2: float = 0.99  # decay of the curvature
    rho: float = 0.04  # the curvature's weight: the smaller, the more steps are of size 1
    refresh_every: int = 10  # steps between two estimates of the curvature

    def validate(self) -> None:
        super().validate()
        check_number("b1", self.b1, least=0, below=1)
        check_number("b2", self.b2, least=0, below=1)
        check_number("rho", self.rho, above=0)
        check_integer("refresh_every", self.refresh_every, least=1)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return scale_by_sophia(self.b1, self.b2, self.rho, self.refresh_every)


class ScaleBySophiaState(NamedTuple):
    """step: int32 [], updates made so far; momentum, curvature: trees like the parameters."""

    step: Integer[Array, ""]
    momentum: Any
    curvature: Any


def scale_by_sophia(
    b1: float, b2: float, rho: float, refresh_every: int
) -> optax.GradientTransformationExtraArgs:
    """The direction above; asks lmjax.step.Oracle for s and n."""

    def init(params: Any) -> ScaleBySophiaState:
        zeros = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return ScaleBySophiaState(jnp.zeros([], jnp.int32), *zeros)

    def update(
        updates: Any, state: Any, params: Any = None, *, oracle: Any = None, **extra: Any
    ) -> tuple[Any, Any]:
        def refreshed(curvature: Any) -> Any:
            def mix(h: Array, s: Array) -> Array:
                return (b2 * h + (1 - b2) * jnp.square(s)).astype(h.dtype)

            return jax.tree.map(mix, curvature, oracle.sampled_grad())

        def direction(m: Array, h: Array) -> Array:
            size = jnp.abs(m) / (rho * oracle.targets * h + EPS)
            return (jnp.sign(m) * jnp.minimum(size, 1.0)).astype(m.dtype)

        due = (state.step > 0) & (state.step % refresh_every == 0)
        curvature = jax.lax.cond(due, refreshed, lambda h: h, state.curvature)
        momentum = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, updates, state.momentum)
        moved = jax.tree.map(direction, momentum, curvature)
        return moved, ScaleBySophiaState(state.step + 1, momentum, curvature)

    return optax.GradientTransformationExtraArgs(init, update)
