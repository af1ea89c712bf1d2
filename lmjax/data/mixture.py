"""Several data sets as one stream, each with its share of the rows.

The stream is cut into blocks of BLOCK rows. Every block holds the same number of rows of each set,
in an order of its own that Philox draws (lmjax/data/order.py); each set's rows come in the order of
that set's own stream. So which row of which set stands at a position is a function of (seed,
position) at the cost of one block, and shares are exact over every block.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64

from lmjax.data.batch import Batch, Data, Dataset
from lmjax.data.order import words
from lmjax.data.tokens import Tokens
from lmjax.errors import FieldError, check_number, fields_of
from lmjax.parts import field_types

BLOCK = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture(Data):
    """Sources of one kind of data. A share is rounded to a whole number of rows in 4,096."""

    label: ClassVar[str] = "mixture"

    sources: tuple[str, ...] = ("python_docs", "python_stdlib")  # each as in `each.source`
    weights: tuple[float, ...] = (0.5, 0.5)  # of the rows; they need not sum to 1
    each: Data = Tokens()  # the settings that all have but for the source

    def validate(self) -> None:
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise FieldError("sources", self.sources, "must name at least one, and none twice")
        if len(self.weights) != len(self.sources):
            allowed = f"must be one for each of the {len(self.sources)} sources"
            raise FieldError("weights", self.weights, allowed)
        for weight in self.weights:
            check_number("weights", weight, above=0)
        if min(quotas(self.weights)) < 1:
            allowed = f"none may be below 1 / {BLOCK} of their sum"
            raise FieldError("weights", self.weights, allowed)
        if "source" not in field_types(self.each):
            raise FieldError("each", self.each.label, "must be data with a field `source`")

    def parts(self) -> list[Any]:
        """The settings of each source."""
        changed: Any = self.each
        return [dataclasses.replace(changed, source=source) for source in self.sources]

    def shapes(self, batch_size: int) -> Batch:
        return self.parts()[0].shapes(batch_size)

    def reading_with(self, path: str) -> "Mixture":
        return dataclasses.replace(self, each=self.each.reading_with(path))

    def reads(self, run: str) -> bool:
        return any(part.reads(run) for part in self.parts())

    def load(self) -> "Mixed":
        with fields_of("each"):
            members = [part.load() for part in self.parts()]
        return Mixed(members, quotas(self.weights))


def quotas(weights: Sequence[float]) -> tuple[int, ...]:
    """Rows of each in a block: the nearest whole numbers that sum to BLOCK (largest remainders)."""
    shares = np.array(weights, np.float64) / np.max(weights)  # whose sum cannot overflow
    exact = shares / np.sum(shares) * BLOCK
    counts = np.floor(exact).astype(int)
    missing = BLOCK - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return tuple(counts.tolist())


class Mixed(Dataset):
    """Data sets whose rows share a layout and a meaning, `quota` rows of each in a block."""

    def __init__(self, members: Sequence[Dataset], quota: Sequence[int]):
        self._members, self._quota = tuple(members), tuple(quota)
        self.name = " + ".join(member.name for member in members)
        self.alphabet = members[0].alphabet
        self.files = tuple(file for member in members for file in member.files)
        self.sampled = any(member.sampled for member in members)
        layout = _layout(members[0])
        for member in members[1:]:
            if _layout(member) != layout or member.alphabet != self.alphabet:
                raise FieldError(
                    "sources",
                    member.name,
                    f"its rows are not of the shape, or its ids not of the vocabulary, of "
                    f"{members[0].name!r}; one vocabulary for all: `lmjax data tokenize`, or "
                    "each.tokenizer.path",
                )
        told = ",".join(f"{m.digest}:{q}" for m, q in zip(members, quota, strict=True))
        self.digest = hashlib.sha256(told.encode()).hexdigest()
        self.summary = "; ".join(
            f"{count / BLOCK:.1%} {member.name} ({member.summary})"
            for member, count in zip(members, quota, strict=True)
        )

    @property
    def members(self) -> tuple[Dataset, ...]:
        return self._members

    def rows(self, seed: int, start: int, count: int) -> Batch:
        which, own = self.places(seed, start, count)
        found: Batch = {}
        for number in np.unique(which).tolist():
            here = np.flatnonzero(which == number)
            # A set's rows come in the order of its own stream, so those of any cut are a range.
            rows = self._members[number].rows(seed, int(own[here[0]]), len(here))
            for name, x in rows.items():
                if name not in found:
                    found[name] = np.empty((count, *x.shape[1:]), x.dtype)
                found[name][here] = x
        return found

    def places(
        self, seed: int, start: int, count: int
    ) -> tuple[Int64[np.ndarray, "B"], Int64[np.ndarray, "B"]]:
        """(number of the set, position in its own stream) at positions [start, start + count)."""
        block, slot = np.divmod(np.arange(start, start + count, dtype=np.int64), BLOCK)
        which, own = np.empty_like(slot), np.empty_like(slot)
        quota = np.array(self._quota)
        for number in range(int(block[0]), int(block[-1]) + 1):
            here = slice(*np.searchsorted(block, [number, number + 1]))
            order, rank = block_order(self._quota, number, seed)
            which[here] = order[slot[here]]
            own[here] = number * quota[which[here]] + rank[slot[here]]
        return which, own

    def evaluation(self, batch_size: int, share: range | None = None) -> Iterator[Batch]:
        """All of each held-out part, one after the other; weights have no say in it."""
        for member in self._members:
            yield from member.evaluation(batch_size, share)


@functools.lru_cache(maxsize=8)
def block_order(
    quota: tuple[int, ...], block: int, seed: int
) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """(number of the set, how many of that set came before in the block) of each slot."""
    sorted_sets = np.repeat(np.arange(len(quota)), quota)
    order = sorted_sets[np.argsort(words(BLOCK, block, seed, "mixture"), kind="stable")]
    by_set = np.argsort(order, kind="stable")
    rank = np.empty_like(order)
    rank[by_set] = np.arange(BLOCK) - np.repeat(np.cumsum(quota) - quota, quota)
    return order, rank


def _layout(dataset: Dataset) -> dict[str, Any]:
    return {name: (x.shape, x.dtype) for name, x in dataset.batch(0, 0, 1).items()}
