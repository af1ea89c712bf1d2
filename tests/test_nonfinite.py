"""A batch that is not finite: stopped at, skipped inside the compiled step, or rolled back from."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import nonfinite, reproduce, train
from lmjax.archive import open_run
from lmjax.checkpoint import Checkpoints
from lmjax.compare.plan import prepare_all
from lmjax.compare.variants import Variant
from lmjax.console import Console
from lmjax.data import Examples, tables
from lmjax.errors import FieldError, InputError, RunError
from lmjax.experiment import Experiment, run_digest
from lmjax.load import load
from lmjax.models import ResNet
from lmjax.parts import replace
from lmjax.state import leaves_not_finite, state_digest
from lmjax.tasks import Classification

BAD = 7  # the step whose batch has a NaN


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spoilt(Examples):
    """The digits with a NaN in one pixel of an example that stands in one batch of an epoch."""

    label = "spoilt"

    number: int = -1  # of the example; -1 = none is spoilt

    def read(self) -> Any:
        parts = super().read()
        if self.number < 0:
            return parts
        inputs = np.array(parts.train.inputs, np.float32)
        inputs[self.number, 0, 0] = np.nan
        return parts._replace(train=tables.ArrayTable(inputs, parts.train.targets))


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
