"""Labelled examples by index: arrays in memory, or records on the disk, read when asked for.

An input is float32, or uint8 for the pixels of images, which `as_input` brings into [0, 1].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float32, Int32, Int64, Shaped

from lmjax.errors import InputError, check_integer

Labelled = tuple[Shaped[np.ndarray, "B *example"], Int32[np.ndarray, "B"]]
BLOCK = 512  # examples read at once where all are read
EDGE = 4096  # bytes at each end of a file that its digest covers
GIB = 2**30


class Table:
    """Examples of one shape, numbered from 0."""

    shape: tuple[int, ...]  # of one input
    dtype: np.dtype  # of the inputs

    def __len__(self) -> int:
        raise NotImplementedError

    def gather(self, chosen: Int64[np.ndarray, "B"]) -> Labelled:
        """(inputs, targets) of the chosen examples."""
        raise NotImplementedError

    def feed(self, content: Any) -> None:
        """Update a hash with what changes when an example does."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Bytes of all inputs."""
        return len(self) * int(np.prod(self.shape)) * self.dtype.itemsize


def feed_file(content: Any, path: epath.Path) -> None:
    """Update a hash with a file's length and both its ends; all of a large one takes too long."""
    length = path.stat().length
    content.update(str(length).encode())
    with path.open("rb") as file:
        content.update(file.read(EDGE))
        file.seek(max(EDGE, length - EDGE))
        content.update(file.read(EDGE))


class ArrayTable(Table):
    """Arrays in memory."""

    def __init__(self, inputs: Shaped[np.ndarray, "n *example"], targets: Int32[np.ndarray, "n"]):
        self.inputs, self.targets = inputs, targets
        self.shape, self.dtype = inputs.shape[1:], inputs.dtype

    def __len__(self) -> int:
        return len(self.inputs)

    def gather(self, chosen: Int64[np.ndarray, "B"]) -> Labelled:
        return self.inputs[chosen], self.targets[chosen]

    def feed(self, content: Any) -> None:
        for array in (self.inputs, self.targets):
            content.update(f"{array.dtype}{array.shape}".encode())
            content.update(np.ascontiguousarray(array).data)


class Parts(NamedTuple):
    """What a source is read into."""

    train: Table
    test: Table
    class_names: Sequence[str]


def in_memory(parts: Parts, limit_gb: float) -> Parts:
    """The parts as arrays if their inputs fit within the limit, in GiB; else as they are."""
    train, test, class_names = parts
    if train.size + test.size > limit_gb * GIB:
        return parts
    return Parts(_held(train), _held(test), class_names)


def _held(table: Table) -> ArrayTable:
    if isinstance(table, ArrayTable):
        return table
    inputs = np.empty((len(table), *table.shape), table.dtype)
    targets = np.empty(len(table), np.int32)
    for first in range(0, len(table), BLOCK):
        chosen = np.arange(first, min(first + BLOCK, len(table)))
        inputs[chosen], targets[chosen] = table.gather(chosen)
    return ArrayTable(inputs, targets)


def as_input(x: Shaped[np.ndarray, "B *example"]) -> Float32[np.ndarray, "B *example"]:
    """Pixels as float32 in [0, 1]; float32 as it is."""
    return x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x


def moments(
    table: Table, most: int = 10_000
) -> tuple[Float32[np.ndarray, "k"], Float32[np.ndarray, "k"]]:
    """Mean and standard deviation along the last axis: of each feature, of each channel.

    Over at most `most` examples, evenly spaced. What does not vary has the deviation 1.
    """
    count = min(len(table), most)
    chosen = np.arange(count) * len(table) // count
    total = square = np.zeros(table.shape[-1:])
    shift = as_input(table.gather(chosen[:1])[0]).astype(np.float64).reshape(-1, *total.shape)[0]
    for first in range(0, count, BLOCK):
        x = as_input(table.gather(chosen[first : first + BLOCK])[0]).astype(np.float64) - shift
        x = x.reshape(-1, *total.shape)
        total, square = total + x.sum(0), square + (x**2).sum(0)
    n = count * int(np.prod(table.shape[:-1]))
    deviation = np.sqrt(np.maximum(square / n - (total / n) ** 2, 0))
    deviation = np.where(deviation > 0, deviation, 1.0)
    return (shift + total / n).astype(np.float32), deviation.astype(np.float32)


def stratified(
    classes: Int32[np.ndarray, "n"], held_out: int
) -> tuple[Int64[np.ndarray, "t"], Int64[np.ndarray, "h"]]:
    """(indices that train, indices held out), each class in its proportion.

    It is scikit-learn's train_test_split(..., stratify=classes, random_state=0), so that anyone
    can score another classifier on the same examples.
    """
    from sklearn.model_selection import train_test_split

    names, counts = np.unique(classes, return_counts=True)
    check_integer("held_out", held_out, least=len(names), most=len(classes) // 2)
    if counts.min() < 2:
        raise InputError(
            f"class {names[counts.argmin()]} has one example, so none of it can be held out"
        )
    parts = train_test_split(
        np.arange(len(classes)), test_size=held_out, stratify=classes, random_state=0
    )
    return np.asarray(parts[0]), np.asarray(parts[1])
