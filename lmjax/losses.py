"""Losses, pure, summed over weighted targets so that they can be merged before dividing."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from lmjax.metrics import Mean


def cross_entropy(
    logits: Float[Array, "*b C"], targets: Integer[Array, "*b"], weights: Float[Array, "*b"]
) -> Mean:
    """Softmax cross-entropy in nats, computed in float32."""
    logits = logits.astype(jnp.float32)
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return Mean(jnp.sum((log_normalizer - chosen) * weights), jnp.sum(weights))


def accuracy(
    logits: Float[Array, "*b C"], targets: Integer[Array, "*b"], weights: Float[Array, "*b"]
) -> Mean:
    """Share of targets whose logit is the largest."""
    correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    return Mean(jnp.sum(correct * weights), jnp.sum(weights))
