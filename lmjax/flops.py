"""Floating-point operations of a model, and what a chip can do of them in a second.

Only products are counted: 2 m k n for matrices [m, k] and [k, n], 2 for each multiplication of a
convolution's window, borders included. Norms, softmax and the like are left out, as everybody does.
Training is three times the forward pass; what is computed twice to save memory counts once.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params

TRAINING = 3  # one forward pass, and a backward pass of two products for each of its products

PEAKS = {  # device_kind -> dense bfloat16 FLOP/s, from the data sheets
    r"NVIDIA (GH200|H200|H100 80GB|H100 SXM).*": 989e12,
    r"NVIDIA A100.*": 312e12,
    r"TPU v4": 275e12,
    r"TPU v5 ?(lite|e)": 197e12,
    r"TPU v5p?": 459e12,
    r"TPU v6 ?(lite|e)": 918e12,
}


def peak(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of a chip, or None where it is not known."""
    for pattern, flops in PEAKS.items():
        if re.fullmatch(pattern, device_kind):
            return flops
    return None


def conventions(parameters: int, attention_width: int, length: int) -> dict[str, int]:
    """FLOP of training a transformer on one token, as the two published conventions count them.

    causal  6 N + 6 L d T: attention to half of the positions, the average under a causal mask
    full    6 N + 12 L d T: attention to all (PaLM, arXiv 2204.02311, appendix B; nanoGPT)

    Args:
      parameters: N, all of them, embeddings too.
      attention_width: L d, the layers times their heads times the size of a head.
      length: T, tokens in a sequence.
    """
    attention = attention_width * length
    return {"causal": 6 * parameters + 6 * attention, "full": 6 * parameters + 12 * attention}


class Count(NamedTuple):
    """What a function computes."""

    flops: int
    unseen: frozenset[str]  # what could not be counted: kernels, and loops of unknown length

    def __add__(self, other: Any) -> "Count":
        return Count(self.flops + other.flops, self.unseen | other.unseen)


def count(function: Callable[..., Any], *shapes: Any) -> Count:
    """The operations of function(*shapes), exactly, from its jaxpr; nothing is computed.

    A loop of unknown length counts as one turn, and of alternatives the dearest counts; both are
    told in `unseen`, as are kernels whose inside no one can see, which count as nothing.
    """
    return _count(jax.make_jaxpr(function)(*shapes).jaxpr)


def _count(jaxpr: Jaxpr) -> Count:
    total = Count(0, frozenset())
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name in PRODUCTS:
            total += Count(PRODUCTS[name](eqn), frozenset())
        elif name in KERNELS:
            total += Count(0, frozenset({name}))
        else:
            total += _inside(name, eqn)
    return total


def _inside(name: str, eqn: JaxprEqn) -> Count:
    """Of an operation that contains others: a jitted function, a loop, a choice."""
    parts = [_count(jaxpr) for jaxpr in jaxprs_in_params(eqn.params)]
    found = [part.flops for part in parts if part.flops]
    if not parts:
        return Count(0, frozenset())
    unseen = frozenset().union(*(part.unseen for part in parts))
    if found and name in UNCERTAIN:
        unseen |= {name}
    flops = max(found, default=0) if name == "cond" else sum(found)
    return Count(flops * (TURNS[name](eqn) if name in TURNS else 1), unseen)


def _dot(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2 * eqn.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)


def _ragged_dot(eqn: Any) -> int:
    """Each row of [m, k] with one of the groups' matrices [g, k, n]."""
    rows, matrices = (x.aval.shape for x in eqn.invars[:2])
    return 2 * rows[-2] * rows[-1] * matrices[-1]


def _convolution(eqn: Any) -> int:
    """A transposed convolution (lhs_dilation) multiplies only where its input is not filled up."""
    kernel = eqn.invars[1].aval
    outputs = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
    window = kernel.size // outputs  # its sides and the input channels of one group
    return 2 * eqn.outvars[0].aval.size * window // math.prod(eqn.params["lhs_dilation"])


PRODUCTS: dict[str, Callable[[Any], int]] = {
    "dot_general": _dot,
    "ragged_dot_general": _ragged_dot,
    "conv_general_dilated": _convolution,
}
TURNS: dict[str, Callable[[Any], int]] = {
    "scan": lambda eqn: eqn.params["length"],
    "shard_map": lambda eqn: math.prod(
        eqn.params["mesh"].shape[axis] for axis in eqn.params["newly_manual_axes"]
    ),
}
UNCERTAIN = {"while", "cond"}  # how often, and which, stands in no jaxpr
KERNELS = {
    "pallas_call",
    "ffi_call",
    "custom_partitioning",
    "dot_product_attention_fwd_wrapper",  # cuDNN's
}
