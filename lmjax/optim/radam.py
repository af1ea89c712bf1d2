"""RAdam: Adam with its variance rectified (Liu et al., arXiv 1908.03265).

m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
r = 2 / (1 - b2) - 1,   s = r - 2 t b2^t / (1 - b2^t)
direction = m / (1 - b1^t)   while s < 5, else Adam's, times
            sqrt((s - 4) (s - 2) r / ((r - 4) (r - 2) s))

Equal to torch.optim.RAdam (pytorch/pytorch@v2.13.0) but for eps, which torch adds to the root of v
before its bias is corrected: 5e-10 apart after 20 steps at a rate of .01 and an eps of 1e-8. The
authors' code (LiyuanLucasLiu/RAdam@d9fd30a) makes no step while s < 5, unless it is asked to.
"""

import dataclasses
from typing import ClassVar

import optax

from lmjax.optim.adamw import AdamW
from lmjax.optim.reference import Reference
from lmjax.roles import Roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class RAdam(AdamW):
    """optax.scale_by_radam, under AdamW's fields."""

    label: ClassVar[str] = "radam"
    reference: ClassVar[Reference | None] = Reference(
        "On the variance of the adaptive learning rate and beyond",
        "1908.03265",
        "pytorch/pytorch",
        "v2.13.0",
        "torch/optim/radam.py",
    )

    weight_decay: float = 0.0  # decoupled; for the roles that decay (lmjax/roles.py)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return optax.scale_by_radam(self.b1, self.b2, self.eps)
