"""README's code and commands are true to the code."""

import re
import shlex
from pathlib import Path

from lmjax import catalog, cli, overrides

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_training_command_names_an_experiment_and_valid_overrides():
    commands = re.findall(r"^uv run lmjax train (.*)$", README, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        name, *words = shlex.split(command, comments=True)
        words = [word for word in words if word != "--help"]
        overrides.apply(catalog.find(name), words, cli.parse_value)


def test_every_file_that_it_names_exists():
    named = set(re.findall(r"`((?:lmjax|experiments|tests)/[\w./]+)`", README))
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_part_of_one_s_own_trains(tmp_path, monkeypatch, capsys):
    """The optimizer that README shows, in a file outside the project."""
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block is not None
    Path("mine.py").write_text(
        "import dataclasses\nimport jax\nimport jax.numpy as jnp\nimport optax\n"
        "from experiments import digits_fcn\nfrom lmjax.optim import Optimizer\n"
        + block[1]
        + "\ndef config():\n    return dataclasses.replace(digits_fcn.config(), name='mine',\n"
        "        optimizer=SignSGD(learning_rate=1e-3))\n"
    )
    assert cli.main(["train", "mine.py", "--steps", "3", "--workdir", "run"]) == 0
    assert "sign-sgd" in capsys.readouterr().out
