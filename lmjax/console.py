"""What a person sees: messages, a line that follows a run, numbers and tables."""

import re
import sys
import time
from collections.abc import Callable, Sequence

PLAIN_SECONDS = 10.0  # least time between two progress lines where there is no terminal
TERMINAL_SECONDS = 0.1  # and where there is one


class Console:
    """Plain lines; on a terminal the progress line is redrawn in place."""

    def __init__(self, quiet: bool = False):
        self._quiet = quiet
        self._terminal = sys.stdout.isatty()
        self._pause = TERMINAL_SECONDS if self._terminal else PLAIN_SECONDS
        self._shown = 0.0
        self._open = False  # the progress line stands without its newline

    def say(self, *lines: str) -> None:
        """Lines to stay, below the progress line."""
        if self._quiet:
            return
        if self._open:
            print()
            self._open = False
        print(*lines, sep="\n", flush=True)

    def progress(self, line: Callable[[], str], final: bool) -> None:
        """The state of the run, made and shown only now and then, and at the end."""
        now = time.monotonic()
        if self._quiet or not (final or now - self._shown > self._pause):
            return
        self._shown = now
        if self._terminal:
            print(f"\r\x1b[K{line()}", end="", flush=True)
            self._open = True
        else:
            print(line(), flush=True)


def in_one_line(text: str) -> str:
    """The text with what would break its line, or no terminal shows, written as in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def clock(seconds: float | None) -> str:
    """h:mm:ss, or dashes where the time is not known yet."""
    if seconds is None:
        return "-:--:--"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def short(number: float) -> str:
    """A rate in three digits: 934, 12.3k, 1.23M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def human(number: int, unit: str = "B") -> str:
    """Bytes, or other things, in three or four digits: 3.37 MB, 698.4 GB."""
    for size, prefix in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.4g} {prefix}{unit}"
    return f"{number} {unit}".rstrip()


NUMBER = re.compile(r"[\d.,]+ ?[kMGT]?[B%]?")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns; numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = [all(map(NUMBER.fullmatch, column[1:])) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
