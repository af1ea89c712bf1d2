"""Outer steps: every k updates, from slow parameters towards where those updates have led.

    d = slow - p                              of lookahead   slow <- slow - share d
    v <- momentum v + d                       of nesterov    slow <- slow - rate (d + momentum v)
    p <- slow

Lookahead (Zhang et al., arXiv 1907.08610) equals the authors' lookahead_pytorch.py
(michaelrzhang/lookahead@c4fd85f) with pullback_momentum="none": the inner optimizer keeps its
state. Nesterov is DiLoCo's outer optimizer (Douillard et al., arXiv 2311.08105) with one worker, as
in SNOO (arXiv 2510.15830); it equals torch.optim.SGD(nesterov=True) on d.

The model is evaluated at the slow parameters, as the authors of both do: at those of the last outer
step, and before the first one at the parameters that the run began with. So the updates after the
last outer step do not count: let `every` divide the steps of a run. The schedule is of the inner
rate only.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Integer

from lmjax.errors import FieldError, check_integer, check_number
from lmjax.parts import Part


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer(Part):
    """No outer steps."""

    label: ClassVar[str] = "none"

    def check_steps(self, steps: int) -> None:
        """Refuse outer steps none of which a run of so many steps would make."""

    def averaging(self) -> optax.GradientTransformation:
        """The last link of an optimizer's chain."""
        return optax.identity()

    def evaluation_params(self, state: Any, params: Any) -> Any:
        """Where the model is evaluated, from that link's state."""
        return params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Every(Outer):
    """An outer step every few updates."""

    label: ClassVar[str] = ""

    every: int  # updates between two outer steps

    def validate(self) -> None:
        check_integer("every", self.every, least=1)

    def check_steps(self, steps: int) -> None:
        if self.every > steps:
            told = f"must be at most the run's {steps} steps: it is evaluated after outer steps"
            raise FieldError("every", self.every, told)

    def evaluation_params(self, state: Any, params: Any) -> Any:
        return state.slow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lookahead(Every):
    """A share of the way, every few updates."""

    label: ClassVar[str] = "lookahead"

    every: int = 5  # updates between two outer steps
    share: float = 0.8  # of the way that an outer step goes; 1 = all of it

    def validate(self) -> None:
        super().validate()
        check_number("share", self.share, above=0, most=1)

    def averaging(self) -> optax.GradientTransformation:
        return step_every(self.every, self.share, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OuterNesterov(Every):
    """SGD with Nesterov's momentum on the way of many updates."""

    label: ClassVar[str] = "nesterov"

    every: int = 50  # updates between two outer steps; DiLoCo's 500 are for 8 workers
    rate: float = 0.7  # of the outer step
    momentum: float = 0.9  # decay of the outer velocity; 0 would be lookahead

    def validate(self) -> None:
        super().validate()
        check_number("rate", self.rate, above=0)
        check_number("momentum", self.momentum, above=0, below=1)

    def averaging(self) -> optax.GradientTransformation:
        return step_every(self.every, self.rate, self.momentum)


class StepEveryState(NamedTuple):
    """step: int32 [], updates made so far; slow, velocity: trees like the parameters."""

    step: Integer[Array, ""]
    slow: Any
    velocity: Any  # None without momentum


def step_every(every: int, rate: float, momentum: float) -> optax.GradientTransformation:
    """The outer step in the place of each `every`-th update, and that update's end in it."""

    def init(params: Any) -> StepEveryState:
        velocity = jax.tree.map(jnp.zeros_like, params) if momentum else None
        return StepEveryState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.copy, params), velocity)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        due = (state.step + 1) % every == 0

        def way(slow: Array, p: Array, u: Array) -> Array:
            return slow - (p + u).astype(slow.dtype)

        def chosen(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(due, a, b), new, old)

        direction = jax.tree.map(way, state.slow, params, updates)
        velocity = state.velocity
        if momentum:
            grown = jax.tree.map(lambda d, v: momentum * v + d, direction, velocity)
            direction = jax.tree.map(lambda d, v: d + momentum * v, direction, grown)
            velocity = chosen(grown, velocity)

        def outer(slow: Array, d: Array, p: Array) -> Array:
            return (slow - rate * d - p).astype(p.dtype)

        moved = chosen(jax.tree.map(outer, state.slow, direction, params), updates)
        ends = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), params, moved)
        return moved, StepEveryState(state.step + 1, chosen(ends, state.slow), velocity)

    return optax.GradientTransformation(init, update)
