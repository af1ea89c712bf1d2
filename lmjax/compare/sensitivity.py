"""How much the learning rate matters: the width of the basin in which the loss is near its best."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class Basin(NamedTuple):
    """The rates around the best one at which the loss is within a tolerance of the best."""

    best: float | None  # the rate with the lowest mean loss; None where every rate diverged
    loss: float  # there; inf where every rate diverged
    low: float | None  # ends of the basin, as rates
    high: float | None
    decades: float  # log10(high / low): its width
    open_low: bool  # no rate was tried beyond that end, so that the width is a lower bound
    open_high: bool
    diverged: int  # cells with loss inf
    cells: int
    diverged_rates: tuple[float, ...]  # rates at which any seed diverged, ascending


def basin(
    rates: Float[np.ndarray, "rates"], losses: Float[np.ndarray, "rates seeds"], tolerance: float
) -> Basin:
    """The basin of the mean loss over log10 of the rate, linear between rates.

    A rate at which any seed diverged has the mean loss inf and ends the basin at the rate before
    it. Of equally good rates the lowest counts.

    Args:
      rates: > 0 and distinct, in any order, at least one.
      losses: one a cell, the lower the better; inf = diverged.
      tolerance: >= 0, in the unit of the loss.

    Raises ValueError for what is none of these, and for a nan.
    """
    if losses.ndim != 2 or not losses.size or losses.shape[0] != len(rates):
        raise ValueError(f"{len(rates)} rates, but losses of shape {losses.shape}")
    if not (np.isfinite(rates) & (rates > 0)).all() or len(set(rates.tolist())) < len(rates):
        raise ValueError(f"rates must be > 0, finite and distinct: {rates}")
    if np.isnan(losses).any() or not (tolerance >= 0 and math.isfinite(tolerance)):
        raise ValueError(f"a loss is nan, or {tolerance = } is not >= 0")
    order = np.argsort(rates)
    rates, losses = np.asarray(rates, np.float64)[order], np.asarray(losses, np.float64)[order]
    lost = np.isinf(losses)
    counts = (int(lost.sum()), losses.size, tuple(rates[lost.any(axis=1)].tolist()))
    means = losses.mean(axis=1)
    at = int(np.argmin(means))
    best = float(means[at])
    if math.isinf(best):
        return Basin(None, math.inf, None, None, 0.0, False, False, *counts)
    decades, within = np.log10(rates), means <= best + tolerance
    low = _end(decades[at::-1], means[at::-1], within[at::-1], best + tolerance)
    high = _end(decades[at:], means[at:], within[at:], best + tolerance)
    return Basin(
        *(float(rates[at]), best, float(10**low), float(10**high), high - low),
        *(bool(within[: at + 1].all()), bool(within[at:].all())),
        *counts,
    )


def _end(
    decades: Float[np.ndarray, "n"],
    means: Float[np.ndarray, "n"],
    within: Bool[np.ndarray, "n"],
    ceiling: float,
) -> float:
    """Where the loss first rises above the ceiling, from the best rate (first) outwards."""
    if within.all():
        return float(decades[-1])
    after = int(np.argmin(within))
    before = after - 1
    share = (ceiling - means[before]) / (means[after] - means[before])  # 0 before divergence
    return float(decades[before] + share * (decades[after] - decades[before]))
