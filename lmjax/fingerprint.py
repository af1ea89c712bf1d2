"""What an array holds, in eight bytes, however it is cut over devices and summed.

Two lanes of a sum modulo 2^32 over all 32-bit words w_i of a leaf,

    sum_i mix32(w_i xor p_i)  and  sum_i mix32(w_i xor (C p_i + b)),  p_i = mix32(i xor a),

where i is the word's place in the whole array in row-major order, a and b are drawn by SHA-256 of
the leaf's path, dtype and shape, C is odd, and mix32 is the finalizer of MurmurHash3, a bijection
(github.com/aappleby/smhasher). Adding integers is associative, so the devices may add as they
please. Words that were only multiplied by odd numbers would not show a changed sign: 2^31 times
any odd number is 2^31.

Each leaf is a program of its own, beside the train step, which it can therefore not change.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, UInt32

C = 0x9E3779B1  # 2^32 over the golden ratio, made odd
PLACES = 2**32  # words that are counted along the last axes; those before them are counted apart

Leaf = Callable[[Any, Any], UInt32[Array, "2"]]  # of an array and its salts


def mix32(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """MurmurHash3's fmix32."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def words_of(x: Array) -> UInt32[Array, "*words"]:
    """The bits of an array; what is smaller than 32 bits is filled up with zeros, and what is
    larger has them on a last axis, the least significant first. Raises TypeError."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    about = jnp.finfo if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo
    bits = about(x.dtype).bits
    if bits not in (8, 16, 32, 64):
        raise TypeError(f"{x.dtype} has {bits} bits, not 8, 16, 32 or 64")
    if bits < 32:
        return jax.lax.bitcast_convert_type(x, f"uint{bits}").astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def places(
    shape: Sequence[int], starts: Sequence[Any], salt: UInt32[Array, ""], cut: Sequence[int]
) -> UInt32[Array, "*cut"]:
    """p_i of the words in a piece of shape `cut` that begins at `starts` of the whole `shape`."""
    last = len(shape)
    first = next((n for n in range(last) if math.prod(shape[n:]) <= PLACES), max(last - 1, 0))
    before, inside = (
        _numbered(shape, starts, axes, cut) for axes in (range(first), range(first, last))
    )
    return mix32(inside ^ mix32(before ^ salt))


def _numbered(
    shape: Sequence[int], starts: Sequence[Any], axes: range, cut: Sequence[int]
) -> UInt32[Array, "*cut"]:
    """Row-major numbers over some of the axes."""
    numbers, stride = jnp.zeros(cut, jnp.uint32), 1
    for axis in reversed(axes):
        along = jax.lax.broadcasted_iota(jnp.uint32, cut, axis) + jnp.uint32(starts[axis])
        numbers, stride = numbers + along * jnp.uint32(stride % 2**32), stride * shape[axis]
    return numbers


def lanes(
    x: Array, salts: UInt32[Array, "2"], shares: Sequence[int] = (), shard: Sequence[Any] = ()
) -> UInt32[Array, "2"]:
    """Both lanes of an array, or of the piece of it that is number `shard` of `shares` by axis.

    One loop makes both: two sums take XLA on a CPU ten times as long.
    """
    words = words_of(x)
    whole = [1] * words.ndim
    shares, shard = [*shares, *whole[len(shares) :]], [*shard, *(0 for _ in whole[len(shard) :])]
    shape = [size * count for size, count in zip(words.shape, shares, strict=True)]
    starts = [size * number for size, number in zip(words.shape, shard, strict=True)]
    place = places(shape, starts, salts[0], words.shape)
    mixed = mix32(words ^ place), mix32(words ^ (place * jnp.uint32(C) + salts[1]))
    zero = jnp.uint32(0)
    sums = jax.lax.reduce(
        mixed,
        (zero, zero),
        lambda one, other: (one[0] + other[0], one[1] + other[1]),
        tuple(range(words.ndim)),
    )
    return jnp.stack(sums)


fingerprint_whole = jax.jit(lanes)


@functools.cache
def fingerprint_cut(sharding: NamedSharding) -> Leaf:
    """As `fingerprint_whole`, of arrays that lie so: each device sums its piece, and the sums are
    added. XLA would gather the array, as it does for every reduction of two arrays at once."""
    spec = [() if at is None else (at if isinstance(at, tuple) else (at,)) for at in sharding.spec]
    sizes = [math.prod(sharding.mesh.shape[name] for name in names) for names in spec]

    def of_piece(x: Array, salts: UInt32[Array, "2"]) -> UInt32[Array, "2"]:
        shard = [jax.lax.axis_index(names) if names else 0 for names in spec]
        return jax.lax.psum(lanes(x, salts, sizes, shard), [name for at in spec for name in at])

    return jax.jit(
        jax.shard_map(
            of_piece,
            mesh=sharding.mesh,
            in_specs=(sharding.spec, PartitionSpec()),
            out_specs=PartitionSpec(),
        )
    )


def function_for(x: Any) -> Leaf:
    """What computes the fingerprint of an array, or of an abstract one with a sharding."""
    sharding = getattr(x, "sharding", None)
    if isinstance(sharding, NamedSharding) and not sharding.is_fully_replicated:
        return fingerprint_cut(sharding)
    return fingerprint_whole


def describe(tree: Any) -> dict[str, str]:
    """Path -> dtype[shape] of each leaf, in the tree's order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype}{list(x.shape)}"
        for path, x in leaves
    }


def salts_of(path: str, told: str) -> UInt32[np.ndarray, "2"]:
    """a and b of a leaf, by its path and by its dtype and shape."""
    return np.frombuffer(hashlib.sha256(f"{path} {told}".encode()).digest(), "<u4", 2)


class Fingerprint:
    """The function of a tree that starts what computes its leaves' fingerprints, and waits for
    nothing; `read` brings them home.

    Args:
      tree: arrays, or abstract ones, laid out as those that it will be called with.
      put: how salts come to the devices; where they are not there yet, each call brings them.
      call: how a compiled function is called, if not just so.
    """

    def __init__(
        self,
        tree: Any,
        put: Callable[[Any], Any] = lambda x: x,
        call: Callable[[Leaf], Leaf] = lambda x: x,
    ):
        self.leaves = describe(tree)
        self._functions = [call(function_for(x)) for x in jax.tree.leaves(tree)]
        self._salts = put([salts_of(path, told) for path, told in self.leaves.items()])

    def __call__(self, tree: Any) -> list[Array]:
        each = zip(self._functions, jax.tree.leaves(tree), self._salts, strict=True)
        return [function(x, salts) for function, x, salts in each]

    def read(self, started: Sequence[Array]) -> dict[str, str]:
        """Path -> 16 hex digits; waits for them. {} where none were started."""
        return {
            path: np.asarray(x).astype("<u4").tobytes().hex()
            for path, x in zip(self.leaves if started else (), started, strict=True)
        }


def digest(leaves: dict[str, str], fingerprints: dict[str, str]) -> str:
    """SHA-256 over (path, dtype, shape, fingerprint) of each leaf, in order of the paths."""
    lines = (f"{path} {leaves[path]} {fingerprints[path]}\n" for path in sorted(leaves))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
