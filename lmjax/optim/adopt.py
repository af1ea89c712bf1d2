"""ADOPT (Taniguchi et al., arXiv 2411.02853): Adam that converges whatever b2 is.

first call   v = g^2, no step; after it, with t from 1 at the second call:
m <- b1 m + (1 - b1) clip(g / max(sqrt(v), eps), t^(1/4))
direction = m,   then   v <- b2 v + (1 - b2) g^2

g is divided by a v that it is not part of, and before the momentum. Equal to the authors' adopt.py
(iShohei220/adopt@6468572) with decouple, whose first call does not decay either: ours does, once.
"""

import dataclasses
from typing import ClassVar

import optax
import optax.contrib

from lmjax.errors import check_number
from lmjax.optim.recipe import DECAYS, Optimizer
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class ADOPT(Optimizer):
    """optax.contrib.scale_by_adopt."""

    label: ClassVar[str] = "adopt"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-5, 1e-1),
        "b1": Choice((0.9, 0.95)),
        "b2": Choice((0.99, 0.999, 0.9999)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "ADOPT: modified Adam can converge with any b2 with the optimal rate",
        "2411.02853",
        "iShohei220/adopt",
        "6468572b4b3688a2f056b796b071da540568520e",
        "src/adopt/adopt.py",
    )

    b1: float = 0.9  # decay of the momentum
    b2: float = 0.9999  # decay of the second moment
    eps: float = 1e-6  # least root of the second moment
    clipped: bool = True  # whether entries are clipped at the fourth root of the step

    def validate(self) -> None:
        super().validate()
        check_number("b1", self.b1, least=0, below=1)
        check_number("b2", self.b2, least=0, below=1)
        check_number("eps", self.eps, above=0)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return optax.contrib.scale_by_adopt(self.b1, self.b2, self.eps, use_clipping=self.clipped)
