"""GPT: layer norms, learned positions, tanh GELU, biases and a tied head (GPT-2's layout)."""

import dataclasses
from typing import Any, ClassVar

from flax import linen as nn

from lmjax.models.decoder import Activation, Decoder, Norm, Position
from lmjax.models.transformer import Transformer


def _gpt2(depth: int, width: int, heads: int) -> dict[str, Any]:
    sizes = {"depth": depth, "width": width, "heads": heads}
    return {"vocab_size": 50257, "max_length": 1024, **sizes}


def _gpt3(depth: int, width: int, heads: int, head_dim: int) -> dict[str, Any]:
    return {**_gpt2(depth, width, heads), "max_length": 2048, "head_dim": head_dim}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPT(Decoder):
    """Radford et al. 2019; parameters V D + T D + L (12 D^2 + 13 D) + 2 D when H K = D, F = 4 D.

    The sizes named gpt3-* are those of Brown et al. 2020 (arXiv 2005.14165, table 2.1), with dense
    attention in every layer. The table's heads times head_dim is not the width for two of them:
    gpt3-1.3b and gpt3-13b make it so, and gpt3-1.3b-table and gpt3-13b-table are as printed.
    """

    label: ClassVar[str] = "gpt"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpt2": _gpt2(12, 768, 12),
        "gpt2-medium": _gpt2(24, 1024, 16),
        "gpt2-large": _gpt2(36, 1280, 20),
        "gpt2-xl": _gpt2(48, 1600, 25),
        "gpt3-125m": _gpt3(12, 768, 12, 64),
        "gpt3-350m": _gpt3(24, 1024, 16, 64),
        "gpt3-760m": _gpt3(24, 1536, 16, 96),
        "gpt3-1.3b": _gpt3(24, 2048, 16, 128),
        "gpt3-1.3b-table": _gpt3(24, 2048, 24, 128),
        "gpt3-2.7b": _gpt3(32, 2560, 32, 80),
        "gpt3-6.7b": _gpt3(32, 4096, 32, 128),
        "gpt3-13b": _gpt3(40, 5140, 20, 257),
        "gpt3-13b-table": _gpt3(40, 5140, 40, 128),
        "gpt3-175b": _gpt3(96, 12288, 96, 128),
    }

    norm: Norm = "layer"  # layer norm, or only divided by the root mean square
    position: Position = "learned"  # a learned table, or rotation of queries and keys
    activation: Activation = "gelu_tanh"  # of the MLP
    gated: bool = False  # the MLP multiplies its activation with a second linear map
    biases: bool = True  # on linear maps and layer norms
    tied: bool = True  # the head is the embedding

    def build(self) -> nn.Module:
        return Transformer(self)
