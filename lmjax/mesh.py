"""How devices share the work: four axes on one mesh, and what lies where on it.

data      copies of the state, each with its share of the batch
fsdp      shares of the state (parameters, gradients, moments), each with its share of the batch;
          a layer's parameters are gathered where they are used (ZeRO-3, arXiv 1910.02054)
sequence  shares of the positions of every sequence; keys and values are gathered
tensor    shares of heads, hidden units and vocabulary (Megatron, arXiv 1909.08053)

Which axis of the mesh an axis of an array may lie along stands in lmjax/roles.py.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from lmjax.errors import FieldError, check_choice, check_integer
from lmjax.parts import Part
from lmjax.placement import OnPaper
from lmjax.roles import ACTIVATIONS, AXES, MESH_AXES, Leaf, Roles, map_roles
from lmjax.state import TrainState

Compiler = Literal["jit", "pmap"]
AnyMesh = Mesh | AbstractMesh  # of devices, or of sizes alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parallel(Part):
    """Sizes of the mesh's axes; their product is the number of devices."""

    label: ClassVar[str] = "parallel"

    data: int = 0  # copies of the state; 0 = as many as the other axes leave devices for
    fsdp: int = 1  # shares of the state
    sequence: int = 1  # shares of the positions
    tensor: int = 1  # shares of heads, hidden units and vocabulary
    virtual_shards: int = 1  # 1 = none; more give the same bits on any `data` that divides them
    compiler: Compiler = "jit"  # of the train step; pmap is for copies of the state alone

    def validate(self) -> None:
        check_integer("data", self.data, least=0)
        for name in ("fsdp", "sequence", "tensor", "virtual_shards"):
            check_integer(name, getattr(self, name), least=1)
        check_choice("compiler", self.compiler, get_args(Compiler))
        for name in ("fsdp", "sequence", "tensor", "virtual_shards"):
            if self.compiler == "pmap" and getattr(self, name) > 1:
                raise FieldError("compiler", "pmap", f"needs {name} 1, not {getattr(self, name)}")
        if self.virtual_shards == 1:
            return
        if self.virtual_shards.bit_count() > 1:
            allowed = "must be a power of two, since their sums make a binary tree"
            raise FieldError("virtual_shards", self.virtual_shards, allowed)
        for name in ("fsdp", "sequence", "tensor"):
            if getattr(self, name) > 1:
                allowed = f"needs {name} 1, not {getattr(self, name)}: equal bits are for copies"
                raise FieldError("virtual_shards", self.virtual_shards, allowed)

    @property
    def free_fields(self) -> frozenset[str]:
        """The mesh decides the order of sums, and so their last bits, but not what is summed;
        `virtual_shards` decides also which rows share BatchNorm's statistics."""
        return frozenset({*MESH_AXES, "compiler"})


