"""A request to stop (Ctrl-C, SIGTERM) is heard at once and honoured at the next step's edge."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

HEARD = (signal.SIGINT, signal.SIGTERM)
TOGETHER = 1.0  # seconds


class Stopped(Exception):
    """A run that was asked to stop, after it has saved."""

    def __init__(self, number: int, step: int):
        self.number = number
        super().__init__(
            f"stopped by {signal.Signals(number).name} and saved at step {step}; "
            "the same command resumes"
        )


class StopRequest:
    """Within its block, the first signal is remembered in `number`; a second one interrupts.

    But not while a save is `held`, which it would lose, nor within TOGETHER seconds of the first:
    a terminal, a launcher and a batch system may each send one for the same request.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}
        self._heard = 0.0  # when the first was
        self._holds = 0

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python's rule for handlers
            self._before = {number: signal.signal(number, self._hear) for number in HEARD}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within it, nothing interrupts."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1

    def _hear(self, number: int, _: FrameType | None) -> None:
        if not self.number:
            self.number, self._heard = number, time.monotonic()
        elif not self._holds and time.monotonic() - self._heard > TOGETHER:
            raise KeyboardInterrupt
