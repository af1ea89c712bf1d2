"""One writer for a run directory: a file that its process holds by flock.

The kernel gives the lock back when the process ends, however it ends, so none outlives its owner.
The file stays, since whoever removed it could let two processes hold two files of one name; a line
in it, of an owner that is alive or has died, is there only for people to read.

Between hosts it holds where the file system carries flock across: on NFS from Linux 2.6.12 on,
unless mounted with `nolock` or `local_lock`; on Lustre with `-o flock`. Mounted otherwise, it holds
between the processes of one host, or, where the file system knows no locks, not at all, and the run
says so. An object store has none (lmjax/remote.py). What only reads a run takes no lock.
"""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from etils import epath

from lmjax.errors import InputError
from lmjax.remote import is_remote, told
from lmjax.runfiles import LOCK

LONGEST = 255  # bytes of a name, in the file systems of Linux
HELD = (errno.EWOULDBLOCK, errno.EACCES)  # some NFS clients answer with the second


def check_takeable(path: epath.Path) -> None:
    """Refuse a run directory that cannot be written, or that another process writes to.

    Changes nothing, and so promises nothing: it is there to refuse before anything is compiled.
    """
    if is_remote(path):
        return
    check_makeable(path, f"run directory {path}")
    try:
        # For writing too, since NFS locks no other.
        with open(path / LOCK, "r+", errors="replace") as file:
            _lock(file, path)
    except OSError:
        return  # no lock yet, or a directory that `holding` will refuse


def check_makeable(path: epath.Path, told: str) -> None:
    """Refuse a directory that could not be made or written to; touches nothing.

    `told` is how it is named to the user.
    """
    near = path
    while not near.exists():
        if os.path.islink(near):
            raise InputError(f"{told}: not writable ({near}: a link that leads nowhere)")
        if len(os.fsencode(near.name)) > LONGEST:
            raise InputError(f"{told}: not writable (the name is too long)")
        near = near.parent
    if not near.is_dir() or not os.access(near, os.W_OK | os.X_OK):
        why = "no permission" if near.is_dir() else "not a directory"
        raise InputError(f"{told}: not writable ({near}: {why})")


@contextlib.contextmanager
def holding(path: epath.Path, say: Callable[[str], None]) -> Iterator[None]:
    """Within it, a run directory is this process's alone; made if it is not there.

    Raises InputError where another process holds it, or where it is not writable.
    """
    if is_remote(path):
        for line in told(path):
            say(line)
        yield
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = _open(path)
    except OSError as error:
        raise InputError(f"run directory {path}: not writable ({error.strerror})") from None
    with file:  # closing it gives the lock back
        if not _lock(file, path):
            say(f"{path} is not locked: its file system has no locks")
        left = _owner(file)
        if left:
            say(f"{path} was left by {left}, which has ended; its lock is taken over")
        file.truncate(0)
        began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        line = f"process {os.getpid()} on {socket.gethostname()}, begun {began}\n"
        with contextlib.suppress(OSError):  # of a full disk: the lock holds without the line
            os.write(file.fileno(), line.encode())
        try:
            yield
        finally:
            file.truncate(0)


def _open(path: epath.Path) -> TextIO:
    return open(path / LOCK, "a+", errors="replace")


def _lock(file: TextIO, path: epath.Path) -> bool:
    """Take the lock; False where the file system has none. Raises InputError if it is held."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in HELD:
            return False
        owner = _owner(file) or "another process"
        raise InputError(
            f"{path} is in use by {owner}; wait until it ends, or choose another --workdir"
        ) from None
    return True


def _owner(file: TextIO) -> str:
    """The line in the file, "" where it has none."""
    file.seek(0)
    return file.read(200).strip().partition("\n")[0]
