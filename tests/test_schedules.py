"""Schedules against exact values, optax's and their papers' formulas."""

import math
from collections.abc import Callable

import jax
import numpy as np
import optax
import pytest

from lmjax.errors import FieldError
from lmjax.optim import (
    REX,
    WSD,
    Constant,
    Cosine,
    Exponential,
    InfiniteCosine,
    InverseSqrt,
    Linear,
    OneCycle,
    Piecewise,
    Polynomial,
    Restarts,
    Schedule,
)
from lmjax.parts import alternatives

OURS = [cls for cls in alternatives(Schedule).values() if cls.__module__.startswith("lmjax.")]
FALLING = [s for s in OURS if s not in (Restarts, OneCycle)]
WARM = [s for s in OURS if s is not OneCycle]


def curve(schedule: Schedule, steps: int, until: int | None = None) -> np.ndarray:
    """The factors of updates 0 to until - 1."""
    counts = np.arange(steps if until is None else until, dtype=np.int32)
    return np.asarray(jax.jit(jax.vmap(lambda t: schedule.factor(t, steps)))(counts))


def test_cosine_at_quarters():
    exact = [1, 0.8535534, 0.5, 0.1464466, 0]
    assert np.allclose(curve(Cosine(), 100, 101)[::25], exact, atol=1e-7)
    assert not np.allclose(curve(Cosine(final=0.1), 100, 101)[::25], exact, atol=1e-3)


def of_optax(*parts: tuple[Callable, int]) -> Callable:
    """Schedules one after another, with the updates at which the second and the next begin."""
    return optax.join_schedules([part for part, _ in parts], [end for _, end in parts[:-1]])


def sgdr(final: float) -> Callable:
    one = {"init_value": 1.0, "peak_value": 1.0, "warmup_steps": 0, "end_value": final}
    return optax.sgdr_schedule([{**one, "decay_steps": length} for length in (10, 20, 40)])


@pytest.mark.parametrize(
    ("ours", "wrong", "theirs", "steps"),
    [
        (Constant(), Linear(final=0.9), optax.constant_schedule(1.0), 90),
        (Linear(final=0.2), Linear(final=0.21), optax.linear_schedule(1.0, 0.2, 90), 90),
        (Cosine(final=0.1), Cosine(), optax.cosine_decay_schedule(1.0, 90, 0.1), 90),
        (
            Polynomial(power=3.0, final=0.1),
            Polynomial(power=2.9, final=0.1),
            optax.polynomial_schedule(1.0, 0.1, 3.0, 90),
            90,
        ),
        (
            Exponential(final=0.02),
            Exponential(final=0.021),
            optax.exponential_decay(1.0, 90, 0.02),
            90,
        ),
        (
            Exponential(final=0.02, floor=0.1),
            Exponential(final=0.02),
            optax.exponential_decay(1.0, 90, 0.02, end_value=0.1),
            90,
        ),
        (
            Piecewise(boundaries=(0.5, 0.75), scale=0.3),
            Piecewise(boundaries=(0.5, 0.7625), scale=0.3),
            optax.piecewise_constant_schedule(1.0, {40: 0.3, 60: 0.3}),
            80,
        ),
        (Restarts(final=0.1), Restarts(final=0.1, growth=1.9), sgdr(0.1), 70),
        (OneCycle(), OneCycle(begin=0.05), optax.cosine_onecycle_schedule(90, 1.0), 90),
        (
            WSD(decay_fraction=0.3, final=0.1),
            WSD(decay_fraction=0.31, final=0.1),
            of_optax((optax.constant_schedule(1.0), 63), (optax.linear_schedule(1.0, 0.1, 27), 0)),
            90,
        ),
        (
            WSD(decay_fraction=0.3, final=0.1, tail="cosine"),
            WSD(decay_fraction=0.3, final=0.1),
            of_optax(
                (optax.constant_schedule(1.0), 63), (optax.cosine_decay_schedule(1.0, 27, 0.1), 0)
            ),
            90,
        ),
    ],
    ids=lambda x: getattr(x, "label", ""),
)
def test_the_shape_is_optax_s(ours, wrong, theirs, steps):
    expected = [theirs(t) for t in range(steps + 1)]
    assert np.allclose(curve(ours, steps, steps + 1), expected, atol=1e-6)
    assert not np.allclose(curve(wrong, steps, steps + 1), expected, atol=1e-4)


def noam(number: int) -> float:
    """Section 5.3 of Vaswani et al. for step `number` (from 1), with 512 wide and 20 of warm-up."""
    return 512**-0.5 * min(number**-0.5, number * 20**-1.5) / (512**-0.5 * 20**-0.5)


def reflected_exponential(number: int) -> float:
    """Of Chen et al., section 4: of 100, with update `number` from 0."""
    remains = 1 - number / 100
    return remains / (1 / 2 + 1 / 2 * remains)


def one_minus_root(number: int) -> float:
    """Of Haegele et al., section 3: the last 40 of 100."""
    return 1.0 if number <= 60 else 1 - math.sqrt((number - 60) / 40)


def infinite(number: int) -> float:
    """Of Ibrahim et al., section 4.3: 60 of 100 cool down to .5, the last 20 anneal to .1."""
    if number <= 60:
        return 0.5 + (1 - 0.5) / 2 * (1 + math.cos(math.pi * number / 60))
    return 0.5 if number <= 80 else 0.5 * (0.1 / 0.5) ** ((number - 80) / 20)


