"""What the text of a program compiled for a TPU says that one chip does: products, memory, kernels.

XLA's own cost_analysis counts the body of a loop once, whatever its length. Here each computation
is entered as often as it runs: once from a fusion, and from a loop as many times as its condition
says.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

MADE = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
NAMES = re.compile(r"%([\w.\-]+)")
ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
CALLED = re.compile(r"\b(calls|body|condition|to_apply)=%([\w.\-]+)")
SPACE = re.compile(r"S\((\d+)\)")  # of memory; without it, HBM
WINDOW = re.compile(r"window=\{([^}]*)\}")
LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
OPERATION = re.compile(r'op_name="([^"]*)"')
TARGET = re.compile(r'custom_call_target="([^"]*)"')
FREE = {  # operations that move nothing
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
    *("call", "after-all", "partition-id", "replica-id", "iota", "copy-start", "slice-start"),
    *("async-start", "async-update"),
    *("opt-barrier", "all-gather-done", "all-reduce-done", "collective-permute-done"),
}
PLACES = {"AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound"}  # custom calls, as free


class Array(NamedTuple):
    """A result, or a part of one."""

    dtype: str
    shape: tuple[int, ...]
    space: int  # 0 = HBM; others are on the chip

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        bits = re.search(r"\d+", self.dtype)
        return self.size * (int(bits[0]) if bits else 8) // 8


class Instruction(NamedTuple):
    """One line."""

    name: str
    opcode: str
    results: tuple[Array, ...]  # of a tuple, its parts
    operands: tuple[str, ...]
    text: str  # its attributes
    root: bool

    def called(self, kind: str) -> str:
        """The computation that it calls by that attribute; "" = none."""
        return next((name for found, name in CALLED.findall(self.text) if found == kind), "")

    @property
    def operation(self) -> str:
        """JAX's name of what it belongs to."""
        found = OPERATION.search(self.text)
        return found[1] if found else ""

    @property
    def target(self) -> str:
        """Of a custom call."""
        found = TARGET.search(self.text)
        return found[1] if found else ""


Computation = dict[str, Instruction]  # by name, in order


class Program:
    """The computations of a compiled program."""

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.header = text.partition("\n")[0]
        self.entry = ""
        current: Computation = {}
        for line in text.splitlines():
            if header := HEADER.match(line):
                current = self.computations[header[2]] = {}
                self.entry = header[2] if header[1] else self.entry
            elif made := MADE.match(line):
                current[made[2]] = _instruction(made)
        self._products = functools.cache(self._products_of)
        self._slices = functools.cache(self._slices_of)

    def executed(self) -> Iterator[tuple[Instruction, Computation, int]]:
        """(instruction, what stands around it, how often it runs), without the inside of fusions.

        Of the branches of a conditional all are told, as if each ran.
        """
        yield from self._executed(self.entry, 1)

    def _executed(self, name: str, times: int) -> Iterator[tuple[Instruction, Computation, int]]:
        around = self.computations[name]
        for one in around.values():
            yield one, around, times
            if one.opcode == "while":
                turns = self.turns(one.called("condition"))
                yield from self._executed(one.called("body"), times * turns)
            elif one.opcode == "call":
                yield from self._executed(one.called("to_apply"), times)
            elif one.opcode == "conditional":
                found = re.search(r"(?:branch_computations=\{([^}]*)\}|true_comp.*)", one.text)
                for branch in NAMES.findall(found[0] if found else ""):
                    yield from self._executed(branch, times)

    def turns(self, condition: str) -> int:
        """Of a loop that counts from 0 up to a constant, as every scan does; of others 1."""
        inside = self.computations[condition]
        for one in inside.values():
            if one.root and one.opcode == "compare" and "direction=LT" in one.text:
                last = inside[one.operands[1]]
                found = re.match(r"(\d+)\)", last.text) if last.opcode == "constant" else None
                return int(found[1]) if found else 1
        return 1

    @property
    def flops(self) -> int:
        """Of matrix products and convolutions, which kernels are not counted among."""
        return sum(times * self._of(one, around) for one, around, times in self.executed())

    @property
    def flops_of_one_turn(self) -> int:
        """The same with the body of each loop counted once, as cost_analysis does."""
        return sum(self._of(one, around) for one, around, _ in self.executed())

    def _of(self, one: Instruction, around: Computation) -> int:
        if one.opcode == "fusion":
            return self._products(one.called("calls"))
        return convolution(one, around) if one.opcode == "convolution" else 0

    def _products_of(self, name: str) -> int:
        inside = self.computations[name]
        return sum(self._of(one, inside) for one in inside.values())

    @property
    def traffic(self) -> int:
        """Bytes that its operations read from HBM and write to it."""
        return sum(times * self._moved(one, around) for one, around, times in self.executed())

    def _moved(self, one: Instruction, around: Computation) -> int:
        if one.opcode in FREE or one.target in PLACES:
            return 0
        if one.opcode in ("copy-done", "slice-done", "async-done"):
            begun = around[one.operands[0]]
            while not begun.opcode.endswith("-start"):
                begun = around[begun.operands[0]]
            moved = sum(x.bytes for x in one.results)
            source = around[begun.operands[0]].results
            return moved * ((one.results[0].space == 0) + (source[0].space == 0))
        inside = one.called("calls") if one.opcode == "fusion" else ""
        total = 0
        for number, operand in enumerate(one.operands):
            given = around[operand].results
            whole = sum(x.bytes for x in given if x.space == 0)
            total += int(min(whole, self._slices(inside, number))) if inside and whole else whole
        if one.opcode in ("dynamic-slice", "slice"):
            total = sum(x.bytes for x in one.results)
        written = [x.bytes for x in one.results if x.space == 0]
        return total + (self._written(inside, written) if inside else sum(written))

    def _slices_of(self, name: str, number: int) -> float:
        """Bytes that a fusion reads of a parameter which it only cuts; inf = all of it."""
        inside = self.computations[name]
        start = next(
            x
            for x in inside.values()
            if x.opcode == "parameter" and x.text.startswith(f"{number})")
        )
        total, pending = 0.0, [start.name]
        while pending:
            seen = pending.pop()
            for one in inside.values():
                if seen not in one.operands:
                    continue
                if one.opcode == "bitcast":
                    pending.append(one.name)
                elif one.opcode == "dynamic-slice" and one.operands[0] == seen:
                    total += sum(x.bytes for x in one.results)
                elif one.opcode == "dynamic-update-slice" and one.operands[0] == seen:
                    total += 0  # written in place
                elif one.opcode == "fusion":
                    total += self._slices(one.called("calls"), one.operands.index(seen))
                else:
                    return math.inf
        return total

    def _written(self, name: str, sizes: list[int]) -> int:
        """Bytes that a fusion writes of results of these sizes: in place, only what is updated."""
        inside = self.computations[name]
        updates = [x for x in inside.values() if x.opcode == "dynamic-update-slice"]
        for one in updates:
            whole = sum(x.bytes for x in one.results)
            if whole in sizes:
                sizes[sizes.index(whole)] = sum(x.bytes for x in inside[one.operands[1]].results)
        return sum(sizes)

    @property
    def aliased(self) -> int:
        """Bytes of the arguments whose place its results take."""
        pairs = re.search(r"input_output_alias=\{(.*?)\}, \w+=", self.header)
        numbers = re.findall(r": \((\d+),", pairs[1]) if pairs else []
        given = self.computations[self.entry].values()
        size = {
            x.text.partition(")")[0]: x.results[0].bytes for x in given if x.opcode == "parameter"
        }
        return sum(size[number] for number in numbers)

    def kernels(self) -> dict[str, int]:
        """Name of each Pallas kernel -> how often it runs in a step."""
        found: dict[str, int] = {}
        for one, _, times in self.executed():
            if one.target == "tpu_custom_call":
                name = kernel_name(one)
                found[name] = found.get(name, 0) + times
        return found


