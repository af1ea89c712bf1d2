"""L-BFGS (Liu and Nocedal 1989, doi 10.1007/BF01589116), for one fixed batch alone.

direction = H g, with H the inverse Hessian that the last `memory` steps and changes of the gradient
amount to; the step is rate(t) times it, and a line search makes that shorter or longer until it
meets the strong Wolfe conditions (Nocedal and Wright, algorithm 3.5).

The gradient of one step is compared with that of the step before, so both must be of one function.
From batch to batch that differ the changes are noise, and the method may go anywhere: take a batch
as large as the data, without dropout and augmentation. Decay and clipping, which would make the
direction another function's, are refused. Each trial of the search costs a gradient. State: two
copies of the parameters and of each of `memory` steps two more; under FSDP the memory, which is
stacked, lies whole on every device, and each leaf is gathered for optax's inner products.

Equal to optax.lbfgs (google-deepmind/optax@v0.2.8), which is wrapped.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from lmjax.errors import FieldError, check_integer
from lmjax.optim.recipe import Factor, Links, Optimizer, Scalar
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Roles


@dataclasses.dataclass(frozen=True, kw_only=True)
class LBFGS(Optimizer):
    """optax.scale_by_lbfgs, then optax.scale_by_zoom_linesearch; on one fixed batch."""

    label: ClassVar[str] = "lbfgs"
    unfit: ClassVar[tuple[str, ...]] = ("cautious", "hyperball")
    caution: ClassVar[str] = "for one fixed batch, without dropout or augmentation"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-2, 10.0),
        "memory": Choice((5, 10, 20)),
    }
    reference: ClassVar[Reference | None] = Reference(
        "On the limited memory BFGS method for large scale optimization",
        "https://doi.org/10.1007/BF01589116",
        "google-deepmind/optax",
        "v0.2.8",
        "optax/_src/alias.py",
    )

    learning_rate: float = 1.0  # the peak of the schedule: the first length that is tried
    memory: int = 10  # steps that are remembered
    search_steps: int = 20  # trials of one line search

    def validate(self) -> None:
        super().validate()
        check_integer("memory", self.memory, least=1, most=1000)
        check_integer("search_steps", self.search_steps, least=1, most=1000)
        for name in ("weight_decay", "clip_norm"):
            if getattr(self, name):
                told = "must be 0: the line search follows the gradient of the loss as it is"
                raise FieldError(name, getattr(self, name), told)

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        inner = optax.scale_by_lbfgs(self.memory)

        def init(params: Any) -> Any:
            return jax.tree.map(jnp.copy, inner.init(params))  # of it one array stands twice

        return optax.GradientTransformation(init, inner.update)

    def descent(self, roles: Roles, learning_rate: Scalar, factor: Factor) -> Links:
        direction, _, rate = super().descent(roles, learning_rate, factor)
        search = optax.scale_by_zoom_linesearch(
            max_linesearch_steps=self.search_steps, initial_guess_strategy="one"
        )
        return [direction, rate, ("search", search)]
