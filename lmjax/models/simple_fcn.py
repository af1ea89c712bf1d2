"""SimpleFCN: one convolution and two linear maps, the smallest convolutional net worth training.

B batch, images [B, height, width, channels]. On 28 x 28 x 1 images: 28 - 5 + 1 = 24, pooled 12, so
32 * 12 * 12 = 4,608 features and 47,032 parameters.
"""

import dataclasses
from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from lmjax.errors import FieldError, check_integer
from lmjax.models.base import Classifier, named
from lmjax.models.mlp import dense


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimpleFCN(Classifier):
    """conv -> ReLU -> max-pool 2 -> linear -> ReLU -> linear."""

    label: ClassVar[str] = "simple-fcn"

    channels: int = 32  # of the convolution
    window: int = 5  # side of the convolution's window, pixels
    hidden: int = 10  # width of the hidden linear layer

    def validate(self) -> None:
        super().validate()
        for name in ("channels", "window", "hidden"):
            check_integer(name, getattr(self, name), least=1)

    def build(self) -> nn.Module:
        return ConvNet(self)


class ConvNet(nn.Module):
    """Images to logits."""

    config: SimpleFCN

    @nn.compact
    def __call__(self, x: Float[Array, "B h w c"], *, train: bool = False) -> Float[Array, "B C"]:
        c = self.config
        side = min(x.shape[1:3]) - c.window + 1
        if side < 2:
            allowed = f"must leave at least 2 of the images' {min(x.shape[1:3])} pixels to pool"
            raise FieldError("window", c.window, allowed)
        x = nn.Conv(
            c.channels,
            (c.window, c.window),
            padding="VALID",
            kernel_init=named(
                nn.initializers.lecun_normal(), "height", "width", "conv_in", "conv_out"
            ),
            bias_init=named(nn.initializers.zeros, "conv_out"),
            name="conv",
        )(x)
        x = nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(dense(c.hidden, "features", "mlp", "hidden")(x))
        return dense(c.classes, "mlp", "classes", "head")(x)
