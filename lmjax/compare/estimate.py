"""What a few seeds say about a mean: an interval where there is one, and a p value.

Student's interval, mean +- t(n - 1) s / sqrt(n), covers the mean of normal values as often as it
says from 2 seeds on; a percentile bootstrap does not (tests/test_compare_statistics.py counts).
It needs finite values with a spread. Where a run diverged or never arrived (inf), and where all
values are the same, there is no interval, and the exact sign test, which needs neither, gives p.
Where one side lost all n of its runs and the other none, p is 2 / 4^n: of two that lose a run with
the same chance q, either does so with chance q^n (1 - q)^n, at most 1 / 4^n. At any error this
outcome is told wherever the sign test could tell anything, so the two together keep the error.
"""

import math
import sys
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

LEVEL = 0.95  # of every interval, and 1 - the error of every verdict

Scale = Literal["difference", "log ratio"]
Test = Literal["t", "sign", "lost runs", "none"]


class Interval(NamedTuple):
    """Where the truth lies in a share `level` of all experiments."""

    low: float
    high: float
    level: float


class Ratio(NamedTuple):
    """A geometric mean of ratios, with the interval that it has in logarithms."""

    ratio: float
    interval: Interval | None


class Estimate(NamedTuple):
    """What a sample says about the mean that it was drawn around."""

    seeds: int  # values, one each
    mean: float | None  # may be inf; None without values, and for inf and -inf together
    spread: float | None  # sample standard deviation, by n - 1; None for infinite or single values
    interval: Interval | None
    p: float | None  # two-sided, of a mean (sign test: a median) of 0; None for fewer than 2 values
    test: Test  # what gave p; none: too few values, or all exactly 0
    side: Literal[-1, 0, 1]  # of 0, on which p speaks; 0 where mean and most signs do not agree
    note: str  # why there is no interval; "" where nothing needs to be said
    scale: Scale

    def as_ratio(self) -> Ratio:
        """Of an estimate in logarithms, the ratio itself; raises ValueError for another one."""
        if self.scale != "log ratio" or self.mean is None:
            raise ValueError(f"no ratio: scale = {self.scale!r}, mean = {self.mean!r}")
        found = self.interval
        return Ratio(
            exp(self.mean), found and Interval(exp(found.low), exp(found.high), found.level)
        )


def estimate(
    values: Float[np.ndarray, "n"],
    *,
    scale: Scale = "difference",
    level: float = LEVEL,
    resolution: float = 0.0,
) -> Estimate:
    """The mean of independent values, with Student's interval.

    Args:
      values: one a seed, in any unit; inf or -inf stands for a run that diverged or never arrived.
      scale: what the values are.
      level: of the interval, in (0, 1).
      resolution: how far equal values may be apart by rounding, in the values' unit; a spread that
        is no larger counts as none.

    Raises ValueError for a nan among the values and for a level outside (0, 1).
    Source: Student (1908), Biometrika 6(1).
    """
    check_level(level)
    values = np.asarray(values, np.float64)
    if np.isnan(values).any():
        raise ValueError("a value is nan; a run that diverged has the loss inf")
    count, infinite = len(values), int(np.isinf(values).sum())
    mean = _mean(values)
    if count < 2:
        note = f"{seeds_text(count)}: no interval from fewer than 2"
        return Estimate(count, mean, None, None, None, "none", 0, note, scale)
    if infinite:
        note = f"a run without a finite value on {infinite} of {seeds_text(count)}: no interval"
        most = _sign(float(np.sign(values).sum()))
        side = most if mean is not None and _sign(mean) == most else 0
        if infinite == count == abs(np.sign(values).sum()):
            return Estimate(count, mean, None, None, 2 / 4**count, "lost runs", side, note, scale)
        return Estimate(count, mean, None, None, sign_test(values), "sign", side, note, scale)
    assert mean is not None
    if not values.any():
        note, exact = f"identical on all {count} seeds", Interval(0.0, 0.0, level)
        return Estimate(count, 0.0, 0.0, exact, 1.0, "none", 0, note, scale)
    spread, side = float(np.std(values, ddof=1)), _sign(mean)
    if spread <= resolution:
        note, p = f"the same on all {count} seeds: no spread, so no interval", sign_test(values)
        return Estimate(count, mean, 0.0, None, p, "sign", side, note, scale)
    error = spread / math.sqrt(count)
    reach = quantile(level, count - 1) * error
    interval = Interval(mean - reach, mean + reach, level)
    p = 2 * float(special.stdtr(count - 1, -abs(mean) / error))
    return Estimate(count, mean, spread, interval, p, "t", side, "", scale)


def sign_test(values: Float[np.ndarray, "n"]) -> float:
    """Two-sided p of a median of 0, exact: only signs count, so values may be infinite.

    Zeros, which favour neither side, are left out; 1 where nothing else is left.
    Source: Dixon and Mood (1946), JASA 41(236).
    """
    positive, negative = int((values > 0).sum()), int((values < 0).sum())
    count, fewer = positive + negative, min(positive, negative)
    tail = sum(math.comb(count, successes) for successes in range(fewer + 1))
    return min(1.0, 2 * tail / 2**count)


class Band(NamedTuple):
    """Mean and interval at each point of a curve; None where there is none."""

    mean: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


def band(curves: Float[np.ndarray, "seeds points"], *, level: float = LEVEL) -> Band:
    """The mean of curves point by point, each with its own interval (not one for all at once).

    Args:
      curves: in any unit; inf after a run has diverged, where the mean is inf and has no interval.
      level: of the intervals, in (0, 1).

    Raises ValueError as `estimate` does.
    """
    found = [estimate(point, level=level) for point in curves.T]
    bounds = [each.interval for each in found]
    return Band(
        tuple(each.mean for each in found),
        tuple(each and each.low for each in bounds),
        tuple(each and each.high for each in bounds),
    )


def quantile(level: float, freedom: int | float) -> float:
    """The t between which and -t a share `level` of Student's distribution lies."""
    return float(special.stdtrit(freedom, (1 + level) / 2))


def exp(x: float) -> float:
    """Of a logarithm; inf where that is too large for a float."""
    return math.exp(x) if x < math.log(sys.float_info.max) else math.inf


def check_level(level: float) -> None:
    """Refuse what is no level of an interval, with a ValueError."""
    if not 0 < level < 1:
        raise ValueError(f"level = {level!r}: must be > 0 and < 1")


def seeds_text(count: int) -> str:
    """1 seed, 5 seeds."""
    return f"{count} seed{'s' * (count != 1)}"


def _mean(values: np.ndarray) -> float | None:
    """None where it is not defined; inf where it is infinite."""
    if not len(values) or (np.inf in values and -np.inf in values):
        return None
    return float(np.mean(values))


def _sign(x: float) -> Literal[-1, 0, 1]:
    return 1 if x > 0 else -1 if x < 0 else 0
