"""Writes optim.npz: parameters after each of 20 float64 steps of optimizers written elsewhere.

    pip install torch==2.13.0 numpy==2.4.6
    python make_optim.py PATH/TO/muon.py PATH/TO/lion_pytorch.py optim.npz

on Python 3.11, where the two files, which are not kept here, come from
    github.com/KellerJordan/Muon at 857d1adc159e098212f828d927460782d3da59e9: muon.py
    github.com/google/automl at 6a54c8741e7c3265d4547c4f35f47a0391122dc5: lion/lion_pytorch.py
and are checked by their SHA-256. SGD and AdamW are torch.optim's.

One cast is lifted, the only one in muon.py: `X = G.bfloat16()` in zeropower_via_newtonschulz5
becomes `X = G`, so that Newton-Schulz runs in float64 as all the rest does. Everything else of
Muon, the loop over groups and the auxiliary Adam for the vector included, runs as it was written.

Stored arrays are laid out as ours are, [input, output]; torch's weights are their transposes, and
the leaf `stacked` is three separate matrices to torch.
"""

# pyright: reportMissingImports=false
import argparse
import hashlib
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

STEPS = 20
SHAPES = {"up": (6, 10), "down": (10, 4), "vector": (7,), "stacked": (3, 6, 10)}
MUON_COMMIT = "857d1adc159e098212f828d927460782d3da59e9"
MUON_SHA256 = "1eece0b562f159e88f3a65da9b6ee8d0ab2dd647cf25c88e355d4f262e796e66"
LION_COMMIT = "6a54c8741e7c3265d4547c4f35f47a0391122dc5"
LION_SHA256 = "5ea5d205df80a0cf5f4794e50e3ffe27628e036c4d37664554a424f7b186f9fb"

Parameters = dict[str, list[torch.nn.Parameter]]


def load(path: Path, sha256: str, lifted: dict[str, str]) -> types.ModuleType:
    """The module at `path`, with each of the lines in `lifted` replaced."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{path.name} has SHA-256 {found}, not {sha256}")
    source = path.read_text()
    for old, new in lifted.items():
        if source.count(old) != 1:
            raise SystemExit(f"{path.name} does not hold {old!r} once")
        source = source.replace(old, new)
    module = types.ModuleType(path.stem)
    exec(compile(source, path.name, "exec"), module.__dict__)
    return module


def to_torch(x: np.ndarray) -> list[torch.Tensor]:
    """The matrices [output, input] of a leaf, or its vector."""
    matrices = x if x.ndim == 3 else [x]
    return [torch.tensor(matrix.T.copy()) for matrix in matrices]


def from_torch(tensors: list[torch.nn.Parameter], shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_torch`."""
    return np.stack([tensor.detach().numpy().T for tensor in tensors]).reshape(shape)


def trajectory(
    make: Callable[[Parameters], torch.optim.Optimizer],
    start: dict[str, np.ndarray],
    gradients: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Each leaf after every step, [STEPS, ...]."""
    params = {
        name: [torch.nn.Parameter(tensor) for tensor in to_torch(x)] for name, x in start.items()
    }
    optimizer = make(params)
    path: dict[str, list[np.ndarray]] = {name: [] for name in params}
    for step in range(STEPS):
        for name, leaf in params.items():
            for param, gradient in zip(leaf, to_torch(gradients[name][step]), strict=True):
                param.grad = gradient  # a fresh copy, which muon_update overwrites
        optimizer.step()
        for name, leaf in params.items():
            path[name].append(from_torch(leaf, SHAPES[name]))
    return {name: np.stack(values) for name, values in path.items()}


def flat(params: Parameters, *names: str) -> list[torch.nn.Parameter]:
    return [param for name in names for param in params[name]]


def decayed(params: Parameters, weight_decay: float) -> list[dict]:
    """Two groups, since vectors are not decayed."""
    return [
        {"params": flat(params, "up", "down"), "weight_decay": weight_decay},
        {"params": flat(params, "vector"), "weight_decay": 0.0},
    ]


def muon_groups(params: Parameters) -> list[dict]:
    return [
        {
            "params": flat(params, "up", "down", "stacked"),
            "use_muon": True,
            "lr": 0.02,
            "momentum": 0.95,
            "weight_decay": 0.1,
        },
        {
            "params": flat(params, "vector"),
            "use_muon": False,
            "lr": 3e-3,
            "betas": (0.9, 0.95),
            "eps": 1e-8,
            "weight_decay": 0.0,
        },
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write optim.npz.")
    parser.add_argument("muon", type=Path, help="muon.py")
    parser.add_argument("lion", type=Path, help="lion_pytorch.py")
    parser.add_argument("output", type=Path, help="optim.npz")
    arguments = parser.parse_args()
    muon = load(arguments.muon, MUON_SHA256, {"X = G.bfloat16()": "X = G"})
    lion = load(arguments.lion, LION_SHA256, {})

    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    gradients = {name: rng.normal(size=(STEPS, *shape)) for name, shape in SHAPES.items()}
    element_wise: dict[str, Callable[[Parameters], torch.optim.Optimizer]] = {
        "sgd": lambda p: torch.optim.SGD(flat(p, *p), lr=0.05, momentum=0.9),
        "sgd_nesterov": lambda p: torch.optim.SGD(
            flat(p, *p), lr=0.05, momentum=0.9, nesterov=True
        ),
        "adamw": lambda p: torch.optim.AdamW(decayed(p, 0.1), lr=0.01),
        "lion": lambda p: lion.Lion(decayed(p, 0.1), lr=0.003),
    }
    unstacked = {name: start[name] for name in ("up", "down", "vector")}
    paths = {name: trajectory(make, unstacked, gradients) for name, make in element_wise.items()}
    paths["muon"] = trajectory(
        lambda p: muon.SingleDeviceMuonWithAuxAdam(muon_groups(p)), start, gradients
    )

    arrays = {f"start/{name}": x for name, x in start.items()}
    arrays |= {f"gradients/{name}": x for name, x in gradients.items()}
    arrays |= {f"{label}/{name}": x for label, path in paths.items() for name, x in path.items()}
    sources = [
        f"torch {torch.__version__}",
        f"muon.py {MUON_COMMIT}",
        f"lion_pytorch.py {LION_COMMIT}",
    ]
    arrays["sources"] = np.array(sources)
    np.savez_compressed(arguments.output, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
