"""No way of computing a step changes what is computed: 20 steps of each beside the plain one."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.experiment import Experiment
from lmjax.metrics import unpack, values
from lmjax.models import GPT
from lmjax.optim import AdamW, Constant
from lmjax.parallel import compile_program
from lmjax.parts import replace
from lmjax.tasks import LanguageModel

STEPS = 20
LOSS, LEAF = 2e-6, 2e-4  # largest relative differences after all steps, in float32
PLAIN = {"task.cross_entropy": "plain", "task.model.attention": "xla"}
MODES: dict[str, dict[str, Any]] = {
    "chunked": {"task.cross_entropy": "chunked", "task.loss_chunk": 24},
    "one-pass": {"task.cross_entropy": "one-pass", "task.loss_chunk": 40},
    "one chunk": {"task.cross_entropy": "one-pass"},
    "unrolled": {"task.model.unroll": 2},
    "remat dots": {"task.model.remat": "dots"},
    "remat full": {"task.model.remat": "full"},
    "remat, unrolled": {"task.model.remat": "full", "task.model.unroll": 2},
    "accumulated": {"accumulation": 4},
    "virtual shards": {"parallel.virtual_shards": 4},
    "all at once": {
        "accumulation": 2,
        "task.cross_entropy": "one-pass",
        "task.loss_chunk": 24,
        "task.model.remat": "dots",
    },
}


@pytest.fixture(scope="module")
def experiment(tiny_gpt) -> Experiment:
    """With dropout, clipping, decay, z-loss and capped logits; eps keeps Adam's quotient tame."""
    model = GPT(depth=2, width=16, heads=2, max_length=16, dropout=0.1, logit_cap=20.0)
    return dataclasses.replace(
        tiny_gpt,
        task=LanguageModel(model=model, z_loss=1e-3),
        optimizer=AdamW(learning_rate=1e-2, weight_decay=0.1, clip_norm=1.0, eps=1e-3),
        schedule=Constant(),
    )


def train(experiment: Experiment, changes: dict[str, Any]) -> tuple[list[float], Any]:
    """(loss of each step, the last parameters)."""
    for path, value in (PLAIN | changes).items():
        experiment = replace(experiment, path, value)
    dataset, losses = experiment.data.load(), []
    batches = [dataset.batch(0, t, experiment.batch_size) for t in range(STEPS)]
    program = compile_program(experiment, batches[0])
    state = program.init(program.knobs)
    for batch in batches:
        state, metrics = program.train_step(state, program.place(batch)[0], None, program.knobs)
        losses.append(values(unpack(program.metric_names, metrics))["loss"])
    return losses, jax.device_get(state.params)


def far(one: Any, two: Any) -> float:
    """Largest difference of a leaf, relative to its largest element."""
    apart = jax.tree.map(lambda a, b: np.abs(a - b).max() / np.abs(b).max(), one, two)
    return max(jax.tree.leaves(apart))


@pytest.fixture(scope="module")
def plain(experiment) -> tuple[list[float], Any]:
    return train(experiment, {})


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_gives_the_plain_run(experiment, plain, mode):
    losses, params = train(experiment, MODES[mode])
    assert max(abs(a - b) / b for a, b in zip(losses, plain[0], strict=True)) < LOSS
    assert far(params, plain[1]) < LEAF


def test_the_tolerance_would_see_a_mode_that_is_none(experiment, plain):
    """Negative control: the z-loss a little larger, and dropout by another seed."""
    for change in ({"task.z_loss": 1.1e-3}, {"task.model.dropout": 0.1001}):
        losses, params = train(experiment, change)
        assert max(abs(a - b) / b for a, b in zip(losses, plain[0], strict=True)) > LOSS
        assert far(params, plain[1]) > LEAF


def test_one_document_a_row_is_what_packing_makes_of_it(experiment):
    """Segments that are all alike and positions that are the row's change nothing."""
    task, dataset = experiment.task, experiment.data.load()
    batch = jax.tree.map(jnp.asarray, dataset.batch(0, 0, 4))
    shape = batch["inputs"].shape
    packed = {
        **batch,
        "segments": jnp.ones(shape, jnp.int32),
        "positions": jnp.broadcast_to(jnp.arange(shape[1]), shape),
    }
    program = compile_program(experiment, batch)
    variables = {"params": program.init(program.knobs).params}
    outcome = jax.jit(lambda batch: task.outcome(variables, batch, None).loss.total)
    assert np.allclose(outcome(batch), outcome(packed), rtol=1e-6)
    apart = {**packed, "segments": packed["positions"]}
    assert not np.allclose(outcome(batch), outcome(apart), rtol=1e-6)
