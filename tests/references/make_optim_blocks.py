"""Writes optim_blocks.npz: what make_optim.py does for wrappers and for three more optimizers.

    pip install torch==2.14.1 numpy==2.4.6 jax==0.10.2 optax==0.2.8
    python make_optim_blocks.py CHECKOUTS optim_blocks.npz

beside optim.npz, whose starts and gradients these are. CHECKOUTS holds a clone of each repository
of SOURCES as there. No file casts to a narrower type; what is replaced in them:
    c_adamw.py    its package's name in the import of opt_utils.py, which lies beside it
    adamh.py      nothing, but the modules that only its configuration needs are empty ones
and `hyperball` runs it in JAX's float64, with torch's AdamW for the vector. Settings:
    cautious      eps=1e-30: theirs is added before the bias of the second moment is corrected
    outer         torch's AdamW, and every 4 steps its SGD(nesterov=True) on slow - fast;
                  `lookahead` is the authors' around the same AdamW; `_x` are the slow parameters
    Adam-mini     `up`, `down` and `stacked` are called mlp and `vector` bias, to be moved as such;
                  `adam_mini_heads` has `squares` as queries of 2 heads
    Sophia-G      the curvature ahead of steps 4, 8, ... (from 0), from gradient + parameters, with
                  bs=48
    MARS-Lion     gradients times .12, as for MARS
"""

# pyright: reportMissingImports=false
import argparse
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from make_optim import (
    ALL,
    MARS_SCALE,
    MATRICES,
    STEPS,
    Parameters,
    Source,
    Tree,
    as_arrays,
    decayed,
    flat,
    load,
    parameters,
    set_gradients,
    stacked,
    trajectory,
)

EVERY = 4  # steps between two outer ones, and between two estimates of the curvature
TARGETS = 48
ADAMW = {"lr": 0.01}

SOURCES = {
    "c_adamw": Source(
        "c_adamw.py",
        "kyleliang919/C-Optim",
        "2c0517c4db2e50b56d389ba4803eab1f4b3b8ae3",
        "1514a0dfe4b65a38fb01e91399b0d9383f5f43a032730cf0c0d48adfcbae7b33",
        {"from .opt_utils import": ("from opt_utils import", 1)},
    ),
    "adamh": Source(
        "lib/levanter/src/levanter/optim/adamh.py",
        "marin-community/marin",
        "7cb2d65fdad8e407a964a9d267e8172a955d8520",
        "2abc9180c269483b5e22e7846f14597da0a4b080495834b5d763fd64e4b0a1d8",
    ),
    "lookahead": Source(
        "lookahead_pytorch.py",
        "michaelrzhang/lookahead",
        "c4fd85f73cdaa6450eacf7d52d9050d9ff98a6e1",
        "130b8033303902a831e37b9323150c7740c3a0661adbc15edf6aca7c3561878c",
    ),
    "adam_mini": Source(
        "adam_mini/adam_mini.py",
        "zyushun/Adam-mini",
        "402aadfed23719f3b92c8e78b5d49ad499ff7ada",
        "de375f64531e06b5975e2d079618c0119dafbd9bbdf03c9dc3b50c8dfd587130",
    ),
    "sophia": Source(
        "sophia.py",
        "Liuhong99/Sophia",
        "a7e157229b71d58cf995d32854f1be15c265b350",
        "6822bce9acfedd575e2515222b24a4d927edd6ee5464fc1ce2988224fbfb5855",
    ),
    "mars": Source(
        "MARS/optimizers/mars.py",
        "AGI-Arena/MARS",
        "4831e28eba863a4e69d7e9474ff8e73bc1b410fe",
        "5bee9e72aea3f043b415022fd0e732b4995436bd4d3faea4c347c0d54ef273e0",
    ),
}


def stand_in(name: str, **held: Any) -> None:
    """An empty module, for an import of what is not used."""
    sys.modules[name] = types.ModuleType(name)
    for key, value in held.items():
        setattr(sys.modules[name], key, value)


def load_all(checkouts: Path) -> dict[str, Any]:
    class Config:
        """Of levanter, whose registry is all that is used of it."""

        @staticmethod
        def register_subclass(name: str) -> Callable[[type], type]:
            return lambda cls: cls

    sys.path.insert(0, str(checkouts / "C-Optim"))  # where opt_utils.py lies
    for name in ("haliax", "levanter", "levanter.optim", "levanter.utils"):
        stand_in(name)
    stand_in("chex", Array=Any)
    stand_in("haliax.nn", Linear=object)
    stand_in("levanter.optim.config", OptimizerConfig=Config)
    stand_in("levanter.utils.jax_utils", leaf_key_paths=None)
    made: dict[str, Any] = {}
    for name, source in SOURCES.items():
        # A dataclass looks its module up by name.
        sys.modules.setdefault(Path(source.path).stem, types.ModuleType(name))
        made[name] = load(checkouts, source)
    return made


