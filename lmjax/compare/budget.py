"""What a tuning budget buys: the best loss of k trials, had only k of the n been made."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class BestOf(NamedTuple):
    """The best loss of k trials drawn without replacement."""

    trials: int  # k
    expected: float  # inf as long as all k drawn may have diverged
    least: float  # the range over all draws
    most: float


def best_of(losses: Float[np.ndarray, "trials"]) -> tuple[BestOf, ...]:
    """The best-of-k curve of n finished trials, exactly, for k = 1 ... n.

    The i-th best of n is the best of k drawn with chance C(n - i, k - 1) / C(n, k), i from 1, so
        expected best = sum_i x_(i) C(n - i, k - 1) / C(n, k),
    without bias, unlike draws with replacement (Tang et al., arXiv 2004.13705, on Dodge et al.,
    arXiv 1909.03004, "Show your work").

    Args:
      losses: at least one, the lower the better, in any unit; inf = diverged.

    Raises ValueError without trials and for a nan.
    """
    losses = np.sort(np.asarray(losses, np.float64))
    if not len(losses) or np.isnan(losses).any():
        raise ValueError(f"no losses, or a nan among them: {losses}")
    return tuple(_best_of(losses.tolist(), k) for k in range(1, len(losses) + 1))


def _best_of(ascending: list[float], k: int) -> BestOf:
    n = len(ascending)
    possible = ascending[: n - k + 1]  # the others are never the best of k
    draws = [math.comb(n - i, k - 1) for i in range(1, n - k + 2)]
    total = math.comb(n, k)
    expected = sum(loss * (each / total) for loss, each in zip(possible, draws, strict=True))
    return BestOf(k, expected, possible[0], possible[-1])
