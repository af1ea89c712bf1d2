"""Writes ema.npz: torch's exponential moving average of a walk of parameters.

    pip install torch==2.13.0 numpy==2.4.6
    python make_ema.py ema.npz

on Python 3.11, in float64, by torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn(0.9).
`walk` holds the parameters after each update and `average` the average then.
"""

# pyright: reportMissingImports=false
import sys

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

DECAY, STEPS, SHAPE = 0.9, 12, (3, 5)


def main() -> None:
    rng = np.random.default_rng(0)
    walk = rng.normal(size=(STEPS, *SHAPE)).cumsum(0)
    model = torch.nn.Linear(SHAPE[1], SHAPE[0], bias=False).double()
    averaged, seen = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY)), []
    for values in walk:
        with torch.no_grad():
            model.weight.copy_(torch.tensor(values))
        averaged.update_parameters(model)
        seen.append(averaged.module.weight.detach().numpy().copy())
    np.savez_compressed(sys.argv[1], walk=walk, average=np.stack(seen), decay=DECAY)


if __name__ == "__main__":
    main()
