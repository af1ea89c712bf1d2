"""A multi-layer perceptron on flattened examples. B batch, I input features, C classes."""

import dataclasses
import math
from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from lmjax.errors import check_integer
from lmjax.models.base import Classifier, named


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLP(Classifier):
    """Linear maps with ReLU between."""

    label: ClassVar[str] = "mlp"

    hidden: tuple[int, ...] = (64,)  # widths of the hidden layers

    def validate(self) -> None:
        super().validate()
        for width in self.hidden:
            check_integer("hidden", width, least=1)

    def build(self) -> nn.Module:
        return Perceptron(self)


class Perceptron(nn.Module):
    """Examples of any shape to logits."""

    config: MLP

    @nn.compact
    def __call__(
        self, x: Float[Array, "B *example"], *, train: bool = False
    ) -> Float[Array, "B C"]:
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        source = "features"
        for number, width in enumerate(self.config.hidden):
            x = nn.relu(dense(width, source, "mlp", f"hidden_{number}")(x))
            source = "mlp"
        return dense(self.config.classes, source, "classes", "head")(x)


def dense(width: int, source: str, target: str, name: str) -> nn.Dense:
    """A linear map with named axes, initialised to keep the variance of its input."""
    return nn.Dense(
        width,
        kernel_init=named(nn.initializers.lecun_normal(), source, target),
        bias_init=named(nn.initializers.zeros, target),
        name=name,
    )
