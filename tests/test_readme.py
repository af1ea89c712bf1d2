"""README's code and commands are true to the code."""

import json
import re
import shlex
from pathlib import Path

import pytest

from lmjax import catalog, cli, flags, hosts, overrides

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_training_command_names_an_experiment_and_valid_overrides():
    commands = re.findall(r"^uv run lmjax train (.*)$", README, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        name, *words = shlex.split(command, comments=True)
        words = [word for word in words if word != "--help"]
        for flag in ("--profile", "--workdir"):  # of the launch, beside the fields
            _, words = flags.take(words, flag, "a value")
        _, words = hosts.read(words)
        overrides.apply(catalog.find(name), words, cli.parse_value)


def test_every_file_that_it_names_exists():
    named = set(re.findall(r"`((?:lmjax|experiments|tests)/[\w./]+)`", README))
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
IMPORTS = """
import dataclasses
from flax import nnx
import jax, jax.numpy as jnp, numpy as np, optax, sklearn.datasets
from lmjax.adapters import FromFunctions, FromNNX
from lmjax.data import Examples
from lmjax.data.tables import ArrayTable, Parts
from lmjax.experiment import Experiment
from lmjax.losses import accuracy
from lmjax.metrics import Mean
from lmjax.models import MLP, Classifier
from lmjax.optim import Optimizer
from lmjax.tasks import Classification, Outcome
"""


def test_the_parts_of_one_s_own_train(tmp_path, monkeypatch, capsys):
    """The optimizer, task and data set that README shows, in a file outside the project."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(IMPORTS + BLOCKS[0])
    assert cli.main(["train", "mine.py", "--workdir", "run"]) == 0
    told = capsys.readouterr().out
    assert "sign-sgd" in told
    assert "800 training and 200 held-out examples of 2, 2 classes" in told
    result = json.loads(Path("run/result.json").read_text())
    baselines = result["baselines"]["accuracy"]
    assert result["validation"]["accuracy"] > baselines["logistic regression"] > 0.8


@pytest.mark.parametrize(("model", "parameters"), [("Mine", 2474), ("OfFunctions", 650)])
def test_the_models_of_a_stranger_train(tmp_path, monkeypatch, model, parameters):
    """The NNX module and the two functions that README shows."""
    monkeypatch.chdir(tmp_path)
    config = f"""
def config():
    return Experiment(
        name="mine", task=Classification(model={model}()), data=Examples(),
        optimizer=SignSGD(learning_rate=1e-2), steps=100, batch_size=64,
    )
"""
    optimizer = BLOCKS[0][: BLOCKS[0].index("\n\n\n")]
    Path("mine.py").write_text(IMPORTS + optimizer + "\n" + BLOCKS[1] + config)
    assert cli.main(["train", "mine.py", "--workdir", "run"]) == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["parameters"] == parameters
    assert result["validation"]["accuracy"] > 0.85
