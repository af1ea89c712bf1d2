"""Files of JSON lines that a run appends to, each line of one step."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from etils import epath

from lmjax.errors import InputError


class Line(NamedTuple):
    """One of them."""

    step: int
    text: str
    entry: dict[str, Any]


def read_lines(path: epath.Path, step: int, fits: Callable[[dict[str, Any]], bool]) -> list[Line]:
    """The lines of all steps up to `step`; what came later will be written again.

    `fits` tells an entry of the file from another JSON object with a step. A crash tears what was
    written last. Raises InputError for damage further up, which would be lost, and changes nothing.
    """
    try:
        text = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    kept: list[Line] = []
    damaged = 0  # number of the first line that is none, from 1
    for number, content in enumerate(text.splitlines(), 1):
        line = _parse(content, fits)
        if line is None:
            damaged = damaged or number
        elif line.step <= step:
            if damaged:
                told = "is damaged; remove or mend it, and the same command goes on"
                raise InputError(f"{path}: line {damaged} {told}")
            kept.append(line)
    return kept


def _parse(content: bytes, fits: Callable[[dict[str, Any]], bool]) -> Line | None:
    """The entry of a line, or None for what is none."""
    try:
        text = content.decode()
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or type(entry.get("step")) is not int:
        return None
    return Line(entry["step"], text, entry) if fits(entry) else None
