"""Adam-mini's blocks, and when Sophia-G asks for a second gradient."""

import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optim_parity_rows import MINI
from optim_paths import TOLERANCE, VISIBLE, build, distance, only, path, stored

from lmjax.data import Batch
from lmjax.experiment import Experiment
from lmjax.optim import AdamMini, Constant, SophiaG
from lmjax.optim.adam_mini import block_means
from lmjax.parallel import compile_program
from lmjax.parts import replace
from lmjax.rng import key_for
from lmjax.roles import Leaf
from lmjax.step import make_value_and_grad

QUERIES = Leaf((2, 4, 2, 2), ("layers", "embed", "heads", "head_dim"))


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("known", [True, False])
def test_a_query_has_a_second_moment_for_each_head(float64: None, known: bool) -> None:
    """As the authors' code of two heads; when not `known`, one for each output."""
    leaf = QUERIES if known else Leaf(QUERIES.shape, ("layers", "embed", "height", "width"))
    start = {"w": stored()["start"]["squares"].reshape(leaf.shape)}
    gradients = {"w": stored()["gradients"]["squares"].reshape(-1, *leaf.shape)}
    ours = path(build(MINI, {"w": leaf}), start, gradients)["w"].reshape(-1, 2, 4, 4)
    far = distance({"squares": ours}, stored()["adam_mini_heads"])
    assert far < TOLERANCE if known else far > VISIBLE


@pytest.mark.parametrize("axes", [("vocab", "embed"), ("embed", "mlp")])
def test_an_embedding_has_a_second_moment_for_each_row(float64: None, axes: Any) -> None:
    """To the authors it is a matrix whose outputs are its rows: `down`, the other way round."""
    start = {"down": stored()["start"]["down"].T}
    gradients = {"down": stored()["gradients"]["down"].transpose(0, 2, 1)}
    ours = path(build(MINI, {"down": Leaf((3, 7), axes)}), start, gradients)["down"]
    far = distance({"down": ours.transpose(0, 2, 1)}, only(stored()["adam_mini"], "down"))
    assert far < TOLERANCE if axes[0] == "vocab" else far > VISIBLE


@pytest.mark.parametrize(
    ("leaf", "stack"),
    [
        (Leaf((2, 4, 2, 3, 5), ("layers", "embed", "heads", "qkv", "head_dim")), 3),
        (Leaf((2, 4, 2, 2, 5), ("layers", "embed", "kv_heads", "kv", "head_dim")), 2),
    ],
)
def test_values_are_blocks_of_outputs_and_the_rest_of_heads(leaf: Leaf, stack: int) -> None:
    x = np.random.default_rng(0).normal(size=leaf.shape).astype(np.float32)
    means = np.broadcast_to(block_means(leaf, jnp.asarray(x)), x.shape)
    for number in range(stack):
        over = (1,) if number == stack - 1 else (1, 3)
        part = x[:, :, :, number]
        expected = np.broadcast_to(part.mean(over, keepdims=True), part.shape)
        assert np.allclose(means[:, :, :, number], expected, atol=1e-6)
        other = np.broadcast_to(
            part.mean((1, 3) if over == (1,) else (1,), keepdims=True), part.shape
        )
        assert not np.allclose(means[:, :, :, number], other, atol=1e-2)


def test_the_output_of_attention_is_blocks_of_outputs() -> None:
    leaf = Leaf((2, 3, 5), ("heads", "head_dim", "embed"))
    assert block_means(leaf, jnp.zeros(leaf.shape)).shape == (1, 1, 5)


def test_adam_mini_takes_half_of_adamw_s_memory() -> None:
    leaf = Leaf((64, 256), ("embed", "mlp"))
    state = jax.eval_shape(build(AdamMini(), {"w": leaf}).init, {"w": jnp.zeros(leaf.shape)})
    assert sum(x.size for x in jax.tree.leaves(state)) == leaf.size + 256 + 2


@pytest.mark.parametrize(("every", "asked"), [(10, 2), (7, 4), (1, 29)])
def test_sophia_asks_for_a_second_gradient_in_its_own_steps_alone(every: int, asked: int) -> None:
    """Of 30 steps, and not in the first."""
    calls: list[int] = []
    transform = build(SophiaG(refresh_every=every), {"w": Leaf((3, 4), ("embed", "mlp"))})

    def sampled() -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return {"w": jnp.ones((3, 4))}

    oracle = types.SimpleNamespace(sampled_grad=sampled, targets=8.0)

    @jax.jit
    def walk(params: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            params, state = carry
            updates, state = transform.update(params, state, params, oracle=oracle)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, transform.init(params)), length=30)[0]

    jax.block_until_ready(walk({"w": jnp.ones((3, 4))}))
    jax.effects_barrier()
    assert len(calls) == asked


def squared_gradient(
    experiment: Experiment, params: Any, batch: Batch, step: int, drawn: bool
) -> Any:
    """Of the batch, or of it with targets `drawn` as the oracle draws them in this step."""
    key = key_for(0, "labels", jnp.int32(step))

    @jax.jit
    def squares(params: Any) -> Any:
        variables = {"params": params}
        sampled = experiment.task.with_sampled_targets(variables, batch, key)
        given = sampled if drawn else batch
        return jax.tree.map(jnp.square, make_value_and_grad(experiment)(variables, given, key)[1])

    return squares(params)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_sophia_s_curvature_is_of_sampled_targets(tiny_mlp: Experiment, accumulation: int) -> None:
    """In a real step, after the first estimate; those of the data must give another."""
    experiment = replace(tiny_mlp, "optimizer", SophiaG(refresh_every=1, learning_rate=0.01))
    experiment = replace(replace(experiment, "accumulation", accumulation), "schedule", Constant())
    dataset = experiment.load_data()
    batches = [
        jax.tree.map(jnp.asarray, dataset.batch(0, step, experiment.batch_size))
        for step in range(2)
    ]
    program = compile_program(experiment, batches[0])
    state = program.init(program.knobs)
    first, _ = program.train_step(state, program.place(batches[0])[0], None, program.knobs)
    params = jax.tree.map(jnp.array, first.params)
    second, _ = program.train_step(first, program.place(batches[1])[0], None, program.knobs)
    held = second.opt_state["direction"].curvature
    whole = replace(experiment, "accumulation", 1)
    expected, other = (
        squared_gradient(whole, params, batches[1], 1, drawn) for drawn in (True, False)
    )

    def near(squares: Any) -> bool:
        pairs = jax.tree.map(
            lambda h, s: np.allclose(h, 0.01 * s, rtol=1e-3, atol=1e-8), held, squares
        )
        return jax.tree.all(pairs)

    assert near(expected)
    assert not near(other)
