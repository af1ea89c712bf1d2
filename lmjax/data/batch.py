"""The contract between data, task and trainer: what a batch is and where batches come from."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from lmjax.parts import Part

Batch = dict[str, Any]
"""Arrays with a leading batch axis B, on the host (NumPy) or on devices (JAX):
inputs   what the model sees: token ids int32 [B, T], examples float32 [B, ...]
targets  what it should say: int32 [B, T] or [B]
weights  float32, the shape of targets: 1 where a target counts, 0 where it is padding
"""


class Dataset:
    """Loaded data: one endless stream of rows for each seed, with no iterator state.

    Batch t is rows [t B, (t + 1) B) of the stream, a pure function of (seed, data, t, B); so k
    batches can be had as one batch of k B rows.
    """

    name: str
    digest: str  # SHA-256 of everything that decides its batches
    summary: str  # one line for a reader: sizes and units

    def batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Training batch number `step` (from 0)."""
        raise NotImplementedError

    def evaluation(self, batch_size: int) -> Iterator[Batch]:
        """The held-out split to its end, in order; the last batch is padded with weight 0."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(Part):
    """The settings of a data set."""

    def load(self) -> Dataset:
        """Read it into memory, or map it; raises InputError for what cannot be read."""
        raise NotImplementedError


def padded(batch: Batch, batch_size: int) -> Batch:
    """The batch filled up with zeros, and so with weight 0, to `batch_size` rows."""

    def fill(x: np.ndarray) -> np.ndarray:
        return np.pad(x, [(0, batch_size - len(x)), *[(0, 0)] * (x.ndim - 1)])

    return {name: fill(x) for name, x in batch.items()}
