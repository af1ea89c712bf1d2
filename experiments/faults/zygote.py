"""Processes that have JAX imported already: forked from one that has, and has no backend yet.

Importing takes seconds, a fork milliseconds. A process whose JAX has a backend has threads, and
must not be forked; so the one that forks never asks JAX for a device.
"""

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from jax._src import xla_bridge

from lmjax.errors import RunError

FORK = multiprocessing.get_context("fork")
POLL = 0.002  # seconds
UNCAUGHT = 70  # exit status of a child that ended with a traceback, which its log has


def fork(log: Path, call: Callable[..., int | None], *words: Any) -> int:
    """Call it in a child, which ends with what it returns; returns the child's id."""
    assert not xla_bridge.backends_are_initialized()
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = UNCAUGHT
    try:
        number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for stream in (1, 2):
            os.dup2(number, stream)
        status = call(*words) or 0
    except BaseException:  # whatever it is, this process ends here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    """Exit status, or -SIGNAL, of a child; None where it has not ended within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(POLL)


class Worker:
    """A child that has a backend, keeps an object that `make` makes, and calls its methods."""

    def __init__(self, log: Path, make: Callable[..., Any], *words: Any):
        self._log = log
        self._ours, theirs = FORK.Pipe()
        self._child = fork(log, _serve, self._ours, theirs, make, *words)
        theirs.close()

    def __call__(self, method: str, *words: Any) -> Any:
        """What the method returns."""
        self._ours.send((method, words))
        try:
            return self._ours.recv()
        except EOFError:
            raise RunError(f"the process that reads has died; {self._log} says of what") from None

    def close(self) -> None:
        """The child ends."""
        self._ours.close()
        os.waitpid(self._child, 0)


def _serve(ours: Connection, theirs: Connection, make: Callable[..., Any], *words: Any) -> None:
    ours.close()  # so that the end of the parent is the end of the pipe
    made = make(*words)
    while True:
        try:
            method, given = theirs.recv()
        except EOFError:
            return
        theirs.send(getattr(made, method)(*given))
