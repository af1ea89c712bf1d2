"""Writes pretrained/: three small models as transformers' save_pretrained leaves them, and logits.

    pip install torch==2.13.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    python make_pretrained.py pretrained

on Python 3.11, on the CPU. The weights are drawn, norms and biases included, so that a wrong or
missing one shows:

gpt2    float32, one file, an MLP that is not 4 times as wide
llama   float32, in shards with an index, 2 heads of keys and values for 4 of queries, heads of 6
        that do not add up to the width of 16, a head of its own
qwen3   bfloat16, one file, as many heads of keys and values as of queries, a tied head

logits.npz holds tokens and, under each name, the float32 logits of the saved model, loaded again.
"""

# pyright: reportMissingImports=false
import argparse
from pathlib import Path

import numpy as np
import torch
import transformers

VOCABULARY, POSITIONS, WIDTH, DEPTH, HEADS = 256, 24, 16, 2, 4
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None}
ROTARY = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "head_dim": 6,
    "rms_norm_eps": 1e-2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    **NO_TOKENS,
}


def models() -> dict[str, torch.nn.Module]:
    gpt2 = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        n_embd=WIDTH,
        n_layer=DEPTH,
        n_head=HEADS,
        n_inner=24,
        **NO_TOKENS,
    )
    llama = transformers.LlamaConfig(**ROTARY, num_key_value_heads=2)
    qwen3 = transformers.Qwen3Config(
        **ROTARY, num_key_value_heads=HEADS, tie_word_embeddings=True, dtype="bfloat16"
    )
    return {
        "gpt2": transformers.GPT2LMHeadModel(gpt2),
        "llama": transformers.LlamaForCausalLM(llama),
        "qwen3": transformers.Qwen3ForCausalLM(qwen3).to(torch.bfloat16),
    }


def draw(rng: np.random.Generator, model: torch.nn.Module) -> None:
    """Normal around 0, or around 1 for the scale of a norm."""
    for name, parameter in model.named_parameters():
        norm = parameter.ndim == 1 and name.endswith("weight")
        values = norm + 0.3 * rng.normal(size=tuple(parameter.shape))
        parameter.copy_(torch.tensor(values).to(parameter.dtype))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="Write pretrained/.")
    parser.add_argument("output", type=Path, help="pretrained")
    output = parser.parse_args().output
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCABULARY, size=(2, 12))
    arrays = {"tokens": tokens.astype(np.int32)}
    for name, model in models().items():
        draw(rng, model)
        model.save_pretrained(output / name, max_shard_size="32KB" if name == "llama" else "1GB")
        (output / name / "generation_config.json").unlink(missing_ok=True)
        saved = type(model).from_pretrained(output / name, dtype="float32").eval()
        arrays[name] = saved(torch.tensor(tokens)).logits.numpy()
    np.savez_compressed(output / "logits.npz", allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
