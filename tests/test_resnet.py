"""ResNet: its sizes, transformers' and the CIFAR net's outputs, its starting point."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import meta

from lmjax import cli, train
from lmjax.models import ResNet
from lmjax.models.resnet import by_fan_out
from lmjax.tasks import Classification

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-4  # of logits of order 1, in float32
VISIBLE = 1e-2  # what a wrong model must exceed

COUNTS = {  # of torchvision and transformers, and of the paper's counting for CIFAR
    "resnet20": 269_722,
    "resnet56": 853_018,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
LARGE = {"width": 8, "stem": "large", "shortcut": "projected"}
MODELS = {
    "basic": ResNet(blocks=(2, 1), **LARGE),
    "bottleneck": ResNet(**{**LARGE, "width": 4}, blocks=(1, 2), bottleneck=True),
    "padded": ResNet(blocks=(1, 1, 1)),
}


def images(side: int, channels: int = 3) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)


def variables(model: ResNet, inputs: Any) -> Any:
    return meta.unbox(jax.jit(model.build().init)(jax.random.key(0), inputs))


def leaves(model: ResNet, side: int) -> list[Any]:
    shapes = jax.eval_shape(model.build().init, jax.random.key(0), images(side))
    return jax.tree.leaves(shapes["params"])


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    model = ResNet(**ResNet.presets[name])
    assert sum(x.size for x in leaves(model, 32)) == COUNTS[name]


@pytest.mark.parametrize("name", ResNet.presets)
def test_the_depth_in_a_name_is_the_number_of_convolutions_and_the_head(name):
    model = ResNet(**ResNet.presets[name])
    shapes = [x.shape for x in leaves(model, 32)]
    kernels = sum(1 if len(x) < 5 else x[0] for x in shapes if len(x) > 2)
    projections = len(model.blocks) - (not model.bottleneck) if model.stem == "large" else 0
    assert kernels - projections + 1 == int(name.removeprefix("resnet"))


def products(jaxpr: Any) -> int:
    """Multiplications of convolutions and matrix products in a jaxpr and in those it calls."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [x.jaxpr for x in equation.params.values() if hasattr(x, "jaxpr")]
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(map(products, inner))
        shapes = [x.aval.shape for x in (*equation.invars, *equation.outvars)]
        if equation.primitive.name == "conv_general_dilated":
            total += math.prod(shapes[-1]) * math.prod(shapes[1][:-1])  # kernel [h, w, in, out]
        elif equation.primitive.name == "dot_general":
            total += math.prod(shapes[-1]) * shapes[1][0]  # kernel [in, out]
    return total


def test_resnet50_multiplies_as_often_as_published():
    module = ResNet(**ResNet.presets["resnet50"]).build()
    shapes = meta.unbox(jax.eval_shape(module.init, jax.random.key(0), images(224)))
    assert products(jax.make_jaxpr(module.apply)(shapes, images(224)).jaxpr) == 4_089_184_256


@pytest.fixture(scope="module")
def references() -> dict[str, np.ndarray]:
    with np.load(ROOT / "tests/references/resnet.npz") as file:
        return {name: x.astype(np.float32) for name, x in file.items()}


def our_name(name: str) -> tuple[str, ...]:
    """Path in our tree of a module in theirs; the blocks of a stage still apart."""
    for pattern, ours in (
        (r"resnet\.embedder\.embedder\.convolution|conv1", "stem"),
        (r"resnet\.embedder\.embedder\.normalization|bn1", "stem_norm"),
        (r"classifier\.1|linear", "head"),
    ):
        if re.fullmatch(pattern, name):
            return (ours,)
    if found := re.fullmatch(r"layer(\d)\.(\d)\.(conv|bn)(\d)", name):
        stage, block, kind, number = found.groups()
        return f"stage_{int(stage) - 1}", block, f"{kind.replace('bn', 'norm')}_{number}"
    found = re.fullmatch(r"resnet\.encoder\.stages\.(\d)\.layers\.(\d)\.(.*)\.(.*)", name)
    assert found is not None, name
    stage, block, inner, kind = found.groups()
    norm = kind == "normalization"
    if inner == "shortcut":
        return f"stage_{stage}", block, "shortcut_norm" if norm else "shortcut"
    number = int(inner.removeprefix("layer.")) + 1
    return f"stage_{stage}", block, f"{'norm' if norm else 'conv'}_{number}"


def translated(references: dict[str, np.ndarray], kind: str) -> Any:
    """Their weights and statistics in our tree."""
    trees: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, x in references.items():
        module, _, leaf = name.removeprefix(f"{kind}/").rpartition(".")
        if not name.startswith(f"{kind}/") or not module:
            continue
        collection = "batch_stats" if leaf.startswith("running") else "params"
        leaf = {"running_mean": "mean", "running_var": "var"}.get(leaf, leaf)
        if leaf == "weight":
            leaf = "kernel" if x.ndim > 1 else "scale"
        node = trees[collection]
        for part in our_name(module):
            node = node.setdefault(part, {})
        node[leaf] = jnp.asarray(x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T)
    for tree in trees.values():
        for stage in [name for name in tree if re.fullmatch(r"stage_\d", name)]:
            first, *rest = (block for _, block in sorted(tree.pop(stage).items()))
            tree[f"{stage}_first"] = first
            if rest:
                tree[f"{stage}_rest"] = jax.tree.map(lambda *x: jnp.stack(x), *rest)
    return trees


