"""Folders that appear whole or not at all, and take nothing of anybody else's with them.

A folder OUT is written as .OUT.draft/content and renamed. Beside the content lies a mark, by which
a later process knows the draft of one that was killed, and which the owner holds locked.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lmjax.errors import InputError

MARK, CONTENT = "lmjax-draft", "content"


@contextlib.contextmanager
def draft_of(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, which becomes `out` where nothing is raised.

    Only one process at a time has it. What a process that was killed left is removed; a folder
    without our mark is not touched. Raises InputError, also where a file cannot be written within.
    """
    holder = out.parent / f".{out.name}.draft"
    try:
        with _held(holder, out) as content:
            yield content
            content.replace(out)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror or error})") from None


@contextlib.contextmanager
def _held(holder: Path, out: Path) -> Iterator[Path]:
    holder.parent.mkdir(parents=True, exist_ok=True)
    try:
        holder.mkdir()
    except FileExistsError:
        if not (holder / MARK).is_file() and any(holder.iterdir()):
            told = f"{holder} is in the way, and is no draft of lmjax's"
            raise InputError(f"--out {out}: {told}; move it or choose another --out") from None
    with (holder / MARK).open("a") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--out {out}: another process is writing it") from None
        content = holder / CONTENT
        try:
            shutil.rmtree(content, ignore_errors=True)
            content.mkdir()
            yield content
        finally:
            shutil.rmtree(content, ignore_errors=True)
            os.unlink(holder / MARK)
            with contextlib.suppress(OSError):  # where someone has put something else into it
                holder.rmdir()
