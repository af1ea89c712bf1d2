"""SimpleFCN's convolution and pooling against Flax's, which XLA's CPU backend makes slow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import meta

from lmjax.models import simple_fcn


def flax_max_pool(x):
    return nn.max_pool(x, (2, 2), strides=(2, 2))


def value_and_gradient(pool, x, weights):
    value, pull = jax.vjp(pool, x)
    return np.asarray(value), np.asarray(pull(weights)[0])


@pytest.fixture
def tied():
    """Images of few different values, so that most windows have more than one largest."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.integers(0, 3, (2, 9, 7, 3)), jnp.float32)
    weights = jnp.asarray(random.standard_normal((2, 4, 3, 3)), jnp.float32)
    return x, weights


@pytest.mark.smoke
def test_pooling_has_the_values_and_the_gradient_of_flax(tied):
    ours, flax = (value_and_gradient(p, *tied) for p in (simple_fcn.max_pool, flax_max_pool))
    np.testing.assert_array_equal(ours[0], flax[0])
    np.testing.assert_array_equal(ours[1], flax[1])


def test_another_choice_among_equals_is_told_apart(tied, monkeypatch):
    monkeypatch.setattr(simple_fcn, "larger", lambda a, b: jnp.where(a > b, a, b))
    ours, flax = (value_and_gradient(p, *tied) for p in (simple_fcn.max_pool, flax_max_pool))
    np.testing.assert_array_equal(ours[0], flax[0])
    assert (ours[1] != flax[1]).any()


@pytest.mark.parametrize("place", range(4))
def test_what_is_not_a_number_stays_so(place):
    x = jnp.ones((1, 2, 2, 1)).at[0, place // 2, place % 2, 0].set(jnp.nan)
    assert np.isnan(simple_fcn.max_pool(x)).all()
    assert not np.isnan(simple_fcn.max_pool(jnp.ones((1, 2, 2, 1)))).any()


@pytest.fixture
def convolution():
    """(inputs of 3 channels, Flax's convolution with its parameters)."""
    x = jax.random.normal(jax.random.key(1), (2, 8, 7, 3))
    flax = nn.Conv(4, (5, 5), padding="VALID")
    return x, flax, flax.init(jax.random.key(0), x)


def test_the_convolution_is_that_of_flax(convolution):
    x, flax, variables = convolution
    ours = simple_fcn.Convolution(channels=4, window=5)
    drawn = meta.unbox(ours.init(jax.random.key(0), x))
    jax.tree.map(np.testing.assert_array_equal, drawn, variables)
    variables["params"]["bias"] = jnp.arange(4.0)

    def outputs_and_gradients(module):
        def loss(variables, x):
            y = module.apply(variables, x)
            return jnp.sum(jnp.sin(y)), y

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(variables, x)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        outputs_and_gradients(ours),
        outputs_and_gradients(flax),
    )


def test_a_mirrored_window_is_told_apart(convolution):
    x, flax, variables = convolution
    mirrored = jax.tree.map(lambda leaf: leaf[::-1, ::-1] if leaf.ndim > 1 else leaf, variables)
    ours = simple_fcn.Convolution(channels=4, window=5)
    assert np.abs(ours.apply(mirrored, x) - flax.apply(variables, x)).max() > 0.1
