"""Flags of the commands that are no experiment."""

import argparse
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
