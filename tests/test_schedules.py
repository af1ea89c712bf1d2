"""Schedules against exact values and against optax's."""

import numpy as np
import optax
import pytest

from lmjax.errors import FieldError
from lmjax.optim import WSD, Constant, Cosine, Linear, Schedule


def curve(schedule: Schedule, steps: int, until: int | None = None) -> np.ndarray:
    counts = range(steps if until is None else until)
    return np.array([schedule.factor(count, steps) for count in counts])


def test_cosine_at_quarters():
    exact = [1, 0.8535534, 0.5, 0.1464466, 0]
    assert np.allclose(curve(Cosine(), 100, 101)[::25], exact, atol=1e-7)
    assert not np.allclose(curve(Cosine(final=0.1), 100, 101)[::25], exact, atol=1e-3)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Constant(), optax.constant_schedule(1.0)),
        (Linear(final=0.2), optax.linear_schedule(1.0, 0.2, 90)),
        (Cosine(final=0.1), optax.cosine_decay_schedule(1.0, 90, 0.1)),
        (
            WSD(decay_fraction=0.3, final=0.1),
            optax.join_schedules(
                [optax.constant_schedule(1.0), optax.linear_schedule(1.0, 0.1, 27)], [63]
            ),
        ),
    ],
    ids=lambda x: getattr(x, "label", ""),
)
def test_the_shape_is_optax_s(ours, theirs):
    assert np.allclose(curve(ours, 90, 91), [theirs(t) for t in range(91)], atol=1e-6)


@pytest.mark.parametrize("schedule", [Constant, Linear, Cosine, WSD])
def test_warm_up_rises_in_equal_steps_to_the_peak_and_the_shape_follows(schedule):
    warm = curve(schedule(warmup_steps=10), 100)
    assert np.allclose(warm[:10], np.arange(1, 11) / 10)
    assert np.allclose(warm[10:], curve(schedule(), 90), atol=1e-6)


def test_a_warm_up_must_fit_into_the_run():
    Cosine(warmup_steps=10).check_steps(10)
    with pytest.raises(FieldError, match=r"the run's 10 steps; add --schedule\.warmup-steps 2"):
        Cosine(warmup_steps=11).check_steps(10)
