"""Texts by name, as documents: embedded ones, files, and the texts of TFDS."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from etils import epath

from lmjax.data import embedded
from lmjax.data.tokenizer import Documents
from lmjax.errors import FieldError, InputError, unknown

EMBEDDED = {
    "python_docs": embedded.python_docs,
    "python_stdlib": embedded.python_stdlib,
}
FILES = "text:"  # the prefix of a source that names files
SOURCES = (*EMBEDDED, f"{FILES}PATH", "tfds:NAME")
HELD_OUT = ("validation", "test")  # splits of TFDS to evaluate on, the first there is


class Texts(NamedTuple):
    """A source, read anew each time that it is asked for."""

    licence: str
    train: Documents
    held_out: Documents | None  # None = the source has no such part
    size: int  # bytes of text in `train`, about


def find_texts(source: str, data_dir: str = "") -> Texts:
    """The texts of a source; raises InputError. `data_dir` is TFDS's."""
    prefix, colon, name = source.partition(":")
    readers: dict[str, Callable[[], Texts]] = {
        "text": lambda: _files(source, name),
        "tfds": lambda: _prepared(source, data_dir),
    }
    if colon and prefix in readers:
        return readers[prefix]()
    if source not in EMBEDDED:
        raise unknown("data set", source, [*SOURCES, "tokens:PATH"])
    documents = EMBEDDED[source]()
    licence = embedded.FACTS[source].licence
    return Texts(licence, documents.values, None, sum(map(len, documents.values())))


def split(texts: Texts, fraction: float) -> tuple[Documents, Documents]:
    """(training, validation) documents: the source's own parts, or its last `fraction` of bytes.

    A document that lies across the cut gives its beginning to the first part.
    """
    if texts.held_out is not None:
        return texts.train, texts.held_out
    size = sum(map(len, texts.train()))
    cut = size - int(size * fraction)
    return lambda: _before(texts.train(), cut), lambda: _after(texts.train(), cut)


def _before(documents: Iterable[bytes], cut: int) -> Iterator[bytes]:
    for document in documents:
        if cut <= 0:
            return
        yield document[: _whole_characters(document, cut)]
        cut -= len(document)


def _after(documents: Iterable[bytes], cut: int) -> Iterator[bytes]:
    for document in documents:
        rest = document[_whole_characters(document, max(cut, 0)) :]
        if rest:
            yield rest
        cut -= len(document)


def _whole_characters(document: bytes, cut: int) -> int:
    """The first position from `cut` on at which a UTF-8 character begins, or the end."""
    while cut < len(document) and document[cut] & 0xC0 == 0x80:
        cut += 1
    return cut


def _files(source: str, pattern: str) -> Texts:
    files = matching_files(pattern)
    if not files:
        raise FieldError("source", source, "no such file")
    size = sum(path.stat().length for path in files)
    return Texts("not stated", lambda: map(_read_file, files), None, size)


def matching_files(pattern: str) -> list[epath.Path]:
    """The file of that very name, or else those that the glob matches, by name; `~` is one's home.

    So br[1].txt is the file that is called so.
    """
    pattern = os.path.expanduser(pattern)
    if os.path.isfile(pattern):
        return [epath.Path(pattern)]
    names = sorted(glob.glob(pattern, recursive=True))
    return [epath.Path(name) for name in names if os.path.isfile(name)]


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


def _prepared(source: str, data_dir: str) -> Texts:
    from lmjax.data import prepared

    info = prepared.open_set(source, data_dir).info
    if "train" not in info.splits:
        raise InputError(f"{source} has no split train; its splits: {', '.join(info.splits)}")

    def documents(name: str) -> Documents:
        return lambda: filter(None, prepared.text_documents(source, data_dir, name))

    held_out = [name for name in HELD_OUT if name in info.splits]
    return Texts(
        info.redistribution_info.license or "not stated",
        documents("train"),
        documents(held_out[0]) if held_out else None,
        info.splits["train"].num_bytes,
    )
