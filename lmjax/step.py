"""The train step and the evaluation step: pure functions of arrays, with no I/O and no mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from lmjax.data import Batch
from lmjax.experiment import Experiment
from lmjax.finite import take_or_skip
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
    targets: Array  # [], how many this batch has, or their weight: what losses are means over


@runtime_checkable
class Split(Protocol):
    """How the rows of a batch are shared out while something is computed of them.

    `shared` is what a function takes beside rows: the same for all of them.
    """

    def rows(self, function: Callable[[Any, Batch], Batch], shared: Any, batch: Batch) -> Batch:
        """The rows that the function makes of rows."""
        ...

    def sums(
        self, function: Callable[[Any, Batch], tuple[Any, Variables]], shared: Any, batch: Batch
    ) -> tuple[Any, Variables]:
        """(sums over rows, model state after them), of a function that returns these of rows."""
        ...

    def apart(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of what is the same for all rows, in bits that hang on nothing around it."""
        ...


class Whole:
    """The Split that is none: all rows at once."""

    def rows(self, function: Callable[[Any, Batch], Batch], shared: Any, batch: Batch) -> Batch:
        return function(shared, batch)

    def sums(
        self, function: Callable[[Any, Batch], tuple[Any, Variables]], shared: Any, batch: Batch
    ) -> tuple[Any, Variables]:
        return function(shared, batch)

    def apart(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function


WHOLE = Whole()
TrainStep = Callable[[TrainState, Batch, Batch | None, Knobs], tuple[TrainState, Metrics]]


def build_optimizer(
    experiment: Experiment, roles: Roles, learning_rate: float | Array
) -> optax.GradientTransformationExtraArgs:
    """The optax chain of an experiment, with the rate as an argument so that it can be traced."""
    return experiment.optimizer.build(
        roles, learning_rate, lambda count: experiment.schedule.factor(count, experiment.steps)
    )


def make_train_step(experiment: Experiment, roles: Roles, split: Split = WHOLE) -> TrainStep:
    """The function (state, batch, previous batch or None, knobs) -> (state, metrics).

    `previous` is None unless the optimizer asks for it by `needs_previous_batch`.
    """
    task, evaluate = experiment.task, make_value_and_grad(experiment, split)

    def train_step(
        state: TrainState, batch: Batch, previous: Batch | None, knobs: Knobs
    ) -> tuple[TrainState, Metrics]:
        optimizer = build_optimizer(experiment, roles, knobs.learning_rate)
        key = key_for(knobs.seed, "dropout", state.step)

        def augmented(batch: Batch, step: Array) -> Batch:
            augment_key = key_for(knobs.seed, "augment", step)
            return split.rows(lambda key, b: task.augment(b, key), augment_key, numbered(batch))

        batch = augmented(batch, state.step)
        if previous is not None:
            previous = augmented(previous, jnp.maximum(state.step - 1, 0))

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
            shared = variables, key_for(knobs.seed, "labels", state.step)
            return at(
                state.params,
                split.rows(lambda s, b: task.with_sampled_targets(s[0], b, s[1]), shared, batch),
            )[1]

        def updated(loss: Array, grads: Any) -> tuple[Any, Any, Array]:
            updates, opt_state = optimizer.update(
                grads,
                state.opt_state,
                state.params,
                value=loss,
                grad=grads,
                value_fn=value_fn,
                oracle=Oracle(
                    value_and_grad,
                    lambda params: value_and_grad(params, previous),
                    sampled_grad,
                    outcome.loss.weight,
                ),
            )
            return optax.apply_updates(state.params, updates), opt_state, optax.tree.norm(grads)

        params, opt_state, norm = split.apart(updated)(loss, grads)
        metrics = {"loss": outcome.loss, **outcome.metrics, "grad_norm": Mean(norm, jnp.float32(1))}
        after = TrainState(state.step + 1, params, outcome.model_state, opt_state)
        if experiment.on_nonfinite == "skip":
            return split.apart(take_or_skip)(state, after, grads, metrics)
        return after, metrics

    return train_step


def make_value_and_grad(
    experiment: Experiment, split: Split = WHOLE
) -> Callable[[Variables, Batch, PRNGKeyArray], tuple[Outcome, Any]]:
    """(variables, batch, dropout key) -> (outcome, gradient of the mean loss, like the params).

    The sum of the loss over micro-batches is differentiated and divided by the whole weight at the
    end, so accumulation changes no target's share. Gradients are float32, as the master copy is.
    """
    pieces = experiment.accumulation

    def one(
        params: Any, state: Variables, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Any, Variables]:
        def total(params: Any) -> tuple[Array, Outcome]:
            variables = {"params": as_computed(experiment, params), **state}
            outcome = experiment.task.outcome(variables, batch, key)
            return outcome.loss.total, outcome

        (_, outcome), grads = jax.value_and_grad(total, has_aux=True)(params)
        return (outcome.loss, outcome.metrics, grads), outcome.model_state

    def many(
        params: Any, state: Variables, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Any, Variables]:
        # Rows i, i + pieces, ... make micro-batch i, so that a batch that is sharded over devices
        # by rows leaves each device its share of every micro-batch.
        micro = jax.tree.map(lambda x: x.reshape(-1, pieces, *x.shape[1:]), batch)

        def piece(state: Variables, number: Any) -> tuple[Any, Variables]:
            return one(params, state, jax.tree.map(lambda x: x[:, number], micro), key)

        def body(carry: Any, number: Any) -> tuple[Any, None]:
            sums, state = piece(carry[1], number)
            return (jax.tree.map(jnp.add, carry[0], sums), state), None

        shapes = jax.eval_shape(piece, state, 0)[0]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(body, (zeros, state), jnp.arange(pieces))[0]

    def summed(shared: Any, batch: Batch) -> tuple[Any, Variables]:
        variables, key = shared
        state = {name: value for name, value in variables.items() if name != "params"}
        return (one if pieces == 1 else many)(variables["params"], state, batch, key)

    def value_and_grad(
        variables: Variables, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Outcome, Any]:
        sums, state = split.sums(summed, (variables, key), numbered(batch))
        loss, metrics, grads = sums
        return Outcome(loss, metrics, state), jax.tree.map(lambda g: g / loss.weight, grads)

    return value_and_grad


def numbered(batch: Batch) -> Batch:
    """With the number of each row, by which models drop out and images are augmented."""
    return {**batch, "rows": jnp.arange(len(batch["targets"]))}


def as_computed(experiment: Experiment, params: Any) -> Any:
    """The parameters in the dtype that the model computes in; a gradient through it is float32."""
    dtype = jnp.dtype(experiment.compute_dtype)
    return jax.tree.map(lambda p: p.astype(dtype), params)


def make_eval_step(
    experiment: Experiment, split: Split = WHOLE
) -> Callable[[TrainState, Batch], Metrics]:
    """The function (state, batch) -> metrics of a held-out batch, without dropout."""

    def summed(variables: Variables, batch: Batch) -> tuple[Metrics, Variables]:
        variables = {**variables, "params": as_computed(experiment, variables["params"])}
        outcome = experiment.task.outcome(variables, batch, None)
        return {"loss": outcome.loss, **outcome.metrics}, {}

    def eval_step(state: TrainState, batch: Batch) -> Metrics:
        params = experiment.optimizer.evaluation_params(state.opt_state, state.params)
        return split.sums(summed, {"params": params, **state.model_state}, batch)[0]

    return eval_step
