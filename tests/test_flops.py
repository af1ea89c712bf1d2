"""FLOPs against hand numbers, torch's counter and XLA's cost analysis."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from lmjax import flops
from lmjax.models import GPT, MLP, Classifier, SimpleFCN
from lmjax.parts import choices

TORCH = json.loads((Path(__file__).parent / "references" / "flops.json").read_text())


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def counted(function, *shapes) -> int:
    """FLOP of a function in which nothing stays unseen."""
    found = flops.count(function, *shapes)
    assert not found.unseen
    return found.flops


def forward(config, inputs) -> int:
    """FLOP of a model's forward pass."""
    module = config.build()
    variables = jax.eval_shape(module.init, jax.eval_shape(lambda: jax.random.key(0)), inputs)
    return counted(lambda v, x: module.apply(v, x, train=False), variables, inputs)


def test_gpt_2_costs_the_published_numbers():
    """124M, T = 1024, V = 50304, head and embedding tied: 803.5 and 860.1 MFLOP a token."""
    config = GPT(vocab_size=50304, max_length=1024, depth=12, width=768, heads=12)
    parameters = 50304 * 768 + 1024 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768
    width = config.attention_width()
    found = flops.conventions(parameters, width, 1024)
    assert {name: round(x / 1e6, 1) for name, x in found.items()} == {
        "causal": 803.5,
        "full": 860.1,
    }
    assert width == 12 * 768
    narrow = GPT(depth=24, width=2048, heads=24, head_dim=128)
    assert narrow.attention_width() == 24 * 24 * 128 != 24 * 2048


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5e", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("TPU v6e", 918),
        ("NVIDIA H100 PCIe", None),  # another chip under nearly the same name
        ("TPU v4 lite", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("cpu", None),
    ],
)
def test_peaks_are_known_by_the_whole_name(kind, teraflops):
    assert flops.peak(kind) == (None if teraflops is None else teraflops * 1e12)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("conv_padded", {"padding": "SAME"}),
        ("conv_strided", {"window_strides": (2, 2)}),
        ("conv_grouped", {"feature_group_count": 2}),
        ("conv_dilated", {"rhs_dilation": (2, 2)}),
    ],
)
def test_convolutions_count_as_torch_counts_them(name, options):
    options = {"window_strides": (1, 1), "padding": "VALID", **options}
    groups = options.get("feature_group_count", 1)
    images, kernel = shape(2, 6, 15, 17), shape(8, 6 // groups, 3, 3)
    found = counted(lambda x, k: lax.conv_general_dilated(x, k, **options), images, kernel)
    assert found == TORCH[name]


def test_a_transposed_convolution_counts_what_its_forward_twin_does():
    small, kernel = shape(1, 8, 8, 3), shape(4, 4, 3, 5)
    up = counted(lambda x, k: lax.conv_transpose(x, k, (2, 2), "SAME"), small, kernel)
    assert up == 2 * 8 * 8 * 3 * 4 * 4 * 5  # each input pixel meets the whole kernel once


def test_models_and_products_count_as_torch_counts_them():
    images = shape(4, 28, 28, 1)
    assert forward(SimpleFCN(), images) == TORCH["simple_fcn"] == 4 * 2 * 506_980
    assert forward(MLP(hidden=(512, 256)), images) == TORCH["mlp"] == 4 * 2 * 535_040
    q = shape(2, 16, 3, 8)
    assert counted(lambda q: jax.nn.dot_product_attention(q, q, q), q) == TORCH["attention"]
    assert counted(jnp.matmul, shape(2, 3, 4, 5), shape(2, 3, 5, 7)) == TORCH["matmul"]
    assert forward(SimpleFCN(channels=31), images) != TORCH["simple_fcn"]


def test_resnet_50_costs_the_published_number():
    """4,089,184,256 multiplications for an image of 224 x 224."""
    model = choices(Classifier)["resnet50"]()
    assert forward(model, shape(1, 224, 224, 3)) == 2 * 4_089_184_256
    assert forward(model, shape(1, 192, 192, 3)) != 2 * 4_089_184_256


X, W = shape(8, 4), shape(4, 4)
ONE = 2 * 8 * 4 * 4  # of X @ W


def twice(x, w):
    return x @ w @ w


def sharded(x, w):
    mesh = AbstractMesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    rows = PartitionSpec("a")
    return jax.shard_map(
        jnp.matmul, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows, axis_names={"a"}
    )(x, w)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("function", "times"),
    [
        (jnp.matmul, 1),
        (jax.jit(twice), 2),
        (jax.checkpoint(twice), 2),
        (lambda x, w: lax.scan(lambda c, _: (c @ w, None), x, None, length=5)[0], 5),
        (lambda x, w: lax.fori_loop(0, 3, lambda _, c: twice(c, w), x), 6),
        (lambda x, w: jax.vmap(lambda row: row @ w)(x), 1),
        (lambda x, w: x[:, :1] * 2, 0),
        (sharded, 1),
    ],
)
def test_products_are_found_wherever_they_are(function, times):
    assert counted(function, X, W) == times * ONE