def kernel_name(one: Instruction) -> str:
    """Of the kernel in a custom call, which its instruction has, without its number."""
    return one.name.rstrip(".0123456789")


def _instruction(made: re.Match[str]) -> Instruction:
    root, name, kind, opcode, rest = made.groups()
    inside, _, attributes = rest.partition(")")
    if opcode in ("constant", "parameter"):
        return Instruction(name, opcode, arrays(kind), (), rest, bool(root))
    operands = tuple(NAMES.findall(inside))
    return Instruction(name, opcode, arrays(kind), operands, attributes, bool(root))


def arrays(kind: str) -> tuple[Array, ...]:
    """The arrays of a type as it is written."""
    found = []
    for dtype, sizes, layout in ARRAY.findall(kind):
        space = SPACE.search(layout)
        shape = tuple(int(size) for size in sizes.split(",") if size)
        found.append(Array(dtype, shape, int(space[1]) if space else 0))
    return tuple(found)


def convolution(one: Instruction, around: Computation) -> int:
    """Operations of a convolution, which on TPUs is what every product of matrices becomes.

    Only pairs of an element and a weight count, not what a window meets in its padding.
    """
    labels = LABELS.search(one.text)
    if labels is None:
        raise ValueError(f"a convolution without dim_labels: {one.text[:80]}")
    left, right, out = labels.groups()
    inputs, weights = (around[name].results[0].shape for name in one.operands[:2])
    made = one.results[0].shape
    window = _window(one.text)
    pairs = 1
    for number in range(len(left) - 2):
        digit = str(number)
        pairs *= _pairs(
            inputs[left.index(digit)],
            weights[right.index(digit)],
            made[out.index(digit)],
            {name: sizes[number] for name, sizes in window.items()},
        )
    rows, columns = made[out.index("b")], made[out.index("f")]
    return 2 * rows * columns * weights[right.index("i")] * pairs


def _window(text: str) -> dict[str, list[str]]:
    """Attribute of a window -> its value along each side."""
    found = WINDOW.search(text)
    pairs = (word.split("=") for word in (found[1].split() if found else []))
    return {name: sizes.split("x") for name, sizes in pairs}


def _pairs(size: int, weights: int, made: int, window: dict[str, str]) -> int:
    """Pairs (result, weight) along one side of a window that meet an element of the input."""
    low = int(window["pad"].split("_")[0]) if "pad" in window else 0
    stride, spread, apart = (
        int(window[name]) if name in window else 1
        for name in ("stride", "lhs_dilate", "rhs_dilate")
    )
    count = 0
    for weight in range(weights):
        for place in range(made):
            position = place * stride + weight * apart - low
            if position >= 0 and position % spread == 0 and position // spread < size:
                count += 1
    return count
