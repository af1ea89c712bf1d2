"""Statistics of BatchNorm through a run: moved, used, saved, resumed, and over all devices."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import train
from lmjax.augmentation import ImageAugmentation
from lmjax.experiment import Experiment
from lmjax.load import load
from lmjax.metrics import unpack, values
from lmjax.models import ResNet
from lmjax.models.resnet import batch_norm
from lmjax.parallel import compile_program
from lmjax.state import state_digest
from lmjax.tasks import Classification

ROOT = Path(__file__).parents[1]
VISIBLE = 1e-2  # what a wrong model must exceed
TINY = ResNet(blocks=(2,), width=4)


def test_running_statistics_of_four_numbers():
    """Flax's variance is the biased one: 0.9 + 0.1 * 1.25; torch's would give 1.0667."""
    x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1, 1)
    norm = batch_norm(ResNet(), True, "norm")
    _, updated = norm.apply(norm.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    assert float(updated["batch_stats"]["var"][0]) == pytest.approx(1.025, abs=1e-6)
    assert float(updated["batch_stats"]["mean"][0]) == pytest.approx(0.25, abs=1e-6)


@pytest.fixture
def tiny(tiny_mlp) -> Experiment:
    """A ResNet of two blocks on digits whose images move, 12 steps of 32."""
    moved = ImageAugmentation(crop_padding=1)
    return dataclasses.replace(tiny_mlp, task=Classification(model=TINY, augmentation=moved))


def plain(experiment: Experiment) -> Experiment:
    return dataclasses.replace(experiment, task=Classification(model=TINY))


def one_step(experiment: Experiment) -> tuple[Any, Any, Any, Any]:
    """(program, batch on the host, state before, state after) of the first step."""
    batch = experiment.data.load().batch(0, 0, experiment.batch_size)
    program = compile_program(experiment, batch)
    before = program.init(program.knobs)
    held = jax.tree.map(np.array, before)  # the step gives its memory away
    after, _ = program.train_step(before, *program.place(batch), None, program.knobs)
    return program, batch, held, after


def stem_mean(state: Any, inputs: np.ndarray) -> np.ndarray:
    """Mean of the first convolution, as 9 products of shifted images."""
    padded = np.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    kernel = np.asarray(state.params["stem"]["kernel"])
    return np.einsum("nyxihw,hwio->nyxo", windows, kernel).mean((0, 1, 2))


@pytest.mark.parametrize("pieces", [1, 2])
def test_training_moves_the_running_statistics(tiny, pieces):
    """By a tenth of the way to those of each micro-batch, one after another."""
    experiment = dataclasses.replace(plain(tiny), accumulation=pieces)
    _, batch, before, after = one_step(experiment)
    expected = np.zeros(TINY.width)
    for piece in range(pieces):
        expected = 0.9 * expected + 0.1 * stem_mean(before, batch["inputs"][piece::pieces])
    told = after.model_state["batch_stats"]["stem_norm"]["mean"]
    assert np.allclose(told, expected, atol=1e-6)
    assert not np.allclose(told, 0.1 * stem_mean(before, batch["inputs"][:16]), atol=1e-6)


def test_evaluation_uses_the_running_statistics(tiny):
    program, batch, before, after = one_step(plain(tiny))
    [placed] = program.place(batch)
    tree = {"params": after.params, **after.model_state}
    logits = np.asarray(TINY.build().apply(tree, placed["inputs"]), np.float64)
    chosen = logits[np.arange(32), batch["targets"]]
    expected = float(np.sum(np.log(np.exp(logits).sum(1)) - chosen))
    told = [
        float(program.eval_step(state, placed)["loss"].total)
        for state in (after, dataclasses.replace(after, model_state=before.model_state))
    ]
    assert told[0] == pytest.approx(expected, rel=1e-5)
    assert told[1] != pytest.approx(expected, rel=1e-3)


def test_statistics_are_float32_whatever_the_model_computes_in(tiny):
    rough = dataclasses.replace(plain(tiny), compute_dtype="bfloat16")
    exact = one_step(plain(tiny))[3].model_state["batch_stats"]
    _, _, before, after = one_step(rough)
    rounded = after.model_state["batch_stats"]
    assert {x.dtype for x in jax.tree.leaves(rounded)} == {jnp.dtype("float32")}
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), exact, rounded)
    assert 0 < max(jax.tree.leaves(apart)) < 2e-2
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), before.params)
    x = jnp.ones((2, 8, 8, 1), jnp.bfloat16)
    logits = jax.eval_shape(TINY.build().apply, {"params": params, "batch_stats": rounded}, x)
    assert logits.dtype == jnp.bfloat16


@pytest.mark.bits
@pytest.mark.smoke
def test_a_run_resumed_with_its_statistics_ends_with_the_same_bits(tiny, tmp_path, monkeypatch):
    def run(name: str, steps: int) -> str:
        shorter = dataclasses.replace(tiny, steps=steps)
        return train.run(shorter, str(tmp_path / name), quiet=True)["state_digest"]

    unbroken = run("unbroken", 12)
    assert state_digest(load(str(tmp_path / "unbroken")).state) == unbroken
    for name in ("resumed", "forgetful"):
        run(name, 5)
    assert run("resumed", 12) == unbroken
    real = train.restore

    def forgets(*arguments: Any) -> Any:
        state = real(*arguments)
        return dataclasses.replace(
            state, model_state=jax.tree.map(jnp.zeros_like, state.model_state)
        )

    monkeypatch.setattr(train, "restore", forgets)
    with jax.transfer_guard_host_to_device("allow"):
        assert run("forgetful", 12) != unbroken


def test_it_learns_one_batch_by_heart(tiny):
    wider = Classification(model=dataclasses.replace(TINY, width=16))
    experiment = dataclasses.replace(tiny, task=wider)
    batch = experiment.data.load().batch(0, 0, 32)
    program = compile_program(experiment, batch)
    state = program.init(program.knobs)
    losses = []
    for _ in range(60):
        state, metrics = program.train_step(state, *program.place(batch), None, program.knobs)
        losses.append(values(unpack(program.metric_names, metrics))["loss"])
    assert losses[0] > 2
    assert losses[-1] < 0.05


DEVICES = """
import json
import jax, jax.numpy as jnp, numpy as np
from lmjax import overrides
from experiments import digits_fcn
from lmjax.cli import parse_value
from lmjax.mesh import make_mesh
from lmjax.models import ResNet
from lmjax.metrics import unpack, values
from lmjax.parallel import compile_program

