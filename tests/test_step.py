"""The train step: accumulation, precision, keys, donation, and what optimizers may ask of it."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmjax.data import Batch
from lmjax.experiment import Experiment
from lmjax.metrics import unpack, values
from lmjax.optim import SGD, Constant, Optimizer
from lmjax.parallel import Program, compile_program
from lmjax.rng import key_for
from lmjax.state import TrainState
from lmjax.step import make_value_and_grad


def start(experiment: Experiment, seed: int = 0) -> tuple[Program, TrainState, list[Batch]]:
    dataset = experiment.data.load()
    batches = [dataset.batch(seed, step, experiment.batch_size) for step in range(4)]
    program = compile_program(dataclasses.replace(experiment, seed=seed), batches[0])
    return program, program.init(program.knobs), [program.place(batch)[0] for batch in batches]


def gradient(experiment: Experiment, key_seed: int = 0):
    program, state, batches = start(experiment)
    evaluate = make_value_and_grad(experiment)
    variables = {"params": state.params, **state.model_state}
    return jax.jit(evaluate)(variables, batches[0], key_for(key_seed, "dropout"))


def close(a: Any, b: Any, tolerance: float) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.allclose(x, y, atol=tolerance, rtol=0), a, b))


def without_dropout(experiment: Experiment) -> Experiment:
    task = experiment.task
    model = dataclasses.replace(task.model, dropout=0.0)
    return dataclasses.replace(experiment, task=dataclasses.replace(task, model=model))


def test_accumulation_changes_neither_gradient_nor_metrics(tiny_gpt):
    plain = without_dropout(tiny_gpt)
    outcome, grads = gradient(plain)
    for pieces in (2, 8):
        pieced, pieced_grads = gradient(dataclasses.replace(plain, accumulation=pieces))
        assert close(grads, pieced_grads, 1e-6)
        assert close((outcome.loss, outcome.metrics), (pieced.loss, pieced.metrics), 1e-3)
    assert not close(grads, jax.tree.map(lambda g: g * 1.001, grads), 1e-6)


def test_targets_weigh_the_same_in_every_micro_batch(tiny_mlp):
    """Rows of unequal weight: the mean over the batch, not a mean of the micro-batches' means."""
    program, state, batches = start(tiny_mlp)
    batch = {**batches[0], "weights": batches[0]["weights"].at[:20].set(0.0)}

    def grads_of(experiment):
        evaluate = make_value_and_grad(experiment)
        return jax.jit(evaluate)({"params": state.params}, batch, key_for(0, "dropout"))[1]

    plain = grads_of(tiny_mlp)
    assert close(plain, grads_of(dataclasses.replace(tiny_mlp, accumulation=4)), 1e-6)
    assert not close(plain, gradient(tiny_mlp)[1], 1e-6)


def test_bfloat16_computes_beside_a_float32_master(tiny_gpt):
    low = dataclasses.replace(without_dropout(tiny_gpt), compute_dtype="bfloat16")
    outcome, grads = gradient(low)
    assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    assert close(grads, gradient(without_dropout(tiny_gpt))[1], 0.02)
    program, state, batches = start(low)
    state, _ = program.train_step(state, batches[0], None, program.knobs)
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    text = (
        jax.jit(make_value_and_grad(low))
        .lower({"params": state.params}, batches[0], key_for(0, "dropout"))
        .as_text()
    )
    dots = [line for line in text.splitlines() if "dot_general" in line]
    assert dots
    assert all("bf16" in line for line in dots)


def test_dropout_follows_seed_and_step(tiny_gpt):
    one, again = gradient(tiny_gpt)[1], gradient(tiny_gpt)[1]
    assert close(one, again, 0)
    assert not close(one, gradient(tiny_gpt, key_seed=1)[1], 1e-6)
    program, state, batches = start(tiny_gpt)
    keys = {
        bytes(np.asarray(jax.random.key_data(key_for(seed, purpose, step))))
        for seed in (0, 1)
        for purpose in ("init", "dropout")
        for step in (0, 1)
    }
    assert len(keys) == 8


def test_the_whole_state_is_donated(tiny_gpt):
    program, state, batches = start(tiny_gpt)
    lowered = program.train_step.lower(state, batches[0], None, program.knobs)
    memory = lowered.compile().memory_analysis()
    assert memory.alias_size_in_bytes == sum(x.nbytes for x in jax.tree.leaves(state))
    old = jax.tree.leaves(state.params)[0]
    program.train_step(state, batches[0], None, program.knobs)
    assert old.is_deleted()


def test_one_compiled_step_serves_every_seed_and_rate(tiny_mlp):
    program, state, batches = start(tiny_mlp)
    knobs = jax.device_put(
        program.knobs._replace(learning_rate=jnp.float32(0.05), seed=jnp.uint32(9)),
        program.knobs.seed.sharding,
    )
    for step, use in enumerate([program.knobs, knobs, program.knobs]):
        state, _ = program.train_step(state, batches[step], None, use)
    assert program.train_step._cache_size() == 1


