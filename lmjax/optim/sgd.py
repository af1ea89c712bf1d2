"""Stochastic gradient descent (Robbins and Monro 1951, doi 10.1214/aoms/1177729586).

direction = g

Equal to torch.optim.SGD without momentum (pytorch/pytorch@v2.13.0), whose weight decay is coupled
where ours is not: for this method the two are the same.
"""

import dataclasses
from typing import ClassVar

import optax

from lmjax.optim.recipe import DECAYS, Optimizer
from lmjax.optim.reference import Reference
from lmjax.optim.space import LogGrid, Space
from lmjax.roles import Roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """The gradient itself; keeps no state."""

    label: ClassVar[str] = "sgd"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-4, 10.0),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "A stochastic approximation method",
        "https://doi.org/10.1214/aoms/1177729586",
        "pytorch/pytorch",
        "v2.13.0",
        "torch/optim/sgd.py",
    )

    learning_rate: float = 0.1  # the peak of the schedule

    @property
    def keeps_signs(self) -> bool:
        return True

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return optax.identity()
