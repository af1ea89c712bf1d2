"""Differences between runs that share a seed, and with it the data order and the initialisation.

What two runs owe to their common seed cancels in their difference, so that few seeds tell more than
two independent groups of as many would.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lmjax.compare.estimate import LEVEL, Estimate, estimate

ROUNDING = 8 * np.finfo(np.float64).eps  # of a difference of two values, relative to the larger


class Aligned(NamedTuple):
    """Values of the seeds that both have, in ascending order of the seeds."""

    seeds: tuple[int, ...]
    ours: Float[np.ndarray, "pairs"]
    theirs: Float[np.ndarray, "pairs"]
    unpaired: tuple[int, ...]  # seeds that one side lacks


def align(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Aligned:
    """Pair the values of two variants by seed, whatever order they finished in.

    Args:
      ours, theirs: seed -> value, in the same unit.
    """
    common = sorted(ours.keys() & theirs.keys())
    return Aligned(
        tuple(common),
        np.array([ours[seed] for seed in common], np.float64),
        np.array([theirs[seed] for seed in common], np.float64),
        tuple(sorted(ours.keys() ^ theirs.keys())),
    )


def paired_difference(
    ours: Float[np.ndarray, "pairs"], theirs: Float[np.ndarray, "pairs"], *, level: float = LEVEL
) -> Estimate:
    """The mean of ours - theirs over pairs with the same seed, with its paired t interval.

    Two runs that both diverged differ by 0: neither is better.

    Args:
      ours, theirs: in the same unit and order of seeds; inf = diverged, or never arrived.
      level: of the interval, in (0, 1).

    Raises ValueError for a nan and for a different number of values.
    Source: Student (1908); equal to scipy.stats.ttest_rel.
    """
    ours, theirs = _checked(ours, theirs)
    resolution = ROUNDING * max((abs(x) for x in (*ours, *theirs) if np.isfinite(x)), default=0.0)
    return estimate(_subtract(ours, theirs), level=level, resolution=resolution)


def paired_log_ratio(
    ours: Float[np.ndarray, "pairs"], theirs: Float[np.ndarray, "pairs"], *, level: float = LEVEL
) -> Estimate:
    """The mean of log(ours / theirs) over pairs with the same seed, with its paired t interval.

    Its `as_ratio` is the geometric mean of the ratios with the same interval.

    Args:
      ours, theirs: > 0, in the same unit and order of seeds; inf = never arrived.
      level: of the interval, in (0, 1).

    Raises ValueError for a nan, for what is not > 0 and for a different number of values.
    """
    ours, theirs = _checked(ours, theirs)
    if not ((ours > 0).all() and (theirs > 0).all()):
        raise ValueError("a ratio needs values > 0")
    logs = _subtract(np.log(ours), np.log(theirs))
    largest = max((abs(x) for x in np.log((*ours, *theirs)) if np.isfinite(x)), default=0.0)
    resolution = ROUNDING * (1 + largest)
    return estimate(logs, scale="log ratio", level=level, resolution=resolution)


def _checked(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} values cannot be paired with {len(theirs)}")
    if np.isnan(ours).any() or np.isnan(theirs).any():
        raise ValueError("a value is nan; a run that diverged has the loss inf")
    return np.asarray(ours, np.float64), np.asarray(theirs, np.float64)


def _subtract(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Exactly 0 where both are the same, infinite or not."""
    differences = np.zeros(len(ours))
    return np.subtract(ours, theirs, out=differences, where=ours != theirs)
