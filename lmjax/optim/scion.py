"""Scion (Pethick et al., arXiv 2502.07529): steepest descent under a norm for each kind of layer.

    m <- (1 - momentum) m + momentum g          (the authors' momentum: 1 minus the usual one)
    direction = radius * lmo(m),   + p if constrained, so that p stays in the ball of the radius

with the lmo and the radius of each leaf chosen by its role:
    matrix      NS5(m) * sqrt(outputs / inputs);   of a convolution with c channels and a window of
                k x k:  NS5(m) * sqrt(outputs / c) / k^2
    embedding   sign(m)
    head        sign(m) / inputs
    vector      m / (rms(m) + 1e-8)
which is their set for language models whose embedding and head are two matrices
(examples/shallow-nanogpt), with their radii; vectors, which those models lack, have what their Auto
has. `scion-light` is their form that adds gradients up where torch keeps them,
    m <- (1 - momentum) m + g
A constant factor of m changes no lmo but in the guards of its divisions, so that only gradients
near to 1e-7 tell the two apart; in JAX both keep one copy of the parameters.

Both are equal to the authors' scion.py (LIONS-EPFL/scion@f58a393) with Newton-Schulz in float64.
They have one matrix where q, k and v are three to us. Their `init`, which scales the weights to
their balls, is the model's to do: there is nothing of it here.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from lmjax.errors import FieldError, check_integer, check_number
from lmjax.optim.newton_schulz import FASTEST, Dtype, check_dtype, orthogonal
from lmjax.optim.recipe import Optimizer
from lmjax.optim.reference import Reference
from lmjax.optim.space import Choice, LogGrid, Space
from lmjax.roles import Leaf, Role, Roles, map_roles

WINDOW = ("height", "width")  # the axes of a convolution's window
EPS = 1e-8  # the authors' guard of the division by the root mean square of a vector


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scion(Optimizer):
    """Every leaf by the norm of its kind; there is no auxiliary."""

    label: ClassVar[str] = "scion"
    search_space: ClassVar[Space] = {
        "learning_rate": LogGrid(1e-5, 1e-1),
        "momentum": Choice((0.05, 0.1, 0.5)),
        "head_radius": Choice((3.0, 10.0, 30.0)),
    }
    reference: ClassVar[Reference | None] = Reference(
        "Training deep learning models with norm-constrained LMOs",
        "2502.07529",
        "LIONS-EPFL/scion",
        "f58a393e010395a5913176be5673d8839caa6285",
        "scion.py",
    )

    learning_rate: float = 1e-3  # the peak of the schedule, for every leaf
    momentum: float = 0.1  # weight of the new gradient: .1 is the usual momentum of .9
    radius: float = 3.0  # of hidden matrices, in the spectral norm from rms to rms
    embedding_radius: float = 1.0  # of each entry of an embedding
    head_radius: float = 10.0  # of each entry of the head, times its inputs
    vector_radius: float = 1.0  # root mean square of biases and norms
    constrained: bool = True  # p shrinks by the rate at each step, whatever its role
    newton_schulz_steps: int = 5  # iterations of the quintic
    newton_schulz_dtype: Dtype = "bfloat16"  # of the products

    def validate(self) -> None:
        super().validate()
        check_number("momentum", self.momentum, above=0, most=1)
        for name in ("radius", "embedding_radius", "head_radius", "vector_radius"):
            check_number(name, getattr(self, name), above=0)
        check_integer("newton_schulz_steps", self.newton_schulz_steps, least=1, most=100)
        check_dtype("newton_schulz_dtype", self.newton_schulz_dtype)
        if self.constrained and self.weight_decay:
            told = "must be 0 while constrained, which is a decay of 1"
            raise FieldError("weight_decay", self.weight_decay, told)
        if self.constrained and self.hyperball:
            told = "must be False with hyperball, which keeps the norms of matrices"
            raise FieldError("constrained", self.constrained, told)

    @property
    def gain(self) -> float:
        """What a new gradient is multiplied with."""
        return self.momentum

    def direction(self, roles: Roles) -> optax.GradientTransformation:
        radii: dict[Role, float] = {
            "matrix": self.radius,
            "embedding": self.embedding_radius,
            "head": self.head_radius,
            "vector": self.vector_radius,
        }
        return scale_by_scion(
            roles,
            1 - self.momentum,
            self.gain,
            radii,
            self.constrained,
            self.newton_schulz_steps,
            jnp.dtype(self.newton_schulz_dtype),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScionLight(Scion):
    """Scion on a sum of gradients that fades, in the place of an average."""

    label: ClassVar[str] = "scion-light"

    @property
    def gain(self) -> float:
        return 1.0


class ScaleByScionState(NamedTuple):
    """momentum: a tree like the parameters."""

    momentum: Any


def scale_by_scion(
    roles: Roles,
    decay: float,
    gain: float,
    radii: Mapping[Role, float],
    constrained: bool,
    steps: int,
    dtype: jnp.dtype,
) -> optax.GradientTransformation:
    """The direction above, with m <- decay m + gain g."""

    def init(params: Any) -> ScaleByScionState:
        return ScaleByScionState(jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def direction(leaf: Leaf, m: Array, p: Array) -> Array:
            step = radii[leaf.role] * steepest(leaf, m, steps, dtype)
            return step + p if constrained else step

        m = jax.tree.map(lambda g, m: decay * m + gain * g, updates, state.momentum)
        return map_roles(direction, roles, m, params), ScaleByScionState(m)

    return optax.GradientTransformation(init, update)


def steepest(leaf: Leaf, m: Array, steps: int, dtype: jnp.dtype) -> Array:
    """lmo(m) with the sign of m: of norm 1, of all such the most along m."""
    if leaf.role == "embedding":
        return jnp.sign(m)
    if leaf.role == "head":
        return jnp.sign(m) / leaf.matrix_shape[-2]
    if leaf.role == "vector":
        axes = tuple(range(-len(leaf.groups), 0))
        x = leaf.to_matrices(m)
        return leaf.from_matrices(x / (jnp.sqrt(jnp.mean(x * x, axes, keepdims=True)) + EPS))
    *_, inputs, outputs = leaf.matrix_shape
    window = math.prod(n for n, x in zip(leaf.shape, leaf.axes, strict=True) if x in WINDOW)
    scale = (outputs / (inputs / window)) ** 0.5 / window
    return scale * leaf.from_matrices(orthogonal(leaf, m, [FASTEST] * steps, dtype))
