"""Writes optim_matrix.npz: what make_optim.py writes for optim.npz, of further matrix methods.

    pip install torch==2.13.0 numpy==2.4.6
    python make_optim_matrix.py CHECKOUTS optim.npz optim_matrix.npz

on Python 3.11. CHECKOUTS holds a clone of each repository below, under its own name and at the
commit given there; single files are checked by their SHA-256, packages by git's hash of their
folder. Start and gradients are those of optim.npz. torch.compile is left out, so that what is
written is what runs.

Every cast to a narrower type is lifted, so that all runs in float64:
    normuon.py    `X = G.bfloat16()` in zeropower_via_newtonschulz5 becomes `X = G`
    scion.py      likewise
    dion          `X = G.bfloat16()` in polar_express and `.to(dtype=torch.bfloat16)` of the part
                  that dion2_pre_orthogonalize selects are left out; the rate is a float64 tensor,
                  not a float32 one
    shampoo       factors and roots are float64 by their own settings; the rate is kept in float32,
                  in which 2^-6 is exact
Settings that depend on more than a rate and a decay:
    Scion         `scion_roles` has a head in `up` and an embedding in `down`, with the norms of
                  examples/shallow-nanogpt; `scion_conv` a convolution, whose start and gradients
                  are drawn here; `scion_light_small` gradients times 1e-7, near to the guards of
                  the divisions, without which Scion and ScionLight are the same
    Shampoo       matrices stay two-dimensional (target_parameter_dimensionality=2: by default small
                  ones become vectors); `shampoo_one_side` whitens no side longer than 5
                  (inverse_exponent_override of 0 there)
"""

# pyright: reportMissingImports=false
import argparse
import dataclasses
import importlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_optim import (
    ALL,
    MATRICES,
    STEPS,
    Parameters,
    Source,
    Tree,
    flat,
    load,
    muon_groups,
    trajectory,
)

SOURCES = {
    "normuon": Source(
        "normuon.py",
        "zichongli5/NorMuon",
        "d45c9a4280d758e2cf0b2b8333765d040e953937",
        "a9bd18a0eaea75864610049fb21c655a87284e16e267dbe565e7d5c70aec242a",
        {"X = G.bfloat16()": ("X = G", 1)},
    ),
    "scion": Source(
        "scion.py",
        "LIONS-EPFL/scion",
        "f58a393e010395a5913176be5673d8839caa6285",
        "88cc654196473e798b6d7b246bf7ed1928d04add00acb3f2746f0ade3bcc21cb",
        {"X = G.bfloat16()": ("X = G", 1)},
    ),
}


@dataclasses.dataclass(frozen=True)
class Package:
    """A folder of a repository at a commit, and what is replaced: file -> old -> (new, times)."""

    folder: str  # of modules; OWNER/NAME of the repository is in `repository`
    repository: str
    commit: str
    tree: str  # git's hash of the folder
    lifted: dict[str, dict[str, tuple[str, int]]] = dataclasses.field(default_factory=dict)


PACKAGES = {
    "dion": Package(
        "dion",
        "microsoft/dion",
        "0a059a4542e5aa74b40dcd1dce363836c7afcd48",
        "7e6e392334fec0c9ae14ce70cafeeb79e3dc80e6",
        {
            "dion2.py": {"selected_stacked.to(dtype=torch.bfloat16)": ("selected_stacked", 1)},
            "polar_express.py": {"X = G.bfloat16()": ("X = G", 1)},
            "megabatch_base.py": {
                "tensor = torch.empty((), dtype=torch.float32": (
                    "tensor = torch.empty((), dtype=torch.float64",
                    1,
                )
            },
        },
    ),
    "shampoo": Package(
        "distributed_shampoo",
        "facebookresearch/optimizers",
        "f60660661194de26d3ee78bae6d15820ff8e583d",
        "582ae669df16a236a291d5e44af894f5ba20fd6b",
    ),
}
CONV = (3, 3, 2, 4)  # height, width, channels in, channels out