# What an optimizer may ask for, each by a method that needs it.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharpnessAware(Optimizer):
    """SAM (arXiv 2010.01412): the gradient at the worst point of a small ball."""

    label: ClassVar[str] = "test-sam"
    radius: float = 0.05

    def direction(self, roles):
        def update(grads, state, params=None, *, oracle, **extra):
            norm = optax.tree.norm(grads)
            worst = jax.tree.map(lambda p, g: p + self.radius * g / norm, params, grads)
            return oracle.value_and_grad(worst)[1], state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corrected(Optimizer):
    """MARS' correction (arXiv 2411.10438) in its exact form: the old batch at today's params."""

    label: ClassVar[str] = "test-mars"
    needs_previous_batch: ClassVar[bool] = True

    def direction(self, roles):
        def update(grads, state, params=None, *, oracle, **extra):
            _, before = oracle.previous_value_and_grad(params)
            return jax.tree.map(lambda g, b: g + 0.5 * (g - b), grads, before), state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussNewton(Optimizer):
    """The square of a gradient under sampled labels, as Sophia-G's curvature (arXiv 2305.14342)."""

    label: ClassVar[str] = "test-sampled"

    def direction(self, roles):
        def update(grads, state, params=None, *, oracle, **extra):
            return oracle.sampled_grad(), state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineSearch(Optimizer):
    """optax's L-BFGS, which asks for value, gradient and a function to search along."""

    label: ClassVar[str] = "test-lbfgs"

    def build(self, roles, learning_rate, factor):
        return optax.lbfgs()

    def direction(self, roles):
        raise AssertionError("the whole chain is optax's")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Averaged(SGD):
    """Evaluates at a running average, as schedule-free methods and EMA do."""

    label: ClassVar[str] = "test-average"

    def build(self, roles, learning_rate, factor):
        chain = super().build(roles, learning_rate, factor)

        def init(params):
            return {"chain": chain.init(params), "mean": params}

        def update(grads, state, params=None, **extra):
            updates, inner = chain.update(grads, state["chain"], params, **extra)
            mean = jax.tree.map(lambda m, p, u: (m + p + u) / 2, state["mean"], params, updates)
            return updates, {"chain": inner, "mean": mean}

        return optax.GradientTransformationExtraArgs(init, update)

    def evaluation_params(self, opt_state, params):
        return opt_state["mean"]


def with_optimizer(experiment: Experiment, optimizer: Optimizer) -> Experiment:
    return dataclasses.replace(experiment, optimizer=optimizer, schedule=Constant())


def moved(experiment: Experiment, previous: int | None = None) -> Any:
    """Minus the change of the parameters in the first step, over the rate: the direction."""
    program, state, batches = start(experiment)
    before = jax.tree.map(np.array, state.params)
    previous_batch = None if previous is None else batches[previous]
    state, _ = program.train_step(state, batches[0], previous_batch, program.knobs)
    rate = experiment.optimizer.learning_rate
    return jax.tree.map(lambda b, a: (b - a) / rate, before, state.params)


def loss_gradient(experiment: Experiment, params: Any, batch: Batch) -> Any:
    """jax.grad of the mean loss, without anything of step.py."""

    def loss(params):
        outcome = experiment.task.outcome({"params": params}, batch, key_for(0, "dropout"))
        return outcome.loss.total / outcome.loss.weight

    return jax.grad(loss)(params)


def test_a_gradient_at_other_parameters(tiny_mlp):
    experiment = with_optimizer(tiny_mlp, SharpnessAware(learning_rate=0.01))
    program, state, batches = start(experiment)
    plain = loss_gradient(experiment, state.params, batches[0])
    norm = optax.tree.norm(plain)
    worst = jax.tree.map(lambda p, g: p + 0.05 * g / norm, state.params, plain)
    assert close(moved(experiment), loss_gradient(experiment, worst, batches[0]), 1e-4)
    assert not close(moved(experiment), plain, 1e-4)


def test_a_gradient_on_the_previous_batch(tiny_mlp):
    experiment = with_optimizer(tiny_mlp, Corrected(learning_rate=0.01))
    program, state, batches = start(experiment)
    now, before = (loss_gradient(experiment, state.params, batches[i]) for i in (0, 2))
    exact = jax.tree.map(lambda g, b: 1.5 * g - 0.5 * b, now, before)
    assert close(moved(experiment, previous=2), exact, 1e-4)
    assert not close(moved(experiment, previous=1), exact, 1e-4)


def test_a_gradient_under_sampled_labels(tiny_mlp):
    experiment = with_optimizer(tiny_mlp, GaussNewton(learning_rate=0.01))
    program, state, batches = start(experiment)
    logits = experiment.task.module().apply({"params": state.params}, batches[0]["inputs"])
    rows = [jax.random.fold_in(key_for(0, "labels", 0), row) for row in range(len(logits))]
    labels = jnp.stack([jax.random.categorical(*row) for row in zip(rows, logits, strict=True)])
    sampled = {**batches[0], "targets": labels}
    assert close(moved(experiment), loss_gradient(experiment, state.params, sampled), 1e-4)
    assert not close(moved(experiment), loss_gradient(experiment, state.params, batches[0]), 1e-4)


def test_a_line_search_falls_faster_than_gradient_descent(tiny_mlp):
    def losses(optimizer):
        program, state, batches = start(with_optimizer(tiny_mlp, optimizer))
        told = []
        for _ in range(10):
            state, metrics = program.train_step(state, batches[0], None, program.knobs)
            told.append(values(unpack(program.metric_names, metrics))["loss"])
        return told

    searched = losses(LineSearch())
    assert np.all(np.diff(searched) < 0)
    assert searched[-1] < 0.3 * losses(SGD(learning_rate=0.1))[-1]


def test_evaluation_happens_where_the_optimizer_says(tiny_mlp):
    experiment = with_optimizer(tiny_mlp, Averaged(learning_rate=0.1))
    program, state, batches = start(experiment)
    for batch in batches[:3]:
        state, _ = program.train_step(state, batch, None, program.knobs)
    told = program.eval_step(state, batches[3])["loss"].total
    at = {
        name: experiment.task.outcome({"params": params}, batches[3], None).loss.total
        for name, params in [("mean", state.opt_state["mean"]), ("last", state.params)]
    }
    assert np.allclose(told, at["mean"], rtol=1e-6)
    assert not np.allclose(told, at["last"], rtol=1e-6)
