"""torch.optim's updates, for optimizer_cost.py: a line of JSON for each line of standard input."""

# pyright: reportMissingImports=false
import json
import sys
import time

import torch


def begin(name, shapes):
    """The optimizer with parameters of these shapes, whose gradients are there."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(0.02 * torch.randn(*s, generator=generator)) for s in shapes]
    for p in params:
        p.grad = torch.randn(*p.shape, generator=generator)
    optimizer = getattr(torch.optim, name)(params)
    optimizer.step()
    return optimizer


def main():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    for line in sys.stdin:
        question = json.loads(line)
        if "optimizer" in question:
            optimizer = begin(question["optimizer"], question["shapes"])
            answer = {"torch": torch.__version__}
        else:
            begun = time.perf_counter()
            for _ in range(question["updates"]):
                optimizer.step()
            answer = {"seconds": time.perf_counter() - begun}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
