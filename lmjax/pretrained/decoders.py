"""The layouts of GPT-2, Llama and Qwen3, and which of them a model has.

Letters: V vocabulary, P positions, D width, F width of the MLP, H heads, G heads of keys and
values, K head_dim, S the axis of q, k and v. GPT-2 keeps linear maps as [input, output], as we do;
Llama and Qwen3 as [output, input].
"""

import dataclasses
from typing import Any

from lmjax.errors import InputError
from lmjax.models import Model
from lmjax.models.decoder import Decoder
from lmjax.pretrained.layout import Layout, Setting, Tensor


def layout_of(model: Model) -> Layout:
    """The layout that says all that this model is; raises InputError where there is none."""
    if not isinstance(model, Decoder):
        known = ", ".join(layout.model_type for layout in LAYOUTS)
        raise InputError(f"{model.label} has no layout in transformers that we know; {known} have")
    differences = {layout.model_type: _difference(layout, model) for layout in LAYOUTS}
    nearest = min(LAYOUTS, key=lambda layout: len(differences[layout.model_type]))
    if told := differences[nearest.model_type]:
        raise InputError(
            f"no layout in transformers says what this model is; the nearest, "
            f"{nearest.model_type}, needs {', '.join(told)}"
        )
    return nearest


def _difference(layout: Layout, model: Decoder) -> list[str]:
    return [
        f"{name} = {needed!r} (is {getattr(model, name)!r})"
        for name, needed in layout.needs(model).items()
        if getattr(model, name) != needed
    ]


def _gpt2_needs(m: Decoder) -> dict[str, Any]:
    return {
        "norm": "layer",
        "position": "learned",
        "activation": "gelu_tanh",
        "gated": False,
        "biases": True,
        "qk_norm": False,
        "logit_cap": 0.0,
        "table_rows": m.vocab_size,
        "key_heads": m.heads,
        "head_size": m.width / m.heads,
    }


def _llama_needs(m: Decoder) -> dict[str, Any]:
    return {
        "norm": "rms",
        "position": "rotary",
        "activation": "silu",
        "gated": True,
        "biases": False,
        "logit_cap": 0.0,
        "table_rows": m.vocab_size,
        "qk_norm": False,
    }


def _qwen3_needs(m: Decoder) -> dict[str, Any]:
    return {**_llama_needs(m), "qk_norm": True}


def _no_special_tokens(m: Decoder) -> dict[str, Any]:
    """Theirs would stand for tokens of their own tokenizers."""
    return {"bos_token_id": None, "eos_token_id": None}


def _llama_unchecked(m: Decoder) -> dict[str, Any]:
    """transformers before 5 reads the wavelength here, and without it would take another."""
    return {"rope_theta": m.rope_theta, **_no_special_tokens(m)}


GPT2 = Layout(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    prefix="transformer.",
    buffers=(".attn.bias", ".attn.masked_bias"),
    needs=_gpt2_needs,
    settings=(
        Setting("vocab_size", lambda m: m.vocab_size),
        Setting("n_positions", lambda m: m.max_length),
        Setting("n_embd", lambda m: m.width),
        Setting("n_layer", lambda m: m.depth),
        Setting("n_head", lambda m: m.heads),
        Setting("n_inner", lambda m: m.hidden, lambda m: 4 * m.width),
        Setting("activation_function", lambda m: "gelu_new", lambda m: "gelu_new"),
        Setting("layer_norm_epsilon", lambda m: m.norm_eps, lambda m: 1e-5),
        Setting("tie_word_embeddings", lambda m: m.tied, lambda m: True),
        Setting("scale_attn_weights", lambda m: True, lambda m: True),
        Setting("scale_attn_by_inverse_layer_idx", lambda m: False, lambda m: False),
        Setting("add_cross_attention", lambda m: False, lambda m: False),
    ),
    unchecked=lambda m: {
        "embd_pdrop": m.dropout,
        "resid_pdrop": m.dropout,
        "attn_pdrop": 0.0,
        **_no_special_tokens(m),
    },
    tensors=(
        Tensor("embedding", "V D", "transformer.wte.weight", "V D"),
        Tensor("position", "P D", "transformer.wpe.weight", "P D"),
        Tensor("layers/norm_1/scale", "D", "transformer.h.{}.ln_1.weight", "D"),
        Tensor("layers/norm_1/bias", "D", "transformer.h.{}.ln_1.bias", "D"),
        Tensor("layers/attention/qkv", "D H S K", "transformer.h.{}.attn.c_attn.weight", "D SHK"),
        Tensor("layers/attention/qkv_bias", "H S K", "transformer.h.{}.attn.c_attn.bias", "SHK"),
        Tensor("layers/attention/out", "H K D", "transformer.h.{}.attn.c_proj.weight", "HK D"),
        Tensor("layers/attention/out_bias", "D", "transformer.h.{}.attn.c_proj.bias", "D"),
        Tensor("layers/norm_2/scale", "D", "transformer.h.{}.ln_2.weight", "D"),
        Tensor("layers/norm_2/bias", "D", "transformer.h.{}.ln_2.bias", "D"),
        Tensor("layers/mlp/in", "D F", "transformer.h.{}.mlp.c_fc.weight", "D F"),
        Tensor("layers/mlp/in_bias", "F", "transformer.h.{}.mlp.c_fc.bias", "F"),
        Tensor("layers/mlp/out", "F D", "transformer.h.{}.mlp.c_proj.weight", "F D"),
        Tensor("layers/mlp/out_bias", "D", "transformer.h.{}.mlp.c_proj.bias", "D"),
        Tensor("norm/scale", "D", "transformer.ln_f.weight", "D"),
        Tensor("norm/bias", "D", "transformer.ln_f.bias", "D"),
        Tensor("head", "D V", "lm_head.weight", "V D"),
    ),
    embedding="transformer.wte.weight",
    head="lm_head.weight",
)

