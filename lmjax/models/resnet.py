"""ResNet: convolutional nets whose blocks add to what they are given.

B batch, images [B, height, width, channels]. A stage's first block may change the shape; the
parameters of the others are stacked on a leading axis and scanned. Without a loop by default: XLA's
CPU backend takes 7 times as long for convolutions inside one (ResNet-20: 86 ms a step, and 577).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from lmjax.errors import FieldError, check_choice, check_integer, check_number
from lmjax.models.base import Classifier, named
from lmjax.models.mlp import dense
from lmjax.placement import constrain

Stem = Literal["small", "large"]
Shortcut = Literal["padded", "projected"]
STEM_WINDOWS: dict[Stem, int] = {"small": 3, "large": 7}  # side, pixels
BOTTLENECK = 4  # channels of a bottleneck block's output, over those between its convolutions
LARGE = {"classes": 1000, "stem": "large", "shortcut": "projected", "width": 64}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNet(Classifier):
    """He et al. 2015 (arXiv 1512.03385); by default their ResNet-20 for images of 32 x 32.

    The large ones have the stride of a bottleneck on its 3 x 3 convolution, as torchvision does
    (ResNet v1.5). Batch statistics are over the whole batch, on however many devices it lies, or
    over one micro-batch where gradients are accumulated; running ones are float32, in
    "batch_stats", with the biased variance (torch's has n / (n - 1) of it).
    """

    label: ClassVar[str] = "resnet"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "resnet20": {"blocks": (3, 3, 3)},
        "resnet32": {"blocks": (5, 5, 5)},
        "resnet44": {"blocks": (7, 7, 7)},
        "resnet56": {"blocks": (9, 9, 9)},
        "resnet110": {"blocks": (18, 18, 18)},
        "resnet18": {**LARGE, "blocks": (2, 2, 2, 2)},
        "resnet34": {**LARGE, "blocks": (3, 4, 6, 3)},
        "resnet50": {**LARGE, "blocks": (3, 4, 6, 3), "bottleneck": True},
        "resnet101": {**LARGE, "blocks": (3, 4, 23, 3), "bottleneck": True},
        "resnet152": {**LARGE, "blocks": (3, 8, 36, 3), "bottleneck": True},
    }

    blocks: tuple[int, ...] = (3, 3, 3)  # residual blocks in each stage
    width: int = 16  # channels of the first stage's 3 x 3 convolutions; each stage doubles them
    bottleneck: bool = False  # convolutions 1 x 1, 3 x 3, 1 x 1 in a block, not two of 3 x 3
    stem: Stem = "small"  # 3 x 3, or large: 7 x 7 with stride 2, then max-pool 3 x 3 with stride 2
    shortcut: Shortcut = "padded"  # where shapes change: zeros for new channels, or 1 x 1 and norm
    zero_last_scale: bool = False  # start each block as the identity (arXiv 1706.02677)
    unroll: int = 0  # blocks in one body of a stage's scan; 0 = all, no loop: slower to compile
    norm_momentum: float = 0.9  # of the running statistics; torch's momentum is 1 minus this
    norm_epsilon: float = 1e-5  # added to the variance

    def validate(self) -> None:
        super().validate()
        if not self.blocks:
            raise FieldError("blocks", self.blocks, "must name at least one stage")
        for number in self.blocks:
            check_integer("blocks", number, least=1)
        check_integer("width", self.width, least=1)
        check_integer("unroll", self.unroll, least=0)
        check_choice("stem", self.stem, get_args(Stem))
        check_choice("shortcut", self.shortcut, get_args(Shortcut))
        check_number("norm_momentum", self.norm_momentum, least=0, below=1)
        check_number("norm_epsilon", self.norm_epsilon, above=0)

    def build(self) -> nn.Module:
        return ResidualNet(self)


class ResidualNet(nn.Module):
    """Images to logits."""

    config: ResNet

    @nn.compact
    def __call__(self, x: Float[Array, "B h w c"], *, train: bool = False) -> Float[Array, "B C"]:
        c = self.config
        window = STEM_WINDOWS[c.stem]
        if min(x.shape[1:3]) < window:
            sides = f"{x.shape[1]} x {x.shape[2]}"
            allowed = f"its {window} x {window} window does not fit into images of {sides}"
            raise FieldError("stem", c.stem, allowed)
        x = convolution(c.width, window, 2 if c.stem == "large" else 1, "stem")(x)
        x = nn.relu(batch_norm(c, train, "stem_norm")(x))
        if c.stem == "large":
            around = ((1, 1), (1, 1))  # not "SAME", as in `convolution`; Flax declares str alone
            x = nn.max_pool(x, (3, 3), (2, 2), around)  # pyright: ignore[reportArgumentType]
        for stage, blocks in enumerate(c.blocks):
            channels = c.width * 2**stage * (BOTTLENECK if c.bottleneck else 1)
            stride = 2 if stage > 0 else 1
            x, _ = Block(c, channels, stride, train, name=f"stage_{stage}_first")(x, None)
            if blocks > 1:
                rest = nn.scan(
                    Block,
                    variable_axes={"params": 0, "batch_stats": 0},
                    split_rngs={"params": True},
                    length=blocks - 1,
                    unroll=min(c.unroll or blocks, blocks - 1),
                    metadata_params={nn.PARTITION_NAME: "layers"},
                )
                x, _ = rest(c, channels, 1, train, name=f"stage_{stage}_rest")(x, None)
        return dense(c.classes, "features", "classes", "head")(x.mean((1, 2)))


class Block(nn.Module):
    """Two or three convolutions, each with its norm, added to the shortcut."""

    config: ResNet
    channels: int  # of its output
    stride: int  # in pixels, of both axes
    train: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w c"], _: None
    ) -> tuple[Float[Array, "B h2 w2 d"], None]:
        c, inner = self.config, self.channels // BOTTLENECK
        layers = [(self.channels, 3, self.stride), (self.channels, 3, 1)]
        if c.bottleneck:
            layers = [(inner, 1, 1), (inner, 3, self.stride), (self.channels, 1, 1)]
        y = x
        for number, (channels, window, stride) in enumerate(layers, 1):
            last = number == len(layers)
            y = convolution(channels, window, stride, f"conv_{number}")(y)
            y = batch_norm(c, self.train, f"norm_{number}", last and c.zero_last_scale)(y)
            y = y if last else nn.relu(y)
        return constrain(nn.relu(self.shortcut(x) + y), "batch"), None

    def shortcut(self, x: Float[Array, "B h w c"]) -> Float[Array, "B h2 w2 d"]:
        """x in the shape of the block's output."""
        c, new = self.config, self.channels - x.shape[-1]
        if not new and self.stride == 1:
            return x
        if c.shortcut == "projected":
            x = convolution(self.channels, 1, self.stride, "shortcut")(x)
            return batch_norm(c, self.train, "shortcut_norm")(x)
        # The paper's option A. It does not say where the zeros go; here, half on either side.
        around = (new // 2, new - new // 2)
        return jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), around))


