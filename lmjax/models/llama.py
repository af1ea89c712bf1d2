"""Llama: RMS norms, rotary positions, grouped heads, a gated SiLU MLP, no biases, its own head."""

import dataclasses
from typing import Any, ClassVar

from flax import linen as nn

from lmjax.models.decoder import Activation, Decoder, Norm, Position
from lmjax.models.transformer import Transformer


def _llama3(depth: int, width: int, heads: int, mlp_width: int) -> dict[str, Any]:
    sizes = {"depth": depth, "width": width, "heads": heads, "mlp_width": mlp_width}
    rest = {"vocab_size": 128256, "max_length": 8192, "rope_theta": 500000.0}
    return {**sizes, "kv_heads": 8, **rest}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama(Decoder):
    """Touvron et al. 2023 (arXiv 2307.09288) and the Llama 3 herd (arXiv 2407.21783)."""

    label: ClassVar[str] = "llama"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "llama2-7b": {
            "vocab_size": 32000,
            "max_length": 4096,
            "depth": 32,
            "width": 4096,
            "heads": 32,
            "kv_heads": 32,
            "mlp_width": 11008,
        },
        "llama3-8b": _llama3(32, 4096, 32, 14336),
        "llama3-70b": _llama3(80, 8192, 64, 28672),
    }

    kv_heads: int = 2  # heads of keys and values, which the queries share in groups; 0 = heads
    norm: Norm = "rms"  # layer norm, or only divided by the root mean square
    position: Position = "rotary"  # a learned table, or rotation of queries and keys
    activation: Activation = "silu"  # of the MLP
    gated: bool = True  # the MLP multiplies its activation with a second linear map
    biases: bool = False  # on linear maps and layer norms
    tied: bool = False  # the head is the embedding

    def build(self) -> nn.Module:
        return Transformer(self)
