"""The contract between data, task and trainer: what a batch is and where batches come from."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lmjax.data.tokenizer import Codec
from lmjax.parts import Part

Batch = dict[str, Any]
"""Arrays with a leading batch axis B, on the host (NumPy) or on devices (JAX):
inputs   what the model sees: token ids int32 [B, T], examples float32 [B, ...]
targets  what it should say: int32 [B, T] or [B]
weights  float32, the shape of targets: 1 where a target counts, 0 where it is padding
and for tokens, where a data set has them:
segments     int32 [B, T]: number of the document in the window, from 1; attention stays inside one
positions    int32 [B, T]: position of the token in its document, from 0
token_bytes  float32 [B, T]: bytes of text that each target stands for, where that is known
and, while it trains, from the step:
rows  int32 [B]: number of each row in the whole batch, by which a model drops out
"""


class File(NamedTuple):
    """A file that a data set is read from."""

    name: str
    size: int  # bytes
    sha256: str  # "" where nobody has computed it


class Dataset:
    """Loaded data: one endless stream of rows for each seed, with no iterator state.

    Row p is a pure function of (seed, data, p), and batch t is rows [t B, (t + 1) B): so a batch
    does not depend on how many devices, threads or hosts read it, nor on how much is read at once.
    """

    name: str
    digest: str  # SHA-256 of everything that decides its batches
    summary: str  # one line for a reader: sizes and units
    alphabet: str = ""  # what its numbers mean: sets may be mixed where this is equal
    codec: Codec | None = None  # how its token ids are read as text; None = they are not
    files: tuple[File, ...] = ()  # that it is read from, where it knows them
    sampled: bool = False  # whether the digest is over pieces of what is too large to be read whole

    @property
    def members(self) -> "tuple[Dataset, ...]":
        """The data sets that it is mixed from; itself where it is one."""
        return (self,)

    def rows(self, seed: int, start: int, count: int) -> Batch:
        """Training rows [start, start + count) of the stream, count >= 1."""
        raise NotImplementedError

    def batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Training batch number `step` (from 0)."""
        return self.rows(seed, step * batch_size, batch_size)

    def evaluation(self, batch_size: int, share: range | None = None) -> Iterator[Batch]:
        """The held-out split to its end, in order; the last batch is padded with weight 0.

        Args:
          batch_size: rows of every batch.
          share: those of each batch that are made; None = all.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(Part):
    """The settings of a data set."""

    def load(self) -> Dataset:
        """Read it into memory, or map it; raises InputError for what cannot be read."""
        raise NotImplementedError

    def shapes(self, batch_size: int) -> Batch:
        """A batch of zeros with the shapes and dtypes of what the model sees.

        It takes no memory, and no data where the settings alone say what a batch looks like, so
        that a model can be described on a machine without its data.
        """
        row = self.load().batch(0, 0, 1)
        return {name: blank((batch_size, *x.shape[1:]), x.dtype) for name, x in row.items()}

    def reading_with(self, path: str) -> "Data":
        """The same data, its text read with the vocabulary of a tokenizer.json instead of one that
        would be learnt from it."""
        return self

    def reads(self, run: str) -> bool:
        """Whether it would take what is written into a run directory for data."""
        return False


def blank(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Zeros that share one element of memory; read-only."""
    return np.broadcast_to(np.zeros((), dtype), tuple(shape))


def row_numbers(batch: Batch) -> Any:
    """The number of each row in the whole batch; where nobody says, this is the whole batch."""
    return batch["rows"] if "rows" in batch else np.arange(len(batch["targets"]), dtype=np.int32)


def held_out(
    count: int, batch_size: int, share: range | None, make: Callable[[range], Batch]
) -> Iterator[Batch]:
    """What Dataset.evaluation is for `count` rows, of which `make` makes one or several."""
    share = range(batch_size) if share is None else share
    for first in range(0, count, batch_size):
        rows = range(first, min(first + batch_size, count))[share.start : share.stop]
        # The last batch may end before the share begins.
        batch = make(rows) if rows else {name: x[:0] for name, x in make(range(1)).items()}
        yield padded(batch, len(share))


def padded(batch: Batch, batch_size: int) -> Batch:
    """The batch filled up with zeros, and so with weight 0, to `batch_size` rows."""

    def fill(x: np.ndarray) -> np.ndarray:
        return np.pad(x, [(0, batch_size - len(x)), *[(0, 0)] * (x.ndim - 1)])

    return {name: fill(x) for name, x in batch.items()}
