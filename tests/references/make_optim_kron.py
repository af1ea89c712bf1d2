"""Writes optim_kron.npz: what make_optim.py writes for optim.npz, of psgd_jax's Kron.

    pip install jax==0.10.2 flax==0.12.8 optax==0.2.8 chex==0.1.92 numpy==2.4.6
    python make_optim_kron.py CHECKOUTS optim.npz optim_kron.npz

on Python 3.11. CHECKOUTS holds a clone of evanatyourservice/psgd_jax at the commit given below; its
file is checked by its SHA-256 and run as it is, none is kept here. It is written in JAX, so that it
has a script of its own. Start and gradients are those of optim.npz; stacked matrices are leaves of
their own there.

Every cast to a narrower type is lifted: in _balance_Q the norms are float64, not float32. That its
damping is the root of float32's epsilon is left as it is. The import of optax._src.clipping, which
optax no longer has and the file does not use, is left out. Settings:
    kron           the defaults, with a rate and a decay
    kron_other     factors from gradients, of another scale and rate, at fewer and fewer steps
    kron_one_side  diagonal factors for sides longer than 5
    kron_balanced  begun at the step that `kron_from` holds, so that factors are balanced, as one of
                   a hundred updates does, within the 20 steps
"""

# pyright: reportMissingImports=false
import argparse
import hashlib
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

REPOSITORY = "evanatyourservice/psgd_jax"
COMMIT = "be9552446381ce1ad9fcf9632c5c1045a9fa44c3"
SHA256 = "da0c58086cc1ea22ecf4de36fba7305eee409223e174b5724cec54b0ff67dfaa"
REPLACED = {
    "[jnp.max(jnp.abs(q)) for q in Q], dtype=jnp.float32": "[jnp.max(jnp.abs(q)) for q in Q]",
    "transform, clipping, numerics": "transform, numerics",
}
STEPS = 20
MATRICES = ("up", "down", "stacked")

Tree = dict[str, Any]


def load(checkouts: Path) -> types.ModuleType:
    path = checkouts / "psgd_jax" / "psgd_jax" / "kron.py"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{path} has SHA-256 {found}, not {SHA256}")
    text = path.read_text()
    for old, new in REPLACED.items():
        if text.count(old) != 1:
            raise SystemExit(f"{path} does not hold {old!r} once")
        text = text.replace(old, new)
    module = types.ModuleType("kron")
    exec(compile(text, path.name, "exec"), module.__dict__)
    return module


def apart(tree: Tree) -> Tree:
    """A leaf for each matrix, in the order of the leaves and of their stacks."""
    found = {}
    for name, x in tree.items():
        several = np.ndim(x) == 3
        found |= {f"{name}{n}": part for n, part in enumerate(x)} if several else {name: x}
    return found


def together(tree: Tree) -> Tree:
    """The inverse of `apart`."""
    found = {name: np.asarray(tree[name]) for name in MATRICES if name in tree}
    return found | {"stacked": np.stack([tree["stacked0"], tree["stacked1"]])}


def trajectory(kron: Any, start: Tree, gradients: Tree, begin: int = 0) -> Tree:
    """The parameters after every step, [STEPS, ...] each."""
    params: Any = jax.tree.map(jnp.asarray, apart(start))
    state: Any = kron.init(params)
    state[0]["count"] = jnp.asarray(begin, jnp.int32)  # of the chain's first link

    @jax.jit
    def step(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = kron.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    path = []
    for n in range(STEPS):
        now = {name: x[n] for name, x in gradients.items()}
        params, state = step(params, state, apart(now))
        path.append(together(params))
    return {name: np.stack([tree[name] for tree in path]) for name in MATRICES}


def first_balance() -> int:
    """The first step from 10 on at which the authors' key balances the factors."""
    for count in range(10, 10_000):
        key = jax.random.fold_in(jax.random.PRNGKey(5318008), count)
        subkey = jax.random.split(jax.random.split(key)[1])[1]
        if float(jax.random.uniform(subkey)) < 0.01:
            return count
    raise SystemExit("no step balances the factors")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write optim_kron.npz.")
    parser.add_argument("checkouts", type=Path, help="the folder with the clone")
    parser.add_argument("usual", type=Path, help="optim.npz")
    parser.add_argument("output", type=Path, help="optim_kron.npz")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    module = load(arguments.checkouts)

    with np.load(arguments.usual) as file:
        start = {name: file[f"start/{name}"] for name in MATRICES}
        gradients = {name: file[f"gradients/{name}"] for name in MATRICES}
    usual = {"learning_rate": 0.01, "weight_decay": 0.1}
    rarely = module.precond_update_prob_schedule(
        max_prob=0.9, min_prob=0.3, decay=0.2, flat_start=4
    )
    begin = first_balance() - 10
    paths = {
        "kron": trajectory(module.kron(**usual), start, gradients),
        "kron_other": trajectory(
            module.kron(
                **usual,
                momentum_into_precond_update=False,
                preconditioner_init_scale=0.5,
                preconditioner_lr=0.2,
                preconditioner_update_probability=rarely,
            ),
            start,
            gradients,
        ),
        "kron_one_side": trajectory(module.kron(**usual, max_size_triangular=5), start, gradients),
        "kron_balanced": trajectory(module.kron(**usual), start, gradients, begin),
    }
    arrays = {f"{label}/{name}": x for label, path in paths.items() for name, x in path.items()}
    arrays["kron_from/step"] = np.array([begin], np.int32)
    arrays["sources"] = np.array([f"{REPOSITORY}@{COMMIT}"])
    np.savez_compressed(arguments.output, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
