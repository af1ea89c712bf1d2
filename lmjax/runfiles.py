"""The files of a run directory, readable without JAX.

config.json     the configuration with defaults expanded, the diff against them, the data
tokenizer.json  the vocabulary that the data was read with, unless its tokens are bytes
lock            held by the process that writes here (lmjax/lock.py)
manifest.json   all else that decides the run, with the machine and the code of each launch
metrics.jsonl   every metric of every step, once
trace.jsonl     the bits of every step, once: its batch, loss and gradient norm, leaves now and then
events/         the same for TensorBoard
checkpoints/    by step, each sealed (lmjax/seal.py)
damaged/        checkpoints that were found damaged when the run was resumed
profile/        traces that were asked for
result.json     written last, with the SHA-256 of the others: a run that has it is finished
"""

import hashlib
import json
import os
import stat
from typing import IO, Any

from etils import epath

from lmjax.errors import InputError
from lmjax.remote import Rewritten, is_remote

CONFIG, RESULT, METRICS = "config.json", "result.json", "metrics.jsonl"
PLAN = "plan.json"  # of a comparison
MANIFEST, TRACE = "manifest.json", "trace.jsonl"
CHECKPOINTS, DAMAGED, EVENTS, PROFILE = "checkpoints", "damaged", "events", "profile"
TOKENIZER, LOCK = "tokenizer.json", "lock"
COMMITTED = "commit_success.txt"  # Orbax writes it last into a step of an object store
FILES = (CONFIG, TOKENIZER, MANIFEST, METRICS, TRACE, RESULT, LOCK)
MOST_BYTES = 2**26  # of a JSON object; the index of 100,000 tensors has 10 MB
KEPT = (CONFIG, TOKENIZER, MANIFEST, METRICS, TRACE)  # whose content the result knows


def newest_checkpoint(path: epath.Path) -> int | None:
    """The step that a run there would go on from."""
    return max(checkpoint_steps(path / CHECKPOINTS), default=None)


def checkpoint_steps(folder: epath.Path) -> list[int]:
    """The steps in a folder of checkpoints, in order; what is not whole yet does not count."""
    found = [step for step in folder.iterdir() if step.name.isdecimal()] if folder.is_dir() else []
    if is_remote(folder):  # elsewhere a step has its name last
        found = [step for step in found if (step / COMMITTED).exists()]
    return sorted(int(step.name) for step in found)


def has_checkpoint(path: epath.Path) -> bool:
    """Whether a run there would go on from a checkpoint."""
    return newest_checkpoint(path) is not None


def digests(path: epath.Path) -> dict[str, str]:
    """SHA-256 of each file of a run that its result is to know, where there is one."""
    found = (path / name for name in KEPT)
    return {file.name: sha256(file) for file in found if file.exists()}


def sha256(file: epath.Path) -> str:
    """Of its content, in hex; raises OSError."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_json(path: epath.Path) -> dict[str, Any]:
    """The JSON object in a file of a run directory; raises InputError where there is none."""
    if is_remote(path):
        there = path.exists()
    elif os.path.lexists(path.parent) and not path.parent.is_dir():
        told = "is a link that leads nowhere" if os.path.islink(path.parent) else "is a file"
        raise InputError(f"{path.parent} {told}, not a run directory")
    else:
        there = os.path.lexists(path)
    if not there:
        raise InputError(f"{path.parent} is not a run directory (no {path.name})")
    return read_object(path)


def _size_of_file(path: epath.Path) -> int:
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):  # a pipe would wait, a device would not end
        raise InputError(f"{path}: cannot be read (not a file)")
    return about.st_size


def read_object(path: epath.Path) -> dict[str, Any]:
    """The JSON object in a file; raises InputError where there is none, or an endless one."""
    try:
        size = path.stat().length if is_remote(path) else _size_of_file(path)
        if size > MOST_BYTES:
            raise InputError(f"{path}: cannot be read ({size:,} bytes of JSON)")
        value = json.loads(path.read_text())
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # the latter for brackets in brackets
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    return value


def write_json(path: epath.Path, value: dict[str, Any]) -> None:
    """Write whole or not at all."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: epath.Path, text: str) -> None:
    """Write whole or not at all."""
    if is_remote(path):  # as any object is
        path.write_text(text)
        return
    draft = draft_of(path)
    draft.write_text(text)
    draft.replace(path)


def begin_log(path: epath.Path | None, text: str) -> IO[Any] | Rewritten:
    """A file that holds a text so far, to be written on; None = one that keeps nothing."""
    if path is None:
        return open(os.devnull, "w")
    write_text(path, text)
    return Rewritten(path, text) if is_remote(path) else path.open("a")


def onto_disk(log: IO[Any] | Rewritten) -> None:
    """What has been written to a log is there even if the machine loses its power."""
    log.flush()
    if not isinstance(log, Rewritten) and log.name != os.devnull:
        os.fsync(log.fileno())


def draft_of(path: epath.Path) -> epath.Path:
    """Where a file is written before it takes its name; a process that is killed may leave it."""
    return path.parent / f".{path.name}.draft"
