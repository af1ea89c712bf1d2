"""Linear maps over the last axes of activations, and look-ups in tables."""

import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Integer

from lmjax.models.base import named
from lmjax.placement import shares


def affine(
    module: nn.Module,
    name: str,
    x: Float[Array, "B T *i"],
    axes: dict[str, int],
    std: float,
    biased: bool,
) -> Float[Array, "B T *o"]:
    """A linear map of x by parameters `name` and, if biased, `name`_bias of a compact module.

    `axes` names the axes of the kernel [*i, *o], with their sizes; the kernel is drawn from a
    normal distribution and the bias is 0.
    """
    names, shape, inputs = tuple(axes), tuple(axes.values()), x.ndim - 2
    kernel = module.param(name, named(nn.initializers.normal(std), *names), shape)
    zeros = named(nn.initializers.zeros, *names[inputs:])
    bias = module.param(f"{name}_bias", zeros, shape[inputs:]) if biased else None
    return linear(x, kernel, bias)


def linear(
    x: Float[Array, "B T *i"], kernel: Array, bias: Float[Array, "*o"] | None = None
) -> Float[Array, "B T *o"]:
    """Contract all but the first two axes of x with the first axes of the kernel [*i, *o].

    As one product of two matrices: with three axes, XLA's CPU backend transposes activations
    element by element for the gradient of the kernel (one MLP took 23 ms so, 8 ms flat). But where
    the positions are cut over devices, flattening would gather them.
    """
    batch, length, *inputs = x.shape
    outputs = kernel.shape[len(inputs) :]
    if shares("length") > 1:
        y = jnp.tensordot(x, kernel, len(inputs))
        return y if bias is None else y + bias[None, None]
    rows = x.reshape(batch * length, math.prod(inputs))
    y = rows @ kernel.reshape(math.prod(inputs), math.prod(outputs))
    if bias is not None:
        y = y + bias.reshape(1, -1)
    return y.reshape(batch, length, *outputs)


def look_up(table: Float[Array, "V D"], ids: Integer[Array, "B T"]) -> Float[Array, "B T D"]:
    """Rows of the table. Gradients of equal ids are summed in float32 and rounded once.

    In bfloat16 a sum of a thousand stops to grow: of 32,768 ids drawn as words are, the gradient of
    the commonest was wrong by 3 to 8 %, of all by 1 to 5 %; so it is 0.2 %.
    """
    return table.astype(jnp.float32)[ids].astype(table.dtype)


def capped(logits: Float[Array, "*s"], cap: float) -> Float[Array, "*s"]:
    """Logits that no more than approach +-cap (Gemma 2, arXiv 2408.00118); cap 0 = as they are."""
    return cap * jnp.tanh(logits / cap) if cap else logits
