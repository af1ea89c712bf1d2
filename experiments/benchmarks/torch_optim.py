"""Updates in PyTorch, for optimizer_cost.py: a line of JSON for each line of standard input."""

# pyright: reportMissingImports=false
import contextlib
import json
import sys
import time

import authors_optim
import torch


def begin(label, tensors, checkouts):
    """The optimizer with parameters of these shapes, whose gradients are there, and them."""
    generator = torch.Generator().manual_seed(0)
    matrices, rest, gradients = [], [], []
    for tensor in tensors:
        start = 0.02 * torch.randn(*tensor["shape"], generator=generator)
        param = torch.nn.Parameter(start)
        param.grad = torch.randn(*tensor["shape"], generator=generator)
        (matrices if tensor["matrix"] else rest).append(param)
        gradients.append((param, param.grad, param.grad.clone()))
    return authors_optim.make(label, matrices, rest, checkouts), gradients


def keep_overwritten(gradients):
    """After an update: forget the copies of gradients that it has not written to.

    They need not be put back, and shall not: what was written just now lies in the processor's
    cache, where our gradients do not.
    """
    return [(p, g, None if torch.equal(g, value) else value) for p, g, value in gradients]


def block(optimizer, gradients, updates):
    """Seconds of so many updates; gradients that an optimizer overwrites are put back."""
    taken = 0.0
    for _ in range(updates):
        for param, gradient, value in gradients:
            if value is not None:
                gradient.copy_(value)
            param.grad = gradient
        begun = time.perf_counter()
        optimizer.step()
        taken += time.perf_counter() - begun
    return taken


def main():
    optimizer, gradients = None, []
    for line in sys.stdin:
        question = json.loads(line)
        if "label" in question:
            with contextlib.redirect_stdout(sys.stderr):  # some tell what they do
                optimizer, gradients = begin(
                    question["label"], question["tensors"], question["checkouts"]
                )
                if optimizer is not None:
                    block(optimizer, gradients, question["updates"])  # what is compiled, is now
                    gradients = keep_overwritten(gradients)
            answer = {"torch": torch.__version__, "there": optimizer is not None}
        else:
            answer = {"seconds": block(optimizer, gradients, question["updates"])}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
