"""index.json: what lies in a folder that `lmjax data tokenize` wrote.

{"format": 1, "source", "licence", "tokenizer": "bytes" or "tokenizer.json", "tokenizer_sha256",
 "vocab_size", "end_of_text": an id or null, "dtype": "uint16" or "uint32",
 "splits": {"train" and "validation": {"text_bytes", "shards": [file, ...], "documents": file}}}
where a file is {"file", "count", "sha256"}: raw little-endian numbers, of the dtype in a shard, and
int64 for the documents, which are the positions at which they start in the shards as one.
"""

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
from etils import epath

from lmjax.errors import InputError
from lmjax.record import canonical

FORMAT, NAME, TOKENIZER = 1, "index.json", "tokenizer.json"
DTYPES = ("uint16", "uint32")
SPLITS = ("train", "validation")
BYTES = "bytes"  # the tokenizer that has no file
STARTS = "int64"  # of documents


@dataclasses.dataclass(frozen=True)
class File:
    """Numbers on the disk."""

    file: str
    count: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """The streams of one part."""

    text_bytes: int
    shards: tuple[File, ...]
    documents: File

    @property
    def count(self) -> int:
        """Tokens."""
        return sum(shard.count for shard in self.shards)


@dataclasses.dataclass(frozen=True)
class Index:
    """The whole file."""

    source: str
    licence: str
    tokenizer: str
    tokenizer_sha256: str
    vocab_size: int
    end_of_text: int | None
    dtype: str
    splits: dict[str, Split]

    def to_record(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the tokens: the hashes of all files, and what they mean."""
        record = self.to_record()
        del record["source"], record["licence"]
        return hashlib.sha256(canonical(record).encode()).hexdigest()


def read_index(folder: epath.Path) -> Index:
    """The index of a folder; raises InputError for one that is damaged."""
    path = folder / NAME
    try:
        record = json.loads(path.read_text())
        if record["format"] != FORMAT:
            raise InputError(f"{path}: of format {record['format']}, this version reads {FORMAT}")
        splits = {name: _split(record["splits"][name]) for name in SPLITS}
        names = [field.name for field in dataclasses.fields(Index)]
        fields: dict[str, Any] = {name: record[name] for name in names} | {"splits": splits}
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    index = Index(**fields)
    if index.dtype not in DTYPES or not isinstance(index.vocab_size, int):
        raise InputError(f"{path}: damaged (dtype {index.dtype!r}, vocab_size {index.vocab_size})")
    return index


def _split(record: dict[str, Any]) -> Split:
    shards = tuple(File(**shard) for shard in record["shards"])
    return Split(int(record["text_bytes"]), shards, File(**record["documents"]))


def map_file(folder: epath.Path, file: File, dtype: str) -> np.ndarray:
    """The numbers of a file, memory-mapped; raises InputError where there are more or fewer."""
    path, wide = folder / file.file, np.dtype(dtype).itemsize
    if not path.exists():
        raise InputError(f"{path}: missing, though {NAME} lists it")
    length = path.stat().length
    if length != file.count * wide:
        raise InputError(
            f"{path}: {length:,} bytes, but {NAME} says {file.count:,} numbers of {wide} bytes: "
            "cut short or changed"
        )
    return np.memmap(path, np.dtype(dtype), mode="r")


def verify(folder: epath.Path, index: Index) -> None:
    """Read every byte and compare the SHA-256s; raises InputError that names the file."""
    files = [file for split in index.splits.values() for file in (*split.shards, split.documents)]
    wanted = {file.file: file.sha256 for file in files}
    if index.tokenizer != BYTES:
        wanted[index.tokenizer] = index.tokenizer_sha256
    for name, digest in wanted.items():
        if sha256_of(folder / name) != digest:
            raise InputError(f"{folder / name}: not the content that {NAME} records")


def sha256_of(path: epath.Path) -> str:
    """Of all of a file; raises InputError."""
    content = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                content.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return content.hexdigest()
