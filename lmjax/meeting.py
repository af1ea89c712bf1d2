"""Where the processes of a run meet: JAX's coordination service, as a process of its own.

    python meeting.py ADDRESS:PORT PROCESSES    # started by process 0, and told by it when to end

jax.distributed has process 0 serve it, and when that process dies, JAX aborts all others before
they can say which one is gone. Served from here it outlives process 0 for as long as they need. A
run that begins at the same port before that ends it; one whose process 0 is alive is left alone.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LINGER = 25.0  # seconds that it is there after process 0 has died
LONG = 86_400  # seconds; who is alive is the business of lmjax/hosts.py
END = b"end"


class Meeting:
    """The process that serves, as process 0 has it."""

    def __init__(self, port: str, processes: int):
        """Start it, on all addresses of this machine; raises InputError where a run has it."""
        _end_former(port)
        words = [sys.executable, __file__, f"[::]:{port}", str(processes)]
        # In a session of its own, so that Ctrl-C and a signal to the group leave it alone, and
        # without our standard output, whose reader waits until all who have it have ended.
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with contextlib.suppress(OSError):  # of nobody's link to a file of ours
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with open(os.open(_note(port), flags, 0o600), "w") as file:
                file.write(f"{self._process.pid} {os.getpid()}")

    def end(self) -> None:
        """When all processes have left; without it, it lingers."""
        with contextlib.suppress(OSError):
            self._process.communicate(END if self._process.poll() is None else b"")


def _note(port: str) -> Path:
    """Where it stands which process serves a port, and for which process 0."""
    return Path(tempfile.gettempdir()) / f"lmjax-meeting-{os.getuid()}-{port}"


def _end_former(port: str) -> None:
    """End what still serves this port for a run before this one, if it is ours and that is over."""
    try:
        number, owner = map(int, _note(port).read_text().split())
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        status = Path(f"/proc/{number}/status").read_text()
    except (OSError, ValueError):
        return
    if os.fsencode(__file__) not in words or f"[::]:{port}".encode() not in words:
        return
    if f"\nPPid:\t{owner}\n" in status:  # else it has lost its parent
        from lmjax.errors import InputError  # which the process that serves does not need

        told = f"a run that is going on, whose process 0 has the process id {owner}"
        raise InputError(f"port {port} of this machine serves {told}")
    with contextlib.suppress(OSError):
        os.kill(number, signal.SIGKILL)


def serve(address: str, processes: int) -> None:
    """Until standard input says so; where it is closed without a word, LINGER seconds more."""
    # Its public face starts it in a process of the run only.
    from jax._src.lib import _jax  # pyright: ignore[reportPrivateImportUsage]

    _service = _jax.get_distributed_runtime_service(
        address, processes, heartbeat_timeout=LONG, shutdown_timeout=1
    )
    if sys.stdin.buffer.read() != END:
        time.sleep(LINGER)
    with contextlib.suppress(OSError):
        _note(address.rpartition(":")[2]).unlink()
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
