"""Paths of optimizers over stored gradients, for the tests that compare them with others'."""

import functools
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmjax.optim import Optimizer
from lmjax.roles import Leaf

Tree = dict[str, Any]

TOLERANCE = 1e-10  # of parameters of order 1, at every step
VISIBLE = 1e-5  # what a wrong setting must exceed
TARGETS = 48  # in every batch, for those who ask

LEAVES = {
    "up": Leaf((4, 7), ("embed", "mlp")),
    "down": Leaf((7, 3), ("mlp", "embed")),
    "vector": Leaf((5,), ("embed",)),
    "stacked": Leaf((2, 4, 6), ("layers", "embed", "mlp")),
    "square": Leaf((5, 5), ("embed", "mlp")),
    "squares": Leaf((2, 4, 4), ("layers", "embed", "mlp")),
}


def constant(count: Any) -> Any:
    return 1.0


def as_stored(params: Any, stored: Any) -> Any:
    return stored


def warm_up(count: Any) -> Any:
    return jnp.minimum((jnp.asarray(count, float) + 1) / 5, 1.0)


def warm_up_and_fall(count: Any) -> Any:
    return warm_up(count) * fall(count)


def fall(count: Any) -> Any:
    return 1 - jnp.asarray(count, float) / 20


def times(scale: float) -> Callable[[Any, Any], Any]:
    return lambda params, stored: scale * stored


class Row(NamedTuple):
    """An optimizer as its reference was set, and settings that are not; each must show."""

    right: Optimizer
    wrong: tuple[Optimizer, ...]
    factor: Callable[[Any], Any] = constant
    gradient: Callable[[Any, Any], Any] = as_stored  # of a leaf, from the stored one
    wrong_gradient: Callable[[Any, Any], Any] | None = None


@functools.cache
def stored() -> dict[str, Tree]:
    """Stem -> leaf -> array: where they start, gradients [20, ...], one path [20, ...] each."""
    trees: dict[str, Tree] = {}
    for path in sorted((Path(__file__).parent / "references").glob("optim*.npz")):
        with np.load(path) as file:
            for key in file.files:
                stem, _, leaf = key.partition("/")
                held = trees.setdefault(stem, {})
                known = held.get(leaf, file[key][:0])
                held[leaf] = np.concatenate([known, file[key]]) if stem == "sources" else file[key]
    return trees


def build(
    optimizer: Optimizer, roles: dict[str, Leaf], factor: Callable[[Any], Any] = constant
) -> optax.GradientTransformationExtraArgs:
    return optimizer.build(roles, optimizer.learning_rate, factor)


def quickly(function: Callable[..., Any]) -> Any:
    """Jitted with as little optimisation as XLA allows: these programs run for milliseconds."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def walk(
    transformation: optax.GradientTransformation,
    start: Tree,
    gradients: Tree,
    gradient: Callable[[Any, Any], Any] = as_stored,
    seen: Callable[[Any, Any], Any] = lambda state, params: params,
    state: Any = None,
) -> Tree:
    """What `seen` sees after every step, [20, ...]; to be traced."""
    transformation = optax.with_extra_args_support(transformation)

    def step(carry: Any, stored: Any) -> Any:
        params, state = carry

        def at(params: Any) -> Any:
            return None, jax.tree.map(gradient, params, stored)

        def sampled() -> Any:
            return jax.tree.map(lambda p, x: p + x, params, stored)

        oracle = types.SimpleNamespace(value_and_grad=at, sampled_grad=sampled, targets=TARGETS)
        updates, state = transformation.update(at(params)[1], state, params, oracle=oracle)
        params = optax.apply_updates(params, updates)
        return (params, state), seen(state, params)

    state = transformation.init(start) if state is None else state
    return jax.lax.scan(step, (start, state), {name: gradients[name] for name in start})[1]


def path(transformation: optax.GradientTransformation, start: Tree, gradients: Tree) -> Tree:
    """Each leaf after every step, [20, ...]."""
    return quickly(functools.partial(walk, transformation))(start, gradients)


def distance(ours: Tree, theirs: Tree) -> float:
    """The largest difference in any entry of any leaf after any step."""
    assert ours.keys() == theirs.keys()
    assert all(x.dtype == jnp.float64 for x in ours.values())
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in theirs)


def only(tree: Tree, *names: str) -> Tree:
    return {name: tree[name] for name in names}