def make_mesh(parallel: Parallel, devices: Sequence[Any] | None = None) -> Mesh:
    """The devices (None = all) on the four axes; raises FieldError where they do not fit."""
    devices = jax.devices() if devices is None else devices
    inner = parallel.fsdp * parallel.sequence * parallel.tensor
    if len(devices) % inner or parallel.data not in (0, len(devices) // inner):
        told = _told(getattr(parallel, name) for name in MESH_AXES)
        raise FieldError("parallel", told, f"must multiply to the {len(devices)} devices")
    shape = (len(devices) // inner, parallel.fsdp, parallel.sequence, parallel.tensor)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if devices[0].platform == "tpu":
        placed = _on_torus(shape, slices, devices)
    elif slices > 1:
        # A host of GPUs, which is JAX's slice of them, need not hold a whole copy of the state, as
        # a slice of TPUs does: a model may be larger than one.
        ordered = sorted(devices, key=lambda device: (device.slice_index, device.id))
        placed = np.array(ordered, object).reshape(shape)
    else:
        placed = mesh_utils.create_device_mesh(shape, devices)
    return Mesh(placed, MESH_AXES, axis_types=(AxisType.Auto,) * 4)


def _on_torus(shape: Sequence[int], slices: int, devices: Sequence[Any]) -> np.ndarray:
    """TPUs: an axis takes whole sides of the torus where it can, and parts of sides elsewhere.

    jax.make_mesh cuts no sides, but for v5e. To allow it moves no mesh that needs no cut, since
    JAX tries whole sides first. Between slices the network is slow, and so it is the outer part of
    the outermost axis.
    """
    if shape[0] % slices:
        allowed = f"must be a multiple of the {slices} slices, between which copies lie"
        raise FieldError("parallel.data", shape[0], allowed)
    within, between = (shape[0] // slices, *shape[1:]), (slices, 1, 1, 1)
    try:
        if slices == 1:
            return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return mesh_utils.create_hybrid_device_mesh(
            within, between, devices, allow_split_physical_axes=True
        )
    except (AssertionError, NotImplementedError, TypeError, ValueError):
        # In this order: chips that fill no box; no sides for an axis; and what comes out of JAX's
        # search where it finds no parts of sides (int of None, a reshape), or slices that differ.
        spans = (len({device.coords[side] for device in devices}) for side in range(3))
        box = " x ".join(map(str, spans))
        allowed = f"cannot be laid on these {len(devices)} chips, which span {box} in each slice"
        raise FieldError("parallel", _told(shape), allowed) from None


def _told(numbers: Iterable[int]) -> str:
    """The axes with these sizes, for a reader."""
    return " x ".join(f"{name} {size}" for name, size in zip(MESH_AXES, numbers, strict=True))


def shapes_only_mesh(parallel: Parallel) -> AbstractMesh:
    """The four axes without devices, to tell what would lie where; `data` 0 is one copy."""
    shape = (parallel.data or 1, parallel.fsdp, parallel.sequence, parallel.tensor)
    return AbstractMesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * 4)


def sizes(mesh: AnyMesh) -> str:
    """The axes of a mesh with their sizes, for a reader."""
    return _told(mesh.shape.values())


def whole(mesh: AnyMesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def laid_out(mesh: AnyMesh, axes: Sequence[str]) -> NamedSharding:
    """The sharding of an activation, or of a batch, by the names of its axes."""
    return NamedSharding(mesh, PartitionSpec(*(ACTIVATIONS[name] or None for name in axes)))


class OnMesh(NamedTuple):
    """Where a model's activations lie: lmjax.placement.Placement of a mesh."""

    mesh: Mesh
    notes: dict[str, str]  # topic -> what was decided while a program was traced

    @property
    def device(self) -> Any:
        return self.mesh.devices.flat[0]

    def place(self, x: Array, axes: tuple[str, ...]) -> Array:
        return jax.lax.with_sharding_constraint(x, laid_out(self.mesh, axes))

    def shares(self, axis: str) -> int:
        return math.prod(self.mesh.shape[along] for along in ACTIVATIONS[axis])

    def per_device(self, function: Any, ins: Sequence[tuple[str, ...]], out: Any) -> Any:
        specs = jax.tree.map(
            lambda axes: laid_out(self.mesh, axes).spec, (ins, out), is_leaf=_are_axes
        )
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False
        )

    def note(self, topic: str, told: str) -> None:
        self.notes[topic] = told


class OnEach(OnPaper):
    """A device of a mesh by itself, inside jax.shard_map: there is nothing to lay out."""

    def __init__(self, mesh: OnMesh):
        self.device, self.note = mesh.device, mesh.note


def _are_axes(x: Any) -> bool:
    return isinstance(x, tuple) and all(isinstance(name, str) for name in x)


def parameter_spec(leaf: Leaf, mesh: AnyMesh) -> PartitionSpec:
    """Where a parameter lies: each of its axes along the mesh axis of the table.

    A mesh axis is used once, by the first axis that asks for it. An axis of the parameter whose
    size the mesh axis does not divide stays whole (`uneven` tells which). Vectors are not cut over
    fsdp: they are a few kilobytes, and each would cost a collective of its own.
    """
    spec: list[str | None] = []
    for name, size in zip(leaf.axes, leaf.shape, strict=True):
        axis = AXES[name].along
        cut = axis and axis not in spec and size % mesh.shape[axis] == 0
        if axis == "fsdp" and leaf.role == "vector":
            cut = False
        spec.append(axis if cut else None)
    return PartitionSpec(*spec)


def uneven(roles: Roles, mesh: AnyMesh) -> list[str]:
    """One line for each axis of a parameter that stays whole because it does not divide."""
    told = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        roles, is_leaf=lambda x: isinstance(x, Leaf)
    ):
        for name, size in zip(leaf.axes, leaf.shape, strict=True):
            axis = AXES[name].along
            if axis and leaf.role != "vector" and size % mesh.shape[axis]:
                where = jax.tree_util.keystr(path, simple=True, separator="/")
                told.append(f"{where}: {name} {size:,} by {axis} {mesh.shape[axis]}")
    return told


def state_shardings(mesh: AnyMesh, roles: Roles, abstract: TrainState) -> TrainState:
    """The sharding of every leaf of the state.

    What an optimizer holds lies as the parameter does whose path its own path ends with, if it has
    that parameter's shape; all else (counters, factors, statistics of the model) is whole.
    """
    params = map_roles(lambda leaf: NamedSharding(mesh, parameter_spec(leaf, mesh)), roles)
    known = {
        names(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(abstract.params),
            jax.tree.leaves(params),
            strict=True,
        )
    }

    def like_its_parameter(path: Any, leaf: Any) -> NamedSharding:
        own = names(path)
        for start in range(len(own)):
            if own[start:] in known:
                shape, sharding = known[own[start:]]
                return sharding if shape == leaf.shape else whole(mesh)
        return whole(mesh)

    return TrainState(
        step=whole(mesh),
        params=params,
        model_state=jax.tree.map(lambda _: whole(mesh), abstract.model_state),
        opt_state=jax.tree_util.tree_map_with_path(like_its_parameter, abstract.opt_state),
    )


def names(path: Any) -> tuple[str, ...]:
    """The keys of a path in a tree, as words."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
