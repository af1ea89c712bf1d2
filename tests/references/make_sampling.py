"""Writes sampling.npz: logits, and what transformers leaves of them before a token is drawn.

    pip install torch==2.13.0 transformers==5.23.0 numpy==2.4.6
    python make_sampling.py sampling.npz

`logits` are float32 [rows, tokens]; `settings` the temperature, top-k and top-p of each case;
`narrowed` [cases, rows, tokens] the logits after TemperatureLogitsWarper, TopKLogitsWarper and
TopPLogitsWarper in turn, -inf where a token is left out.
"""

# pyright: reportMissingImports=false
import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

SETTINGS = (
    (0.7, 0, 1.0),
    (1.0, 1, 1.0),
    (1.0, 5, 1.0),
    (1.3, 500, 1.0),
    (1.0, 0, 0.9),
    (0.5, 0, 0.5),
    (1.0, 0, 0.01),
    (1.5, 8, 0.8),
    (0.8, 3, 0.6),
)


def warpers(temperature: float, top_k: int, top_p: float) -> LogitsProcessorList:
    """As transformers chains them; it builds none for a setting that changes nothing."""
    chain = [TemperatureLogitsWarper(temperature)]
    if top_k:
        chain.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        chain.append(TopPLogitsWarper(top_p))
    return LogitsProcessorList(chain)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write sampling.npz.")
    parser.add_argument("output", type=Path, help="sampling.npz")
    arguments = parser.parse_args()
    logits = (2 * np.random.default_rng(0).normal(size=(4, 40))).astype(np.float32)
    inputs = torch.zeros((4, 1), dtype=torch.int64)
    narrowed = [warpers(*case)(inputs, torch.tensor(logits)).numpy() for case in SETTINGS]
    np.savez_compressed(
        arguments.output,
        allow_pickle=False,
        logits=logits,
        settings=np.array(SETTINGS),
        narrowed=np.stack(narrowed),
    )


if __name__ == "__main__":
    main()
