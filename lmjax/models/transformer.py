"""The decoder-only transformer, pre-norm, whose every variation is a setting (decoder.py).

Shape suffixes: B batch, T positions, D width, F width of the MLP, V vocabulary, L layers, and in
attention.py more. Parameters of all layers are stacked on a leading axis L and scanned.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int32, Integer

from lmjax.models.attention import Attention, Context, Kept, look, rotation
from lmjax.models.base import ROWS, Cache, Headless, named
from lmjax.models.decoder import Decoder, Remat
from lmjax.models.dropout import RowDropout
from lmjax.models.linear import affine, capped, linear, look_up
from lmjax.placement import constrain

ACTIVATIONS = {"gelu_tanh": nn.gelu, "silu": nn.silu}  # Flax's gelu is the tanh one by default


KEEPS: dict[Remat, Any] = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Transformer(nn.Module):
    """Token ids to logits."""

    config: Decoder

    @nn.compact
    def __call__(
        self,
        tokens: Integer[Array, "B T"],
        *,
        train: bool = False,
        segments: Integer[Array, "B T"] | None = None,
        positions: Integer[Array, "B T"] | None = None,
        rows: Integer[Array, "B"] | None = None,
        cache: Cache | None = None,
        head: bool = True,
    ) -> Float[Array, "B T V"] | Headless | tuple[Float[Array, "B T V"], Cache]:
        """Logits; with a cache, logits and the cache with these tokens (TokenModel.init_cache).

        Args:
          tokens: ids below vocab_size, which is not checked here.
          train: whether to drop out, with a key for each row.
          segments: number of each token's document; None = one document.
          positions: of each token in its document, below max_length; None = 0, 1, ... in each row.
          rows: number of each row in its batch, for dropout; None = 0, 1, ...
          cache: keys and values of the positions before these tokens.
          head: whether to make logits; False = Headless instead.
        """
        c = self.config
        if rows is None:
            rows = jnp.arange(len(tokens))
        dropped = rows if train else None
        std = nn.initializers.normal(c.std)
        context = look(tokens, segments, positions, cache)
        embedding_VD = self.param(
            "embedding", named(std, "vocab", "embed"), (c.table_rows, c.width)
        )
        # Whole in its width before the look-up: a gather from a table that is cut both ways would
        # copy its result to every device.
        x_BTD = look_up(constrain(embedding_VD, "vocab", "embed"), tokens)
        if c.position == "learned":
            table = named(std, "position", "embed")
            table_SD = self.param("position", table, (c.max_length, c.width))
            x_BTD = x_BTD + look_up(table_SD, context.positions)
        else:
            angles = rotation(context.positions, c.head_size, c.rope_theta)
            context = context._replace(rotation=angles)
        x_BTD = constrain(x_BTD, "batch", "length", "embed")
        x_BTD = RowDropout(c.dropout)(x_BTD, dropped)
        axes: Any = (0, nn.broadcast, nn.broadcast)  # Flax's annotation knows no tuple
        layers = nn.scan(
            remembering(c),
            variable_axes={"params": 0},
            split_rngs={"params": True, ROWS: True},
            in_axes=axes,
            length=c.depth,
            unroll=min(c.unroll, c.depth),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        kept = None if cache is None else Kept(cache["keys"], cache["values"])
        number_L = None if cache is None else jnp.arange(c.depth)
        (x_BTD, kept), _ = layers(c, name="layers")((x_BTD, kept), number_L, context, dropped)
        x_BTD = norm(c, "norm")(x_BTD)
        if c.tied:
            head_DV = embedding_VD.T
        else:
            head_DV = self.param("head", named(std, "embed", "vocab"), (c.width, c.table_rows))
        if not head:
            return Headless(x_BTD, head_DV, c.logit_cap, c.vocab_size)
        logits_BTV = constrain(linear(x_BTD, head_DV), "batch", "length", "vocab")
        logits_BTV = capped(logits_BTV, c.logit_cap)[..., : c.vocab_size]
        if cache is None or kept is None:
            return logits_BTV
        length_B = cache["length"] + tokens.shape[1]
        return logits_BTV, {"keys": kept.keys, "values": kept.values, "length": length_B}


def remembering(c: Decoder) -> Any:
    """Layer, as it keeps for the backward pass what `remat` says."""
    if c.remat == "none":
        return Layer
    # A scan already keeps its two passes apart; where it is unrolled, XLA would find the same
    # computation in both and merge them again.
    return nn.remat(Layer, prevent_cse=c.unroll > 1, policy=KEEPS[c.remat])


class Layer(nn.Module):
    """Attention, then MLP, each on a normalised copy and added to the residual stream."""

    config: Decoder

    @nn.compact
    def __call__(
        self,
        carry: tuple[Float[Array, "B T D"], Kept | None],
        number: Int32[Array, ""] | None,
        context: Context,
        dropped: Integer[Array, "B"] | None,
    ) -> tuple[tuple[Float[Array, "B T D"], Kept | None], None]:
        """`dropped`: number of each row, for dropout; None = nothing is dropped."""
        c, (x_BTD, kept) = self.config, carry
        attention = Attention(c, name="attention")
        y_BTD, kept = attention(norm(c, "norm_1")(x_BTD), context, kept, number)
        x_BTD = constrain(x_BTD + RowDropout(c.dropout)(y_BTD, dropped), "batch", "length", "embed")
        y_BTD = MLP(c, name="mlp")(norm(c, "norm_2")(x_BTD))
        x_BTD = x_BTD + RowDropout(c.dropout)(y_BTD, dropped)
        return (constrain(x_BTD, "batch", "length", "embed"), kept), None


class MLP(nn.Module):
    """Two linear maps with an activation between, which a third may gate (arXiv 2002.05202)."""

    config: Decoder

    @nn.compact
    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        c, activation = self.config, ACTIVATIONS[self.config.activation]
        embed, mlp = {"embed": c.width}, {"mlp": c.hidden}
        if c.gated:
            h_BTF = activation(affine(self, "gate", x_BTD, embed | mlp, c.std, c.biases))
            h_BTF = h_BTF * affine(self, "in", x_BTD, embed | mlp, c.std, c.biases)
        else:
            h_BTF = activation(affine(self, "in", x_BTD, embed | mlp, c.std, c.biases))
        h_BTF = constrain(h_BTF, "batch", "length", "mlp")
        return affine(self, "out", h_BTF, mlp | embed, c.residual_std, c.biases)


def norm(c: Decoder, name: str) -> nn.RMSNorm | nn.LayerNorm:
    """Over the width; its statistics are float32, whatever the dtype of its input."""
    scale = named(nn.initializers.ones, "embed")
    if c.norm == "rms":
        return nn.RMSNorm(epsilon=c.norm_eps, scale_init=scale, name=name)
    bias = named(nn.initializers.zeros, "embed")
    return nn.LayerNorm(
        epsilon=c.norm_eps, scale_init=scale, use_bias=c.biases, bias_init=bias, name=name
    )
