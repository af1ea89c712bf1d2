"""Writes optim.npz: parameters after each of 20 float64 steps of optimizers written elsewhere.

    pip install torch==2.13.0 numpy==2.4.6
    python make_optim.py CHECKOUTS optim.npz

on Python 3.11. CHECKOUTS holds a clone of each repository of SOURCES, under its own name and at the
commit given there; the files are checked by their SHA-256 and run as they are, none is kept here.
What is not in SOURCES is torch.optim's.

Every cast to a narrower type is lifted, so that all runs in float64:
    muon.py       `X = G.bfloat16()` in zeropower_via_newtonschulz5 becomes `X = G`
    soap.py       `.data.float()`, before eigh and qr, becomes `.data`, in five places; its factors
                  are torch.zeros of the default dtype, which is set to float64
    torch.optim   NAdam keeps its step and its product of momenta in the default dtype: as above
The other files cast nothing. Settings that depend on more than a rate and a decay:
    NAdam         momentum_decay=1e6, at which its momentum is constant from step 1 on
    Adafactor     eps=(1e-30, 1e-3): by default its first guard is float64's epsilon, 2e-16
    MARS          gradients times .12, whose norms lie on both sides of its clip at 1; `mars_exact`
                  on the losses .12 |p - gradient|^2 / 2, by its own update_previous_grad and
                  update_last_grad
    SOAP          a basis every 3 steps. Of a matrix that is not square the first gradient leaves
                  the longer basis open, and LAPACK chooses: `soap_oblong` is stored with what it
                  chose (`basis_inputs`, `basis_outputs`); `soap_one_side` turns no side longer
                  than 5. `soap_decayed` starts from parameters that have been decayed once, as
                  ours are by the first call, which in theirs does nothing
    schedule-free a warm-up of 5 steps (`schedule_free`), then also a rate that falls
                  (`schedule_free_falling`, set from outside); `_x` is where it is evaluated

Stored arrays are laid out as ours are, [input, output]; torch's weights are their transposes, and
a leaf of three axes is separate matrices to torch.
"""

# pyright: reportMissingImports=false
import argparse
import dataclasses
import hashlib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

STEPS = 20
SHAPES = {
    "up": (4, 7),
    "down": (7, 3),
    "vector": (5,),
    "stacked": (2, 4, 6),
    "square": (5, 5),
    "squares": (2, 4, 4),
}
MARS_SCALE = 0.12  # of gradients
MATRICES = ("up", "down", "stacked")
ALL = ("up", "down", "vector", "stacked")

Parameters = dict[str, list[torch.nn.Parameter]]
Tree = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
    """A file of a repository at a commit, and what is replaced in it: old -> (new, how often)."""

    path: str  # OWNER/NAME of the repository is in `repository`; its clone is called NAME
    repository: str
    commit: str
    sha256: str
    lifted: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)


SOURCES = {
    "muon": Source(
        "muon.py",
        "KellerJordan/Muon",
        "857d1adc159e098212f828d927460782d3da59e9",
        "1eece0b562f159e88f3a65da9b6ee8d0ab2dd647cf25c88e355d4f262e796e66",
        {"X = G.bfloat16()": ("X = G", 1)},
    ),
    "lion": Source(
        "lion/lion_pytorch.py",
        "google/automl",
        "6a54c8741e7c3265d4547c4f35f47a0391122dc5",
        "5ea5d205df80a0cf5f4794e50e3ffe27628e036c4d37664554a424f7b186f9fb",
    ),
    "soap": Source(
        "soap.py",
        "nikhilvyas/SOAP",
        "a1e553530fde97d0e6b307d7c82ac6d38b072340",
        "9e9021335ad02371584622fa256e73fe75f3eb74446a8d8a216e956534148f6b",
        {".data.float()": (".data", 5)},
    ),
    "mars": Source(
        "MARS/optimizers/mars.py",
        "AGI-Arena/MARS",
        "4831e28eba863a4e69d7e9474ff8e73bc1b410fe",
        "5bee9e72aea3f043b415022fd0e732b4995436bd4d3faea4c347c0d54ef273e0",
    ),
    "schedule_free": Source(
        "schedulefree/adamw_schedulefree_reference.py",
        "facebookresearch/schedule_free",
        "70785b53e778d0e872c0bbb75ff4ee54ee10c291",
        "e3c07b2d5b93375892ee1e62f3ca586145589444b2b50d314892e58c47433fa3",
    ),
    "ademamix": Source(
        "pytorch/ademamix.py",
        "apple/ml-ademamix",
        "c3d73c09f1287e5c33b95189bb0aa7de0a5a7667",
        "e4d247f2f780cd35104f15f10c1802afa5edf5e1732734c24b4a4ae8ca23cc19",
    ),
}


