"""Gradient descent with momentum, plain and by Nesterov's look ahead.

m <- momentum m + g
direction = m                 momentum: the heavy ball (Polyak 1964, doi
                              10.1016/0041-5553(64)90137-5), without dampening
direction = g + momentum m    nesterov (Sutskever et al. 2013, proceedings.mlr.press/v28)

Equal to torch.optim.SGD (pytorch/pytorch@v2.13.0), but for its weight decay, which is coupled.
"""

import dataclasses
from typing import ClassVar

import optax

from lmjax.errors import check_number
from lmjax.optim.recipe import DECAYS, Optimizer
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Roles

TORCH = ("pytorch/pytorch", "v2.13.0", "torch/optim/sgd.py")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Momentum(Optimizer):
    """optax.trace; a momentum of 0 is sgd."""

    label: ClassVar[str] = "momentum"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-4, 10.0),
        "momentum": Choice((0.8, 0.9, 0.95, 0.99)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "Some methods of speeding up the convergence of iteration methods",
        "https://doi.org/10.1016/0041-5553(64)90137-5",
        *TORCH,
    )

    learning_rate: float = 0.1  # the peak of the schedule
    momentum: float = 0.9  # decay of the velocity

    def validate(self) -> None:
        super().validate()
        check_number("momentum", self.momentum, least=0, below=1)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return optax.trace(self.momentum)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nesterov(Momentum):
    """optax.trace with a look ahead along the velocity."""

    label: ClassVar[str] = "nesterov"
    reference: ClassVar[Reference | None] = Reference(
        "On the importance of initialization and momentum in deep learning",
        "https://proceedings.mlr.press/v28/sutskever13.html",
        *TORCH,
    )

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return optax.trace(self.momentum, nesterov=True)
