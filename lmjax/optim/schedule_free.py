"""Schedule-free AdamW and SGD (Defazio et al., arXiv 2405.15682): an average for a schedule.

Gradients are taken at y, steps are made by z, and the model is evaluated at x:
    z <- z - rate(t) (g / (sqrt(v / (1 - b2^t)) + eps) + weight_decay y),   v as in Adam
    x <- (1 - c) x + c z,   c = w(t) / sum of w up to t,   w(t) = (largest rate up to t)^2
    y <- b1 x + (1 - b1) z
The parameters are y; x is not kept, but found from y and z. Equal to the authors'
adamw_schedulefree_reference.py (facebookresearch/schedule_free@70785b5), warm-up included; for SGD
z <- z - rate(t) (g + weight_decay y), and their sgd_schedulefree_reference.py.

The method wants a constant schedule with a warm-up. Under one that falls, c stays what the peak
makes it, as it does in the authors' code. optax's own wrapper counts its warm-up from 0 and so
does not move at the first step; ours has the schedule of every other method, which does.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer

from lmjax.errors import FieldError, check_number
from lmjax.optim.outer import Outer
from lmjax.optim.recipe import DECAYS, Factor, Optimizer
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleFreeAdamW(Optimizer):
    """Adam's second moment, with interpolation in place of its first; evaluated at x."""

    label: ClassVar[str] = "schedule-free-adamw"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-5, 1e-1),
        "b1": Choice((0.9, 0.95, 0.98)),
        "b2": Choice((0.95, 0.99, 0.999)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "The road less scheduled",
        "2405.15682",
        "facebookresearch/schedule_free",
        "70785b53e778d0e872c0bbb75ff4ee54ee10c291",
        "schedulefree/adamw_schedulefree_reference.py",
    )

    learning_rate: float = 0.0025  # the peak of the schedule
    b1: float = 0.9  # share of x in y
    b2: float = 0.999  # decay of the second moment
    eps: float = 1e-8  # added to the root of the second moment

    def validate(self) -> None:
        super().validate()
        check_number("b1", self.b1, above=0, below=1)  # x is found by a division by it
        check_number("b2", self.b2, least=0, below=1)
        check_number("eps", self.eps, above=0)
        check_alone(self)

    @property
    def keeps_signs(self) -> bool:
        return True

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return optax.scale_by_rms(self.b2, self.eps, eps_in_sqrt=False, bias_correction=True)

    def averaging(self, factor: Factor) -> optax.GradientTransformation:
        return interpolate(self.b1, factor)

    def evaluation_params(self, opt_state: Any, params: Any) -> Any:
        return averages(self.b1, opt_state["averaging"].z, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleFreeSGD(Optimizer):
    """The gradient itself, with interpolation in place of a momentum; evaluated at x."""

    label: ClassVar[str] = "schedule-free-sgd"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-3, 1e2),
        "momentum": Choice((0.9, 0.95, 0.98)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = Reference(
        "The road less scheduled",
        "2405.15682",
        "facebookresearch/schedule_free",
        "70785b53e778d0e872c0bbb75ff4ee54ee10c291",
        "schedulefree/sgd_schedulefree_reference.py",
    )

    learning_rate: float = 1.0  # the peak of the schedule
    momentum: float = 0.9  # share of x in y: b1 above

    def validate(self) -> None:
        super().validate()
        check_number("momentum", self.momentum, above=0, below=1)  # as b1
        check_alone(self)

    @property
    def keeps_signs(self) -> bool:
        return True

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return optax.identity()

    def averaging(self, factor: Factor) -> optax.GradientTransformation:
        return interpolate(self.momentum, factor)

    def evaluation_params(self, opt_state: Any, params: Any) -> Any:
        return averages(self.momentum, opt_state["averaging"].z, params)


def check_alone(optimizer: Optimizer) -> None:
    """Raise FieldError for a wrapper that would move the place to evaluate at, which is x."""
    label = optimizer.label
    if optimizer.ema_decay:
        raise FieldError("ema_decay", optimizer.ema_decay, f"must be 0: {label} averages too")
    if optimizer.hyperball:
        told = f"must be False: {label} is evaluated at an average, off the sphere"
        raise FieldError("hyperball", optimizer.hyperball, told)
    if optimizer.outer != Outer():
        told = f"must be none: {label} averages too"
        raise FieldError("outer", optimizer.outer.label, told)


class InterpolateState(NamedTuple):
    """Updates made so far; largest factor of the rate; sum of the weights; where steps lead."""

    step: Integer[Array, ""]
    largest: Float[Array, ""]
    weights: Float[Array, ""]
    z: Any  # a tree like the parameters


def interpolate(b1: float, factor: Factor) -> optax.GradientTransformation:
    """From steps of z to steps of y.

    With x taken out of the equations above, y moves by c (z' - y) + (1 - b1) (1 - c) times the step
    from z to z'. In terms of z XLA would copy it, since z' takes its place. Weights are in terms of
    the rate's factor: the peak rate cancels in c.
    """

    def init(params: Any) -> InterpolateState:
        # No array stands twice in a state, since every one is donated to the step.
        zeros = (jnp.zeros([], jnp.int32), jnp.zeros([], float), jnp.zeros([], float))
        return InterpolateState(*zeros, jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        largest = jnp.maximum(state.largest, factor(state.step))
        weights = state.weights + largest**2
        c = jnp.where(weights > 0, largest**2 / weights, 0.0)

        def move(z: Array, y: Array, u: Array) -> Array:
            return c * (z - y) + (1 - b1) * (1 - c) * u

        z = jax.tree.map(lambda z, u: (z + u).astype(z.dtype), state.z, updates)
        moved = jax.tree.map(move, z, params, updates)
        return moved, InterpolateState(state.step + 1, largest, weights, z)

    return optax.GradientTransformation(init, update)


def averages(b1: float, z: Any, y: Any) -> Any:
    """x, of which y has the share b1."""
    return jax.tree.map(lambda z, y: z + (y - z) / b1, z, y)
