"""How many seeds would be needed to tell.

At the observed mean and spread, which are estimates themselves: with few seeds the number is rough,
and it is no evidence for or against a difference (Hoenig and Heisey 2001, "The abuse of power",
The American Statistician 55(1)).
"""

import math

import numpy as np
from scipy import special

from lmjax.compare.estimate import LEVEL, check_level, quantile

POWER = 0.8  # the chance that a difference as large as the observed one is told
MOST_SEEDS = 1000  # more than this is told as "more than"

NODES = np.linspace(-8.5, 8.5, 301)  # of the integral over a normal variable; good to 1e-5


def paired_power(mean: float, spread: float, seeds: int, *, level: float = LEVEL) -> float:
    """The chance that a two-sided paired t test tells a mean difference apart from 0.

    Args:
      mean, spread: of the differences, in the same unit; spread > 0.
      seeds: pairs, at least 2.
      level: 1 - the error of the test.

    With Z normal, W^2 chi-squared over its n - 1 degrees of freedom, and the critical value c,
        P(|Z + sqrt(n) mean / spread| / W > c) = E_Z P(W < |Z + sqrt(n) mean / spread| / c),
    summed over Z here, since scipy.special.nctdtr gives nan for some hundreds of seeds.

    Source: Cohen (1988), Statistical Power Analysis, ch. 2.
    """
    freedom, shift = seeds - 1, math.sqrt(seeds) * mean / spread
    inside = special.chdtr(freedom, freedom * ((NODES + shift) / quantile(level, freedom)) ** 2)
    weights = np.exp(-(NODES**2) / 2)
    return float((weights @ inside) / weights.sum())


def seeds_needed(
    mean: float, spread: float, *, level: float = LEVEL, power: float = POWER
) -> int | None:
    """The least number of pairs with at least that power; None if it is more than MOST_SEEDS.

    Args:
      mean, spread: as observed, in the same unit, finite; spread > 0. A mean of 0 gives None.
      level, power: in (0, 1).

    Raises ValueError for a spread that is not > 0 and for a level or a power outside (0, 1).
    """
    check_level(level)
    if not (spread > 0 and math.isfinite(spread) and math.isfinite(mean) and 0 < power < 1):
        raise ValueError(f"no number of seeds for {mean = }, {spread = }, {power = }")
    low, high = 2, MOST_SEEDS
    if mean == 0 or paired_power(mean, spread, high, level=level) < power:
        return None
    while low < high:  # power grows with the number of seeds
        middle = (low + high) // 2
        enough = paired_power(mean, spread, middle, level=level) >= power
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def signs_needed(*, level: float = LEVEL) -> int:
    """The least number of pairs with which a sign test can tell anything: all of one sign.

    Args:
      level: 1 - the error of the test, in (0, 1).
    """
    check_level(level)
    return math.ceil(1 - math.log2(1 - level))


def lost_runs_needed(*, level: float = LEVEL) -> int:
    """The least number of pairs to tell one that always diverges from one that never does.

    Args:
      level: 1 - the error of the test (see lmjax/compare/estimate.py), in (0, 1).
    """
    return math.ceil(signs_needed(level=level) / 2)
