"""What the chips of a compiled program tell each other, and how long their links take for it.

A collective is counted where it begins. XLA for TPUs cuts some into steps that run inside products;
those, and the ones that begin and end apart, are asynchronous. A sum whose result is cut at once
into each chip's share is a reduce-scatter, which TPUs have under no other name.
"""

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lmjax.chips import Topology
from lmjax.errors import RunError
from lmjax.hlo import Computation, Instruction, Program

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
COUNTED = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
AXIS = r"'(\w+)'(?::\((\d+)\)(\d+))?"  # of a mesh, or of one cut in three, its middle part
NAMED = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\((?:\[([\d,]+)\]T\(([\d,]+)\)|([\d,]+))\))?"
    rf" ?\{{({AXIS}(?:,{AXIS})*)\}}"
)
PAIRS = re.compile(r"source_target_pairs=\{([\d,{}]+)\}")


class Collective(NamedTuple):
    """One of them, as often as it runs in a step."""

    kind: str
    bytes: int  # of the whole array, gathered, summed or before it is scattered
    times: int
    group: tuple[int, ...]  # devices of one group, or of all pairs, by their numbers on the mesh
    apart: bool  # whether other work runs beside it
    operation: str  # JAX's name of what it belongs to

    @property
    def total(self) -> int:
        """Bytes of all its runs."""
        return self.bytes * self.times


def collectives(program: Program) -> list[Collective]:
    """All of a program."""
    found = []
    for one, around, times in program.executed():
        if one.opcode in ("fusion", "async-start"):
            found += _fused(program, one, times)
        elif one.opcode.removesuffix("-start") in KINDS:
            found.append(_collective(one, around, times, one.opcode.endswith("-start")))
    return found


def _fused(program: Program, one: Instruction, times: int) -> list[Collective]:
    """Those inside a fusion, which are steps of others unless it begins them."""
    inside = program.computations[one.called("calls")]
    begins = one.opcode == "async-start"
    begins |= any(x.target == "AsyncCollectiveStart" for x in inside.values())
    cut = any(x.opcode == "dynamic-slice" for x in inside.values())
    found = []
    for each in inside.values():
        if each.opcode not in KINDS or ("chain_id" in each.text and not begins):
            continue
        made = _collective(each, inside, times, begins)
        if made.kind == "all-reduce" and cut:
            made = made._replace(kind="reduce-scatter")
        found.append(made)
    return found


def _collective(one: Instruction, around: Computation, times: int, apart: bool) -> Collective:
    kind = one.opcode.removesuffix("-start")
    given = sum(x.bytes for name in one.operands for x in around[name].results)
    made = sum(x.bytes for x in one.results)
    size = given
    if kind == "all-gather":
        size = made - given if one.opcode.endswith("-start") else made
    return Collective(kind, size, times, group(one.text), apart, one.operation)


def group(text: str) -> tuple[int, ...]:
    """The devices of a collective's first group, or of all pairs of a permute; () = all devices."""
    if pairs := PAIRS.search(text):
        return tuple(map(int, re.findall(r"\d+", pairs[1])))
    if listed := LISTED.search(text):
        return tuple(_integers(listed[1]))
    if counted := COUNTED.search(text):
        rows = _counted(counted[2], counted[3]).reshape(-1, _integers(counted[1])[-1])
        return tuple(rows[0].tolist())
    if named := NAMED.search(text):
        return _named(named)
    told = text.partition("replica_groups=")[2]
    if told and not told.startswith("{}"):  # a wrong guess would be a wrong speed
        raise RunError(f"plan: the compiler writes groups in a form not known here: {told[:60]}")
    return ()


def _counted(sides: str, turned: str | None) -> np.ndarray:
    """The numbers of an array of these sides, in its order after its axes are."""
    order = _integers(sides)
    array = np.arange(math.prod(order)).reshape(order)
    return array.transpose(_integers(turned)) if turned else array


def _named(found: re.Match[str]) -> tuple[int, ...]:
    """The first group along axes of a mesh: the devices that only these axes tell apart."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
    shape, names = tuple(sizes.values()), list(sizes)
    if found[2]:
        numbers = _counted(found[2], found[3]).reshape(shape)
    else:
        listed = _integers(found[4]) if found[4] else range(math.prod(shape))
        numbers = np.array(listed).reshape(shape)
    places = np.indices(shape)
    left = places.copy()  # of each place, what other axes make of it
    for name, before, size in re.findall(AXIS, found[5]):
        axis = names.index(name)
        count = int(size or shape[axis])
        after = shape[axis] // (int(before or 1) * count)
        left[axis] -= places[axis] // after % count * after
    return tuple(numbers[(left == 0).all(axis=0)].tolist())


def _integers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def seconds(one: Collective, topology: Topology, devices: Sequence[Any]) -> float:
    """What the links take for all its runs, if each carries as much as it can.

    Where a group spans several sides of the torus, all of them carry a share. Between slices, the
    network of a chip carries the share of that chip. `devices`: those of the mesh, in its order.
    """
    members = [devices[number] for number in one.group] or list(devices)
    if (count := len(members)) == 1:
        return 0.0
    chip = topology.chip
    if one.kind == "collective-permute":  # which lasts as long as its slowest pair
        pairs = zip(members[::2], members[1::2], strict=False)
        leaves = any(_slice(source) != _slice(target) for source, target in pairs)
        return one.times * one.bytes / (chip.network if leaves else chip.link)
    slices = len({_slice(device) for device in members})
    within = count // slices
    if one.kind == "all-to-all":  # of a chip's own array, of which each slice gets a part
        inside = one.bytes / slices * within / 4
        outside = one.bytes * (slices - 1) / slices
    else:
        share = one.bytes * (2 if one.kind == "all-reduce" else 1)  # it is a scatter and a gather
        inside = share * (within - 1) / within
        outside = share / within * (slices - 1) / slices
    taken = inside / (_links(topology, members) * chip.link) if within > 1 else 0.0
    if slices > 1:
        taken += outside / chip.network
    return one.times * taken


def _slice(device: Any) -> int:
    return getattr(device, "slice_index", 0) or 0


def _links(topology: Topology, members: Sequence[Any]) -> float:
    """Links of one chip, in one direction each, along the sides that the members are spread over.

    Two along a ring, but one along a line: a side that does not close, or a part of a side.
    Members that do not stand side by side share their links with the groups of those between.
    """
    links = 0.0
    for side, length in enumerate(topology.shape):
        places = sorted({device.coords[side] for device in members})
        if len(places) > 1:
            apart = min(after - before for before, after in itertools.pairwise(places))
            around = topology.closes(side) and len(places) * apart == length
            links += (2 if around else 1) / apart
    return links or 1.0
