"""Stochastic gradient descent with momentum.

m <- momentum * m + g          (heavy ball, Polyak 1964; no dampening)
direction = m, or g + momentum * m with nesterov (Sutskever et al. 2013)
"""

import dataclasses
from typing import ClassVar

import optax

from lmjax.errors import FieldError, check_number
from lmjax.optim.recipe import Optimizer
from lmjax.roles import Roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """optax.trace; equal to torch.optim.SGD without its coupled weight decay."""

    label: ClassVar[str] = "sgd"

    learning_rate: float = 0.1  # the peak of the schedule
    momentum: float = 0.0  # decay of the velocity; 0 = plain SGD, which keeps no state
    nesterov: bool = False  # look ahead along the velocity

    def validate(self) -> None:
        super().validate()
        check_number("momentum", self.momentum, least=0, below=1)
        if self.nesterov and not self.momentum:
            raise FieldError("nesterov", self.nesterov, "needs a momentum > 0")

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        if not self.momentum:
            return optax.identity()
        return optax.trace(decay=self.momentum, nesterov=self.nesterov)