_LLAMA_SETTINGS = (
    Setting("vocab_size", lambda m: m.vocab_size),
    Setting("max_position_embeddings", lambda m: m.max_length, at_least=True),
    Setting("hidden_size", lambda m: m.width),
    Setting("intermediate_size", lambda m: m.hidden),
    Setting("num_hidden_layers", lambda m: m.depth),
    Setting("num_attention_heads", lambda m: m.heads),
    Setting("num_key_value_heads", lambda m: m.key_heads, lambda m: m.heads),
    Setting("hidden_act", lambda m: "silu", lambda m: "silu"),
    Setting("rms_norm_eps", lambda m: m.norm_eps, lambda m: 1e-6),
    Setting("rope_parameters", lambda m: {"rope_type": "default", "rope_theta": m.rope_theta}),
    Setting("tie_word_embeddings", lambda m: m.tied, lambda m: False),
    Setting("attention_bias", lambda m: False, lambda m: False),
)

_LLAMA_TENSORS = (
    Tensor("embedding", "V D", "model.embed_tokens.weight", "V D"),
    Tensor("layers/norm_1/scale", "D", "model.layers.{}.input_layernorm.weight", "D"),
    Tensor("layers/attention/qkv", "D H 0 K", "model.layers.{}.self_attn.q_proj.weight", "HK D"),
    Tensor("layers/attention/qkv", "D H 1 K", "model.layers.{}.self_attn.k_proj.weight", "HK D"),
    Tensor("layers/attention/qkv", "D H 2 K", "model.layers.{}.self_attn.v_proj.weight", "HK D"),
    Tensor("layers/attention/q", "D H K", "model.layers.{}.self_attn.q_proj.weight", "HK D"),
    Tensor("layers/attention/kv", "D G 0 K", "model.layers.{}.self_attn.k_proj.weight", "GK D"),
    Tensor("layers/attention/kv", "D G 1 K", "model.layers.{}.self_attn.v_proj.weight", "GK D"),
    Tensor("layers/attention/out", "H K D", "model.layers.{}.self_attn.o_proj.weight", "D HK"),
    Tensor("layers/norm_2/scale", "D", "model.layers.{}.post_attention_layernorm.weight", "D"),
    Tensor("layers/mlp/gate", "D F", "model.layers.{}.mlp.gate_proj.weight", "F D"),
    Tensor("layers/mlp/in", "D F", "model.layers.{}.mlp.up_proj.weight", "F D"),
    Tensor("layers/mlp/out", "F D", "model.layers.{}.mlp.down_proj.weight", "D F"),
    Tensor("norm/scale", "D", "model.norm.weight", "D"),
    Tensor("head", "D V", "lm_head.weight", "V D"),
)

LLAMA = Layout(
    model_type="llama",
    architecture="LlamaForCausalLM",
    prefix="model.",
    buffers=(".rotary_emb.inv_freq",),
    needs=_llama_needs,
    settings=(
        *_LLAMA_SETTINGS,
        Setting("head_dim", lambda m: m.head_size, lambda m: m.width // m.heads),
        Setting("mlp_bias", lambda m: False, lambda m: False),
    ),
    unchecked=_llama_unchecked,
    tensors=_LLAMA_TENSORS,
    embedding="model.embed_tokens.weight",
    head="lm_head.weight",
)

QWEN3 = dataclasses.replace(
    LLAMA,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    needs=_qwen3_needs,
    settings=(
        *_LLAMA_SETTINGS,
        Setting("head_dim", lambda m: m.head_size, lambda m: 128),
        Setting("use_sliding_window", lambda m: False, lambda m: False),
    ),
    tensors=(
        *_LLAMA_TENSORS,
        Tensor(
            "layers/attention/q_norm/scale", "K", "model.layers.{}.self_attn.q_norm.weight", "K"
        ),
        Tensor(
            "layers/attention/k_norm/scale", "K", "model.layers.{}.self_attn.k_norm.weight", "K"
        ),
    ),
)

LAYOUTS = (GPT2, LLAMA, QWEN3)
