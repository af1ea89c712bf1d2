"""MARS-Lion (Yuan et al., arXiv 2411.10438): signs of an average of corrected gradients.

    c as in MARS (lmjax/optim/mars.py),   m <- b1 m + (1 - b1) c,   direction = sign(m)

Unlike Lion it has one average, whose newest state gives the sign. Equal to the authors' code with
mars_type="mars-lion" (AGI-Arena/MARS@4831e28, MARS/optimizers/mars.py): every matrix is moved so,
embeddings and head too; vectors take AdamW, which is the auxiliary.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from lmjax.optim.mars import MARS_REFERENCE, VarianceReduced
from lmjax.optim.recipe import AUXILIARY_SPACE, DECAYS
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space


@dataclasses.dataclass(frozen=True, kw_only=True)
class MARSLion(VarianceReduced):
    """Signs of averaged, corrected gradients for all but vectors; AdamW for vectors."""

    label: ClassVar[str] = "mars-lion"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-6, 1e-2),
        **AUXILIARY_SPACE,
        "gamma": Choice((0.01, 0.025, 0.05)),
        "weight_decay": DECAYS,
    }
    reference: ClassVar[Reference | None] = MARS_REFERENCE

    learning_rate: float = 1e-3  # the peak for matrices: the step of every weight

    def base(self) -> optax.GradientTransformation:
        return scale_by_sign_of_average(self.b1)


class ScaleBySignOfAverageState(NamedTuple):
    """average: a tree like the parameters."""

    average: Any


def scale_by_sign_of_average(decay: float) -> optax.GradientTransformation:
    """sign(m), m <- decay m + (1 - decay) g."""

    def init(params: Any) -> ScaleBySignOfAverageState:
        return ScaleBySignOfAverageState(jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def mix(g: Array, m: Array) -> Array:
            return decay * m + (1 - decay) * g

        average = jax.tree.map(mix, updates, state.average)
        return jax.tree.map(jnp.sign, average), ScaleBySignOfAverageState(average)

    return optax.GradientTransformation(init, update)
