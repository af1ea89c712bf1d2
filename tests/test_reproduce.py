"""Honest runs are reproduced; whatever is planted is named, with its step."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from lmjax import (
    archive,
    environment,
    feed,
    losses,
    platforms,
    replay,
    reproduce,
    step,
    train,
)
from lmjax.archive import open_run
from lmjax.augmentation import ImageAugmentation
from lmjax.console import Console
from lmjax.data import tables
from lmjax.metrics import Mean
from lmjax.models import mlp
from lmjax.optim import Momentum
from lmjax.parts import replace
from lmjax.reproduce import Report
from lmjax.rng import key_for


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_mlp, tiny_gpt) -> dict[str, Path]:
    """Three honest runs: one that was killed after step 9 and resumed from step 5, one with
    dropout and accumulation, and one plain."""
    folder = tmp_path_factory.mktemp("runs")
    found = {name: folder / name for name in ("resumed", "accumulated", "plain")}
    real = train.is_due

    def dies(now: int, every: int, last: int) -> bool:
        if now == 9:
            raise Killed
        return real(now, every, last)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "is_due", dies)
        with pytest.raises(Killed):
            train.run(tiny_mlp, str(found["resumed"]), quiet=True)
    train.run(tiny_mlp, str(found["resumed"]), quiet=True)
    train.run(tiny_mlp, str(found["plain"]), quiet=True)
    accumulated = dataclasses.replace(tiny_gpt, steps=12, accumulation=2)
    accumulated = replace(accumulated, "task.showcase_length", 0)
    train.run(accumulated, str(found["accumulated"]), quiet=True)
    return found


def again(path: Path, **asked: Any) -> Report:
    return reproduce.reproduce(open_run(str(path)), console=Console(quiet=True), **asked)


@pytest.mark.bits
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("plain", "REPRODUCED R3: 12 of 12 steps, 10 of 10 leaves bitwise at 7 of them"),
        ("resumed", "REPRODUCED R4: 12 of 12 steps, 10 of 10 leaves bitwise at 7 of them"),
        ("accumulated", "REPRODUCED R3: 12 of 12 steps, 51 of 51 leaves bitwise at 5 of them"),
    ],
)
def test_an_honest_run_is_reproduced(runs, name, line):
    report = again(runs[name])
    assert report.line == line
    assert report.reproduced
    assert report.record["verdict"] == "reproduced"
    assert report.record["steps_compared"] == 12
    assert report.record["not_as_in_the_run"] == []


def test_a_run_is_reproduced_in_pieces(runs):
    report = again(runs["plain"], start=10)
    assert report.line.startswith("REPRODUCED R3: 2 of 12 steps, 10 of 10 leaves bitwise at 2")
    report = again(runs["plain"], windows=3)
    assert report.record["windows"] == [[0, 2], [10, 12]]
    assert "4 of 12 steps in 2 windows" in report.line


# What is planted: name -> a function of (monkeypatch, the run's experiment) that plants it.


def seed(patch: Any, experiment: Any) -> None:
    patch.setattr(archive, "recorded", lambda run: replace(experiment, "seed", 1))


def data(patch: Any, experiment: Any) -> None:
    """One pixel of the example that stands first in batch 4."""
    real = tables.ArrayTable.gather
    wanted = experiment.load_data().batch(0, 4, 32)["inputs"][0]

    def gather(self: Any, chosen: Any) -> Any:
        inputs, targets = real(self, chosen)
        inputs[(inputs == wanted).all(axis=(1, 2, 3)), 0, 0, 0] += 1
        return inputs, targets

    patch.setattr(tables.ArrayTable, "gather", gather)


def config(patch: Any, experiment: Any) -> None:
    changed = replace(experiment, "task.augmentation", ImageAugmentation(crop_padding=1))
    patch.setattr(archive, "recorded", lambda run: changed)


def init(patch: Any, experiment: Any) -> None:
    patch.setattr(mlp.nn.initializers, "lecun_normal", nn.initializers.he_normal)


def layer(patch: Any, experiment: Any) -> None:
    patch.setattr(mlp.nn, "relu", nn.silu)


def flag(patch: Any, experiment: Any) -> None:
    fast = platforms.Setting("cpu", "compiler", "xla_cpu_enable_fast_math", True, "", "")
    patch.setattr(platforms, "SETTINGS", (*platforms.SETTINGS, fast))


def cores(patch: Any, experiment: Any) -> None:
    patch.setattr(environment, "visible_cores", lambda: list(range(64)))
    gradient(patch, experiment)


def reduction(patch: Any, experiment: Any) -> None:
    def turned(logits: Any, targets: Any, weights: Any) -> Mean:
        moved = [jnp.roll(x, 7, axis=0) for x in (logits, targets, weights)]
        return losses.cross_entropy(*moved)

    patch.setattr("lmjax.tasks.base.cross_entropy", turned)


def gradient(patch: Any, experiment: Any) -> None:
    """Bit 20 of the largest number of the gradient of step 7, by a program that nobody digests."""
    real, evaluate = reproduce.compile_program, step.make_value_and_grad

    def flips(*args: Any) -> Any:
        inner = evaluate(*args)

        def flipped(*args: Any) -> Any:
            outcome, grads = inner(*args)
            kernel = grads["head"]["kernel"]
            largest = jnp.unravel_index(jnp.argmax(abs(kernel)), kernel.shape)
            bits = jax.lax.bitcast_convert_type(kernel, jnp.uint32).at[largest].apply(_flip)
            head = {**grads["head"], "kernel": jax.lax.bitcast_convert_type(bits, jnp.float32)}
            return outcome, {**grads, "head": head}

        return flipped

    def compile_program(*args: Any) -> Any:
        program = real(*args)
        with patch.context() as inside:
            inside.setattr(step, "make_value_and_grad", flips)
            other = real(*args)
            other.trace_step()

        def train_step(state: Any, *rest: Any) -> Any:
            chosen = other if int(state.step) == 6 else program
            return chosen.train_step(state, *rest)

        return program._replace(train_step=train_step)

    patch.setattr(reproduce, "compile_program", compile_program)


def _flip(x: Any) -> Any:
    return x ^ jnp.uint32(1 << 20)


def hyper_parameter(patch: Any, experiment: Any) -> None:
    def direction(self: Any, roles: Any) -> Any:
        return optax.trace(self.momentum, nesterov=True)

    patch.setattr(Momentum, "direction", direction)


def dropout_key(patch: Any, experiment: Any) -> None:
    def late(seed: Any, purpose: Any, now: Any = 0) -> Any:
        return key_for(seed, purpose, now + 1 if purpose == "dropout" else now)

    patch.setattr(step, "key_for", late)


def position(patch: Any, experiment: Any) -> None:
    """From step 6 on, each step is given the batch of the next one."""

    def ahead(*args: Any) -> Any:
        fed = list(feed.feed(*args))
        first = args[-1]
        yield from (x for number, x in enumerate(fed, first) if number != 5)

    patch.setattr(replay, "feed", ahead)


def dtype(patch: Any, experiment: Any) -> None:
    def half(_: Any, params: Any) -> Any:
        return jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)

    patch.setattr(step, "as_computed", half)


def chance(patch: Any, experiment: Any) -> None:
    """A step that never gives the same twice, from step 4 on."""
    real, random = reproduce.compile_program, np.random.default_rng()

    def compile_program(*args: Any) -> Any:
        program = real(*args)

        def train_step(state: Any, *rest: Any) -> Any:
            after, metrics = program.train_step(state, *rest)
            noise = 1 + random.normal() if int(after.step) >= 4 else 1.0
            return after, metrics * jnp.float32(noise)

        return program._replace(train_step=train_step)

    patch.setattr(reproduce, "compile_program", compile_program)


PLANTS: list[tuple[Callable[..., None], str, str, int, str]] = [
    (seed, "plain", "seed", 0, "0 in the run, 1 here"),
    (data, "plain", "data", 5, "said to be the same"),
    (config, "plain", "config", 1, "task.augmentation"),
    (init, "plain", "init", 0, "params/head/kernel (2 of 10 leaves differ)"),
    (layer, "plain", "layer code", 1, "forward of Perceptron"),
    (flag, "plain", "flag or version", 0, "xla_cpu_enable_fast_math none, now True"),
    (cores, "plain", "cores", 7, "visible cores"),
    (reduction, "plain", "reduction order", -1, "as by rounding"),
    (gradient, "resumed", "gradient bit", 7, "the same program"),
    (hyper_parameter, "plain", "optimizer hyper-parameter", 1, "update"),
    (dropout_key, "accumulated", "dropout key", 1, "prepare"),
    (position, "plain", "data position", 6, "the run had batch 5"),
    (dtype, "plain", "dtype", 1, "float32 in the run, bfloat16"),
    (chance, "plain", "nondeterminism", 4, "something else"),
]


@pytest.mark.parametrize(
    ("plant", "name", "cause", "at", "told"), PLANTS, ids=[plant[0].__name__ for plant in PLANTS]
)
def test_what_is_planted_is_named_with_its_step(runs, monkeypatch, plant, name, cause, at, told):
    experiment = archive.recorded(str(runs[name]))
    plant(monkeypatch, experiment)
    report = again(runs[name])
    assert not report.reproduced
    found = report.record
    assert (found["verdict"], found["cause"]) == ("diverged", cause)
    assert found["step"] == at or at < 0
    assert report.line.startswith(f"DIVERGED at step {found['step']}: ")
    assert told in found["because"]
    assert report.line.endswith(f"-> {cause}: {found['because']}")
    assert found["steps_compared"] == max(found["step"] - 1, 0)
    assert found["repeats"] == (cause != "nondeterminism")
    json.dumps(found)
