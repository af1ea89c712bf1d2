"""Tokens as an endless stream of windows of equal length.

T is the window's length in tokens. A window reads tokens [s, s + T) and predicts [s + 1, s + T].
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Int32, Int64

from lmjax.data.batch import Batch, Data, Dataset, File, blank, held_out
from lmjax.data.order import shuffled, words
from lmjax.data.packing import longest_row, pack
from lmjax.data.patterns import reaches
from lmjax.data.stream import Stream
from lmjax.data.texts import FILES, find_texts, split
from lmjax.data.tokenizer import ByteCodec, Bytes, Codec, Documents, Tokenizer
from lmjax.errors import FieldError, InputError, check_choice, check_integer, check_number
from lmjax.parts import field_types

SHARDS = "tokens:"  # the prefix of a source that is tokenized already
MOST_BYTES, MOST_TEXT = 2**32, 2**28  # of a text that is read, or tokenized, anew at each start
Width = Literal["uint16", "uint32"]


class Corpus(NamedTuple):
    """What a source is read into."""

    train: Stream
    validation: Stream
    vocab_size: int
    codec: Codec | None  # None = nobody says which text the ids stand for
    digest: str  # SHA-256 of all that decides the tokens
    note: str = ""  # for the reader of the summary
    files: tuple[File, ...] = ()  # that hold them, where those are tokens already
    sampled: bool = False  # whether the digest is over pieces of them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens(Data):
    """A text, or what `lmjax data tokenize` or nanoGPT made of one.

    Where a source has no validation part of its own, the last `validation_fraction` of it is one.
    """

    label: ClassVar[str] = "tokens"

    source: str = "python_docs"  # python_docs, python_stdlib, text:PATH, tfds:NAME or tokens:PATH
    sequence_length: int = 128  # tokens in a window
    validation_fraction: float = 0.1  # of the text, from its end
    validation_windows: int = 0  # to evaluate on, the first ones; 0 = all
    tokenizer: Tokenizer = Bytes()  # of a text; tokens:PATH has its own
    packing: bool = False  # keep documents apart: no attention and no target across their borders
    data_dir: str = ""  # of TFDS; "" = TFDS_DATA_DIR or its usual place
    vocab_size: int = 50257  # ids of a tokens:PATH that does not say (GPT-2's, as nanoGPT writes)
    end_of_text: int = 50256  # the id after each document, in such a one
    width: Width = "uint16"  # of an id, in such a one

    @property
    def free_fields(self) -> frozenset[str]:
        return frozenset({"data_dir"})

    def validate(self) -> None:
        check_integer("sequence_length", self.sequence_length, least=1)
        check_number("validation_fraction", self.validation_fraction, above=0, below=1)
        check_integer("validation_windows", self.validation_windows, least=0)
        check_choice("width", self.width, get_args(Width))
        check_integer("vocab_size", self.vocab_size, least=1, most=np.iinfo(np.int32).max)
        check_integer("end_of_text", self.end_of_text, least=0, most=self.vocab_size - 1)
        if self.source.startswith(SHARDS) and self.tokenizer != Bytes():
            raise FieldError("tokenizer", self.tokenizer.label, f"{self.source} has its own")

    def shapes(self, batch_size: int) -> Batch:
        shape = (batch_size, self.sequence_length)
        dtypes = {"inputs": np.int32, "targets": np.int32, "weights": np.float32}
        if self.packing:
            dtypes |= {"segments": np.int32, "positions": np.int32}
        if not self.source.startswith(SHARDS):
            dtypes["token_bytes"] = np.float32
        return {name: blank(shape, dtype) for name, dtype in dtypes.items()}

    def load(self) -> "TokenWindows":
        corpus = self.corpus()
        for name, part in (("training", corpus.train), ("validation", corpus.validation)):
            if len(part) < self.sequence_length + 1:
                size = f"{len(part)} {_unit(corpus.codec)}"
                allowed = f"the {name} part of {self.source!r} has only {size}"
                raise FieldError("sequence_length", self.sequence_length, allowed)
            if self.packing and not part.knows_documents:
                raise FieldError("packing", True, f"{self.source!r} does not say where texts end")
        if self.packing:
            self._check_packing(corpus)
        return TokenWindows(self, corpus)

    def _check_packing(self, corpus: Corpus) -> None:
        """Refuse documents of which whole windows can consist without a target that counts.

        Where only an id says where they end, that is known of no more than single tokens, and a
        run that meets such a batch stops by its loss.
        """
        known = corpus.train.boundaries
        row = 1 if known is None else longest_row(known)
        if self.sequence_length <= row:
            told = f"{row} in a row of {self.source!r} may be first tokens of documents"
            allowed = f"must be > {row} under packing: {told}, which are no targets"
            raise FieldError("sequence_length", self.sequence_length, allowed)
        known, last = corpus.validation.boundaries, self.evaluated_of(corpus.validation)
        if known is not None and np.count_nonzero((known > 0) & (known <= last)) == last:
            allowed = f"each validation document of {self.source!r} is one token, and so no target"
            raise FieldError("packing", True, allowed)

    def evaluated_of(self, validation: Stream) -> int:
        """Targets of an evaluation on a validation part."""
        last = len(validation) - 1
        limit = self.validation_windows * self.sequence_length
        return min(last, limit) if limit else last

    def reading_with(self, path: str) -> "Tokens":
        return dataclasses.replace(self, tokenizer=self.tokenizer.reading_with(path))

    def reads(self, run: str) -> bool:
        prefix, _, pattern = self.source.partition(":")
        return f"{prefix}:" in (FILES, SHARDS) and reaches(pattern, run)

    def _build(self, documents: Documents) -> Codec:
        try:
            return self.tokenizer.build(documents)
        except FieldError as error:
            if error.field not in field_types(self.tokenizer):
                raise  # of the documents
            raise error.under("tokenizer") from None

    def corpus(self) -> Corpus:
        """The source's tokens, without windows."""
        if self.source.startswith(SHARDS):
            from lmjax.data.token_files import open_tokens

            return open_tokens(self)
        texts = find_texts(self.source, self.data_dir)
        if texts.size > (MOST_BYTES if isinstance(self.tokenizer, Bytes) else MOST_TEXT):
            raise InputError(
                f"{self.source} has {texts.size / 1e9:.1f} GB of text: tokenize it once, by "
                f"`lmjax data tokenize {self.source} --out DIR`, and train on tokens:DIR"
            )
        train, validation = split(texts, self.validation_fraction)
        return self._tokenized(train, validation, self._build(train))

    def _tokenized(self, train: Documents, validation: Documents, codec: Codec) -> Corpus:
        """Documents as streams in memory."""
        content = hashlib.sha256()
        if not isinstance(codec, ByteCodec):
            content.update(codec.digest.encode())
        streams: list[Stream] = []
        for name, documents in (("training", train), ("validation", validation)):
            kept = list(documents())
            for document in kept:
                if self.packing:
                    content.update(f"{len(document)} ".encode())
                content.update(document)
            parts = [np.empty(0, codec.dtype), *codec.encode_documents(kept)]
            ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
            tokens, told = np.concatenate(parts), f"the {name} part of {self.source}"
            streams.append(Stream(told, [tokens], boundaries=ends[:-1]))
        return Corpus(streams[0], streams[1], codec.vocab_size, codec, content.hexdigest())


