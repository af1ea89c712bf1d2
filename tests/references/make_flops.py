"""Writes flops.json: forward FLOP by torch's own counter, torch.utils.flop_counter.

    pip install torch==2.13.0
    python make_flops.py flops.json

on Python 3.11. Nothing is computed: all tensors are on the meta device.
"""

# pyright: reportMissingImports=false
import argparse
import json
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def forward(call) -> int:
    """FLOP of call()."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def simple_fcn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4608, 10),
        nn.ReLU(),
        nn.Linear(10, 10),
    )


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(),
        nn.Linear(256, 10),
    )  # fmt: skip


def main() -> None:
    torch.set_default_device("meta")
    digits, images = torch.empty(4, 1, 28, 28), torch.empty(2, 6, 15, 17)
    heads = torch.empty(2, 3, 16, 8)
    counts = {
        "simple_fcn": forward(lambda: simple_fcn()(digits)),
        "mlp": forward(lambda: mlp()(digits)),
        "conv_padded": forward(lambda: nn.Conv2d(6, 8, 3, padding=1)(images)),
        "conv_strided": forward(lambda: nn.Conv2d(6, 8, 3, stride=2)(images)),
        "conv_grouped": forward(lambda: nn.Conv2d(6, 8, 3, groups=2)(images)),
        "conv_dilated": forward(lambda: nn.Conv2d(6, 8, 3, dilation=2)(images)),
        "attention": forward(
            lambda: nn.functional.scaled_dot_product_attention(heads, heads, heads)
        ),
        "matmul": forward(lambda: torch.empty(2, 3, 4, 5) @ torch.empty(2, 3, 5, 7)),
    }
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.parse_args().path.write_text(json.dumps(counts, indent=1) + "\n")


if __name__ == "__main__":
    main()
