"""How much sooner a variant gets to the loss that the baseline ends with.

speed-up = the baseline's steps (or seconds) to the target / ours; above 1, ours is the faster. The
curve is the held-out loss at its evaluations. Its envelope is the running minimum at evaluations,
linear between them, so that a step is found for any target and a lower target is never found
earlier. A run that does not get there within its budget is censored: its time is at least the
budget. A pair with such a run bounds the ratio and gives no interval; left out, it would flatter
the one that failed. One that is no better than the baseline misses the target on half of the seeds
by luck alone, so a verdict is by the final loss, and a speed-up says how much.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from lmjax.compare.estimate import LEVEL, Estimate, Interval, exp, quantile, seeds_text
from lmjax.compare.paired import paired_log_ratio

Bound = Literal["=", ">=", "<=", "unknown"]


class Curve(NamedTuple):
    """The held-out loss of one run, at its evaluations."""

    steps: Num[
        np.ndarray, "evaluations"
    ]  # updates made before each; ascending; its last the budget
    loss: Float[np.ndarray, "evaluations"]  # inf from where the run diverged


class Crossing(NamedTuple):
    """When a target was reached, in steps or seconds; the two differ where that is not known."""

    earliest: float
    latest: float  # inf: not within the budget, which is then the earliest


class Speedup(NamedTuple):
    """The geometric mean over pairs of the baseline's time over ours."""

    bound: Bound  # >=: the baseline was censored, the truth is at least `ratio`; <=: ours was
    ratio: float | None  # None where the bound is unknown
    interval: Interval | None  # None where anything is censored
    pairs: int
    censored: int  # pairs of which the ratio is not known
    note: str  # why there is no interval
    logs: Estimate | None  # of log ratios in steps; None where anything is censored, in seconds

    @property
    def text(self) -> str:
        """1.43 (95 % interval 1.3 to 1.57, 5 seeds); >= 1.4 (2 of 5 seeds censored)."""
        if self.ratio is None:
            return f"unknown ({self.note})"
        sign = "" if self.bound == "=" else f"{self.bound} "
        told = self.note
        if self.interval is not None:
            low, high, level = self.interval
            told = f"{100 * level:.4g} % interval {low:.3g} to {high:.3g}, {seeds_text(self.pairs)}"
        return f"{sign}{self.ratio:.3g} ({told})"


def crossing(curve: Curve, target: float) -> Crossing:
    """When the envelope of a curve is first at or below a target.

    Args:
      curve: steps >= 0 and strictly ascending, at least one.
      target: a finite loss, in the curve's unit.

    Returns steps, equal ones where the crossing is known. (budget, inf) where it never happens;
    (0, first step) where the first evaluation is already there. After an evaluation of inf the
    crossing is put on the evaluation itself.

    Raises ValueError for a curve that is none, a nan in it, and a target that is not finite.
    """
    steps, loss = (np.asarray(x, np.float64) for x in curve)
    _check(steps, loss, target)
    envelope = np.minimum.accumulate(loss)
    if envelope[-1] > target:
        return Crossing(float(steps[-1]), math.inf)
    first = int(np.argmax(envelope <= target))
    if first == 0:
        return Crossing(0.0, float(steps[0]))
    before, after = envelope[first - 1], envelope[first]
    if np.isinf(before):
        return Crossing(float(steps[first]), float(steps[first]))
    share = (before - target) / (before - after)
    found = float(steps[first - 1] + share * (steps[first] - steps[first - 1]))
    return Crossing(found, found)


