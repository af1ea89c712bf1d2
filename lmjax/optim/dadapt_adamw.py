"""D-Adapt AdamW (Defazio and Mishchenko, arXiv 2301.07733): AdamW that estimates its own rate.

With d the estimate, from `first_estimate` on, r(t) the rate of the schedule and b3 = sqrt(b2):
    n <- b3 n + (1 - b3) d r(t) <g, s / (sqrt(v) + eps)>
    m <- b1 m + (1 - b1) d r(t) g,   v <- b2 v + (1 - b2) g^2,   s <- b3 s + (1 - b3) d r(t) g
    p <- p - m / (sqrt(v) + eps) - d r(t) weight_decay p
    d <- max(d, n / ((1 - b3) |s|_1))
Sums go over all of the model. The rate multiplies the estimate, so its default is 1; it stands
within m and the sums.

Equal to the authors' dadapt_adam.py (facebookresearch/dadaptation@c984980) with decouple. What was
said of optax's bias correction and of gradients that are 0 in lmjax/optim/prodigy.py is as true of
optax.contrib.dadapt_adamw, which is wrapped.
"""

import dataclasses
from typing import ClassVar

import optax
import optax.contrib

from lmjax.errors import check_number
from lmjax.optim.prodigy import corrected_rate, with_own_rate
from lmjax.optim.recipe import DECAYS, Factor, Links, Optimizer, Scalar
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class DAdaptAdamW(Optimizer):
    """optax.contrib.dadapt_adamw with the authors' defaults."""

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
        rate = corrected_rate(self, learning_rate, factor)
        inner = optax.contrib.dadapt_adamw(rate, (self.b1, self.b2), self.eps, self.first_estimate)
        return [("direction", with_own_rate(inner, rate, self, roles))]
