"""RMSProp (Tieleman and Hinton 2012, lecture 6 of Neural networks for machine learning).

v <- decay v + (1 - decay) g^2
direction = g / (sqrt(v) + eps), or with momentum   m <- momentum m + g / (sqrt(v) + eps)

The lecture's decay is .9, torch's default .99. Equal to torch.optim.RMSprop (pytorch/pytorch
@v2.13.0); optax's default puts eps under the root, where an eps of 1e-8 is one of 1e-4 outside.
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
class RMSProp(Optimizer):
    """optax.scale_by_rms with eps outside the root, then optax.trace."""

    label: ClassVar[str] = "rmsprop"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-5, 1e-1),
        "decay": Choice((0.9, 0.99)),
        "momentum": Choice((0.0, 0.9)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "Lecture 6.5: divide the gradient by a running average of its recent magnitude",
        "https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf",
        "pytorch/pytorch",
        "v2.13.0",
        "torch/optim/rmsprop.py",
    )

    decay: float = 0.9  # decay of the second moment
    momentum: float = 0.0  # decay of the velocity; 0 = none is kept
    eps: float = 1e-8  # added to the root of the second moment

    def validate(self) -> None:
        super().validate()
        check_number("decay", self.decay, least=0, below=1)
        check_number("momentum", self.momentum, least=0, below=1)
        check_number("eps", self.eps, above=0)

    @property
    def keeps_signs(self) -> bool:
        return self.momentum == 0

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_rms(self.decay, self.eps, eps_in_sqrt=False),
            optax.trace(self.momentum) if self.momentum else optax.identity(),
        )
