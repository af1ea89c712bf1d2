"""SimpleFCN: one convolution and two linear maps, the smallest convolutional net worth training.

B batch, images [B, height, width, channels]. On 28 x 28 x 1 images: 28 - 5 + 1 = 24, pooled 12, so
32 * 12 * 12 = 4,608 features and 47,032 parameters.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
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
        x = Convolution(c.channels, c.window, name="conv")(x)
        x = max_pool(nn.relu(x))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(dense(c.hidden, "features", "mlp", "hidden")(x))
        return dense(c.classes, "mlp", "classes", "head")(x)


class Convolution(nn.Module):
    """nn.Conv without padding, as one product of two matrices.

    That XLA's CPU backend differentiates better: SimpleFCN's gradient takes 10 ms so, 15 with
    nn.Conv. It holds window^2 copies of its input, which is for few channels.
    """

    channels: int
    window: int

    @nn.compact
    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B i j o"]:
        side, (batch, height, width, inputs) = self.window, x.shape
        names = ("height", "width", "conv_in", "conv_out")
        kernel = self.param(
            "kernel",
            named(nn.initializers.lecun_normal(), *names),
            (side, side, inputs, self.channels),
        )
        bias = self.param("bias", named(nn.initializers.zeros, "conv_out"), (self.channels,))
        rows, columns = height - side + 1, width - side + 1
        shifted = [
            x[:, i : i + rows, j : j + columns].transpose(3, 0, 1, 2).reshape(inputs, -1)
            for i in range(side)
            for j in range(side)
        ]
        y = jnp.concatenate(shifted).T @ kernel.reshape(-1, self.channels) + bias[None]
        return y.reshape(batch, rows, columns, self.channels)


def max_pool(x: Float[Array, "B h w c"]) -> Float[Array, "B h//2 w//2 c"]:
    """The largest of each 2 x 2 pixels; an odd last row or column is left out.

    nn.max_pool has the same values and gradient (equal ones: the first), but XLA's CPU backend
    scatters that gradient element by element: SimpleFCN's took 62 ms so, and 15 ms like this.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // 2, width // 2
    x = x[:, : 2 * rows, : 2 * columns].reshape(batch, rows, 2, columns, 2, channels)
    upper = larger(x[:, :, 0, :, 0], x[:, :, 0, :, 1])
    lower = larger(x[:, :, 1, :, 0], x[:, :, 1, :, 1])
    return larger(upper, lower)


def larger(first: Float[Array, "*s"], second: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The larger of two, the first of equals, and what is not a number wherever it stands."""
    return jnp.where((second > first) | jnp.isnan(second), second, first)
