"""The transformer's ways of reading: documents in one row, tokens after a cache, bfloat16."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import meta

from lmjax.models import GPT, Llama
from lmjax.models.decoder import Decoder
from lmjax.models.linear import look_up
from lmjax.placement import placing
from lmjax.roles import Leaf, map_roles, read_roles

SIZES: dict[str, Any] = {"vocab_size": 61, "max_length": 24, "depth": 2, "width": 32, "heads": 4}
MODELS = {
    "gpt": GPT(**SIZES),
    "llama": Llama(**SIZES, qk_norm=True),
    "unrolled": Llama(**SIZES, unroll=2, kv_heads=1),
}
CLOSE = 1e-5  # of logits of order 1, in float32
VISIBLE = 1e-3


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Decoder:
    return MODELS[request.param]


def tokens(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, 61, size=shape), jnp.int32)


def variables(model: Decoder) -> Any:
    """Drawn larger than a fresh model's, so that every part of it has a visible effect."""
    rng = np.random.default_rng(0)
    fresh = jax.eval_shape(model.build().init, jax.random.key(0), tokens(1, 4))
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(scale=0.3, size=x.shape), x.dtype), meta.unbox(fresh)
    )


def apart(one: Any, two: Any) -> float:
    assert one.shape == two.shape
    return float(jnp.abs(one - two).max())


def test_packed_documents_have_the_logits_that_they_have_alone(model: Decoder) -> None:
    documents, held, apply = tokens(2, 8), variables(model), jax.jit(model.build().apply)
    alone = apply(held, documents)
    row = jnp.stack([documents.reshape(16), tokens(16, seed=1)])
    segments = jnp.asarray([[1] * 8 + [2] * 8] * 2)
    positions = jnp.asarray([[*range(8), *range(8)]] * 2)
    packed = apply(held, row, segments=segments, positions=positions)[0]
    assert apart(packed.reshape(2, 8, 61), alone) < CLOSE
    unmasked = apply(held, row, positions=positions)[0]
    assert apart(unmasked[8:], alone[1]) > VISIBLE
    # Rotary positions are relative, so only a learned table sees where a document begins.
    unmoved = apart(apply(held, row, segments=segments)[0, 8:], alone[1])
    assert unmoved > VISIBLE if model.position == "learned" else unmoved < CLOSE


def test_tokens_after_a_cache_have_the_logits_of_the_whole_row(model: Decoder) -> None:
    row, held, apply = tokens(3, 8), variables(model), jax.jit(model.build().apply)
    whole = apply(held, row)
    logits, cache = apply(held, row[:, :5], cache=model.init_cache(3, 10, jnp.float32))
    assert apart(logits, whole[:, :5]) < CLOSE
    wrong = cache | {"length": cache["length"] - 1}
    assert apart(apply(held, row[:, 5:6], cache=wrong)[0], whole[:, 5:6]) > VISIBLE
    for number in range(5, 8):
        logits, cache = apply(held, row[:, number : number + 1], cache=cache)
        assert apart(logits, whole[:, number : number + 1]) < CLOSE
    assert cache["length"].tolist() == [8, 8, 8]


def test_rows_of_unequal_length_go_on_each_from_its_own_end(model: Decoder) -> None:
    row, held, apply = tokens(3, 8), variables(model), jax.jit(model.build().apply)
    _, cache = apply(held, row, cache=model.init_cache(3, 10, jnp.float32))
    following, lengths = tokens(3, 2, seed=1), (3, 8, 5)
    alone = np.pad(np.asarray(row), [(0, 0), (0, 2)])
    for number, length in enumerate(lengths):
        alone[number, length : length + 2] = following[number]
    whole = apply(held, jnp.asarray(alone))
    expected = jnp.stack([whole[n, length : length + 2] for n, length in enumerate(lengths)])
    mended = cache | {"length": jnp.asarray(lengths, jnp.int32)}
    assert apart(apply(held, following, cache=mended)[0], expected) < CLOSE
    padding_seen = apply(held, following, cache=cache)[0]
    assert apart(padding_seen[1], expected[1]) < CLOSE
    assert apart(padding_seen[0], expected[0]) > VISIBLE < apart(padding_seen[2], expected[2])


def test_what_has_no_room_in_a_cache_leaves_the_rest_alone() -> None:
    model = MODELS["llama"]
    row, held, apply = tokens(1, 8), variables(model), jax.jit(model.build().apply)
    _, full = apply(held, row[:, :4], cache=model.init_cache(1, 4, jnp.float32))
    _, over = apply(held, row[:, 4:], cache=full)
    assert jnp.array_equal(over["keys"], full["keys"])
    with pytest.raises(ValueError, match="max_length is 24"):
        model.init_cache(1, 25, jnp.float32)
    with pytest.raises(ValueError, match="no segments or positions"):
        apply(held, row, segments=row, cache=full)


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation, those of inner functions too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def dtypes(function: Any, *arguments: Any) -> dict[str, set[str]]:
    """Primitive -> dtypes of what it takes."""
    found: dict[str, set[str]] = {}
    for equation in equations(jax.make_jaxpr(function)(*arguments).jaxpr):
        taken = {str(x.aval.dtype) for x in equation.invars}
        found.setdefault(equation.primitive.name, set()).update(taken)
    return found