def hyperball(module: Any, start: Tree, gradients: Tree) -> Tree:
    """Matrices by AdamH, the vector by torch's AdamW."""
    plain = trajectory(
        lambda p: torch.optim.AdamW(flat(p, *p), weight_decay=0.0, **ADAMW),
        {"vector": start["vector"]},
        gradients,
    )
    params = {name: jax.numpy.asarray(start[name]) for name in MATRICES}
    transformation = module.scale_by_adamh(learning_rate=0.01)
    state, path = transformation.init(params), []
    for step in range(STEPS):
        given = {name: gradients[name][step] for name in params}
        updates, state = transformation.update(given, state, params)
        params = {name: params[name] + updates[name] for name in params}
        path.append({name: np.asarray(x) for name, x in params.items()})
    return stacked(path) | plain


def lookahead(module: Any, start: Tree, gradients: Tree) -> dict[str, Tree]:
    path: list[Tree] = []
    made: Parameters = {}

    def make(params: Parameters) -> Any:
        made.update(params)
        inner = torch.optim.AdamW(decayed(params, 0.1), **ADAMW)
        return module.Lookahead(inner, la_steps=EVERY)

    def before(optimizer: Any, step: int) -> None:
        if step:  # what _backup_and_load_cache puts in their place, to be evaluated
            optimizer._backup_and_load_cache()
            path.append(as_arrays(made))
            optimizer._clear_and_load_backup()

    fast = trajectory(make, start, gradients, before)
    return {"lookahead": fast, "lookahead_x": stacked(path)}


def outer_nesterov(start: Tree, gradients: Tree) -> dict[str, Tree]:
    fast, slow = parameters(start), parameters(start)
    inner = torch.optim.AdamW(decayed(fast, 0.1), **ADAMW)
    outer = torch.optim.SGD(flat(slow, *slow), lr=0.7, momentum=0.9, nesterov=True)
    path, slow_path = [], []
    for step in range(STEPS):
        set_gradients(fast, {name: gradients[name][step] for name in start})
        inner.step()
        if (step + 1) % EVERY == 0:
            pairs = list(zip(flat(slow, *slow), flat(fast, *fast), strict=True))
            with torch.no_grad():
                for s, f in pairs:
                    s.grad = s - f
                outer.step()
                for s, f in pairs:
                    f.copy_(s)
        path.append(as_arrays(fast))
        slow_path.append(as_arrays(slow))
    return {"outer_nesterov": stacked(path), "outer_nesterov_x": stacked(slow_path[:-1])}


def adam_mini(module: Any, start: Tree, gradients: Tree) -> dict[str, Tree]:
    called = {"up": "mlp", "down": "mlp", "stacked": "mlp", "vector": "bias", "squares": "q_proj"}

    def make(params: Parameters) -> Any:
        named = [
            (f"{called[name]}.{number}", param)
            for name, leaf in params.items()
            for number, param in enumerate(leaf)
        ]
        return module.Adam_mini(named, lr=0.01, weight_decay=0.1, dim=4, n_heads=2, verbose=False)

    usual = {name: start[name] for name in ALL}
    squares = {"squares": start["squares"]}
    return {
        "adam_mini": trajectory(make, usual, gradients),
        "adam_mini_heads": trajectory(make, squares, gradients),
    }


def sophia(module: Any, start: Tree, gradients: Tree) -> Tree:
    params = parameters(start)
    optimizer, path = module.SophiaG(decayed(params, 0.1), lr=0.01), []
    for step in range(STEPS):
        given = {name: gradients[name][step] for name in start}
        if step and step % EVERY == 0:
            here = as_arrays(params)
            set_gradients(params, {name: here[name] + given[name] for name in start})
            optimizer.update_hessian()
        set_gradients(params, given)
        optimizer.step(bs=TARGETS)
        path.append(as_arrays(params))
    return stacked(path)


def mars_lion(module: Any, start: Tree, gradients: Tree) -> Tree:
    rest = {"lr_1d": 3e-3, "weight_decay_1d": 0.0}
    return trajectory(
        lambda p: module.MARS(
            flat(p, *p), lr=0.01, weight_decay=0.1, mars_type="mars-lion", **rest
        ),
        start,
        {name: MARS_SCALE * x for name, x in gradients.items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write optim_blocks.npz.")
    parser.add_argument("checkouts", type=Path, help="the folder with the clones")
    parser.add_argument("output", type=Path, help="optim_blocks.npz")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    jax.config.update("jax_enable_x64", True)
    modules = load_all(arguments.checkouts)

    with np.load(Path(__file__).with_name("optim.npz")) as file:
        start, gradients = (
            {key.partition("/")[2]: file[key] for key in file.files if key.startswith(f"{stem}/")}
            for stem in ("start", "gradients")
        )
    usual = {name: start[name] for name in ALL}
    make_cautious = modules["c_adamw"].AdamW
    paths = {
        "cautious": trajectory(
            lambda p: make_cautious(decayed(p, 0.1), lr=0.01, eps=1e-30, foreach=False),
            usual,
            gradients,
        ),
        "hyperball": hyperball(modules["adamh"], usual, gradients),
        **lookahead(modules["lookahead"], usual, gradients),
        **outer_nesterov(usual, gradients),
        **adam_mini(modules["adam_mini"], start, gradients),
        "sophia_g": sophia(modules["sophia"], usual, gradients),
        "mars_lion": mars_lion(modules["mars"], usual, gradients),
    }
    arrays = {f"{label}/{name}": x for label, path in paths.items() for name, x in path.items()}
    arrays["sources"] = np.array([f"{x.repository}@{x.commit}" for x in SOURCES.values()])
    np.savez_compressed(arguments.output, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