@pytest.mark.parametrize(
    ("ours", "wrong", "formula"),
    [
        (InverseSqrt(warmup_steps=20), InverseSqrt(warmup_steps=20, timescale=22), noam),
        (REX(), REX(final=0.01), reflected_exponential),
        (WSD(decay_fraction=0.4, tail="1-sqrt"), WSD(decay_fraction=0.4), one_minus_root),
        (
            InfiniteCosine(plateau=0.5, decay_fraction=0.2),
            InfiniteCosine(plateau=0.5, decay_fraction=0.2, cooldown_fraction=0.62),
            infinite,
        ),
    ],
    ids=lambda x: getattr(x, "label", ""),
)
def test_the_shape_is_the_paper_s(ours, wrong, formula):
    first = 1 if formula is noam else 0
    expected = [formula(number + first) for number in range(101)]
    assert np.allclose(curve(ours, 100, 101), expected, atol=2e-6)
    assert not np.allclose(curve(wrong, 100, 101), expected, atol=1e-3)


@pytest.mark.parametrize("schedule", WARM)
def test_warm_up_rises_in_equal_steps_to_the_peak_and_the_shape_follows(schedule):
    warm = curve(schedule(warmup_steps=10), 100)
    assert np.allclose(warm[:10], np.arange(1, 11) / 10)
    given = {"timescale": 10} if schedule is InverseSqrt else {}
    assert np.allclose(warm[10:], curve(schedule(**given), 90), atol=1e-6)


@pytest.mark.parametrize("schedule", OURS)
def test_factors_are_fractions_that_begin_and_end_as_they_say(schedule):
    found = curve(schedule(), 100, 101)
    assert np.all((found >= 0) & (found <= 1))
    begin = {OneCycle: 0.04, InverseSqrt: math.sqrt(1 / 2)}.get(schedule, 1.0)
    assert np.isclose(found[0], begin)
    if hasattr(schedule(), "final"):
        assert np.isclose(found[-1], schedule().final, atol=1e-7)
    beyond = curve(schedule(), 100, 140)[101:]  # a run that went on: no factor rises again
    assert np.all(beyond <= found[-1] + 1e-7)


@pytest.mark.parametrize("schedule", FALLING)
def test_these_never_rise(schedule):
    assert np.all(np.diff(curve(schedule(), 300, 301)) <= 1e-7)


@pytest.mark.parametrize("schedule", [Restarts, OneCycle])
def test_and_these_do(schedule):
    """Negative control of the test above."""
    assert np.any(np.diff(curve(schedule(), 300, 301)) > 1e-3)


@pytest.mark.parametrize(
    "schedule", [*(cls() for cls in OURS), WSD(tail="1-sqrt"), WSD(tail="cosine")], ids=repr
)
def test_only_these_jump(schedule):
    """One update in 3000 changes little, but at a boundary and at a restart."""
    after = curve(schedule, 3000, 3001)[4:]  # InverseSqrt without a warm-up begins steeply
    largest = float(np.max(np.abs(np.diff(after))))
    assert (largest > 0.08) is isinstance(schedule, (Piecewise, Restarts))


def test_a_floor_holds_and_without_it_the_shape_goes_below():
    for schedule in (Linear, Cosine, Polynomial, REX, WSD, Exponential, Restarts, InverseSqrt):
        plain, held = curve(schedule(), 200, 201), curve(schedule(floor=0.3), 200, 201)
        assert np.allclose(held, np.maximum(plain, 0.3))
        assert plain.min() < 0.2


def test_a_schedule_that_does_not_ask_the_length_gives_the_same_factors_to_a_longer_run():
    for schedule in OURS:
        short, long = curve(schedule(), 100), curve(schedule(), 200)[:100]
        assert np.array_equal(short, long) is not schedule.depends_on_steps


def test_a_warm_up_must_fit_into_the_run():
    Cosine(warmup_steps=10).check_steps(10)
    with pytest.raises(FieldError, match=r"the run's 10 steps; add --schedule\.warmup-steps 2"):
        Cosine(warmup_steps=11).check_steps(10)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (Cosine(final=1.5), "final = 1.5: must be >= 0 and <= 1"),
        (Linear(floor=-0.1), "floor = -0.1: must be >= 0 and <= 1"),
        (Polynomial(power=0.0), "power = 0.0: must be > 0"),
        (Exponential(final=0.0), "final = 0.0: must be > 0 and <= 1"),
        (WSD(decay_fraction=0.0), "decay_fraction = 0.0: must be > 0"),
        (InverseSqrt(timescale=-1), "timescale = -1: must be >= 0"),
        (InfiniteCosine(final=0.6), "final = 0.6: must be > 0 and <= 0.55"),
        (InfiniteCosine(cooldown_fraction=0.9), "decay_fraction = 0.15: must be"),
        (Piecewise(boundaries=(0.7, 0.5)), r"boundaries = \(0.7, 0.5\): must ascend"),
        (Piecewise(boundaries=(0.5, 1.0)), "boundaries = 1.0: must be > 0 and < 1"),
        (Restarts(cycles=0), "cycles = 0: must be >= 1"),
        (Restarts(growth=0.0), "growth = 0.0: must be >= 0.01"),
        (OneCycle(warmup_steps=5), "warmup_steps = 5: must be 0: the rise is a part"),
        (OneCycle(rise_fraction=1.0), "rise_fraction = 1.0: must be > 0 and < 1"),
    ],
    ids=lambda x: getattr(x, "label", ""),
)
def test_bad_values_are_refused_in_one_line(bad, told):
    with pytest.raises(FieldError, match=told) as caught:
        bad.validate()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("schedule", OURS)
def test_the_defaults_are_good(schedule):
    schedule().validate()