def checked(checkouts: Path, source: Source) -> str:
    """The text of the file, with each of the lines in `lifted` replaced."""
    path = checkouts / source.repository.partition("/")[2] / source.path
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != source.sha256:
        raise SystemExit(f"{path} has SHA-256 {found}, not {source.sha256}")
    text = path.read_text()
    for old, (new, count) in source.lifted.items():
        if text.count(old) != count:
            raise SystemExit(f"{path} does not hold {old!r} {count} times")
        text = text.replace(old, new)
    return text


def load(checkouts: Path, source: Source) -> types.ModuleType:
    """The module of the file."""
    module = types.ModuleType(Path(source.path).stem)
    exec(compile(checked(checkouts, source), Path(source.path).name, "exec"), module.__dict__)
    return module


def to_torch(x: np.ndarray) -> list[torch.Tensor]:
    """The matrices [output, input] of a leaf, or its vector."""
    matrices = x if x.ndim == 3 else [x]
    return [torch.tensor(matrix.T.copy()) for matrix in matrices]


def from_torch(tensors: list[torch.Tensor], shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_torch`."""
    return np.stack([tensor.detach().numpy().T for tensor in tensors]).reshape(shape)


def parameters(start: Tree) -> Parameters:
    return {name: [torch.nn.Parameter(t) for t in to_torch(x)] for name, x in start.items()}


def as_arrays(params: Parameters) -> Tree:
    return {name: from_torch(leaf, SHAPES[name]) for name, leaf in params.items()}


def set_gradients(params: Parameters, gradients: Tree) -> None:
    """Fresh copies, since some optimizers write into them."""
    for name, leaf in params.items():
        for param, gradient in zip(leaf, to_torch(gradients[name]), strict=True):
            param.grad = gradient


def stacked(path: list[Tree]) -> Tree:
    """Each leaf after every step, [STEPS, ...]."""
    return {name: np.stack([tree[name] for tree in path]) for name in path[0]}


def trajectory(
    make: Callable[[Parameters], torch.optim.Optimizer],
    start: Tree,
    gradients: Tree,
    before: Callable[[torch.optim.Optimizer, int], None] = lambda optimizer, step: None,
) -> Tree:
    """The parameters after every step; `before` is called ahead of each."""
    params = parameters(start)
    optimizer, path = make(params), []
    for step in range(STEPS):
        set_gradients(params, {name: gradients[name][step] for name in start})
        before(optimizer, step)
        optimizer.step()
        path.append(as_arrays(params))
    return stacked(path)


def flat(params: Parameters, *names: str) -> list[torch.nn.Parameter]:
    return [param for name in names for param in params[name]]


def decayed(params: Parameters, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups, since vectors are not decayed."""
    matrices = [name for name in params if name != "vector"]
    groups = [{"params": flat(params, *matrices), "weight_decay": weight_decay}]
    return [*groups, {"params": flat(params, "vector"), "weight_decay": 0.0}]


def muon_groups(params: Parameters) -> list[dict[str, Any]]:
    moved = {"use_muon": True, "lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    rest = {"use_muon": False, "lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
    return [
        {"params": flat(params, *MATRICES), **moved},
        {"params": flat(params, "vector"), **rest},
    ]


def element_wise(modules: dict[str, Any]) -> dict[str, Callable[[Parameters], Any]]:
    """Those that need nothing but gradients, by label."""
    optim, ademamix = torch.optim, modules["ademamix"].AdEMAMix
    slow = {"lr": 0.01, "alpha": 5.0}
    return {
        "sgd": lambda p: optim.SGD(flat(p, *p), lr=0.05),
        "momentum": lambda p: optim.SGD(flat(p, *p), lr=0.05, momentum=0.9),
        "nesterov": lambda p: optim.SGD(flat(p, *p), lr=0.05, momentum=0.9, nesterov=True),
        "adamw": lambda p: optim.AdamW(decayed(p, 0.1), lr=0.01),
        "nadamw": lambda p: optim.NAdam(
            decayed(p, 0.1), lr=0.01, momentum_decay=1e6, decoupled_weight_decay=True
        ),
        "adafactor": lambda p: optim.Adafactor(decayed(p, 0.1), lr=0.01, eps=(1e-30, 1e-3)),
        "lion": lambda p: modules["lion"].Lion(decayed(p, 0.1), lr=0.003),
        "ademamix": lambda p: ademamix(decayed(p, 0.1), **slow),
        "ademamix_warmed_up": lambda p: ademamix(
            decayed(p, 0.1), **slow, alpha_warmup=12, beta3_warmup=12
        ),
        "muon": lambda p: modules["muon"].SingleDeviceMuonWithAuxAdam(muon_groups(p)),
    }


def mars_paths(module: Any, start: Tree, gradients: Tree) -> dict[str, Tree]:
    """Both forms; vectors take the code's own AdamW, without decay."""

    def make(params: Parameters, approximate: bool) -> torch.optim.Optimizer:
        rest = {"lr_1d": 3e-3, "weight_decay_1d": 0.0}
        return module.MARS(
            flat(params, *params), lr=0.01, weight_decay=0.1, is_approx=approximate, **rest
        )

    smaller = {name: MARS_SCALE * x for name, x in gradients.items()}
    approximate = trajectory(lambda p: make(p, True), start, smaller)

    params = parameters(start)
    optimizer, path = make(params, False), []

    def gradient(step: int) -> Tree:
        here = as_arrays(params)
        return {name: MARS_SCALE * (here[name] - gradients[name][step]) for name in start}

    for step in range(STEPS):
        if step + 1 < STEPS:
            set_gradients(params, gradient(step + 1))
            optimizer.update_previous_grad()
        set_gradients(params, gradient(step))
        optimizer.step()
        optimizer.update_last_grad()
        path.append(as_arrays(params))
    return {"mars": approximate, "mars_exact": stacked(path)}


def schedule_free_paths(module: Any, start: Tree, gradients: Tree) -> dict[str, Tree]:
    """y, which is what the parameters are, and x, under two schedules."""
    found: dict[str, Tree] = {}
    for label, falls in (("schedule_free", False), ("schedule_free_falling", True)):
        path: list[Tree] = []
        params: Parameters = {}

        def make(given: Parameters, params: Parameters = params) -> torch.optim.Optimizer:
            params.update(given)
            optimizer = module.AdamWScheduleFreeReference(
                decayed(given, 0.1), lr=0.01, warmup_steps=5
            )
            optimizer.train()
            return optimizer

        def before(
            optimizer: torch.optim.Optimizer,
            step: int,
            falls: bool = falls,
            path: list[Tree] = path,
            params: Parameters = params,
        ) -> None:
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (1 - step / STEPS if falls else 1)
            if step:
                path.append(averages(optimizer, params))

        found[label] = trajectory(make, start, gradients, before)
        found[f"{label}_x"] = stacked(path)  # after each step but the last
    return found


def averages(optimizer: torch.optim.Optimizer, params: Parameters) -> Tree:
    return {
        name: from_torch([optimizer.state[param]["x"] for param in leaf], SHAPES[name])
        for name, leaf in params.items()
    }


def soap_paths(module: Any, start: Tree, gradients: Tree) -> dict[str, Tree]:
    """Square matrices, without and with decay; others with one side, and with the first bases."""

    def make(params: Parameters, **changed: Any) -> torch.optim.Optimizer:
        settings = {"lr": 0.01, "weight_decay": 0.0, "precondition_frequency": 3, **changed}
        return module.SOAP(flat(params, *params), **settings)

    squares = {name: start[name] for name in ("square", "squares")}
    oblong = {name: start[name] for name in MATRICES}
    once = {name: (1 - 0.01 * 0.1) * x for name, x in squares.items()}
    held: dict[str, list[list[np.ndarray]]] = {}
    made: Parameters = {}

    def make_and_hold(params: Parameters) -> torch.optim.Optimizer:
        made.update(params)
        return make(params)

    def before(optimizer: torch.optim.Optimizer, step: int) -> None:
        if step == 1:  # after the first call, which chose the bases
            for name, leaf in made.items():
                bases = [optimizer.state[param]["Q"] for param in leaf]  # of outputs, of inputs
                held[name] = [[side.numpy() for side in basis] for basis in bases]

    paths = {
        "soap": trajectory(make, squares, gradients),
        "soap_decayed": trajectory(lambda p: make(p, weight_decay=0.1), once, gradients),
        "soap_one_side": trajectory(lambda p: make(p, max_precond_dim=5), oblong, gradients),
        "soap_oblong": trajectory(make_and_hold, oblong, gradients, before),
    }
    for label, number in (("basis_inputs", 1), ("basis_outputs", 0)):
        paths[label] = {
            name: np.stack([basis[number] for basis in bases]).reshape(
                *SHAPES[name][:-2], *bases[0][number].shape
            )
            for name, bases in held.items()
        }
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description="Write optim.npz.")
    parser.add_argument("checkouts", type=Path, help="the folder with the clones")
    parser.add_argument("output", type=Path, help="optim.npz")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    modules = {name: load(arguments.checkouts, source) for name, source in SOURCES.items()}

    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    gradients = {name: rng.normal(size=(STEPS, *shape)) for name, shape in SHAPES.items()}
    usual = {name: start[name] for name in ALL}
    paths = {
        label: trajectory(make, usual, gradients) for label, make in element_wise(modules).items()
    }
    paths |= mars_paths(modules["mars"], usual, gradients)
    paths |= schedule_free_paths(modules["schedule_free"], usual, gradients)
    paths |= soap_paths(modules["soap"], start, gradients)

    arrays = {f"start/{name}": x for name, x in start.items()}
    arrays |= {f"gradients/{name}": x for name, x in gradients.items()}
    arrays |= {f"{label}/{name}": x for label, path in paths.items() for name, x in path.items()}
    sources = [f"pytorch/pytorch@v{torch.__version__.partition('+')[0]}"]
    sources += [f"{source.repository}@{source.commit}" for source in SOURCES.values()]
    arrays["sources"] = np.array(sources)
    np.savez_compressed(arguments.output, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
