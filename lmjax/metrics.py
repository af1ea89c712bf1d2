"""Metrics as (sum, weight) pairs, which merge exactly; a mean of means is never formed."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Mean(NamedTuple):
    """A weighted mean that is still open: sum of weight * value, and sum of weight."""

    total: Any  # float32 [], or a float on the host
    weight: Any


Metrics = dict[str, Mean]


def merge(parts: Iterable[Metrics]) -> Metrics:
    """The metrics of many sets of examples, added on the host in float64."""
    merged: Metrics = {}
    for part in parts:
        for name, mean in part.items():
            old = merged.get(name, Mean(0.0, 0.0))
            merged[name] = Mean(old.total + float(mean.total), old.weight + float(mean.weight))
    return merged


def values(metrics: Metrics) -> dict[str, float]:
    """The means themselves; nan, which no run goes on with, where nothing was weighed."""
    return {
        name: float(mean.total) / float(mean.weight) if mean.weight else math.nan
        for name, mean in metrics.items()
    }


def pack(metrics: Metrics) -> Float[Array, "n 2"]:
    """All pairs as one array, in the order of the names, so that one copy brings them home."""
    return jnp.stack(
        [
            jnp.stack([jnp.asarray(x, jnp.float32) for x in metrics[name]])
            for name in sorted(metrics)
        ]
    )


def unpack(names: Sequence[str], packed: Float[Array, "n 2"]) -> Metrics:
    """The metrics that `pack` made, on the host; `names` sorted."""
    return {
        name: Mean(*pair) for name, pair in zip(names, np.asarray(packed).tolist(), strict=True)
    }
