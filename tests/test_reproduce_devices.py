"""Runs that move between devices: to the bit with virtual shards, and otherwise told apart."""

import os
import subprocess
import sys

import pytest
import simulated

CODE = """
import dataclasses, json, sys
import jax
from lmjax import parallel, reproduce, train
from lmjax.archive import open_run
from lmjax.console import Console
from lmjax.data import Examples
from lmjax.experiment import Experiment
from lmjax.mesh import Parallel, make_mesh
from lmjax.models import MLP
from lmjax.optim import Constant, Momentum
from lmjax.signals import Stopped
from lmjax.tasks import Classification

def on(count):
    "All that is made from now on is on so many of the devices."
    parallel.make_mesh = lambda parallel, devices=None: make_mesh(parallel, jax.devices()[:count])

def moved(folder, shards):
    experiment = Experiment(
        name="moved", task=Classification(model=MLP(hidden=(16,))), data=Examples(),
        optimizer=Momentum(learning_rate=0.1), schedule=Constant(), steps=6,
        batch_size=32, parallel=Parallel(virtual_shards=shards), evaluate_every=0, save_every=2,
    )
    class Stopping(train.Checkpoints):
        def save(self, step, *rest):
            super().save(step, *rest)
            if step in stops:
                stops.remove(step)
                self.wait()
                raise Stopped(15, step)
    train.Checkpoints, stops = Stopping, [2, 4]
    for devices in (4, 2, 8):
        on(devices)
        try:
            train.run(experiment, folder, quiet=True)
        except Stopped:
            pass
    train.Checkpoints = Stopping.__bases__[0]
    on(1)
    return reproduce.reproduce(open_run(folder), console=Console()).record

print(json.dumps(moved(sys.argv[1], int(sys.argv[2]))))
"""


def test_a_run_that_moved_4_2_8_is_reproduced_on_1_device_with_virtual_shards(
    eight_devices, tmp_path
):
    found, _ = eight_devices(CODE, str(tmp_path / "run"), "8")
    assert (found["verdict"], found["rung"]) == ("reproduced", "R5")
    assert (found["steps_compared"], found["leaves_compared_at"]) == (6, [0, 1, 2, 3, 4, 5, 6])
    assert found["not_as_in_the_run"] == []


@pytest.mark.sweep
def test_without_virtual_shards_it_is_told_apart(eight_devices, tmp_path):
    found, _ = eight_devices(CODE, str(tmp_path / "run"), "1")
    assert (found["verdict"], found["cause"]) == ("diverged", "reduction order")
    assert "mesh" in found["because"]


@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        ("digits_resnet", "--batch-size 64"),
        (  # layers that are no loop, of which XLA merges more
            "char_gpt",
            "--task.model.depth 2 --task.model.unroll 2 --task.showcase-length 0 "
            "--data.validation-windows 16 --batch-size 16 --schedule.warmup-steps 1",
        ),
    ],
)
def test_the_commands_give_one_device_the_bits_of_two(tmp_path, experiment, words):
    """Each in a process of its own, where threads count: XLA cuts convolutions by their number."""
    run = str(tmp_path / "run")
    given = [*words.split(), "--parallel.virtual-shards", "8", "--steps", "2"]
    trained = lmjax(2, "train", experiment, *given, "--workdir", run)
    assert trained.returncode == 0, trained.stderr
    again = lmjax(1, "reproduce", run)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "REPRODUCED R5: 2 of 2 steps" in again.stdout


def lmjax(devices: int, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lmjax", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XLA_FLAGS": simulated.flags(devices)},
    )
