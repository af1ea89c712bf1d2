"""How far each optimizer is from its references, for experiments/optimizer_badges.

python tests/optim_deviations.py    # {"adamw": 1.8e-15, ...}: the largest over 20 float64 steps

Of each optimizer alone: what wraps one has a reference of its own, and is no part of its deviation.
"""

import json

import jax
from optim_parity_rows import ROWS
from test_optim_parity import distances

from lmjax.optim import Optimizer, Outer


def main() -> None:
    found: dict[str, float] = {}
    with jax.enable_x64(True):
        for stem, row in ROWS.items():
            if is_wrapped(row.right):
                continue
            label = row.right.label
            found[label] = max(found.get(label, 0.0), *map(float, distances(stem)[0]))
    print(json.dumps(found))


def is_wrapped(optimizer: Optimizer) -> bool:
    """Whether another method stands around its direction."""
    wraps = optimizer.cautious, optimizer.hyperball, optimizer.ema_decay
    return any(wraps) or optimizer.outer != Outer()


if __name__ == "__main__":
    main()