words = "task.model:resnet --task.model.blocks 1 --task.model.width 4 --batch-size 32"
experiment = overrides.apply(digits_fcn.config(), words.split(), parse_value)
dataset = experiment.data.load()
batches = [dataset.batch(0, t, 32) for t in range(5)]
states, losses = [], []
for devices in (1, 8):
    mesh = make_mesh(experiment.parallel, jax.devices()[:devices])
    program = compile_program(experiment, batches[0], mesh)
    state = start = program.init(program.knobs)
    start = jax.device_get({"params": state.params, **state.model_state})
    for [batch] in map(program.place, batches):
        state, metrics = program.train_step(state, batch, None, program.knobs)
    states.append(jax.device_get((state.params, state.model_state)))
    losses.append(values(unpack(program.metric_names, metrics))["loss"])
apart = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), *states)

@jax.jit
def logits(images):
    return experiment.task.module().apply(start, images, train=True, mutable=["batch_stats"])[0]

images = jnp.asarray(batches[0]["inputs"])
each_alone = jax.vmap(logits)(images.reshape(8, 4, 8, 8, 1)).reshape(32, -1)
print(json.dumps({"devices": len({s.device for s in batch["inputs"].addressable_shards}),
                  "losses": losses, "largest": max(jax.tree.leaves(apart)),
                  "alone": float(jnp.abs(logits(images) - each_alone).max())}))
"""


def test_statistics_are_over_the_whole_batch_on_one_device_and_on_eight(eight_devices):
    told, _ = eight_devices(DEVICES)
    assert told["devices"] == 8
    assert abs(told["losses"][0] - told["losses"][1]) < 2e-5
    assert told["largest"] < 2e-5
    assert told["alone"] > VISIBLE  # statistics of each device's own rows are another net
