"""tokens:PATH: token ids on the disk, memory-mapped.

PATH is a folder that `lmjax data tokenize` wrote (index.json), a folder of nanoGPT's (train.bin and
val.bin), or a file or glob of such raw little-endian ids (llm.c's, which have a header, too), which
make one stream in order of name.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Integer

from lmjax.data import token_index
from lmjax.data.batch import File
from lmjax.data.bpe import read_codec
from lmjax.data.stream import Stream
from lmjax.data.texts import matching_files
from lmjax.data.token_index import Index
from lmjax.data.tokenizer import ByteCodec, Codec
from lmjax.data.tokens import SHARDS, Corpus, Tokens
from lmjax.errors import FieldError, InputError

WHOLE = 2**30  # bytes of files that are hashed and checked whole, at each start, in about a second
BLOCKS, BLOCK = 64, 2**20  # of larger files, evenly spaced blocks are
HEADER, MAGIC = 1024, {20240520: "uint16", 20240801: "uint32"}  # bytes, first int32: of llm.c
NUMPY = b"\x93NUMPY"
FOREIGN = {"a NumPy file": NUMPY, "a zip archive": b"PK\x03\x04"}  # whose heads pass for ids
RAW = ("train.bin", "val.bin")  # as nanoGPT's prepare.py writes them


def open_tokens(config: Tokens) -> Corpus:
    """The corpus of a tokens:PATH; raises InputError or FieldError."""
    path = folder_of(config.source)
    if (path / token_index.NAME).exists():
        return _indexed(path)
    return _raw(config, *raw_files(config.source))


def raw_files(source: str) -> tuple[list[epath.Path], list[epath.Path]]:
    """(training, validation) files without an index; the latter may be none."""
    path = folder_of(source)
    if path.is_dir():
        missing = [name for name in RAW if not (path / name).is_file()]
        if missing:
            told = f"holds neither {token_index.NAME} nor {' and '.join(missing)}; {_how(path)}"
            raise FieldError("source", source, told)
        return [path / RAW[0]], [path / RAW[1]]
    files = matching_files(str(path))
    if not files:
        raise FieldError("source", source, f"no such file or folder; {_how(path)}")
    return files, []


def folder_of(source: str) -> epath.Path:
    """The PATH of a tokens:PATH."""
    return epath.Path(source.removeprefix(SHARDS)).expanduser()


def _how(path: epath.Path) -> str:
    return f"make it by `lmjax data tokenize SOURCE --out {path}` or by nanoGPT's prepare.py"


def _indexed(path: epath.Path) -> Corpus:
    """A folder with an index: sizes are checked here, every byte by `lmjax data describe`."""
    index = token_index.read_index(path)
    streams: list[Stream] = []
    for name in token_index.SPLITS:
        split = index.splits[name]
        if not split.count:
            raise InputError(f"{path}: its {name} part is empty")
        pieces = [token_index.map_file(path, shard, index.dtype) for shard in split.shards]
        starts = token_index.map_file(path, split.documents, token_index.STARTS)
        told = f"the {name} part of {path}"
        streams.append(
            Stream(told, pieces, vocab_size=index.vocab_size, boundaries=np.asarray(starts))
        )
    codec, files = _codec(path, index), _files(index)
    return Corpus(streams[0], streams[1], index.vocab_size, codec, index.digest, files=files)


def _files(index: Index) -> tuple[File, ...]:
    """The shards, with the hashes that were written with them."""
    wide = np.dtype(index.dtype).itemsize
    shards = [shard for name in token_index.SPLITS for shard in index.splits[name].shards]
    return tuple(File(shard.file, shard.count * wide, shard.sha256) for shard in shards)


def _codec(path: epath.Path, index: Index) -> Codec:
    if index.tokenizer == token_index.BYTES:
        return ByteCodec()
    file = path / index.tokenizer
    if not file.exists():
        raise InputError(f"{file}: missing, though {token_index.NAME} lists it")
    codec = read_codec(file)
    if codec.digest != index.tokenizer_sha256:
        raise InputError(f"{file}: not the content that {token_index.NAME} records")
    return codec


def _raw(config: Tokens, train: list[epath.Path], validation: list[epath.Path]) -> Corpus:
    """Files without an index, whose vocabulary the settings tell."""
    pieces = {path: map_raw(path, config.width) for path in [*train, *validation]}
    whole = sum(piece.nbytes for piece in pieces.values()) <= WHOLE
    content = hashlib.sha256()
    for path, piece in pieces.items():
        content.update(f"{path.name} {piece.nbytes} ".encode())
        for block in blocks(piece, whole):
            content.update(block.data)
            _check_ids(path, block, config)
    first = [pieces[path] for path in train]
    second = [pieces[path] for path in validation]
    if not second:
        size = sum(map(len, first))
        first, second = _cut(first, size - int(size * config.validation_fraction))
    ids: dict[str, Any] = {"vocab_size": config.vocab_size, "end_of_text": config.end_of_text}
    source = config.source.removeprefix(SHARDS)
    return Corpus(
        Stream(f"the training part of {source}", first, **ids),
        Stream(f"the validation part of {source}", second, **ids),
        config.vocab_size,
        None,
        content.hexdigest(),
        f"without an index: digest over {'all' if whole else f'{BLOCKS} blocks'} of each file",
        tuple(File(path.name, path.stat().length, "") for path in pieces),
        not whole,
    )


def map_raw(path: epath.Path, width: str) -> Integer[np.ndarray, "_"]:
    """The ids of a file, which may have llm.c's header before them."""
    length, wide = path.stat().length, np.dtype(width).itemsize
    if not length:
        raise InputError(f"{path}: the file is empty")
    with path.open("rb") as file:
        start = file.read(len(NUMPY))
    for kind, magic in FOREIGN.items():
        if start.startswith(magic):
            raise InputError(f"{path}: {kind}, not the ids alone, as `numpy.ndarray.tofile` writes")
    if length % wide:
        told = f"{path} has {length:,} bytes, no whole number of ids of {wide} bytes"
        raise FieldError("width", width, told)
    ids = np.asarray(np.memmap(path, np.dtype(width), mode="r"))
    header = np.fromfile(path, np.int32, count=3)
    if len(header) < 3 or header[0] not in MAGIC:
        return ids
    if MAGIC[header[0]] != width:
        raise FieldError("width", width, f"the header of {path} says {MAGIC[header[0]]}")
    ids = ids[HEADER // wide :]
    if len(ids) != header[2]:
        raise InputError(f"{path}: {len(ids):,} ids, but its header says {header[2]:,}")
    return ids


def blocks(piece: Integer[np.ndarray, "n"], whole: bool) -> Iterator[Integer[np.ndarray, "_"]]:
    """The whole of it or evenly spaced blocks, the first and the last among them."""
    size = BLOCK // piece.itemsize
    firsts = np.arange(0, len(piece), size)
    if not whole and len(firsts) > BLOCKS:
        firsts = np.arange(BLOCKS) * (len(piece) - size) // (BLOCKS - 1)
    return (piece[first : first + size] for first in firsts.tolist())


def _check_ids(path: epath.Path, block: Integer[np.ndarray, "n"], config: Tokens) -> None:
    """That the ids are of the vocabulary and of the width that is claimed."""
    largest = int(block.max())
    if largest >= config.vocab_size:
        told = f"{path} holds the id {largest}, so it must be at least {largest + 1}"
        if config.width == "uint32":
            told += ", or data.width is uint16"
        raise FieldError("vocab_size", config.vocab_size, told)
    alternate = len(block) >= 1000 and block[::2].any() and not block[1::2].any()
    if config.width == "uint16" and alternate:
        told = f"every second id of {path} is 0, as if it were uint32"
        raise FieldError("width", config.width, told)


def _cut(pieces: list[np.ndarray], position: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The pieces before and from a position of all of them as one."""
    before, after = [], []
    for piece in pieces:
        before.append(piece[: max(position, 0)])
        after.append(piece[max(position, 0) :])
        position -= len(piece)
    return [piece for piece in before if len(piece)], [piece for piece in after if len(piece)]
