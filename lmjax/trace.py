"""trace.jsonl: the bits of a run, by which it is known again (lmjax/reproduce.py).

{"step": 1, "batch": "8a12f0c3", "loss": "0x1.62e43p+1", "grad_norm": "0x1.8p+0",
 "leaves": {"params/head/kernel": "5f0c...", ...}}

A line for each step, with the CRC-32 of its batch and its loss and gradient norm as exact numbers;
the fingerprint of every leaf of the state after each FINGERPRINT_EVERY steps, after step 0 and each
that is saved, after the one that follows these, and after the last. Step 0 has leaves alone.

A step that was skipped (lmjax/nonfinite.py) says so: "skipped": "grads/head/kernel", the first leaf
that was not finite. Its numbers may be nan, inf and -inf; a NaN is one number, since it is for the
compiler to choose which of its bits are set.

Of what the standard library has, CRC-32 is the quickest by far: 8 us for 33 kB, where SHA-256 takes
18 on a processor with instructions for it. Two batches that differ share one in 4 billion times.
"""

import json
import math
import re
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from lmjax.crc import combine
from lmjax.data import Batch
from lmjax.lines import Line, read_lines
from lmjax.runfiles import TRACE, begin_log, onto_disk

FINGERPRINT_EVERY = 50  # steps
NUMBERS = ("loss", "grad_norm")  # the metrics whose bits are kept
BATCH, LEAF = re.compile("[0-9a-f]{8}"), re.compile("[0-9a-f]{16}")


class Step(NamedTuple):
    """The bits of one step."""

    step: int
    batch: str  # of the batch that it was computed of; "" for step 0
    numbers: dict[str, str]  # exact, as `float.hex` writes them; {} for step 0
    leaves: dict[str, str]  # path -> fingerprint, after it; {} where none was taken
    skipped: str = ""  # the first leaf that was not finite, where the step was skipped

    def text(self) -> str:
        """As it stands in the file."""
        entry: dict[str, Any] = {"step": self.step}
        if self.step:
            entry["batch"] = self.batch
            entry |= self.numbers
        if self.skipped:
            entry["skipped"] = self.skipped
        return json.dumps(entry | ({"leaves": self.leaves} if self.leaves else {}))


class TraceLog:
    """The file of a run, each step once, also after a resume; equal runs write equal files."""

    def __init__(self, directory: epath.Path | None, history: list[Line]):
        """Continue the trace of a run from its history; what came after that is dropped.

        `directory` None is for a process whose peers write it: it writes nothing.
        """
        self._last = max((line.step for line in history), default=-1)
        path = None if directory is None else directory / TRACE
        self._file = begin_log(path, "".join(f"{line.text}\n" for line in history))

    def takes_leaves(self, step: int, last: int) -> bool:
        """Whether the state after this step is to be fingerprinted, whatever is saved."""
        return step in (0, 1, last) or step % FINGERPRINT_EVERY == 0

    def write(self, step: Step) -> None:
        """One line."""
        if step.step > self._last:
            self._last = step.step
            self._file.write(step.text() + "\n")

    def flush(self) -> None:
        """Bring all lines to the disk, before a checkpoint claims their step."""
        onto_disk(self._file)

    def close(self) -> None:
        self._file.close()


def batch_digests(rows: Batch, batch_size: int) -> list[str]:
    """CRC-32 over names, dtypes, shapes and bytes of each batch, eight hex digits."""
    whole = {name: np.ascontiguousarray(rows[name]) for name in sorted(rows)}
    heads = {name: _head(name, x, batch_size) for name, x in whole.items()}
    digests = []
    for start in range(0, len(next(iter(whole.values()))), batch_size):
        found = 0
        for name, x in whole.items():
            content = x[start : start + batch_size].reshape(-1).view(np.uint8).data
            found = zlib.crc32(content, zlib.crc32(heads[name], found))
        digests.append(f"{found:08x}")
    return digests


def _head(name: str, x: np.ndarray, batch_size: int) -> bytes:
    """What stands before the content of an array of a whole batch."""
    told = f"{name} {x.dtype} {[batch_size, *x.shape[1:]]}"
    return zlib.crc32(told.encode()).to_bytes(4, "little")


def part_digests(rows: Batch, batch_size: int, first: int) -> list[str]:
    """What `whole_digests` needs of the rows, from `first` on, that a process has of one batch."""
    arrays = {name: np.ascontiguousarray(x) for name, x in sorted(rows.items())}
    contents = {name: x.reshape(-1).view(np.uint8).data for name, x in arrays.items()}
    heads = {name: _head(name, x, batch_size).hex() for name, x in arrays.items()}
    told = [[heads[name], zlib.crc32(content), len(content)] for name, content in contents.items()]
    return [json.dumps([first, told])]


def whole_digests(said: Sequence[Sequence[str]]) -> list[str]:
    """Of each batch, from the digests that each process has of its rows of them.

    A single process has whole batches. Of rows that several have, one part counts.
    """
    if len(said) == 1:
        return list(said[0])
    return [_joined(parts) for parts in zip(*said, strict=True)]


def _joined(parts: Sequence[str]) -> str:
    pieces = dict(json.loads(part) for part in parts)
    found = 0
    for arrays in zip(*(pieces[first] for first in sorted(pieces)), strict=True):
        found = zlib.crc32(bytes.fromhex(arrays[0][0]), found)
        for _, content, size in arrays:
            found = combine(found, content, size)
    return f"{found:08x}"


def read_trace(directory: epath.Path, step: int) -> list[Line]:
    """The lines of a run that stands at `step`; raises InputError, and changes nothing."""
    return read_lines(directory / TRACE, step, lambda entry: to_step(entry) is not None)


def exact(numbers: dict[str, float]) -> dict[str, str]:
    """Of a step's metrics, those whose bits are kept."""
    return {name: numbers[name].hex() for name in NUMBERS}


def to_step(entry: dict[str, Any]) -> Step | None:
    """The step of a line, None for one that is malformed."""
    step, batch, leaves = entry["step"], entry.get("batch", ""), entry.get("leaves", {})
    skipped = entry.get("skipped", "")
    told = {name: entry[name] for name in NUMBERS if name in entry}
    try:
        numbers = {name: float.fromhex(text) for name, text in told.items()}
    except (TypeError, ValueError, OverflowError):
        return None
    whole = set(told) == (set(NUMBERS) if step else set())
    same = all(x.hex() == told[name] for name, x in numbers.items())
    finite = all(map(math.isfinite, numbers.values())) or skipped
    if not (whole and same and finite) or step < 0 or not isinstance(leaves, dict):
        return None
    if not isinstance(skipped, str) or (skipped and not step):
        return None
    if not isinstance(batch, str) or bool(BATCH.fullmatch(batch)) != bool(step):
        return None
    fits = all(isinstance(x, str) and LEAF.fullmatch(x) for x in leaves.values())
    return Step(step, batch, told, leaves, skipped) if fits else None
