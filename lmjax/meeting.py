"""Where the processes of a run meet: JAX's coordination service, as a process of its own.

    python meeting.py ADDRESS:PORT PROCESSES    # started by process 0; ends some time after it

jax.distributed has process 0 serve it, and when that process dies, JAX aborts all others before
they can say which one is gone. Served from here it outlives process 0 for as long as they need.
"""

import subprocess
import sys
import time

LINGER = 60.0  # seconds that it is there after process 0 has ended
LONG = 86_400  # seconds; who is alive is the business of lmjax/hosts.py


def open_meeting(port: str, processes: int) -> subprocess.Popen[bytes]:
    """Start it, on all addresses of this machine; it ends when this process has."""
    words = [sys.executable, __file__, f"[::]:{port}", str(processes)]
    # In a session of its own, so that Ctrl-C and a signal to the group leave it alone.
    return subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)


def serve(address: str, processes: int) -> None:
    """Until standard input is closed, and LINGER seconds more."""
    from jax._src.lib import _jax  # its public face starts it in a process of the run only

    service = _jax.get_distributed_runtime_service(
        address, processes, heartbeat_timeout=LONG, shutdown_timeout=1
    )
    sys.stdin.buffer.read()
    time.sleep(LINGER)
    del service


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