def convolution(channels: int, window: int, stride: int, name: str) -> nn.Conv:
    """Without bias, with as many zeros on either side: "SAME" would put more on one of them."""
    return nn.Conv(
        channels,
        (window, window),
        strides=stride,
        padding=window // 2,
        use_bias=False,
        kernel_init=named(by_fan_out, "height", "width", "conv_in", "conv_out"),
        name=name,
    )


def by_fan_out(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Float[Array, "h w c d"]:
    """Normal with variance 2 / (h w d), for kernels [h, w, c, d] (arXiv 1502.01852).

    Drawn flat, which gives the same numbers: XLA's CPU backend takes 0.9 s to compile a draw of
    four axes and 0.3 s for one.
    """
    height, width, _, channels = shape
    numbers = jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)
    return numbers * math.sqrt(2 / (height * width * channels))


def batch_norm(config: ResNet, train: bool, name: str, zero: bool = False) -> nn.BatchNorm:
    """By the batch's statistics in training, else by the running ones; all of them in float32."""
    scale = nn.initializers.zeros if zero else nn.initializers.ones
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=config.norm_momentum,
        epsilon=config.norm_epsilon,
        scale_init=named(scale, "conv_out"),
        bias_init=named(nn.initializers.zeros, "conv_out"),
        name=name,
    )
