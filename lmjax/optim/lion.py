"""Lion (Chen et al., arXiv 2302.06675).

direction = sign(b1 m + (1 - b1) g),   then   m <- b2 m + (1 - b2) g
"""

import dataclasses
from typing import ClassVar

import optax

from lmjax.errors import check_number
from lmjax.optim.recipe import Optimizer
from lmjax.roles import Roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """optax.scale_by_lion; the paper advises a rate 3 to 10 times below AdamW's."""

    label: ClassVar[str] = "lion"

    learning_rate: float = 1e-4  # the peak of the schedule
    b1: float = 0.9  # mixes the gradient into the direction
    b2: float = 0.99  # decay of the momentum

    def validate(self) -> None:
        super().validate()
        check_number("b1", self.b1, least=0, below=1)
        check_number("b2", self.b2, least=0, below=1)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return optax.scale_by_lion(self.b1, self.b2)
