"""Byte n-gram models, the yardsticks of a language model: what counting alone achieves.

Interpolated Witten-Bell smoothing (Witten and Bell 1991; Chen and Goodman 1998, eq. 17):
    p(w | h) = (c(h w) + N(h) p(w | h')) / (c(h) + N(h))
with h' the history without its oldest byte, N(h) the number of distinct bytes seen after h, and
the uniform distribution over 256 bytes below the unigram.
"""

import numpy as np
from jaxtyping import UInt8

NAMES = ("unigram", "bigram", "trigram")


def bits_per_byte(train: UInt8[np.ndarray, "n"], text: UInt8[np.ndarray, "m"]) -> dict[str, float]:
    """Mean bits that each order spends on text[1:], counting on `train` alone.

    The first byte is context only, as for a model that starts with it; a byte whose history
    reaches before it is predicted by the highest order that fits.
    """
    targets = len(text) - 1
    probability = np.full(targets, 1 / 256)
    result = {}
    for order, name in enumerate(NAMES, start=1):
        first = max(order - 2, 0)  # the first target whose whole history lies inside the text
        probability = probability.copy()
        probability[first:] = _witten_bell(train, text, order, first, probability[first:])
        result[name] = float(-np.log2(probability).mean())
    return result


def _witten_bell(
    train: UInt8[np.ndarray, "n"],
    text: UInt8[np.ndarray, "m"],
    order: int,
    first: int,
    lower: np.ndarray,
) -> np.ndarray:
    grams = _codes(train, order)
    counts = np.bincount(grams, minlength=256**order)
    by_history = counts.reshape(-1, 256)
    history_count, distinct = by_history.sum(1), (by_history > 0).sum(1)
    asked = _codes(text, order)[first + 2 - order :]
    history = asked // 256
    total = history_count[history] + distinct[history]
    seen = (counts[asked] + distinct[history] * lower) / np.maximum(total, 1)
    return np.where(total > 0, seen, lower)


def _codes(text: UInt8[np.ndarray, "n"], order: int) -> np.ndarray:
    """Each run of `order` bytes as one number in base 256, oldest byte first."""
    codes = np.zeros(len(text) - order + 1, np.int64)
    for position in range(order):
        codes = codes * 256 + text[position : len(text) - order + 1 + position]
    return codes
