"""Sophia-H (Liu et al., arXiv 2305.14342): momentum over the diagonal of the Hessian, clipped.

m <- b1 m + (1 - b1) g
direction = clip((m / (1 - b1^t)) / max(gamma h, eps), threshold)
every k-th step, from the first on:   h <- b2 h + (1 - b2) e * (H e)

H e is the derivative of the gradient along e, at the parameters and on the batch of the step; e has
entries of 1 and -1 (Hutchinson), new each time, from one key that stands in the state and is the
same for every run. h is used from the step after; while it is 0 the direction is the sign of m. A
product costs about two gradients, so k = 10 a fifth of one more a step.

Equal to optax.contrib.sophia (google-deepmind/optax@v0.2.8), which is wrapped, but for
where e comes from. Beside the paper, optax corrects the bias of m and draws signs where it
draws from a normal distribution. The authors' code (Liuhong99/Sophia) has Sophia-G alone.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array, UInt32

from lmjax.errors import check_integer, check_number
from lmjax.optim.recipe import DECAYS, Optimizer
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class SophiaH(Optimizer):
    """optax.contrib.sophia, with Hessian-vector products by the step's oracle."""

    label: ClassVar[str] = "sophia-h"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-5, 1e-1),
        "gamma": Choice((0.005, 0.01, 0.02)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "Sophia: a scalable stochastic second-order optimizer for language model pre-training",
        "2305.14342",
        "google-deepmind/optax",
        "v0.2.8",
        "optax/contrib/_sophia.py",
    )

    learning_rate: float = 1e-4  # the peak of the schedule
    weight_decay: float = 0.1  # decoupled; for the roles that decay (lmjax/roles.py)
    b1: float = 0.965  # decay of the momentum
    b2: float = 0.99  # decay of the diagonal, each time that it is estimated
    eps: float = 1e-8  # least denominator
    gamma: float = 0.01  # what the diagonal is multiplied with
    threshold: float = 1.0  # largest entry of a direction
    refresh_every: int = 10  # steps between two estimates of the diagonal

    def validate(self) -> None:
        super().validate()
        check_number("b1", self.b1, least=0, below=1)
        check_number("b2", self.b2, least=0, below=1)
        for name in ("eps", "gamma", "threshold"):
            check_number(name, getattr(self, name), above=0)
        check_integer("refresh_every", self.refresh_every, least=1)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return optax.contrib.sophia(
            -1.0,  # of its whole chain the direction alone, and as a descent
            self.b1,
            self.b2,
            self.eps,
            weight_decay=0.0,
            gamma=self.gamma,
            clip_threshold=self.threshold,
            update_interval=self.refresh_every,
            hessian_diagonal_fn=estimate_diagonal(),
        )


class EstimateDiagonalState(NamedTuple):
    """key: of the next estimate, as numbers."""

    key: UInt32[Array, "2"]


def estimate_diagonal() -> optax.GradientTransformationExtraArgs:
    """e * (H e), like the parameters, in place of the gradient."""

    def init(params: Any) -> EstimateDiagonalState:
        return EstimateDiagonalState(jax.random.key_data(jax.random.key(0, impl="threefry2x32")))

    def update(
        updates: Any, state: Any, params: Any = None, *, oracle: Any = None, **extra: Any
    ) -> tuple[Any, Any]:
        key, now = jax.random.split(jax.random.wrap_key_data(state.key, impl="threefry2x32"))
        leaves, structure = jax.tree.flatten(params)
        signs = structure.unflatten(
            jax.random.rademacher(key, p.shape, p.dtype)
            for key, p in zip(jax.random.split(now, len(leaves)), leaves, strict=True)
        )
        _, along = jax.jvp(lambda p: oracle.value_and_grad(p)[1], (params,), (signs,))
        return jax.tree.map(jnp.multiply, signs, along), EstimateDiagonalState(
            jax.random.key_data(key)
        )

    return optax.GradientTransformationExtraArgs(init, update)
