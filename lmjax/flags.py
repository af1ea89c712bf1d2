"""Flags of the commands that are no experiment."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from lmjax.errors import InputError, check_text

PROMPT = "--prompt"


def check_words(words: Sequence[str]) -> None:
    """Refuse words of a command line that could only name what is not here.

    A prompt is a text; a run directory may be in an object store (lmjax/remote.py).
    """
    for number, (before, word) in enumerate(zip(["", *words], words, strict=False), 1):
        if before == PROMPT:
            continue
        run = before == "--workdir" or (number == 2 and before == "reproduce")
        check_text(before if before.startswith("--") else f"word {number}", word, stores=run)


def natural(word: str) -> int | None:
    """The number that plain digits write; None for any other word, and for thousands of digits."""
    try:
        return int(word) if word.isascii() and word.isdecimal() else None
    except ValueError:
        return None


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
