"""A request to stop (Ctrl-C, SIGTERM) is heard at once and honoured at the next step's edge."""

import signal
import threading
from types import FrameType
from typing import Any

HEARD = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A run that was asked to stop, after it has saved."""

    def __init__(self, number: int, step: int):
        self.number = number
        super().__init__(
            f"stopped by {signal.Signals(number).name} and saved at step {step}; "
            "the same command resumes"
        )


class StopRequest:
    """Within its block, the first signal is remembered in `number`; a second one interrupts."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python's rule for handlers
            self._before = {number: signal.signal(number, self._hear) for number in HEARD}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
