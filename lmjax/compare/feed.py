"""What cells are fed: the batches of each seed, made once for all cells of that seed.

A cell takes its batches in pieces, each a stretch of updates between two evaluations or a part of
one. Where all pieces do not fit into the memory that is set aside, those used longest ago are
dropped and made again.
"""

import collections
import hashlib
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lmjax.data import Batch, Dataset

Host = dict[str, np.ndarray]  # arrays [updates, batch, ...]


class Span(NamedTuple):
    """Updates [start, stop) of a run."""

    start: int
    stop: int

    @property
    def updates(self) -> int:
        return self.stop - self.start


def spans(evaluations: Sequence[int], most: int) -> tuple[Span, ...]:
    """The stretches between evaluations, cut so that none has more than `most` updates."""
    found = []
    for start, stop in itertools.pairwise(evaluations):
        pieces = -(-(stop - start) // most)
        edges = [start + (stop - start) * n // pieces for n in range(pieces + 1)]
        found += [Span(*edge) for edge in itertools.pairwise(edges)]
    return tuple(found)


class Piece(NamedTuple):
    """The batches of one span."""

    placed: Any  # on the device, as the strategy takes them
    digests: tuple[bytes, ...]  # SHA-256 of each batch
    size: int  # bytes


class Feed:
    """The pieces of a data set, for any seed; may be asked by several threads.

    Args:
      dataset: where they come from.
      batch_size: rows of an update.
      spans: the stretches of a cell, in order.
      place: from host arrays to what a strategy takes.
      memory: bytes of pieces that are kept.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        spans: Sequence[Span],
        place: Callable[[Host], Any],
        memory: int,
    ):
        self._dataset, self._batch_size, self._spans = dataset, batch_size, spans
        self._place, self._memory = place, memory
        self._kept: collections.OrderedDict[tuple[int, int], Piece] = collections.OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        self._making: dict[int, threading.Lock] = collections.defaultdict(threading.Lock)

    def piece(self, seed: int, number: int) -> Piece:
        """The batches of span `number` under a seed."""
        with self._lock:
            found, making = self._found(seed, number), self._making[seed]
        if found is not None:
            return found
        with making:  # two cells of a seed do not make the same twice
            with self._lock:
                found = self._found(seed, number)
            return self._keep(seed, number, self._make(seed, number)) if found is None else found

    def _found(self, seed: int, number: int) -> Piece | None:
        key = seed, number
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def _make(self, seed: int, number: int) -> Piece:
        span, size = self._spans[number], self._batch_size
        rows = self._dataset.rows(seed, span.start * size, span.updates * size)
        host = {
            name: np.ascontiguousarray(x).reshape(span.updates, size, *x.shape[1:])
            for name, x in rows.items()
        }
        return Piece(self._place(host), digests(host), sum(x.nbytes for x in host.values()))

    def _keep(self, seed: int, number: int, piece: Piece) -> Piece:
        with self._lock:
            self._kept[seed, number] = piece
            self._size += piece.size
            while self._size > self._memory and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._size -= dropped.size
        return piece


def digests(host: Host) -> tuple[bytes, ...]:
    """SHA-256 over names, dtypes, shapes and bytes of each batch."""
    heads = {name: f"{name} {x.dtype} {x.shape[1:]}".encode() for name, x in host.items()}
    count = len(next(iter(host.values())))
    found = []
    for number in range(count):
        content = hashlib.sha256()
        for name in sorted(host):
            content.update(heads[name])
            content.update(host[name][number].data)
        found.append(content.digest())
    return tuple(found)


def stream_hash(digests: Sequence[bytes]) -> str:
    """SHA-256 over the digests of all batches of a run, in order."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def held_out(dataset: Dataset, batch_size: int, place: Callable[[Batch], Any]) -> dict[str, list]:
    """Member -> the batches of its held-out split, on the device for all evaluations."""
    return {
        member.name: [place(batch) for batch in member.evaluation(batch_size)]
        for member in dataset.members
    }
