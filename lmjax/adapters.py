"""Models that are no Linen modules, as the trainer wants them: an init and an apply.

Only names tell decay, matrix methods and the mesh what a parameter is (lmjax/roles.py). So `axes`
goes with the model: path of a parameter -> the names of its axes, where * in a path stands for
anything and the first path that fits is taken.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import jax
from flax import nnx
from flax.core import meta
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, PRNGKeyArray

from lmjax.errors import InputError
from lmjax.roles import read_roles

Axes = Mapping[str, tuple[str, ...]]
STATE = "state"  # the collection of an NNX module's variables that are no parameters


@dataclasses.dataclass(frozen=True)
class FromFunctions:
    """Two functions over a nested dict of arrays, and no state beside it.

    params  (key, inputs) -> parameters
    logits  (parameters, inputs, key) -> logits; key None = evaluation, without dropout. What a task
            adds, such as the segments of packed tokens, comes by name.
    """

    params: Callable[[PRNGKeyArray, Any], Any]
    logits: Callable[..., Array]
    axes: Axes

    def init(self, key: PRNGKeyArray, inputs: Any, *, train: bool) -> dict[str, Any]:
        return {"params": with_axes(self.params(key, inputs), self.axes)}

    def apply(
        self,
        variables: Any,
        inputs: Any,
        *,
        train: bool,
        rngs: Any = None,
        mutable: Any = (),
        **extras: Any,
    ) -> Any:
        key = rngs["dropout"] if train else None
        logits = self.logits(variables["params"], inputs, key, **extras)
        return (logits, {}) if train else logits


@dataclasses.dataclass(frozen=True)
class FromNNX:
    """A Flax NNX module, from what makes it. Its module is made anew wherever it is traced.

    Batch statistics and other variables go along with the run's state; the streams of random
    numbers (nnx.RngState) do not, since every step has a key of its own.
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    axes: Axes

    def init(self, key: PRNGKeyArray, inputs: Any, *, train: bool) -> dict[str, Any]:
        params, state = _arrays(self.make(nnx.Rngs(key)))
        return {"params": with_axes(_tree(params), self.axes), **_collection(state)}

    def apply(
        self,
        variables: Any,
        inputs: Any,
        *,
        train: bool,
        rngs: Any = None,
        mutable: Any = (),
        **extras: Any,
    ) -> Any:
        model = self.make(nnx.Rngs(rngs["dropout"] if train else 0))
        params, state = _arrays(model)
        _put(model, params, variables["params"])
        _put(model, state, variables[STATE] if state else {})
        (model.train if train else model.eval)()
        logits = model(inputs, **extras)
        after = _arrays(model)[1]  # and what the call has left behind, which is dropped
        return (logits, _collection({path: after[path] for path in state})) if train else logits


def with_axes(params: Any, axes: Axes) -> Any:
    """Each parameter boxed with the names of its axes; raises InputError where they do not fit."""
    nameless: list[str] = []
    unused = set(axes)

    def box(path: Any, x: Array) -> Any:
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        pattern = next((pattern for pattern in axes if fnmatchcase(where, pattern)), None)
        if pattern is None:
            nameless.append(f"{where} {list(x.shape)}")
            return x
        unused.discard(pattern)
        return meta.Partitioned(x, axes[pattern])

    boxed = jax.tree_util.tree_map_with_path(box, params)
    if nameless:
        raise InputError(f"parameters without names of their axes: {', '.join(sorted(nameless))}")
    if unused:
        raise InputError(f"names of axes for no parameter: {', '.join(sorted(unused))}")
    try:
        read_roles(boxed)
    except ValueError as error:
        raise InputError(str(error)) from None
    return boxed


def _arrays(model: nnx.Module) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """(parameters, further variables) of a module, by path."""
    _, params, _, state = nnx.split(model, nnx.Param, nnx.RngState, ...)
    return flatten_dict(nnx.to_pure_dict(params)), flatten_dict(nnx.to_pure_dict(state))


def _put(model: nnx.Module, paths: Iterable[Any], tree: Any) -> None:
    """Set the variables at these paths to those of a tree."""
    given = flatten_dict(tree)
    nnx.update(model, unflatten_dict({path: given[_words(path)] for path in paths}))


def _collection(state: dict[Any, Any]) -> dict[str, Any]:
    return {STATE: _tree(state)} if state else {}


def _tree(flat: dict[Any, Any]) -> Any:
    return unflatten_dict({_words(path): x for path, x in flat.items()})


def _words(path: Any) -> tuple[str, ...]:
    """A path without numbers, which Orbax turns into words too."""
    return tuple(map(str, path))
