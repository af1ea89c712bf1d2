"""Documents packed into windows: which tokens belong together, and which targets count.

A window of the stream holds the end of one document, some whole ones and the beginning of another.
Attention stays inside one document, and no target is predicted from another document's text.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Integer


class Packed(NamedTuple):
    """What packing adds to a batch of windows."""

    segments: Int32[np.ndarray, "B T"]  # number of the input's document in the window, from 1
    positions: Int32[np.ndarray, "B T"]  # of the input in its document's part of the window, from 0
    weights: Float32[np.ndarray, "B T"]  # 0 where the target is the first token of a document


def pack(marks: Bool[np.ndarray, "B W"]) -> Packed:
    """From where documents start in windows of T + 1 tokens.

    A document that began before its window counts from the window's start, so that no position
    reaches T.
    """
    inside = marks[:, :-1].copy()
    inside[:, 0] = True
    index = np.arange(inside.shape[1], dtype=np.int32)[None]
    begins = np.maximum.accumulate(np.where(inside, index, 0), axis=1)
    return Packed(
        np.cumsum(inside, axis=1, dtype=np.int32),
        (index - begins).astype(np.int32),
        (~marks[:, 1:]).astype(np.float32),
    )


def longest_row(boundaries: Integer[np.ndarray, "d"]) -> int:
    """The most positions next to each other that are boundaries, the stream's first not counted.

    A window of no more targets than that may have none that counts.
    """
    inside = boundaries[boundaries > 0]
    if not len(inside):
        return 0
    ends = np.flatnonzero(np.diff(inside) != 1) + 1  # of each row of neighbours but the last
    return int(np.diff(np.array([0, *ends.tolist(), len(inside)])).max())


def marks_at(
    boundaries: Integer[np.ndarray, "d"], starts: Int64[np.ndarray, "B"], size: int
) -> Bool[np.ndarray, "B size"]:
    """Where in windows [start, start + size) one of the sorted boundaries lies."""
    low, high = np.searchsorted(boundaries, starts), np.searchsorted(boundaries, starts + size)
    counts = high - low
    rows = np.repeat(np.arange(len(starts)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = boundaries[np.repeat(low, counts) + within].astype(np.int64)
    marks = np.zeros((len(starts), size), bool)
    marks[rows, found - starts[rows]] = True
    return marks


def marks_after(
    windows: Int32[np.ndarray, "B size"], end_of_text: int
) -> Bool[np.ndarray, "B size"]:
    """Where in the windows the token before is the one that ends a document.

    Whether a document starts at a window's first token is not seen, and `pack` does not ask.
    """
    marks = np.zeros(windows.shape, bool)
    marks[:, 1:] = windows[:, :-1] == end_of_text
    return marks
