"""A train step that changes nothing where something is not finite: on_nonfinite = skip.

The state before it is chosen inside the compiled step, so that nobody waits for the answer, and bit
for bit. Looked at are the gradient, the parameters and the model's state after the update, and all
metrics; an optimizer may hold an infinity, such as the best loss before there is one.

The step is counted all the same (lmjax/nonfinite.py says why).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.metrics import Mean, Metrics
from lmjax.state import TrainState

SKIPPED = "skipped"  # the metric: 0, or the number of the first in `looked_at` that is not finite


def looked_at(grads: Any, after: TrainState, means: dict[str, Any]) -> dict[str, Any]:
    """Path -> each array that must be finite, in order; or of what has their shapes.

    `means` are of the metrics, by name."""
    trees = {"grads": grads, "model_state": after.model_state, "params": after.params}
    return {
        **{
            jax.tree_util.keystr(path, simple=True, separator="/"): x
            for path, x in jax.tree_util.tree_leaves_with_path(trees)
            if jnp.issubdtype(x.dtype, jnp.inexact)
        },
        **dict(sorted(means.items())),
    }


def take_or_skip(
    before: TrainState, after: TrainState, grads: Any, metrics: Metrics
) -> tuple[TrainState, Metrics]:
    """(`after`, or `before` with this step counted where something is not finite; the metrics with
    SKIPPED among them)."""
    means = {name: mean.total / mean.weight for name, mean in metrics.items()}
    finite = jnp.stack([jnp.isfinite(x).all() for x in looked_at(grads, after, means).values()])
    taken = finite.all()
    chosen = jax.tree.map(lambda new, old: jnp.where(taken, new, old), after, before)
    number = jnp.where(taken, 0, 1 + jnp.argmin(finite)).astype(jnp.float32)
    counted = dataclasses.replace(chosen, step=after.step)
    return counted, {**metrics, SKIPPED: Mean(number, jnp.float32(1))}
