"""The order of examples: a permutation per epoch, a pure function of (seed, epoch).

Position p of the endless stream is example order(p div n)[p mod n]. The permutation sorts the raw
words of a Philox counter generator, whose stream NumPy guarantees for ever (NEP 19), as it does not
for its shuffles: so no version stands between a seed and its batches. An epoch costs 16 bytes and
50 to 110 ns an example, once.
"""

import functools
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt64

PURPOSES = ("order", "offset", "mixture")


def shuffled(
    start: int, count: int, size: int, seed: int
) -> tuple[Int64[np.ndarray, "B"], Int64[np.ndarray, "B"]]:
    """(epoch, example) at stream positions [start, start + count) of a set of `size` examples.

    An epoch visits each example once.
    """
    epoch, slot = np.divmod(np.arange(start, start + count, dtype=np.int64), size)
    example = np.empty_like(slot)
    for number in range(int(epoch[0]), int(epoch[-1]) + 1):
        here = slice(*np.searchsorted(epoch, [number, number + 1]))
        example[here] = epoch_order(size, number, seed)[slot[here]]
    return epoch, example


@functools.lru_cache(maxsize=16)  # two epochs of each of eight data sets that are mixed
def epoch_order(size: int, epoch: int, seed: int) -> Int64[np.ndarray, "n"]:
    """The permutation of [0, size) of one epoch."""
    return np.argsort(words(size, epoch, seed, "order"), kind="stable")


def words(
    count: int, epoch: int, seed: int, purpose: Literal["order", "offset", "mixture"]
) -> UInt64[np.ndarray, "n"]:
    """Raw 64-bit words of the generator of (seed, epoch, purpose)."""
    counter = [0, 0, 0, PURPOSES.index(purpose)]
    return np.random.Philox(key=[seed, epoch], counter=counter).random_raw(count)
