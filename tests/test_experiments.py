"""Every experiment keeps the house's form and, shrunk, trains two steps."""

import dataclasses
import importlib
from pathlib import Path

import pytest

from lmjax import catalog, train
from lmjax.optim import Constant

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


@pytest.mark.smoke
@each
def test_it_trains_two_steps(name, tmp_path):
    shrunk = dataclasses.replace(catalog.find(name), steps=2, batch_size=4, schedule=Constant())
    result = train.run(shrunk, str(tmp_path / "run"), quiet=True)
    assert result["steps"] == 2
    assert result["validation"]["loss"] > 0
