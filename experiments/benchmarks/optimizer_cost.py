"""What does an update of each optimizer cost, beside sgd's and beside its authors' in PyTorch?

    python -m experiments.benchmarks.optimizer_cost --json PATH [--peer-python PATH [--authors DIR]]

Of a GPT-2 with narrow layers (WIDTH, DEPTH, VOCABULARY), parameters and gradients float32: only the
optimizer's own update, jitted, from gradients that are there already, UPDATES of them in a block so
that what an optimizer does every tenth time is in it. By turns with sgd; the second block of sgd
tells the noise. What it asks of its oracle (sophia's further gradients) costs nothing here.
Beside torch.optim's where torch has it (fused where it can be), or the authors' own code out of
clones of their repositories in DIR, as they have it: on as many tensors as a model in PyTorch has,
and with as many threads. lbfgs is left out: its cost is that of its loss.

Expected (2 cores): everything that is not a matrix method below 15 times sgd, which is one pass
over memory, but for dadapt-adamw's 28. Theirs over ours, where ours was the slower: sgd .75 to .88,
adamw .72, momentum .77, nesterov .67, lars .62, dadapt-adamw .49, dion2 .82. Of adamw, momentum and
nesterov torch makes one pass over memory, XLA's CPU backend two or three. muon 1.16, d-muon 1.12,
normuon 2.03, scion 1.08: both do some 350 GFLOP/s in bfloat16 here.
"""

import argparse
import functools
import json
import math
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import gpt2_124m
from experiments.benchmarks.turns import Peer, doubt, ratios, spread, take_turns
from lmjax.mesh import make_mesh
from lmjax.optim import SGD, Optimizer
from lmjax.parallel import abstract_state
from lmjax.parts import alternatives, replace
from lmjax.platforms import limit_blas
from lmjax.roles import Leaf, Roles

WIDTH, DEPTH, VOCABULARY = 256, 4, 4096
UPDATES, PAIRS = 20, 5
LEFT_OUT = ("lbfgs",)


def leaves() -> tuple[Roles, dict[str, Any]]:
    """(roles, parameters) of the narrow GPT-2."""
    model = gpt2_124m.config().task.model
    sizes = {"width": WIDTH, "depth": DEPTH, "vocab_size": VOCABULARY, "heads": 4}
    for name, value in sizes.items():
        model = replace(model, name, value)
    experiment = replace(gpt2_124m.config(), "task.model", model)
    batch = experiment.data.shapes(experiment.batch_size)
    mesh = make_mesh(experiment.parallel, jax.devices()[:1])
    roles, state = abstract_state(experiment, batch, mesh)
    rng = np.random.default_rng(0)
    return roles, jax.tree.map(
        lambda x: jnp.asarray(0.02 * rng.normal(size=x.shape), jnp.float32), state.params
    )


class Update:
    """Updates of one optimizer, block after block."""

    def __init__(self, optimizer: Optimizer, roles: Roles, params: Any, grads: Any):
        transform = optimizer.build(roles, optimizer.learning_rate, lambda count: jnp.float32(1))

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def update(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
            oracle = types.SimpleNamespace(
                value_and_grad=lambda at: (jnp.float32(1), jax.tree.map(jnp.add, grads, at)),
                sampled_grad=lambda: grads,
                targets=jnp.float32(1),
            )
            extra = {"value": jnp.float32(1), "grad": grads, "oracle": oracle}
            updates, state = transform.update(grads, state, params, **extra)
            return optax.apply_updates(params, updates), state

        self._update, self._grads = update, grads
        self._params = jax.tree.map(jnp.copy, params)
        self._state = jax.jit(transform.init)(self._params)
        self()  # compiles

    def __call__(self) -> float:
        """Seconds of a block."""
        begun = time.perf_counter()
        for _ in range(UPDATES):
            self._params, self._state = self._update(self._params, self._state, self._grads)
        jax.block_until_ready((self._params, self._state))
        return time.perf_counter() - begun


def as_tensors(roles: Roles) -> list[dict[str, Any]]:
    """The parameters as a model in PyTorch has them: what is stacked are tensors by themselves."""
    found = []
    for leaf in jax.tree.leaves(roles, is_leaf=lambda x: isinstance(x, Leaf)):
        own = len(leaf.own_axes)
        one = {"shape": list(leaf.matrix_shape[-own:]), "matrix": leaf.role == "matrix"}
        found += [one] * math.prod(leaf.matrix_shape[:-own])
    return found


def measure(
    name: str,
    optimizer: Optimizer,
    roles: Roles,
    params: Any,
    grads: Any,
    peer: Peer | None,
    beside: dict[str, Any],
) -> dict[str, Any]:
    """One optimizer's row; `beside` tells the peer what its has to be made of."""
    ours = Update(optimizer, roles, params, grads)
    sgd = Update(SGD(), roles, params, grads)
    turns = take_turns(ours, sgd, PAIRS)
    noise = ratios(turns.again, turns.other)
    row = {
        "milliseconds": spread([1e3 * x / UPDATES for x in turns.ours]),
        "over_sgd": ratios(turns.ours, turns.other),
        "noise": noise,
        "doubt": doubt(noise),
    }
    if peer is not None and peer.ask(label=name, updates=UPDATES, **beside)["there"]:
        pairs = take_turns(ours, lambda: peer.ask(updates=UPDATES)["seconds"], PAIRS)
        row["authors_over_ours"] = ratios(pairs.other, pairs.ours)
    return row


def text(name: str, row: dict[str, Any]) -> str:
    over, authors = row["over_sgd"], row.get("authors_over_ours")
    told = f"{name:20s}{row['milliseconds']['median']:9.2f} ms  {over['median']:7.2f} times sgd"
    told += f" ({over['low']:.2f} to {over['high']:.2f})"
    if authors:
        told += f"; its authors' takes {authors['median']:.2f} times as long"
    return told + row["doubt"]


def chosen(names: Sequence[str]) -> dict[str, Any]:
    """The optimizers to measure, ours alone, by label."""
    known = {
        label: cls
        for label, cls in sorted(alternatives(Optimizer).items())
        if cls.__module__.startswith("lmjax.") and label not in LEFT_OUT
    }
    return {name: known[name] for name in names} if names else known


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", required=True, type=Path)
    parser.add_argument("--peer-python", help="an interpreter with torch")
    parser.add_argument("--authors", help="a folder with clones of the authors' repositories")
    parser.add_argument("--optimizers", nargs="*", default=[], help="all")
    given = parser.parse_args()
    limit_blas()
    roles, params = leaves()
    rng = np.random.default_rng(1)
    grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    script = Path(__file__).with_name("torch_optim.py")
    peer = Peer(given.peer_python, str(script)) if given.peer_python else None
    beside = {"tensors": as_tensors(roles), "checkouts": given.authors}
    found: dict[str, Any] = {}
    for name, make in chosen(given.optimizers).items():
        found[name] = measure(name, make(), roles, params, grads, peer, beside)
        print(text(name, found[name]), flush=True)
        told = {
            "leaves": {"width": WIDTH, "depth": DEPTH, "vocabulary": VOCABULARY},
            "updates_in_a_block": UPDATES,
            "pairs": PAIRS,
            "optimizers": found,
        }
        given.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
