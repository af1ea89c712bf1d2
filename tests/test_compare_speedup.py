"""Steps and seconds to a target against curves that are known, scipy, and longer runs."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from lmjax.compare.paired import paired_log_ratio
from lmjax.compare.speedup import (
    Crossing,
    Curve,
    Speedup,
    crossing,
    in_seconds,
    speedup,
    speedup_to_final,
)

STEPS = np.arange(0, 201, 20)
NEVER = Crossing(200.0, math.inf)


def at(steps: float) -> Crossing:
    return Crossing(steps, steps)


def bumpy(seed: int) -> Curve:
    """A loss that falls with the root of the step and rises now and then."""
    noise = np.random.default_rng(seed).normal(0, 0.15, len(STEPS))
    return Curve(STEPS, 4.0 - 0.2 * np.sqrt(STEPS) + noise)


def test_a_straight_curve_is_crossed_where_it_must_be() -> None:
    curve = Curve(STEPS, 5.0 - 0.01 * STEPS)
    assert crossing(curve, 3.75) == pytest.approx(at(125.0), rel=1e-12)
    assert crossing(curve, 3.0) == at(200.0)
    assert crossing(curve, 2.999) == NEVER
    on_evaluations = STEPS[np.argmax(curve.loss <= 3.75)]  # the control: no interpolation
    assert on_evaluations == 140


@pytest.mark.parametrize("seed", range(5))
def test_crossings_are_roots_of_the_envelope(seed: int) -> None:
    """By scipy's brentq; the curve itself crosses elsewhere once it has risen."""
    curve = bumpy(seed)
    envelope = np.minimum.accumulate(curve.loss)
    targets = np.linspace(envelope[-1] + 1e-3, curve.loss[0] - 1e-3, 23)
    found = [crossing(curve, target).earliest for target in targets]
    for target, step in zip(targets, found, strict=True):
        root = optimize.brentq(lambda s, t: np.interp(s, STEPS, envelope) - t, 0, 200, (target,))
        assert step == pytest.approx(root, abs=1e-6)
    assert np.diff(found).max() < 0  # a lower target is never found earlier
    raw = [STEPS[(curve.loss <= target)].min() for target in targets]
    assert not np.allclose(raw, found)


def test_the_ways_a_curve_can_begin() -> None:
    late = Curve(STEPS[1:], 5.0 - 0.01 * STEPS[1:])
    assert crossing(late, 4.9) == Crossing(0.0, 20.0)  # before the first evaluation: not known
    assert crossing(Curve(STEPS, 5.0 - 0.01 * STEPS), 5.0) == at(0.0)
    from_inf = Curve(np.array([0, 20, 40]), np.array([math.inf, math.inf, 1.0]))
    assert crossing(from_inf, 2.0) == at(40.0)
    diverged = Curve(np.array([0, 20, 40]), np.array([3.0, 2.0, math.inf]))
    assert crossing(diverged, 1.0) == Crossing(40.0, math.inf)
    assert crossing(diverged, 2.5) == at(10.0)


