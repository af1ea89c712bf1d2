"""From text to token ids and back.

A Tokenizer is the settings, a Codec what comes of them. Nothing is lost: the bytes of the ids of a
text, one after the other, are the text; so a loss per token can be told per byte.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

import numpy as np
from jaxtyping import Integer

from lmjax.errors import InputError
from lmjax.parts import Part

Documents = Callable[[], Iterable[bytes]]  # reads them anew at each call


def as_bytes(text: bytes | str) -> bytes:
    """UTF-8 of a text; bytes that a command line could not read as UTF-8 are themselves again."""
    if isinstance(text, bytes):
        return text
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        wrong = text[error.start : error.end]
        raise InputError(f"{wrong!r} at character {error.start} is no text") from None


class Codec:
    """A fixed vocabulary."""

    vocab_size: int
    digest: str  # SHA-256 of all that decides the ids
    end_of_text: int | None  # the id that ends each document of a stream; None = nothing does
    pieces: list[bytes]  # the bytes that each id stands for; none for ids such as end_of_text
    description: str = ""  # the text of a tokenizer.json that it can be made of again; "" = bytes

    def encode_documents(self, documents: Iterable[bytes]) -> Iterator[Integer[np.ndarray, "_"]]:
        """The ids of each document, with `end_of_text` after them, in `dtype`."""
        raise NotImplementedError

    def encode(self, text: bytes | str) -> Integer[np.ndarray, "_"]:
        """The ids of a text alone."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for: decode(encode(text)) == text, whatever the bytes."""
        return b"".join([self.pieces[number] for number in ids])

    @property
    def dtype(self) -> np.dtype:
        """The narrowest that holds all ids, in memory."""
        return np.min_scalar_type(self.vocab_size - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer(Part):
    """The settings of a vocabulary."""

    def build(self, documents: Documents) -> Codec:
        """The codec, learnt from training documents where there is something to learn."""
        raise NotImplementedError

    def reading_with(self, path: str) -> "Tokenizer":
        """These settings, but that a tokenizer.json stands for what they would learn."""
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bytes(Tokenizer):
    """Every byte is a token: 256 ids, which are the bytes themselves."""

    label: ClassVar[str] = "bytes"

    def build(self, documents: Documents) -> Codec:
        return ByteCodec()


class ByteCodec(Codec):
    """Ids 0 to 255. No id is left to end a document with."""

    vocab_size = 256
    digest = hashlib.sha256(b"bytes").hexdigest()
    end_of_text = None

    def __init__(self) -> None:
        self.pieces = [bytes([byte]) for byte in range(256)]

    def encode_documents(self, documents: Iterable[bytes]) -> Iterator[Integer[np.ndarray, "_"]]:
        return map(self.encode, documents)

    def encode(self, text: bytes | str) -> Integer[np.ndarray, "_"]:
        return np.frombuffer(as_bytes(text), np.uint8)
