"""AdamW (Loshchilov and Hutter, arXiv 1711.05101; Adam: Kingma and Ba, arXiv 1412.6980).

m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
direction = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
"""

import dataclasses
from typing import ClassVar

import optax

from lmjax.errors import check_number
from lmjax.optim.recipe import Optimizer
from lmjax.roles import Roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """optax.scale_by_adam; equal to torch.optim.AdamW."""

    label: ClassVar[str] = "adamw"

    weight_decay: float = 0.01  # decoupled; for the roles that decay (lmjax/roles.py)
    b1: float = 0.9  # decay of the first moment
    b2: float = 0.999  # decay of the second moment
    eps: float = 1e-8  # added to the root of the second moment

    def validate(self) -> None:
        super().validate()
        check_number("b1", self.b1, least=0, below=1)
        check_number("b2", self.b2, least=0, below=1)
        check_number("eps", self.eps, above=0)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.b1, self.b2, self.eps)
