"""A long row of tokens, in memory or memory-mapped in pieces, read in windows."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer
from numpy.lib.stride_tricks import sliding_window_view

from lmjax.data.packing import marks_after, marks_at
from lmjax.errors import InputError


class Stream:
    """The pieces as one, and where in it documents start.

    Args:
      name: for errors.
      pieces: unsigned integers; what is memory-mapped is only read where windows lie.
      vocab_size: every window's ids must be below it; 0 = they are known to be.
      boundaries: sorted positions at which documents start; None = not known.
      end_of_text: the id that ends each document, where boundaries are not known; None = neither.
    """

    def __init__(
        self,
        name: str,
        pieces: Sequence[Integer[np.ndarray, "_"]],
        *,
        vocab_size: int = 0,
        boundaries: Integer[np.ndarray, "d"] | None = None,
        end_of_text: int | None = None,
    ):
        self.name = name
        # A plain view of a memory map: the class memmap makes every slice three times as slow.
        self.pieces = [np.asarray(piece) for piece in pieces]
        self.vocab_size = vocab_size
        self.boundaries, self.end_of_text = boundaries, end_of_text
        self.ends = np.cumsum([len(piece) for piece in self.pieces])
        self._begins = self.ends - [len(piece) for piece in self.pieces]
        self._windows: dict[int, list[np.ndarray | None]] = {}

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def knows_documents(self) -> bool:
        """Whether `document_starts` can be asked for."""
        return self.boundaries is not None or self.end_of_text is not None

    def read(self, start: int, stop: int) -> Integer[np.ndarray, "n"]:
        """Tokens [start, stop), copied, in the dtype that they are stored in."""
        parts = [
            piece[max(start - begin, 0) : max(stop - begin, 0)]
            for piece, begin in zip(self.pieces, self._begins.tolist(), strict=True)
        ]
        return np.concatenate(parts)

    def windows(self, starts: Int64[np.ndarray, "B"], size: int) -> Int32[np.ndarray, "B size"]:
        """Tokens [start, start + size) of each start; all of them must lie in the stream."""
        whole = self._views(size)[0] if len(self.pieces) == 1 else None
        found = self._across(starts, size) if whole is None else whole[starts].astype(np.int32)
        ids = found.view(np.uint32)  # an id of more than 31 bits is not negative but too large
        if self.vocab_size and ids.max(initial=0) >= self.vocab_size:
            row, column = np.argwhere(ids >= self.vocab_size)[0]
            raise InputError(
                f"{self.name}: token {starts[row] + column} has the id {ids[row, column]}, "
                f"beyond the vocabulary of {self.vocab_size}"
            )
        return found

    def document_starts(
        self,
        starts: Int64[np.ndarray, "B"],
        windows: Int32[np.ndarray, "B size"],
    ) -> Bool[np.ndarray, "B size"]:
        """Where in the windows that begin at `starts` a document does."""
        if self.boundaries is not None:
            return marks_at(self.boundaries, starts, windows.shape[1])
        assert self.end_of_text is not None, "see knows_documents"
        return marks_after(windows, self.end_of_text)

    def _views(self, size: int) -> list[np.ndarray | None]:
        """Of each piece that has any, all its windows as rows that share its memory."""
        if size not in self._windows:
            self._windows[size] = [
                sliding_window_view(piece, size) if len(piece) >= size else None
                for piece in self.pieces
            ]
        return self._windows[size]

    def _across(self, starts: Int64[np.ndarray, "B"], size: int) -> Int32[np.ndarray, "B size"]:
        found = np.empty((len(starts), size), np.int32)
        first = np.searchsorted(self.ends, starts, side="right")
        last = np.searchsorted(self.ends, starts + (size - 1), side="right")
        for number, view in enumerate(self._views(size)):
            rows = np.flatnonzero((first == number) & (last == number))
            if view is not None and len(rows):
                found[rows] = view[starts[rows] - self._begins[number]]
        for row in np.flatnonzero(first != last).tolist():
            found[row] = self.read(int(starts[row]), int(starts[row]) + size)
        return found
