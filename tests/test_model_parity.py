"""The models against transformers' GPT-2 and torch, stored by references/make_models.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from lmjax import losses
from lmjax.models import GPT, Model, SimpleFCN
from lmjax.parts import choices, validate

Reference = dict[str, np.ndarray]

TOLERANCE = 1e-4  # of logits of order 1, in float32
VISIBLE = 1e-2  # what a wrong model must exceed

SMALL = GPT(vocab_size=61, max_length=24, depth=2, width=32, heads=4)
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3-125m": 125_226_240,
    "gpt3-350m": 355_871_744,
    "gpt3-760m": 760_300_032,
    "gpt3-1.3b": 1_315_723_264,
    "gpt3-1.3b-table": 1_517_123_584,
    "gpt3-2.7b": 2_651_553_280,
    "gpt3-6.7b": 6_658_404_352,
    "gpt3-13b": 12_952_938_780,
    "gpt3-13b-table": 12_936_488_380,
    "gpt3-175b": 174_604_259_328,
}


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Accelerators round the inputs of float32 products unless told not to."""
    with jax.default_matmul_precision("highest"):
        yield


def load(prefix: str) -> Reference:
    with np.load(Path(__file__).parent / "references" / "models.npz") as file:
        return {key.removeprefix(prefix): file[key] for key in file if key.startswith(prefix)}


@pytest.fixture(scope="module")
def gpt() -> Reference:
    return load("gpt/")


@pytest.fixture(scope="module")
def simple_fcn() -> Reference:
    return load("simple_fcn/")


def gpt_params(reference: Reference) -> dict[str, Any]:
    """transformers' weights, which it too keeps as [input, output], under our names and shapes."""
    depth, width, heads = SMALL.depth, SMALL.width, SMALL.heads

    def layers(name: str, *shape: int) -> np.ndarray:
        found = np.stack([reference[f"transformer.h.{n}.{name}"] for n in range(depth)])
        return found.reshape(depth, *shape) if shape else found

    def norm(scale: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
        return {"scale": scale, "bias": bias}

    def fused(name: str, *inputs: int) -> np.ndarray:
        return np.moveaxis(layers(name, *inputs, 3, *per_head), -3, -2)

    per_head = (heads, width // heads)
    return {
        "embedding": reference["transformer.wte.weight"],
        "position": reference["transformer.wpe.weight"],
        "norm": norm(reference["transformer.ln_f.weight"], reference["transformer.ln_f.bias"]),
        "layers": {
            "norm_1": norm(layers("ln_1.weight"), layers("ln_1.bias")),
            "norm_2": norm(layers("ln_2.weight"), layers("ln_2.bias")),
            "attention": {
                "qkv": fused("attn.c_attn.weight", width),
                "qkv_bias": fused("attn.c_attn.bias"),
                "out": layers("attn.c_proj.weight", *per_head, width),
                "out_bias": layers("attn.c_proj.bias"),
            },
            "mlp": {
                "in": layers("mlp.c_fc.weight"),
                "in_bias": layers("mlp.c_fc.bias"),
                "out": layers("mlp.c_proj.weight"),
                "out_bias": layers("mlp.c_proj.bias"),
            },
        },
    }


def simple_fcn_params(reference: Reference) -> dict[str, Any]:
    """torch's weights, [output, input] and flattened by channel, row, column, in our layout."""
    hidden = reference["hidden/weight"].reshape(10, 32, 12, 12)
    return {
        "conv": {
            "kernel": reference["conv/weight"].transpose(2, 3, 1, 0),
            "bias": reference["conv/bias"],
        },
        "hidden": {
            "kernel": hidden.transpose(2, 3, 1, 0).reshape(-1, 10),
            "bias": reference["hidden/bias"],
        },
        "head": {"kernel": reference["head/weight"].T, "bias": reference["head/bias"]},
    }


def shapes(model: Model, inputs: jax.ShapeDtypeStruct) -> Any:
    """The shapes of a model's parameters, without memory for them."""
    variables = jax.eval_shape(model.build().init, jax.random.key(0), inputs)
    return meta.unbox(variables["params"])


def count(model: Model, inputs: jax.ShapeDtypeStruct) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(model, inputs)))


def tokens(length: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, length), jnp.int32)


def images(number: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((number, 28, 28, 1), jnp.float32)


def logits(model: Model, params: Any, inputs: np.ndarray) -> np.ndarray:
    variables = {"params": jax.tree.map(jnp.asarray, params)}
    return np.asarray(model.build().apply(variables, jnp.asarray(inputs), train=False))


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max())


def test_references_fill_every_parameter(gpt: Reference, simple_fcn: Reference) -> None:
    for model, inputs, params in (
        (SMALL, tokens(20), gpt_params(gpt)),
        (SimpleFCN(), images(4), simple_fcn_params(simple_fcn)),
    ):
        expected = jax.tree.map(lambda leaf: leaf.shape, shapes(model, inputs))
        assert jax.tree.map(lambda leaf: leaf.shape, params) == expected