def distance(model: ResNet, tree: Any, theirs: np.ndarray, inputs: np.ndarray) -> float:
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(model.build().apply)(tree, jnp.asarray(inputs))
    return float(np.abs(np.asarray(ours) - theirs).max())


def of(references: dict[str, np.ndarray], kind: str) -> tuple[np.ndarray, np.ndarray]:
    return references[f"{kind}/logits"], references[f"{kind}/images"]


@pytest.mark.smoke
@pytest.mark.parametrize("kind", MODELS)
def test_it_equals_the_public_one(references, kind):
    tree = translated(references, kind)
    shapes = jax.eval_shape(MODELS[kind].build().init, jax.random.key(0), images(17))
    assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, meta.unbox(shapes))
    assert distance(MODELS[kind], tree, *of(references, kind)) < TOLERANCE


@pytest.mark.parametrize("kind", MODELS)
def test_wrong_ones_are_seen(references, kind):
    model, right, expected = MODELS[kind], translated(references, kind), of(references, kind)
    fresh = {"mean": 0.0, "var": 1.0}
    fresh = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.full(x.shape, fresh[path[-1].key]), right["batch_stats"]
    )
    flipped = jax.tree.map(lambda x: jnp.flip(x, (-4, -3)) if x.ndim > 2 else x, right["params"])
    coarse = dataclasses.replace(model, norm_epsilon=1e-2)
    assert distance(model, {**right, "batch_stats": fresh}, *expected) > VISIBLE
    assert distance(model, {**right, "params": flipped}, *expected) > VISIBLE
    assert distance(coarse, right, *expected) > VISIBLE
    off_by_one = (expected[0], expected[1][:, ::-1, ::-1])  # as padding on the other side would be
    assert distance(model, right, *off_by_one) > VISIBLE


def test_the_stride_of_a_bottleneck_is_on_its_window(references):
    tree = translated(references, "bottleneck")
    first = references["bottleneck/v1_logits"]
    inputs = references["bottleneck/images"]
    assert distance(MODELS["bottleneck"], tree, first, inputs) > VISIBLE


def test_kernels_start_with_the_variance_of_he_by_fan_out():
    """The numbers are those of Flax's own initializer."""
    ours, fans = by_fan_out(jax.random.key(0), (3, 3, 16, 32), jnp.float32), ("fan_out", "fan_in")
    for fan, same in zip(fans, (True, False), strict=True):
        theirs = nn.initializers.variance_scaling(2.0, fan, "normal")
        drawn = theirs(jax.random.key(0), ours.shape, jnp.float32)
        assert np.allclose(ours, drawn, rtol=1e-6) == same


def test_blocks_can_start_as_the_identity():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    told = []
    for zero in (True, False):
        one, three = (ResNet(blocks=(n,), zero_last_scale=zero) for n in (1, 3))
        tree = variables(three, x)
        shallow = {
            collection: {name: x for name, x in inner.items() if name != "stage_0_rest"}
            for collection, inner in tree.items()
        }
        deep, less = jax.jit(three.build().apply)(tree, x), jax.jit(one.build().apply)(shallow, x)
        told.append(float(jnp.abs(deep - less).max()))
    assert told[0] == 0 < VISIBLE < told[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("task.model:resnet --task.model.stem large --data.held-out 20", None),
        ("task.model:resnet51", "nearest: resnet56"),
        ("task.model:resnet --task.model.blocks 2 0", "task.model.blocks = 0: must be >= 1"),
        ("task.model:resnet --task.model.shortcut pad", "must be one of padded, projected"),
    ],
)
def test_the_command_line_describes_and_refuses(words, told, capsys):
    status = cli.main(["describe", "digits_fcn", *words.split()])
    out, error = capsys.readouterr()
    assert status == (2 if told else 0)
    assert (told or "conv_out") in (error if told else out)


def test_images_smaller_than_the_window_are_refused(tiny_mlp, monkeypatch):
    from lmjax.data import embedded, examples
    from lmjax.errors import FieldError

    def small() -> Any:
        inputs, classes = embedded.digits()
        return inputs[:, :5, :6], classes

    monkeypatch.setitem(examples.EMBEDDED, "digits", small)
    large = Classification(model=ResNet(**LARGE))
    with pytest.raises(FieldError) as error:
        train.prepare(dataclasses.replace(tiny_mlp, task=large))
    assert str(error.value) == (
        "task.model.stem = 'large': its 7 x 7 window does not fit into images of 5 x 6"
    )
