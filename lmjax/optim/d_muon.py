"""D-Muon: Muon whose steps are as large as AdamW's (Liu et al., arXiv 2502.16982; Moonlight).

    m <- momentum m + g,   u = g + momentum m with nesterov, else m
    direction = rms sqrt(max(inputs, outputs)) NS5(u)

NS5 is that of lmjax/optim/muon.py. An orthogonal direction has a root mean square of
1 / sqrt(max(inputs, outputs)), so this one has about `rms`, whatever its shape; AdamW's has .2 to
.4, so that its rate and decay may be taken over. Equal to the authors' examples/toy_train.py
(MoonshotAI/Moonlight@c2ad5b2) with Newton-Schulz in float64. There, one rate moves the leaves that
AdamW takes too; here, the auxiliary keeps its own, as for every such method.
optax.contrib.muon(consistent_rms=.2) has the scale but optax's momentum: lmjax/optim/muon_optax.py.
"""

import dataclasses
from typing import ClassVar

import optax
from jaxtyping import Array

from lmjax.errors import check_number
from lmjax.optim.muon import Muon, scale_of
from lmjax.optim.recipe import AUXILIARY_SPACE, DECAYS
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Leaf, Roles, map_roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class DMuon(Muon):
    """Muon's fields, and the size of a step."""

    label: ClassVar[str] = "d-muon"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-5, 1e-1),
        **AUXILIARY_SPACE,
        "momentum": Choice((0.9, 0.95, 0.98)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "Muon is scalable for LLM training",
        "2502.16982",
        "MoonshotAI/Moonlight",
        "c2ad5b20c605086526a179d36901bfc41b52b44b",
        "examples/toy_train.py",
    )

    learning_rate: float = 1e-3  # the peak for hidden matrices
    weight_decay: float = 0.1  # decoupled; for the roles that decay (lmjax/roles.py)
    rms: float = 0.2  # root mean square of a direction

    def validate(self) -> None:
        super().validate()
        check_number("rms", self.rms, above=0)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        def scale(leaf: Leaf, u: Array) -> Array:
            return self.rms * max(leaf.matrix_shape[-2:]) ** 0.5 / scale_of(leaf) * u

        return optax.chain(
            optax.scale(1 / (1 - self.momentum)),  # Muon averages where they add up
            super().direction(roles),
            optax.stateless(lambda updates, params: map_roles(scale, roles, updates)),
        )
