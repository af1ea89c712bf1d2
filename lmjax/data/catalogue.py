"""`lmjax data list` and `lmjax data describe`: what data there is, and what it is."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from lmjax.console import aligned
from lmjax.data import embedded, prepared, token_files, token_index
from lmjax.data.examples import EMBEDDED as LABELLED
from lmjax.data.examples import Examples
from lmjax.data.tables import feed_file
from lmjax.data.texts import EMBEDDED as TEXTS
from lmjax.data.texts import find_texts
from lmjax.data.tokens import Tokens
from lmjax.errors import DAMAGE, FieldError, InputError, unknown
from lmjax.runfiles import read_object

Told = dict[str, str]  # heading -> what is said under it


def table(data_dir: str) -> str:
    """A line for each data set that is embedded or prepared."""
    if data_dir and not prepared.folder(data_dir).is_dir():
        raise InputError(f"--data-dir {data_dir}: no such directory")
    rows = [("name", "size", "licence", "state")]
    for name, facts in embedded.FACTS.items():
        rows.append((name, facts.size, facts.licence, "embedded"))
    for name, path in prepared.prepared(data_dir).items():
        rows.append((name, *_row(name, path)))
    return f"{aligned(rows)}\ndata sets of TFDS are kept in {prepared.folder(data_dir)}"


def _row(name: str, path: epath.Path) -> tuple[str, str, str]:
    """(size, licence, state) of a prepared set, from its record alone: TFDS takes a second."""
    try:
        info = read_object(path / prepared.INFO)
        count = sum(int(n) for split in info["splits"] for n in split["shardLengths"])
        size = sum(int(split["numBytes"]) for split in info["splits"])
        return f"{count:,} examples, {size / 1e6:.1f} MB", *_terms(name, info)
    except DAMAGE as error:  # it must not hide the sets beside it
        return "?", "?", f"damaged: {prepared.INFO} ({type(error).__name__})"


def _terms(name: str, info: dict[str, Any]) -> tuple[str, str]:
    """(licence, state) of a prepared set."""
    formats = [info[key] for key in ("fileFormat", "alternativeFileFormats") if key in info]
    readable = any(prepared.RECORDS in found for found in formats)
    stated = "redistributionInfo" in info and "license" in info["redistributionInfo"]
    licence = info["redistributionInfo"]["license"] if stated else "not stated"
    state = "prepared" if readable else f"not readable here: lmjax data prepare {name}"
    return _line(licence), state


def describe(source: str, data_dir: str) -> str:
    """A data set under headings: what it is, its parts, licence, citation and digest."""
    kinds: dict[str, Callable[[str, str], Told]] = {
        "tfds": describe_prepared,
        "images": describe_images,
        "text": describe_texts,
        "tokens": describe_tokens,
    }
    prefix, colon, _ = source.partition(":")
    if colon and prefix in kinds:
        told = kinds[prefix](source, data_dir)
    elif source in embedded.FACTS:
        told = describe_embedded(source)
    else:
        known = [*embedded.FACTS, "tfds:NAME", "images:PATH", "text:PATH", "tokens:PATH"]
        raise unknown("data set", source, known)
    return "\n".join(f"{heading:12s}{text}" for heading, text in told.items())


def describe_embedded(source: str) -> Told:
    """What is inside the interpreter or a package."""
    facts = embedded.FACTS[source]
    told = {
        "name": source,
        "what": facts.what,
        "licence": facts.licence,
        "homepage": facts.homepage,
        "citation": facts.citation,
    }
    if source in LABELLED:
        return told | _as_examples(Examples(source=source, held_out=facts.held_out))
    text = b"".join(find_texts(source).train())
    return told | {"text": f"{len(text):,} bytes", "digest": hashlib.sha256(text).hexdigest()}


def describe_prepared(source: str, data_dir: str) -> Told:
    """A data set of TFDS on this disk."""
    builder = prepared.open_set(source, data_dir)
    info = builder.info
    content = hashlib.sha256()
    files = [path for split in info.splits.values() for path in split.filepaths]
    for path in files:
        if not path.exists():
            raise InputError(f"{path}: this part of {source} is missing")
        content.update(path.name.encode())
        feed_file(content, path)
    splits = (f"{name} {split.num_examples:,}" for name, split in info.splits.items())
    told = {
        "name": f"{source} ({info.full_name})",
        "what": _line(info.description),
        "splits": ", ".join(splits),
        "features": ", ".join(f"{name}: {_kind(x)}" for name, x in info.features.items()),
        "licence": _line(info.redistribution_info.license) or "not stated; see the homepage",
        "homepage": _line(info.homepage),
        "citation": _line(info.citation),
        "folder": str(builder.data_path),
        "files": f"{len(files)}, {sum(path.stat().length for path in files) / 1e6:.1f} MB",
        "file hash": content.hexdigest(),
    }
    if prepared.is_embedded(prepared.parse(source)):
        told["content"] = _verified(source, data_dir, builder)
    if info.supervised_keys is None:
        return told
    return told | _as_examples(Examples(source=source, data_dir=data_dir))


def _verified(source: str, data_dir: str, builder: Any) -> str:
    """That each split reads as it was written, by the SHA-256 that its builder left."""
    written = read_object(builder.data_path / "metadata.json").get("sha256")
    if builder.name in TEXTS:
        found = {"train": b"".join(prepared.text_documents(source, data_dir))}
    else:
        parts = Examples(source=source, data_dir=data_dir).read()
        arrays = {"train": parts.train, "test": parts.test}
        found = {
            name: b"".join(x.tobytes() for x in part.gather(np.arange(len(part))))
            for name, part in arrays.items()
        }
    if written != {name: hashlib.sha256(text).hexdigest() for name, text in found.items()}:
        raise InputError(f"{builder.data_path}: does not read as it was written; remove it")
    return "reads as it was written (SHA-256 of each split)"


def describe_images(source: str, data_dir: str) -> Told:
    """A folder of images. What they may be used for stands nowhere in them."""
    folder = source.removeprefix("images:")
    if not folder or not epath.Path(folder).expanduser().is_dir():
        raise FieldError("source", source, "no such folder")
    told = {"name": source, "what": "a folder of images for each class", "licence": "not stated"}
    return told | _as_examples(Examples(source=source))


def describe_texts(source: str, data_dir: str) -> Told:
    """Files of text."""
    content, sizes = hashlib.sha256(), []
    for document in find_texts(source).train():
        content.update(document)
        sizes.append(len(document))
    return {
        "name": source,
        "what": "files of UTF-8 text, a document each",
        "licence": "not stated",
        "text": f"{sum(sizes):,} bytes in {len(sizes):,} files",
        "digest": content.hexdigest(),
    }


def describe_tokens(source: str, data_dir: str) -> Told:
    """Token ids on the disk; every byte of them is read."""
    path = token_files.folder_of(source)
    if not (path / token_index.NAME).exists():
        return describe_raw(source)
    index = token_index.read_index(path)
    token_index.verify(path, index)
    parts = {name: index.splits[name] for name in token_index.SPLITS}
    return {
        "name": source,
        "what": f"{index.source} as {index.dtype} ids of a vocabulary of {index.vocab_size:,}",
        "tokenizer": f"{index.tokenizer}, SHA-256 {index.tokenizer_sha256}",
        "tokens": ", ".join(f"{name} {part.count:,}" for name, part in parts.items()),
        "text": ", ".join(f"{name} {part.text_bytes:,} bytes" for name, part in parts.items()),
        "documents": ", ".join(f"{name} {p.documents.count:,}" for name, p in parts.items()),
        "licence": index.licence,
        "content": "every file has the SHA-256 that index.json records",
        "digest": index.digest,
    }


def describe_raw(source: str) -> Told:
    """Files of ids without an index."""
    told = {"name": source, "what": "token ids without an index", "licence": "not stated"}
    train, validation = token_files.raw_files(source)
    for path in [*train, *validation]:
        piece = token_files.map_raw(path, Tokens().width)
        largest = max(int(block.max()) for block in token_files.blocks(piece, whole=True))
        told[path.name] = (
            f"{len(piece):,} ids of 16 bits, the largest {largest}, "
            f"SHA-256 {token_index.sha256_of(path)}"
        )
    return told


def _as_examples(data: Examples) -> Told:
    """What `data:examples` makes of it, or why it makes nothing of it."""
    try:
        dataset = data.load()
    except InputError as error:
        return {"examples": f"cannot be used as they are: {error}"}
    return {
        "examples": dataset.summary,
        "classes": _some(dataset.class_names),
        "digest": dataset.digest,
    }


def _kind(feature: Any) -> str:
    return f"{type(feature).__name__} {feature.shape}"


def _line(text: str) -> str:
    """The text in one line of at most 400 characters."""
    whole = " ".join(text.split())
    return whole if len(whole) <= 400 else whole[:397] + "..."


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" ... ({len(names)})" if len(names) > 20 else "")
