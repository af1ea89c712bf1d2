"""NAdamW: Adam with Nesterov's look ahead (Dozat 2016), weight decay decoupled as in AdamW.

m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
direction = (b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

b1 is constant. Dozat's paper warms it up, as torch.optim.NAdam does by default (pytorch/pytorch
@v2.13.0): the two are equal at its momentum_decay=1e6, which ends that warm-up before step 1.
"""

import dataclasses
from typing import ClassVar

import optax

from lmjax.optim.adamw import AdamW
from lmjax.optim.reference import Reference
from lmjax.roles import Roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class NAdamW(AdamW):
    """optax.scale_by_adam with nesterov, under AdamW's fields and defaults."""

    label: ClassVar[str] = "nadamw"
    reference: ClassVar[Reference | None] = Reference(
        "Incorporating Nesterov momentum into Adam",
        "https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ",
        "pytorch/pytorch",
        "v2.13.0",
        "torch/optim/nadam.py",
    )

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.b1, self.b2, self.eps, nesterov=True)
