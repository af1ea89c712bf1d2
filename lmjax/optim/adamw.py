"""AdamW (Loshchilov and Hutter, arXiv 1711.05101; Adam: Kingma and Ba, arXiv 1412.6980).

m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
direction = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

Equal to torch.optim.AdamW (pytorch/pytorch@v2.13.0).
"""

import dataclasses
from typing import ClassVar

import optax

from lmjax.errors import check_number
from lmjax.optim.recipe import DECAYS, Optimizer
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """optax.scale_by_adam."""

    label: ClassVar[str] = "adamw"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-5, 1e-1),
        "b1": Choice((0.9, 0.95)),
        "b2": Choice((0.95, 0.99, 0.999)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "Decoupled weight decay regularization",
        "1711.05101",
        "pytorch/pytorch",
        "v2.13.0",
        "torch/optim/adamw.py",
    )

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
