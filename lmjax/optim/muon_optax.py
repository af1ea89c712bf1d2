"""Muon as optax has it (optax.contrib.muon; google-deepmind/optax@v0.2.8).

    m <- momentum m + (1 - momentum) g
    u = momentum m / (1 - momentum^(t+1)) + (1 - momentum) g / (1 - momentum^t) with nesterov,
        else m / (1 - momentum^t)
    direction = NS5(u) * sqrt(max(1, outputs / inputs))

Beside optimizer:muon (the method: kellerjordan.github.io/posts/muon) the bias of both terms is
corrected apart, which Newton-Schulz does not take back, and the products of Newton-Schulz are in
the dtype of the gradient, so float32, not bfloat16.
"""

import dataclasses
from typing import Any, ClassVar

import optax
import optax.contrib

from lmjax.errors import check_integer, check_number
from lmjax.optim.muon import Muon, scale_of
from lmjax.optim.recipe import MatrixOptimizer
from lmjax.optim.reference import Reference
from lmjax.optim.space import Space
from lmjax.roles import Leaf, Roles, map_roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class MuonOptax(MatrixOptimizer):
    """optax.contrib.scale_by_muon for hidden matrices, AdamW for the rest."""

    label: ClassVar[str] = "muon-optax"
    search_space: ClassVar[Space] = Muon.search_space
    reference: ClassVar[Reference | None] = Reference(
        "Muon: an optimizer for hidden layers in neural networks",
        "https://kellerjordan.github.io/posts/muon",
        "google-deepmind/optax",
        "v0.2.8",
        "optax/contrib/_muon.py",
    )

    learning_rate: float = 0.02  # the peak for hidden matrices: the spectral norm of a step
    momentum: float = 0.95  # decay of the momentum
    nesterov: bool = True  # look ahead along the momentum
    newton_schulz_steps: int = 5  # iterations of the quintic

    def validate(self) -> None:
        super().validate()
        check_number("momentum", self.momentum, least=0, below=1)
        check_integer("newton_schulz_steps", self.newton_schulz_steps, least=1, most=100)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        def scale(updates: Any, params: Any) -> Any:
            return map_roles(lambda leaf, u: scale_of(leaf) * u, roles, updates)

        return optax.chain(
            optax.contrib.scale_by_muon(
                ns_steps=self.newton_schulz_steps,
                beta=self.momentum,
                nesterov=self.nesterov,
                weight_dimension_numbers=map_roles(matrix_axes, roles),
            ),
            optax.stateless(scale),
        )


def matrix_axes(leaf: Leaf) -> optax.contrib.MuonDimensionNumbers:
    """A leaf's matrix view in optax's words; what is neither input nor output, it maps over."""
    inputs, outputs = leaf.groups
    return optax.contrib.MuonDimensionNumbers(tuple(inputs), tuple(outputs))
