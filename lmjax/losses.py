"""Losses, pure, summed over weighted targets so that they can be merged before dividing.

A target is a class, or a probability of each class: float, with one axis more.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from lmjax.metrics import Mean

Targets = Integer[Array, "*b"] | Float[Array, "*b C"]


def cross_entropy(
    logits: Float[Array, "*b C"], targets: Targets, weights: Float[Array, "*b"]
) -> Mean:
    """Softmax cross-entropy in nats, computed in float32."""
    logits = logits.astype(jnp.float32)
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    if are_probabilities(targets):
        losses = jnp.sum(targets * (log_normalizer[..., None] - logits), axis=-1)
    else:
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        losses = log_normalizer - chosen
    return Mean(jnp.sum(losses * weights), jnp.sum(weights))


def accuracy(logits: Float[Array, "*b C"], targets: Targets, weights: Float[Array, "*b"]) -> Mean:
    """Share of targets, or of their likeliest classes, whose logit is the largest."""
    if are_probabilities(targets):
        targets = jnp.argmax(targets, axis=-1)
    correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    return Mean(jnp.sum(correct * weights), jnp.sum(weights))


def distribution(targets: Targets, classes: int) -> Float[Array, "*b C"]:
    """The probability of each class: 1 for a target that is a class."""
    return targets if are_probabilities(targets) else jax.nn.one_hot(targets, classes)


def are_probabilities(targets: Targets) -> bool:
    return jnp.issubdtype(targets.dtype, jnp.floating)
