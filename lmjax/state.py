"""TrainState: everything that a run carries from one step to the next."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.fingerprint import Fingerprint, digest


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree of plain arrays with string keys (or, in an abstract one, of their shapes)."""

    step: Any  # int32 [], steps made so far, those among them that were skipped
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
def _good(leaves: dict[str, jax.Array], held: dict[str, jax.Array]) -> dict[str, jax.Array]:
    finite = {path: jnp.isfinite(x).all() for path, x in leaves.items()}
    return finite | {path: ~jnp.isnan(x).any() for path, x in held.items()}


def leaves_not_finite(state: TrainState) -> list[str]:
    """Paths of the leaves that hold a number that is not finite, the model's first. Waits for them.

    Of what the optimizer holds, those with a NaN: an infinity may be the best loss before there is
    one.
    """
    model = _floating({"params": state.params, "model_state": state.model_state})
    held = _floating({"opt_state": state.opt_state})
    good = jax.device_get(_good(model, held))
    return [path for path in (*model, *held) if not good[path]]


def _floating(tree: Any) -> dict[str, Any]:
    """Path -> each leaf that could hold what is not finite."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): x
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(x.dtype, jnp.inexact)
    }


@dataclasses.dataclass(frozen=True)
class Parts:
    """What this process has of an array: each part once, by its place in the array."""

    by_place: dict[str, np.ndarray]

    def plus(self, number: int) -> "Parts":
        return Parts({place: np.asarray(part + number) for place, part in self.by_place.items()})


def on_host(state: TrainState) -> TrainState:
    """A copy, in Parts, that no step can take as its own."""

    def keep(x: jax.Array) -> Parts:
        each = {str(shard.index): shard for shard in x.addressable_shards}
        return Parts({place: np.array(one.data, copy=True) for place, one in each.items()})

    return jax.tree.map(keep, state)


def on_devices(kept: TrainState, abstract: TrainState) -> TrainState:
    """What `on_host` has kept, on the devices again, in memory of its own."""

    def put(x: Parts, like: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.make_array_from_callback(
            like.shape, like.sharding, lambda place: np.array(x.by_place[str(place)], copy=True)
        )

    with jax.transfer_guard_host_to_device("allow"):
        return jax.tree.map(put, kept, abstract)


def state_digest(state: TrainState, fingerprint: Fingerprint | None = None) -> str:
    """SHA-256 over (path, dtype, shape, fingerprint) of each leaf; nothing is gathered for it.

    `fingerprint` is that of a program, whose kernels are compiled already.
    """
    fingerprint = fingerprint or Fingerprint(state)
    return digest(fingerprint.leaves, fingerprint.read(fingerprint(state)))
