"""Metrics as (sum, weight) pairs, which merge exactly; a mean of means is never formed."""

from collections.abc import Iterable
from typing import NamedTuple

from jaxtyping import Array, Float


class Mean(NamedTuple):
    """A weighted mean that is still open: sum of weight * value, and sum of weight."""

    total: float | Float[Array, ""]
    weight: float | Float[Array, ""]


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
    """The means themselves."""
    return {name: float(mean.total) / float(mean.weight) for name, mean in metrics.items()}
