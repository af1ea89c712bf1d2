"""`lmjax data tokenize`: a text as token ids on the disk, once, for all runs to map into memory."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from etils import epath

from lmjax.console import Console, clock
from lmjax.data import token_index
from lmjax.data.bpe import BPE, BPECodec
from lmjax.data.texts import Texts, find_texts, split
from lmjax.data.token_index import File, Index, Split
from lmjax.data.tokenizer import Bytes, Codec, Tokenizer
from lmjax.draft import draft_of
from lmjax.errors import InputError, check_number
from lmjax.flags import natural

SHARD = 10**8  # tokens of a file, at most
QUIET = 2.0  # seconds before there is any progress to show
FILES = {"train": "train", "validation": "val"}  # split -> what its files' names begin with
LEARN = "bpe:"  # the prefix of a tokenizer that is learnt, with the size of its vocabulary


def tokenize(
    source: str,
    out: str,
    tokenizer: str,
    validation_fraction: float,
    data_dir: str = "",
    shard: int = SHARD,
    quiet: bool = False,
) -> str:
    """Write a folder for `tokens:OUT`, whole or not at all; returns a line that says what it holds.

    Args:
      source: a text of lmjax/data/texts.py.
      out: the folder to write, which must not be there yet.
      tokenizer: bytes, bpe:VOCAB_SIZE or the path of a tokenizer.json.
      validation_fraction: of the text, where the source has no validation part of its own.
      data_dir: TFDS's.
      shard: tokens of a file, at most.
      quiet: show no progress.
    """
    check_number("validation-fraction", validation_fraction, above=0, below=1)
    settings, path = read_tokenizer(tokenizer), Path(out)
    if os.path.lexists(path):  # a link that leads nowhere is there, too
        raise InputError(f"--out {out} is there already; remove it or choose another folder")
    texts = find_texts(source, data_dir)
    with draft_of(path) as folder:
        draft = epath.Path(folder)
        train, validation = split(texts, validation_fraction)
        console = Console(quiet)
        if isinstance(settings, BPE) and not settings.path:
            console.say(f"learning {settings.vocab_size:,} tokens from the training text")
        codec = settings.build(train)
        writer = Writer(draft, codec, shard)
        parts = dict(zip(token_index.SPLITS, (train, validation), strict=True))
        progress, begun = Progress(console, texts.size), time.monotonic()
        splits = {name: writer.write(name, progress.of(docs())) for name, docs in parts.items()}
        seconds = time.monotonic() - begun
        index = _index(source, texts, codec, writer.dtype, splits, draft)
        (draft / token_index.NAME).write_text(json.dumps(index.to_record(), indent=1) + "\n")
    size = sum(part.text_bytes for part in splits.values())
    counts = " and ".join(f"{splits[name].count:,} {name}" for name in token_index.SPLITS)
    return (
        f"{path}: {counts} tokens of {codec.vocab_size:,} ids from {size:,} bytes, "
        f"written at {size / seconds / 1e6:.2f} MB/s; train on tokens:{path}"
    )


def read_tokenizer(text: str) -> Tokenizer:
    """The tokenizer that a word of the command line names."""
    if text == Bytes.label:
        return Bytes()
    size = natural(text.removeprefix(LEARN)) if text.startswith(LEARN) else None
    if epath.Path(text).is_file():
        return BPE(path=text)
    if size is None:
        told = "no such file; write bytes, bpe:VOCAB_SIZE or the path of a tokenizer.json"
        raise InputError(f"--tokenizer {text}: {told}")
    settings = BPE(vocab_size=size)
    settings.validate()
    return settings


class Writer:
    """Shards of ids, and where their documents start."""

    def __init__(self, folder: epath.Path, codec: Codec, shard: int):
        self.folder, self.codec, self.shard = folder, codec, shard
        self.dtype = "uint16" if codec.vocab_size <= 2**16 else "uint32"

    def write(self, name: str, documents: Iterable[bytes]) -> Split:
        """One split; raises InputError if it is empty."""
        size = total = 0

        def measured() -> Iterator[bytes]:
            nonlocal size
            for document in documents:
                size += len(document)
                yield document

        with contextlib.ExitStack() as opened:
            starts = opened.enter_context(_File(self.folder / f"{name}-documents.bin", "int64"))
            shards: list[_File] = []
            for ids in self.codec.encode_documents(measured()):
                starts.write(np.array([total]))
                total += len(ids)
                while len(ids):
                    if not shards or shards[-1].count == self.shard:
                        path = self.folder / f"{FILES[name]}-{len(shards):05d}.bin"
                        shards.append(opened.enter_context(_File(path, self.dtype)))
                    room = self.shard - shards[-1].count
                    shards[-1].write(ids[:room])
                    ids = ids[room:]
        if not total:
            raise InputError(f"the {name} part has no text; change --validation-fraction")
        return Split(size, tuple(shard.told() for shard in shards), starts.told())


class _File:
    """Numbers on their way to the disk, hashed as they pass."""

    def __init__(self, path: epath.Path, dtype: str):
        self._path, self._dtype, self.count = path, dtype, 0
        self._file, self._content = path.open("wb"), hashlib.sha256()

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, numbers: np.ndarray) -> None:
        content = numbers.astype(self._dtype).tobytes()
        self._file.write(content)
        self._content.update(content)
        self.count += len(numbers)

    def told(self) -> File:
        return File(self._path.name, self.count, self._content.hexdigest())


class Progress:
    """How much of the text has been read, and how long the rest will take."""

    def __init__(self, console: Console, size: int):
        self._console, self._size = console, max(size, 1)
        self._done, self._begun = 0, time.monotonic()

    def of(self, documents: Iterable[bytes]) -> Iterator[bytes]:
        """The documents as they pass."""
        for document in documents:
            yield document
            self._done += len(document)
            if time.monotonic() - self._begun > QUIET:
                self._console.progress(self.line, final=False)

    def line(self) -> str:
        """How far it is."""
        seconds = time.monotonic() - self._begun
        left = seconds * max(self._size / max(self._done, 1) - 1, 0)
        return f"{self._done / 1e6:,.1f} of {self._size / 1e6:,.1f} MB  ETA {clock(left)}"


def _index(
    source: str,
    texts: Texts,
    codec: Codec,
    dtype: str,
    splits: dict[str, Split],
    draft: epath.Path,
) -> Index:
    """The index, with the tokenizer written beside it if it has a file."""
    name, digest = token_index.BYTES, codec.digest
    if isinstance(codec, BPECodec):
        name = token_index.TOKENIZER
        (draft / name).write_text(codec.description)
    size, end = codec.vocab_size, codec.end_of_text
    return Index(source, texts.licence, name, digest, size, end, dtype, splits)