def speedup(
    ours: Sequence[Crossing], theirs: Sequence[Crossing], *, level: float = LEVEL
) -> Speedup:
    """The baseline's times over ours, pair by pair of the same seed.

    Where a crossing is not known, each pair has a least and a most ratio, and the geometric mean
    of either bounds the truth: `>=` where only the least is above 0, `<=` where only the most is
    finite, unknown where neither is.

    Args:
      ours, theirs: in the same unit and order of seeds.
      level: of the interval, in (0, 1).

    Raises ValueError for a different number of crossings.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} crossings cannot be paired with {len(theirs)}")
    pairs = len(ours)
    if not pairs:
        return _unknown(0, 0, "no pairs")
    at_once = sum(
        not (own.latest and other.latest) for own, other in zip(ours, theirs, strict=True)
    )
    if at_once:
        note = (
            f"on {at_once} of {seeds_text(pairs)} the target is no lower than the loss at the start"
        )
        return _unknown(pairs, at_once, note)
    least = [_divide(b.earliest, a.latest) for a, b in zip(ours, theirs, strict=True)]
    most = [_divide(b.latest, a.earliest) for a, b in zip(ours, theirs, strict=True)]
    censored = sum(low != high for low, high in zip(least, most, strict=True))
    if not censored:
        times = (np.array([each.latest for each in side]) for side in (theirs, ours))
        logs = paired_log_ratio(*times, level=level)
        found = logs.as_ratio()
        return Speedup("=", found.ratio, found.interval, pairs, 0, logs.note, logs)
    note = f"{censored} of {seeds_text(pairs)} censored: no interval"
    low, high = _geometric_mean(least), _geometric_mean(most)
    if low > 0 and math.isinf(high):
        return Speedup(">=", low, None, pairs, censored, note, None)
    if low == 0 and math.isfinite(high):
        return Speedup("<=", high, None, pairs, censored, note, None)
    return _unknown(pairs, censored, note)


def speedup_to_final(
    ours: Sequence[Curve], theirs: Sequence[Curve], *, level: float = LEVEL
) -> Speedup:
    """Speed-up in steps to the loss of the baseline's last evaluation, with the same seed.

    The baseline's own time is the first at which its envelope is there, which is before its last
    step where its loss has been as low earlier.

    Args:
      ours, theirs: pairs of curves with the same seed; theirs are the baseline's.
      level: of the interval, in (0, 1).

    Raises ValueError as `crossing` and `speedup` do.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} curves cannot be paired with {len(theirs)}")
    targets = [float(curve.loss[-1]) for curve in theirs]
    lost = sum(map(math.isinf, targets))
    if lost:
        note = f"the baseline diverged on {lost} of {seeds_text(len(theirs))}: no target"
        return _unknown(len(theirs), lost, note)
    return speedup(
        [crossing(curve, target) for curve, target in zip(ours, targets, strict=True)],
        [crossing(curve, target) for curve, target in zip(theirs, targets, strict=True)],
        level=level,
    )


def in_seconds(steps: Speedup, cost: Estimate, *, level: float = LEVEL) -> Speedup:
    """A speed-up in steps as one in seconds: divided by how much longer our step takes.

    The interval is Welch's, of the difference of two independent means of logarithms, since steps
    to the target vary with the seed and step times with the machine; but never narrower than that
    in steps.

    Args:
      steps: of `speedup` or `speedup_to_final`.
      cost: `paired_log_ratio` of the seconds of our step and of the baseline's, one pair a round
        of measuring.
      level: of the interval, in (0, 1).

    Raises ValueError for a cost that is no finite log ratio.
    Source: Welch (1947), Biometrika 34(1/2); equal to scipy.stats.ttest_ind(equal_var=False).
    """
    if cost.scale != "log ratio" or cost.mean is None or not math.isfinite(cost.mean):
        raise ValueError(f"no ratio of step times: {cost}")
    if steps.ratio is None:
        return steps
    ratio = steps.ratio / exp(cost.mean)
    if steps.logs is None or steps.interval is None:
        return steps._replace(ratio=ratio, logs=None)
    if cost.interval is None or cost.spread is None:
        note = f"step times: {cost.note}"
        return steps._replace(ratio=ratio, interval=None, note=note, logs=None)
    assert steps.logs.mean is not None
    assert steps.logs.spread is not None
    variances = [each.spread**2 / each.seeds for each in (steps.logs, cost) if each.spread]
    freedoms = [each.seeds - 1 for each in (steps.logs, cost) if each.spread]
    reach = 0.0
    if variances:
        parts = sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
        reach = quantile(level, sum(variances) ** 2 / parts) * math.sqrt(sum(variances))
        # Many rounds of measuring tell nothing of the seeds: with few of these Welch's degrees of
        # freedom are too many, and seconds would be surer than the steps that they are made of.
        steps_alone = math.log(steps.interval.high / steps.interval.low) / 2
        reach = max(reach, steps_alone)
    mean = steps.logs.mean - cost.mean
    interval = Interval(exp(mean - reach), exp(mean + reach), level)
    return steps._replace(ratio=exp(mean), interval=interval, note="", logs=None)


def _check(steps: np.ndarray, loss: np.ndarray, target: float) -> None:
    if not len(steps) or len(steps) != len(loss):
        raise ValueError(f"a curve has {len(steps)} steps and {len(loss)} losses")
    if steps[0] < 0 or (np.diff(steps) <= 0).any():
        raise ValueError(f"steps must ascend from 0 or more: {steps}")
    if np.isnan(loss).any():
        raise ValueError("a loss is nan; a run that diverged has the loss inf")
    if not math.isfinite(target):
        raise ValueError(f"target = {target!r}: must be finite")


def _unknown(pairs: int, censored: int, note: str) -> Speedup:
    return Speedup("unknown", None, None, pairs, censored, note, None)


def _divide(above: float, below: float) -> float:
    """Of times; only one of the two may be infinite or 0."""
    return above / below if below else math.inf


def _geometric_mean(ratios: Sequence[float]) -> float:
    """0 with a 0 among them, inf with an inf: a bound on one pair only bounds nothing."""
    logs = [math.log(ratio) if ratio else -math.inf for ratio in ratios]
    return exp(sum(logs) / len(logs))
