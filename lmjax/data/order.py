"""The order of examples: a permutation per epoch, computed by arithmetic, with no state.

Position p of the endless stream is example permute(p mod n) of epoch p div n. The permutation is a
Feistel network on ceil(log4 n) bits a side with cycle walking (Black and Rogaway, CT-RSA 2002), so
any position costs O(1), and integer arithmetic alone decides it: no library's generator, whose
stream may change with its version, stands between a seed and its batches.
"""

import numpy as np
from jaxtyping import Int64, UInt64

ROUNDS = 8  # 4 already make a pseudo-random permutation; 8 cost 20 us a batch


def positions(step: int, batch_size: int) -> Int64[np.ndarray, "B"]:
    """Stream positions of batch number `step` (from 0)."""
    return np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)


def shuffled(
    stream: Int64[np.ndarray, "B"], size: int, seed: int
) -> tuple[Int64[np.ndarray, "B"], Int64[np.ndarray, "B"]]:
    """(epoch, example) at each stream position; each epoch visits each of `size` examples once."""
    epoch, slot = np.divmod(stream, size)
    return epoch, permute(slot, epoch, size, seed)


def permute(
    slot: Int64[np.ndarray, "B"], epoch: Int64[np.ndarray, "B"], size: int, seed: int
) -> Int64[np.ndarray, "B"]:
    """The image of each slot in [0, size) under the permutation of its (seed, epoch)."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    key = hash64(epoch.astype(np.uint64) + hash64(np.full_like(epoch, seed, np.uint64)))
    value = slot.astype(np.uint64)
    outside = np.ones(value.shape, bool)
    while outside.any():
        value[outside] = _feistel(value[outside], key[outside], half)
        outside = value >= size
    return value.astype(np.int64)


def hash64(x: UInt64[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    """The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _feistel(
    x: UInt64[np.ndarray, "n"], key: UInt64[np.ndarray, "n"], half: int
) -> UInt64[np.ndarray, "n"]:
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = x >> shift, x & mask
    for number in range(ROUNDS):
        # The round's number stands in the high word, so that it never collides with `right`.
        mixed = hash64(hash64(key + right) + np.uint64((number + 1) << 32))
        left, right = right, left ^ (mixed & mask)
    return (left << shift) | right
