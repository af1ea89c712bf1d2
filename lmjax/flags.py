"""Flags of the commands that are no experiment."""

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from lmjax.errors import InputError


def whole(word: str) -> int:
    """A whole number, as `argparse` asks for it."""
    try:
        if is_plain(word):
            return int(word)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{word!r} must be a whole number")


def number(word: str) -> float:
    """A number, as `argparse` asks for it."""
    try:
        if is_plain(word):
            return float(word)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{word!r} must be a number")


def is_plain(word: str) -> bool:
    """Not a number that only Python reads: 1_0, or one in the digits of another script."""
    return word.isascii() and "_" not in word


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line and whose flags are written in full."""

    def __init__(self, **options: Any):
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog.removeprefix('lmjax ')}: {message}")


def take(words: Sequence[str], flag: str, value_name: str) -> tuple[str | None, list[str]]:
    """The value of a flag that is ours and not the experiment's, and the other words."""
    rest, value = [], None
    pending = iter(words)
    for word in pending:
        if word == flag or word.startswith(f"{flag}="):
            value = word.partition("=")[2] or next(pending, "")
            if not value:
                raise InputError(f"{flag} needs {value_name}")
        else:
            rest.append(word)
    return value, rest


def check_writable(path: str | None) -> None:
    """Refuse a path, if one was given, before what it is to hold is computed; writes nothing."""
    if path is None:
        return
    folder = os.path.dirname(path) or "."
    if not path or os.path.isdir(path):
        told = "is a folder" if path else "is empty"
    elif not os.path.isdir(folder):
        told = f"no folder {folder}"
    elif not os.access(path if os.path.exists(path) else folder, os.W_OK):
        told = "no permission"
    else:
        return
    raise InputError(f"--json {path}: not writable ({told})")


def write_json(path: str | None, value: Any) -> None:
    """To the path, if one was given."""
    if path is None:
        return
    try:
        with open(path, "w") as file:
            file.write(json.dumps(value, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"--json {path}: not writable ({error.strerror})") from None
