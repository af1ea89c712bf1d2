"""Can a network be trained by backpropagation that is written out by hand?

Command: `uv run lmjax train mlp_backprop`. Hardware: 2 CPU cores. Time: 7 s.
Expected: .975 accuracy on the 360 held-out digits, where logistic regression has .967.

The backward pass below uses neither jax.grad nor any other automatic derivative; the trainer meets
it as the derivative rule of the loss (jax.custom_vjp) and calls it as it would call jax's own.

A finished run also works the best-known example by hand: 2 inputs, 3 hidden units, 1 output,
logistic units, all weights and biases 1, x = [1, 0]. The article that made it popular errs five
times: it prints sigma(4) = 1 (it is 0.98201379); it has a factor 2 beside its own 1/2; it leaves
out sigma'; its "gradients" a2 - a3 are differences of activations and not derivatives; and its
all-ones start gives every hidden unit the same gradient, so that they stay equal for ever. Here
weights are drawn at random, and the example is worked as it should be.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lmjax.cli import experiment_main
from lmjax.data import Batch, Dataset, Examples
from lmjax.experiment import Experiment
from lmjax.losses import accuracy, distribution
from lmjax.metrics import Mean
from lmjax.models import MLP, Classifier
from lmjax.optim import SGD, Constant
from lmjax.tasks import Classification, Outcome, Variables

Layers = list[tuple[Array, Array]]  # (W [outputs, inputs], b [outputs]) of each layer


def forward(layers: Layers, x: Float[Array, "B n"]) -> list[Float[Array, "B m"]]:
    """Activations of every layer, a_0 = x first: a_l = sigma(W_l a_(l-1) + b_l)."""
    activations = [x]
    for weights, bias in layers:
        z = activations[-1] @ weights.T + bias[None]
        activations.append(1 / (1 + jnp.exp(-z)))
    return activations


def backward(
    layers: Layers, activations: list[Float[Array, "B m"]], dz: Float[Array, "B k"]
) -> Layers:
    """Gradients of all weights and biases, from dz = dL/dz of the last layer.

    dL/dW_l = dz_l a_(l-1)^T      dL/db_l = dz_l      dz_(l-1) = W_l^T dz_l * a (1 - a)
    each summed over the batch; a (1 - a) is sigma'.
    """
    gradients: Layers = []
    for (weights, _), below in zip(reversed(layers), reversed(activations[:-1]), strict=True):
        gradients.append((dz.T @ below, dz.sum(0)))
        dz = (dz @ weights) * below * (1 - below)
    return gradients[::-1]


def squared_error(a: Float[Array, "B k"], y: Float[Array, "B k"]) -> tuple[Array, Array]:
    """(L, dL/dz) of L = 1/2 sum (y - a)^2, for each example; here sigma' stays in dL/dz."""
    return 0.5 * jnp.sum((y - a) ** 2, -1), (a - y) * a * (1 - a)


def cross_entropy(a: Float[Array, "B k"], y: Float[Array, "B k"]) -> tuple[Array, Array]:
    """(L, dL/dz) of L = -sum (y log a + (1 - y) log(1 - a)); sigma' cancels and a - y remains."""
    loss = -jnp.sum(y * jnp.log(a) + (1 - y) * jnp.log1p(-a), -1)
    return loss, a - y


@jax.custom_vjp
def loss_of(
    layers: Layers, x: Float[Array, "B n"], y: Float[Array, "B k"], weights: Float[Array, "B"]
) -> tuple[Float[Array, ""], Float[Array, "B k"]]:
    """(weighted sum of the cross-entropy, outputs)."""
    outputs = forward(layers, x)[-1]
    return jnp.sum(weights * cross_entropy(outputs, y)[0]), outputs


def _loss_forward(layers: Layers, x: Array, y: Array, weights: Array) -> Any:
    activations = forward(layers, x)
    losses, dz = cross_entropy(activations[-1], y)
    return (jnp.sum(weights * losses), activations[-1]), (
        layers,
        activations,
        dz * weights[:, None],
    )


def _loss_backward(saved: Any, cotangent: Any) -> Any:
    layers, activations, dz = saved
    return backward(layers, activations, dz * cotangent[0]), None, None, None


loss_of.defvjp(_loss_forward, _loss_backward)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByHand(Classification):
    """An MLP of logistic units, one output a class, differentiated by the rules above."""

    label: ClassVar[str] = "by-hand"

    model: Classifier = MLP(hidden=(32,))

    def layers(self, variables: Variables) -> Layers:
        """The model's parameters as the (W, b) of the formulas."""
        params = variables["params"]
        names = [*sorted(name for name in params if name != "head"), "head"]
        return [(params[name]["kernel"].T, params[name]["bias"]) for name in names]

    def outcome(self, variables: Variables, batch: Batch, key: PRNGKeyArray | None) -> Outcome:
        x = batch["inputs"].reshape(batch["inputs"].shape[0], -1)
        y = distribution(batch["targets"], self.model.classes)
        total, outputs = loss_of(self.layers(variables), x, y, batch["weights"])
        weight = jnp.sum(batch["weights"])
        right = accuracy(outputs, batch["targets"], batch["weights"])
        return Outcome(Mean(total, weight), {"accuracy": right}, {})

    def showcase(self, params: Any, dataset: Dataset, key: PRNGKeyArray) -> str:
        with jax.enable_x64(True):
            return "\n".join(f"{name:28s}{value:.12g}" for name, value in worked_example().items())


def worked_example() -> dict[str, float]:
    """The 2-3-1 net of ones at x = [1, 0], y = 1, by the functions above."""
    layers = [(jnp.ones((3, 2)), jnp.ones(3)), (jnp.ones((1, 3)), jnp.ones(1))]
    x, y = jnp.array([[1.0, 0.0]]), jnp.array([[1.0]])
    _, hidden, output = forward(layers, x)
    loss, dz = squared_error(output, y)
    gradients = backward(layers, [x, hidden, output], dz)
    stepped = [
        (w - 0.01 * dw, b - 0.01 * db) for (w, b), (dw, db) in zip(layers, gradients, strict=True)
    ]
    return {
        "a1 = sigma(2)": float(hidden[0, 0]),
        "a2 = sigma(1 + 3 a1)": float(output[0, 0]),
        "L = 1/2 (y - a2)^2": float(loss[0]),
        "dL/dz2": float(dz[0, 0]),
        "dL/dW2 (3 times)": float(gradients[1][0][0, 0]),
        "dL/dW1[:, 0] (3 times)": float(gradients[0][0][0, 0]),
        "L after a step of .01": float(squared_error(forward(stepped, x)[-1], y)[0][0]),
        "dL/dz2 of cross-entropy": float(cross_entropy(output, y)[1][0, 0]),
    }


def config() -> Experiment:
    """A 64-32-10 net of logistic units on the digits, plain gradient descent."""
    return Experiment(
        name="mlp_backprop",
        task=ByHand(),
        data=Examples(source="digits"),
        optimizer=SGD(learning_rate=0.5),
        schedule=Constant(),
        steps=2000,
        batch_size=96,
        evaluate_every=500,
        save_every=500,
    )


if __name__ == "__main__":
    experiment_main(config)
