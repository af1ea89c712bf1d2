"""Lion (Chen et al., arXiv 2302.06675).

direction = sign(b1 m + (1 - b1) g),   then   m <- b2 m + (1 - b2) g

Equal to the authors' lion/lion_pytorch.py (google/automl@6a54c87).
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
class Lion(Optimizer):
    """optax.scale_by_lion; the paper advises a rate 3 to 10 times below AdamW's."""

    label: ClassVar[str] = "lion"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-6, 1e-2),
        "b1": Choice((0.9, 0.95)),
        "b2": Choice((0.98, 0.99)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "Symbolic discovery of optimization algorithms",
        "2302.06675",
        "google/automl",
        "6a54c8741e7c3265d4547c4f35f47a0391122dc5",
        "lion/lion_pytorch.py",
    )

    learning_rate: float = 1e-4  # the peak of the schedule
    b1: float = 0.9  # mixes the gradient into the direction
    b2: float = 0.99  # decay of the momentum

    def validate(self) -> None:
        super().validate()
        check_number("b1", self.b1, least=0, below=1)
        check_number("b2", self.b2, least=0, below=1)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return optax.scale_by_lion(self.b1, self.b2)
