"""The loss in chunks: values and gradients of the plain one, at every size, without its memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.head_loss import of_features, of_logits
from lmjax.models.base import Headless
from lmjax.models.linear import capped

B, T, D, V, W = 3, 8, 16, 50, 64  # W: the head with padding
CLOSE = 1e-6


def drawn(cap: float) -> tuple[Headless, jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(B, T, D)), jnp.float32)
    head = jnp.asarray(rng.normal(size=(D, W)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, V, (B, T)), jnp.int32)
    weights = jnp.asarray(rng.random((B, T)) > 0.3, jnp.float32) * 1.5
    return Headless(x, head, cap, V), targets, weights


def plain(features: Headless, targets, weights, z_loss):
    logits = capped(features.x @ features.head, features.cap)[..., :V]
    return of_logits(logits, targets, weights, z_loss)


def gradient(sums, features: Headless):
    return jax.jit(
        jax.value_and_grad(lambda x, head: 0.7 * sums(features._replace(x=x, head=head)), (0, 1))
    )(features.x, features.head)


@pytest.mark.parametrize("way", ["chunked", "one-pass"])
@pytest.mark.parametrize(("cap", "z_loss"), [(0.0, 0.0), (3.0, 1e-2)])
@pytest.mark.parametrize("chunk", [1, 5, 24, 100])
def test_sums_and_gradients_are_those_of_the_plain_loss(way, cap, z_loss, chunk):
    features, targets, weights = drawn(cap)
    told = of_features(features, targets, weights, way, chunk, z_loss)
    for one, two in zip(told, plain(features, targets, weights, z_loss), strict=True):
        np.testing.assert_allclose(one, two, rtol=CLOSE)
    value, grads = gradient(
        lambda f: of_features(f, targets, weights, way, chunk, z_loss).objective, features
    )
    expected, right = gradient(lambda f: plain(f, targets, weights, z_loss).objective, features)
    np.testing.assert_allclose(value, expected, rtol=CLOSE)
    for one, two in zip(grads, right, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=CLOSE * np.abs(two).max())
    _, wrong = gradient(lambda f: plain(f, targets, weights, z_loss + 1e-4).objective, features)
    assert np.abs(grads[0] - wrong[0]).max() > 10 * CLOSE * np.abs(wrong[0]).max()


def shapes_of(text: str) -> list[int]:
    """Numbers of elements of the float32 tensors of a lowered program."""
    import re

    found = re.findall(r"tensor<([0-9x]+)xf32>", text)
    return [int(np.prod([int(n) for n in each.split("x")])) for each in found]


@pytest.mark.parametrize(
    ("way", "held"), [("plain", True), ("chunked", False), ("one-pass", False)]
)
def test_the_logits_of_all_tokens_are_never_held(way, held):
    features, targets, weights = drawn(0.0)

    def loss(x, head):
        given = features._replace(x=x, head=head)
        if way == "plain":
            return plain(given, targets, weights, 0.0).objective
        return of_features(given, targets, weights, way, 4, 0.0).objective

    text = jax.jit(jax.grad(loss, (0, 1))).lower(features.x, features.head).as_text()
    assert (max(shapes_of(text)) >= B * T * V) is (way == "plain")


@pytest.mark.parametrize("way", ["chunked", "one-pass"])
def test_products_are_in_the_dtype_of_the_features(way):
    features, targets, weights = drawn(0.0)
    low = features._replace(
        x=features.x.astype(jnp.bfloat16), head=features.head.astype(jnp.bfloat16)
    )

    def loss(x, head):
        given = low._replace(x=x, head=head)
        return of_features(given, targets, weights, way, 8, 0.0).objective

    grads = jax.grad(loss, (0, 1))(low.x, low.head)
    assert {g.dtype for g in grads} == {jnp.dtype(jnp.bfloat16)}
    text = jax.jit(jax.grad(loss, (0, 1))).lower(low.x, low.head).as_text()
    dots = [line for line in text.splitlines() if "dot_general" in line]
    assert len(dots) >= 3
    for line in dots:  # operands; what they add up to is float32
        assert line.split(":")[-1].split("->")[0].count("bf16") == 2
