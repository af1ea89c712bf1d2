"""The one chain of every optimizer: clip -> direction -> decay -> -rate, then an average.

Wrappers of any direction are fields here too, each off until it is asked for: `cautious`
(lmjax/optim/cautious.py), `hyperball` (hyperball.py), `outer` (outer.py) and `ema_decay`.

An optimizer differs from another in its direction only. What they share stands here once: the
global-norm clip, decoupled weight decay by role, the schedule, the sign, and which rule moves
which leaf. Decay is multiplied by the rate, as in torch.optim.AdamW:
    p <- p - rate * factor(t) * (direction + weight_decay * p)
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer

from lmjax.errors import FieldError, check_number
from lmjax.optim.cautious import cautious
from lmjax.optim.hyperball import TURNED, on_sphere, relative
from lmjax.optim.outer import Outer
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.parts import Part
from lmjax.roles import Leaf, Role, Roles, map_roles

DECAYS = Choice((0.0, 0.01, 0.1))  # weight decays that a tuning tries, the same for every method
Factor = Callable[[Integer[Array, ""]], Float[Array, ""]]  # update number, from 0 -> of every rate
Scalar = float | Float[Array, ""]  # which may be traced
Links = list[tuple[str, optax.GradientTransformation]]  # of a chain, with their names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule(Part):
    """A direction with its own rate and decay."""

    learning_rate: float = 1e-3  # the peak of the schedule
    weight_decay: float = 0.0  # decoupled; for the roles that decay (lmjax/roles.py)

    def validate(self) -> None:
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("weight_decay", self.weight_decay, least=0)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        """From gradients to the direction of descent (positive: it is subtracted later).

        `roles` has a Leaf for each parameter that this rule moves and nothing elsewhere.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer(Rule):
    """A rule for a whole model, with the shared head and tail of the chain."""

    needs_previous_batch: ClassVar[bool] = False  # the step then gets batch t - 1 too
    caution: ClassVar[str] = ""  # what `describe` tells of where it may be used
    search_space: ClassVar[Space] = {"learning_rate": LogGrid(1e-5, 1.0)}  # what it is tuned over
    reference: ClassVar[Reference | None] = None  # None: nothing that it was compared with
    unfit: ClassVar[tuple[str, ...]] = ()  # wrappers that it cannot take

    clip_norm: float = 0.0  # largest global norm of the gradient; 0 = no clipping
    ema_decay: float = 0.0  # of the average of the parameters, which is evaluated then; 0 = none
    cautious: bool = False  # step only where the direction agrees with the gradient in sign
    hyperball: bool = False  # keep the norms of matrices, and make those of their steps relative
    outer: Outer = Outer()  # steps between points that are many updates apart

    def validate(self) -> None:
        super().validate()
        check_number("clip_norm", self.clip_norm, least=0)
        check_number("ema_decay", self.ema_decay, least=0, below=1)
        for name in self.unfit:
            if getattr(self, name):
                raise FieldError(name, True, f"must be False: {self.label} cannot be wrapped so")
        if self.cautious and self.keeps_signs:
            told = f"must be False: {self.label} always has the gradient's signs"
            raise FieldError("cautious", self.cautious, told)
        if self.hyperball and self.weight_decay:
            told = "must be 0 with hyperball, which keeps the norms of matrices"
            raise FieldError("weight_decay", self.weight_decay, told)
        if self.outer != Outer() and self.hyperball:
            told = "must be False with outer steps, which leave the sphere"
            raise FieldError("hyperball", self.hyperball, told)
        if self.outer != Outer() and self.ema_decay:
            told = f"must be 0: outer:{self.outer.label} has its own place to evaluate at"
            raise FieldError("ema_decay", self.ema_decay, told)

    @property
    def keeps_signs(self) -> bool:
        """Whether its direction always has the gradient's signs."""
        return False

    def rule_for(self, leaf: Leaf) -> Rule:
        """The rule that moves this leaf."""
        return self

    def evaluation_params(self, opt_state: Any, params: Any) -> Any:
        """Where the model is evaluated, which averaging methods put elsewhere than `params`."""
        state = opt_state["averaging"]
        return state.average if self.ema_decay else self.outer.evaluation_params(state, params)

    def estimate(self, roles: Roles) -> optax.GradientTransformation:
        """What stands in for the gradient, ahead of the clip, where every leaf is at hand."""
        return optax.identity()

    def averaging(self, factor: Factor) -> optax.GradientTransformation:
        """The last link, which sees the step itself; `evaluation_params` reads its state."""
        return _average(self.ema_decay) if self.ema_decay else self.outer.averaging()

    def build(
        self,
        roles: Roles,
        learning_rate: Scalar,
        factor: Factor,
    ) -> optax.GradientTransformationExtraArgs:
        """The transformation for a model's parameters.

        Args:
          roles: a Leaf for each parameter.
          learning_rate: stands in for `self.learning_rate`, so that it can be traced.
          factor: update number (from 0) -> factor of every rate.
        """
        clip = optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity()
        return optax.named_chain(
            ("estimate", self.estimate(roles)),
            ("clip", clip),
            *self.descent(roles, learning_rate, factor),
            ("averaging", self.averaging(factor)),
        )

    def descent(self, roles: Roles, learning_rate: Scalar, factor: Factor) -> Links:
        """From clipped gradients to the step; the arguments are those of `build`.

        A method overrides it whose direction asks what the decay or the rate is.
        """
        rules = map_roles(self.rule_for, roles)

        def rate(rule: Rule) -> Scalar:
            return learning_rate if rule is self else rule.learning_rate

        decays = map_roles(lambda leaf, rule: leaf.decays * rule.weight_decay, roles, rules)
        direction = _by_rule(roles, rules)
        links: Links = [
            ("direction", cautious(direction, roles) if self.cautious else direction),
            ("decay", _add_decay(decays)),
            ("rate", _scale_by_rate(jax.tree.map(rate, rules, is_leaf=_is_rule), factor)),
        ]
        if self.hyperball:
            turned = map_roles(
                lambda leaf, rule: rule is self and leaf.role in TURNED, roles, rules
            )
            links.insert(-1, ("relative", relative(roles, turned)))
            links.append(("sphere", on_sphere(roles, turned)))
        return links


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auxiliary(Rule):
    """AdamW for the leaves that a matrix method does not move; the same for every such method."""

    label: ClassVar[str] = "auxiliary"

    learning_rate: float = 3e-3  # the peak for embeddings, head, biases and norms
    b1: float = 0.9  # decay of the first moment
    b2: float = 0.95  # decay of the second moment
    eps: float = 1e-8  # added to the root of the second moment

    def validate(self) -> None:
        super().validate()
        check_number("b1", self.b1, least=0, below=1)
        check_number("b2", self.b2, least=0, below=1)
        check_number("eps", self.eps, above=0)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.b1, self.b2, self.eps)