@pytest.mark.smoke
def test_a_rule_of_one_s_own_counts_by_its_forward_pass():
    @jax.custom_vjp
    def product(x, w):
        return x @ w

    product.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (twice(g, r[1]), r[0].T @ g))
    assert counted(product, X, W) == ONE


def test_what_cannot_be_counted_is_named():
    turns = flops.count(lambda x, w: lax.while_loop(jnp.all, lambda c: c @ w, x), X, W)
    assert turns == (ONE, {"while"})
    choice = flops.count(lambda x, w: lax.cond(x.sum() > 0, twice, jnp.matmul, x, w), X, W)
    assert choice == (2 * ONE, {"cond"})
    plain = flops.count(lambda x, w: lax.while_loop(jnp.all, lambda c: c + 1, x), X, W)
    assert plain == (0, frozenset())  # nothing to count, nothing to tell


def test_ragged_products_count_each_row_once():
    found = counted(lax.ragged_dot, X, shape(3, 4, 5), shape(3, dtype=jnp.int32))
    assert found == 2 * 8 * 4 * 5


def xla_training_flops(config: GPT, tokens) -> float:
    """FLOP of forward and backward by XLA's cost analysis of the HLO as it was traced."""
    module = config.build()
    variables = jax.eval_shape(module.init, jax.eval_shape(lambda: jax.random.key(0)), tokens)

    def loss(variables, tokens):
        return module.apply(variables, tokens, train=True).mean()

    step = jax.jit(jax.value_and_grad(loss))
    return step.lower(variables, tokens).cost_analysis()["flops"]


def test_a_gpt_counts_as_xla_counts_it_where_no_loop_hides_the_layers():
    """XLA's attention is over all positions, so it is the full convention; N are the parameters
    that take part in products: neither the positions nor biases and norms. XLA adds what is no
    product (norms, softmax, GELU), a percent or so at this width."""
    depth, width, length, vocab = 2, 768, 512, 4096
    config = GPT(
        vocab_size=vocab, max_length=length, depth=depth, width=width, heads=12, unroll=depth
    )
    tokens = shape(1, length, dtype=jnp.int32)
    multiplied = depth * 12 * width**2 + vocab * width
    by_hand = length * flops.conventions(multiplied, config.attention_width(), length)["full"]
    assert flops.TRAINING * forward(config, tokens) == by_hand
    unrolled = xla_training_flops(config, tokens)
    assert by_hand == pytest.approx(unrolled, rel=0.02)

    scanned = GPT(vocab_size=vocab, max_length=length, depth=depth, width=width, heads=12)
    assert flops.TRAINING * forward(scanned, tokens) == by_hand
    once = xla_training_flops(scanned, tokens)  # the control: XLA counts a loop's body once
    assert once != pytest.approx(unrolled, rel=0.2)
    causal = length * flops.conventions(multiplied, config.attention_width(), length)["causal"]
    assert causal != pytest.approx(unrolled, rel=0.02)
