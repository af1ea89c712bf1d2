"""Llama against transformers' Llama and Qwen3, stored by references/make_llama.py."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from lmjax.errors import FieldError
from lmjax.generate import Sampling, generate
from lmjax.models import Llama
from lmjax.parts import choices, validate

TOLERANCE = 1e-4  # of logits of standard deviation 1.7, in float32; 1.1e-5 is reached
VISIBLE = 1e-2  # what a wrong model must exceed

SMALL = Llama(
    vocab_size=61,
    max_length=24,
    depth=2,
    width=32,
    heads=4,
    kv_heads=2,
    head_dim=12,
    mlp_width=40,
    norm_eps=1e-2,
    rope_theta=500.0,
)
QWEN3 = dataclasses.replace(SMALL, qk_norm=True)
PUBLISHED = {
    "llama2-7b": 6_738_415_616,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
}


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "references" / "llama.npz") as file:
        return dict(file)


@pytest.fixture
def params(reference: dict[str, np.ndarray]) -> dict[str, Any]:
    """transformers' weights, [output, input] there, under our names and shapes; with q_norm."""

    def layers(name: str, family: str = "llama") -> np.ndarray:
        return np.stack([reference[f"{family}/model.layers.{n}.{name}.weight"] for n in range(2)])

    def heads(name: str, number: int) -> np.ndarray:
        return layers(f"self_attn.{name}_proj").reshape(2, number, 12, 32).transpose(0, 3, 1, 2)

    return {
        "embedding": reference["llama/model.embed_tokens.weight"],
        "head": reference["llama/lm_head.weight"].T,
        "norm": {"scale": reference["llama/model.norm.weight"]},
        "layers": {
            "norm_1": {"scale": layers("input_layernorm")},
            "norm_2": {"scale": layers("post_attention_layernorm")},
            "attention": {
                "q": heads("q", 4),
                "kv": np.stack([heads("k", 2), heads("v", 2)], axis=3),
                "out": layers("self_attn.o_proj").transpose(0, 2, 1).reshape(2, 4, 12, 32),
                "q_norm": {"scale": layers("self_attn.q_norm", "qwen3")},
                "k_norm": {"scale": layers("self_attn.k_norm", "qwen3")},
            },
            "mlp": {
                "gate": layers("mlp.gate_proj").transpose(0, 2, 1),
                "in": layers("mlp.up_proj").transpose(0, 2, 1),
                "out": layers("mlp.down_proj").transpose(0, 2, 1),
            },
        },
    }


def distance(model: Llama, params: Any, reference: dict[str, np.ndarray], name: str) -> float:
    """The largest difference of logits."""
    with jax.default_matmul_precision("highest"):
        variables = {"params": jax.tree.map(jnp.asarray, params)}
        ours = jax.jit(model.build().apply)(variables, jnp.asarray(reference["tokens"]))
    return float(np.abs(np.asarray(ours) - reference[f"{name}/logits"]).max())


def shapes(model: Llama) -> Any:
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    variables = jax.eval_shape(model.build().init, jax.random.key(0), tokens)
    return jax.tree.map(lambda leaf: leaf.shape, meta.unbox(variables["params"]))


def test_references_fill_every_parameter(params: dict[str, Any]) -> None:
    assert shapes(QWEN3) == jax.tree.map(lambda leaf: leaf.shape, params)


@pytest.mark.smoke
def test_llama_equals_transformers(params: Any, reference: dict[str, np.ndarray]) -> None:
    assert distance(SMALL, params, reference, "llama") < TOLERANCE


def test_the_likeliest_text_is_that_of_transformers(
    params: Any, reference: dict[str, np.ndarray]
) -> None:
    rows = reference["tokens"].tolist()
    prompts = [row[:length] for row, length in zip(rows, (4, 9, 6), strict=True)]
    held = jax.tree.map(jnp.asarray, params)
    written = [
        generate(model, held, prompts, 12, jax.random.key(0), Sampling(temperature=0.0), 61)
        for model in (SMALL, dataclasses.replace(SMALL, rope_theta=100.0))
    ]
    assert written[0].tolist() == reference["llama/greedy"].tolist() != written[1].tolist()


def test_query_and_key_norms_equal_transformers(
    params: Any, reference: dict[str, np.ndarray]
) -> None:
    assert distance(QWEN3, params, reference, "qwen3") < TOLERANCE
    assert distance(SMALL, params, reference, "qwen3") > VISIBLE
    scales = params["layers"]["attention"]
    scales["q_norm"], scales["k_norm"] = (
        {"scale": scales["q_norm"]["scale"] + 0.1},
        {"scale": scales["k_norm"]["scale"][:, ::-1]},
    )
    assert distance(QWEN3, params, reference, "qwen3") > VISIBLE


@pytest.mark.parametrize(
    "changed",
    [
        {"norm_eps": 1e-5},
        {"rope_theta": 10000.0},
        {"activation": "gelu_tanh"},
        {"norm": "layer"},
    ],
)
def test_another_setting_shows(
    changed: dict[str, Any], params: Any, reference: dict[str, np.ndarray]
) -> None:
    model = dataclasses.replace(SMALL, **changed)
    assert distance(model, params, reference, "llama") > VISIBLE


def interleaved(attention: dict[str, np.ndarray]) -> None:
    """Pairs of neighbours, as the paper has them and Llama's own weights."""
    order = np.arange(12).reshape(6, 2).T.ravel()
    attention["q"] = attention["q"][..., order]
    keys, values = np.moveaxis(attention["kv"], 3, 0)
    attention["kv"] = np.stack([keys[..., order], values], axis=3)


def other_groups(attention: dict[str, np.ndarray]) -> None:
    attention["kv"] = attention["kv"][:, :, ::-1]


def keys_for_values(attention: dict[str, np.ndarray]) -> None:
    attention["kv"] = attention["kv"][:, :, :, ::-1]


@pytest.mark.parametrize("change", [interleaved, other_groups, keys_for_values])
def test_another_attention_shows(
    change: Any, params: Any, reference: dict[str, np.ndarray]
) -> None:
    change(params["layers"]["attention"])
    assert distance(SMALL, params, reference, "llama") > VISIBLE


def test_gate_and_up_swapped_show(params: Any, reference: dict[str, np.ndarray]) -> None:
    mlp = params["layers"]["mlp"]
    mlp["gate"], mlp["in"] = mlp["in"], mlp["gate"]
    assert distance(SMALL, params, reference, "llama") > VISIBLE


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count(name: str) -> None:
    model = choices(Llama)[name]()
    validate(model)
    assert isinstance(model, Llama)
    leaves = jax.tree.leaves(shapes(model), is_leaf=lambda x: isinstance(x, tuple))
    assert sum(int(np.prod(shape, dtype=np.int64)) for shape in leaves) == PUBLISHED[name]


def test_transformers_counts_the_same_parameters(reference: dict[str, np.ndarray]) -> None:
    assert reference["parameters"].tolist() == list(PUBLISHED.values())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"kv_heads": 3}, "kv_heads = 3: must divide the 4 heads"),
        ({"head_dim": 7}, "head_dim = 7: must be even"),
        ({"width": 30}, "heads = 4: must divide the width 30"),
        ({"rope_theta": 0.0}, "rope_theta = 0.0"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(FieldError, match=told):
        validate(Llama(**fields))
    validate(Llama())
