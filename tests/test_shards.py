"""What virtual shards compute, say and refuse; their bits are in test_shards_bits.py."""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import cli, platforms, shards
from lmjax.errors import FieldError
from lmjax.experiment import Experiment, run_digest
from lmjax.mesh import Parallel, shapes_only_mesh
from lmjax.metrics import unpack, values
from lmjax.models import ResNet
from lmjax.parallel import abstract_state, check_divides, compile_program
from lmjax.parts import replace, validate
from lmjax.summary import promise
from lmjax.tasks import Classification


def one_step(experiment: Experiment) -> tuple[Any, Any, Any]:
    """(loss, parameters, model state) after the first step."""
    batch = experiment.data.load().batch(0, 0, experiment.batch_size)
    program = compile_program(experiment, batch)
    state = program.init(program.knobs)
    state, packed = program.train_step(state, *program.place(batch), None, program.knobs)
    loss = values(unpack(program.metric_names, packed))["loss"]
    return loss, jax.device_get(state.params), jax.device_get(state.model_state)


def far(one: Any, two: Any) -> float:
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), one, two)))


def test_each_shard_has_its_own_batch_statistics(tiny_mlp):
    """Beside each shard as a batch of its own: the mean gradient, the mean running statistics."""
    net = dataclasses.replace(tiny_mlp, task=Classification(model=ResNet(blocks=(1,), width=4)))
    whole = one_step(net)
    ghost = one_step(replace(net, "parallel.virtual_shards", 2))
    batch = net.data.load().batch(0, 0, 32)
    program = compile_program(net, batch)
    start = jax.device_get(program.init(program.knobs))

    def alone(rows: slice) -> tuple[Any, Any]:
        part = jax.tree.map(lambda x: jnp.asarray(x[rows]), batch)

        def loss(params: Any) -> Any:
            outcome = net.task.outcome(
                {"params": params, **start.model_state}, part, jax.random.key(0)
            )
            return outcome.loss.total / 16, outcome.model_state

        return jax.grad(loss, has_aux=True)(start.params)

    parts = [alone(slice(0, 16)), alone(slice(16, 32))]
    gradient, statistics = jax.tree.map(lambda a, b: (a + b) / 2, *parts)
    rate = net.optimizer.learning_rate
    params = jax.tree.map(lambda p, g: p - rate * g, start.params, gradient)
    assert far(ghost[1], params) < 1e-6
    assert far(ghost[2], statistics) < 1e-6
    assert far(whole[1], params) > 1e-4
    assert far(whole[2], statistics) > 1e-4


def test_the_tree_is_aligned_and_keeps_few_parts():
    told: list[str] = []

    def add(one: str, two: str) -> str:
        told.append(f"({one}{two})")
        return told[-1]

    assert shards.tree_sum(iter("01234567"), add) == "(((01)(23))((45)(67)))"
    assert told[:3] == ["(01)", "(23)", "((01)(23))"]  # as soon as can be
    assert shards.tree_sum(iter("0"), add) == "0"


def test_what_is_packed_is_unpacked_again():
    tree = {
        "a": jnp.arange(6.0).reshape(2, 3),
        "b": (jnp.int32(2**24 + 1), jnp.ones((1, 0), jnp.bfloat16)),
        "c": jnp.array([0.1, 7.0], jnp.bfloat16),
    }
    packed = shards.pack(tree)
    assert set(packed.vectors) == {"float32", "int32", "bfloat16"}
    again = shards.unpack(packed)
    same = jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y), tree, again)
    assert jax.tree.all(same)
    doubled = shards.unpack(shards.add(packed, packed))
    assert np.array_equal(doubled["a"], 2 * tree["a"])
    assert doubled["b"][0] == 2**24 + 1  # a counter, which every shard has counted alike


def test_shards_decide_the_digest_and_devices_do_not(tiny_mlp):
    digests = [
        run_digest(replace(tiny_mlp, "parallel", parallel), "data")
        for parallel in (Parallel(), Parallel(data=2, fsdp=4), Parallel(virtual_shards=2))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_run_says_what_it_promises():
    assert promise(1, "cpu") == []
    assert promise(2, "cpu") == ["virtual shards: 2, the same bits on 1 or 2 devices"]
    [told] = promise(8, "gpu")
    assert told == "virtual shards: 8, the same bits on 1, 2, 4 or 8 devices (shown on CPUs only)"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--parallel.virtual-shards 0", "parallel.virtual_shards = 0: must be >= 1"),
        ("--parallel.virtual-shards 6", "parallel.virtual_shards = 6: must be a power of two"),
        (
            "--parallel.virtual-shards 8 --batch-size 100",
            "parallel.virtual_shards = 8: times accumulation 1 must divide 100 rows",
        ),
        (
            "--parallel.virtual-shards 8 --batch-size 64 --accumulation 16",
            "parallel.virtual_shards = 8: times accumulation 16 must divide 64 rows",
        ),
        (
            "--parallel.virtual-shards 2 --parallel.fsdp 2 --batch-size 64",
            "parallel.virtual_shards = 2: needs fsdp 1, not 2",
        ),
        ("--parallel.virtual-shard 2", "nearest: --parallel.virtual-shards"),
    ],
)
def test_what_cannot_be_is_refused(words, told, capsys, tmp_path):
    workdir = tmp_path / "run"
    assert cli.main(["train", "digits_fcn", *words.split(), "--workdir", str(workdir)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not workdir.exists()


def test_more_devices_than_shards_are_refused(tiny_mlp):
    experiment = replace(tiny_mlp, "parallel", Parallel(data=8, virtual_shards=4))
    validate(experiment)
    batch = experiment.data.load().batch(0, 0, experiment.batch_size)
    mesh = shapes_only_mesh(experiment.parallel)
    roles, _ = abstract_state(experiment, batch, mesh)
    with pytest.raises(FieldError, match="virtual_shards = 4: must be a multiple of the 8 devices"):
        check_divides(experiment, batch, roles, mesh)


def test_a_run_goes_on_only_with_as_many_shards(tmp_path, capsys):
    words = f"train digits_fcn task.model:mlp --steps 2 --batch-size 64 --workdir {tmp_path}"
    assert cli.main([*words.split(), "--parallel.virtual-shards", "2"]) == 0
    assert "virtual shards: 2, the same bits on 1 or 2 devices" in capsys.readouterr().out
    assert cli.main([*words.split(), "--parallel.virtual-shards", "4"]) == 2
    assert "parallel.virtual_shards: 2 -> 4" in capsys.readouterr().err


def test_threads_are_made_as_many_as_shards(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    platforms.equal_threads(2)
    assert "PJRT_NPROC" not in os.environ
    platforms.equal_threads(8)
    assert os.environ["PJRT_NPROC"] == "8"
    platforms.equal_threads(4)
    assert os.environ["PJRT_NPROC"] == "8"
