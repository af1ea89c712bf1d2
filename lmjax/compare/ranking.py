"""Ranks with ties: a rank is lost only to those that are told to be better.

rank = 1 + the number of variants that are better by a paired test, with Holm over all pairs of
variants, each pair once. Variants that cannot be told apart may therefore share a rank, and being
tied is not transitive: A and B, and B and C, may be tied where A is better than C. One that
diverged, or never arrived, on any seed stands behind all that never did, by that alone.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lmjax.compare.estimate import LEVEL, Scale, check_level
from lmjax.compare.paired import paired_difference, paired_log_ratio
from lmjax.compare.verdict import Better, holm


class Rank(NamedTuple):
    """Where a variant stands among all."""

    name: str
    rank: int  # from 1
    mean: float  # of its values; inf where a run diverged or never arrived
    tied: tuple[str, ...]  # which cannot be told from it, in the order given


def ranks(
    values: Mapping[str, Float[np.ndarray, "seeds"]],
    *,
    better: Better,
    scale: Scale = "difference",
    level: float = LEVEL,
) -> tuple[Rank, ...]:
    """All variants, the best first: by rank, then by mean, then in the order given.

    Args:
      values: variant -> one a seed, the same seeds in the same order for all; inf = diverged, or
        never arrived.
      better: which values are wanted.
      scale: whether differences or log ratios (for times, > 0) are tested.
      level: 1 - the chance that any pair is told apart which does not differ.

    Raises ValueError for a nan, for different numbers of seeds, and for no variants.
    """
    check_level(level)
    if not values:
        raise ValueError("nothing to rank")
    test = paired_difference if scale == "difference" else paired_log_ratio
    names = list(values)
    pairs = list(itertools.combinations(names, 2))
    found = [test(values[a], values[b], level=level) for a, b in pairs]
    adjusted = holm(np.array([1.0 if each.p is None else each.p for each in found]))
    lost = {name for name in names if not np.isfinite(values[name]).all()}
    wins = {(a, b) for a in names for b in lost if a not in lost}  # (the better, the worse)
    for (a, b), each, p in zip(pairs, found, adjusted, strict=True):
        if p <= 1 - level and each.side and (a in lost) == (b in lost):
            wins.add((a, b) if (each.side < 0) == (better == "lower") else (b, a))

    def placed(name: str) -> Rank:
        others = [other for other in names if other != name]
        before = sum((other, name) in wins for other in others)
        tied = [x for x in others if (x, name) not in wins and (name, x) not in wins]
        return Rank(name, 1 + before, float(np.mean(values[name])), tuple(tied))

    sign = 1 if better == "lower" else -1
    return tuple(sorted(map(placed, names), key=lambda each: (each.rank, sign * each.mean)))
