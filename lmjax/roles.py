"""What each parameter is, said once.

Every model names the axes of every parameter (Flax's partitioning metadata). The table below turns
those names into a role, a matrix view, weight decay and a place on the mesh; nothing else guesses
from shapes or paths.

A parameter's axes fall into stacked axes (independent copies: layers; q, k and v) and groups of
axes that belong together (heads with head_dim; a convolution's window with its input channels).
One group makes a vector, two make a matrix (input, output).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax.core import meta
from jaxtyping import Array, Float

from lmjax.errors import unknown

Role = Literal["matrix", "embedding", "head", "vector"]
MeshAxis = Literal["data", "fsdp", "sequence", "tensor"]
MESH_AXES: tuple[MeshAxis, ...] = get_args(MeshAxis)  # the fastest links last


@dataclasses.dataclass(frozen=True)
class Axis:
    """How one logical axis takes part in its parameter."""

    stacked: bool = False  # independent copies lie along it
    joins: tuple[str, ...] = ()  # axes before it with any of which it forms one group
    rows: bool = False  # as the input: a table of rows to look up; as the output: the classes
    along: MeshAxis | Literal[""] = ""  # the axis of the mesh over which it may be cut


AXES: dict[str, Axis] = {
    "layers": Axis(stacked=True),
    "qkv": Axis(stacked=True),
    "kv": Axis(stacked=True),
    "embed": Axis(along="fsdp"),
    "mlp": Axis(along="tensor"),
    "features": Axis(along="fsdp"),
    "heads": Axis(along="tensor"),
    "kv_heads": Axis(along="tensor"),
    "head_dim": Axis(joins=("heads", "kv_heads")),
    "height": Axis(),
    "width": Axis(joins=("height",)),
    "conv_in": Axis(joins=("width",)),
    "conv_out": Axis(along="fsdp"),
    "vocab": Axis(rows=True, along="tensor"),
    "position": Axis(rows=True),
    "classes": Axis(rows=True),
}

# Where the axes of activations and of batches lie. What a layer reads and adds to is whole in its
# width, and keys and values are whole in their length.
ACTIVATIONS: dict[str, tuple[MeshAxis, ...]] = {
    "batch": ("data", "fsdp"),
    "length": ("sequence",),
    "kv_length": (),
    "embed": (),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": (),
    "vocab": ("tensor",),
    "turned": ("fsdp",),  # of matrices that an optimizer turns
    "whole": (),
}

DECAYS: dict[Role, bool] = {"matrix": True, "embedding": True, "head": True, "vector": False}
# Biases and norms are not decayed (nanoGPT's rule: only tensors that enter a matrix product are).


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter: its shape, its axes, and what the table says they make of it."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def groups(self) -> list[list[int]]:
        """Axis numbers that are not stacked, those that belong together in one list."""
        groups: list[list[int]] = []
        for number, name in enumerate(self.axes):
            if AXES[name].stacked:
                continue
            previous = self.axes[groups[-1][-1]] if groups else ""
            if previous in AXES[name].joins:
                groups[-1].append(number)
            else:
                groups.append([number])
        return groups

    @property
    def role(self) -> Role:
        groups = self.groups
        if len(groups) < 2:
            return "vector"
        if AXES[self.axes[groups[0][0]]].rows:
            return "embedding"
        return "head" if AXES[self.axes[groups[1][0]]].rows else "matrix"

    @property
    def decays(self) -> bool:
        return DECAYS[self.role]

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """[stacked..., input, output] sizes of the matrix view."""
        stacked = [
            size for size, name in zip(self.shape, self.axes, strict=True) if AXES[name].stacked
        ]
        return (*stacked, *(math.prod(self.shape[n] for n in group) for group in self.groups))

    @property
    def own_axes(self) -> tuple[int, ...]:
        """The axes of the matrix view that one matrix, or one vector, has for itself."""
        return tuple(range(-len(self.groups), 0))

    def to_matrices(self, x: Array) -> Float[Array, "*view"]:
        """An array of this leaf as `matrix_shape` says: [stacked..., input, output]."""
        return jnp.transpose(x, self._order).reshape(self.matrix_shape)

    def from_matrices(self, y: Float[Array, "*view"]) -> Array:
        """The inverse of `to_matrices`."""
        order = self._order
        moved = y.reshape([self.shape[n] for n in order])
        return jnp.transpose(moved, [order.index(n) for n in range(len(order))])

    def as_matrices(
        self, function: Callable[[Float[Array, "*s i o"]], Float[Array, "*s i o"]], x: Array
    ) -> Array:
        """Apply a function of matrices [stacked..., input, output] to an array of this leaf."""
        return self.from_matrices(function(self.to_matrices(x)))

    @property
    def _order(self) -> list[int]:
        """Axis numbers with the stacked ones first and each group together."""
        stacked = [n for n, name in enumerate(self.axes) if AXES[name].stacked]
        return [*stacked, *(n for group in self.groups for n in group)]


Roles = Any  # a pytree of the parameters' structure whose leaves are Leaf


def read_roles(boxed: Any) -> Roles:
    """The roles of a tree of parameters as Flax's init returns it, each leaf boxed with axis names.

    Raises InputError for a name that is not in the table and ValueError for a leaf without names
    or with more than two groups: every leaf must be covered.
    """

    def read(path: Any, box: Any) -> Leaf:
        where = jax.tree_util.keystr(path)
        if not isinstance(box, meta.Partitioned):
            raise ValueError(f"parameter {where} has no axis names; use with_partitioning")
        axes, shape = tuple(str(name) for name in box.names), tuple(box.value.shape)
        for name in axes:
            if name not in AXES:
                raise unknown(f"axis of parameter {where}", name, AXES)
        leaf = Leaf(shape, axes)
        if len(axes) != len(shape) or len(leaf.groups) > 2:
            raise ValueError(f"parameter {where} {shape} has axes {axes}: not a vector or matrix")
        return leaf

    return jax.tree_util.tree_map_with_path(read, boxed, is_leaf=_is_box)


def map_roles(function: Callable[..., Any], roles: Roles, *trees: Any) -> Any:
    """tree.map whose first tree holds Leaf objects."""
    return jax.tree.map(function, roles, *trees, is_leaf=lambda x: isinstance(x, Leaf))


def _is_box(x: Any) -> bool:
    return isinstance(x, meta.AxisMetadata)
