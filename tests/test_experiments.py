"""Every experiment keeps the house's form and, shrunk, trains two steps."""

import dataclasses
import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from lmjax import catalog, train
from lmjax.data import Tokens
from lmjax.experiment import Experiment
from lmjax.mesh import Parallel
from lmjax.optim import Constant
from lmjax.parallel import abstract_variables

ROOT = Path(__file__).parents[1]
each = pytest.mark.parametrize("name", catalog.names())


@each
def test_it_opens_with_question_command_hardware_time_and_number(name):
    text = importlib.import_module(f"experiments.{name}").__doc__ or ""
    assert text.splitlines()[0].endswith("?")
    for part in (f"uv run lmjax train {name}", "2 CPU cores", "Expected:"):
        assert part in text


@each
def test_it_has_its_own_name_and_a_row_in_the_table(name):
    assert catalog.find(name).name == name
    assert f"| {name} |" in (ROOT / "experiments" / "README.md").read_text()


def small_text(experiment: Experiment, folder: Path) -> Experiment:
    """A small model on files of tokens, which nobody has who did not make them."""
    data = experiment.data
    assert isinstance(data, Tokens)
    for file, count in (("train.bin", 2000), ("val.bin", 200)):
        ids = np.random.default_rng(count).integers(0, data.vocab_size, count)
        (folder / file).write_bytes(ids.astype(data.width).tobytes())
    sizes = {"max_length": 32, "depth": 1, "width": 16, "heads": 2, "mlp_width": 32}
    model = dataclasses.replace(experiment.task.model, **sizes, kv_heads=1)
    data = dataclasses.replace(data, source=f"tokens:{folder}", sequence_length=32)
    task = dataclasses.replace(experiment.task, model=model)
    data = dataclasses.replace(data, validation_windows=2)
    small = dataclasses.replace(experiment, task=task, data=data, accumulation=2)
    return dataclasses.replace(small, parallel=Parallel())  # not the machine of the large one


SMALLER = dict.fromkeys(("gpt2_124m", "llama_8b", "llama_70b"), small_text)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2_124m", 124_439_808),
        ("llama_8b", 8_030_261_248),
        ("llama_70b", 70_553_706_496),
    ],
)
def test_it_has_the_published_number_of_parameters_without_its_data(name, parameters):
    experiment = catalog.find(name)
    params = abstract_variables(experiment, experiment.data.shapes(8))["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == parameters


@pytest.mark.smoke
@each
def test_it_trains_two_steps(name, tmp_path, mnist, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", mnist)  # for what needs a prepared data set
    experiment = catalog.find(name)
    if name in SMALLER:
        experiment = SMALLER[name](experiment, tmp_path)
    shrunk = dataclasses.replace(experiment, steps=2, batch_size=4, schedule=Constant())
    result = train.run(shrunk, str(tmp_path / "run"), quiet=True)
    assert result["steps"] == 2
    assert result["validation"]["loss"] > 0