AUXILIARY_SPACE: Space = {"auxiliary.learning_rate": LogGrid(1e-4, 1e-1)}  # of every such method


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatrixOptimizer(Optimizer):
    """A rule for hidden matrices; the roles that are `left` go by the auxiliary."""

    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-4, 1.0),
        **AUXILIARY_SPACE,
    }

    left: ClassVar[tuple[Role, ...]] = ("embedding", "head", "vector")  # to the auxiliary

    auxiliary: Auxiliary = Auxiliary()

    def rule_for(self, leaf: Leaf) -> Rule:
        return self.auxiliary if leaf.role in self.left else self


def _is_rule(x: Any) -> bool:
    return isinstance(x, Rule)


def _by_rule(roles: Roles, rules: Any) -> optax.GradientTransformation:
    """Each leaf through the direction of its rule."""
    distinct = list(dict.fromkeys(jax.tree.leaves(rules, is_leaf=_is_rule)))
    if len(distinct) == 1:
        return distinct[0].direction(roles)

    def only(rule: Rule) -> Roles:
        return map_roles(
            lambda leaf, own: leaf if own is rule else optax.MaskedNode(), roles, rules
        )

    return optax.partition(
        {rule.label: rule.direction(only(rule)) for rule in distinct},
        jax.tree.map(lambda rule: rule.label, rules, is_leaf=_is_rule),
    )


def _add_decay(decays: Any) -> optax.GradientTransformation:
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def add(decay: float, u: Array, p: Array) -> Array:
            return u + decay * p if decay else u

        return jax.tree.map(add, decays, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class ScaleByRateState(NamedTuple):
    """step: int32 [], updates made so far."""

    step: Integer[Array, ""]


def _scale_by_rate(rates: Any, factor: Factor) -> optax.GradientTransformation:
    def init(params: Any) -> ScaleByRateState:
        return ScaleByRateState(jnp.zeros([], jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        now = factor(state.step)

        def scale(rate: Scalar, u: Array) -> Array:
            # Behind the barrier no compiler folds a constant rate into what comes before or
            # after, so that it gives the bits of a traced one.
            return -jax.lax.optimization_barrier(rate * now) * u

        scaled = jax.tree.map(scale, rates, updates)
        return scaled, ScaleByRateState(state.step + 1)

    return optax.GradientTransformation(init, update)


class AverageState(NamedTuple):
    """step: int32 [], updates made so far; average: a tree like the parameters."""

    step: Integer[Array, ""]
    average: Any


def _average(decay: float) -> optax.GradientTransformation:
    """Keeps average <- decay average + (1 - decay) p, from the first p on; changes no update.

    As torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn.
    """

    def init(params: Any) -> AverageState:
        return AverageState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def mix(average: Array, p: Array, u: Array) -> Array:
            new = (p + u).astype(average.dtype)
            return jnp.where(state.step == 0, new, average + (1 - decay) * (new - average))

        average = jax.tree.map(mix, state.average, params, updates)
        return updates, AverageState(state.step + 1, average)

    return optax.GradientTransformation(init, update)
