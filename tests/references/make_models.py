"""Writes models.npz: weights, inputs and logits of a GPT-2 and of SimpleFCN's layers in torch.

    pip install torch==2.13.0 transformers==5.23.0 numpy==2.4.6
    python make_models.py models.npz

on Python 3.11, on the CPU, in float32. The GPT-2 is transformers' GPT2LMHeadModel with drawn
weights: large ones, biases and norms included, so that a wrong or missing one shows. Each weight
is stored under its name there, after `gpt/`. `gpt/erf_logits` are those of the same weights with
the exact GELU in place of GPT-2's tanh one, to show that the comparison tells the two apart.
`gpt2/parameters` counts the parameters of the four published sizes, without allocating them.

The convolutional net is a torch.nn.Sequential, in torch's layout [batch, channel, row, column];
only its input is stored as [batch, row, column, channel].
"""

# pyright: reportMissingImports=false
import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

PUBLISHED = ((12, 768, 12), (24, 1024, 16), (36, 1280, 20), (48, 1600, 25))  # depth, width, heads


def small_gpt(activation: str) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=61,
        n_positions=24,
        n_embd=32,
        n_layer=2,
        n_head=4,
        activation_function=activation,
        attn_implementation="eager",
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


def draw(rng: np.random.Generator, name: str, shape: torch.Size) -> np.ndarray:
    """Normal around 0, or around 1 for the scale of a norm."""
    mean = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
    return (mean + 0.2 * rng.normal(size=tuple(shape))).astype(np.float32)


def gpt(rng: np.random.Generator) -> dict[str, np.ndarray]:
    model, exact = small_gpt("gelu_new"), small_gpt("gelu")
    weights = {
        name: draw(rng, name, tensor.shape)
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to transformer.wte.weight
    }
    for each in (model, exact):
        missing, unexpected = each.load_state_dict(
            {name: torch.tensor(x) for name, x in weights.items()}, strict=False
        )
        assert missing == ["lm_head.weight"], missing
        assert not unexpected, unexpected
        assert each.lm_head.weight is each.transformer.wte.weight
    tokens = torch.tensor(rng.integers(0, 61, size=(3, 20)))
    output = model(tokens, labels=tokens)
    return {
        **weights,
        "tokens": tokens.numpy().astype(np.int32),
        "logits": output.logits.numpy(),
        "cross_entropy": output.loss.numpy(),
        "erf_logits": exact(tokens).logits.numpy(),
    }


def published_parameters() -> np.ndarray:
    counts = []
    for depth, width, heads in PUBLISHED:
        with torch.device("meta"):
            model = GPT2LMHeadModel(GPT2Config(n_layer=depth, n_embd=width, n_head=heads))
            model.tie_weights()
        counts.append(sum(parameter.numel() for parameter in model.parameters()))
    return np.array(counts)


def simple_fcn(rng: np.random.Generator) -> dict[str, np.ndarray]:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 5),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 12 * 12, 10),
        torch.nn.ReLU(),
        torch.nn.Linear(10, 10),
    )
    names = {
        "0.weight": "conv/weight",
        "0.bias": "conv/bias",
        "4.weight": "hidden/weight",
        "4.bias": "hidden/bias",
        "6.weight": "head/weight",
        "6.bias": "head/bias",
    }
    stds = {"conv/weight": 0.2, "hidden/weight": 0.02}
    state = {
        key: torch.tensor(
            rng.normal(scale=stds.get(names[key], 0.5), size=tuple(tensor.shape)),
            dtype=torch.float32,
        )
        for key, tensor in model.state_dict().items()
    }
    model.load_state_dict(state)
    images = rng.normal(size=(4, 28, 28, 1)).astype(np.float32)
    logits = model(torch.tensor(images.transpose(0, 3, 1, 2)))
    return {
        **{names[key]: tensor.numpy() for key, tensor in state.items()},
        "images": images,
        "logits": logits.numpy(),
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="Write models.npz.")
    parser.add_argument("output", type=Path, help="models.npz")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    arrays = {f"gpt/{name}": x for name, x in gpt(rng).items()}
    arrays |= {f"simple_fcn/{name}": x for name, x in simple_fcn(rng).items()}
    arrays["gpt2/parameters"] = published_parameters()
    np.savez_compressed(arguments.output, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
