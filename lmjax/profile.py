"""A trace of some steps of a run, by jax.profiler, with a table of what took their time."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from etils import epath

from lmjax.errors import InputError
from lmjax.flags import natural
from lmjax.operations import read_trace, table
from lmjax.parallel import Program

TABLE = "operations.txt"


class Window(NamedTuple):
    """The steps after `start` up to `stop`."""

    start: int
    stop: int


def read_window(text: str, newest: int, steps: int) -> Window:
    """START:STOP as a window of a run that goes on from step `newest`; raises InputError.

    The first step of a process compiles, so the window cannot hold it.
    """
    start, _, stop = text.partition(":")
    first, last = natural(start), natural(stop)
    if first is None or last is None:
        raise InputError(f"--profile {text}: must be START:STOP, two numbers of steps")
    window = Window(first, last)
    if not newest < window.start < window.stop <= steps:
        told = f"must be {newest + 1} <= START < STOP <= {steps}"
        raise InputError(f"--profile {text}: {told}; the first step compiles and is not traced")
    return window


class Trace:
    """Traces the window of a run, or nothing where there is none."""

    def __init__(
        self, window: Window | None, folder: epath.Path, say: Callable[[str], None] = print
    ):
        self._window, self._folder, self._say = window, folder, say
        self._newest: Any = None  # metrics of the newest step, which end when it does
        self._begun: float | None = None  # when the trace was begun, while it is open
        self._waited = 0.0  # seconds for batches since then

    def watch(self, program: Program) -> Program:
        """The program whose steps are marked in the trace."""
        if self._window is None:
            return program

        def train_step(state: Any, *rest: Any) -> tuple[Any, Any]:
            if self._begun is None:
                state, self._newest = program.train_step(state, *rest)
            else:
                with jax.profiler.StepTraceAnnotation("train"):
                    state, self._newest = program.train_step(state, *rest)
            return state, self._newest

        return program._replace(train_step=train_step)

    def timed(self, feed: Iterator[Any], start: int) -> Iterator[Any]:
        """The batches from step `start` on; the window opens and closes between two of them."""
        if self._window is None:
            yield from feed
            return
        step = start
        while True:
            if step == self._window.start:
                self._open()
            begun = time.monotonic()
            batch = next(feed, None)
            self._waited += time.monotonic() - begun
            if batch is None:
                return
            yield batch
            step += 1
            if step == self._window.stop:
                self._close()

    def close(self) -> None:
        """End a trace that a stopped run has left open."""
        if self._begun is not None:
            self._begun = None
            jax.profiler.stop_trace()

    def _open(self) -> None:
        jax.block_until_ready(self._newest)
        jax.profiler.start_trace(str(self._folder))
        self._waited, self._begun = 0.0, time.monotonic()

    def _close(self) -> None:
        assert self._window is not None
        assert self._begun is not None
        jax.block_until_ready(self._newest)
        seconds = time.monotonic() - self._begun
        self.close()
        steps = self._window.stop - self._window.start
        told = [
            f"steps {self._window.start + 1} to {self._window.stop}: {seconds:.3f} s, "
            f"{steps / seconds:.2f} steps/s under the profiler; the host spent "
            f"{self._waited / seconds:.1%} on batches",
            *table(read_trace(self._folder), seconds, steps),
        ]
        (self._folder / TABLE).write_text("\n".join(told) + "\n")
        self._say("\n".join([*told, f"trace and table: {self._folder}"]))
