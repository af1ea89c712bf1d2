"""TrainState: everything that a run carries from one step to the next."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.fingerprint import Fingerprint, digest


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree of plain arrays with string keys (or, in an abstract one, of their shapes)."""

    step: Any  # int32 [], updates made so far
    params: Any  # float32 master copy
    model_state: Any  # the model's further collections: {} or {"batch_stats": ...}
    opt_state: Any  # of the optax chain


def parameter_count(params: Any) -> int:
    """Numbers in a tree of arrays or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def state_copies(state: TrainState) -> float:
    """Bytes that the optimizer keeps for each byte of parameters; AdamW: 2 and its counters."""

    def size(tree: Any) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    return size(state.opt_state) / size(state.params)


@jax.jit
def _finite(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(x).all() for x in leaves]


def bad_leaves(state: TrainState) -> str:
    """Which leaves of the model hold a number that is not finite, in words, "" where none does.

    Optimizers may hold an infinity, such as the best loss before there is one. Waits for them.
    """
    leaves = jax.tree_util.tree_leaves_with_path(
        {"params": state.params, "model_state": state.model_state}
    )
    finite = _finite([x for _, x in leaves])
    bad = [path for (path, _), good in zip(leaves, finite, strict=True) if not good]
    if not bad:
        return ""
    first = jax.tree_util.keystr(bad[0], simple=True, separator="/")
    return f"{len(bad)} of {len(leaves)} leaves are not finite, {first} the first"


def state_digest(state: TrainState, fingerprint: Fingerprint | None = None) -> str:
    """SHA-256 over (path, dtype, shape, fingerprint) of each leaf; nothing is gathered for it.

    `fingerprint` is that of a program, whose kernels are compiled already.
    """
    fingerprint = fingerprint or Fingerprint(state)
    return digest(fingerprint.leaves, fingerprint.read(fingerprint(state)))