class TokenWindows(Dataset):
    """Windows of a corpus."""

    def __init__(self, config: Tokens, corpus: Corpus):
        self.config = config
        self.name, self.digest = config.source, corpus.digest
        self.files, self.sampled = corpus.files, corpus.sampled
        self.length = config.sequence_length
        self.train, self.validation = corpus.train, corpus.validation
        self.vocab_size, self.codec = corpus.vocab_size, corpus.codec
        self.alphabet = self.codec.digest if self.codec else f"{self.vocab_size} unknown ids"
        sizes = f"{len(self.train):,} training and {len(self.validation):,} validation"
        self.summary = f"{sizes} {_unit(self.codec)}" + (f", {corpus.note}" if corpus.note else "")
        self._piece_sizes = None
        if self.codec and not isinstance(self.codec, ByteCodec):
            self._piece_sizes = np.array([len(piece) for piece in self.codec.pieces], np.float32)

    def rows(self, seed: int, start: int, count: int) -> Batch:
        """Each epoch cuts the stream anew, from an offset of its own, and shuffles the windows."""
        length, size = self.length, len(self.train)
        windows = (size - 1) // length
        epoch, window = shuffled(start, count, windows, seed)
        slack = size - windows * length  # offsets at which the last window still fits
        epochs = range(int(epoch[0]), int(epoch[-1]) + 1)
        offsets = np.array([int(words(1, n, seed, "offset")[0]) % slack for n in epochs])
        starts = offsets[epoch - epochs[0]] + window * length
        return self._batch(self.train, starts, self.train.windows(starts, length + 1))

    @property
    def evaluated(self) -> int:
        """Targets of the evaluation."""
        return self.config.evaluated_of(self.validation)

    def evaluation(self, batch_size: int, share: range | None = None) -> Iterator[Batch]:
        """Every token but the first is predicted once, in windows that do not overlap."""
        count = -(-self.evaluated // self.length)
        return held_out(count, batch_size, share, self._evaluated_windows)

    def _evaluated_windows(self, rows: range) -> Batch:
        length, last = self.length, len(self.validation) - 1
        starts = np.asarray(rows) * length
        inside = starts[: max(last // length - rows.start, 0)]  # the rest reaches over the end
        found = [self.validation.windows(inside, length + 1)] if len(inside) else []
        if len(inside) < len(starts):
            tail = self.validation.windows(starts[-1:], last + 1 - int(starts[-1]))
            found.append(np.pad(tail, [(0, 0), (0, length + 1 - tail.shape[1])]))
        batch = self._batch(self.validation, starts, np.concatenate(found))
        batch["weights"] *= starts[:, None] + np.arange(1, length + 1) <= last
        return batch

    def _batch(
        self,
        stream: Stream,
        starts: Int64[np.ndarray, "B"],
        windows: Int32[np.ndarray, "B W"],
    ) -> Batch:
        inputs, targets = windows[:, :-1], windows[:, 1:]
        batch = {"inputs": inputs, "targets": targets}
        if self.config.packing:
            packed = pack(stream.document_starts(starts, windows))
            batch |= packed._asdict()
        else:
            batch["weights"] = np.ones(targets.shape, np.float32)
        if self._piece_sizes is not None:
            batch["token_bytes"] = self._piece_sizes[targets]
        elif self.codec:
            batch["token_bytes"] = np.ones(targets.shape, np.float32)
        return batch


def _unit(codec: Codec | None) -> str:
    return "bytes" if isinstance(codec, ByteCodec) else "tokens"
