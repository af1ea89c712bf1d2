"""The least that one training step of a GPT has to do: its products, and the bytes that it moves.

A byte is counted where a value must cross the device's memory outside of a matrix product or of
attention, whose own time is measured with what it reads and writes: each fused pass over an array
reads its inputs and writes its outputs once. So this is a model, and a lower bound: a compiler may
fuse a pass into a product's end, or split it in two.

n tokens of a batch, D width, F = 4 D, L layers, V rows of the table, N parameters.
"""

from typing import Any, NamedTuple

from lmjax.models import GPT

BF16, F32 = 2, 4  # bytes
PARAMETERS = {  # bytes of one parameter in one step
    "cast to bfloat16": F32 + BF16,
    "gradient, read for its norm and by Adam": 2 * BF16,
    "Adam: parameter and two moments, read and written": 6 * F32,
}
FORWARD = {  # arrays of n D bfloat16 that one layer reads and writes
    "norm_1": 2,
    "bias of q, k and v": 6,
    "bias and residual after attention": 3,
    "norm_2": 2,
    "bias and GELU": 8,
    "bias and residual after the MLP": 3,
}
BACKWARD = {
    "bias after the MLP": 1,
    "GELU, and its bias": 12,
    "norm_2 and residual": 4,
    "bias after attention": 1,
    "bias of q, k and v": 3,
    "norm_1 and residual": 4,
}
# Bytes for a token and a column of the head: float32 logits are read for the log-normaliser, for
# the hits and for the gradient, which is written; chunked does the first two twice. Plain logits
# are bfloat16.
LOSS = {"one-pass": 3 * F32 + BF16, "chunked": 5 * F32 + BF16, "plain": 3 * BF16 + BF16}


class Product(NamedTuple):
    """A linear map [m, k] x [k, n], done `times` in a forward pass, and twice as often back."""

    name: str
    m: int
    k: int
    n: int
    times: int
    wide: bool  # whether logits and the gradient of the kernel are float32

    @property
    def flops(self) -> int:
        """Of all of them, forward and backward."""
        return 6 * self.m * self.k * self.n * self.times


def products(model: GPT, tokens: int, cross_entropy: str, chunk: int) -> list[Product]:
    """The linear maps of a step; those of attention's scores are in none of them."""
    width, heads = model.width, model.heads * model.head_size
    fused = cross_entropy != "plain"
    rows = min(chunk, tokens) if fused else tokens
    return [
        Product("qkv", tokens, width, 3 * heads, model.depth, False),
        Product("attention out", tokens, heads, width, model.depth, False),
        Product("mlp in", tokens, width, model.hidden, model.depth, False),
        Product("mlp out", tokens, model.hidden, width, model.depth, False),
        Product("head", rows, width, model.table_rows, -(-tokens // rows), fused),
    ]


def traffic(
    model: GPT, parameters: int, tokens: int, cross_entropy: str, chunk: int
) -> dict[str, int]:
    """Bytes of one step, by what moves them."""
    wide, table = tokens * model.width, model.table_rows * model.width
    chunks = 0 if cross_entropy == "plain" else -(-tokens // chunk)
    layer = sum(FORWARD.values()) + sum(BACKWARD.values())
    return {
        "parameters and optimizer": parameters * sum(PARAMETERS.values()),
        "activations": layer * model.depth * wide * BF16,
        "logits": tokens * model.table_rows * LOSS[cross_entropy],
        "gradient of the head, summed over chunks": chunks * 3 * table * F32,
        "embedding": (4 * wide + 3 * table) * BF16,
    }


def bound(
    measured_ms: float, parts: dict[str, float], moved: dict[str, int], bandwidth: float
) -> dict[str, Any]:
    """What a step takes at the measured ceilings, beside what it took.

    Args:
      measured_ms: of the step.
      parts: name -> milliseconds of what was measured alone: products, attention.
      moved: of `traffic`.
      bandwidth: bytes in a second.
    """
    told = {**parts, **{name: 1e3 * size / bandwidth for name, size in moved.items()}}
    whole = sum(told.values())
    return {
        "parts_ms": told,
        "sum_ms": whole,
        "measured_ms": measured_ms,
        "unexplained_ms": measured_ms - whole,
        "unexplained": 1 - whole / measured_ms,
        "bytes": moved,
    }
