"""TrainState: everything that a run carries from one step to the next."""

import dataclasses
from typing import Any

import jax

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


def state_digest(state: TrainState, fingerprint: Fingerprint | None = None) -> str:
    """SHA-256 over (path, dtype, shape, fingerprint) of each leaf; nothing is gathered for it.

    `fingerprint` is that of a program, whose kernels are compiled already.
    """
    fingerprint = fingerprint or Fingerprint(state)
    return digest(fingerprint.leaves, fingerprint.read(fingerprint(state)))