def test_bfloat16_multiplies_matrices_and_float32_takes_norms_and_softmax(model: Decoder) -> None:
    held, row = variables(model), tokens(2, 8)
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), held)
    found = dtypes(model.build().apply, low, row)
    assert found["dot_general"] == {"bfloat16"}
    assert found["rsqrt"] == found["exp"] == {"float32"}  # norms and softmax
    assert dtypes(model.build().apply, held, row)["dot_general"] == {"float32"}
    careless = nn.LayerNorm(force_float32_reductions=False, use_fast_variance=False)
    x = jnp.ones((2, 4), jnp.bfloat16)
    inner = {"params": {"scale": x[0], "bias": x[0]}}
    assert dtypes(careless.apply, inner, x)["rsqrt"] == {"bfloat16"}
    apply = jax.jit(model.build().apply)
    high, near = (apply(v, row).astype(jnp.float32) for v in (held, low))
    assert 0 < apart(high, near) < 0.05 * float(jnp.abs(high).max())


def test_gradients_of_equal_ids_are_summed_in_float32(model: Decoder) -> None:
    held, row = variables(model), tokens(2, 8)
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), held)

    def total(held: Any) -> jax.Array:
        return model.build().apply(held, row).astype(jnp.float32).sum()

    assert dtypes(jax.grad(total), low)["scatter-add"] == {"float32", "int32"}
    table, ids = jnp.zeros((4, 1), jnp.bfloat16), jnp.zeros((1, 1024), jnp.int32)

    def gradient(look: Any) -> jax.Array:
        return jax.jit(jax.grad(lambda table: look(table, ids).sum()))(table)[0, 0]

    assert gradient(look_up) == 1024
    assert gradient(lambda table, ids: table[ids]) == 256  # 256 + 1 is 256 in bfloat16


class Seen:
    """A placement that leaves all where it is, and remembers what it was asked."""

    def __init__(self, *cut: str) -> None:
        self.cut = cut
        self.shapes: dict[tuple[str, ...], set[tuple[int, ...]]] = {}

    def place(self, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        assert len(axes) == x.ndim
        self.shapes.setdefault(axes, set()).add(x.shape)
        return x

    @property
    def device(self) -> Any:
        return jax.devices()[0]

    def shares(self, axis: str) -> int:
        return 2 if axis in self.cut else 1

    def per_device(self, function: Any, ins: Any, out: Any) -> Any:
        return function

    def note(self, topic: str, told: str) -> None:
        self.notes = {**getattr(self, "notes", {}), topic: told}


def test_activations_are_laid_out_by_name(model: Decoder) -> None:
    held, seen = variables(model), Seen()
    with placing(seen):
        jax.eval_shape(model.build().apply, held, tokens(2, 8))
    g, f = model.key_heads, model.hidden
    assert seen.shapes == {
        ("vocab", "embed"): {(61, 32)},
        ("batch", "length", "embed"): {(2, 8, 32)},
        ("batch", "length", "heads", "head_dim"): {(2, 8, 4, 8)},
        ("batch", "kv_length", "kv_heads", "head_dim"): {(2, 8, g, 8)},
        ("batch", "length", "mlp"): {(2, 8, f)},
        ("batch", "length", "vocab"): {(2, 8, 61)},
    }


def test_positions_that_are_cut_are_not_flattened(model: Decoder) -> None:
    held, row, products, logits = variables(model), tokens(2, 8), [], []
    for cut in ((), ("length",)):
        with placing(Seen(*cut)):
            apply = jax.jit(model.build().apply)  # a jit of its own: the placement is traced in
            logits.append(apply(held, row))
            jaxpr = jax.make_jaxpr(model.build().apply)(held, row).jaxpr
        shapes = [
            e.outvars[0].aval.shape for e in equations(jaxpr) if e.primitive.name == "reshape"
        ]
        products.append(any(shape[0] == 16 for shape in shapes))
    assert products == [True, False]
    assert apart(*logits) < CLOSE


def test_roles_of_grouped_heads_gates_and_an_own_head() -> None:
    model = MODELS["llama"]
    boxed = jax.eval_shape(model.build().init, jax.random.key(0), tokens(1, 4))["params"]
    roles = read_roles(boxed)
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        map_roles(lambda leaf: (leaf.role, leaf.matrix_shape), roles),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    told = {jax.tree_util.keystr(p, simple=True, separator="/"): pair for p, pair in leaves}
    matrices = {name: pair for name, pair in told.items() if pair[0] != "vector"}
    assert matrices == {
        "embedding": ("embedding", (61, 32)),
        "head": ("head", (32, 61)),
        "layers/attention/q": ("matrix", (2, 32, 32)),
        "layers/attention/kv": ("matrix", (2, 2, 32, 16)),
        "layers/attention/out": ("matrix", (2, 32, 32)),
        "layers/mlp/gate": ("matrix", (2, 32, 128)),
        "layers/mlp/in": ("matrix", (2, 32, 128)),
        "layers/mlp/out": ("matrix", (2, 128, 32)),
    }
    assert Leaf((2, 8), ("layers", "head_dim")).role == "vector"


def test_a_gated_mlp_has_about_as_many_parameters_as_a_plain_one() -> None:
    for width in (128, 768, 4096):
        plain, gated = GPT(width=width), Llama(width=width)
        assert 2 * plain.hidden <= 3 * gated.hidden < 2 * plain.hidden + 3 * 64
    assert dataclasses.replace(gated, mlp_width=100).hidden == 100
