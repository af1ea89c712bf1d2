"""Which kernel computes attention is chosen by what it can do, and never in silence."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.errors import FieldError
from lmjax.models import kernels
from lmjax.models.kernels import Site, choose
from lmjax.parallel import compile_program
from lmjax.parts import replace


def device(platform: str, kind: str, capability: str = "") -> types.SimpleNamespace:
    named = {"compute_capability": capability} if capability else {}
    return types.SimpleNamespace(platform=platform, device_kind=kind, **named)


HOPPER = Site(device("gpu", "H100", "9.0"), jnp.bfloat16, 64, 1024, False)
AMPERE = HOPPER._replace(device=device("gpu", "A100", "8.0"))
TPU = Site(device("tpu", "v5e"), jnp.float32, 128, 1024, False)
CPU = Site(device("cpu", "cpu"), jnp.float32, 64, 1024, False)
SITES = [
    (HOPPER, "cudnn", "the fastest here"),
    (HOPPER._replace(dtype=jnp.float32), "xla", "cudnn needs --compute-dtype bfloat16"),
    (HOPPER._replace(head_dim=257), "xla", "at most 256, not 257"),
    (HOPPER._replace(head_dim=60), "xla", "a multiple of 8"),
    (HOPPER._replace(cut=True), "xla", "whole sequences on each device"),
    (AMPERE, "xla", "gains too little before Hopper"),
    (TPU, "splash", "the fastest here"),
    (TPU._replace(length=1000), "xla", "a multiple of 128 positions, not 1000"),
    (CPU, "xla", "there is no fused kernel for cpu"),
]


@pytest.mark.parametrize(("site", "kernel", "why"), SITES)
def test_auto_takes_the_fastest_that_can_run_and_says_why(site, kernel, why):
    chosen, told = choose("auto", site)
    assert chosen == kernel
    assert why in told


def test_a_kernel_that_is_asked_for_is_taken_or_refused():
    assert choose("cudnn", AMPERE)[0] == "cudnn"
    assert choose("xla", HOPPER)[0] == "xla"
    for wanted, site, told in (
        ("cudnn", CPU, "needs an NVIDIA GPU, Ampere or newer, not cpu"),
        ("cudnn", AMPERE._replace(head_dim=192), "at most 128, not 192"),
        ("splash", HOPPER, "needs a TPU, not H100"),
    ):
        with pytest.raises(FieldError, match=told):
            choose(wanted, site)


def test_a_run_that_cannot_have_its_kernel_is_refused_before_it_compiles(tiny_gpt):
    wanted = replace(tiny_gpt, "task.model.attention", "cudnn")
    batch = wanted.data.load().batch(0, 0, wanted.batch_size)
    with pytest.raises(FieldError, match=r"task.model.attention = 'cudnn': needs an NVIDIA GPU"):
        compile_program(wanted, batch)


def test_a_run_is_told_what_was_chosen(tiny_gpt):
    batch = tiny_gpt.data.load().batch(0, 0, tiny_gpt.batch_size)
    assert compile_program(tiny_gpt, batch).notes == {
        "attention": "xla (there is no fused kernel for cpu)",
        "cross-entropy": "plain (all logits are small)",
    }


def arrays(heads: int, groups: int, length: int = 128) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    shapes = [(2, length, heads, 64), (2, length, groups, 64), (2, length, groups, 64)]
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("groups", [2, 1])
def test_splash_is_causal_attention_inside_segments(groups):
    """Interpreted on this device, beside JAX's own attention."""
    q, k, v = arrays(2, groups)
    segments = jnp.asarray([[1] * 50 + [2] * 78, [1] * 128])
    mask = segments[:, None, :, None] == segments[:, None, None, :]
    right = jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True)
    told = kernels.splash(q, k, v, segments, interpret=True)
    np.testing.assert_allclose(told, right, atol=2e-5)
    whole = kernels.splash(q, k, v, None, interpret=True)
    assert np.abs(whole - right).max() > 1e-2


def test_splash_is_in_the_program_for_a_tpu_forward_and_backward(monkeypatch):
    """Lowered for a TPU, which needs none: one kernel forward, two backward."""
    monkeypatch.setattr(kernels, "device", lambda: TPU.device)
    q, k, v = arrays(2, 2)

    def program(wanted: kernels.Wanted) -> str:
        def loss(q, k, v):
            return kernels.attend(wanted, q, k, v, None).sum()

        traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, v)
        return traced.lower(lowering_platforms=("tpu",)).as_text()

    assert program("auto").count("tpu_custom_call") == 3
    assert program("xla").count("tpu_custom_call") == 0


def test_cudnn_s_call_is_in_the_program_for_a_gpu_forward_and_backward(monkeypatch):
    """Lowered for CUDA; that this machine has no cuDNN is the one thing that is pretended away."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(kernels, "device", lambda: HOPPER.device)
    q, k, v = (x.astype(jnp.bfloat16) for x in arrays(2, 2))

    def program(wanted: kernels.Wanted) -> str:
        def loss(q, k, v):
            return kernels.attend(wanted, q, k, v, None).astype(jnp.float32).sum()

        traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, v)
        return traced.lower(lowering_platforms=("cuda",)).as_text()

    text = program("auto")
    assert "__cudnn$fmhaSoftmax" in text
    assert "__cudnn$fmhaSoftmaxBackward" in text
    assert "__cudnn" not in program("xla")


def test_padding_of_the_vocabulary_is_never_likely(tiny_gpt):
    """A padded table with the same rows gives the same logits, whatever the padding holds."""
    model = tiny_gpt.task.model
    padded = dataclasses.replace(model, vocab_size=250, vocab_multiple=128)
    plain = dataclasses.replace(model, vocab_size=250)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 250, (2, 8)), jnp.int32)
    from flax.core import meta

    variables = meta.unbox(plain.build().init(jax.random.key(0), tokens))
    table = variables["params"]["embedding"]
    wider = {
        **variables["params"],
        "embedding": jnp.pad(table, ((0, 6), (0, 0)), constant_values=9),
    }
    one = plain.build().apply(variables, tokens)
    two = padded.build().apply({"params": wider}, tokens)
    assert two.shape == (2, 8, 250)
    np.testing.assert_allclose(one, two, rtol=1e-6)
    assert padded.table_rows == 256