def uncompiled(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """In the place of torch.compile, also as `@torch.compile(option=...)`."""
    return function if function is not None else lambda function: function


def load_package(checkouts: Path, package: Package, into: Path) -> Any:
    """The package from a copy in which the casts are lifted."""
    clone = checkouts / package.repository.partition("/")[2]
    ask = ["git", "-C", str(clone)]
    tree = subprocess.check_output([*ask, "rev-parse", f"HEAD:{package.folder}"], text=True).strip()
    changed = subprocess.check_output([*ask, "status", "--porcelain", "--", package.folder])
    if tree != package.tree or changed:
        raise SystemExit(f"{clone}/{package.folder} is tree {tree} or changed, not {package.tree}")
    shutil.copytree(clone / package.folder, into / package.folder)
    for name, replacements in package.lifted.items():
        path = into / package.folder / name
        text = path.read_text()
        for old, (new, count) in replacements.items():
            if text.count(old) != count:
                raise SystemExit(f"{path} does not hold {old!r} {count} times")
            text = text.replace(old, new)
        path.write_text(text)
    return importlib.import_module(package.folder)


def normuon_groups(params: Parameters) -> list[dict[str, Any]]:
    """Those of Muon, with a second moment."""
    moved, rest = muon_groups(params)
    return [{**moved, "beta2": 0.95}, rest]


def scion_groups(params: Parameters, **norms: tuple[str, dict[str, Any], float]) -> list[Any]:
    """Spectral for matrices, BiasRMS for vectors, unless `norms` gives a leaf another."""
    usual = {name: ("Spectral", {}, 3.0) for name in params}
    usual |= {"vector": ("BiasRMS", {}, 1.0)}
    return [
        {"params": leaf, "norm": norm, "norm_kwargs": kwargs, "scale": scale}
        for name, leaf in params.items()
        for norm, kwargs, scale in [(usual | norms)[name]]
    ]


def light_trajectory(
    make: Callable[[Parameters], torch.optim.Optimizer], start: Tree, gradients: Tree
) -> Tree:
    """As `trajectory`, but gradients are added to what the optimizer left, as backward does."""
    held: Parameters = {}

    def make_and_hold(params: Parameters) -> torch.optim.Optimizer:
        held.update(params)
        return make(params)

    left: dict[str, list[torch.Tensor]] = {}

    def before(optimizer: torch.optim.Optimizer, step: int) -> None:
        for name, leaf in held.items():
            for number, param in enumerate(leaf):
                assert param.grad is not None
                if step:
                    param.grad.add_(left[name][number])
            left[name] = [param.grad for param in leaf if param.grad is not None]

    return trajectory(make_and_hold, start, gradients, before)


def scion_paths(module: Any, start: Tree, gradients: Tree) -> dict[str, Tree]:
    roles = {"up": ("Sign", {}, 10.0), "down": ("Sign", {"normalized": False}, 1.0)}
    rate = {"lr": 0.01, "momentum": 0.1}

    def scion(**changed: Any) -> Callable[[Parameters], torch.optim.Optimizer]:
        return lambda p: module.Scion(scion_groups(p), **{**rate, **changed})

    def light(**changed: Any) -> Callable[[Parameters], torch.optim.Optimizer]:
        return lambda p: module.ScionLight(scion_groups(p), **{**rate, **changed})

    tables = {name: start[name] for name in roles}
    small = {name: 1e-7 * x for name, x in gradients.items()}
    return {
        "scion": trajectory(scion(), start, gradients),
        "scion_free": trajectory(scion(unconstrained=True, momentum=0.5), start, gradients),
        "scion_light": light_trajectory(light(), start, gradients),
        "scion_light_small": light_trajectory(light(), start, small),
        "scion_roles": trajectory(
            lambda p: module.Scion(scion_groups(p, **roles), **rate), tables, gradients
        ),
    }


def conv_paths(module: Any) -> dict[str, Tree]:
    """Of one convolution by itself, since torch lays it out otherwise."""
    rng = np.random.default_rng(1)
    start, gradients = rng.normal(size=CONV), rng.normal(size=(STEPS, *CONV))
    kernel = torch.nn.Parameter(torch.tensor(start.transpose(3, 2, 0, 1).copy()))
    groups = [{"params": [kernel], "norm": "Auto", "norm_kwargs": {}, "scale": 3.0}]
    optimizer, path = module.Scion(groups, lr=0.01, momentum=0.1), []
    for gradient in gradients:
        kernel.grad = torch.tensor(gradient.transpose(3, 2, 0, 1).copy())
        optimizer.step()
        path.append(kernel.detach().numpy().transpose(2, 3, 1, 0).copy())
    found = {"conv_start": start, "conv_gradients": gradients, "scion_conv": np.stack(path)}
    return {stem: {"kernel": x} for stem, x in found.items()}


def dion2_paths(module: Any, start: Tree, gradients: Tree) -> dict[str, Tree]:
    """Of the default settings, and where more moves and less is forgotten."""

    def dion2(**changed: Any) -> Callable[[Parameters], torch.optim.Optimizer]:
        settings = {"lr": 0.02, "weight_decay": 0.1, **changed}
        return lambda p: module.Dion2(flat(p, *p), **settings)

    return {
        "dion2": trajectory(dion2(), start, gradients),
        "dion2_half": trajectory(dion2(fraction=0.5, ef_decay=0.5), start, gradients),
    }


def shampoo_paths(module: Any, start: Tree, gradients: Tree) -> dict[str, Tree]:
    types = importlib.import_module("distributed_shampoo.shampoo_types")
    adam = types.AdamPreconditionerConfig(beta2=0.99, epsilon=1e-8)

    def factors(**changed: Any) -> Any:
        wide = {"factor_matrix_dtype": torch.float64, "inv_factor_matrix_dtype": torch.float64}
        return types.RootInvShampooPreconditionerConfig(**wide, **changed)

    def shampoo(params: Any, **changed: Any) -> torch.optim.Optimizer:
        settings: dict[str, Any] = {
            "lr": 2.0**-6,
            "weight_decay": 0.1,
            "betas": (0.9, 0.99),
            "precondition_frequency": 3,
            "grafting_config": adam,
            "preconditioner_config": factors(),
            "distributed_config": types.SingleDeviceDistributedConfig(
                target_parameter_dimensionality=2
            ),
            **changed,
        }
        return module.DistributedShampoo(params, **settings)

    def path(**changed: Any) -> Tree:
        return trajectory(lambda p: shampoo(flat(p, *p), **changed), start, gradients)

    def one_side(params: Parameters) -> torch.optim.Optimizer:
        groups = []
        for leaf in params.values():
            skipped = {n: 0.0 for n, side in enumerate(leaf[0].shape) if side > 5}
            groups.append(
                {
                    "params": leaf,
                    "preconditioner_config": factors(inverse_exponent_override={2: skipped}),
                }
            )
        return shampoo(groups)

    return {
        "shampoo": path(),
        "shampoo_summed": path(
            betas=(0.9, 1.0),
            precondition_frequency=1,
            grafting_config=types.SGDPreconditionerConfig(),
        ),
        "shampoo_plain": path(
            betas=(0.0, 0.9),
            precondition_frequency=2,
            grafting_config=None,
            epsilon=1e-3,
            preconditioner_config=factors(inverse_exponent_override={2: 0.2}),
        ),
        "shampoo_one_side": trajectory(one_side, start, gradients),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Write optim_matrix.npz.")
    parser.add_argument("checkouts", type=Path, help="the folder with the clones")
    parser.add_argument("usual", type=Path, help="optim.npz")
    parser.add_argument("output", type=Path, help="optim_matrix.npz")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.compile = uncompiled
    modules = {name: load(arguments.checkouts, source) for name, source in SOURCES.items()}

    with np.load(arguments.usual) as file:
        given = {key: file[key] for key in file.files}
    start = {name: given[f"start/{name}"] for name in ALL}
    gradients = {name: given[f"gradients/{name}"] for name in ALL}
    normuon = modules["normuon"].SingleDeviceNorMuonWithAuxAdam
    paths = {"normuon": trajectory(lambda p: normuon(normuon_groups(p)), start, gradients)}
    paths |= scion_paths(modules["scion"], start, gradients)
    paths |= conv_paths(modules["scion"])
    matrices = {name: start[name] for name in MATRICES}
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        packages = {
            name: load_package(arguments.checkouts, package, Path(folder))
            for name, package in PACKAGES.items()
        }
        paths |= dion2_paths(packages["dion"], matrices, gradients)
        paths |= shampoo_paths(packages["shampoo"], matrices, gradients)

    arrays = {f"{label}/{name}": x for label, path in paths.items() for name, x in path.items()}
    sources = [
        f"{source.repository}@{source.commit}" for source in (*SOURCES.values(), *PACKAGES.values())
    ]
    arrays["sources"] = np.array(sources)
    np.savez_compressed(arguments.output, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
