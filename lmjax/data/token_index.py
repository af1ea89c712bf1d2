"""index.json: what lies in a folder that `lmjax data tokenize` wrote.

{"format": 1, "source", "licence", "tokenizer": "bytes" or "tokenizer.json", "tokenizer_sha256",
 "vocab_size", "end_of_text": an id or null, "dtype": "uint16" or "uint32",
 "splits": {"train" and "validation": {"text_bytes", "shards": [file, ...], "documents": file}}}
where a file is {"file", "count", "sha256"}: raw little-endian numbers, of the dtype in a shard, and
int64 for the documents, which are the positions at which they start in the shards as one.
"""

import dataclasses
import hashlib
import re
from pathlib import PurePath
from typing import Any

import numpy as np
from etils import epath

from lmjax.errors import FieldError, InputError, check_choice, check_integer, fields_of
from lmjax.record import canonical
from lmjax.runfiles import read_object

FORMAT, NAME, TOKENIZER = 1, "index.json", "tokenizer.json"
DTYPES = ("uint16", "uint32")
SPLITS = ("train", "validation")
BYTES = "bytes"  # the tokenizer that has no file
STARTS = "int64"  # of documents
MOST_BYTES = 2**63 - 1  # of a text


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
    """The index of a folder; raises InputError for one that is damaged, which names the field."""
    path = folder / NAME
    try:
        record = read_object(path)
        if record["format"] != FORMAT:
            raise InputError(f"{path}: of format {record['format']}, this version reads {FORMAT}")
        names = [field.name for field in dataclasses.fields(Index)]
        fields: dict[str, Any] = {name: record[name] for name in names}
        _check(fields)
        fields["splits"] = {name: _split(name, record["splits"][name]) for name in SPLITS}
        return Index(**fields)
    except FieldError as error:
        raise InputError(f"{path}: damaged ({error})") from None
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}: {error})") from None


def _check(fields: dict[str, Any]) -> None:
    """Raise FieldError for a value of the wrong type or out of range."""
    for name in ("source", "licence", "dtype"):
        if not isinstance(fields[name], str):
            raise FieldError(name, fields[name], "must be a text")
    _check_name("tokenizer", fields["tokenizer"])
    _check_digest("tokenizer_sha256", fields["tokenizer_sha256"])
    check_choice("dtype", fields["dtype"], DTYPES)
    check_integer("vocab_size", fields["vocab_size"], least=1)
    if fields["end_of_text"] is not None:
        check_integer("end_of_text", fields["end_of_text"], least=0, most=fields["vocab_size"] - 1)


def _split(name: str, record: dict[str, Any]) -> Split:
    with fields_of(f"splits.{name}"):
        check_integer("text_bytes", record["text_bytes"], least=0, most=MOST_BYTES)
        if not isinstance(record["shards"], list) or not record["shards"]:
            raise FieldError("shards", record["shards"], "must be a list of files, of one at least")
        shards = [_file(f"shards.{n}", shard) for n, shard in enumerate(record["shards"])]
        return Split(record["text_bytes"], tuple(shards), _file("documents", record["documents"]))


def _file(name: str, record: Any) -> File:
    with fields_of(name):
        if not isinstance(record, dict):
            raise FieldError("file", record, "must be an object of file, count and sha256")
        _check_name("file", record["file"])
        check_integer("count", record["count"], least=1, most=MOST_BYTES)
        _check_digest("sha256", record["sha256"])
        return File(**record)


def _check_name(field: str, name: Any) -> None:
    """Refuse what is no plain name of a file, and could lead out of the folder."""
    plain = isinstance(name, str) and name not in ("", "..") and PurePath(name).name == name
    if not plain or "\0" in name:
        raise FieldError(field, name, "must be the plain name of a file in this folder")


def _check_digest(field: str, digest: Any) -> None:
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise FieldError(field, digest, "must be a SHA-256 in 64 hex digits")


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
    """Read every byte: sizes, SHA-256s, and that documents start in order, each in the tokens.

    Raises InputError that names the file.
    """
    for split in index.splits.values():
        for shard in split.shards:
            map_file(folder, shard, index.dtype)
        starts = np.asarray(map_file(folder, split.documents, STARTS))
        if starts[0] != 0 or np.any(np.diff(starts) < 0) or starts[-1] > split.count:
            path = folder / split.documents.file
            raise InputError(f"{path}: documents start out of order, or beyond the tokens")
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
