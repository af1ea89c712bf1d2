"""Backpropagation by hand against jax.grad, finite differences and the worked numbers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import mlp_backprop as hand


def random_net(seed: int, sizes=(5, 7, 4, 3)):
    rng = np.random.default_rng(seed)
    layers = [
        (jnp.asarray(rng.normal(size=(n, m))), jnp.asarray(rng.normal(size=n)))
        for m, n in itertools.pairwise(sizes)
    ]
    x, y = rng.normal(size=(6, sizes[0])), rng.uniform(size=(6, sizes[-1]))
    return layers, jnp.asarray(x), jnp.asarray(y)


def by_hand(loss, layers, x, y):
    """Gradients of the mean loss."""
    activations = hand.forward(layers, x)
    return hand.backward(layers, activations, loss(activations[-1], y)[1] / len(x))


def largest_difference(a, b) -> float:
    return max(
        float(jnp.max(jnp.abs(x - y)))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("loss", [hand.squared_error, hand.cross_entropy])
def test_gradients_equal_jax_grad_on_random_nets(loss, seed):
    layers, x, y = random_net(seed)
    automatic = jax.grad(lambda net: loss(hand.forward(net, x)[-1], y)[0].mean())(layers)
    assert largest_difference(by_hand(loss, layers, x, y), automatic) < 1e-6
    without_sigma_prime = by_hand(lambda a, t: (0, a - t), layers, x, y)
    if loss is hand.squared_error:
        assert largest_difference(without_sigma_prime, automatic) > 1e-2


def test_gradients_equal_finite_differences():
    with jax.enable_x64(True):
        layers, x, y = random_net(0)
        gradients = by_hand(hand.cross_entropy, layers, x, y)
        (weights, bias), *rest = layers
        for i, j in [(0, 0), (3, 2), (6, 4)]:

            def loss(shift, i=i, j=j):
                net = [(weights.at[i, j].add(shift), bias), *rest]
                return float(hand.cross_entropy(hand.forward(net, x)[-1], y)[0].mean())

            numeric = (loss(1e-5) - loss(-1e-5)) / 2e-5
            assert np.isclose(numeric, gradients[0][0][i, j], rtol=1e-7)
            assert not np.isclose(numeric, 2 * gradients[0][0][i, j], rtol=1e-7)


def test_the_worked_example_has_the_right_numbers():
    with jax.enable_x64(True):
        told = hand.worked_example()
    exact = {
        "a1 = sigma(2)": 0.8807970779778823,
        "a2 = sigma(1 + 3 a1)": 0.974478749,
        "L = 1/2 (y - a2)^2": 0.000325667126330637,
        "dL/dz2": -0.0006347114,
        "dL/dW2 (3 times)": -0.0005590519356573,
        "dL/dW1[:, 0] (3 times)": -6.664062429247e-05,
        "L after a step of .01": 0.00032565345540,
        "dL/dz2 of cross-entropy": -0.025521251,
    }
    assert told.keys() == exact.keys()
    for name, value in exact.items():
        assert np.isclose(told[name], value, rtol=5e-8, atol=0), name
        assert not np.isclose(told[name], value * (1 + 1e-6), rtol=5e-8, atol=0), name


def test_the_target_zero_of_the_worked_example():
    with jax.enable_x64(True):
        layers = [(jnp.ones((3, 2)), jnp.ones(3)), (jnp.ones((1, 3)), jnp.ones(1))]
        x, y = jnp.array([[1.0, 0.0]]), jnp.array([[0.0]])
        loss, _ = hand.squared_error(hand.forward(layers, x)[-1], y)
        gradients = by_hand(hand.squared_error, layers, x, y)
    assert np.isclose(loss[0], 0.47480441612522817, rtol=1e-12)
    assert np.allclose(gradients[1][0], 0.0213462980659, rtol=1e-11)


def test_the_trainer_uses_the_gradient_by_hand(monkeypatch):
    """The same parameters through automatic differentiation; and a planted error is seen."""
    experiment = hand.config()
    batch = jax.tree.map(jnp.asarray, experiment.data.load().batch(0, 0, 8))
    task = experiment.task
    params = jax.tree.map(
        lambda x: x.value,
        task.init(jax.random.key(0), batch)["params"],
        is_leaf=lambda x: hasattr(x, "names"),
    )

    def loss(params):
        return task.outcome({"params": params}, batch, jax.random.key(1)).loss.total

    def automatic(params):
        x = batch["inputs"].reshape(8, -1)
        outputs = hand.forward(task.layers({"params": params}), x)[-1]
        y = jax.nn.one_hot(batch["targets"], 10)
        return jnp.sum(batch["weights"] * hand.cross_entropy(outputs, y)[0])

    assert largest_difference(jax.grad(loss)(params), jax.grad(automatic)(params)) < 1e-6
    monkeypatch.setattr(
        hand, "backward", lambda net, a, dz: [(2 * w, b) for w, b in reference(net, a, dz)]
    )
    assert largest_difference(jax.grad(loss)(params), jax.grad(automatic)(params)) > 1e-2


reference = hand.backward


def test_all_ones_never_break_symmetry():
    layers = [(jnp.ones((3, 2)), jnp.ones(3)), (jnp.ones((1, 3)), jnp.ones(1))]
    x, y = jnp.array([[1.0, 0.0], [0.2, 0.7]]), jnp.array([[1.0], [0.0]])
    (first, _), _ = by_hand(hand.cross_entropy, layers, x, y)
    assert np.allclose(first[0], first[1], rtol=1e-6)
    drawn, _, _ = random_net(0, (2, 3, 1))
    (first, _), _ = by_hand(hand.cross_entropy, drawn, x, y)
    assert not np.allclose(first[0], first[1], rtol=1e-2)