def test_gpt_equals_transformers(gpt: Reference) -> None:
    assert distance(logits(SMALL, gpt_params(gpt), gpt["tokens"]), gpt["logits"]) < TOLERANCE


def test_gpt_cross_entropy_equals_transformers(gpt: Reference) -> None:
    ours = jnp.asarray(logits(SMALL, gpt_params(gpt), gpt["tokens"]))
    targets = jnp.asarray(gpt["tokens"])[:, 1:]
    mean = losses.cross_entropy(ours[:, :-1], targets, jnp.ones(targets.shape))
    assert float(mean.weight) == targets.size
    assert float(mean.total) / targets.size == pytest.approx(float(gpt["cross_entropy"]), abs=1e-5)
    unshifted = losses.cross_entropy(ours[:, 1:], targets, jnp.ones(targets.shape))
    assert abs(float(unshifted.total) / targets.size - float(gpt["cross_entropy"])) > VISIBLE


def test_gpt_with_query_and_key_swapped_shows(gpt: Reference) -> None:
    params = gpt_params(gpt)
    attention = params["layers"]["attention"]
    attention["qkv"] = attention["qkv"][:, :, :, [1, 0, 2]]
    attention["qkv_bias"] = attention["qkv_bias"][:, :, [1, 0, 2]]
    assert distance(logits(SMALL, params, gpt["tokens"]), gpt["logits"]) > VISIBLE


@pytest.mark.parametrize("name", ["out_bias", "qkv_bias"])
def test_gpt_without_a_bias_shows(gpt: Reference, name: str) -> None:
    params = gpt_params(gpt)
    attention = params["layers"]["attention"]
    attention[name] = np.zeros_like(attention[name])
    assert distance(logits(SMALL, params, gpt["tokens"]), gpt["logits"]) > VISIBLE


def test_gpt_uses_the_tanh_gelu(gpt: Reference) -> None:
    """transformers with the same weights and the exact GELU is clearly elsewhere."""
    ours = logits(SMALL, gpt_params(gpt), gpt["tokens"])
    assert distance(ours, gpt["erf_logits"]) > 5 * TOLERANCE


def test_gpt_does_not_see_later_tokens(gpt: Reference) -> None:
    changed = gpt["tokens"].copy()
    changed[:, 12] = (changed[:, 12] + 1) % SMALL.vocab_size
    before = logits(SMALL, gpt_params(gpt), gpt["tokens"])
    after = logits(SMALL, gpt_params(gpt), changed)
    assert distance(before[:, :12], after[:, :12]) < 1e-6
    assert all(distance(before[:, n], after[:, n]) > VISIBLE for n in range(12, 20))


def test_simple_fcn_equals_torch(simple_fcn: Reference) -> None:
    ours = logits(SimpleFCN(), simple_fcn_params(simple_fcn), simple_fcn["images"])
    assert distance(ours, simple_fcn["logits"]) < TOLERANCE


def test_simple_fcn_with_features_in_torch_order_shows(simple_fcn: Reference) -> None:
    params = simple_fcn_params(simple_fcn)
    params["hidden"]["kernel"] = simple_fcn["hidden/weight"].T
    ours = logits(SimpleFCN(), params, simple_fcn["images"])
    assert distance(ours, simple_fcn["logits"]) > VISIBLE


def test_simple_fcn_with_a_flipped_window_shows(simple_fcn: Reference) -> None:
    params = simple_fcn_params(simple_fcn)
    params["conv"]["kernel"] = params["conv"]["kernel"][::-1, ::-1]
    ours = logits(SimpleFCN(), params, simple_fcn["images"])
    assert distance(ours, simple_fcn["logits"]) > VISIBLE


@pytest.mark.parametrize("name", PUBLISHED)
def test_gpt_parameter_count(name: str) -> None:
    model = choices(GPT)[name]()
    validate(model)
    assert isinstance(model, GPT)
    assert model.max_length == (1024 if name.startswith("gpt2") else 2048)
    assert count(model, tokens(8)) == PUBLISHED[name]
    width, hidden, inner = model.width, 4 * model.width, model.heads * model.head_size
    layer = (4 * width + 3) * inner + (2 * width + 1) * hidden + 6 * width
    rest = (model.vocab_size + model.max_length + 2) * width
    assert PUBLISHED[name] == rest + model.depth * layer


def test_transformers_counts_the_same_parameters() -> None:
    assert load("gpt2/")["parameters"].tolist() == list(PUBLISHED.values())[:4]


def test_simple_fcn_parameter_count() -> None:
    assert count(SimpleFCN(), images(1)) == 47_032
    assert count(SimpleFCN(hidden=11), images(1)) == 47_032 + 32 * 12 * 12 + 1 + 10
