"""A lease per cell, so that several processes and hosts can share one comparison.

A lease is a file that its process holds by flock (lmjax/lock.py), with a line that says whose it
is, and that is touched every BEAT seconds. It is stale, and is taken over with a line, where

    nobody holds the lock any more: its process has ended, whatever has its number now
    the file system has no locks, and its process on this host has ended or has another start
    its host is another one, and has not touched it for STALE seconds

A lease saves work and decides no number: two processes that computed the same cell would write the
same file.
"""

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from etils import epath

from lmjax.lock import HELD

FOLDER = "leases"
POLL = 0.1  # seconds between two tries
BEAT = 10.0  # seconds between two signs of life
STALE = 120.0  # seconds without one after which another host's lease is taken over


class Owner(NamedTuple):
    """Who wrote a lease."""

    host: str
    pid: int
    start: str  # of the process, in the kernel's ticks since it booted; "" where it does not tell

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Leases:
    """The leases that this process holds."""

    def __init__(self, directory: epath.Path, say: Callable[[str], None]):
        self._folder = directory / FOLDER
        self._say = say
        self._held: dict[str, TextIO] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()

    @contextlib.contextmanager
    def beating(self) -> Iterator["Leases"]:
        """Within it, what is held is touched; at its end, all of it is given back."""
        thread = threading.Thread(target=self._beat, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()
            for name in list(self._held):
                self.give_back(name)

    def take(self, name: str) -> bool:
        """Whether the lease is now held, which it was not before."""
        with self._lock:
            if name in self._held:
                return False
            path = self._folder / f"{name}.lease"
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+", errors="replace")  # noqa: SIM115  # kept open: it is the lease
            taken = False
            try:
                taken = self._try(name, file)
            finally:
                if not taken:
                    file.close()
            if taken:
                self._held[name] = file
            return taken

    @contextlib.contextmanager
    def holding(self, name: str) -> Iterator[None]:
        """Within it, a lease is held, for which it waits."""
        while not self.take(name):
            time.sleep(POLL)
        try:
            yield
        finally:
            self.give_back(name)

    def give_back(self, name: str) -> None:
        """Let others have it. The file stays, empty: two processes must not hold two of a name."""
        with self._lock:
            file = self._held.pop(name)
            file.truncate(0)
            file.close()

    def _try(self, name: str, file: TextIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locks = True
        except OSError as error:
            if error.errno in HELD:
                return False
            locks = False
        left = read_owner(file)
        if left is not None:
            age = time.time() - os.fstat(file.fileno()).st_mtime
            if not is_stale(left, age, locks):
                return False
            self._say(f"{name} was left by {left}, which has ended; its lease is taken over")
        file.truncate(0)
        file.write("{0.host} {0.pid} {0.start}\n".format(me()))
        file.flush()
        return True

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            with self._lock:
                for file in self._held.values():
                    os.utime(file.fileno())


def me() -> Owner:
    """This process."""
    return Owner(socket.gethostname(), os.getpid(), started(os.getpid()) or "")


def read_owner(file: TextIO) -> Owner | None:
    """Who wrote a lease; None for one that was given back, or is no lease."""
    file.seek(0)
    words = file.read(400).split(" ")
    if len(words) != 3 or not words[1].isdecimal():
        return None
    return Owner(words[0], int(words[1]), words[2].strip())


def is_stale(owner: Owner, age: float, locks: bool) -> bool:
    """Whether a lease that could be locked (`locks`), or has no locks to be had, may be taken."""
    if owner.host != socket.gethostname():
        return age > STALE
    return locks or started(owner.pid) != owner.start


def started(pid: int) -> str | None:
    """When a process of this host was started; None where there is none, "" if nobody can tell."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except OSError:
            return None
        return ""
    return told.rpartition(")")[2].split()[19]
