"""What the text of a compiled training step shows: kernels, arrays and products.

Only arrays that lie in memory are looked at: what stands inside a fusion is never written.
"""

import math
import re
from collections import Counter
from typing import Any, NamedTuple

HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")  # of a computation
MADE = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([\w\-]+)\(")
FUSED = re.compile(r" fusion\(.*calls=%?([\w.\-]+)")
ARRAY = re.compile(r"\b([a-z]+\d+(?:e\dm\d\w*)?|pred)\[([\d,]*)\]")
TARGET = re.compile(r'custom_call_target="([^"]+)"|@([\w$]*\$fmha\w+)')
DOT = re.compile(r"stablehlo\.dot_general .*: \(tensor<([^>]+)>, tensor<([^>]+)>\)")
FMHA = "__cudnn$fmha"  # how the names of cuDNN's attention kernels begin


class Array(NamedTuple):
    """An array in memory."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        bits = re.search(r"\d+", self.dtype)
        return self.size * (int(bits[0]) if bits else 8) // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def arrays(compiled: str) -> set[Array]:
    """All that operations outside of fusions make."""
    lines = compiled.splitlines()
    inside = {found[1] for line in lines if (found := FUSED.search(line))}
    made, skip = set(), False
    for line in lines:
        if header := HEADER.match(line):
            skip = header[1] in inside
        elif not skip and (found := MADE.match(line)):
            for dtype, sizes in ARRAY.findall(found[1]):
                made.add(Array(dtype, tuple(int(size) for size in sizes.split(",") if size)))
    return made


def whole_logits(made: set[Array], tokens: int, columns: set[int]) -> list[str]:
    """The float32 arrays that hold logits of as many tokens or more."""
    return sorted(
        str(array)
        for array in made
        if array.dtype == "f32"
        and any(size in columns for size in array.shape)
        and array.size >= tokens * min(columns)
    )


def kernels(text: str) -> dict[str, int]:
    """The custom calls of compiled or lowered text, by target."""
    return dict(Counter(one or two for one, two in TARGET.findall(text)))


def float32_products(lowered: str, least: int) -> list[str]:
    """Products of which an operand is float32 and has at least so many elements."""
    found: Counter[str] = Counter()
    for operands in DOT.findall(lowered):
        sides = [side.split("x") for side in operands]
        large = max(math.prod(map(int, side[:-1])) for side in sides) >= least
        if large and "f32" in {side[-1] for side in sides}:
            found[" by ".join(operands)] += 1
    return [f"{count} times {name}" for name, count in found.items()]


def check(
    lowered: str, compiled: str, tokens: int, columns: set[int], least: int
) -> dict[str, Any]:
    """What is found, for gpt_ours.py to judge.

    Args:
      lowered: StableHLO.
      compiled: optimised HLO.
      tokens: of a batch.
      columns: how many logits a token has, with and without padding.
      least: elements of an operand from which a float32 product is worth telling.
    """
    made, called = arrays(compiled), kernels(compiled)
    fused = {name: count for name, count in called.items() if name.startswith(FMHA)}
    largest = sorted(made, key=lambda array: -array.bytes)[:3]
    return {
        "cudnn_forward": sum(n for name, n in fused.items() if "Backward" not in name),
        "cudnn_backward": sum(n for name, n in fused.items() if "Backward" in name),
        "custom_calls": called,
        "largest": [f"{array}, {array.bytes / 1e9:.3f} GB" for array in largest],
        "float32_logits": whole_logits(made, tokens, columns),
        "float32_products": float32_products(lowered, least),
    }
