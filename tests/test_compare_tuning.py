"""Best of k, basins and the rule at the edge, against enumeration, closed forms and quadratics.

On f(x) = a x^2 / 2 a step of gradient descent multiplies x by 1 - rate * a: the best rate is 1 / a
and every rate above 2 / a diverges. With gradient noise of deviation s (the noisy quadratic),
    E x_T^2 = q^T x_0^2 + rate^2 s^2 (1 - q^T) / (1 - q),   q = (1 - rate * a)^2.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize

from lmjax.compare.budget import best_of
from lmjax.compare.paired import paired_difference
from lmjax.compare.sensitivity import basin
from lmjax.compare.verdict import judge
from lmjax.compare.window import Decision, next_trial

STEPS = 30
LARGEST = 1e6  # of a loss; above it a run has diverged
WINDOW = np.array([1e-3, 1e-2, 1e-1])

# Best of k


@pytest.mark.parametrize("diverged", [0, 2])
def test_best_of_k_equals_all_draws_there_are(diverged: int) -> None:
    losses = np.random.default_rng(0).normal(3.0, 1.0, 7)
    losses[:diverged] = math.inf
    for found in best_of(losses):
        best = np.sort([min(draw) for draw in itertools.combinations(losses, found.trials)])
        assert found.expected == pytest.approx(best.mean(), rel=1e-12)
        assert (found.least, found.most) == (best[0], best[-1])
    assert best_of(losses)[0].expected == pytest.approx(losses.mean())
    assert best_of(losses)[-1].expected == losses.min()


def test_draws_with_replacement_promise_less() -> None:
    losses = np.random.default_rng(1).normal(3.0, 1.0, 6)
    ascending, n = np.sort(losses), 6
    for found in best_of(losses)[1:]:
        ranks = np.arange(n + 1)
        chance = -np.diff(((n - ranks) / n) ** found.trials)
        assert found.expected < chance @ ascending - 1e-3


def test_best_of_k_of_many_trials_and_of_none() -> None:
    found = best_of(np.arange(1.0, 101.0))
    right = [101 / (k + 1) for k in range(1, 101)]  # of the numbers 1 ... n: (n + 1) / (k + 1)
    assert [each.expected for each in found] == pytest.approx(right, rel=1e-9)
    for wrong in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="no losses"):
            best_of(np.array(wrong))


# The basin


def test_the_basin_of_a_valley_has_its_width() -> None:
    """|log10 rate + 2| is within .6 of its best over 1.2 decades."""
    rates = np.logspace(-5, 1, 13)
    losses = np.abs(np.log10(rates) + 2)[:, None]
    found = basin(rates, losses, 0.6)
    assert (found.best, found.loss) == (pytest.approx(0.01), pytest.approx(0.0, abs=1e-12))
    assert found.decades == pytest.approx(1.2, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((10**-2.6, 10**-1.4))
    assert (found.open_low, found.open_high) == (False, False)
    whole = basin(rates, losses, 10.0)
    assert (whole.decades, whole.open_low, whole.open_high) == (pytest.approx(6.0), True, True)
    on_the_grid = np.ptp(np.log10(rates[losses[:, 0] <= 0.6]))  # the control: no interpolation
    assert on_the_grid == pytest.approx(1.0)
    shuffled = np.random.default_rng(0).permutation(13)
    assert basin(rates[shuffled], losses[shuffled], 0.6) == found


def test_the_ends_of_a_basin_are_roots() -> None:
    rng = np.random.default_rng(2)
    rates = np.sort(10 ** rng.uniform(-4, 0, 9))
    means = (np.log10(rates) + 2) ** 2 + rng.normal(0, 0.05, 9)
    found = basin(rates, means[:, None] + np.array([-0.1, 0.1]), 0.3)
    ceiling = means.min() + 0.3

    def above(decade: float) -> float:
        return float(np.interp(decade, np.log10(rates), means)) - ceiling

    middle = np.log10(rates[means.argmin()])
    assert found.low == pytest.approx(10 ** optimize.brentq(above, -4, middle), rel=1e-6)
    assert found.high == pytest.approx(10 ** optimize.brentq(above, middle, 0), rel=1e-6)


def test_divergence_is_counted_and_shown() -> None:
    """Gradient descent on a quadratic, a = 1: above 2 every run diverges, and none is dropped."""
    rates = np.array([0.25, 0.5, 1.0, 1.9, 2.5, 5.0])
    losses = np.array([[descend(1.0, rate), descend(1.0, rate, start=2.0)] for rate in rates])
    losses[3, 1] = math.inf  # and one of two seeds below
    found = basin(rates, losses, 0.1)
    assert (found.best, found.diverged, found.cells) == (1.0, 5, 12)
    assert found.diverged_rates == (1.9, 2.5, 5.0)
    assert (found.high, found.open_high) == (pytest.approx(1.0), False)
    finite = np.isfinite(losses).all(axis=1)
    dropped = basin(rates[finite], losses[finite], 0.1)  # the control
    assert dropped.open_high
    lost = basin(rates, np.full((6, 2), math.inf), 0.1)
    assert (lost.best, lost.loss, lost.decades, lost.diverged) == (None, math.inf, 0.0, 12)


@pytest.mark.parametrize(
    ("rates", "losses", "told"),
    [
        ([1.0, 1.0], [[1.0], [2.0]], "distinct"),
        ([0.0, 1.0], [[1.0], [2.0]], "> 0"),
        ([1.0, 2.0], [[], []], "shape"),
        ([1.0, 2.0], [[1.0], [math.nan]], "nan"),
    ],
)
def test_what_has_no_basin_is_refused(
    rates: list[float], losses: list[list[float]], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        basin(np.array(rates), np.array(losses), 0.1)


# The rule at the edge


def descend(a: float, rate: float, start: float = 1.0) -> float:
    """The loss after STEPS of gradient descent on a x^2 / 2; inf where it has diverged."""
    x = start
    for _ in range(STEPS):
        x -= rate * a * x
    loss = a * x**2 / 2
    return loss if loss < LARGEST else math.inf


def search(
    loss: Callable[[float], float], total: int, window: np.ndarray = WINDOW
) -> tuple[Decision, dict[float, float]]:
    """The decision once all trials are spent, and all that was tried."""
    made: dict[float, float] = {}
    while True:
        found = next_trial(window, total, np.array([*made], float), np.array([*made.values()]))
        if found.rate is None:
            return found, made
        assert found.rate not in made
        made[found.rate] = loss(found.rate)


@pytest.mark.parametrize("optimum", [3e-6, 1e-4, 0.02, 0.5, 40.0, 2e3])
def test_the_search_ends_beside_the_best_rate(optimum: float) -> None:
    """As long as its trials reach, and always with the same number of them."""
    found, made = search(lambda rate: descend(1 / optimum, rate), 11)
    assert len(made) == 11
    assert found.settled
    assert found.best is not None
    assert abs(math.log10(found.best / optimum)) < 0.5
    fixed = [descend(1 / optimum, rate) for rate in WINDOW]  # the control: a window that stays
    outside = not WINDOW[0] < optimum < WINDOW[-1]
    assert (int(np.argmin(fixed)) in (0, 2)) == outside


def test_trials_spent_at_the_edge_give_no_verdict() -> None:
    found, made = search(lambda rate: descend(1e-4, rate), 6)  # the best rate is 10^4
    assert (found.edge, found.best, found.settled) == ("high", 100.0, False)
    assert "high edge" in found.reason
    assert "all 6 trials are spent" in found.reason
    assert list(made) == [1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]
    down, made = search(lambda rate: math.inf, 5)
    assert (down.best, down.edge, down.settled) == (None, "low", False)
    assert list(made) == [1e-3, 1e-2, 1e-1, 1e-4, 1e-5]
    assert "all 5 trials diverged" in down.reason
    enough, _ = search(lambda rate: descend(1e-4, rate), 9)
    assert enough.settled


@pytest.mark.parametrize("optimum", [1e-9, 1e-4, 0.00123456, 0.01, 0.0173205, 0.5, 40.0, 1e9])
def test_every_number_of_trials_ends_and_repeats_no_rate(optimum: float) -> None:
    """Also where the rates beside the best have no digit left: then with fewer than its trials."""
    early = []
    with pytest.raises(ValueError, match="total"):
        search(abs, 1)
    for total in range(2, 51):
        found, made = search(lambda rate: abs(math.log(rate / optimum)), total, WINDOW[:total])
        assert len(made) <= total
        if len(made) == total:
            assert "is left to try" not in found.reason
            continue
        early.append(total)
        assert found.settled
        assert found.best is not None
        assert abs(math.log(found.best / optimum)) < 1e-5
        assert "no rate of 6 digits between them is left to try" in found.reason
        rates = sorted(made)
        at = rates.index(found.best)
        for other in (rates[at - 1], rates[at + 1]):  # indeed none: middles round to one of both
            assert float(f"{math.sqrt(other * found.best):.6g}") in (other, found.best)
    assert early == list(range(51 - len(early), 51))  # and more trials would change nothing


def test_the_other_gap_is_halved_where_one_has_no_rate_left() -> None:
    rates = np.array([0.1, 0.100001, 0.100003])
    losses = np.array([1.0, 0.0, 2.0])  # gaps as good as equal: the side below is the better
    assert next_trial(rates, 4, rates, losses).rate == 0.100002
    ended = next_trial(rates[:2], 4, np.array([0.1, 0.100001, 0.100002]), losses)
    assert (ended.rate, ended.settled, ended.best) == (None, True, 0.100001)


@pytest.mark.parametrize(
    ("window", "losses", "edge"),
    [
        ([0.999999, 1.0], [2.0, 1.0], "high"),  # its ratio is lost in the digits
        ([1e-200, 1.0], [1.0, 2.0], "low"),
        ([1.0, 1e200], [2.0, 1.0], "high"),
    ],
)
def test_a_window_that_cannot_move_gives_no_verdict(
    window: list[float], losses: list[float], edge: str
) -> None:
    found = next_trial(np.array(window), 50, np.array(window), np.array(losses))
    assert (found.rate, found.edge, found.settled) == (None, edge, False)
    assert found.reason.endswith("and the window can move no further")


def test_a_rate_that_diverged_is_no_edge() -> None:
    losses = np.array([3.0, 2.0, math.inf])
    found = next_trial(WINDOW, 4, WINDOW, losses)
    assert (found.edge, found.best) == ("inside", 0.01)
    finite = next_trial(WINDOW[:2], 4, WINDOW[:2], losses[:2])  # the control: dropped
    assert finite.edge == "high"


def test_the_next_rate_by_hand() -> None:
    """The window moves by its outermost gaps; inside, the wider gap is halved."""
    window = np.array([0.1, 0.3, 0.6])
    assert next_trial(window, 4, window, np.array([1.0, 2.0, 3.0])).rate == 0.0333333
    assert next_trial(window, 4, window, np.array([3.0, 2.0, 1.0])).rate == 1.2
    assert next_trial(window, 4, window, np.array([2.0, 1.0, 2.0])).rate == 0.173205
    wide = next_trial(WINDOW, 4, WINDOW, np.array([5.0, 1.0, 2.0])).rate
    assert wide == 0.0316228  # equal gaps: where it is better
    assert next_trial(WINDOW, 4, WINDOW, np.array([2.0, 1.0, 5.0])).rate == 0.00316228
    assert next_trial(WINDOW, 3, WINDOW, np.array([2.0, 1.0, 5.0])).settled
    tied = next_trial(WINDOW, 4, WINDOW, np.array([2.0, 1.0, 1.0]))
    assert (tied.edge, tied.best) == ("high", 0.1)


def test_a_search_goes_on_wherever_it_was_stopped() -> None:
    """The decision depends on what was tried, not on the order or on who asked before."""
    _, made = search(lambda rate: descend(0.3, rate), 8)
    tried = list(made)
    for stop in range(8):
        before = tried[:stop][::-1]
        found = next_trial(WINDOW, 8, np.array(before), np.array([made[rate] for rate in before]))
        assert found.rate == tried[stop]


@pytest.mark.parametrize(
    ("window", "total", "rates", "losses", "told"),
    [
        ([1.0], 3, [], [], "2 or more"),
        ([2.0, 1.0], 3, [], [], "ascending"),
        ([1.0, 2.0], 1, [], [], "total"),
        ([1.0, 2.0], 2, [1.0, 2.0, 4.0], [1.0, 2.0, 3.0], "total"),
        ([1.0, 2.0], 4, [1.0, 1.0], [1.0, 2.0], "distinct"),
        ([1.0, 2.0], 4, [1.0], [math.nan], "nan"),
    ],
)
def test_what_is_no_search_is_refused(
    window: list[float], total: int, rates: list[float], losses: list[float], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        next_trial(np.array(window), total, np.array(rates, float), np.array(losses, float))


# The noisy quadratic

CURVATURE, NOISE, START = 2.0, 0.5, 1.0
DIMENSIONS = 40  # over which a run's loss is a mean, as a model's is over examples


def expected(rate: float) -> float:
    """The exact expected loss of stochastic gradient descent after STEPS."""
    q = (1 - rate * CURVATURE) ** 2
    spread = rate**2 * NOISE**2 * (1 - q**STEPS) / (1 - q)
    return CURVATURE / 2 * (q**STEPS * START**2 + spread)


def simulated(rates: list[float], runs: int, seed: int) -> np.ndarray:
    """Losses [rates, runs]; a run has the same noise at every rate."""
    rng = np.random.default_rng(seed)
    rate = np.array(rates)[:, None, None]
    x = np.full((len(rates), runs, DIMENSIONS), START)
    for _ in range(STEPS):
        gradient = CURVATURE * x + NOISE * rng.normal(size=(runs, DIMENSIONS))
        x = x - rate * gradient
    return (CURVATURE * x**2 / 2).mean(axis=2)


def test_the_search_finds_the_best_rate_under_noise() -> None:
    best = optimize.minimize_scalar(expected, bounds=(1e-4, 0.9), method="bounded").x
    assert simulated([best], 4000, 0).mean() == pytest.approx(expected(best), rel=0.01)
    assert simulated([best], 4000, 0).mean() != pytest.approx(expected(2 * best), rel=0.1)

    def loss(rate: float) -> float:
        return float(simulated([rate], 2, 1).mean()) if rate < 1 else math.inf

    found, _ = search(loss, 9, np.array([1e-4, 1e-3, 1e-2]))
    assert found.settled
    assert found.best is not None
    assert abs(math.log10(found.best / best)) < 0.25
    assert expected(found.best) < 1.3 * expected(best) < expected(1e-2)


def test_the_exact_difference_of_two_rates_is_covered() -> None:
    """Two optimizers on common noise: 94.3 % of 6000 paired intervals hold what theory says."""
    rates, experiments, seeds = [0.09, 0.12], 2000, 5
    right = expected(rates[0]) - expected(rates[1])
    ours, theirs = simulated(rates, experiments * seeds, 2).reshape(2, experiments, seeds)
    found = [paired_difference(a, b) for a, b in zip(ours, theirs, strict=True)]

    def covered(truth: float) -> float:
        bounds = [each.interval for each in found]
        return float(np.mean([x is not None and x.low <= truth <= x.high for x in bounds]))

    assert 0.93 < covered(right) < 0.97
    assert covered(1.2 * right) < 0.93
    twisted = [paired_difference(a, b[::-1]) for a, b in zip(ours, theirs, strict=True)]
    narrow, wide = (np.mean([each.spread for each in every]) for every in (found, twisted))
    assert wide > 1.5 * narrow  # the control: without pairs, the common noise stays
    words = [judge({"x": each}, baseline="y", better="lower")["x"].word for each in found[:200]]
    assert right < 0
    assert set(words) == {"better"}
