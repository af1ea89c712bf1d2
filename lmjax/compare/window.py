"""Which rate to try next, with the number of trials fixed: the rule at the edge of the window.

First the window itself. While the best rate stands at the edge of all rates tried, the window moves
by its own ratio; else the trials that are left halve, in logarithms, the wider gap beside the best.
So every variant has the same number of trials, wherever its window began. If the best still stands
at the edge when they are spent, there is no verdict.

Rates have few digits, so some 25 halvings can leave none between the best and the rates beside it.
The search then ends before its trials are spent: nothing finer can be tried.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

DIGITS = 6  # of a rate that is tried, so that 0.3 is not 0.30000000000000004
SAME_GAP = 1e-4  # gaps of rounded rates that differ by no more, in natural logarithms, are equal


class Decision(NamedTuple):
    """What the trials made so far say about the next one."""

    rate: float | None  # to try next; None: all trials are spent, or there is none left to try
    best: float | None  # the rate with the lowest loss so far; None where none is finite
    edge: Literal["low", "high", "inside", "open"]  # where the best stands; open: window not tried
    reason: str  # for the next rate; at the end of the search, why there is a verdict or none

    @property
    def settled(self) -> bool:
        """The search has ended, and the best rate has rates tried on both sides of it."""
        return self.rate is None and self.edge == "inside"


def next_trial(
    window: Float[np.ndarray, "window"],
    total: int,
    rates: Float[np.ndarray, "trials"],
    losses: Float[np.ndarray, "trials"],
) -> Decision:
    """What to try after the trials made so far; a pure function, so a search can be resumed.

    A rate that diverged counts as tried, so the best beside it does not stand at the edge. Where
    no loss is finite, the window moves down. Of equal losses one at the edge counts as the best,
    the lowest rate first.

    Args:
      window: rates to begin with, > 0, ascending, at least 2; its outermost gaps are the ratios
        by which it moves.
      total: number of trials, at least that of the window.
      rates: of the trials made, distinct, in any order; those of the window bit for bit.
      losses: their mean losses, the lower the better; inf = diverged.

    Raises ValueError for what is none of these, and for a nan.
    """
    _check(window, total, rates, losses)
    made = set(rates.tolist())
    missing = [rate for rate in window.tolist() if rate not in made]
    if missing:
        best = float(rates[np.argmin(losses)]) if np.isfinite(losses).any() else None
        return Decision(missing[0], best, "open", "the window is not tried yet")
    order = np.argsort(rates)
    rates, losses = np.asarray(rates, np.float64)[order], np.asarray(losses, np.float64)[order]
    if not np.isfinite(losses).any():
        return _at_edge(window, total, rates, None, "low", f"all {len(rates)} trials diverged")
    ties = np.flatnonzero(losses == losses.min())
    last = len(rates) - 1
    at = int(next((i for i in ties if i in (0, last)), ties[0]))
    best = float(rates[at])
    if at in (0, last):
        edge = "high" if at else "low"
        told = f"the best rate {best:g} is at the {edge} edge of what was tried"
        return _at_edge(window, total, rates, best, edge, told)
    if len(rates) < total:
        rate = _halved(rates, losses, at)
        if rate is not None:
            return Decision(rate, best, "inside", f"closer to the best rate {best:g}")
    told = f"the best rate {best:g} is inside, from {rates[at - 1]:g} to {rates[at + 1]:g}"
    if len(rates) < total:
        told += f", and no rate of {DIGITS} digits between them is left to try"
    return Decision(None, best, "inside", told)


def _check(window: np.ndarray, total: int, rates: np.ndarray, losses: np.ndarray) -> None:
    positive = (np.isfinite(window) & (window > 0)).all() and (np.diff(window) > 0).all()
    if len(window) < 2 or not positive:
        raise ValueError(f"a window has 2 or more rates > 0, ascending: {window}")
    if not len(window) <= total or len(rates) > total:
        raise ValueError(f"{total = } trials; the window has {len(window)}, made {len(rates)}")
    if len(rates) != len(losses) or len(set(rates.tolist())) < len(rates):
        raise ValueError(f"trials must be distinct rates with a loss each: {rates}, {losses}")
    if not (np.isfinite(rates) & (rates > 0)).all() or np.isnan(losses).any():
        raise ValueError(f"rates must be > 0, losses not nan: {rates}, {losses}")


def _at_edge(
    window: np.ndarray,
    total: int,
    rates: np.ndarray,
    best: float | None,
    edge: Literal["low", "high"],
    told: str,
) -> Decision:
    span = f"{rates[0]:g} to {rates[-1]:g}"
    if len(rates) == total:
        return Decision(None, best, edge, f"{told} ({span}), and all {total} trials are spent")
    tried, first = rates.tolist(), window.tolist()  # floats of Python overflow without a warning
    if edge == "low":
        rate = _rounded(tried[0] * (first[0] / first[1]))
    else:
        rate = _rounded(tried[-1] * (first[-1] / first[-2]))
    if rate in tried or not 0 < rate < math.inf:  # a ratio of nearly 1, or the end of all floats
        return Decision(None, best, edge, f"{told} ({span}), and the window can move no further")
    return Decision(rate, best, edge, f"{told}, so the window moves")


def _halved(rates: np.ndarray, losses: np.ndarray, at: int) -> float | None:
    """The geometric middle of the wider gap beside the best; of equal gaps the better side's.

    The other gap's where that has been tried, which rounding can make of a narrow one; None where
    both have.
    """
    below, above = np.log(rates[at] / rates[at - 1]), np.log(rates[at + 1] / rates[at])
    lower = losses[at - 1] <= losses[at + 1] if abs(below - above) <= SAME_GAP else below > above
    beside = (at - 1, at + 1) if lower else (at + 1, at - 1)
    middles = (_rounded(math.sqrt(rates[at] * rates[other])) for other in beside)
    return next((rate for rate in middles if rate not in rates), None)


def _rounded(rate: float) -> float:
    return float(f"{rate:.{DIGITS}g}")
