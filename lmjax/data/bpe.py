"""Byte-level byte-pair encoding (Sennrich et al. 2016; over bytes: Radford et al. 2019).

The merges are applied by the package `tokenizers`, and its file is what is read and written.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
from etils import epath
from jaxtyping import Integer

from lmjax.data.tokenizer import Codec, Documents, Tokenizer, as_bytes
from lmjax.errors import FieldError, InputError, check_integer

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>")  # of GPT-2 and of Llama 3
MOST_IDS = 2**24  # of any vocabulary; the largest known have 2**18
LEAST_VOCABULARY = 257  # all bytes, and the end of a text
TRAINING_BYTES = 2**30  # of the beginning of the training text that merges are learnt from
PIECE, BLOCK = 2**16, 2**20  # characters encoded as one, bytes encoded in one parallel call
SEAM = re.compile("(?<=[A-Za-z])(?= )")  # no pre-tokenizer joins a letter to a space after it
NOT_TEXT = re.compile("([\udc80-\udcff]+)")  # bytes that are not UTF-8, as `surrogateescape` has it


@dataclasses.dataclass(frozen=True, kw_only=True)
class BPE(Tokenizer):
    """A vocabulary from a file, or one learnt from the training text."""

    label: ClassVar[str] = "bpe"

    path: str = ""  # a tokenizer.json of the package tokenizers; "" = learn it from the text
    vocab_size: int = 1024  # ids of a vocabulary that is learnt

    def validate(self) -> None:
        check_integer("vocab_size", self.vocab_size, least=LEAST_VOCABULARY, most=MOST_IDS)

    def reading_with(self, path: str) -> "BPE":
        return self if self.path else dataclasses.replace(self, path=path)

    def build(self, documents: Documents) -> "BPECodec":
        if not self.path:
            self.check_merges(documents())
            return BPECodec(learn(documents(), self.vocab_size), "the learnt vocabulary")
        if not epath.Path(self.path).is_file():
            raise FieldError("path", self.path, "cannot be read (no such file)")
        return read_codec(epath.Path(self.path))

    def check_merges(self, documents: Iterable[bytes]) -> None:
        """Refuse more ids than there can be: each merge takes a byte of the text, at least."""
        merges, size = self.vocab_size - LEAST_VOCABULARY, 0
        for document in documents:
            size += len(document)
            if size >= merges:
                return
        allowed = f"must be <= {LEAST_VOCABULARY + size}: a text of {size} bytes has no more merges"
        raise FieldError("vocab_size", self.vocab_size, allowed)


class BPECodec(Codec):
    """The vocabulary that the text of a tokenizer.json describes; raises InputError."""

    def __init__(self, description: str, name: str):
        from tokenizers import Tokenizer as Library

        try:
            content = json.loads(description)
            self._library = Library.from_str(description)
        except Exception as error:  # the package raises Exception itself
            told = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{name}: not a tokenizer.json of `tokenizers` ({told})") from None
        check_lossless(content, name)
        self.description = description
        self.digest = hashlib.sha256(description.encode()).hexdigest()
        # So that a text which spells out a special token is encoded as the text that it is.
        self._library.encode_special_tokens = True
        self._library.no_truncation()
        self._library.no_padding()
        vocabulary: dict[str, int] = content["model"]["vocab"]
        added: list[dict[str, Any]] = content.get("added_tokens") or []
        special = {token["id"] for token in added if token["special"]}
        self.vocab_size = max([*vocabulary.values(), *(token["id"] for token in added)]) + 1
        if self.vocab_size > MOST_IDS:  # before a list of so many is made
            raise InputError(f"{name}: the id {self.vocab_size - 1}: must be < {MOST_IDS}")
        self.pieces = [b""] * self.vocab_size
        for text, number in vocabulary.items():
            if number not in special:
                self.pieces[number] = spelled(text)
        for token in added:
            if not token["special"]:
                self.pieces[token["id"]] = token["content"].encode()
        ends = [token["id"] for token in added if token["content"] in END_OF_TEXT]
        self.end_of_text = ends[0] if ends else None
        ids = {piece: number for number, piece in enumerate(self.pieces) if len(piece) == 1}
        if len(ids) < 256:
            raise InputError(f"{name}: {256 - len(ids)} of the 256 bytes have no token")
        self._byte_ids = np.array([ids[bytes([byte])] for byte in range(256)], self.dtype)

    def encode(self, text: bytes | str) -> Integer[np.ndarray, "_"]:
        return next(self._encode([as_bytes(text)]))

    def encode_documents(self, documents: Iterable[bytes]) -> Iterator[Integer[np.ndarray, "_"]]:
        end = [] if self.end_of_text is None else [self.end_of_text]
        for block in in_blocks(documents):
            for ids in self._encode(block):
                yield np.concatenate([ids, np.array(end, self.dtype)])

    def _encode(self, documents: list[bytes]) -> Iterator[Integer[np.ndarray, "_"]]:
        """The ids of each; one parallel call."""
        parts = [list(in_pieces(document)) for document in documents]
        texts = [piece for piece in itertools.chain(*parts) if not NOT_TEXT.match(piece)]
        found = iter(self._library.encode_batch_fast(texts, add_special_tokens=False))
        for part in parts:
            ids = [np.empty(0, self.dtype)]
            for piece in part:
                if NOT_TEXT.match(piece):
                    raw = piece.encode(errors="surrogateescape")
                    ids.append(self._byte_ids[np.frombuffer(raw, np.uint8)])
                else:
                    ids.append(np.array(next(found).ids, self.dtype))
            yield np.concatenate(ids)


def read_codec(file: epath.Path) -> BPECodec:
    """The vocabulary of a tokenizer.json; raises InputError."""
    try:
        description = file.read_text()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: cannot be read (not UTF-8)") from None
    return BPECodec(description, str(file))


def learn(documents: Iterable[bytes], vocab_size: int) -> str:
    """A tokenizer.json with GPT-2's pre-tokenizer; the same for the same documents."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT[0]],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(_sample(documents), trainer)
    return library.to_str()


