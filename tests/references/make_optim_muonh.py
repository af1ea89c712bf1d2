"""Writes optim_muonh.npz: what make_optim.py writes for optim.npz, of levanter's MuonH.

    pip install torch==2.14.1 jax==0.10.2 optax==0.2.8 numpy==2.4.6
    python make_optim_muonh.py CHECKOUTS optim.npz optim_muonh.npz

on Python 3.11. CHECKOUTS holds clones of marin-community/marin and, for its Newton-Schulz, which
was written first there, of stanford-crfm/levanter; the files are checked by their SHA-256 and none
is kept here. They are written in JAX, and nothing in them casts. Of haliax's layers they want an
array with a name for each axis: here they get one without names. Left out is the placement on a
mesh of what Newton-Schulz multiplies. Settings: muon_eps=2e-6, where the default is 1e-8: it is
Keller Jordan's and our 1e-7 for a momentum that is 1 / (1 - .95) times as large there, where
gradients are summed and not averaged. Stacked matrices are leaves of their own there.
"""

# pyright: reportMissingImports=false
import argparse
import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from make_optim import MATRICES, STEPS, Source, load
from make_optim_kron import apart, together

SOURCES = {
    "muon": Source(
        "src/levanter/optim/muon.py",
        "stanford-crfm/levanter",
        "9263f81e8b453241332c2c0b2d2001bfb2d2241c",
        "45fc83132438e91d82cef964a33da7f4649bb020afb07d8b6739e01e51e50f97",
        {"if len(haliax.partitioning._get_mesh().devices):": ("if False:", 1)},
    ),
    "muonh": Source(
        "lib/levanter/src/levanter/optim/muonh.py",
        "marin-community/marin",
        "05422e243ad24b426998b8c33d4db437aca1129e",
        "26afd24bb32def6de9ceeb86ed39bab184d98f3af09289279d410f30dcd03b27",
    ),
}

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Weight:
    """In the place of haliax's array with named axes."""

    array: Any
    ndim: int = 2


@dataclasses.dataclass(frozen=True)
class Layer:
    """In the place of haliax.nn.Linear."""

    weight: Weight


def map_layers(function: Any, tree: Tree) -> Tree:
    """In the place of levanter's, which looks for the layers in a model."""
    return {name: function(Layer(Weight(x))).weight.array for name, x in tree.items()}


def stand_in(name: str, **held: Any) -> None:
    """A module with nothing but what is named, also as an attribute of what it lies in."""
    module = sys.modules[name] = types.ModuleType(name)
    module.__dict__.update(held)
    outer, _, inner = name.rpartition(".")
    if outer:
        setattr(sys.modules[outer], inner, module)


def load_both(checkouts: Path) -> Any:
    """levanter's muonh.py."""

    class Config:
        """Of levanter, whose registry is all that is used of it."""

        @staticmethod
        def register_subclass(name: str) -> Any:
            return lambda cls: cls

    stand_in("chex", Array=Any, assert_rank=lambda x, rank: None)
    for name in ("haliax", "levanter", "levanter.optim", "levanter.utils"):
        stand_in(name)
    stand_in("haliax.nn", Linear=Layer)
    stand_in("levanter.optim.config", OptimizerConfig=Config)
    stand_in("levanter.optim.util", map_flattened_linear_layers=map_layers)
    stand_in("levanter.utils.jax_utils", leaf_key_paths=None)
    stand_in("levanter.optim.adamh", scale_by_adamh=None)
    for name in ("muon", "muonh"):
        sys.modules.setdefault(name, types.ModuleType(name))  # a dataclass looks its module up
    muon = load(checkouts, SOURCES["muon"])
    newton_schulz = muon.zeropower_via_newtonschulz5
    stand_in("levanter.optim.muon", zeropower_via_newtonschulz5=newton_schulz)
    return load(checkouts, SOURCES["muonh"])


def trajectory(transformation: Any, start: Tree, gradients: Tree) -> Tree:
    """The parameters after every step, [STEPS, ...] each."""
    params: Any = jax.tree.map(jnp.asarray, apart(start))
    state, path = transformation.init(params), []
    for step in range(STEPS):
        now = apart({name: x[step] for name, x in gradients.items()})
        updates, state = transformation.update(now, state, params)
        params = {name: params[name] + updates[name] for name in params}
        path.append(together(params))
    return {name: np.stack([tree[name] for tree in path]) for name in MATRICES}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write optim_muonh.npz.")
    parser.add_argument("checkouts", type=Path, help="the folder with the clones")
    parser.add_argument("usual", type=Path, help="optim.npz")
    parser.add_argument("output", type=Path, help="optim_muonh.npz")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    module = load_both(arguments.checkouts)
    with np.load(arguments.usual) as file:
        start = {name: file[f"start/{name}"] for name in MATRICES}
        gradients = {name: file[f"gradients/{name}"] for name in MATRICES}
    made = module.scale_with_muonh(muon_eps=2e-6, learning_rate=0.02)
    path = trajectory(made, start, gradients)
    arrays: Tree = {f"muonh/{name}": x for name, x in path.items()}
    arrays["sources"] = np.array([f"{x.repository}@{x.commit}" for x in SOURCES.values()])
    np.savez_compressed(arguments.output, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
