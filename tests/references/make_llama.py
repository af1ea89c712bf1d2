"""Writes llama.npz: weights, tokens and logits of a small Llama and a small Qwen3.

    pip install torch==2.13.0 transformers==5.23.0 numpy==2.4.6
    python make_llama.py llama.npz

on Python 3.11, on the CPU, in float32. Both are transformers' (LlamaForCausalLM, Qwen3ForCausalLM)
with the same drawn weights, norms included, so that a wrong or missing one shows: 4 heads over 2
heads of keys and values, heads of 12 that do not add up to the width of 32, an untied head, and an
epsilon large enough to be seen. Each weight is stored under its name there, after `llama/`; Qwen3's
norms of queries and keys after `qwen3/`. `llama/greedy` holds the 12 likeliest tokens, one by one,
after the first 4, 9 and 6 of the three rows, by transformers' `generate`. `parameters` counts
llama2-7b, llama3-8b and llama3-70b, without allocating them.
"""

# pyright: reportMissingImports=false
import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

SMALL = {
    "vocab_size": 61,
    "max_position_embeddings": 24,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "rms_norm_eps": 1e-2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "tie_word_embeddings": False,
    "attention_bias": False,
    "attn_implementation": "eager",
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
PROMPTS = (4, 9, 6)  # tokens of each row that the greedy text goes on from
PUBLISHED = (  # vocabulary, depth, width, heads, heads of keys and values, width of the MLP
    (32000, 32, 4096, 32, 32, 11008),
    (128256, 32, 4096, 32, 8, 14336),
    (128256, 80, 8192, 64, 8, 28672),
)


def load(model: torch.nn.Module, weights: dict[str, np.ndarray]) -> torch.nn.Module:
    missing, unexpected = model.load_state_dict({k: torch.tensor(x) for k, x in weights.items()})
    assert not missing, missing
    assert not unexpected, unexpected
    return model.eval()


def draw(rng: np.random.Generator, model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Normal around 0, or around 1 for the scale of a norm."""
    return {
        name: (("norm" in name) + 0.3 * rng.normal(size=tuple(x.shape))).astype(np.float32)
        for name, x in model.state_dict().items()
    }


def published_parameters() -> np.ndarray:
    counts = []
    for vocabulary, depth, width, heads, kv_heads, mlp_width in PUBLISHED:
        config = LlamaConfig(
            vocab_size=vocabulary,
            num_hidden_layers=depth,
            hidden_size=width,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            intermediate_size=mlp_width,
            tie_word_embeddings=False,
        )
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        counts.append(sum(parameter.numel() for parameter in model.parameters()))
    return np.array(counts)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="Write llama.npz.")
    parser.add_argument("output", type=Path, help="llama.npz")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    qwen3 = Qwen3ForCausalLM(Qwen3Config(**SMALL))
    llama = LlamaForCausalLM(LlamaConfig(**SMALL))
    weights = draw(rng, qwen3)
    shared = {name: weights[name] for name in llama.state_dict()}
    tokens = torch.tensor(rng.integers(0, 61, size=(3, 20)))
    arrays = {f"llama/{name}": x for name, x in shared.items()}
    arrays |= {f"qwen3/{name}": x for name, x in weights.items() if name not in shared}
    arrays["tokens"] = tokens.numpy().astype(np.int32)
    arrays["llama/logits"] = load(llama, shared)(tokens).logits.numpy()
    arrays["qwen3/logits"] = load(qwen3, weights)(tokens).logits.numpy()
    greedy = [
        llama.generate(tokens[row : row + 1, :length], max_new_tokens=12, do_sample=False)
        for row, length in enumerate(PROMPTS)
    ]
    arrays["llama/greedy"] = np.stack([x[0, -12:].numpy().astype(np.int32) for x in greedy])
    arrays["parameters"] = published_parameters()
    np.savez_compressed(arguments.output, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
