"""The train step and the evaluation step: pure functions of arrays, with no I/O and no mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from lmjax.data import Batch
from lmjax.experiment import Experiment
from lmjax.metrics import Mean, Metrics
from lmjax.rng import key_for
from lmjax.roles import Roles
from lmjax.state import TrainState
from lmjax.tasks import Outcome, Variables


class Knobs(NamedTuple):
    """Scalars that may vary between runs of one compiled step."""

    seed: Any  # uint32 []
    learning_rate: Any  # float32 [], the peak of the optimizer's main rule


class Oracle(NamedTuple):
    """What an optimizer may ask beyond the gradient; what it does not call costs nothing.

    Handed to every optax `update` as the extra argument `oracle`, beside optax's own `value`,
    `grad` and `value_fn`. All three use the step's own dropout key.
    """

    value_and_grad: Callable[[Any], tuple[Array, Any]]  # at other parameters, on this batch
    previous_value_and_grad: Callable[[Any], tuple[Array, Any]]  # there, on the batch before
    sampled_grad: Callable[[], Any]  # here, with targets drawn from the model


TrainStep = Callable[[TrainState, Batch, Batch | None, Knobs], tuple[TrainState, Metrics]]


def build_optimizer(
    experiment: Experiment, roles: Roles, learning_rate: float | Array
) -> optax.GradientTransformationExtraArgs:
    """The optax chain of an experiment, with the rate as an argument so that it can be traced."""
    return experiment.optimizer.build(
        roles, learning_rate, lambda count: experiment.schedule.factor(count, experiment.steps)
    )


def make_train_step(experiment: Experiment, roles: Roles) -> TrainStep:
    """The function (state, batch, previous batch or None, knobs) -> (state, metrics).

    `previous` is None unless the optimizer asks for it by `needs_previous_batch`.
    """
    evaluate = make_value_and_grad(experiment)

    def train_step(
        state: TrainState, batch: Batch, previous: Batch | None, knobs: Knobs
    ) -> tuple[TrainState, Metrics]:
        optimizer = build_optimizer(experiment, roles, knobs.learning_rate)
        key = key_for(knobs.seed, "dropout", state.step)
        batch = experiment.task.augment(batch, key_for(knobs.seed, "augment", state.step))
        if previous is not None:
            before = key_for(knobs.seed, "augment", jnp.maximum(state.step - 1, 0))
            previous = experiment.task.augment(previous, before)

        def at(params: Any, batch: Batch | None) -> tuple[Outcome, Any]:
            if batch is None:
                raise ValueError("this optimizer must declare needs_previous_batch")
            return evaluate({"params": params, **state.model_state}, batch, key)

        outcome, grads = at(state.params, batch)
        loss = outcome.loss.total / outcome.loss.weight

        def value_and_grad(params: Any, batch: Batch | None = batch) -> tuple[Array, Any]:
            outcome, grads = at(params, batch)
            return outcome.loss.total / outcome.loss.weight, grads

        def value_fn(params: Any, oracle: Any = None) -> Array:
            # optax's line searches hand every extra argument on to it.
            return value_and_grad(params)[0]

        def sampled_grad() -> Any:
            variables = {"params": state.params, **state.model_state}
            label_key = key_for(knobs.seed, "labels", state.step)
            return at(
                state.params, experiment.task.with_sampled_targets(variables, batch, label_key)
            )[1]

        updates, opt_state = optimizer.update(
            grads,
            state.opt_state,
            state.params,
            value=loss,
            grad=grads,
            value_fn=value_fn,
            oracle=Oracle(
                value_and_grad, lambda params: value_and_grad(params, previous), sampled_grad
            ),
        )
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": outcome.loss,
            **outcome.metrics,
            "grad_norm": Mean(optax.tree.norm(grads), jnp.float32(1)),
        }
        return TrainState(state.step + 1, params, outcome.model_state, opt_state), metrics

    return train_step


def make_value_and_grad(
    experiment: Experiment,
) -> Callable[[Variables, Batch, PRNGKeyArray], tuple[Outcome, Any]]:
    """(variables, batch, dropout key) -> (outcome, gradient of the mean loss, like the params).

    The sum of the loss over micro-batches is differentiated and divided by the whole weight at the
    end, so accumulation changes no target's share. Gradients are float32, as the master copy is.
    """
    pieces = experiment.accumulation

    def one(params: Any, state: Variables, batch: Batch, key: PRNGKeyArray) -> tuple[Outcome, Any]:
        def total(params: Any) -> tuple[Array, Outcome]:
            variables = {"params": as_computed(experiment, params), **state}
            outcome = experiment.task.outcome(variables, batch, key)
            return outcome.loss.total, outcome

        (_, outcome), grads = jax.value_and_grad(total, has_aux=True)(params)
        return outcome, grads

    def many(params: Any, state: Variables, batch: Batch, key: PRNGKeyArray) -> tuple[Outcome, Any]:
        # Rows i, i + pieces, ... make micro-batch i, so that a batch that is sharded over devices
        # by rows leaves each device its share of every micro-batch.
        micro = jax.tree.map(lambda x: x.reshape(-1, pieces, *x.shape[1:]), batch)

        def piece(state: Variables, number: Any) -> tuple[Variables, Any]:
            rows = jax.tree.map(lambda x: x[:, number], micro)
            outcome, grads = one(params, state, rows, key)
            return outcome.model_state, (outcome.loss, outcome.metrics, grads)

        def body(carry: Any, number: Any) -> tuple[Any, None]:
            state, sums = piece(carry[0], number)
            return (state, jax.tree.map(jnp.add, carry[1], sums)), None

        shapes = jax.eval_shape(piece, state, 0)[1]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (state, sums), _ = jax.lax.scan(body, (state, zeros), jnp.arange(pieces))
        loss, metrics, grads = sums
        return Outcome(loss, metrics, state), grads

    def value_and_grad(
        variables: Variables, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Outcome, Any]:
        state = {name: value for name, value in variables.items() if name != "params"}
        batch = {**batch, "rows": jnp.arange(len(batch["targets"]))}
        outcome, grads = (one if pieces == 1 else many)(variables["params"], state, batch, key)
        return outcome, jax.tree.map(lambda g: g / outcome.loss.weight, grads)

    return value_and_grad


def as_computed(experiment: Experiment, params: Any) -> Any:
    """The parameters in the dtype that the model computes in; a gradient through it is float32."""
    dtype = jnp.dtype(experiment.compute_dtype)
    return jax.tree.map(lambda p: p.astype(dtype), params)


def make_eval_step(experiment: Experiment) -> Callable[[TrainState, Batch], Metrics]:
    """The function (state, batch) -> metrics of a held-out batch, without dropout."""

    def eval_step(state: TrainState, batch: Batch) -> Metrics:
        params = experiment.optimizer.evaluation_params(state.opt_state, state.params)
        variables = {"params": as_computed(experiment, params), **state.model_state}
        outcome = experiment.task.outcome(variables, batch, None)
        return {"loss": outcome.loss, **outcome.metrics}

    return eval_step
