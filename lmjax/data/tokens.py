"""Text as a stream of byte tokens, cut into windows of equal length.

T is the window's length in tokens. A window reads tokens [s, s + T) and predicts [s + 1, s + T].
"""

import dataclasses
import glob
import hashlib
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from etils import epath
from jaxtyping import Int64, UInt8

from lmjax.data import embedded
from lmjax.data.batch import Batch, Data, Dataset, padded
from lmjax.data.order import positions, shuffled, words
from lmjax.errors import FieldError, InputError, check_integer, check_number, unknown

EMBEDDED = {"python_docs": embedded.python_docs}
FILES = "text:"  # the prefix of a source that names files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens(Data):
    """Bytes of a text; the first part trains, the rest validates."""

    label: ClassVar[str] = "tokens"

    source: str = "python_docs"  # an embedded text, or text:PATH (a file or a glob, UTF-8)
    sequence_length: int = 128  # tokens in a window
    validation_fraction: float = 0.1  # of the text, from its end

    def validate(self) -> None:
        check_integer("sequence_length", self.sequence_length, least=1)
        check_number("validation_fraction", self.validation_fraction, above=0, below=1)

    def load(self) -> "TokenWindows":
        text = read_text(self.source)
        tokens = np.frombuffer(text, np.uint8)
        split = len(tokens) - int(len(tokens) * self.validation_fraction)
        parts = {"training": tokens[:split], "validation": tokens[split:]}
        for name, part in parts.items():
            if len(part) < self.sequence_length + 1:
                allowed = f"the {name} part of {self.source!r} has only {len(part)} bytes"
                raise FieldError("sequence_length", self.sequence_length, allowed)
        return TokenWindows(self, text, tokens[:split], tokens[split:])


class TokenWindows(Dataset):
    """Windows of a token stream that lies in memory."""

    vocab_size = 256

    def __init__(
        self,
        config: Tokens,
        text: bytes,
        train: UInt8[np.ndarray, "n"],
        validation: UInt8[np.ndarray, "m"],
    ):
        self.name = config.source
        self.length = config.sequence_length
        self.train, self.validation = train, validation
        self.digest = hashlib.sha256(text).hexdigest()
        self.summary = f"{len(train):,} training and {len(validation):,} validation bytes"

    def batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Each epoch cuts the stream anew, from an offset of its own, and shuffles the windows."""
        length, tokens = self.length, self.train
        windows = (len(tokens) - 1) // length
        epoch, window = shuffled(positions(step, batch_size), windows, seed)
        slack = len(tokens) - windows * length  # offsets at which the last window still fits
        offsets = {n: int(words(1, n, seed, "offset")[0]) % slack for n in set(epoch.tolist())}
        starts = np.array([offsets[n] for n in epoch.tolist()]) + window * length
        return _windows(tokens, starts, length)

    def evaluation(self, batch_size: int) -> Iterator[Batch]:
        """Every byte but the first is predicted once, in windows that do not overlap."""
        length = self.length
        fill = -(len(self.validation) - 1) % length
        tokens = np.pad(self.validation, (0, fill))
        starts = np.arange(0, len(tokens) - 1, length)
        for first in range(0, len(starts), batch_size):
            chosen = starts[first : first + batch_size]
            batch = _windows(tokens, chosen, length)
            targets = chosen[:, None] + np.arange(1, length + 1)
            batch["weights"] = (targets < len(self.validation)).astype(np.float32)
            yield padded(batch, batch_size)


def _windows(tokens: UInt8[np.ndarray, "n"], starts: Int64[np.ndarray, "B"], length: int) -> Batch:
    window = tokens[starts[:, None] + np.arange(length + 1)].astype(np.int32)
    return {
        "inputs": window[:, :-1],
        "targets": window[:, 1:],
        "weights": np.ones((len(starts), length), np.float32),
    }


def read_text(source: str) -> bytes:
    """The bytes of a source, checked to be UTF-8 and not empty."""
    if not source.startswith(FILES):
        if source not in EMBEDDED:
            raise unknown("data set", source, [*EMBEDDED, f"{FILES}PATH"])
        return EMBEDDED[source]()
    pattern = source.removeprefix(FILES)
    paths = [epath.Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    files = [path for path in paths if path.is_file()]
    if not files:
        raise InputError(f"data.source = {source!r}: no such file")
    return b"".join(_read_file(path) for path in files)


def _read_file(path: epath.Path) -> bytes:
    try:
        text = path.read_bytes()
        text.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 at byte {error.start} (0x{error.object[error.start]:02x})"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not text:
        raise InputError(f"{path}: the file is empty")
    return text