@pytest.mark.parametrize(
    ("steps", "loss", "target", "told"),
    [
        ([0, 20, 20], [3.0, 2.0, 1.0], 2.0, "ascend"),
        ([0, 20], [3.0, math.nan], 2.0, "nan"),
        ([0, 20], [3.0, 2.0], math.inf, "target"),
        ([], [], 1.0, "0 steps"),
    ],
)
def test_what_is_no_curve_is_refused(
    steps: list[int], loss: list[float], target: float, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        crossing(Curve(np.array(steps, int), np.array(loss, float)), target)


def family(factors: np.ndarray, budget: int) -> list[Curve]:
    """Straight curves of one seed each, faster by the factor than the loss 5 - s / 100."""
    steps = np.arange(0, budget + 1, 20)
    return [Curve(steps, 5.0 - 0.01 * factor * steps) for factor in factors]


FACTORS = np.array([1.6, 1.4, 1.5, 1.3, 1.8])


def test_a_speed_up_is_the_geometric_mean_of_what_it_must_be() -> None:
    found = speedup_to_final(family(FACTORS, 200), family(np.ones(5), 200))
    assert (found.bound, found.censored, found.note) == ("=", 0, "")
    assert found.ratio == pytest.approx(stats.gmean(FACTORS), rel=1e-12)
    right = np.exp(stats.ttest_1samp(np.log(FACTORS), 0).confidence_interval())
    assert found.interval is not None
    assert found.interval[:2] == pytest.approx(tuple(right), rel=1e-9)
    assert found.text == "1.51 (95 % interval 1.29 to 1.76, 5 seeds)"
    shuffled = speedup_to_final(family(FACTORS, 200), family(FACTORS[::-1], 200))
    assert shuffled.ratio != found.ratio


def test_the_same_optimizer_is_faster_by_exactly_one() -> None:
    curves = [bumpy(seed) for seed in range(3)]
    found = speedup_to_final(curves, curves)
    assert (found.ratio, found.interval) == (1.0, (1.0, 1.0, 0.95))
    times = np.array([0.1, 0.11, 0.12])
    seconds = in_seconds(found, paired_log_ratio(times, times))
    assert (seconds.ratio, seconds.interval) == (1.0, (1.0, 1.0, 0.95))
    other = speedup_to_final(curves, [bumpy(seed + 1) for seed in range(3)])
    assert other.ratio != 1.0


@pytest.mark.parametrize("slower", ["ours", "theirs"])
def test_a_run_that_never_arrives_bounds_the_ratio(slower: str) -> None:
    """The bound holds for the same curves run ten times longer; without the pair it is broken."""
    factors, ones = np.array([1.4, 0.8, 1.2, 0.5]), np.ones(4)
    targets = [3.0] * 4
    short, long = (
        [
            [crossing(c, t) for c, t in zip(family(f, n), targets, strict=True)]
            for f in (factors, ones)
        ]
        for n in (200, 2000)
    )
    if slower == "theirs":
        short, long = short[::-1], long[::-1]
    cut, whole = speedup(*short), speedup(*long)
    assert (whole.bound, cut.interval, cut.censored, cut.logs) == ("=", None, 2, None)
    assert whole.ratio is not None
    assert cut.ratio is not None
    kept = speedup(*([side[0], side[2]] for side in short))  # the control: dropped
    assert kept.ratio is not None
    if slower == "ours":
        assert cut.bound == "<="
        assert whole.ratio <= cut.ratio < kept.ratio
    else:
        assert cut.bound == ">="
        assert whole.ratio >= cut.ratio > kept.ratio
    assert kept.interval is not None
    assert cut.text == f"{cut.bound} {cut.ratio:.3g} (2 of 4 seeds censored: no interval)"


@pytest.mark.parametrize(
    ("ours", "theirs", "bound", "ratio"),
    [
        ([at(50.0), at(100.0)], [at(100.0), NEVER], ">=", 2.0),  # 2 and at least 2
        ([at(50.0), NEVER], [at(100.0), at(100.0)], "<=", 1.0),  # 2 and at most 1/2
        ([NEVER, at(50.0)], [at(100.0), NEVER], "unknown", None),  # each bounds from another side
        ([NEVER, NEVER], [NEVER, NEVER], "unknown", None),
        ([Crossing(0.0, 20.0)], [at(100.0)], ">=", 5.0),  # ours was there before it was looked at
        ([at(100.0)], [Crossing(0.0, 20.0)], "<=", 0.2),
        ([at(0.0), at(50.0)], [at(0.0), at(100.0)], "unknown", None),  # nothing was learnt
        ([], [], "unknown", None),
    ],
)
def test_bounds_by_hand(
    ours: list[Crossing], theirs: list[Crossing], bound: str, ratio: float | None
) -> None:
    found = speedup(ours, theirs)
    assert (found.bound, found.interval) == (bound, None)
    assert found.ratio == (None if ratio is None else pytest.approx(ratio, rel=1e-12))
    assert found.note
    assert "nan" not in found.text


def test_a_baseline_that_diverged_sets_no_target() -> None:
    theirs = family(np.ones(2), 200)
    theirs[1].loss[-3:] = math.inf
    found = speedup_to_final(family(np.ones(2), 200), theirs)
    assert (found.bound, found.ratio) == ("unknown", None)
    assert "diverged on 1 of 2 seeds" in found.text


def test_seconds_equal_welch_s_interval() -> None:
    """Of two independent samples of logs; without the spread of step times it is too narrow."""
    steps = speedup_to_final(family(FACTORS, 200), family(np.ones(5), 200))
    rng = np.random.default_rng(0)
    own, other = 0.13 * rng.lognormal(0, 0.3, 9), 0.10 * rng.lognormal(0, 0.3, 9)
    found = in_seconds(steps, paired_log_ratio(own, other))
    logs, costs = np.log(FACTORS), np.log(own / other)
    right = stats.ttest_ind(logs, costs, equal_var=False)
    assert found.ratio == pytest.approx(math.exp(logs.mean() - costs.mean()), rel=1e-12)
    assert found.interval is not None
    assert np.log(found.interval[:2]) == pytest.approx(right.confidence_interval()[:], rel=1e-9)
    assert steps.interval is not None
    assert found.ratio is not None
    width = found.interval.high / found.interval.low
    assert width > 1.01 * steps.interval.high / steps.interval.low


@pytest.mark.parametrize("seeds", [2, 3])
def test_seconds_are_never_surer_than_steps(seeds: int) -> None:
    """Welch's interval alone would be, with few seeds and many rounds of measuring."""
    steps = speedup_to_final(family(FACTORS[:seeds], 200), family(np.ones(seeds), 200))
    rng = np.random.default_rng(0)
    own, other = (rng.lognormal(0, 0.02, 30) for _ in range(2))
    found = in_seconds(steps, paired_log_ratio(own, other))
    right = stats.ttest_ind(np.log(FACTORS[:seeds]), np.log(own / other), equal_var=False)
    low, high = right.confidence_interval()
    assert steps.interval is not None
    assert found.interval is not None
    width = math.log(steps.interval.high / steps.interval.low)
    assert high - low < width
    assert math.log(found.interval.high / found.interval.low) == pytest.approx(width, rel=1e-12)


def test_seconds_of_a_bound_stay_a_bound() -> None:
    cut = speedup([at(50.0), at(100.0)], [at(100.0), NEVER])
    cost = paired_log_ratio(np.array([0.2, 0.21]), np.array([0.1, 0.1]))
    found = in_seconds(cut, cost)
    assert (found.bound, found.interval) == (">=", None)
    assert found.ratio == pytest.approx(2.0 / math.sqrt(2.0 * 2.1), rel=1e-12)
    once = in_seconds(
        speedup([at(50.0), at(60.0)], [at(100.0), at(90.0)]),
        paired_log_ratio(np.array([0.2]), np.array([0.1])),
    )
    assert (once.bound, once.interval) == ("=", None)
    assert once.note.startswith("step times: 1 seed")
    nothing = Speedup("unknown", None, None, 2, 2, "censored", None)
    assert in_seconds(nothing, cost) is nothing
    with pytest.raises(ValueError, match="step times"):
        in_seconds(cut, paired_log_ratio(np.array([]), np.array([])))
