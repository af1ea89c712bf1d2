"""The settings of a decoder-only transformer: each way in which GPT and Llama differ is a field."""

import dataclasses
from typing import Any, ClassVar, Literal, get_args

import jax.numpy as jnp

from lmjax.errors import FieldError, check_choice, check_integer, check_number
from lmjax.models.base import Cache, TokenModel
from lmjax.models.kernels import Wanted

INIT_STD = 0.02  # GPT-2's

Norm = Literal["layer", "rms"]
Position = Literal["learned", "rotary"]
Activation = Literal["gelu_tanh", "silu"]
Remat = Literal["none", "dots", "full"]
"""What of each layer is computed again in the backward pass:
none  nothing
dots  all but the results of its linear maps: norms, activations and attention
full  the whole layer, of which only the input is kept
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder(TokenModel):
    """What lmjax/models/transformer.py builds from; a family gives it defaults and sizes."""

    takes: ClassVar[tuple[str, ...]] = ("segments", "positions", "rows")
    separable: ClassVar[bool] = True

    depth: int = 4  # layers
    width: int = 128  # of the residual stream
    heads: int = 4  # attention heads, of the queries
    kv_heads: int = 0  # heads of keys and values, which the queries share in groups; 0 = heads
    head_dim: int = 0  # width of one head; 0 = width / heads
    mlp_width: int = 0  # hidden width of the MLP; 0 = 4 width, gated: 8/3 up to a multiple of 64
    norm: Norm  # layer norm, or only divided by the root mean square
    norm_eps: float = 1e-5  # added to the variance
    position: Position  # a learned table, or rotation of queries and keys
    rope_theta: float = 10000.0  # wavelength of the slowest rotation is 2 pi theta, in positions
    activation: Activation  # of the MLP
    gated: bool  # the MLP multiplies its activation with a second linear map
    biases: bool  # on linear maps and layer norms
    tied: bool  # the head is the embedding
    qk_norm: bool = False  # queries and keys of each head are divided by their root mean square
    logit_cap: float = 0.0  # logits are cap * tanh(logits / cap); 0 = as they are (2408.00118)
    dropout: float = 0.0  # on the embeddings and on both branches of each layer
    vocab_multiple: int = 1  # the table is padded to this; an id beyond vocab_size is never drawn
    attention: Wanted = "auto"  # the kernel, where there is no cache (lmjax/models/kernels.py)
    unroll: int = 1  # layers in one body of the scan; depth or more = no loop, slower to compile
    remat: Remat = "none"  # what the backward pass computes again, to save memory

    def validate(self) -> None:
        super().validate()
        for name in ("depth", "width", "heads", "unroll", "vocab_multiple"):
            check_integer(name, getattr(self, name), least=1)
        for name in ("kv_heads", "head_dim", "mlp_width"):
            check_integer(name, getattr(self, name), least=0)
        for name, kind in (("norm", Norm), ("position", Position), ("activation", Activation)):
            check_choice(name, getattr(self, name), get_args(kind))
        check_number("norm_eps", self.norm_eps, above=0)
        check_number("rope_theta", self.rope_theta, above=1)
        check_number("logit_cap", self.logit_cap, least=0)
        check_choice("attention", self.attention, get_args(Wanted))
        check_choice("remat", self.remat, get_args(Remat))
        check_number("dropout", self.dropout, least=0, below=1)
        if not self.head_dim and self.width % self.heads:
            allowed = f"must divide the width {self.width}, or head_dim must be given"
            raise FieldError("heads", self.heads, allowed)
        if self.heads % self.key_heads:
            raise FieldError("kv_heads", self.kv_heads, f"must divide the {self.heads} heads")
        if self.position == "rotary" and self.head_size % 2:
            allowed = "must be even: rotary positions turn pairs (0 = width / heads)"
            raise FieldError("head_dim", self.head_dim, allowed)

    @property
    def std(self) -> float:
        """Of the initial parameters."""
        return INIT_STD

    @property
    def residual_std(self) -> float:
        """Of the initial maps back into the residual stream, to which every layer adds two."""
        return INIT_STD / (2 * self.depth) ** 0.5

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.head_dim or self.width // self.heads

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP; the gated default has about as many parameters as the plain."""
        default = -(-8 * self.width // 192) * 64 if self.gated else 4 * self.width
        return self.mlp_width or default

    @property
    def table_rows(self) -> int:
        """Of the embedding and columns of the head, with padding."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    def attention_width(self) -> int:
        return self.depth * self.heads * self.head_size

    def init_cache(self, batch: int, size: int, dtype: Any) -> Cache:
        if not 1 <= size <= self.max_length:
            raise ValueError(f"a cache of {size} positions; max_length is {self.max_length}")
        shape = (self.depth, batch, self.key_heads, size, self.head_size)
        return {
            "keys": jnp.zeros(shape, dtype),
            "values": jnp.zeros(shape, dtype),
            "length": jnp.zeros([batch], jnp.int32),
        }
