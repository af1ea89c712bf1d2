"""A watchdog: tells where a run hangs whose data source gives no batch.

It only tells. Whether to wait (for a network file system to come back) or to end the run is for
whoever reads it; the same command resumes.
"""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

SECONDS = 120.0  # without a batch, which the host makes in milliseconds

Item = TypeVar("Item")


def watched(
    items: Iterator[Item], start: int, say: Callable[..., None], seconds: float = SECONDS
) -> Iterator[Item]:
    """The items from number `start` on; `say` is told the stacks of all threads, once for each
    item that takes more than `seconds`."""
    watchdog = Watchdog(say, seconds)
    watchdog.start()
    try:
        number = start
        while True:
            # Two assignments an item, since the loop waits for nothing else either.
            watchdog.waits = number, time.monotonic()
            try:
                item = next(items)
            except StopIteration:
                return
            watchdog.waits = None
            yield item
            number += 1
    finally:
        watchdog.end()


class Watchdog(threading.Thread):
    """Looks now and then since when an item is waited for."""

    def __init__(self, say: Callable[..., None], seconds: float):
        super().__init__(name="watchdog", daemon=True)
        self.waits: tuple[int, float] | None = None  # number of the item, and since when
        self._say, self._seconds = say, seconds
        self._ended = threading.Event()

    def run(self) -> None:
        told = -1
        while not self._ended.wait(self._seconds / 4):
            waits = self.waits
            if waits and waits[0] != told and time.monotonic() - waits[1] > self._seconds:
                told = waits[0]
                self._say(*self._report(told))

    def end(self) -> None:
        """It looks no more, once this returns."""
        self._ended.set()
        self.join()

    def _report(self, number: int) -> list[str]:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        told = f"no batch for step {number + 1} in {self._seconds:g} s; where each thread stands:"
        lines = [told]
        for ident, frame in sys._current_frames().items():
            if ident != self.ident:
                lines.append(f"thread {names.get(ident, ident)}")
                lines += "".join(traceback.format_stack(frame)).splitlines()
        return lines
