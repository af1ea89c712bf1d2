"""The tables of published layouts: which model has which, and that they leave nothing out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from lmjax.errors import InputError
from lmjax.models import GPT, MLP, Llama
from lmjax.pretrained import export
from lmjax.pretrained.decoders import layout_of


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (MLP(), "mlp has no layout in transformers that we know; gpt2, llama, qwen3 have"),
        (GPT(norm="rms"), "gpt2, needs norm = 'layer' (is 'rms')"),
        (GPT(head_dim=8), "gpt2, needs head_size = 32.0 (is 8)"),
        (Llama(biases=True), "llama, needs biases = False (is True)"),
    ],
)
def test_models_without_a_layout_are_refused(model, told, tmp_path):
    with pytest.raises(InputError) as error:
        export.write(model, {}, tmp_path / "out", "float32")
    assert told in str(error.value)
    assert not (tmp_path / "out").exists()


def test_every_preset_has_the_layout_of_its_family():
    """But the two sizes whose heads do not add up to their width, which GPT-2's cannot say."""
    for model, wanted in ((GPT, "gpt2"), (Llama, "llama")):
        for name, fields in model.presets.items():
            if name.endswith("-table"):
                with pytest.raises(InputError, match="head_size"):
                    layout_of(model(**fields))
            else:
                assert layout_of(model(**fields)).model_type == wanted


@pytest.mark.parametrize(
    ("model", "model_type"),
    [
        (GPT(), "gpt2"),
        (GPT(tied=False), "gpt2"),
        (Llama(), "llama"),
        (Llama(kv_heads=0), "llama"),
        (Llama(qk_norm=True), "qwen3"),
    ],
)
def test_the_table_fills_every_parameter_once(model, model_type):
    layout = layout_of(model)
    assert layout.model_type == model_type
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    shapes = jax.eval_shape(model.build().init, jax.random.key(0), tokens)["params"]
    for where, leaf in jax.tree_util.tree_leaves_with_path(meta.unbox(shapes)):
        path = jax.tree_util.keystr(where, simple=True, separator="/")
        times = np.zeros(leaf.shape, np.int8)
        for piece in layout.pieces(path, leaf.shape):
            piece.of(times)[...] += 1
        assert (times == 1).all(), path


def test_a_table_that_lacks_a_row_is_told():
    lacking = dataclasses.replace(layout_of(GPT()), tensors=layout_of(GPT()).tensors[1:])
    with pytest.raises(ValueError, match="no row for parameter embedding"):
        lacking.shapes({"embedding": (256, 128)})
