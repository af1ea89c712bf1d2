"""How far each optimizer is from its references, for experiments/optimizer_badges.

python tests/optim_deviations.py    # {"adamw": 1.8e-15, ...}: the largest over 20 float64 steps
"""

import json

import jax
from optim_parity_rows import ROWS
from test_optim_parity import distances


def main() -> None:
    found: dict[str, float] = {}
    with jax.enable_x64(True):
        for stem, row in ROWS.items():
            label = row.right.label
            found[label] = max(found.get(label, 0.0), *map(float, distances(stem)[0]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
