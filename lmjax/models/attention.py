"""Causal attention: who sees whom, rotary positions, and keys and values that are kept.

Shape suffixes as in transformer.py: B batch, T positions of queries, S of keys and values,
D width, H heads, G heads of keys and values, K head_dim, L layers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int32, Integer

from lmjax.models.base import Cache, named
from lmjax.models.decoder import Decoder
from lmjax.models.kernels import attend
from lmjax.models.linear import affine
from lmjax.placement import constrain


class Kept(NamedTuple):
    """Keys and values of all layers, in a cache."""

    keys: Float[Array, "L B G S K"]
    values: Float[Array, "L B G S K"]


class Context(NamedTuple):
    """What all layers share: where the tokens are and what they may see."""

    positions: Integer[Array, "#B T"]  # in their documents
    segments: Integer[Array, "B T"] | None = None  # a token sees its own; None = all are one
    kept: Bool[Array, "B 1 T S"] | None = None  # with a cache: True = may see
    rotation: Float[Array, "2 #B T 1 k"] | None = None  # cosine and sine of K / 2 angles


class Attention(nn.Module):
    """Self-attention; one projection makes q, k and v, or with grouped heads q and one k and v.

    Heads come before the axis of q, k and v: flattened together, they can still be cut by heads.
    """

    config: Decoder

    @nn.compact
    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        context: Context,
        kept: Kept | None,
        number: Int32[Array, ""] | None,
    ) -> tuple[Float[Array, "B T D"], Kept | None]:
        c = self.config
        q_BTHK, k_BTGK, v_BTGK = self.queries_keys_values(x_BTD)
        if c.qk_norm:
            q_BTHK, k_BTGK = head_norm(c, "q_norm")(q_BTHK), head_norm(c, "k_norm")(k_BTGK)
        if context.rotation is not None:
            q_BTHK, k_BTGK = rotate(q_BTHK, context.rotation), rotate(k_BTGK, context.rotation)
        if kept is not None and context.kept is not None:
            kept = Kept(
                write(kept.keys, number, context.positions, k_BTGK),
                write(kept.values, number, context.positions, v_BTGK),
            )
            y_BTHK = attend_kept(q_BTHK, kept.keys[number], kept.values[number], context.kept)
        else:
            q_BTHK = constrain(q_BTHK, "batch", "length", "heads", "head_dim")
            k_BTGK = constrain(k_BTGK, "batch", "kv_length", "kv_heads", "head_dim")
            v_BTGK = constrain(v_BTGK, "batch", "kv_length", "kv_heads", "head_dim")
            y_BTHK = attend(c.attention, q_BTHK, k_BTGK, v_BTGK, context.segments)
        y_BTHK = constrain(y_BTHK, "batch", "length", "heads", "head_dim")
        axes = {"heads": c.heads, "head_dim": c.head_size, "embed": c.width}
        return affine(self, "out", y_BTHK, axes, c.residual_std, c.biases), kept

    def queries_keys_values(self, x_BTD: Float[Array, "B T D"]) -> tuple[Array, Array, Array]:
        c = self.config
        embed, head_dim = {"embed": c.width}, {"head_dim": c.head_size}
        if c.key_heads == c.heads:
            axes = embed | {"heads": c.heads, "qkv": 3} | head_dim
            qkv_BTH3K = affine(self, "qkv", x_BTD, axes, c.std, c.biases)
            return qkv_BTH3K[:, :, :, 0], qkv_BTH3K[:, :, :, 1], qkv_BTH3K[:, :, :, 2]
        axes = embed | {"heads": c.heads} | head_dim
        q_BTHK = affine(self, "q", x_BTD, axes, c.std, c.biases)
        axes = embed | {"kv_heads": c.key_heads, "kv": 2} | head_dim
        kv_BTG2K = affine(self, "kv", x_BTD, axes, c.std, c.biases)
        return q_BTHK, kv_BTG2K[:, :, :, 0], kv_BTG2K[:, :, :, 1]


def look(
    tokens: Integer[Array, "B T"],
    segments: Integer[Array, "B T"] | None,
    positions: Integer[Array, "B T"] | None,
    cache: Cache | None,
) -> Context:
    """Where the tokens are, and which keys each of them may see."""
    counted = jnp.arange(tokens.shape[1])[None]
    if cache is None:
        positions = counted if positions is None else positions
        return Context(positions, segments)
    if segments is not None or positions is not None:
        raise ValueError("with a cache, tokens go on from where it ends: no segments or positions")
    positions = cache["length"][:, None] + counted
    # What the cache holds after a token's own position is padding, or not written yet.
    keys_S = jnp.arange(cache["keys"].shape[3])
    kept = keys_S[None, None, None] <= positions[:, None, :, None]
    return Context(positions, kept=kept)


def rotation(
    positions_BT: Integer[Array, "#B T"], head_dim: int, theta: float
) -> Float[Array, "2 #B T 1 k"]:
    """Cosine and sine by which `rotate` turns pair i: of position / theta^(2 i / head_dim).

    Angles are float32, since bfloat16 has no odd numbers beyond 256.
    """
    pairs = head_dim // 2
    frequency = theta ** -(jnp.arange(pairs, dtype=jnp.float32) / pairs)
    angle = positions_BT[:, :, None, None].astype(jnp.float32) * frequency[None, None, None]
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def rotate(
    x_BTHK: Float[Array, "B T H K"], rotation: Float[Array, "2 #B T 1 k"]
) -> Float[Array, "B T H K"]:
    """Rotary positions (Su et al., arXiv 2104.09864).

    A pair is (x[i], x[i + K / 2]), as in transformers; the paper, and Llama's own weights, pair
    neighbours.
    """
    cos, sin = rotation
    first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BTHK.dtype)


def attend_kept(
    q_BTHK: Float[Array, "B T H K"],
    k_BGSK: Float[Array, "B G S K"],
    v_BGSK: Float[Array, "B G S K"],
    mask: Bool[Array, "B 1 T S"],
) -> Float[Array, "B T H K"]:
    """jax.nn.dot_product_attention of kept keys and values, whose heads come before positions.

    Two products of matrices for each head as they lie: with positions first, each token would copy
    all that is kept into this order (small model of experiments/benchmarks/decode.py, 32 rows: 6.0
    ms a token so, 1.5 ms here).
    """
    batch, length, heads, width = q_BTHK.shape
    q_BTGRK = q_BTHK.reshape(batch, length, k_BGSK.shape[1], -1, width)
    scores = jnp.einsum("btgrk,bgsk->bgrts", q_BTGRK, k_BGSK, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, :, None], scores / width**0.5, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BGSK.dtype)
    return jnp.einsum("bgrts,bgsk->btgrk", weights, v_BGSK).reshape(q_BTHK.shape)


def write(
    kept_LBGSK: Float[Array, "L B G S K"],
    number: Int32[Array, ""] | None,
    positions_BT: Integer[Array, "B T"],
    new_BTGK: Float[Array, "B T G K"],
) -> Float[Array, "L B G S K"]:
    """The kept keys or values with those of one layer's new tokens; what has no room is dropped."""
    rows = jnp.arange(len(positions_BT))[:, None]
    new_BTGK = new_BTGK.astype(kept_LBGSK.dtype)
    return kept_LBGSK.at[number, rows, :, positions_BT].set(new_BTGK, mode="drop")


def head_norm(c: Decoder, name: str) -> nn.RMSNorm:
    """Of queries or keys, over one head; the same scale for all heads (Qwen3)."""
    scale = named(nn.initializers.ones, "head_dim")
    return nn.RMSNorm(epsilon=c.norm_eps, scale_init=scale, name=name)