def _sample(documents: Iterable[bytes]) -> Iterator[str]:
    left = TRAINING_BYTES
    for document in documents:
        yield from (piece for piece in in_pieces(document[:left]) if not NOT_TEXT.match(piece))
        left -= len(document)
        if left <= 0:
            return


def check_lossless(content: dict[str, Any], name: str) -> None:
    """Refuse what does not keep every byte: bits per byte would not be of the text."""
    model, before = content.get("model") or {}, content.get("pre_tokenizer") or {}
    steps = [before, *(before.get("pretokenizers") or [])]
    levels = [step for step in steps if step.get("type") == "ByteLevel"]
    if model.get("type") != "BPE" or not levels:
        raise InputError(f"{name}: not a byte-level BPE, the one kind that loses nothing of a text")
    if content.get("normalizer") or any(step.get("add_prefix_space") for step in levels):
        raise InputError(f"{name}: its normalizer or its prefix space would change the text")


def in_blocks(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Documents in lists of about BLOCK bytes together."""
    block, size = [], 0
    for document in documents:
        block.append(document)
        size += len(document)
        if size >= BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def in_pieces(document: bytes) -> Iterator[str]:
    """A document cut where no token can lie across; what is not UTF-8 is apart, escaped.

    The package needs about 30 bytes of memory for each byte of what it encodes as one.
    """
    for text in NOT_TEXT.split(document.decode(errors="surrogateescape")):
        start = 0
        while seam := SEAM.search(text, start + PIECE):
            yield text[start : seam.start()]
            start = seam.start()
        if start < len(text):
            yield text[start:]


def spelled(token: str) -> bytes:
    """The bytes of a token in GPT-2's alphabet; a letter outside it stands for itself."""
    alphabet = byte_of_letter()
    if any(letter not in alphabet for letter in token):
        return token.encode()
    return bytes([alphabet[letter] for letter in token])


@functools.cache
def byte_of_letter() -> dict[str, int]:
    """Letter -> byte of GPT-2's alphabet: visible Latin-1 is itself, the rest follows from 256."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters = {chr(byte): byte for byte in visible}
    hidden = [byte for byte in range(256) if byte not in visible]
    return letters | {chr(256 + number): byte for number, byte in enumerate(hidden)}
