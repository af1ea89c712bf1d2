"""Virtual shards: the same bits on any number of devices that divides them.

A batch is cut into V shards of consecutive rows, whatever the number D of devices. Each device
takes its V / D shards one after another, so that every kernel sees the same shapes, and what a
shard adds (gradients, losses, metrics) is summed by one binary tree, which is aligned:

    ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))      V = 8

A device's own shards are a subtree of it, and the devices' sums are the leaves of the rest. So V
decides the bits and D does not. Nothing of it is left to the partitioner, which may sum in any
order, and each shard and each sum is compiled apart from what is around it: fused, a product and a
sum are rounded once and not twice. XLA's compiler takes other passes for one device than for
several; which of them is left out for it, and how many threads there are, lmjax/platforms.py says.

A shard is to its rows what a device would be: BatchNorm's statistics are over a shard, and the
running ones are averaged over shards (ghost batch normalisation, arXiv 1705.08741); images mix
inside one.

It is for copies of the state. Where the state is cut (fsdp), an optimizer's arithmetic on slices is
fused in another way: after 12 steps SGD, AdamW and Muon had other bits, and Lion had not.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import PartitionSpec
from jaxtyping import Array

from lmjax.data import Batch
from lmjax.mesh import OnEach, OnMesh
from lmjax.placement import placing

ALONG = "data"  # the axis of the mesh that cuts a batch, in the order of its rows


class EachDevice(NamedTuple):
    """lmjax.step.Split by devices: their sums are added by one all-reduce, however many
    micro-batches they are of. For a mesh of copies and a model without state, since BatchNorm's
    statistics are over a micro-batch, wherever its rows lie."""

    placement: OnMesh

    def rows(self, function: Callable[[Any, Batch], Batch], shared: Any, batch: Batch) -> Batch:
        return function(shared, batch)

    def sums(
        self, function: Callable[[Any, Batch], tuple[Any, Any]], shared: Any, batch: Batch
    ) -> tuple[Any, Any]:
        def on_device(shared: Any, batch: Batch) -> Any:
            return jax.lax.psum(function(shared, batch)[0], ALONG)

        return per_device(self.placement, on_device, PartitionSpec())(shared, batch), {}

    def apart(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function


class VirtualShards(NamedTuple):
    """lmjax.step.Split by so many shards: a power of two, and a multiple of the devices."""

    placement: OnMesh
    shards: int

    def rows(self, function: Callable[[Any, Batch], Batch], shared: Any, batch: Batch) -> Batch:
        def on_device(shared: Any, batch: Batch) -> Batch:
            made = self.each(function, shared, batch)
            return jax.tree.map(lambda *parts: jnp.concatenate(parts), *made)

        return per_device(self.placement, on_device, PartitionSpec(ALONG))(shared, batch)

    def sums(
        self, function: Callable[[Any, Batch], tuple[Any, Any]], shared: Any, batch: Batch
    ) -> tuple[Any, Any]:
        devices = self.placement.shares("batch")

        def summed(shared: Any, batch: Batch) -> Packed:
            return pack(function(shared, batch))

        def on_device(shared: Any, batch: Batch) -> Packed:
            total = tree_sum(self.each(summed, shared, batch), self.apart(add))
            return self.apart(functools.partial(across, devices))(total)

        added, state = unpack(per_device(self.placement, on_device, PartitionSpec())(shared, batch))
        return added, jax.tree.map(lambda x: x / self.shards if is_float(x) else x, state)

    def apart(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return apart(self.placement, function)

    def each(self, function: Callable[..., Any], shared: Any, batch: Batch) -> Iterator[Any]:
        """What the function makes of each of a device's own shards, one after another."""
        number = self.shards // self.placement.shares("batch")
        cut = jax.tree.map(lambda x: x.reshape(number, -1, *x.shape[1:]), batch)
        once = self.apart(function)
        for index in range(number):
            yield once(shared, jax.tree.map(operator.itemgetter(index), cut))


