"""Flags of the commands that are no experiment."""

import argparse
from typing import Any, NoReturn

from lmjax.errors import InputError


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line and whose flags are written in full."""

    def __init__(self, **options: Any):
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog.removeprefix('lmjax ')}: {message}")
