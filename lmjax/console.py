"""What a person sees of a run: messages, and a line that follows it."""

import sys
import time

PLAIN_SECONDS = 10.0  # least time between two progress lines where there is no terminal


class Console:
    """Plain lines; on a terminal the progress line is redrawn in place."""

    def __init__(self, quiet: bool = False):
        self._quiet = quiet
        self._terminal = sys.stdout.isatty()
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

    def progress(self, line: str, final: bool) -> None:
        """The state of the run; off a terminal only now and then, and at the end."""
        now = time.monotonic()
        if self._quiet or not (self._terminal or final or now - self._shown > PLAIN_SECONDS):
            return
        self._shown = now
        if self._terminal:
            print(f"\r\x1b[K{line}", end="", flush=True)
            self._open = True
        else:
            print(line, flush=True)


class Pace:
    """How fast a run goes. The first steps, which compile, and evaluations are not counted."""

    def __init__(self) -> None:
        self._first = self._step = 0
        self._begun: float | None = None
        self._now = self._apart = self._apart_since = 0.0

    def mark(self, step: int) -> None:
        """Step `step` has been computed."""
        self._now = time.monotonic()
        if self._begun is None:
            self._begun, self._first = self._now, step
        else:
            self._apart += self._apart_since
        self._apart_since = 0.0
        self._step = step

    def exclude(self, seconds: float) -> None:
        """Time since the last mark that was spent on something else than steps."""
        self._apart_since += seconds

    @property
    def steps_per_second(self) -> float | None:
        """Over all counted steps; None before there are any."""
        if self._begun is None or self._step == self._first:
            return None
        return (self._step - self._first) / (self._now - self._begun - self._apart)

    def remaining(self, steps: int) -> float | None:
        """Seconds to the given step at the pace so far, with what was spent on evaluations."""
        if self._begun is None or self._step == self._first:
            return None
        each = (self._now - self._begun) / (self._step - self._first)
        return each * (steps - self._step)


def clock(seconds: float | None) -> str:
    """h:mm:ss, or dashes where the time is not known yet."""
    if seconds is None:
        return "-:--:--"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def short(number: float | None) -> str:
    """A rate in three digits: 934, 12.3k, 1.23M."""
    if number is None:
        return "-"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