def per_device(placement: OnMesh, function: Callable[..., Any], out: PartitionSpec) -> Any:
    """The function (shared, rows) of each device's own rows; its models see that device alone."""

    @functools.wraps(function)
    def alone(shared: Any, batch: Batch) -> Any:
        with placing(OnEach(placement)):
            return function(shared, batch)

    specs = (PartitionSpec(), PartitionSpec(ALONG))
    return jax.shard_map(alone, mesh=placement.mesh, in_specs=specs, out_specs=out, check_vma=False)


def apart(placement: OnMesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with nothing that is around it fused into it or the other way round.

    Barriers hold fusion off, but not on CPUs, where XLA drops them before it fuses. There, what
    goes in and comes out passes through a function that is called, and that does nothing. (Calling
    the function itself would do, but convolutions are then ten times as slow: XLA brings those of
    the main program alone into the form that its fast ones have.)
    """
    wall = jax.lax.optimization_barrier if placement.device.platform != "cpu" else called(same)
    traced = jax.jit(function)  # once, however often it is called

    def walled(*arguments: Any) -> Any:
        return wall(traced(*wall(arguments)))

    return walled


def called(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one that XLA calls, and does not inline."""
    traced = jax.jit(set_xla_metadata(inlineable="true")(function))  # what it calls itself

    def call(*arguments: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return traced(*arguments)

    return call


def same(tree: Any) -> Any:
    return tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """A tree of arrays, end to end in one vector for each dtype."""

    vectors: dict[str, Array]
    structure: Any = dataclasses.field(metadata={"static": True})
    shapes: tuple[Any, ...] = dataclasses.field(metadata={"static": True})  # (shape, dtype)


def pack(tree: Any) -> Packed:
    leaves, structure = jax.tree.flatten(tree)
    shapes = tuple((x.shape, str(x.dtype)) for x in leaves)
    vectors = {
        dtype: jnp.concatenate([x.ravel() for x in leaves if x.dtype == dtype])
        for dtype in {dtype for _, dtype in shapes}
    }
    return Packed(vectors, structure, shapes)


def unpack(packed: Packed) -> Any:
    start, leaves = dict.fromkeys(packed.vectors, 0), []
    for shape, dtype in packed.shapes:
        stop = start[dtype] + math.prod(shape)
        leaves.append(packed.vectors[dtype][start[dtype] : stop].reshape(shape))
        start[dtype] = stop
    return jax.tree.unflatten(packed.structure, leaves)


def add(one: Any, two: Any) -> Any:
    """Leaf by leaf; what is no float is a counter, which is the same in both."""
    return jax.tree.map(lambda a, b: a + b if is_float(a) else jnp.maximum(a, b), one, two)


def is_float(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def tree_sum(parts: Iterable[Any], add: Callable[[Any, Any], Any]) -> Any:
    """The sum of 2^n parts by the aligned binary tree; no more than n + 1 of them are kept."""
    waiting: list[Any] = []
    for number, part in enumerate(parts, 1):
        while number % 2 == 0:
            part, number = add(waiting.pop(), part), number // 2
        waiting.append(part)
    (total,) = waiting
    return total


def across(devices: int, packed: Packed) -> Packed:
    """The sum over devices, in their order, by the rest of the tree.

    Each device sums its share of all numbers, and then they exchange the sums: as much traffic as
    an all-reduce by rings.
    """

    def whole(vector: Array) -> Array:
        shares = jnp.pad(vector, (0, -vector.size % devices)).reshape(devices, -1)
        theirs = jax.lax.all_to_all(shares, ALONG, 0, 0)  # my share of each device's numbers
        mine = tree_sum((theirs[number] for number in range(devices)), add)
        return jax.lax.all_gather(mine, ALONG, tiled=True)[: vector.size]

    return jax.tree.map(whole, packed) if devices > 1 else packed
