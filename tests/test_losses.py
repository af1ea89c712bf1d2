"""Losses of targets that are probabilities against scipy, and against those that are classes."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from lmjax.losses import accuracy, cross_entropy, distribution
from lmjax.metrics import Mean, merge, values


def test_probabilities_as_targets_equal_scipy_and_classes():
    rng = np.random.default_rng(0)
    logits, weights = rng.normal(size=(7, 5)), rng.uniform(size=7)
    soft, hard = rng.dirichlet(np.ones(5), 7), rng.integers(0, 5, 7)
    given = [jnp.asarray(x, jnp.float32) for x in (logits, soft, weights)]
    theirs = -(weights * (soft * special.log_softmax(logits, 1)).sum(1)).sum() / weights.sum()
    right = (weights * (logits.argmax(1) == soft.argmax(1))).sum() / weights.sum()
    told = values({"loss": cross_entropy(*given), "accuracy": accuracy(*given)})
    assert told == pytest.approx({"loss": theirs, "accuracy": right}, abs=1e-6)
    classes = jnp.asarray(hard, jnp.int32)
    one_hot = distribution(classes, 5)
    assert np.array_equal(one_hot, np.eye(5)[hard])
    for function in (cross_entropy, accuracy):
        a, b = (function(given[0], targets, given[2]) for targets in (classes, one_hot))
        assert np.allclose(a, b, rtol=1e-6)
        assert abs(a.total - function(*given).total) > 1e-3


def test_a_mean_over_nothing_is_not_a_number():
    empty = {"loss": Mean(0.0, np.float32(0)), "accuracy": Mean(1.0, 2.0)}
    assert np.isnan(values(empty)["loss"])
    assert values(empty)["accuracy"] == 0.5
    assert values(merge([empty, {"loss": Mean(3.0, 2.0)}]))["loss"] == 1.5  # it weighs nothing
