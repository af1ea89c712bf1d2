"""Models that are no Linen modules, in a file outside the project, train and resume like ours."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import meta

from lmjax import catalog, cli
from lmjax.adapters import with_axes
from lmjax.errors import InputError
from lmjax.load import load
from lmjax.tasks import Classification

# Not one line of either model knows lmjax, but for the adapter and the names of axes.
NNX = '''
import dataclasses
from flax import nnx
from lmjax.adapters import FromNNX
from lmjax.models import Classifier


class Net(nnx.Module):
    """A list, batch statistics and dropout: a number in its paths, a state, a random stream."""

    def __init__(self, classes, rngs):
        self.layers = nnx.List([nnx.Linear(64, 16, rngs=rngs)])
        self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(16, classes, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.layers[0](x.reshape(len(x), -1)))
        return self.head(self.dropout(nnx.relu(x)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(Classifier):
    label = "test-nnx"

    def build(self):
        return FromNNX(lambda rngs: Net(self.classes, rngs), AXES)
'''

FUNCTIONS = """
import dataclasses
import jax
import jax.numpy as jnp
from lmjax.adapters import FromFunctions
from lmjax.models import Classifier


def draw(key, inputs):
    one, two = jax.random.split(key)
    return {
        "layers": {"0": {"kernel": jax.random.normal(one, (64, 16)) / 4, "bias": jnp.zeros(16)}},
        "head": {"kernel": jax.random.normal(two, (16, 10)) / 4, "bias": jnp.zeros(10)},
    }


def logits(params, inputs, key):
    layer, head = params["layers"]["0"], params["head"]
    x = inputs.reshape(len(inputs), -1) @ layer["kernel"] + layer["bias"][None]
    x = jax.nn.relu(x)
    if key is not None:
        x = x * jax.random.bernoulli(key, 0.8, x.shape) / 0.8
    return x @ head["kernel"] + head["bias"][None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(Classifier):
    label = "test-functions"

    def build(self):
        return FromFunctions(draw, logits, AXES)
"""

EXPERIMENT = """
from lmjax.data import Examples
from lmjax.experiment import Experiment
from lmjax.optim import Constant, Momentum
from lmjax.tasks import Classification

AXES = {
    "layers/*/kernel": ("features", "mlp"),
    "head/kernel": ("mlp", "classes"),
    "head/bias": ("classes",),
    "*": ("mlp",),
}


def config():
    return Experiment(
        name="mine", task=Classification(model=Mine()), data=Examples(),
        optimizer=Momentum(learning_rate=0.2), schedule=Constant(),
        steps=30, batch_size=64, evaluate_every=0, save_every=0,
    )
"""

IMAGES = jax.random.normal(jax.random.key(0), (8, 8, 8, 1))


@pytest.fixture(params=[NNX, FUNCTIONS], ids=["nnx", "functions"])
def mine(request, tmp_path, monkeypatch) -> str:
    """The name of the file, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Classification, "baselines", lambda *_: {})
    Path("mine.py").write_text(request.param + EXPERIMENT)
    return "mine.py"


def fresh(mine: str) -> tuple[Any, dict[str, Any]]:
    """(the adapted model, its variables without their names)."""
    module = catalog.find(mine).task.module()
    return module, meta.unbox(module.init(jax.random.key(1), IMAGES, train=False))


def metrics(run: str) -> list[dict[str, Any]]:
    """Of training; evaluations are at the end of each of its parts."""
    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == "train"]


@pytest.mark.smoke
def test_a_stranger_trains_and_resumes_to_the_bit(mine):
    assert cli.main(["train", mine, "--workdir", "whole"]) == 0
    result = json.loads(Path("whole/result.json").read_text())
    assert result["validation"]["accuracy"] > 0.6  # a tenth is chance
    assert cli.main(["train", mine, "--steps", "17", "--workdir", "parts"]) == 0
    halfway = load("parts")
    assert cli.main(["train", mine, "--workdir", "parts"]) == 0
    resumed = json.loads(Path("parts/result.json").read_text())
    assert resumed["state_digest"] == result["state_digest"]
    assert metrics("parts") == metrics("whole")
    assert len(metrics("whole")) == 30
    loaded = load("whole")
    assert loaded.params["layers"]["0"]["kernel"].shape == (64, 16)
    for before, after in zip(
        jax.tree.leaves((halfway.params, halfway.state.model_state)),
        jax.tree.leaves((loaded.params, loaded.state.model_state)),
        strict=True,
    ):
        assert not np.array_equal(before, after)


def test_dropout_and_batch_statistics_are_for_training_only(mine):
    module, variables = fresh(mine)

    def trained(seed: int) -> Any:
        rngs = {"dropout": jax.random.key(seed)}
        return module.apply(variables, IMAGES, train=True, rngs=rngs, mutable=["state"])

    held_out = module.apply(variables, IMAGES, train=False)
    assert np.array_equal(held_out, module.apply(variables, IMAGES, train=False))
    (one, state), (again, _), (other, _) = trained(2), trained(2), trained(3)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert state.keys() == variables.keys() - {"params"}
    if state:
        hidden = IMAGES.reshape(8, -1) @ variables["params"]["layers"]["0"]["kernel"]
        expected = 0.1 * hidden.mean(0)  # begun at 0, with momentum 0.9
        assert np.allclose(state["state"]["norm"]["mean"], expected, atol=1e-6)
        assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("mine", [NNX], indirect=True)
def test_nnx_gives_what_the_module_itself_gives(mine):
    module, variables = fresh(mine)
    net = module.make(nnx.Rngs(jax.random.key(1)))
    net.eval()
    assert np.array_equal(module.apply(variables, IMAGES, train=False), net(IMAGES))
    net.head.bias[...] += 1.0
    assert not np.array_equal(module.apply(variables, IMAGES, train=False), net(IMAGES))
    variables["params"]["head"]["bias"] += 1.0
    assert np.array_equal(module.apply(variables, IMAGES, train=False), net(IMAGES))


def test_describe_names_its_roles(mine, capsys):
    assert cli.main(["describe", mine]) == 0
    told = capsys.readouterr().out
    assert "layers/0/kernel  64 x 16  features mlp  matrix  yes" in told
    assert "head/kernel      16 x 10  mlp classes   head    yes" in told


def test_bad_axes_end_with_two_and_one_line(mine, capsys):
    text = Path(mine).read_text()
    Path(mine).write_text(text.replace('"head/bias"', '"tail/bias"'))
    assert cli.main(["train", mine, "--workdir", "run"]) == 2
    assert capsys.readouterr().err == "lmjax: names of axes for no parameter: tail/bias\n"
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        ({"*/kernel": ("features", "mlp")}, "without names of their axes: a/bias [3], b [2]"),
        ({"*/kernel": ("features", "mlp"), "*": ("mlp",), "c": ("mlp",)}, "no parameter: c"),
        ({"*/kernel": ("features", "mpl"), "*": ("mlp",)}, "nearest: mlp"),
        ({"*": ("mlp",)}, "has axes ('mlp',): not a vector or matrix"),
    ],
)
def test_axes_that_do_not_fit_are_refused(axes, told):
    params = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "b": jnp.ones(2)}
    with pytest.raises(InputError) as error:
        with_axes(params, axes)
    assert told in str(error.value)
