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

from lmjax.chips import Topology
from lmjax.hlo import Computation, Instruction, Program

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
COUNTED = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
NAMED = re.compile(r"replica_groups=\w+\[([^\]]*)\](?:\(([^)]*)\))? ?\{([^}]*)\}")
PAIRS = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")


class Collective(NamedTuple):
    """One of them, as often as it runs in a step."""

    kind: str
    bytes: int  # of the whole array, gathered, summed or before it is scattered
    times: int
    group: tuple[int, ...]  # the devices of one group, by their numbers on the mesh
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
    """The devices of a collective's first group; () = all of them."""
    if pair := PAIRS.search(text):
        return (int(pair[1]), int(pair[2]))
    if listed := LISTED.search(text):
        return tuple(map(int, listed[1].split(",")))
    if counted := COUNTED.search(text):
        shape, order = _integers(counted[1]), _integers(counted[2])
        turned = _integers(counted[3]) if counted[3] else [*range(len(order))]
        return _first(order, turned, shape[-1])
    if named := NAMED.search(text):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        kept = re.findall(r"'(\w+)'", named[3])
        names = list(sizes)
        turned = [n for n, name in enumerate(names) if name not in kept]
        turned += [names.index(name) for name in kept]
        return _first([*sizes.values()], turned, math.prod(sizes[name] for name in kept))
    return ()


def _first(sides: Sequence[int], turned: Sequence[int], count: int) -> tuple[int, ...]:
    """The first `count` numbers of an array of these sides after its axes are reordered."""
    steps = [math.prod(sides[axis + 1 :]) for axis in range(len(sides))]
    places = itertools.product(*(range(sides[axis]) for axis in turned))
    return tuple(
        sum(steps[axis] * at for axis, at in zip(turned, place, strict=True))
        for place in itertools.islice(places, count)
    )


def _integers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def seconds(one: Collective, topology: Topology, devices: Sequence[Any]) -> float:
    """What the links take for all its runs, if each carries as much as it can.

    Where a group spans several sides of the torus, all of them carry a share. A side that is no
    ring has half the links. Between slices, the network of a chip carries the share of that chip.
    `devices`: those of the mesh, in its order.
    """
    members = [devices[number] for number in one.group] or list(devices)
    if (count := len(members)) == 1:
        return 0.0
    chip = topology.chip
    slices = len({_slice(device) for device in members})
    within = count // slices
    share = one.bytes * (2 if one.kind == "all-reduce" else 1)  # it is a scatter and a gather
    taken = 0.0
    if within > 1:
        links = _links(topology, members)
        if one.kind == "collective-permute":
            taken += one.bytes / chip.link
        elif one.kind == "all-to-all":
            taken += one.bytes * within / 4 / (links * chip.link)
        else:
            taken += share * (within - 1) / within / (links * chip.link)
    if slices > 1:
        taken += share / within * (slices - 1) / slices / chip.network
    return taken * one.times


def _slice(device: Any) -> int:
    return getattr(device, "slice_index", 0) or 0


def _links(topology: Topology, members: Sequence[Any]) -> int:
    """Links of one chip along the sides that the members are spread over."""
    links = 0
    for side, length in enumerate(topology.shape):
        if len({device.coords[side] for device in members}) > 1:
            links += 2 if length % topology.chip.ring == 0 else 1
    return max(links, 1)
