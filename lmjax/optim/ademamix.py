"""AdEMAMix (Pagliardini et al., arXiv 2409.03137): Adam with a second, slow momentum.

m1 <- b1 m1 + (1 - b1) g,   m2 <- b3(t) m2 + (1 - b3(t)) g,   v <- b2 v + (1 - b2) g^2
direction = (m1 / (1 - b1^t) + alpha(t) m2) / (sqrt(v / (1 - b2^t)) + eps)

Over the first `slow_warmup_steps` steps alpha(t) rises linearly from 0, and b3(t) from b1 so that
its half-life, log(.5) / log(b3) - 1, does. The paper warms up over the whole run; the authors'
code (apple/ml-ademamix@c3d73c0, pytorch/ademamix.py) by default does not, and so do we.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array

from lmjax.errors import check_integer, check_number
from lmjax.optim.recipe import DECAYS, Optimizer
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Roles

EPS = 1e-8  # the authors' guard of log(b3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdEMAMix(Optimizer):
    """optax.contrib.scale_by_ademamix with the authors' warm-up."""

    label: ClassVar[str] = "ademamix"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-5, 1e-1),
        "alpha": Choice((2.0, 5.0, 8.0)),
        "b3": Choice((0.99, 0.999, 0.9999)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "The AdEMAMix optimizer: better, faster, older",
        "2409.03137",
        "apple/ml-ademamix",
        "c3d73c09f1287e5c33b95189bb0aa7de0a5a7667",
        "pytorch/ademamix.py",
    )

    b1: float = 0.9  # decay of the fast momentum
    b2: float = 0.999  # decay of the second moment
    b3: float = 0.9999  # decay of the slow momentum
    alpha: float = 2.0  # weight of the slow momentum
    slow_warmup_steps: int = 0  # updates over which alpha and b3 reach their values
    eps: float = 1e-8  # added to the root of the second moment

    def validate(self) -> None:
        super().validate()
        for name in ("b1", "b2", "b3"):
            check_number(name, getattr(self, name), least=0, below=1)
        check_number("alpha", self.alpha, least=0)
        check_integer("slow_warmup_steps", self.slow_warmup_steps, least=0)
        check_number("eps", self.eps, above=0)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        warmup = self.slow_warmup_steps
        b3 = rising_decay(self.b1, self.b3, warmup) if warmup else self.b3
        alpha = rising(self.alpha, warmup) if warmup else self.alpha
        return optax.contrib.scale_by_ademamix(self.b1, self.b2, b3, alpha, self.eps)


def rising(end: float, warmup: int) -> Callable[[Any], Array]:
    """From 0 to `end` in a straight line; optax counts from 0, the authors from 1."""

    def at(count: Any) -> Array:
        return end * jnp.minimum((jnp.asarray(count, float) + 1) / warmup, 1.0)

    return at


def rising_decay(start: float, end: float, warmup: int) -> Callable[[Any], Array]:
    """From one decay to another with a half-life that grows in a straight line."""

    def half_life(decay: float) -> float:
        return math.log(0.5) / math.log(decay + EPS) - 1

    def at(count: Any) -> Array:
        done = (jnp.asarray(count, float) + 1) / warmup
        life = (1 - done) * half_life(start) + done * half_life(end)
        return jnp.where(done < 1, 0.5 ** (1 / (life + 1)), end)

    return at
