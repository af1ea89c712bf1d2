"""GPT: a decoder with pre-LN, learned positions, tanh GELU and a tied head (GPT-2's layout).

Shape suffixes: B batch, T positions, D width, H heads, K head_dim, F width of the MLP,
V vocabulary, L layers. Parameters of all layers are stacked on a leading axis L and scanned.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
from flax import linen as nn
from jaxtyping import Array, Float, Integer

from lmjax.errors import FieldError, check_integer, check_number
from lmjax.models.base import TokenModel, named

INIT_STD = 0.02  # GPT-2's; projections back into the residual get it over sqrt(2 L)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPT(TokenModel):
    """Radford et al. 2019; parameters V D + T D + L (12 D^2 + 13 D) + 2 D when H K = D, F = 4 D."""

    label: ClassVar[str] = "gpt"

    depth: int = 4  # layers
    width: int = 128  # of the residual stream
    heads: int = 4  # attention heads
    head_dim: int = 0  # width of one head; 0 = width / heads
    mlp_width: int = 0  # hidden width of the MLP; 0 = 4 * width
    dropout: float = 0.0  # on the embeddings and on both branches of each layer
    unroll: int = 1  # layers in one body of the scan; depth or more = no loop, slower to compile

    def validate(self) -> None:
        super().validate()
        for name in ("depth", "width", "heads", "unroll"):
            check_integer(name, getattr(self, name), least=1)
        check_integer("head_dim", self.head_dim, least=0)
        check_integer("mlp_width", self.mlp_width, least=0)
        check_number("dropout", self.dropout, least=0, below=1)
        if not self.head_dim and self.width % self.heads:
            allowed = f"must divide the width {self.width}, or head_dim must be given"
            raise FieldError("heads", self.heads, allowed)

    def build(self) -> nn.Module:
        return Decoder(self)


class Decoder(nn.Module):
    """Token ids to logits."""

    config: GPT

    @nn.compact
    def __call__(
        self, tokens: Integer[Array, "B T"], *, train: bool = False
    ) -> Float[Array, "B T V"]:
        c = self.config
        std = nn.initializers.normal(INIT_STD)
        embedding_VD = self.param(
            "embedding", named(std, "vocab", "embed"), (c.vocab_size, c.width)
        )
        position_TD = self.param(
            "position", named(std, "position", "embed"), (c.max_length, c.width)
        )
        x_BTD = embedding_VD[tokens] + position_TD[None, : tokens.shape[1]]
        x_BTD = nn.Dropout(c.dropout, deterministic=not train)(x_BTD)
        layers = nn.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=c.depth,
            unroll=min(c.unroll, c.depth),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x_BTD, _ = layers(c, train, name="layers")(x_BTD, None)
        x_BTD = layer_norm("norm")(x_BTD)
        return linear(x_BTD, embedding_VD.T)


class Layer(nn.Module):
    """Attention, then MLP, each on a normalised copy and added to the residual stream."""

    config: GPT
    train: bool

    @nn.compact
    def __call__(self, x_BTD: Float[Array, "B T D"], _: None) -> tuple[Float[Array, "B T D"], None]:
        c = self.config
        dropout = nn.Dropout(c.dropout, deterministic=not self.train)
        x_BTD = x_BTD + dropout(Attention(c, name="attention")(layer_norm("norm_1")(x_BTD)))
        x_BTD = x_BTD + dropout(MLP(c, name="mlp")(layer_norm("norm_2")(x_BTD)))
        return x_BTD, None


class Attention(nn.Module):
    """Causal self-attention with fused q, k, v."""

    config: GPT

    @nn.compact
    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        c = self.config
        heads, head_dim = c.heads, c.head_dim or c.width // c.heads
        std, residual_std, zeros = initializers(c)
        qkv_D3HK = self.param(
            "qkv", named(std, "embed", "qkv", "heads", "head_dim"), (c.width, 3, heads, head_dim)
        )
        bias_3HK = self.param(
            "qkv_bias", named(zeros, "qkv", "heads", "head_dim"), (3, heads, head_dim)
        )
        out_HKD = self.param(
            "out", named(residual_std, "heads", "head_dim", "embed"), (heads, head_dim, c.width)
        )
        bias_D = self.param("out_bias", named(zeros, "embed"), (c.width,))
        qkv_BT3HK = linear(x_BTD, qkv_D3HK, bias_3HK)
        y_BTHK = jax.nn.dot_product_attention(
            qkv_BT3HK[:, :, 0], qkv_BT3HK[:, :, 1], qkv_BT3HK[:, :, 2], is_causal=True
        )
        return linear(y_BTHK, out_HKD, bias_D)


class MLP(nn.Module):
    """Two linear maps with a tanh GELU between."""

    config: GPT

    @nn.compact
    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        c = self.config
        hidden = c.mlp_width or 4 * c.width
        std, residual_std, zeros = initializers(c)
        in_DF = self.param("in", named(std, "embed", "mlp"), (c.width, hidden))
        in_bias_F = self.param("in_bias", named(zeros, "mlp"), (hidden,))
        out_FD = self.param("out", named(residual_std, "mlp", "embed"), (hidden, c.width))
        out_bias_D = self.param("out_bias", named(zeros, "embed"), (c.width,))
        h_BTF = nn.gelu(linear(x_BTD, in_DF, in_bias_F), approximate=True)
        return linear(h_BTF, out_FD, out_bias_D)


def linear(
    x: Float[Array, "B T *i"], kernel: Array, bias: Float[Array, "*o"] | None = None
) -> Float[Array, "B T *o"]:
    """Contract all but the first two axes of x with the first axes of the kernel [*i, *o].

    As one product of two matrices: with three axes, XLA's CPU backend transposes activations
    element by element for the gradient of the kernel (one MLP took 23 ms so, 8 ms flat).
    """
    batch, length, *inputs = x.shape
    outputs = kernel.shape[len(inputs) :]
    rows = x.reshape(batch * length, math.prod(inputs))
    y = rows @ kernel.reshape(math.prod(inputs), math.prod(outputs))
    if bias is not None:
        y = y + bias.reshape(1, -1)
    return y.reshape(batch, length, *outputs)


def initializers(c: GPT) -> tuple[Any, Any, Any]:
    """For inner maps, for maps back into the residual stream, and for biases."""
    residual = nn.initializers.normal(INIT_STD / (2 * c.depth) ** 0.5)
    return nn.initializers.normal(INIT_STD), residual, nn.initializers.zeros


def layer_norm(name: str) -> nn.LayerNorm:
    """GPT-2's layer norm; statistics in float32, whatever the dtype of its input."""
    return nn.LayerNorm(
        epsilon=1e-5,
        scale_init=named(nn.initializers.ones, "embed"),
        bias_init=named(nn.initializers.zeros, "embed"),
        name=name,
    )
